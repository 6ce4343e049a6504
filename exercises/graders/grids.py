"""Task 1 of exercise 10: codes and a scale for each row; and what all its tasks share, how to read tensors and to tell a grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from random import Random
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from exercises.graders import NotYet
from exercises.graders.kinds import kind_of

Thing = TypeVar("Thing", Tensor, nn.Module)
NEAR = 1e-3  # of a step: how far float32 may put w / scale from where it is
FP16 = 1.1e-3, 6.1e-8  # how far the next number of fp16 may be: relatively, and for small numbers


def read(value: object, place: str, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor, array, number, or list of them in double precision, NaN allowed; NotYet for anything else."""
    if isinstance(value, list | tuple) and value:
        try:
            value = torch.stack([read(item, place) for item in value])
        except RuntimeError:
            raise NotYet(f"In the place of the {place}: a list whose items differ in length.") from None
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_):
        value = torch.tensor(float(value))
    if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
        raise NotYet(
            f"In the place of the {place} your function returns {kind_of(value)}, and the task asks for numbers."
        )
    if shape is not None and tuple(value.shape) != tuple(shape):
        raise NotYet(
            f"In the place of the {place} your function returns {kind_of(value)}. What shape should it have here, where {tuple(shape)} is asked?"
        )
    return value.detach().double()


def parts(value: object, *names: str) -> list:
    """The items of a tuple or list with as many of them as there are names."""
    if not isinstance(value, tuple | list) or len(value) != len(names):
        what = f"{len(value)} items" if isinstance(value, tuple | list) else kind_of(value)
        raise NotYet(f"Your function returns {what}, and the task asks for {len(names)}: {', '.join(names)}.")
    return list(value)


def handed(thing: Thing) -> Thing:
    """The same thing. The first copy of it, which the guard makes, is the thing itself; later ones are copies."""

    def once(memo: dict) -> Thing:
        del thing.__deepcopy__
        return thing

    thing.__deepcopy__ = once
    return thing


def most(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def whole(q: Tensor) -> bool:
    return bool(((q - q.round()).abs() < 1e-6).all())


def near(a: Tensor, b: Tensor) -> bool:
    """Whether two scales are equal, up to fp16."""
    return bool(((a - b).abs() <= FP16[0] * b.abs() + FP16[1]).all())


def snapped(values: Tensor, w: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Where `values` are those of the symmetric grid that are nearest to w; either neighbour of a tie is."""
    scale = scale.double().clamp(min=1e-30).expand_as(values)
    q = values / scale
    on = ((q - q.round()).abs() <= NEAR) & (q.abs() <= most(bits) + NEAR)
    return on & ((values - w).abs() <= (0.5 + NEAR) * scale)


def on_grid(draw: Random, rows: int, columns: int, bits: int, sizes: Sequence[float]) -> Tensor:
    """A matrix in which no number is near a tie, and the largest magnitude of row i is about sizes[i]."""
    m, generator = most(bits), torch.Generator().manual_seed(draw.randrange(2**31))
    w = (m + 0.4) * (2 * torch.rand(rows, columns, generator=generator) - 1)
    off = (w - w.round()) * 0.8  # at most 0.4 steps
    w = (w.round() + off).clamp(-m + 0.2, m - 0.2)
    ends = torch.randint(columns, (rows,), generator=generator)
    w[torch.arange(rows), ends] = m * (2.0 * torch.randint(2, (rows,), generator=generator) - 1)
    return w * torch.tensor(sizes)[:, None] / m


# Task 1


@dataclass(frozen=True)
class Matrix:
    """One call of Task 1."""

    w: Tensor
    bits: int

    @property
    def label(self) -> str:
        return f"a matrix of {len(self.w)} x {self.w.shape[1]}, bits={self.bits}"

    @property
    def scale(self) -> Tensor:
        return self.w.double().abs().amax(1) / most(self.bits)

    @property
    def filled(self) -> Tensor:
        """Which rows are not of zeros."""
        return self.w.abs().amax(1) > 0

    def read(self, value: object) -> tuple[Tensor, Tensor]:
        """Codes (R, C) and scales (R,). NotYet for other shapes."""
        (R, C), two = self.w.shape, parts(value, "codes", "scales")
        shapes = [tuple(read(item, "codes and scales").shape) for item in two]
        if shapes[0] in ((R,), (R, 1)) and shapes[1] == (R, C) and C > 1:
            raise NotYet("You return the scales first. The task asks for the codes, then the scales.")
        codes, scales = read(two[0], "codes", (R, C)), read(two[1], "scales")
        if scales.numel() == 1 and R > 1:
            raise NotYet(
                f"You return a single scale for {R} rows. A row of small numbers then has only small codes, or 0: who shares a scale?"
            )
        if shapes[1] in ((C,), (1, C)) and C != R:
            raise NotYet(
                f"You return {C} scales, one a column, and the matrix has {R} rows. Over which dimension does the maximum run?"
            )
        if shapes[1] not in ((R,), (R, 1)):
            raise NotYet(
                f"You return scales of shape {shapes[1]} for {R} rows, and the task asks for ({R},) or ({R}, 1)."
            )
        return codes, scales.reshape(R)


def matrices(draw: Random) -> list[Matrix]:
    """All widths. Rows of unequal size: one of zeros, a small one, one of positive and one of negative numbers."""
    found = []
    for bits in range(2, 9):
        R, C = draw.sample(range(6, 14), 2)
        generator = torch.Generator().manual_seed(draw.randrange(2**31))
        w = torch.randn(R, C, generator=generator) * torch.logspace(-1, 1, R)[:, None]
        w[0], w[1], w[-1, 2] = w[0].abs() + 0.01, -w[1].abs() - 0.01, -50.0 - draw.random()
        w[2], w[3] = 0.0, w[3] * (5e-4 / w[3].abs().max())
        found.append(Matrix(w, bits))
    row, column = torch.randn(1, 9, generator=generator), torch.randn(7, 1, generator=generator)
    return [*found, Matrix(row, 4), Matrix(column, 3), Matrix(torch.zeros(3, 5), 8), beside_ties(draw)]


def beside_ties(draw: Random) -> Matrix:
    """8 bits, and weights 0.01 steps from the middle between two codes: others are nearest once the scale is rounded to fp16."""
    R, C = draw.sample(range(6, 14), 2)
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    above = torch.tensor([1.0, -1.0] * R)[:R, None]  # whether fp16 is above the scale, or below
    scale = (1 + (torch.randint(500, (R, 1), generator=generator) + 0.5 + 0.1 * above) / 1024) / 16
    w = torch.randint(80, 126, (R, C), generator=generator) + 0.5 + 0.01 * above
    w[:, draw.randrange(C)] = 127
    return Matrix(w * scale * (2.0 * torch.randint(2, (R, C), generator=generator) - 1), 8)


def largest(w: Tensor) -> Tensor:
    return w.abs().amax(1)


SCALES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "You divide by 127 whatever `bits` is. That is the largest code of 8 bits; with 4 bits there is no room for it.": lambda w, b: largest(w) / 127,
    "Your scale divides by 2^(bits - 1).": lambda w, b: largest(w) / 2 ** (b - 1),
    "Your scale divides by 2^bits - 1, the number of steps from the lowest code to the highest of an affine grid. "
    "How many steps are there between 0 and the largest code here?": lambda w, b: largest(w) / (2**b - 1),
    "Your scale divides by 2^bits, the number of all bit patterns. Codes here go both ways from 0: how many steps in one direction?": (
        lambda w, b: largest(w) / 2**b
    ),
    "Your scale spreads 2^bits - 1 steps from -max to max, so that 0 falls between two codes. The symmetric grid leaves one pattern out.": (
        lambda w, b: 2 * largest(w) / (2**b - 1)
    ),
    "Your scale comes from the range, max minus min. A symmetric grid reaches as far down as up: what decides how far?": (
        lambda w, b: (w.amax(1) - w.amin(1)) / (2**b - 1)
    ),
    "Your scale comes from half the range, max minus min. Where a row lies on one side of 0, that does not reach its largest magnitude.": (
        lambda w, b: (w.amax(1) - w.amin(1)) / 2 / most(b)
    ),
    "All rows have the scale of the largest number in the matrix. What is left of a row of small numbers?": (
        lambda w, b: (w.abs().max() / most(b)).expand(len(w))
    ),
    "Your scale comes from the largest number of a row, and not from the largest magnitude. What about a row whose extreme is negative?": (
        lambda w, b: w.amax(1) / most(b)
    ),
    "Your scale is the inverse: codes a unit of weight. codes * scale should give the weights back.": lambda w, b: most(b) / largest(w),
    "Your scale is the largest magnitude itself, so that it has code 1. Which code should it have?": lambda w, b: largest(w),
    "Your scale comes from the mean magnitude. That is for 1 bit; here the largest magnitude should have the largest code.": (
        lambda w, b: w.abs().mean(1) / most(b)
    ),
}  # fmt: skip


def scales_fit(cases: list[Matrix], got: list, of: Callable) -> bool:
    """Whether `of(w, bits)` are the scales of all rows that are not of zeros."""
    rows = [(c.w[c.filled].double(), c.bits, s[c.filled]) for c, (_, s) in zip(cases, got, strict=True)]
    return all(near(s, of(w, bits)) for w, bits, s in rows if len(w))


CODES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "Your codes are w / scale as it is. A code is a whole number.": lambda w, s, b: w / s,
    "You return the weights on the grid, codes * scale, in the place of the codes. What is stored is the whole numbers.": lambda w, s, b: (w / s).round() * s,
    "You cut the fraction off (as int() and .to(torch.int8) do), so that every weight moves towards 0, by up to a whole step. "
    "Which whole number is nearest?": lambda w, s, b: (w / s).trunc(),
    "You round down (floor, //), so that every weight moves the same way, by up to a whole step. Which whole number is nearest?": (
        lambda w, s, b: (w / s).floor()
    ),
    "You round up (ceil). Which whole number is nearest?": lambda w, s, b: (w / s).ceil(),
    "Your codes are moved up, so that none is negative. Then codes * scale is not w: the symmetric grid has no offset.": lambda w, s, b: (w / s).round() + most(b),
    "Your codes are moved up by 2^(bits - 1), as unsigned storage does. Then codes * scale is not w: here codes have a sign.": (
        lambda w, s, b: (w / s).round() + 2 ** (b - 1)
    ),
    "Your negative codes have come back as large positive ones, 256 higher, as torch.uint8 has no sign. Which type has one?": (
        lambda w, s, b: (w / s).round() % 256
    ),
    "Your codes have lost their sign. codes * scale should be w, negative ones too.": lambda w, s, b: (w / s).round().abs(),
    "Your negative weights have code 0. Codes go from -m to m.": lambda w, s, b: (w / s).round().clamp(min=0),
    "Your largest code is m - 1: what has the largest magnitude is cut off. The largest code is m itself.": (
        lambda w, s, b: (w / s).round().clamp(-most(b) + 1, most(b) - 1)
    ),
}  # fmt: skip


def codes_fit(cases: list[Matrix], got: list, of: Callable) -> bool:
    """Whether `of(w, scale, bits)` are the codes of all rows that are not of zeros, wherever float32 puts a whole number."""

    def fits(w: Tensor, q: Tensor, s: Tensor, bits: int) -> bool:
        ways = ((q - of(w * (1 + off), s, bits)).abs() <= NEAR for off in (0, 1e-6, -1e-6))
        return bool(torch.stack([*ways]).any(0).all())

    return all(
        fits(c.w[c.filled].double(), q[c.filled], s[c.filled, None], c.bits)
        for c, (q, s) in zip(cases, got, strict=True)
    )


def nearest(case: Matrix, q: Tensor, s: Tensor) -> bool:
    """Whether these are the nearest codes for such scales, in all rows that are not of zeros."""
    q, w, s = q[case.filled], case.w[case.filled], s[case.filled, None]
    return whole(q) and bool(snapped(q * s, w, s, case.bits).all())


OTHER_SCALES: dict[str, Callable[[Matrix], Tensor]] = {
    "in fp32, and the scales that you return are rounded": lambda case: case.scale,
    "in fp16, and the scales that you return are not rounded": lambda case: case.scale.half().double(),
}


def nearest_complaint(cases: list[Matrix], got: list) -> str:
    """Where codes are not the nearest ones for the scales that come with them; empty if they are."""
    pairs = list(zip(cases, got, strict=True))
    wrong = [case for case, (q, s) in pairs if not nearest(case, q, s)]
    if not wrong:
        return ""
    for which, scales in OTHER_SCALES.items():
        if all(nearest(case, q, scales(case)) for case, (q, _) in pairs):
            return (
                f"Your codes are the nearest ones for scales {which}. Then some weights come back more than half a step from where "
                "they were: codes must be the nearest for the scale that is returned. What has to come first, rounding scales or choosing codes?"
            )
    return f"For {wrong[0].label}: the scales are right, and some code is not that of the nearest value. Compare round(w / scale) with your codes."


def codes_complaint(cases: list[Matrix], got: list) -> str:
    """What is wrong with codes and scales; empty if nothing is."""
    bad = [not near(s[c.filled], c.scale[c.filled]) for c, (_, s) in zip(cases, got, strict=True)]
    if any(bad):
        message = next((text for text, of in SCALES.items() if scales_fit(cases, got, of)), "")
        if message.startswith("Your scale divides by 2^(bits - 1)."):
            over = any((q > most(c.bits)).any() for c, (q, _) in zip(cases, got, strict=True))
            return message + (
                " The largest code is then 2^(bits - 1), one more than there is room for."
                if over
                else " There is no code for the largest positive weight then, and it is cut off. Which codes lie alike on both sides of 0?"
            )
        place = bad.index(True)
        return message or (
            f"For {cases[place].label}: a scale is off by more than 0.1 %. Take the row by itself: which weight should have code m?"
        )
    for case, (q, s) in zip(cases, got, strict=True):
        zero = ~case.filled
        if not (q[zero].isfinite().all() and s[zero].isfinite().all()):
            return "In a row of zeros there are NaN or infinite numbers: its largest magnitude is 0, and you divide by it."
        if (q[zero] != 0).any() or (s[zero] < 0).any():
            return "A row of zeros has codes other than 0, or a negative scale."
    for message, of in CODES.items():
        if codes_fit(cases, got, of):
            return message
    return nearest_complaint(cases, got)
