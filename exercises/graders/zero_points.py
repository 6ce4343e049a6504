"""Task 2 of exercise 10: codes, scale and zero of an affine grid, and the faults that run silently."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from exercises.graders import NotYet
from exercises.graders.grids import NEAR, near, parts, read, whole

Found = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """One call of Task 2."""

    w: Tensor
    bits: int
    what: str

    @property
    def label(self) -> str:
        return f"{len(self.w)} {self.what}, bits={self.bits}"

    @property
    def last(self) -> int:
        return 2**self.bits - 1

    @property
    def low(self) -> Tensor:
        return self.w.double().min().clamp(max=0)

    @property
    def scale(self) -> Tensor:
        return (self.w.double().max().clamp(min=0) - self.low) / self.last

    def read(self, value: object) -> Found:
        """Codes (C,), scale and zero. NotYet for other shapes."""
        codes, *two = parts(value, "codes", "scale", "zero")
        codes = read(codes, "codes", self.w.shape)
        scale, zero = (read(item, place) for item, place in zip(two, ("scale", "zero"), strict=True))
        for item, place in ((scale, "scale"), (zero, "zero")):
            if item.numel() != 1:
                raise NotYet(
                    f"In the place of the {place} you return {item.numel()} numbers, and the row has one."
                )
        return codes, scale.reshape(()), zero.reshape(())

    def fault(self, found: Found) -> str:
        """What a rule of the task says against an answer; empty if none does."""
        (q, s, z), zeros = found, bool((self.w == 0).all())
        if not (q.isfinite().all() and s.isfinite() and z.isfinite()):
            return "there are NaN or infinite numbers. Is there a division by a range of 0?"
        if (not zeros and not near(s, self.scale)) or s < 0:
            return "the scale is not the range over the number of steps. Which values should the lowest and the highest code stand for?"
        if not whole(z) or not 0 <= z <= self.last:
            return "`zero` is not a whole number from 0 to 2^bits - 1: 0 itself has no code."
        if not whole(q) or q.min() < 0 or q.max() > self.last:
            return f"your codes run from {float(q.min()):g} to {float(q.max()):g}. What fits into {self.bits} bits?"
        if ((s * (q - z) - self.w).abs() > (0.5 + NEAR) * s).any():
            return "a weight comes back more than half a step from where it was. Follow the one with the largest error through your code."
        return ""


def rows(draw: Random) -> list[Row]:
    """Both signs, so that the code of 0 has to be rounded up and down, or lies halfway; small ones; one sign; one value; zeros; one number."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))

    def numbers(bits: int, up: bool) -> Tensor:
        while True:
            w = torch.randn(draw.randrange(15, 40), generator=generator) * 10 ** draw.uniform(-1, 1)
            w = w + draw.uniform(-0.9, 0.9) * w.std()
            w[draw.randrange(len(w))] = 0.0
            exact = float(-w.min().double() / (w.max() - w.min()).double()) * (2**bits - 1)
            if 0.6 < (exact % 1 if up else 1 - exact % 1) < 0.9 and 1 < exact < 2**bits - 2:
                return w

    found = [
        Row(numbers(bits, up), bits, "numbers of both signs") for bits in range(2, 9) for up in (True, False)
    ]
    for bits in (3, 4, 8):  # both ends are ties, and round away from each other: to a code too many
        below = 2 * draw.randrange(2 ** (bits - 2)) + 1.5
        w = torch.rand(draw.randrange(15, 40), generator=generator) * (2**bits - 1) - below
        w[:3] = torch.tensor([0.0, -below, 2**bits - 1 - below])
        found.append(
            Row(w * 2.0 ** draw.randrange(-5, 2), bits, "numbers whose ends are half a step from a code")
        )
    scale = (1 + (draw.randrange(500) + 0.5) / 1024) / 16  # halfway between two numbers of fp16
    w = torch.randint(200, 255, (20,), generator=generator) + torch.tensor([0.49, 0.51]).repeat(10)
    w[draw.randrange(20)] = 255
    found.append(Row(w * scale, 8, "positive numbers, nearly halfway between two codes"))
    small = numbers(4, True)
    found.append(Row(small * 3e-4 / small.abs().max(), 4, "small numbers of both signs"))
    for bits in (2, 3, 4, 8):
        w = torch.rand(draw.randrange(11, 30), generator=generator) + draw.uniform(0.3, 2)
        found += [Row(w, bits, "positive numbers"), Row(-1.3 * w, bits, "negative numbers")]
    c = draw.uniform(0.1, 3)
    found += [Row(torch.full((n,), c), bits, "equal positive numbers") for n, bits in ((7, 8), (1, 4))]
    found += [Row(torch.full((n,), -c), bits, "equal negative numbers") for n, bits in ((6, 4), (1, 8))]
    return [*found, Row(torch.zeros(5), 8, "zeros"), Row(torch.zeros(3), 4, "zeros")]


def spread(row: Row) -> Tensor:
    return row.w.double().max() - row.w.double().min()


def magnitude(row: Row) -> Tensor:
    return row.w.double().abs().max()


SCALES: dict[str, Callable[[Row], Tensor]] = {
    "Your range is from min to max. Where all numbers are positive, or all negative, 0 lies outside, and has no code. "
    "What must the range always hold?": lambda row: spread(row) / row.last,
    "Your range has 2^bits steps. From code 0 to the last one, how many steps are there? The highest value gets a code that does not exist.": (
        lambda row: row.scale * row.last / 2**row.bits
    ),
    "Two things are wrong with your scale: where all numbers have one sign, 0 lies outside of your range; and 2^bits codes have fewer "
    "than 2^bits steps between them.": lambda row: spread(row) / 2**row.bits,
    "You divide the range by 255 whatever `bits` is.": lambda row: row.scale * row.last / 255,
    "Your scale is that of a symmetric grid: from -max to max. With numbers of one sign, half of the codes are never used.": lambda row: (
        2 * magnitude(row) / row.last
    ),
    "Your scale is that of a symmetric grid: the largest magnitude over 2^(bits - 1) - 1.": lambda row: magnitude(row) / (2 ** (row.bits - 1) - 1),
    "Your scale is the inverse: steps a unit. scale * (codes - zero) should give the weights back.": lambda row: 1 / row.scale,
}  # fmt: skip


def exact_zero(row: Row) -> Tensor:
    return -row.low / row.scale


def nearest(row: Row) -> Tensor:
    return (row.w / row.scale).round()


ANSWERS: dict[str, Callable[[Row], tuple[Tensor, Tensor]]] = {
    "You clamp before you add `zero`. Negative numbers are cut off to 0, and codes run past the end: which numbers have to stay in range?": (
        lambda row: (nearest(row).clamp(0, row.last) + exact_zero(row).round(), exact_zero(row).round())
    ),
    "`zero` is rounded, and the codes are counted from the lowest number: round((w - low) / scale). The two roundings disagree, and a weight "
    "can come back almost a whole step away. Which of the two should the codes be counted from?": (
        lambda row: (((row.w - row.low) / row.scale).round(), exact_zero(row).round())
    ),
    "Your codes have no `zero` in them. Codes count from the lowest value, w from 0: what lies between?": (
        lambda row: (nearest(row).clamp(0, row.last), exact_zero(row).round())
    ),
    "Your codes are signed, around 0. Here they run from 0 to 2^bits - 1.": (
        lambda row: (nearest(row) + exact_zero(row).round() - 2 ** (row.bits - 1), exact_zero(row).round() - 2 ** (row.bits - 1))
    ),
    "You cut fractions off instead of rounding to the nearest code: weights move by up to a whole step.": (
        lambda row: ((row.w / row.scale).trunc() + exact_zero(row).round(), exact_zero(row).round())
    ),
    "You round `zero` down, always. Where its fraction is above a half, the lowest numbers are cut off by more than half a step.": (
        lambda row: ((nearest(row) + exact_zero(row).floor()).clamp(0, row.last), exact_zero(row).floor())
    ),
    "`zero` has the wrong sign. Put w = 0 into w = scale * (codes - zero): which code is it?": (
        lambda row: (nearest(row) + exact_zero(row).round(), -exact_zero(row).round())
    ),
    "In the place of `zero` you return the lowest value. `zero` is a code: the one that 0 has.": (
        lambda row: (nearest(row) + exact_zero(row).round(), row.low)
    ),
    "You return the weights on the grid in the place of the codes.": lambda row: (nearest(row) * row.scale, exact_zero(row).round()),
}  # fmt: skip


def answers_fit(pairs: list[tuple[Row, Found]], of: Callable) -> bool:
    """Whether `of(row)` are codes and zero of all rows, but for a few codes at a border."""
    off = total = 0
    for row, (q, _, z) in pairs:
        codes, zero = of(row)
        off, total = off + int(((q - codes).abs() > NEAR).sum()), total + len(q)
        if (z - zero).abs() > NEAR * (1 + zero.abs()):
            return False
    return off <= 0.01 * total


def affine_complaint(cases: list[Row], got: list[Found]) -> str:
    """What is wrong with the answers; empty if nothing is."""
    faults = [case.fault(found) for case, found in zip(cases, got, strict=True)]
    if not any(faults):
        return ""
    varied = [pair for pair in zip(cases, got, strict=True) if spread(pair[0]) > 0]
    clean = [(row, found) for row, found in varied if not row.fault(found)]
    if len(clean) == len(varied):
        place = next(n for n, fault in enumerate(faults) if fault)
        return f"Right where numbers differ. For {cases[place].label}: {faults[place]}"
    if all(near(z, row.scale) and not near(s, row.scale) for row, (_, s, z) in varied):
        return "You return `zero` in the place of the scale, and the scale in the place of `zero`."
    if any(not near(s, row.scale) for row, (_, s, _) in varied):
        for message, of in SCALES.items():
            if all(near(s, of(row)) for row, (_, s, _) in varied):
                return message
    mixed = [pair for pair in varied if pair[0].w.min() < 0 < pair[0].w.max()]
    message = next((text for text, of in ANSWERS.items() if answers_fit(mixed, of)), "")
    if message:
        return message
    if not all(whole(z) for _, (_, _, z) in varied):
        return "`zero` is not rounded. Then no whole code stands for 0, and what was exactly 0 comes back as something else."
    place = next(n for n, fault in enumerate(faults) if fault)
    return f"For {cases[place].label}: {faults[place]}"
