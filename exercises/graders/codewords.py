"""Tasks 3 and 4 of exercise 11: codes and gradients, and the misconceptions about codewords."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from exercises.graders import Case, NotYet
from exercises.graders.clusters import close, explained, idle_complaint, randn, tensor
from exercises.graders.judge import answer
from exercises.graders.kinds import kind_of
from exercises.graders.stacks import leaf_of


def as_mask(refusal: NotYet, say: str) -> NotYet:
    """The refusal of code that indexes with bytes, which torch takes for a mask, in words of ours; else as it is."""
    text = str(refusal)
    if "shape of the mask" in text or "uint8 is now deprecated" in text or "dtype torch.uint8" in text:
        return NotYet(
            f"Torch takes a tensor of uint8 in square brackets for a mask of yes and no, not for numbers of rows. {say}"
        )
    return refusal


BYTES = "Codes are stored as bytes. Which type do you need for a place in a table?"


# Task 3


@dataclass(frozen=True)
class Coded:
    """One call of Task 3."""

    codes: Tensor
    codebook: Tensor
    rows: Tensor | None
    seed: int

    @property
    def label(self) -> str:
        rows = None if self.rows is None else self.rows.tolist()
        return f"codes {tuple(self.codes.shape)}, codebook {tuple(self.codebook.shape)}, rows: {rows}"

    @property
    def chosen(self) -> Tensor:
        return torch.arange(len(self.codes)) if self.rows is None else self.rows

    def play(self, run: Callable) -> tuple[Tensor, Tensor, Tensor]:
        """What came back, in double precision, as it is, and the leaf of the codebook."""
        with torch.enable_grad():
            leaf = leaf_of(self.codebook)
            try:
                value, read = answer(
                    run,
                    Case((self.codes, leaf, self.rows), self.label),
                    lambda value: (value, self.read(value)),
                )
            except NotYet as refusal:
                raise as_mask(refusal, BYTES) from refusal.__cause__
        return read, value, leaf

    def read(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise NotYet(
                f"Your function returns {kind_of(value)}, and the task asks for a tensor of weight rows."
            )
        wide, R = self.codebook.shape[1] * self.codes.shape[1], len(self.codes)
        if tuple(value.shape) == (R, wide) and self.rows is not None and not len(self.rows):
            return value.detach().double()  # a fault of its own, see below
        return tensor(value, (len(self.chosen), wide), "the weight rows")


def decodings(draw: Random) -> list[Coded]:
    """Codebooks of 256, 200 and 16 codewords, one with more numbers than int16 counts; all rows, some of them twice and in any order, row 0 alone, and none."""
    cases = []
    for K, d, R, B in ((256, 8, 23, 5), (200, 3, 11, 7), (16, 4, 6, 9), (131, 4, 19, 3), (256, 150, 5, 3)):
        codes = torch.tensor([draw.randrange(K) for _ in range(R * B)]).view(R, B)
        codes[draw.randrange(2, R), draw.randrange(B)] = K - 1
        some = draw.sample(range(R), R // 2)
        book = randn(draw, K, d) + 0.3
        for rows in (None, [*some, some[0], R - 1, 0], [0], []):
            rows = None if rows is None else torch.tensor(rows, dtype=torch.long)
            cases.append(Coded(codes.to(torch.uint8), book, rows, draw.randrange(2**31)))
    return cases


def decoded(case: Coded, wraps=0, crossed: str = "", all_if_none=False, rows=None) -> Tensor:
    """The weight rows, with faults."""
    d, (R, B) = case.codebook.shape[1], case.codes.shape
    first, places = case.codes.long()[..., None] * d, torch.arange(d)
    found = (first + places, first % 256 + places, (first + places) % 256)[
        wraps
    ]  # no further than the codebook
    parts = case.codebook.double().flatten()[found]
    if crossed == "numbers":
        parts = parts.transpose(1, 2)
    elif crossed == "rows":
        parts = parts.transpose(0, 1).reshape(R, B, d)
    elif crossed == "signed":
        signed = (case.codes.long() + 128) % 256 - 128
        parts = case.codebook.double()[signed.clamp(min=-len(case.codebook))]
    elif crossed == "outputs":  # B groups of R rows, each of d numbers, side by side
        parts = parts.permute(2, 0, 1).reshape(R, B, d)
    chosen = case.chosen if rows is None else rows(case)
    if all_if_none and not len(chosen):
        chosen = torch.arange(R)
    return parts.flatten(1)[chosen]


WRAPS = (
    "Products of codes wrap: 200 times 8 is 64 in uint8, so blocks with large codes come from another place of the codebook. What type "
    "does the arithmetic need?"
)
CROSSED = (
    "The right numbers are in each row, in the wrong order: the first number of each block, then the second of each. A block's numbers are "
    "neighbours. Which axis comes last before the rows are put together?"
)
EMPTY = "For an empty `rows` you return all rows. No row is asked for: which test tells None from an empty tensor?"
FAULTS = {"wraps": WRAPS, "crossed": CROSSED, "all_if_none": EMPTY}


def left(*faults: str) -> tuple[Callable, ...]:
    """`decoded` with these faults of the given code left; the wrap in both of its forms."""
    rest = {"crossed": "numbers" if "crossed" in faults else "", "all_if_none": "all_if_none" in faults}
    return tuple(partial(decoded, wraps=w, **rest) for w in ((1, 2) if "wraps" in faults else (0,)))


DECODE_MISTAKES: dict[str, Callable | tuple] = {
    **{FAULTS[fault]: left(fault) for fault in FAULTS},
    "Two of the faults are left. One of them shows with large codes, the other with an empty `rows`.": left("wraps", "all_if_none"),
    "Two of the faults are left. One of them shows with large codes, the other in the order within a row.": left("wraps", "crossed"),
    "Two of the faults are left. One of them shows in the order within a row, the other with an empty `rows`.": left("crossed", "all_if_none"),
    "All faults of the given code are left. Take a codebook of 2 codewords of 3 numbers first, and codes of one row, and write down what "
    "should come back.": left(*FAULTS),
    "Rows and blocks are exchanged: your first row begins with the first block of each row.": partial(decoded, crossed="rows"),
    "You put blocks together from codewords cut across: the axis of the numbers stands first.": partial(decoded, crossed="outputs"),
    "Codes above 127 are read as negative numbers. uint8 has no sign; int8 has one.": partial(decoded, crossed="signed"),
    "You sort `rows`. They come back in the order, and as often, as they are asked for.": partial(decoded, rows=lambda c: c.chosen.sort().values),
}  # fmt: skip


def decode_complaint(cases: list[Coded], got: list[tuple[Tensor, Tensor, Tensor]]) -> str:
    """What is wrong with the rows and with their gradients; empty if nothing is."""
    found = [mine for mine, _, _ in got]
    if not all(close(mine, decoded(case)) for mine, case in zip(found, cases, strict=True)):
        message = explained(found, cases, DECODE_MISTAKES, lambda mine, wrong, case: close(mine, wrong))
        case = next(case for case, mine in zip(cases, found, strict=True) if not close(mine, decoded(case)))
        return (
            message
            or f"For {case.label}: not all numbers are those of the codewords. Take one row and one block, by hand."
        )
    return next(filter(None, map(gradient_fault, cases, got)), "")


def gradient_fault(case: Coded, got: tuple[Tensor, Tensor, Tensor]) -> str:
    mine, value, leaf = got
    if not mine.numel():
        return ""
    pull = torch.randn(value.shape, generator=torch.Generator().manual_seed(case.seed)).to(value)
    found = torch.autograd.grad(value, leaf, pull, allow_unused=True)[0] if value.requires_grad else None
    if found is None:
        return "The rows are right, and no gradient comes back to the codebook. Codewords are trained: which of your steps cuts them off?"
    wanted = torch.zeros_like(case.codebook).index_add_(
        0, case.codes[case.chosen].long().flatten(), pull.float().reshape(-1, case.codebook.shape[1])
    )
    if not close(found.double(), wanted.double()):
        return (
            f"For {case.label}: the rows are right, and the gradient of the codebook is not, which is the sum over the blocks of a "
            "codeword. Which codewords get too little, or too much?"
        )
    return ""


# Task 4


@dataclass(frozen=True)
class Pull:
    """One call of Task 4."""

    codebook: Tensor
    codes: Tensor
    gradient: Tensor
    rate: float

    @property
    def label(self) -> str:
        return f"codes {tuple(self.codes.shape)}, codebook {tuple(self.codebook.shape)}, {int((self.counts == 0).sum())} codewords without blocks"

    @cached_property
    def flat(self) -> Tensor:
        return self.codes.flatten().long()

    @cached_property
    def counts(self) -> Tensor:
        return torch.bincount(self.flat, minlength=len(self.codebook))

    @cached_property
    def parts(self) -> Tensor:
        return self.gradient.double().reshape(-1, self.codebook.shape[1])

    def stepped(
        self, over: Callable = lambda n, case: n, rate: float | None = None, parts: Callable | None = None
    ) -> Tensor:
        """The codebook after a step, where the sum of a codeword's gradients is divided by `over` its number of blocks."""
        cut = self.parts if parts is None else parts(self)
        total = torch.zeros_like(self.codebook.double()).index_add_(0, self.flat, cut)
        share = over(self.counts.double(), self)
        share = (
            share if isinstance(share, Tensor) else torch.full((len(self.codebook),), float(share)).double()
        )
        step = total / torch.where(self.counts > 0, share, 1)[:, None]
        return self.codebook.double() - (self.rate if rate is None else rate) * step

    def play(self, run: Callable) -> Tensor:
        case = Case((self.codebook, self.codes, self.gradient, self.rate), self.label)
        try:
            return answer(run, case, lambda value: tensor(value, tuple(self.codebook.shape), "the codebook"))
        except NotYet as refusal:
            raise as_mask(refusal, BYTES.replace("place", "row")) from refusal.__cause__


def pulls(draw: Random) -> list[Pull]:
    """Codes of very unequal frequency: of one codeword more blocks than a byte counts, of others none, the last among them."""
    cases = []
    for K, d, R, B in ((9, 3, 47, 13), (200, 4, 31, 9), (12, 8, 7, 5)):
        used = draw.sample(range(K - 1), min(2 * K // 3, 100))
        odds = [K / (1 + 2 * i) ** 1.3 for i in range(len(used))]
        flat = draw.choices(used, odds, k=R * B)
        if K == 9:
            flat = [used[0]] * 300 + draw.choices(used[1:], k=R * B - 300)
            draw.shuffle(flat)
        codes = torch.tensor(flat).view(R, B).to(torch.uint8)
        gradient = randn(draw, R, B * d) * 0.7 + 0.4
        cases.append(Pull(randn(draw, K, d) + 0.2, codes, gradient, round(draw.uniform(0.3, 0.9), 2)))
    return cases


def across(case: Pull) -> Tensor:
    return case.gradient.double().T.reshape(-1, case.codebook.shape[1])


def interleaved(case: Pull) -> Tensor:
    (R, B), d = case.codes.shape, case.codebook.shape[1]
    return case.gradient.double().view(R, d, B).transpose(1, 2).reshape(-1, d)


def wrapped(n: Tensor, case: Pull) -> Tensor:
    return torch.where(n % 256 > 0, n % 256, torch.inf)


CODEWORD_MISTAKES: dict[str, Callable] = {
    "No codeword moves.": lambda c: c.codebook.double(),
    "Each codeword moves by the *sum* of its gradients: the more blocks, the further. By what do you divide, and does it grow with "
    "their number?": partial(Pull.stepped, over=lambda n, c: 1),
    "Codewords move in the wrong direction: the loss rises.": lambda c: 2 * c.codebook.double() - c.stepped(),
    "You divide by the number of all blocks. How many has this codeword?": partial(Pull.stepped, over=lambda n, c: c.codes.numel()),
    "You divide by the number of rows. How many blocks has this codeword?": partial(Pull.stepped, over=lambda n, c: len(c.codes)),
    "You divide by the number of codewords. How many blocks has this one?": partial(Pull.stepped, over=lambda n, c: len(c.codebook)),
    "You divide by the number of weights in a codeword's blocks. The mean is over blocks; each coordinate keeps its own gradient.": (
        partial(Pull.stepped, over=lambda n, c: n * c.codebook.shape[1])
    ),
    "You divide by one block too many.": partial(Pull.stepped, over=lambda n, c: n + 1),
    "You divide by the square of the number of blocks: is the mean taken twice?": partial(Pull.stepped, over=lambda n, c: n**2),
    "You count blocks in a byte, which goes on with 0 after 255. One codeword here has more.": partial(Pull.stepped, over=wrapped),
    "`rate` does not matter for what you return.": partial(Pull.stepped, rate=1.0),
    "You return the step. The task asks for the codebook after it.": lambda c: c.stepped() - c.codebook.double(),
    "You return the mean gradient. The task asks for the codebook after a step.": lambda c: (c.codebook.double() - c.stepped()) / c.rate,
    "You cut the gradient into blocks along its columns. A block is a piece of a row.": partial(Pull.stepped, parts=across),
    "A block takes every B-th number of a row. Its numbers are neighbours.": partial(Pull.stepped, parts=interleaved),
    "Every codeword moves by the mean gradient of all blocks. Each has blocks of its own.": (
        lambda c: c.codebook.double() - (c.counts > 0)[:, None] * c.rate * c.parts.mean(0)
    ),
}  # fmt: skip


def step_complaint(cases: list[Pull], got: list[Tensor]) -> str:
    """What is wrong with the codebooks; empty if nothing is."""

    def alike(mine: Tensor, wrong: Tensor, case: Pull) -> bool:
        return close(mine[case.counts > 0], wrong[case.counts > 0])

    pairs = list(zip(cases, got, strict=True))
    if all(alike(mine, case.stepped(), case) for case, mine in pairs):
        return idle_complaint([(mine, case.codebook, case.counts == 0) for case, mine in pairs], "blocks")
    if all(one_block(case, mine) for case, mine in pairs):
        return (
            "A codeword moves by the gradient of *one* of its blocks, and the others do not count. With repeated numbers in the brackets, "
            "what does x[i] += y add up?"
        )
    message = explained(got, cases, CODEWORD_MISTAKES, alike)
    return message or wrong_step(
        *next(pair for pair in pairs if not alike(pair[1], pair[0].stepped(), pair[0]))
    )


def one_block(case: Pull, mine: Tensor) -> bool:
    """Whether each codeword moved by the gradient of one of its blocks, or by that divided by their number."""
    off = (case.codebook.double() - mine) / case.rate
    for scale in (torch.ones(len(off)).double(), case.counts.double()):
        found = [
            bool(((case.parts[case.flat == k] - off[k] * scale[k]).abs().amax(1) < 1e-3).any())
            for k in range(len(off))
            if case.counts[k]
        ]
        if all(found):
            return True
    return False


def wrong_step(case: Pull, mine: Tensor) -> str:
    off = (mine - case.stepped()).abs().amax(1).masked_fill(case.counts == 0, 0)
    k = int(off.argmax())
    return f"For {case.label}: a codeword of {int(case.counts[k])} blocks is off by {off[k]:.3g}. Collect its blocks' gradients by hand."
