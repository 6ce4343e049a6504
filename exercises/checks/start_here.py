"""Exercise 00: quality, size, computation, time and energy, each measured and mismeasured."""

from collections.abc import Callable
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


def varied(right: Callable, part: str, *wrong) -> tuple[Callable, ...]:
    """Ways of going wrong: a right way with one of its keywords replaced."""
    return tuple(partial(right, **{part: value}) for value in wrong)


# Task 1

LN2 = log(2)


def bits(losses, tokens, text, nats_a_bit=LN2, over=lambda tokens, text: len(text.encode())):
    """Bits per byte; each keyword is a part that can be wrong."""
    nats = sum(loss * count for loss, count in zip(losses, tokens, strict=True))
    return nats / nats_a_bit / over(tokens, text)


def some_windows(draw: Random, count: int) -> tuple:
    """Characters of one to four bytes, and white space at both ends."""
    tokens = draw.sample(range(4, 40), count)
    drawn = "".join(draw.choice("abcdefgh é–’ñ") for _ in range(3 * sum(tokens)))
    return [draw.uniform(1, 6) for _ in tokens], tokens, f" {drawn} Ab e\u0301 \U0001f600 \n\n"


bits_per_byte = Task(
    inputs=lambda draw: [some_windows(draw, count) for count in (1, 3, 5)],
    right=bits, label=lambda losses, tokens, text: f"{len(losses)} windows, {sum(tokens)} tokens, {len(text)} characters",
    passed="Total bits over total bytes: windows of any length and any tokenizer can be compared.",
    wrong={
        "These are not bits. One bit is 0.69 nats, so there are more bits than nats: do you multiply or divide?":
            varied(bits, "nats_a_bit", 1, 1 / LN2),
        "You round the number of nats in a bit. `log` is imported.": varied(bits, "nats_a_bit", 0.69, 0.693),
        "These are bits per character. Some characters of this text take two or more bytes. How do you get the bytes?":
            varied(bits, "over", lambda tokens, text: len(text)),
        "These are bits per token, and they depend on the tokenizer. What do you have to divide by instead?":
            (*varied(bits, "over", lambda tokens, text: sum(tokens)), lambda losses, tokens, text: mean(losses) / LN2),
        "You average the windows as if they were equally long. A window of 5 tokens must not weigh as much as one of 30.":
            lambda losses, tokens, text: bits([mean(losses)], [sum(tokens)], text),
        "Each loss is a mean over its window. You add up the means: what turns a mean back into the sum over its tokens?":
            lambda losses, tokens, text: bits(losses, [1] * len(losses), text),
    },
)  # fmt: skip

# Task 2


def odd_model(draw: Random, odd: str) -> nn.Module:
    """A model that is only stored; `odd` says how it differs from others."""
    width, inner, vocab = draw.sample(range(5, 30), 3)
    vectors, up, down = nn.Embedding(vocab, width), nn.Linear(width, inner), nn.Linear(inner, width)
    head, equal_norms = nn.Linear(width, vocab, bias=False), (nn.LayerNorm(inner), nn.LayerNorm(inner))
    if odd == "its head tied":
        head.weight = vectors.weight
    if odd == "half of it in 16 bits":
        down.half()
    model = nn.Sequential(vectors, *[up] * (3 if odd == "a block shared" else 1), *equal_norms, down, head)
    model.register_buffer("steps", torch.arange(draw.randrange(3, 9)))  # 64 bits per number
    model.register_buffer("scratch", torch.zeros(7), persistent=False)
    model.odd = odd
    return model


def counted(tensors=lambda model: model.state_dict().values(), key=Tensor.data_ptr, size=lambda t: t.nbytes):
    """A way of counting: each of the tensors once for its key."""
    return lambda model: sum(size(t) for t in {key(t): t for t in tensors(model)}.values())


stored_bytes = Task(
    inputs=lambda draw: [(odd_model(draw, odd),) for odd in ("its head tied", "a block shared", "half of it in 16 bits")],
    right=cost.stored_bytes, label=lambda model: f"a model with {model.odd}",
    passed="What shares memory is stored once, in its own precision, and buffers are stored too.",
    wrong={
        "A shared tensor is counted once for each of its names. Sets of tensors and `id` do not find it. "
        "What do two names of the same memory have in common?": counted(key=id),
        "These are only the parameters. A file also holds what is not trained: compare the names in named_parameters() and state_dict().":
            counted(nn.Module.parameters),
        "You count a buffer that is not stored (registered with persistent=False). What does state_dict() name?":
            counted(lambda model: [*model.parameters(), *model.buffers()]),
        "You take 4 bytes for every number. Some of these numbers have 16 or 64 bits: ask each tensor how large its elements are.":
            (counted(size=lambda t: 4 * t.numel()), counted(key=id, size=lambda t: 4 * t.numel())),
        "Two tensors are counted once because their values or their shapes are equal. A file stores both: equal values are not the same memory.":
            (counted(key=lambda t: str(t.tolist())), counted(key=lambda t: t.shape)),
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
    vocab, context, layers, dim, ffn, tied, every, blocks=lambda layers, every: ceil(layers / every), heads=lambda tied: not tied, places=1,
    biases=lambda C, F: 5 * C + F, norm=2, last_norms=1,
):  # fmt: skip
    """The same as a formula; each keyword is a part that can be wrong."""
    block = 4 * dim**2 + 2 * dim * ffn + biases(dim, ffn) + 2 * norm * dim
    ends = (1 + heads(tied)) * vocab + places * context + last_norms * norm
    return blocks(layers, every) * block + ends * dim


parameters = Task(
    inputs=lambda draw: [
        (*draw.sample(range(9, 60), 2), layers, *draw.sample(range(9, 60), 2), tied, every)
        for layers, every, tied in ((3, 1, True), (8, 3, False), (6, 2, True), (5, 4, False))
    ],
    right=built,
    passed="Counted on paper, equal to the built model: tied and shared weights once, biases and norms included.",
    wrong={
        "A block that is used several times is counted several times. It has its parameters once.":
            varied(on_paper, "blocks", lambda layers, every: layers),
        "The number of blocks is wrong. Write down which block each of 8 layers uses with `every=3`, and each of 6 layers with `every=2`.":
            varied(on_paper, "blocks", lambda L, every: every, lambda L, every: L // every, lambda L, every: L // every + 1),
        "The head is counted wrongly. When is it the token vectors, which are counted already, and when does it have a matrix of its own?":
            varied(on_paper, "heads", lambda tied: 1, lambda tied: 0, lambda tied: tied),
        "Biases in a block are missing, or as long as the wrong side. Each of its six linears has one, with a number for each output.":
            varied(on_paper, "biases", lambda C, F: 0, lambda C, F: 4 * C, lambda C, F: C + F, lambda C, F: 4 * C + 2 * F),
        "Parameters of norms are missing. How many norms are in a block, how many after all blocks, and which parameters does each have?":
            varied(on_paper, "norm", 0, 1) + varied(on_paper, "last_norms", 0),
        "The positions are missing: one vector for each position of the context.": varied(on_paper, "places", 0),
    },
)  # fmt: skip

# Task 4


def work(T, C, F, H, projections=4, products=2, pairs=lambda T, H: T * T, matrices=2, unit=1):
    """MACs of attention and of the feed-forward; each keyword is a part that can be wrong."""
    return unit * (projections * T * C**2 + products * pairs(T, H) * C), unit * matrices * T * C * F


def over_lengths(mine, right, T, C, F, H):
    figure, (ax,) = plot.panels(1, width=5.0)
    lengths = [2**i for i in range(5, 13)]
    styles = (("attention", "o", "-", "orange"), ("feed-forward", "s", "--", "blue"))
    for part, (name, mark, line, colour) in enumerate(styles):
        each = [work(n, C, F, H)[part] / n / 1e6 for n in lengths]
        ax.loglog(lengths, each, line, color=plot.PALETTE[colour], label=name)
        ax.plot(T, float(mine[part]) / T / 1e6, mark, color=plot.PALETTE[colour], label=f"{name}, yours")
    title = f"one layer, {C = }, {F = }, {H = }"
    ax.set(title=title, xlabel="tokens in the sequence T", ylabel="million MACs per token")
    ax.legend(frameon=False)
    return (
        figure,
        f"MACs per token over T: feed-forward is level, attention rises. Marks at {T = } are yours.",
    )


macs = Task(
    inputs=lambda draw: [(300, 128, 512, 4)] + [(draw.randrange(11, 99), H * draw.randrange(3, 12), draw.randrange(20, 200), H) for H in (3, 2, 5)],
    right=work, picture=over_lengths,
    passed="The products of tokens with tokens grow with the square of T, everything else with T. The picture divides by T.",
    wrong={
        "These are FLOPs: a multiply-accumulate is two of them.": varied(work, "unit", 2),
        "These are the MACs of one token; the task asks for all T tokens.": lambda T, C, F, H: work(T, C, F, H, unit=1 / T),
        "Attention has four projections: q, k, v, and the output.": varied(work, "projections", 0, 1, 3),
        "Attention has two products of tokens with tokens, q with k and the weights with v. Count all T x T pairs of both, "
        "also those that a causal mask hides.":
            varied(work, "products", 0, 1) + varied(work, "pairs", lambda T, H: T, lambda T, H: T * (T + 1) / 2),
        "Your attention depends on H. There are H heads, and each of them is only C / H wide: does the work depend on how C is divided?":
            varied(work, "pairs", lambda T, H: T * T * H, lambda T, H: T * T / H),
        "The feed-forward has two matrices, up and down, between C and F numbers.":
            (*varied(work, "matrices", 1), lambda T, C, F, H: work(T, C, 4 * C, H)),
    },
)  # fmt: skip

# Task 5


def machine(seed: int, drift: float) -> tuple[SimpleNamespace, list]:
    """A machine as unreliable as a real one, and the list of what it ran: model, threads, seconds."""
    draw, threads, ran = Random(seed), [2], []

    def run(name: str, usual: float, warm: tuple) -> None:
        earlier = sum(model == name for model, _, _ in ran)
        slow = 3 + 9 * 0.6**earlier if earlier < 10 else warm[earlier % 5]
        seconds = usual * slow * draw.uniform(0.99, 1.01) * drift ** len(ran) / threads[-1]
        ran.append((name, threads[-1], seconds))

    return SimpleNamespace(
        threads=threads.append,
        clock=lambda: 100 + sum(seconds for _, _, seconds in ran),
        old=partial(run, "old", 4e-3, (1, 9, 0.7, 9, 1)),  # both tuples have the median 1
        new=partial(run, "new", 2.5e-3, (0.4, 1, 2, 1, 2)),
    ), ran


def timing(speedup, seed: int, drift: float):
    """The ratio found, or in a word what makes it worthless."""
    given, ran = machine(seed, drift)
    found = speedup(given)
    old, new = ([i for i, (name, _, _) in enumerate(ran) if name == model] for model in ("old", "new"))
    if not 40 <= len(old) == len(new):
        return "number"
    if {threads for _, threads, _ in ran} != {1}:
        return "threads"
    return "order" if abs(mean(old) - mean(new)) > 10 else found


def ratio(machine, threads=(1, 1), in_a_row=1, runs=40, skip=10, over=lambda a, b: median(a) / median(b)):
    """Old over new; each keyword is a part that can be wrong."""
    times = {"old": [], "new": []}
    for name in runs // in_a_row * (in_a_row * ["old"] + in_a_row * ["new"]):
        machine.threads(threads[name == "new"])
        begun = machine.clock()
        getattr(machine, name)()
        times[name].append(machine.clock() - begun)
    return over(times["old"][skip:], times["new"][skip:])


speedup = Task(
    inputs=lambda draw: [(draw.randrange(2**31), drift) for drift in (1.002, 1, 0.998)],
    right=ratio, play=timing, rtol=0.06,
    label=lambda seed, drift: f"a machine on which each run takes {drift} times as long as the one before",
    passed="The ratio of the medians, on machines with cold starts, interruptions and drift.",
    wrong={
        "Count the runs of each model: 10 that warm up and are not counted, then 30 that are, for the old one as for the new one.":
            varied(ratio, "runs", 30),
        "Not every run was on one thread. The machine starts with 2: how many does it use in the warm-up, how many for each model?":
            varied(ratio, "threads", (2, 2), (1, 2)),
        "You measure one model after the other, and the machine's speed changes in between, so that the later one looks slower or faster than it is. "
        "How can such a change affect both alike?": varied(ratio, "in_a_row", 40),
        "This is the new time over the old time. A model is as many times as fast as the old time over the new time.":
            varied(ratio, "over", lambda old, new: median(new) / median(old)),
        "An interrupted run moves the mean, and one that ended early is the fastest. Which statistic does not depend on a single run?":
            varied(partial(ratio, over=lambda old, new: mean(old) / mean(new)), "skip", 0, 10) + varied(ratio, "over", lambda old, new: min(old) / min(new)),
        "Cold runs are among those that you count. The first 10 of each model warm up and do not count.":
            varied(ratio, "skip", 0),
    },
)  # fmt: skip

# Task 6


def joules(
    tokens, macs, stored, readings, unreadable=lambda readings: not readings, computed=lambda tokens: tokens, read=lambda tokens: 1,
    steps=lambda before, after, largest: (after - before) % (largest + 1), used=sum, unit=1e-6, over=lambda tokens: tokens,
):  # fmt: skip
    """Joules per token and the method; each keyword is a part that can be wrong."""
    if unreadable(readings):
        whole = computed(tokens) * macs * 4.6e-12 + read(tokens) * stored * 160e-12
        return whole / over(tokens), "modelled"
    return unit * used([steps(*reading) for reading in readings]) / over(tokens), "rapl"


def passes(draw: Random) -> list[tuple]:
    """With a counter that did not begin again, one that did, three of them, and none."""
    more, largest = draw.randrange(1_000, 9_000), 262_143_328_850
    once, again = [(5, 900_000 + more, largest)], [(9_000, 30 + more // 4, 9_999)]
    three = [(60_000, 700 + more, 65_535), (largest - 30_000, 12_000 + more, largest), (700, 700, 9_999)]
    return [
        (draw.randrange(3, 900), draw.randrange(10**6, 10**7), draw.randrange(10**6, 10**8), readings)
        for readings in (once, again, three, None, [])
    ]


joules_per_token = Task(
    inputs=passes, right=joules,
    passed="Measured where there is a counter, modelled where there is none, and each is called what it is.",
    wrong={
        "An empty list of counters was read as 0 J. A machine without a counter has measured nothing.":
            varied(joules, "unreadable", lambda readings: readings is None),
        "A counter started again at 0, and you count its steps wrongly. Which steps does a counter from 0 to 9 take from 8 to 3?":
            varied(joules, "steps", lambda a, b, largest: b - a, lambda a, b, largest: abs(b - a), lambda a, b, largest: (b - a) % largest),
        "There may be several chips. Each counter starts again on its own, at its own largest value. Add up what all of them used.":
            varied(joules, "used", lambda steps: steps[0], max, mean),
        "Counters count microjoules.": varied(joules, "unit", 1, 1e-3),
        "These are the joules of a whole pass; the task asks for joules per token.": varied(joules, "over", lambda tokens: 1),
        "The model of a pass is wrong. It has two parts, arithmetic and reading the weights. Which grows with the tokens, and which happens once?":
            varied(joules, "computed", lambda tokens: 1) + varied(joules, "read", lambda tokens: 0, lambda tokens: tokens),
    },
)  # fmt: skip
