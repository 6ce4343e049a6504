"""Task 3 of exercise 10: models as lists of weights, and what is miscounted in the bytes of their files."""

from collections.abc import Callable
from itertools import groupby
from random import Random

from exercises.graders import Case

Weights = list[tuple]


def model(draw: Random, bits: int) -> Case:
    """Weights of odd sizes; one is tied four times, in neighbours and far apart; different ones share a name or a shape."""
    shapes = [(draw.randrange(20, 90), 8 * draw.randrange(2, 9) + draw.randrange(1, 8)) for _ in range(4)]
    keys = draw.sample(range(6), 6)  # in all models the same ones: a key means nothing beyond its list
    (R, C), others = draw.choice(shapes), draw.randrange(101, 999)
    weights = [(draw.choice(("q", "k", "up")), *shape, key) for shape, key in zip(shapes, keys, strict=False)]
    tied = (R + 1, C + 2, keys[5])
    weights = [("tok", *tied), *weights, *((name, *tied) for name in ("head", "out"))]
    weights += [("q", R, C, keys[4]), ("tags", *tied)]
    return Case((weights, others, bits), f"bits={bits}, others={others}, {len(weights)} weights")


def models(draw: Random) -> list[Case]:
    """Small ones first, which a message can describe: a row that fills its last byte, one that does not, a tied weight, none."""
    others, keys, R = draw.randrange(11, 99), draw.sample(range(3), 3), draw.choice((5, 7, 9))
    C, full, wide = R + 2, 8 * draw.randrange(2, 5), 2 * R + 5
    return [
        Case(([("a", R, C, keys[0])], 0, 4), f"bits=4, others=0, a weight of {R} x {C}"),
        Case(([("b", R, full, keys[1])], 0, 1), f"bits=1, others=0, a weight of {R} x {full}"),
        Case(([("c", R, wide, keys[2]), ("d", R, wide, keys[2])], 0, 8), f"bits=8, others=0, a weight of {R} x {wide}, tied"),
        Case(([], others, 4), f"bits=4, others={others}, no weights"),
        *(model(draw, bits) for bits in (8, 4, 1)),
    ]  # fmt: skip


def once(weights: Weights, by: Callable = lambda w: w[3]) -> Weights:
    return list({by(w): w for w in reversed(weights)}.values())


def bits_up(n: int) -> int:
    return -(-n // 8)


def counted(
    codes: Callable = lambda R, C, bits: R * bits_up(C * bits),
    scales: Callable = lambda R, C, bits: 2 * R,
    rest: Callable = lambda others, bits: 2 * others,
    which: Callable = once,
    total: Callable = lambda size: size,
) -> Callable:
    """The bytes of a model, with parts that can be wrong."""

    def size(weights: Weights, others: int, bits: int) -> float:
        matrices = sum(codes(R, C, bits) + scales(R, C, bits) for _, R, C, _ in which(weights))
        return total(matrices + rest(others, bits))

    return size


def in_one_piece(weights: Weights, others: int, bits: int) -> int:
    """All codes of all weights in one stream."""
    codes = bits_up(sum(R * C * bits for _, R, C, _ in once(weights)))
    return codes + sum(2 * R for _, R, *_ in once(weights)) + 2 * others


def a_32nd(weights: Weights, others: int, bits: int) -> float:
    """Everything in fp32, over 32 / bits."""
    return (sum(R * C for _, R, C, _ in once(weights)) + others) * 4 * bits // 32


def none(*_: int) -> int:
    return 0


right = counted()
SIZE_MISTAKES = {
    "The scales are missing: each row has one, or its codes could not be turned back into weights.": counted(scales=none),
    "With 1 bit you store no scale. A sign alone says nothing about the size: what is a binary weight multiplied by?": counted(
        scales=lambda R, C, bits: 2 * R * (bits > 1)
    ),
    "You count four bytes a row beside its codes. A scale has 16 bits, and there is no zero point.": counted(scales=lambda R, C, bits: 4 * R),
    "You count three bytes a row beside its codes. A scale in fp16 takes two, and there is no zero point.": counted(scales=lambda R, C, bits: 3 * R),
    "You store a scale for each column. Who shares a scale here?": counted(scales=lambda R, C, bits: 2 * C),
    "You store one scale for a weight. Here each row has its own.": counted(scales=lambda R, C, bits: 2),
    "What is not in `weights` is missing: biases, norms and positions are in the file, too.": counted(rest=none),
    "You count the other numbers with 32 bits. The task stores them in 16.": counted(rest=lambda others, bits: 4 * others),
    "You count the other numbers with `bits` bits. Only the weights have codes.": counted(rest=lambda others, bits: bits_up(others * bits)),
    "You count one byte for each of the other numbers. How many bytes are 16 bits?": counted(rest=lambda others, bits: others),
    "You count a tied weight each time that it is listed. What do entries with the same key have in common?": counted(which=lambda weights: weights),
    "You leave a tied weight out only where it follows its twin directly. The list is in no such order.": counted(
        which=lambda weights: [next(group) for _, group in groupby(weights, lambda w: w[3])]
    ),
    "A tied weight is not counted at all: it is stored once, not never.": counted(
        which=lambda weights: [w for w in weights if [v[3] for v in weights].count(w[3]) == 1]
    ),
    "You take weights of the same name for the same tensor. A name is used in many layers.": counted(which=lambda weights: once(weights, lambda w: w[0])),
    "You take weights of the same shape for the same tensor. Which entry says that two are one?": counted(which=lambda weights: once(weights, lambda w: w[1:3])),
    "You fill up the last byte of a weight, and not that of each row. Where does the next row start?": counted(codes=lambda R, C, bits: bits_up(R * C * bits)),
    "You pack the codes of all weights into one stream. Where does the next row start?": in_one_piece,
    "A row that does not fill its last byte loses it in your count: you round down.": counted(codes=lambda R, C, bits: R * (C * bits // 8)),
    "You add a byte to each row, also where its codes fill whole bytes.": counted(codes=lambda R, C, bits: R * (C * bits // 8 + 1)),
    "You count fractions of bytes. A row starts on a new byte.": counted(codes=lambda R, C, bits: R * C * bits / 8, total=round),
    "You pack along the columns: it is a row that starts on a new byte.": counted(codes=lambda R, C, bits: C * bits_up(R * bits)),
    "You store each code in a byte of its own, whatever `bits` is.": counted(codes=lambda R, C, bits: R * C),
    "You put `bits` codes into a byte. How many codes of 4 bits fit into one, and how many of 1 bit?": counted(codes=lambda R, C, bits: R * -(-C // bits)),
    "Your answer is in bits. Eight of them are a byte.": counted(codes=lambda R, C, bits: 8 * R * bits_up(C * bits), scales=lambda R, C, bits: 16 * R, rest=lambda others, bits: 16 * others),
    "You divide the size in fp32 by 32 / bits. That counts no scales, and gives codes to what has none.": a_32nd,
    "The codes are missing: you count scales and other numbers alone.": counted(codes=none),
}  # fmt: skip
