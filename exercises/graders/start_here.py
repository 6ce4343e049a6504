"""Checks for exercise 00: quality, size, computation, time and energy, each measured and mismeasured."""

from collections.abc import Callable
from io import BytesIO
from math import ceil, log
from random import Random
from statistics import mean
from unicodedata import normalize

import torch
from matplotlib.figure import Figure
from minieff.transformer import Config, Transformer
from torch import nn

from exercises.graders import Case, NotYet, Verdict, judge, task
from exercises.graders.kinds import kind_of, number, numbers, whole
from exercises.graders.machine import Machine
from minieff import cost, energy, plot


# Task 1
@task
def bits_per_byte(run: Callable, draw: Random) -> Verdict:
    """`bits_per_byte(losses, tokens, text)`: mean nats a token and number of tokens of each window, and their text."""
    cases = []
    for windows in (1, 3, 5):
        tokens = draw.sample(range(4, 40), windows)
        drawn = "".join(draw.choice("abcdefgh é–’ñ") for _ in range(3 * sum(tokens)))
        text = f" \n{drawn} Ab e\u0301 \U0001f600 \ufb01 \r\n\n"  # ends, capitals, and characters of one to four bytes
        losses = [draw.uniform(1, 6) for _ in tokens]
        cases.append(
            Case(
                (losses, tokens, text), f"windows: {windows}, tokens: {sum(tokens)}, characters: {len(text)}"
            )
        )

    def nats(losses, tokens):
        return sum(loss * count for loss, count in zip(losses, tokens, strict=True))

    def right(losses, tokens, text):
        return nats(losses, tokens) / log(2) / len(text.encode())

    mistakes = {
        "These are nats a byte. How many nats is one bit?": lambda ls, ts, text: (
            nats(ls, ts) / len(text.encode())
        ),
        "From nats to bits, you multiply where you should divide: one bit is 0.69 nats, so there are more bits than nats.": (
            lambda ls, ts, text: nats(ls, ts) * log(2) / len(text.encode())
        ),
        "These are bits a character. Some characters of this text take two or three bytes: how do you get at the bytes?": (
            lambda ls, ts, text: nats(ls, ts) / log(2) / len(text)
        ),
        "These are bits a token, and they depend on the tokenizer. What do you divide by, so that the tokenizer cancels?": (
            lambda ls, ts, text: nats(ls, ts) / log(2) / sum(ts)
        ),
        "Spaces and line ends are bytes of the text too: count the text as it is.": (
            lambda ls, ts, text: nats(ls, ts) / log(2) / len(text.strip().encode())
        ),
        "Composing or lowering characters changes the bytes of the text: count the text as it is given.": (
            lambda ls, ts, text: nats(ls, ts) / log(2) / len(normalize("NFC", text).encode())
        ),
        "You average the windows as though they were equally long. A window of 5 tokens must not weigh as much as one of 30.": (
            lambda ls, ts, text: mean(ls) * sum(ts) / log(2) / len(text.encode())
        ),
        "Each loss is a mean over its window. You add up the means: what turns a mean back into the sum over its tokens?": (
            lambda ls, ts, text: sum(ls) / log(2) / len(text.encode())
        ),
    }
    judge(run, cases, right, mistakes)
    return Verdict("Total bits over total bytes: windows of any length and tokenizers of any kind compare.")


# Task 2
class Odd(nn.Module):
    """A model that is made to tell ways of counting apart; `share` names what its parts have in common."""

    def __init__(self, draw: Random, share: str) -> None:
        super().__init__()
        width, inner, vocab = draw.sample(range(5, 30), 3)
        self.tok = nn.Embedding(vocab, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.register_buffer("steps", torch.arange(draw.randrange(3, 9)))  # 64 bits a number
        self.register_buffer("alias", self.steps.view(-1))  # another object, the same memory
        self.register_buffer("scratch", torch.zeros(7), persistent=False)
        self.first, self.second = nn.LayerNorm(inner), nn.LayerNorm(inner)  # equal values, and not shared
        self.up.weight.requires_grad_(False)
        if "head" in share:
            self.head.weight = self.tok.weight
        if "block" in share:
            self.again = self.third = self.up
        if "half" in share:
            self.down.half()


def whole_file(model: nn.Module) -> int:
    """What torch.save writes."""
    file = BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


@task
def stored_bytes(run: Callable, draw: Random) -> Verdict:
    """`stored_bytes(model)`: the bytes of all tensors in the file that the model is saved to."""
    labels = [
        "head tied",
        "block shared",
        "half of it in 16 bits",
        "head tied, block shared, half of it in 16 bits",
    ]
    cases = [Case((Odd(draw, label),), label) for label in labels]

    def saved(model):
        return list(model.state_dict().values())

    mistakes = {
        "A shared tensor is counted once for each of its names, also if you put tensors into a set or compare `id`. What do two "
        "names of the same memory have in common?": lambda m: sum(t.nbytes for t in saved(m)),
        "You tell tensors apart as objects. Two objects can be the same memory: compare addresses.": (
            lambda m: sum(
                t.nbytes for t in {id(t): t for t in m.state_dict(keep_vars=True).values()}.values()
            )
        ),
        "These are parameters alone. The file also holds buffers: compare the names in named_parameters() and state_dict().": (
            lambda m: sum(p.nbytes for p in m.parameters())
        ),
        "You count frozen parameters as if they were not stored. Training does not matter to a file.": (
            lambda m: sum(p.nbytes for p in m.parameters() if p.requires_grad)
        ),
        "You take 4 bytes for every number. Some of these numbers have 16 bits: ask each tensor how large its elements are.": (
            lambda m: sum(4 * t.numel() for t in {t.data_ptr(): t for t in saved(m)}.values())
        ),
        "You count numbers, not bytes.": lambda m: sum(
            t.numel() for t in {t.data_ptr(): t for t in saved(m)}.values()
        ),
        "Two tensors that happen to hold equal values are counted once. A file stores both: equal is not the same.": (
            lambda m: sum({(tuple(t.shape), t.dtype, str(t.tolist())): t.nbytes for t in saved(m)}.values())
        ),
        "Tensors of the same shape are counted once. Only those that share their memory are stored once.": (
            lambda m: sum({(tuple(t.shape), t.dtype): t.nbytes for t in saved(m)}.values())
        ),
        "This is the size of a whole file, with its headers and names. The task asks for the tensors alone.": whole_file,
        "You count a buffer that is not stored (registered with persistent=False). What does state_dict() name?": (
            lambda m: sum(t.nbytes for t in [*m.parameters(), *m.buffers()])
        ),
    }
    judge(run, cases, cost.stored_bytes, mistakes, kind=whole)
    return Verdict("What shares memory is stored once, in its own precision, and buffers are stored too.")


# Task 3
def built(vocab: int, context: int, layers: int, dim: int, ffn: int, tied: bool, every: int) -> int:
    """The parameters of the real model, counted."""
    model = Transformer(Config(vocab=vocab, context=context, layers=layers, heads=1, dim=dim, ffn=ffn))
    blocks = list(model.blocks.layers)
    model.blocks.layers = nn.ModuleList([blocks[i - i % every] for i in range(layers)])
    separate = nn.Module() if tied else nn.Linear(dim, vocab, bias=False)
    return cost.parameters(nn.ModuleList([model, separate]))


def formula(vocab, context, layers, dim, ffn, tied, every, **change) -> int:
    """The same in closed form, with parts that `change` sets to something else: what learners forget or misread."""
    biases = change.get("biases", 5 * dim + ffn)
    block = 4 * dim**2 + 2 * dim * ffn + biases + change.get("norms", 2) * change.get("norm", 2) * dim
    blocks = change.get("blocks", ceil(layers / every))
    head = change.get("head", 0 if tied else vocab * dim)
    ends = change.get("positions", context * dim) + change.get("last", 1) * change.get("norm", 2) * dim
    return vocab * dim + ends + blocks * block + head


@task
def parameters(run: Callable, draw: Random) -> Verdict:
    """`parameters(vocab, context, layers, dim, ffn, tied, every)` of the course's model, its head tied or not, its blocks shared."""
    names, cases = ("vocab", "context", "layers", "dim", "ffn", "tied", "every"), []
    shapes = [
        (3, 1, True),
        (8, 3, False),
        (6, 2, True),
        (5, 4, False),
        (2, 5, True),
        (7, 1, False),
        (9, 3, False),
    ]
    for layers, every, tied in shapes:
        vocab, context, dim, ffn = draw.sample(range(9, 70), 4)
        values = (vocab, context, layers, dim, ffn, tied, every)
        cases.append(
            Case(values, ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True)))
        )

    def wrong(change: Callable[..., dict]) -> Callable:
        return lambda V, S, L, C, F, tied, every: formula(
            V, S, L, C, F, tied, every, **change(V, L, C, F, tied, every)
        )

    mistakes = {
        "A block that is used several times is counted several times. It has its parameters once.": (
            wrong(lambda V, L, C, F, tied, every: {"blocks": L})
        ),
        "With 8 layers and a new block for every 3, you count 2 blocks. Which blocks do layers 0 to 7 use?": (
            wrong(lambda V, L, C, F, tied, every: {"blocks": L // every})
        ),
        "With 6 layers and a new block for every 2, you count 4 blocks. Which blocks do layers 0 to 5 use?": (
            wrong(lambda V, L, C, F, tied, every: {"blocks": L // every + 1})
        ),
        "The layers that are left over at the end share one block too.": (
            wrong(lambda V, L, C, F, tied, every: {"blocks": L // every + L % every})
        ),
        "`every` is how many layers in a row use one block, not how many blocks there are.": (
            wrong(lambda V, L, C, F, tied, every: {"blocks": every})
        ),
        "The tied head is counted, although it is the embedding.": wrong(
            lambda V, L, C, F, tied, every: {"head": V * C}
        ),
        "Where the head is not tied, it has a matrix of its own.": wrong(
            lambda V, L, C, F, tied, every: {"head": 0}
        ),
        "You read `tied` the wrong way round.": wrong(
            lambda V, L, C, F, tied, every: {"head": V * C if tied else 0}
        ),
        "The head has no bias here.": wrong(
            lambda V, L, C, F, tied, every: {"head": V if tied else V * C + V}
        ),
        "Where it has a matrix of its own, the head has no bias here.": (
            wrong(lambda V, L, C, F, tied, every: {"head": 0 if tied else V * C + V})
        ),
        "The biases are missing: every linear inside a block has one.": wrong(
            lambda V, L, C, F, tied, every: {"biases": 0}
        ),
        "The two biases of the feed-forward are missing.": wrong(
            lambda V, L, C, F, tied, every: {"biases": 4 * C}
        ),
        "The four biases of attention are missing.": wrong(lambda V, L, C, F, tied, every: {"biases": C + F}),
        "A bias has one number for each output of its linear. How many outputs has the one that leads back to `dim`?": (
            wrong(lambda V, L, C, F, tied, every: {"biases": 4 * C + 2 * F})
        ),
        "The norms are missing: there are two in a block and one at the end.": wrong(
            lambda V, L, C, F, tied, every: {"norm": 0}
        ),
        "A norm has two vectors, a weight and a bias.": wrong(lambda V, L, C, F, tied, every: {"norm": 1}),
        "Half of the norms' parameters in a block are missing. What stands before attention, what before the feed-forward, and what does each have?": (
            wrong(lambda V, L, C, F, tied, every: {"norms": 1})
        ),
        "The last norm is missing, after all blocks.": wrong(lambda V, L, C, F, tied, every: {"last": 0}),
        "The positions are missing: a vector for each place of the context.": (
            wrong(lambda V, L, C, F, tied, every: {"positions": 0})
        ),
        "You take the feed-forward to be four times `dim` wide. Here `ffn` says how wide it is.": (
            lambda V, S, L, C, F, tied, every: formula(V, S, L, C, 4 * C, tied, every)
        ),
    }
    judge(run, cases, built, mistakes, kind=whole)
    return Verdict(
        "Counted on paper, equal to the built model: tied and shared weights once, biases and norms included."
    )


# Task 4
def layer_macs(T: int, C: int, F: int, H: int) -> tuple[int, int]:
    """Attention with its four projections, and feed-forward, of a layer for a whole sequence."""
    return 4 * T * C**2 + 2 * T**2 * C, 2 * T * C * F


@task
def macs(run: Callable, draw: Random) -> Verdict:
    """`macs(T, C, F, H)`: multiply-accumulates of a layer over T tokens, as (attention, feed_forward)."""
    cases = []
    for H in draw.sample((2, 3, 5, 7), 4):
        D, T, F = draw.randrange(3, 12), draw.randrange(11, 99), draw.randrange(20, 200)
        cases.append(Case((T, H * D, F, H), f"T={T}, C={H * D}, F={F}, H={H}"))

    cases.append(Case((300, 128, 512, 4), "T=300, C=128, F=512, H=4"))

    def wrong(projections=4, products=2, growth=2, ffn=2, scale=1, pairs=lambda T, H: 1):
        def mistaken(T, C, F, H):
            attention = projections * T * C**2 + products * T**growth * C * pairs(T, H)
            return scale * attention, scale * ffn * T * C * F

        return mistaken

    mistakes = {
        "These are FLOPs: a multiply-accumulate is two of them.": wrong(scale=2),
        "This is a single token's share, and the task asks for all T tokens.": lambda T, C, F, H: tuple(
            x / T for x in layer_macs(T, C, F, H)
        ),
        "The four projections (q, k, v and output) belong to attention.": wrong(projections=0),
        "There are four projections: q, k, v, and the output.": wrong(projections=3),
        "Attention has two products of tokens with tokens, q with k and the weights with v. You count one of them, or half of both; "
        "here all T x T pairs of both count, also those that a causal mask hides.": wrong(products=1),
        "Your attention grows like T. Every one of T queries is compared with T keys.": wrong(growth=1),
        "Heads do not multiply the work: each of the H heads is only C / H wide.": wrong(
            pairs=lambda T, H: H
        ),
        "The projections are C wide for all heads together: they do not multiply with H.": (
            lambda T, C, F, H: (4 * H * T * C**2 + 2 * T**2 * C, 2 * T * C * F)
        ),
        "You count the pairs of a single head. There are H of them, each C / H wide.": wrong(
            pairs=lambda T, H: 1 / H
        ),
        "You leave out the pairs that a causal mask hides. Here all T x T of them count.": (
            wrong(pairs=lambda T, H: (T + 1) / (2 * T))
        ),
        "Biases are counted too, and the task leaves them out: adding one multiplies nothing.": (
            lambda T, C, F, H: (4 * T * (C**2 + C) + 2 * T**2 * C, T * (2 * C * F + F + C))
        ),
        "The feed-forward has two matrices, up and down.": wrong(ffn=1),
        "You return them in the other order: attention first.": lambda *a: layer_macs(*a)[::-1],
    }
    judge(run, cases, layer_macs, mistakes, kind=numbers("attention", "feed_forward"))
    return Verdict(
        "The products of tokens with tokens grow with the square of T, all else with T. The picture divides by T.",
        *macs_figure(),
    )


def macs_figure() -> tuple[Figure, str]:
    """A layer of width 128 over growing contexts."""
    lengths = [32 * 2**i for i in range(8)]
    both = [layer_macs(T, 128, 512, 4) for T in lengths]
    figure, (ax,) = plot.panels(1, width=5.0)
    styles = (("attention", "orange", "o-"), ("feed-forward", "blue", "s--"))
    for (name, colour, mark), macs in zip(styles, zip(*both, strict=True), strict=True):
        each = [m / T / 1e6 for m, T in zip(macs, lengths, strict=True)]
        ax.loglog(lengths, each, mark, color=plot.PALETTE[colour], label=name)
    ax.set(xlabel="tokens in the sequence T", ylabel="million MACs a token")
    ax.set_title("one layer, C = 128, F = 512, H = 4", fontsize=10)
    ax.legend(frameon=False)
    return (
        figure,
        "MACs a token over T: feed-forward is level; attention rises and overtakes it at 256 tokens.",
    )


# Task 5
@task
def speedup(run: Callable, draw: Random) -> Verdict:
    """`speedup(machine)`: median time of `old` over median time of `new`, on one thread, warm, in turns."""
    for slowing in (1.0, 0.85, 1.2):
        machine = Machine(draw, slowing)
        complaint = machine.complaint(number(run(machine)))
        if complaint:
            raise NotYet(complaint, *machine.picture())
    return Verdict(
        "The ratio of the medians, on three machines with cold starts, interruptions and drift. The picture shows what one of "
        "them threw at you.",
        *machine.picture(),
    )


# Task 6
def joules_and_method(value) -> dict:
    """A pair of a number and one of two words, by name."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise NotYet(
            f"Your function returns {kind_of(value)}, and the task asks for a pair: joules and method."
        )
    if isinstance(value[0], str):
        raise NotYet("Your pair is in the other order: joules first, then the method.")
    if not isinstance(value[1], str) or value[1] not in ("rapl", "modelled"):
        raise NotYet(
            f"You return the method {value[1]!r}. There are two words for it: 'rapl' and 'modelled'."
        )
    return {"joules": number(value[0]), "method": value[1]}


def used(readings, unit=1e-6, values=lambda largest: largest + 1) -> float:
    """The joules that the packages used. A counter takes `values(largest)` values, and then begins again at 0."""
    return unit * sum((after - before) % values(largest) for before, after, largest in readings)


def model_of(tokens, macs, stored, share=True) -> float:
    return energy.modelled(tokens * macs, stored * (1 if share else tokens)).joules / tokens


@task
def joules_a_token(run: Callable, draw: Random) -> Verdict:
    """`joules_a_token(tokens, macs, stored, readings)` of one pass, as (joules, method)."""
    cases, shift = [], draw.randrange(1_000, 9_000)
    full = 262_143_328_850  # the range of many real counters
    one, small = [(5, 900_000 + shift, full)], [(9_000, 30 + shift // 4, 9_999)]
    two = [(60_000, 700 + shift, 65_535), (full - 30_000_000, 12_000_000 + shift, full)]
    three = [(9_999, 0, 9_999), (5_000, 5_000 + shift, full), (40, 9 + shift // 9, 65_535)]
    for readings in (one, small, two, three, [(700, 700, 9_999)], None, []):
        tokens, weights, stored = (
            draw.randrange(3, 900),
            draw.randrange(10**6, 10**7),
            draw.randrange(10**6, 10**8),
        )
        label = f"tokens={tokens}, macs={weights}, stored={stored}, readings={readings}"
        cases.append(Case((tokens, weights, stored, readings), label))

    def answer(read=used, model=model_of, honest=True, none=lambda readings: not readings, each=1):
        def joules(tokens, macs, stored, readings):
            if none(readings):
                return model(tokens, macs, stored), "modelled" if honest else "rapl"
            return read(readings) / (tokens if each else 1), "rapl"

        return joules

    mistakes = {
        "A figure that was modelled is called measured. Without a counter, the method is 'modelled'.": answer(
            honest=False
        ),
        "An empty list of counters was read as a measurement of 0 J. A machine that shows no counter has measured nothing.": answer(
            none=lambda r: r is None
        ),
        "One counter went past its largest value and began again at 0 in between. Energy is never negative: add the turn that is missing.": answer(
            read=lambda r: 1e-6 * sum(b - a for a, b, _ in r)
        ),
        "One counter went past its largest value and began again at 0. The size of the difference is not what was used.": answer(
            read=lambda r: 1e-6 * sum(abs(b - a) for a, b, _ in r)
        ),
        "A counter whose largest value is 9 has 10 values, 0 among them: you lose a microjoule when it begins again.": answer(
            read=lambda r: used(r, values=lambda largest: largest)
        ),
        "A counter that did not move was read all the same: 0 J, measured.": lambda t, m, s, r: (
            (used(r) / t, "rapl") if r and used(r) else (model_of(t, m, s), "modelled")
        ),
        "A counter that shows the same before and after did not count a whole turn.": answer(
            read=lambda r: 1e-6 * sum(b - a if b > a else b - a + c + 1 for a, b, c in r)
        ),
        "Where a counter began again, you count nothing. What it counted up to its largest value, and from 0, was used too.": answer(
            read=lambda r: 1e-6 * sum(max(0, b - a) for a, b, _ in r)
        ),
        "Both are joules of the pass, and the task asks for joules a token.": answer(
            each=0, model=lambda t, m, s: t * model_of(t, m, s)
        ),
        "Each counter begins again by itself, and each has its own largest value: mend each difference before you add them up.": answer(
            read=lambda r: 1e-6 * (sum(b - a for a, b, _ in r) % (r[0][2] + 1))
        ),
        "These are the counters' mean; what the packages used is their sum.": answer(
            read=lambda r: used(r) / len(r)
        ),
        "There are readings, and you return the model. What was measured comes first.": lambda t, m, s, r: (
            model_of(t, m, s),
            "modelled",
        ),
        "Counters count microjoules.": answer(read=lambda r: used(r, unit=1.0)),
        "There may be several packages, each with a counter of its own; you read the first alone.": answer(
            read=lambda r: used(r[:1])
        ),
        "What was measured is a pass over all tokens, and the task asks for one token.": answer(each=0),
        "What was modelled is a pass over all tokens, and the task asks for one token.": answer(
            model=lambda t, m, s: t * model_of(t, m, s)
        ),
        "You charge every token with reading all weights. A pass reads them once, for all its tokens.": answer(
            model=lambda t, m, s: model_of(t, m, s, share=False)
        ),
        "The model has two parts, and reading the weights is missing.": answer(
            model=lambda t, m, s: model_of(t, m, 0)
        ),
        "The model has two parts, and the arithmetic is missing.": answer(
            model=lambda t, m, s: model_of(t, 0, s)
        ),
        "MACs are counted a token: a pass over n tokens does n times as many.": answer(
            model=lambda t, m, s: energy.modelled(m, s).joules / t
        ),
    }
    judge(run, cases, answer(), mistakes, kind=joules_and_method)
    return Verdict(
        "Measured where there is a counter, modelled where there is none, and never one under the name of the other."
    )
