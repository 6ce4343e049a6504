"""Task 4 of exercise 10: calls of Quant-Noise, in training and in eval mode, and what their values and gradients give away."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Tensor

from exercises.graders import NotYet
from exercises.graders.grids import NEAR, handed, most, on_grid
from exercises.graders.guard import guarded
from exercises.graders.kinds import kind_of


def rounded(w: Tensor, bits: int) -> Tensor:
    """The helper of the task: w on its grid, a scale for each row."""
    scale = w.abs().amax(1, keepdim=True).clamp(min=1e-8) / most(bits)
    return scale * (w / scale).round()


@dataclass(frozen=True)
class Pass:
    """One call of Task 4, with a gradient that comes from above."""

    w: Tensor
    bits: int
    p: float
    training: bool
    coins: Tensor
    above: Tensor

    @property
    def label(self) -> str:
        grad = "" if self.w.requires_grad else ", w without requires_grad"
        return (
            f"{tuple(self.w.shape)} weights, bits={self.bits}, p={self.p:g}, training={self.training}{grad}"
        )

    @property
    def between(self) -> bool:
        """Whether some are rounded, and some are not."""
        return self.training and 0 < self.p < 1

    def play(self, run: Callable) -> "Played":
        leaf = handed(self.w.clone().detach().requires_grad_(self.w.requires_grad))
        with torch.enable_grad():
            value = run(leaf, self.bits, self.p, self.training, self.coins)
            if not isinstance(value, Tensor) or value.shape != leaf.shape:
                raise NotYet(
                    f"Your function returns {kind_of(value)}, and the task asks for a tensor of the shape of w, {tuple(leaf.shape)}."
                )
            return Played(value.detach().double(), guarded(None, lambda: self.slope(value, leaf)))

    def slope(self, value: Tensor, leaf: Tensor) -> Tensor | None:
        """The gradient of w for the one from above; None if there is none."""
        if not (leaf.requires_grad and value.requires_grad):
            return None
        return torch.autograd.grad(value, leaf, self.above.to(value.dtype), allow_unused=True)[0]

    @cached_property
    def step(self) -> Tensor:
        return self.w.detach().double().abs().amax(1, keepdim=True) / most(self.bits)

    def is_(self, value: Tensor, wanted: Tensor) -> bool:
        return bool(((value - wanted).abs() <= NEAR * (self.step + wanted.abs() / 100)).all())

    def value(self, of: Callable) -> Tensor:
        """`of(w, rounded w, coins, p, bits)` in double precision."""
        w = self.w.detach().double()
        return of(w, rounded(w, self.bits), self.coins.double(), self.p, self.bits)

    def slope_of(self, of: Callable) -> Tensor:
        """The gradient of w through `of`, as torch finds it."""
        w = self.w.detach().clone().requires_grad_()
        return self.slope(of(w, rounded(w, self.bits), self.coins, self.p, self.bits), w)


@dataclass(frozen=True)
class Played:
    """What came of a call."""

    value: Tensor
    slope: Tensor | None


def passes(draw: Random) -> list[Pass]:
    """Both modes, p at both ends and between; coins of exactly 0, exactly p, and next to p and 1 - p; a row of zeros."""
    kinds = [
        (True, 0.25, 4), (True, 0.625, 8), (True, 0.125, 3), (True, 0.875, 2), (True, 0.5, 5), (True, 0.0, 4), (True, 1.0, 3),
        (False, 0.25, 4), (False, 0.625, 6), (False, 0.0, 3), (False, 1.0, 7), (False, 0.5, 5), (True, 0.375, 6),
    ]  # fmt: skip
    found = []
    for n, (training, p, bits) in enumerate(kinds):
        R, C = draw.sample(range(7, 15), 2)
        generator = torch.Generator().manual_seed(draw.randrange(2**31))
        w = on_grid(draw, R, C, bits, [draw.uniform(0.02, 3) for _ in range(R)])
        w[draw.randrange(R)] = 0.0
        coins, above = torch.rand(R, C, generator=generator), torch.randn(R, C, generator=generator)
        own = [0.0, 1 - 2**-24, p, p - 1e-4, p + 1e-4, 1 - p, 1 - p - 1e-4, 1 - p + 1e-4]
        spots = torch.randperm(R * C, generator=generator)[: 3 * len(own)]
        coins.view(-1)[spots] = torch.tensor(3 * own).clamp(0, 1 - 2**-24)
        found.append(Pass(w.requires_grad_(n < len(kinds) - 2), bits, p, training, coins, above))
    return found


def one_step(w: Tensor, bits: int) -> Tensor:
    """On a grid with one scale."""
    scale = w.abs().max() / most(bits)
    return scale * (w / scale).round()


def pick(coins: Tensor, p: float, q: Tensor, w: Tensor) -> Tensor:
    return torch.where(coins < p, q, w)


BETWEEN: dict[str, Callable] = {
    "In training nothing is rounded. Where is `coins` compared with p?": lambda w, q, c, p, b: w,
    "In training all weights are rounded: that is p = 1. Which of them does a coin choose?": lambda w, q, c, p, b: q,
    "You round the weights whose coin is not below p, a share of 1 - p. p is the share that is rounded.": lambda w, q, c, p, b: pick(c, p, w, q),
    "You round the weights whose coin is above p, a share of 1 - p. p is the share that is rounded.": lambda w, q, c, p, b: torch.where(c > p, q, w),
    "You compare the coins with 1 - p, and round a share of 1 - p.": lambda w, q, c, p, b: pick(c, 1 - p, q, w),
    "You round the weights whose coin is above 1 - p. Their share is right, and the task's rule takes the low coins.": lambda w, q, c, p, b: torch.where(c > 1 - p, q, w),
    "A weight whose coin is exactly p is rounded. coins < p is what the task asks for.": lambda w, q, c, p, b: torch.where(c <= p, q, w),
    "You divide all numbers by 1 - p, as dropout does. Dropout makes up for zeros; a rounded weight has nearly its old size.": lambda w, q, c, p, b: pick(c, p, q, w) / (1 - p),
    "You divide the weights that stay by 1 - p, as dropout does. They are what they were: what would there be to make up for?": lambda w, q, c, p, b: pick(c, p, q, w / (1 - p)),
    "You multiply by 1 - p. No number here stands for another one that is missing.": lambda w, q, c, p, b: pick(c, p, q, w) * (1 - p),
    "The chosen weights become 0. Quant-Noise with that replacement exists; here it is their rounded value.": lambda w, q, c, p, b: pick(c, p, 0 * w, w),
    "A coin decides for a whole row. Each weight has its own.": lambda w, q, c, p, b: pick(c[:, :1].expand_as(w), p, q, w),
    "You round with one scale for all rows. `rounded` has one for each.": lambda w, q, c, p, b: pick(c, p, one_step(w, b), w),
    "You round to 8 bits whatever `bits` is.": lambda w, q, c, p, b: pick(c, p, rounded(w, 8), w),
    "You mix every weight with its rounded value. A coin takes one or the other.": lambda w, q, c, p, b: p * q + (1 - p) * w,
    "You round after the others were set to 0, so that the scales come from the chosen ones alone. The grid is that of the whole row.": (
        lambda w, q, c, p, b: pick(c, p, rounded(pick(c, p, w, 0 * w), b), w)
    ),
}  # fmt: skip
EVAL: dict[str, Callable] = {
    "With training=False you return w as it is. What will be stored, and what should the evaluation see?": lambda w, q, c, p, b: w,
    "With training=False coins still decide. Whoever evaluates wants to know what the stored model does.": lambda w, q, c, p, b: pick(c, p, q, w),
    "With training=False you multiply by a factor of p. The stored model has no p.": lambda w, q, c, p, b: q * (1 - p),
    "With training=False you return a mean of w and its rounded value. Will such weights be stored?": lambda w, q, c, p, b: p * q + (1 - p) * w,
}  # fmt: skip


def wanted(call: Pass) -> Callable:
    """What makes the right values of a call."""
    return (lambda w, q, c, p, b: pick(c, p, q, w)) if call.training else (lambda w, q, c, p, b: q)


def noise_complaint(calls: list[Pass], got: list[Played]) -> str:
    """What is wrong with what came of the calls; empty if nothing is."""
    pairs = list(zip(calls, got, strict=True))
    wrong = [(call, mine) for call, mine in pairs if not call.is_(mine.value, call.value(wanted(call)))]
    if all(call.is_(mine.value, call.w.detach()) for call, mine in pairs) and slopes_are(
        pairs, through_scale
    ):
        return (
            "Your values are those of w, and your gradients those of the rounded weights: it should be the other way round. "
            "Which part of the difference belongs inside of detach()?"
        )
    for known, place in ((BETWEEN, lambda call: call.between), (EVAL, lambda call: not call.training)):
        found = [(call, mine) for call, mine in pairs if place(call)]
        if any(place(call) for call, _ in wrong):
            for message, of in known.items():
                if all(call.is_(mine.value, call.value(of)) for call, mine in found):
                    return message
    if wrong:
        return unknown(*next((pair for pair in wrong if pair[0].between), wrong[0]))
    return slope_fault(pairs, True) or slope_fault(pairs, False)


def unknown(call: Pass, mine: Played) -> str:
    """A message for one call with wrong values."""
    if not mine.value.isfinite().all():
        return f"For {call.label}: there are NaN or infinite numbers. Is there a division by 0, as in a row of zeros?"
    ways = (call.value(of) for of in (lambda w, *_: w, lambda w, q, *_: q))
    other = torch.stack([(mine.value - way).abs() for way in ways]).amin(0) > NEAR * call.step
    if other.any():
        return f"For {call.label}: {int(other.sum())} numbers are neither the weight nor its rounded value. Print one of them beside both."
    if not call.training:
        return f"For {call.label}: not every weight has its rounded value. In eval mode p and the coins play no part."
    if not call.between:
        who = "no weight is rounded, also none" if call.p == 0 else "every weight is rounded, also one"
        return f"With p={call.p:g} in training, {who} whose coin is exactly 0. Yours differ: which comparison does that?"
    return f"For {call.label}: each number is a weight or its rounded value, and not the one that its coin says. Is chance taken from `coins` alone?"


def through_scale(call: Pass) -> Tensor:
    """The gradient where nothing is straight through."""
    return call.slope_of(wanted(call))


def slopes_are(pairs: list[tuple[Pass, Played]], of: Callable[[Pass], Tensor]) -> bool:
    """Whether the gradients are `of(call)` wherever there can be one. None counts as zeros."""
    return all(
        torch.allclose(
            torch.zeros_like(call.w) if mine.slope is None else mine.slope, of(call), rtol=1e-3, atol=1e-5
        )
        for call, mine in pairs
        if call.w.requires_grad
    )


SLOPES: dict[str, Callable[[Pass], Tensor]] = {
    "none comes back to w at all. What cuts it off?": lambda call: 0 * call.above,
    "a rounded weight gets none, so that it does not learn in this pass. What should it get, straight through?": lambda call: pick(
        call.coins, call.p, 0 * call.above, call.above
    ),
    "where a weight is rounded it goes through the scale, to the largest of its row. torch finds the derivative of round() to be 0: which one "
    "is taken instead?": through_scale,
    "a rounded weight gets it twice.": lambda call: pick(call.coins, call.p, 2 * call.above, call.above),
    "only the rounded weights get one. The others are used as they are, and learn, too.": lambda call: pick(
        call.coins, call.p, call.above, 0 * call.above
    ),
    "it is divided by 1 - p. What comes from above should arrive as it is.": lambda call: call.above / (1 - call.p) if call.p < 1 else call.above,
}  # fmt: skip


def slope_fault(pairs: list[tuple[Pass, Played]], training: bool) -> str:
    """What is wrong with the gradients in one mode; empty if nothing is."""
    found = [(call, mine) for call, mine in pairs if call.training == training and call.w.requires_grad]
    if slopes_are(found, lambda call: call.above):
        return ""
    begin = f"The values are right. With training={training} the gradient is not: "
    message = next((text for text, of in SLOPES.items() if slopes_are(found, of)), "")
    call = next(call for call, mine in found if not slopes_are([(call, mine)], lambda call: call.above))
    return begin + (
        message or f"for {call.label} it is another one. What comes from above should arrive as it is."
    )
