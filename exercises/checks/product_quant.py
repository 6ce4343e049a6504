"""Exercise 11: codewords that move, bytes with codebooks, codes decoded and trained, noise in blocks, a model of torch's coded."""

from copy import deepcopy
from functools import partial
from itertools import product
from math import nan
from random import Random

import torch
from torch import Tensor, nn

from exercises.checks import Task, seeded


def and_gradient(place: int):
    """What comes of a call, and the gradient that argument `place` gets from a random one of the result."""

    def play(run, *case) -> dict:
        leaf = case[place].requires_grad_()
        leaf.__deepcopy__ = lambda memo: leaf.clone()  # a copy from which gradients come back
        value = run(*case[:place], leaf, *case[place + 1 :])
        pull = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        found = torch.autograd.grad(value, leaf, pull, allow_unused=True) if value.requires_grad else [None]
        return {"values": value.detach(), "gradient": found[0]}

    return play


# Task 1


def squares(points, codebook):
    return (points[:, None] - codebook).square().sum(-1)  # (N, K)


def moved(points, codebook, far=squares, of=lambda own, all: own.mean(0), idle=lambda old: old):
    """A step of k-means; each keyword is a part that can be wrong."""
    codes, new = far(points, codebook).argmin(1), idle(codebook.clone())
    for k in codes.unique():
        new[k] = of(points[codes == k], points)
    return codes, new


def clusters(draw: Random) -> list[tuple]:
    """Codewords without points, more of them than points, more than a byte counts; a single one; a sum that is zero."""
    g, cases = seeded(draw), []
    sizes = (58, 7, 2, [0, 6]), (300, 1, 3, []), (3, 6, 5, []), (60, 300, 3, [13]), (1, 1, 1, [])
    for N, K, d, far in sizes:
        codebook = torch.randn(K, d, generator=g) + 0.5
        codebook[far] += 40
        points = 1.3 * torch.randn(3 * N + 20, d, generator=g) - 0.4
        two = squares(points, codebook).sort(1).values
        clear = (two[:, 1:2] - two[:, :1] > 1e-3).all(1)  # which is nearest does not hang on rounding
        cases.append((points[clear][:N], codebook))
    return [*cases, (torch.tensor([[1.0, 2], [-1, -2]]), torch.tensor([[0.5, 0.3], [9, 9]]))]


moves = partial(partial, moved)
lloyd = Task(
    inputs=clusters, right=moved, rtol=1e-4, passed="Codes by the old codebook, then means, and a codeword without points stays.",
    wrong={
        "You compare products of points and codewords. Then a long codeword wins over a nearer short one. "
        "Multiply |b - c|² out, and compare term by term.": (moves(far=lambda b, c: -b @ c.T), moves(far=lambda b, c: c.square().sum(1) - b @ c.T)),
        "Your codes belong to the *new* codebook. Each point is assigned first, under the codebook that was given; then the codewords move.":
            lambda b, c: (moved(b, moved(b, c)[1])[0], moved(b, c)[1]),
        "You add up a codeword's points, and it ends far from all of them. By what do you have to divide?":
            (moves(of=lambda own, all: own.sum(0)), moves(of=lambda own, all: own.sum(0) / len(all))),
        "Codewords without points become NaN, which is 0 / 0, or zero. They should stay where they are.": (moves(idle=lambda old: old * nan), moves(idle=torch.zeros_like)),
        "Your new codebook has fewer codewords. A codeword without points stays in the list: otherwise the numbers of those after it change.":
            lambda b, c: (moved(b, c)[0], moved(b, c)[1][moved(b, c)[0].unique()]),
    },
)  # fmt: skip

# Task 2

NAME, SIZE, KEY, BOOK = 0, 3, 4, 5  # (name, rows, columns, block, key, book)


def sized(
    weights, others, codewords, bits, codes_of=KEY, caps_of=KEY, book_of=BOOK, code=lambda K: 1, other=lambda bits: 2,
    words=lambda K, own: min(K, sum(own)), word=lambda block, bits: block * bits // 8, scale=lambda bits, words, own: 2 * (bits == 8),
):  # fmt: skip
    """Bytes of the others, of codes, and of codebooks with their scales."""
    total = others * other(bits)
    total += sum(w[1] * w[2] // w[SIZE] * code(codewords) for w in {w[codes_of]: w for w in weights}.values())
    blocks: dict = {}
    for w in {w[caps_of]: w for w in weights}.values():
        blocks.setdefault((w[book_of], w[SIZE]), []).append(w[1] * w[2] // w[SIZE])
    for (_, block), own in blocks.items():
        total += words(codewords, own) * word(block, bits) + scale(bits, words(codewords, own), own)
    return total


def file(draw: Random, shared: bool, bits: int, few: bool) -> tuple:
    """Weights, one of them under two names, and two of one shape; where there are `few` blocks, codebooks are not full."""
    codewords, sizes, weights = 256 if shared else draw.randrange(60, 120), draw.sample((3, 4, 5, 8), 2), []
    for i in range(6):
        across, block = draw.randrange(3, 6), sizes[i % 2]
        rows = int(codewords * draw.uniform(*((0.3, 0.8) if few else (2, 5))) / across)
        names = f"tensor {i}", f"book {i % (6 - 4 * shared)}"
        weights.append((f"layers.{i}", rows, across * block, block, *names))
    weights += [("head", *weights[0][1:]), ("twin", *weights[1][1:4], "tensor 7", weights[1][BOOK])]
    return draw.sample(weights, 8), draw.randrange(300, 5000), codewords, bits


sizes = partial(partial, sized)
pq_bytes = Task(
    inputs=lambda draw: [file(draw, *how) for how in product((True, False), (16, 8), (False, True))], right=sized,
    passed="To the byte: each tensor once, each codebook once, and no more codewords than blocks.",
    wrong={
        "A weight under two names is in the file once, and so are its codes and its blocks. You count by name: which entry says what is one tensor?":
            (sizes(codes_of=NAME, caps_of=NAME), sizes(codes_of=NAME), sizes(caps_of=NAME)),
        "You give each weight, or each name, a codebook of its own. Some of them share one: which entry says so?":
            (sizes(book_of=KEY), sizes(codes_of=NAME, caps_of=NAME, book_of=NAME), sizes(caps_of=NAME, book_of=NAME)),
        "The codebooks are missing. In a small model they are a large part of the file.":
            (sizes(word=lambda *_: 0, scale=lambda *_: 0), sizes(word=lambda *_: 0, scale=lambda *_: 0, other=lambda *_: 0)),
        "How many codewords does a codebook with few blocks need? Count the blocks of all the weights that share it.":
            (sizes(words=lambda K, own: K), sizes(words=lambda K, own: min(K, own[-1])), sizes(words=lambda K, own: sum(min(K, n) for n in own))),
        "Your codewords have another size: each has `block` numbers, of `bits` bits.":
            (sizes(word=lambda block, bits: 4 * block), sizes(word=lambda block, bits: 2 * block), sizes(word=lambda block, bits: bits // 8)),
        "The scales are missing or too many. A codebook has one, of 16 bits, and only with `bits=8`: not one per codeword, not one per weight.":
            (sizes(scale=lambda *_: 0), sizes(scale=lambda *_: 2), sizes(scale=lambda bits, words, own: 4 * (bits == 8)),
             sizes(scale=lambda bits, words, own: 2 * words * (bits == 8)), sizes(scale=lambda bits, words, own: 2 * len(own) * (bits == 8))),
        "What is stored beside the coded weights is missing, or is not in fp16. `bits` is only for codebooks.":
            (sizes(other=lambda bits: 0), sizes(other=lambda bits: 4), sizes(other=lambda bits: bits // 8)),
    },
)  # fmt: skip

# Task 3


def decoded(codes, codebook, rows, wraps=False, crossed=False, all_for_none=False):
    codes = codes if rows is None or (all_for_none and not len(rows)) else codes[rows]
    first = (codes if wraps else codes.long()) * codebook.shape[1]
    parts = codebook.flatten()[first[..., None] + torch.arange(codebook.shape[1])]  # (R, B, d)
    return (parts.mT if crossed else parts).flatten(1)


def decodings(draw: Random) -> list[tuple]:
    """All rows; some, in any order and one twice; row 0 alone; none. One codebook has more numbers than int16 counts."""
    g, cases = seeded(draw), []
    for K, d, R, B in ((200, 3, 11, 7), (256, 8, 23, 5), (16, 4, 6, 9), (256, 150, 5, 3)):
        codes, codebook = torch.randint(K, (R, B), generator=g).byte(), torch.randn(K, d, generator=g)
        codes[draw.randrange(2, R), draw.randrange(B)] = K - 1
        some = draw.sample(range(R), R // 2)
        for rows in ([*range(R)], [*some, some[0], R - 1, 0], [0], []):
            cases.append((codes, codebook, None if len(rows) == R else torch.tensor(rows, dtype=torch.long)))
    return cases


with_faults = partial(partial, decoded)
decode = Task(
    inputs=decodings, right=decoded, play=and_gradient(1), rtol=1e-4,
    passed="The rows that were asked for, with codes of any size, and the gradient reaches the codewords.",
    wrong={
        "Products of codes wrap: 200 times 8 is 64 in uint8, so large codes take numbers from another place of the codebook. "
        "What type does the arithmetic need?": with_faults(wraps=True),
        "Each row has the right numbers, in the wrong order: the first of each block, then the second of each. "
        "Which axis has to be last before you join a row?": with_faults(crossed=True),
        "For an empty `rows` you return all rows. No row is asked for: which test tells None from an empty tensor?": with_faults(all_for_none=True),
        "More than one fault of the given code is left. Take a codebook of 2 codewords of 3 numbers and codes of one row, and write down what "
        "should come back.": tuple(with_faults(wraps=a, crossed=b, all_for_none=c) for a, b, c in product((True, False), repeat=3) if a + b + c > 1),
        "The rows are right, and no gradient comes back to the codebook. Codewords are trained: which of your steps cuts them off?":
            lambda codes, codebook, rows: decoded(codes, codebook.detach(), rows),
    },
)  # fmt: skip

# Task 4


def stepped(codebook, codes, gradient, rate, adds_up=True, over=lambda n, *_: n.clamp(min=1)):
    codes, parts = codes.flatten().long(), gradient.reshape(-1, codebook.shape[1])
    total = torch.zeros_like(codebook).index_put((codes,), parts, accumulate=adds_up)
    counts = torch.bincount(codes, minlength=len(codebook))[:, None]
    return codebook - rate * total / over(counts, codes, codebook)


def pulls(draw: Random) -> list[tuple]:
    """Codes of very unequal frequency: one codeword has hundreds of blocks, a third of them have none."""
    g, cases = seeded(draw), []
    for K, d, R, B in ((12, 8, 7, 5), (9, 3, 47, 13), (200, 4, 31, 9)):
        used = draw.sample(range(K - 1), 2 * K // 3)
        codes = torch.tensor(draw.choices(used, [(1 + i) ** -1.5 for i in range(len(used))], k=R * B))
        codebook, gradient = torch.randn(K, d, generator=g), 0.7 * torch.randn(R, B * d, generator=g) + 0.4
        cases.append((codebook, codes.to(torch.uint8).view(R, B), gradient, draw.choice((0.3, 0.7))))
    return cases


steps, each, at_most_1 = partial(partial, stepped), lambda n, *_: n, lambda n, *_: n.clamp(max=1)
train_codewords = Task(
    inputs=pulls, right=stepped, rtol=1e-4,
    passed="Each codeword moves by the mean of its gradients, with 1 block or with hundreds, and one without blocks stays where it is.",
    wrong={
        "A codeword moves by the gradient of *one* of its blocks, and the others do not count. With repeated numbers in the brackets, what does "
        "x[i] += y add up?": (steps(adds_up=False), *(steps(adds_up=False, over=over) for over in (each, at_most_1, lambda *_: 1))),
        "Each codeword moves by the *sum* of its gradients: the more blocks, the further. By what do you divide, and does it grow with "
        "their number?": (steps(over=at_most_1), steps(over=lambda *_: 1)),
        "Codewords with blocks are right. Those without become NaN: that is 0 / 0. They should stay where they are.": steps(over=each),
        "You divide by a wrong number, such as that of all blocks, of codewords or of weights. How many blocks does the codeword have?":
            (steps(over=lambda n, codes, book: len(codes)), steps(over=lambda n, codes, book: len(book)),
             steps(over=lambda n, codes, book: n.clamp(min=1) * book.shape[1])),
        "You return the step, or the mean gradient. The task asks for the codebook after the step.":
            (lambda book, *rest: book - stepped(book, *rest), lambda book, *rest: stepped(book, *rest) - book,
             lambda book, codes, gradient, rate: book - stepped(book, codes, gradient, 1)),
    },
)  # fmt: skip

# Task 5


def noised(
    w, block, p, training, coins, chosen=torch.lt, wide=lambda mask, block: mask.repeat_interleave(block, 1),
    back=lambda w, noisy: w + (noisy - w).detach(), in_eval=lambda w, p: w,
):  # fmt: skip
    return back(w, w.masked_fill(wide(chosen(coins, p), block), 0)) if training else in_eval(w, p)


def noises(draw: Random) -> list[tuple]:
    """In training and not, with p of 0, a single row, and a coin that is exactly p."""
    g, cases = seeded(draw), []
    shares = (0.375, 0.75, 0.0, 0.5, 0.5, 0.875)
    sizes = zip((7, 6, 4, 1, 6, 4), (5, 4, 3, 6, 5, 3), (3, 5, 3, 1, 3, 7), shares, strict=True)
    for R, B, block, p in sizes:
        coins = 0.01 + 0.98 * torch.rand(R, B, generator=g)
        coins.view(-1)[draw.sample(range(R * B), 3)] = torch.tensor([p, p / 2, (1 + p) / 2])
        cases.append((torch.randn(R, B * block, generator=g) + 0.5, block, p, len(cases) < 4, coins))
    return cases


noisy, masked = partial(partial, noised), lambda w, noisy: noisy
block_noise = Task(
    inputs=noises, right=noised, play=and_gradient(0), rtol=1e-5,
    passed="Zeros in the forward pass, the whole gradient in the backward pass, and w itself untouched.",
    wrong={
        "You replace the blocks that should stay, or compare with 1 - p. p is the probability that a block is replaced.":
            (noisy(chosen=torch.ge), noisy(chosen=torch.gt), noisy(chosen=lambda coins, p: coins < 1 - p), noisy(chosen=lambda coins, p: coins > 1 - p)),
        "A coin that is exactly p replaces a block. Compare again: with p = 0 a coin of 0 is possible.": noisy(chosen=torch.le),
        "Your mask repeats the row of coins as a whole. The weights of a block are neighbours, and have one coin.": noisy(wide=lambda mask, block: mask.repeat(1, block)),
        "You rescale what stays, as dropout does. Quant-Noise rescales nothing, because coded weights are not larger either.":
            (lambda *case: noised(*case) / (1 - case[2] * case[3]), lambda *case: noised(*case) * (1 - case[2] * case[3]),
             lambda *case: noised(*case, back=masked) / (1 - case[2] * case[3])),
        "The values are right. In replaced blocks the gradient is zero: the mask multiplies it as well. It should pass as if nothing had "
        "been replaced.": noisy(back=masked),
        "The values are right, and no gradient comes back to w. What cuts it off?":
            (noisy(back=lambda w, noisy: noisy.detach()), lambda *case: noised(*case).detach()),
        "Noise belongs to training, and only there: with training=False, `w` should come back as it is.":
            (lambda w, block, p, training, coins: noised(w, block, p, True, coins), noisy(in_eval=lambda w, p: w * (1 - p)),
             lambda w, block, p, training, coins: noised(w, block, p, not training, coins)),
    },
)  # fmt: skip

# Task 6


def clustered(points):
    """At most 6 codewords, spread over the sorted points, and codes."""
    some = points.detach().unique(dim=0)
    book = 0.9 * some[torch.linspace(0, len(some) - 1, min(6, len(some))).long()]
    return book, squares(points.detach(), book).argmin(1)


def theirs(draw: Random) -> list[tuple]:
    """Ties, own kinds, rows that no block divides, attention over keys of another size, frozen weights."""
    block = draw.choice((3, 4, 5))
    dim, vocab = 2 * block * draw.randrange(2, 4), block * draw.randrange(4, 7) + 1
    Words, Look = (type("Own", (kind,), {}) for kind in (nn.Embedding, nn.MultiheadAttention))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.randrange(2**31))
        own = {"tok": nn.Embedding(vocab, dim), "head": nn.Linear(dim, vocab), "norm": nn.LayerNorm(dim)}
        own |= {"kind": Words(5, dim), "narrow": nn.Linear(dim + 1, block), "look": Look(dim, 2)}
        own["read"] = nn.MultiheadAttention(dim, 2, kdim=2 * block, vdim=3 * block).requires_grad_(False)
        layer = nn.TransformerEncoderLayer(dim, 2, block * draw.randrange(5, 8))
        reader, encoder = nn.ModuleDict(own), nn.Sequential(nn.Embedding(vocab, dim), layer)
        reader["head"].weight = reader["tok"].weight
        return [(encoder.eval(), block), (reader, block), (nn.Linear(dim, 7), block)]


def copied(run, model: nn.Module, block: int) -> dict:
    """What can be compared of a copy."""
    calls: list[tuple] = []
    mine, first = run(model, block, lambda points: calls.append(clustered(points)) or calls[-1]), {}
    users = [first.setdefault(id(p), name) for name, p in mine.named_parameters(remove_duplicate=False)]
    modes = [f"{type(m).__name__}, {'train' if m.training else 'eval'} mode" for m in mine.modules()]
    return {"weights": mine.state_dict(), "tied": users, "modules": modes, "calls of cluster": len(calls)}


KINDS = {nn.Linear: "weight", nn.Embedding: "weight", nn.MultiheadAttention: "in_proj_weight"}


def to_code(model, skipped=(), exact=()):
    """The weights that are coded, one a user."""
    for module, (kind, name) in product(model.modules(), KINDS.items()):
        if isinstance(module, kind) and kind not in skipped and (type(module) is kind or kind not in exact):
            yield from [getattr(module, name)] if getattr(module, name) is not None else []


def coded(w, block, cluster):
    codebook, codes = cluster(w.reshape(-1, block))
    return codebook[codes].view_as(w)


def recoded(model, block, cluster, found=to_code, once=dict.fromkeys, code=coded, row=lambda w: w.shape[1]):
    model = deepcopy(model)
    for w in [w for w in once(found(model)) if row(w) % block == 0]:
        with torch.no_grad():
            w.copy_(code(w, block, cluster))
    return model


recodes, finds = partial(partial, recoded), partial(partial, to_code)
coded_copy = Task(
    inputs=theirs, right=recoded, play=copied,
    passed="In three models, tied weights are coded once, the Parameter of attention is coded, and everything else is as it was.",
    wrong={
        "The `in_proj_weight` of nn.MultiheadAttention is as it was. It belongs to no nn.Linear. Where in a loop over modules do you find it?":
            recodes(found=finds(skipped=[nn.MultiheadAttention])),
        "The weights of nn.Embedding are as they were. They take as much room as any.": recodes(found=finds(skipped=[nn.Embedding])),
        "Modules of a subclass are as they were. The `out_proj` of attention is of a subclass of nn.Linear. How do you ask for a type and its subclasses?":
            tuple(recodes(found=finds(exact=exact)) for exact in (KINDS, [nn.Linear, nn.Embedding], *([kind] for kind in KINDS))),
        "A weight with two users is one weight: it is clustered once, and stays one Parameter in the copy. How do you know that you have seen it?":
            recodes(once=list),
        "Blocks are cut along the columns. A block is a piece of a row, which is what an input is multiplied with.": recodes(code=lambda w, *rest: coded(w.T, *rest).T),
        "You changed a weight whose rows cannot be cut into whole blocks. Look at the length of a row, not at the number of all weights.": recodes(row=Tensor.numel),
        "You code every matrix. What the task does not name stays as it is.": recodes(found=lambda model: [p for p in model.parameters() if p.ndim == 2]),
    },
)  # fmt: skip
