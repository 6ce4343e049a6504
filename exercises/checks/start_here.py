"""Exercise 00: quality, size, computation, time and energy, each measured and mismeasured."""

from functools import partial
from math import ceil, log
from random import Random
from statistics import mean, median
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from exercises.checks import Task
from minieff.core import cost, plot
from minieff.core.transformer import Config, Transformer

# Task 1

LN2 = log(2)


def bits(
    losses, tokens, text, nat=1 / LN2, part=lambda loss: loss, over=lambda tokens, text: len(text.encode()),
):  # fmt: skip
    """Bits a byte; each keyword is a part that can be wrong."""
    nats = sum(part(loss) * count for loss, count in zip(losses, tokens, strict=True))
    return nats * nat / over(tokens, text)


def some_windows(draw: Random, count: int) -> tuple:
    """Characters of one to four bytes, and white space at both ends."""
    tokens = draw.sample(range(4, 40), count)
    drawn = "".join(draw.choice("abcdefgh é–’ñ") for _ in range(3 * sum(tokens)))
    return [draw.uniform(1, 6) for _ in tokens], tokens, f" {drawn} Ab e\u0301 \U0001f600 \n\n"


bits_per_byte = Task(
    inputs=lambda draw: [some_windows(draw, count) for count in (1, 3, 5)],
    right=bits, label=lambda losses, tokens, text: f"{len(losses)} windows, {sum(tokens)} tokens, {len(text)} characters",
    passed="Total bits over total bytes: windows of any length and tokenizers of any kind compare.",
    wrong={
        "These are nats a byte. How many nats is one bit?": partial(bits, nat=1),
        "From nats to bits, you multiply where you should divide: one bit is 0.69 nats, so there are more bits than nats.":
            partial(bits, nat=log(2)),
        "These are bits a character. Some characters of this text take two or more bytes: how do you get at the bytes?":
            partial(bits, over=lambda tokens, text: len(text)),
        "These are bits a token, and they depend on the tokenizer. What do you divide by, so that the tokenizer cancels?":
            (partial(bits, over=lambda tokens, text: sum(tokens)), lambda losses, tokens, text: mean(losses) / log(2)),
        "You average the windows as though they were equally long. A window of 5 tokens must not weigh as much as one of 30.":
            lambda losses, tokens, text: bits([mean(losses)], [sum(tokens)], text),
        "Each loss is a mean over its window. You add up the means: what turns a mean back into the sum over its tokens?":
            lambda losses, tokens, text: bits(losses, [1] * len(losses), text),
    },
)  # fmt: skip

# Task 2


class Odd(nn.Module):
    """A model that is made to tell ways of counting apart; `share` names what its parts have in common."""

    def __init__(self, draw: Random, share: str) -> None:
        super().__init__()
        self.share, (width, inner, vocab) = share, draw.sample(range(5, 30), 3)
        self.tok, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.first, self.second = nn.LayerNorm(inner), nn.LayerNorm(inner)  # equal values, and not shared
        self.register_buffer("steps", torch.arange(draw.randrange(3, 9)))  # 64 bits a number
        self.register_buffer("alias", self.steps.view(-1))  # another object, the same memory
        self.register_buffer("scratch", torch.zeros(7), persistent=False)
        self.up.weight.requires_grad_(False)
        if "tied" in share:
            self.head.weight = self.tok.weight
        if "shared" in share:
            self.again = self.third = self.up
        if "half" in share:
            self.down.half()


def counted(tensors=lambda model: model.state_dict().values(), key=Tensor.data_ptr, size=lambda t: t.nbytes):
    """A way of counting: each of the tensors once for its key."""
    return lambda model: sum(size(t) for t in {key(t): t for t in tensors(model)}.values())


stored_bytes = Task(
    inputs=lambda draw: [(Odd(draw, share),) for share in ("its head tied", "a block shared", "half of it in 16 bits", "its head tied, a block shared")],
    right=cost.stored_bytes, label=lambda model: f"a model with {model.share}",
    passed="What shares memory is stored once, in its own precision, and buffers are stored too.",
    wrong={
        "A shared tensor is counted once for each of its names, also if you put tensors into a set or compare `id`. "
        "What do two names of the same memory have in common?": counted(key=id),
        "You tell tensors apart as objects. Two objects can be the same memory: compare addresses.":
            counted(lambda model: model.state_dict(keep_vars=True).values(), key=id),
        "These are parameters alone, or those that are trained. A file also holds what is not: compare the names in named_parameters() and state_dict().":
            (counted(nn.Module.parameters), counted(lambda model: [p for p in model.parameters() if p.requires_grad])),
        "You count a buffer that is not stored (registered with persistent=False). What does state_dict() name?":
            tuple(counted(lambda model: [*model.parameters(), *model.buffers()], key) for key in (id, Tensor.data_ptr)),
        "You take 4 bytes for every number. Some of these numbers have 16 or 64 bits: ask each tensor how large its elements are.":
            (counted(size=lambda t: 4 * t.numel()), counted(key=id, size=lambda t: 4 * t.numel())),
        "You count numbers, not bytes.": (counted(size=Tensor.numel), counted(key=id, size=Tensor.numel)),
        "Two tensors are counted once because their values or their shapes are equal. A file stores both: equal is not the same.":
            (counted(key=lambda t: (t.shape, t.dtype, str(t.tolist()))), counted(key=lambda t: (t.shape, t.dtype)), counted(key=lambda t: t.shape)),
    },
)  # fmt: skip

# Task 3


def built(vocab, context, layers, dim, ffn, tied, every) -> int:
    """The parameters of the real model, counted."""
    model = Transformer(Config(vocab=vocab, context=context, layers=layers, heads=1, dim=dim, ffn=ffn))
    blocks = list(model.blocks.layers)
    model.blocks.layers = nn.ModuleList([blocks[i - i % every] for i in range(layers)])
    return cost.parameters(model) + (0 if tied else vocab * dim)


def on_paper(
    vocab, context, layers, dim, ffn, tied, every, blocks=lambda L, every: ceil(L / every), head=lambda tied, V, C: (not tied) * V * C,
    biases=lambda C, F: 5 * C + F, norms=2, norm=2, last=1, places=1,
):  # fmt: skip
    """The same as a formula; each keyword is a part that can be wrong."""
    block = 4 * dim**2 + 2 * dim * ffn + biases(dim, ffn) + norms * norm * dim
    ends = (vocab + places * context + last * norm) * dim + head(tied, vocab, dim)
    return ends + blocks(layers, every) * block


def miscounted(name: str, *ways) -> tuple:
    return tuple(partial(on_paper, **{name: way}) for way in ways)


parameters = Task(
    inputs=lambda draw: [
        (*draw.sample(range(9, 60), 2), layers, *draw.sample(range(9, 60), 2), tied, every)
        for layers, every, tied in ((3, 1, True), (8, 3, False), (6, 2, True), (5, 4, False), (2, 5, True), (4, 1, False))
    ],
    right=built, passed="Counted on paper, equal to the built model: tied and shared weights once, biases and norms included.",
    wrong={
        "A block that is used several times is counted several times. It has its parameters once.": miscounted("blocks", lambda L, every: L),
        "`every` is how many layers in a row use one block, not how many blocks there are.": miscounted("blocks", lambda L, every: every),
        "The number of blocks is off. Write down which block each of 8 layers uses with `every=3`, and each of 6 layers with `every=2`.":
            miscounted("blocks", lambda L, n: L // n, lambda L, n: L / n, lambda L, n: round(L / n), lambda L, n: L // n + 1, lambda L, n: L // n + L % n),
        "The head is off. When is it the token vectors, which are counted already, and when has it a matrix of its own? Has it a bias?":
            miscounted("head", lambda tied, V, C: V * C, lambda tied, V, C: 0, lambda tied, V, C: tied * V * C,
            lambda tied, V, C: V + (not tied) * V * C, lambda tied, V, C: (not tied) * (V * C + V)),
        "Biases in a block are missing, or as long as the wrong side. Each of its six linears has one, with a number for each output.":
            miscounted("biases", lambda C, F: 0, lambda C, F: 4 * C, lambda C, F: C + F, lambda C, F: 4 * C + 2 * F, lambda C, F: 6 * C),
        "Parameters of norms are missing. How many norms stand in a block, how many after all blocks, and what does each have?":
            (*miscounted("norm", 0, 1), *miscounted("norms", 1), *miscounted("last", 0)),
        "The positions are missing: a vector for each place of the context.": miscounted("places", 0),
        "You take the feed-forward to be four times `dim` wide. Here `ffn` says how wide it is.":
            lambda V, S, L, C, F, tied, every: on_paper(V, S, L, C, 4 * C, tied, every),
    },
)  # fmt: skip

# Task 4


def work(T, C, F, H, projections=4, products=2, pairs=lambda T, H: T * T, ffn=2, unit=1):
    """MACs of attention and of the feed-forward; each keyword is a part that can be wrong."""
    return unit * (projections * T * C**2 + products * pairs(T, H) * C), unit * ffn * T * C * F


def over_lengths(mine, right, T, C, F, H):
    figure, (ax,) = plot.panels(1, width=5.0)
    lengths, names = [32 * 2**i for i in range(8)], ("attention", "feed-forward")
    for part, (name, style, colour) in enumerate(zip(names, ("o-", "s--"), ("orange", "blue"), strict=True)):
        each, colour = [work(n, C, F, H)[part] / n / 1e6 for n in lengths], plot.PALETTE[colour]
        ax.loglog(lengths, each, style[1:], color=colour, label=name)
        ax.plot(T, float(mine[part]) / T / 1e6, style[0], color=colour, label=f"{name}, yours")
    ax.set_title(f"one layer, {C = }, {F = }, {H = }", fontsize=10)
    ax.set(xlabel="tokens in the sequence T", ylabel="million MACs a token")
    ax.legend(frameon=False)
    above = f", above {F - 2 * C} tokens the larger" * (F > 2 * C)
    return figure, f"MACs per token over T: feed-forward is level, attention rises{above}. Marks are yours."


works = partial(partial, work)
macs = Task(
    inputs=lambda draw: [
        (300, 128, 512, 4),
        *((draw.randrange(11, 99), H * draw.randrange(3, 12), draw.randrange(20, 200), H) for H in draw.sample((2, 3, 5, 7), 3)),
    ],
    right=work, picture=over_lengths,
    passed="The products of tokens with tokens grow with the square of T, all else with T. The picture divides by T.",
    wrong={
        "These are FLOPs: a multiply-accumulate is two of them.": works(unit=2),
        "This is a single token's share, and the task asks for all T tokens.": lambda T, C, F, H: work(T, C, F, H, unit=1 / T),
        "Attention has four projections: q, k, v, and the output.": (works(projections=0), works(projections=1), works(projections=3)),
        "Attention has two products of tokens with tokens, q with k and the weights with v. You count one of them, or half of both; "
        "here all T x T pairs of both count, also those that a causal mask hides.":
            (works(products=1), works(pairs=lambda T, H: T * (T + 1) / 2), works(pairs=lambda T, H: T * (T + 1) // 2)),
        "Your attention grows like T. Every one of T queries is compared with T keys.": works(pairs=lambda T, H: T),
        "Your attention depends on H. There are H heads, and each of them is only C / H wide: does the work depend on how C is divided?":
            (works(pairs=lambda T, H: T * T * H), works(pairs=lambda T, H: T * T / H), lambda T, C, F, H: work(T, C, F, H, projections=4 * H)),
        "The feed-forward has two matrices, up and down, between C and F numbers.":
            (works(ffn=1), lambda T, C, F, H: work(T, C, 4 * C, H), lambda T, C, F, H: (work(T, C, F, H)[0], T * (C * F + F * F))),
    },
)  # fmt: skip

# Task 5


def machine(seed: int, drift: float) -> tuple[SimpleNamespace, list]:
    """A machine as unreliable as a real one, and the list of what it ran: model, threads, seconds.

    Both models are slow and early equally often, so the ratio of their medians is the same over any warm runs.
    """
    threads, ran = [2], []

    def run(name: str) -> None:
        earlier, old = sum(model == name for model, _, _ in ran), name == "old"
        draw = Random(f"{seed}, {name}, {earlier}")
        factors, usual, cold = ((1, 9, 0.7, 9, 1), 4e-3, 3) if old else ((0.4, 1, 2, 1, 2), 2.5e-3, 2)
        slow = factors[(earlier + earlier // 5 * 3) % 5] ** draw.uniform(0.9, 1.1)
        seconds = draw.uniform(0.99, 1.01) * usual * (cold + 9 * 0.6**earlier if earlier < 10 else slow)
        faster = 1 if threads[-1] == 1 else 1.3 if old else 1.8
        ran.append((name, threads[-1], seconds * drift ** len(ran) / faster))

    given = SimpleNamespace(threads=threads.append, old=partial(run, "old"), new=partial(run, "new"))
    given.clock = lambda: 100 + sum(seconds for _, _, seconds in ran)
    return given, ran


def timing(run, seed: int, drift: float):
    """The ratio found, or in a word what makes it worthless."""
    given, ran = machine(seed, drift)
    found = run(given)
    old, new = ([i for i, (name, _, _) in enumerate(ran) if name == model] for model in ("old", "new"))
    if not 40 <= len(old) == len(new):
        return "number"
    if {threads for _, threads, _ in ran} != {1}:
        return "threads"
    return "order" if abs(mean(old) - mean(new)) > 10 else found


def ratio(
    machine, threads=(1, 1, 1), in_a_row=1, runs=40, skip=10, over=lambda old, new: median(old) / median(new),
):  # fmt: skip
    """Old over new; each keyword is a part that can be wrong. `threads`: in the warm-up, then of each model."""
    times = {"old": [], "new": []}
    for name in runs // in_a_row * (in_a_row * ["old"] + in_a_row * ["new"]):
        machine.threads(threads[(len(times[name]) >= 10) * (1 + (name == "new"))])
        begun = machine.clock()
        getattr(machine, name)()
        times[name].append(machine.clock() - begun)
    return over(times["old"][skip:], times["new"][skip:])


ratios = partial(partial, ratio)
speedup = Task(
    inputs=lambda draw: [(draw.randrange(2**31), drift) for drift in (1.002, 1, 0.998)],
    right=ratio, play=timing, rtol=0.06,
    label=lambda seed, drift: f"a machine that becomes {'slower' if drift > 1 else 'faster' if drift < 1 else 'neither slower nor faster'}",
    passed="The ratio of the medians, on machines with cold starts, interruptions and drift.",
    wrong={
        "Count the runs of each model: 10 that warm up and are not counted, then 30 that are, for the old one as for the new one.": ratios(runs=30),
        "Not every run was on one thread. The machine starts with 2: how many does it use in the warm-up, how many for each model?":
            (ratios(threads=(2, 2, 2)), ratios(threads=(1, 1, 2)), ratios(threads=(2, 1, 1))),
        "You measure one model after the other, and the machine's speed changes in between: whatever runs later is charged for it. "
        "How can such a change fall on both?": ratios(in_a_row=40),
        "That is new over old. How many times as fast the new one is, is the old time over the new time.":
            ratios(over=lambda old, new: median(new) / median(old)),
        "The mean follows the interrupted runs: a few of them move it far. Which statistic do they hardly move?":
            tuple(ratios(over=lambda old, new: mean(old) / mean(new), skip=skip) for skip in (0, 10)),
        "The fastest run is an exception too: here one ended early. Take a statistic that no single run decides.":
            ratios(over=lambda old, new: min(old) / min(new)),
        "That is the median of each turn's ratio. The task asks for the ratio of the two medians.":
            ratios(over=lambda old, new: median(a / b for a, b in zip(old, new, strict=True))),
        "Cold runs are among those that you count. The first 10 of each model warm up and do not count.":
            ratios(skip=0),
    },
)  # fmt: skip

# Task 6


def joules(
    tokens, macs, stored, readings, word="modelled", none=lambda readings: not readings, step=lambda a, b, largest: (b - a) % (largest + 1),
    used=sum, unit=1e-6, model=lambda n, macs, stored: n * macs * 4.6e-12 + stored * 160e-12, per=(True, True),
):  # fmt: skip
    """Joules a token and the method; each keyword is a part that can be wrong."""
    if none(readings):
        return model(tokens, macs, stored) / (tokens if per[0] else 1), word
    return unit * used([step(*reading) for reading in readings]) / (tokens if per[1] else 1), "rapl"


def joules_of(name: str, *ways) -> tuple:
    return tuple(partial(joules, **{name: way}) for way in ways)


def passes(draw: Random) -> list[tuple]:
    """With counters that began again or did not, stood still, are several, or cannot be read."""
    shift, full = draw.randrange(1_000, 9_000), 262_143_328_850
    one, small, still = [(5, 900_000 + shift, full)], [(9_000, 30 + shift // 4, 9_999)], [(700, 700, 9_999)]
    two = [(60_000, 700 + shift, 65_535), (full - 30_000_000, 12_000_000 + shift, full)]
    shown = (one, small, two, still, None, [])
    return [
        (draw.randrange(3, 900), draw.randrange(10**6, 10**7), draw.randrange(10**6, 10**8), r) for r in shown
    ]


joules_a_token = Task(
    inputs=passes, right=joules,
    passed="Measured where there is a counter, modelled where there is none, and never one under the name of the other.",
    wrong={
        "Measured and modelled are mixed up. What was measured comes first, and without a counter the method is 'modelled'.":
            (*joules_of("word", "rapl"), *joules_of("none", lambda readings: True)),
        "An empty list of counters was read as 0 J, or a counter that stood still was not read. A machine that shows no counter has measured nothing; a difference of 0 is a measurement.":
            joules_of("none", lambda rs: rs is None, lambda rs: not rs or all(a == b for a, b, _ in rs)),
        "A counter went past its largest value and began again at 0 in between. Energy is never negative, and neither the size of that difference nor 0 is what was used.":
            joules_of("step", lambda a, b, largest: b - a, lambda a, b, largest: abs(b - a), lambda a, b, largest: max(0, b - a)),
        "There may be several packages. Each counter begins again by itself, with a largest value of its own; what all used is the sum.":
            (*joules_of("used", lambda steps: steps[0], max, mean),
            lambda n, macs, stored, rs: joules(n, macs, stored, rs and [(sum(a for a, _, _ in rs), sum(b for _, b, _ in rs), rs[0][2])])),
        "Counters count microjoules.": joules_of("unit", 1, 1e-3, 1e6),
        "These are joules of a whole pass, measured or modelled or both, and the task asks for one token.": joules_of("per", (False, False), (False, True), (True, False)),
        "The model of a pass is off. Of its two parts, arithmetic and reading the weights, which grows with the tokens in it, and which happens once?":
            joules_of("model", lambda n, macs, stored: n * (macs * 4.6e-12 + stored * 160e-12), lambda n, macs, stored: macs * 4.6e-12 + stored * 160e-12,
            lambda n, macs, stored: n * macs * 4.6e-12, lambda n, macs, stored: stored * 160e-12),
    },
)  # fmt: skip
