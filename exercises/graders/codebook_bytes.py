"""Task 2 of exercise 11: weights with codes and codebooks, and the misconceptions about their bytes."""

from collections.abc import Callable
from functools import partial
from itertools import combinations, product
from math import ceil, log2
from random import Random

from exercises.graders import Case

Weight = tuple  # (name, rows, columns, block, key, book)


def name_of(weight: Weight) -> str:
    return weight[0]


def key_of(weight: Weight) -> str:
    return weight[4]


def shape_of(weight: Weight) -> tuple:
    return weight[1:4]


def book_of(weight: Weight) -> str:
    return weight[5]


def together(sizes: list[int], codewords: int) -> int:
    return min(codewords, sum(sizes))


def counted(
    weights: list[Weight],
    others: int,
    codewords: int,
    bits: int,
    *,
    codes_once: Callable = key_of,
    caps_once: Callable = key_of,
    books_by: Callable = book_of,
    a_code: Callable = lambda K: 1,
    a_block: Callable = lambda block: block,
    words: Callable = together,
    wide: Callable = lambda block: block,
    number: Callable = lambda bits: bits / 8,
    scales: Callable = lambda bits, K, n: 2 * (bits == 8),
    other: Callable = lambda bits: 2,
    times: float = 1,
) -> float:
    """Bytes of codes, codebooks and the rest, each of which can be counted wrongly."""
    once = {codes_once(w): w for w in weights}.values()
    codes = sum(rows * columns // a_block(block) * a_code(codewords) for _, rows, columns, block, *_ in once)
    sizes: dict[str, list[int]] = {}
    for w in {caps_once(w): w for w in weights}.values():
        sizes.setdefault(books_by(w), []).append(w[1] * w[2] // w[3])
    blocks = {books_by(w): w[3] for w in weights}
    books = 0
    for book, own in sizes.items():
        K = words(own, codewords)
        books += K * wide(blocks[book]) * number(bits) + scales(bits, K, len(own))
    return times * (codes + books + others * other(bits))


def none(*_) -> int:
    return 0


TIED = "A weight under two names is in the file once, and so are its codes. You count it for each name."
SINGLE: dict[str, dict] = {
    "The codebooks are missing.": {"number": none, "scales": none},
    TIED: {"codes_once": name_of, "caps_once": name_of},
    "You limit a codebook by the blocks of both names of a weight. They are the same blocks.": {"caps_once": name_of},
    "You count the codes of a weight under two names twice, and limit the codebooks well.": {"codes_once": name_of},
    "Two weights of one shape are not one tensor. `key` says which are.": {"codes_once": shape_of, "caps_once": shape_of},
    "You give each weight a codebook of its own. Some of them name the same `book`.": {"books_by": key_of},
    "You give each name a codebook of its own. Those with the same `book` share one.": {
        "books_by": name_of, "caps_once": name_of,
    },
    "You give each name codes and a codebook of its own. `key` and `book` say what names have in common.": {
        "codes_once": name_of, "books_by": name_of, "caps_once": name_of,
    },
    "You give all weights with blocks of one size one codebook. `book` says which weights share one.": {"books_by": lambda w: w[3]},
    "You store codewords with 32 bits a number. `bits` says how many they have.": {"number": lambda bits: 4},
    "You store codewords with 16 bits a number, whatever `bits` is.": {"number": lambda bits: 2},
    "You store codewords with 8 bits a number, whatever `bits` is.": {"number": lambda bits: 1},
    "Every codebook of yours has `codewords` codewords. Where there are fewer blocks, what would the others stand for?": {
        "words": lambda own, K: K,
    },
    "You limit a shared codebook by the blocks of one weight. How many have all that use it?": {"words": lambda own, K: min(K, own[-1])},
    "You add up what each weight of a shared codebook would need alone.": {"words": lambda own, K: sum(min(K, n) for n in own)},
    "The scales are missing. A codebook with 8 bits has one.": {"scales": none},
    "You give a codebook with 16 bits a scale. Its numbers are as they are.": {"scales": lambda bits, K, n: 2},
    "A scale has 16 bits, and you count 32.": {"scales": lambda bits, K, n: 4 * (bits == 8)},
    "You count a scale for each codeword. There is one for the codebook.": {"scales": lambda bits, K, n: 2 * K * (bits == 8)},
    "You count a scale for each weight. There is one for the codebook.": {"scales": lambda bits, K, n: 2 * n * (bits == 8)},
    "A codeword is one number in your count. How many numbers does it stand for?": {"wide": lambda block: 1},
    "What is stored beside the coded weights is missing.": {"other": none},
    "You store the others with 32 bits.": {"other": lambda bits: 4},
    "You store the others with `bits` bits. That is for codebooks alone.": {"other": lambda bits: bits / 8},
    "You count a code with the bits it would need, and not with the byte it has.": {"a_code": lambda K: log2(K) / 8},
    "You count a code with the bits it would need, rounded up. It has a byte.": {"a_code": lambda K: ceil(log2(K)) / 8},
    "You count two bytes a code.": {"a_code": lambda K: 2},
    "Where there are 256 codewords you count two bytes a code. The last of them has the number 255.": {"a_code": lambda K: 1 + (K > 255)},
    "You count a code for each number. One stands for a whole block.": {"a_block": lambda block: 1},
    "You return bits.": {"times": 8},
    "You return the codes alone. That is the ratio of 32 d / 8, which leaves codebooks and all the rest out.": {
        "number": none, "scales": none, "other": none,
    },
}  # fmt: skip


def small(text: str) -> str:
    return text[0].lower() + text[1:]


def mistakes() -> dict[str, Callable]:
    """Those above, and any two of them that concern different things."""
    found = {message: partial(counted, **how) for message, how in SINGLE.items()}
    for (one, first), (other, second) in combinations(SINGLE.items(), 2):
        if not first.keys() & second.keys():
            both = f"Two things are not right. One: {small(one)} The other: {small(other)}"
            found[both] = partial(counted, **first, **second)
    found[
        "You divide the bytes in fp32 by a ratio. It leaves the codebooks out, and not everything is coded: count what is stored."
    ] = ratio_only
    return found


def ratio_only(weights: list[Weight], others: int, codewords: int, bits: int) -> float:
    """All numbers in fp32, divided by what a block of the first size saves."""
    once = {key_of(w): w for w in weights}.values()
    return (4 * sum(w[1] * w[2] for w in once) + 4 * others) / (4 * weights[0][3])


def described(draw: Random) -> list[Case]:
    """Models whose bytes differ for every mistake: drawn anew until they do."""
    wrong = [*(partial(counted, **how) for how in SINGLE.values()), ratio_only]

    def apart(cases: list[Case]) -> bool:
        answers = {tuple(f(*case.arguments) for case in cases) for f in (counted, *wrong)}
        return len(answers) == 1 + len(wrong)

    return next(filter(apart, (cases_of(draw) for _ in range(1000))))


def cases_of(draw: Random) -> list[Case]:
    """Each with a weight under two names: codebooks shared or not, in both precisions, with many blocks and with few."""
    return [
        case_of(draw, shared, bits, few)
        for shared, bits, few in product((True, False), (16, 8), (False, True))
    ]


def case_of(draw: Random, shared: bool, bits: int, few: bool) -> Case:
    codewords = 256 if shared and not few else draw.choice((50, 100, 150, 200, 250))
    sizes = draw.sample((3, 4, 5, 6, 8), 2)
    weights = []
    for i in range(draw.randrange(5, 8)):
        block = sizes[i % 2]
        across = draw.randrange(3, 7)
        most = codewords // 5 if few else 5 * codewords
        rows = draw.randrange(max(1, most // (2 * across)), max(3, most // across) + 1)
        book = f"book of {block}" if shared else f"book {i}"
        weights.append((f"layers.{i}", rows, across * block, block, f"tensor {i}", book))
    across, block = (
        draw.randrange(3, 6),
        sizes[0],
    )  # tied: too few blocks for all codewords, unless counted twice
    rows = 3 * codewords // (4 * across) if few and not shared else draw.randrange(4, 9)
    book = f"book of {block}" if shared else "book of the tokens"
    for name in ("tok", "head"):
        weights.append((name, rows, across * block, block, "tensor of the tokens", book))
    draw.shuffle(weights)
    label = f"{len(weights)} weights, {'shared codebooks' if shared else 'a codebook a weight'}, codewords={codewords}, bits={bits}"
    return Case((weights, draw.randrange(301, 5000), codewords, bits), label)
