"""Task 5 of exercise 11: blocks and coins, and the misconceptions about Quant-Noise."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from exercises.graders import Case, NotYet
from exercises.graders.clusters import close, explained, randn, tensor
from exercises.graders.judge import answer
from exercises.graders.stacks import leaf_of
from minieff import plot


@dataclass(frozen=True)
class Noise:
    """One call of Task 5; `learns` says whether w asks for a gradient."""

    w: Tensor
    block: int
    p: float
    training: bool
    coins: Tensor
    learns: bool = True

    @property
    def label(self) -> str:
        return f"w {tuple(self.w.shape)}, block={self.block}, p={self.p:g}, training={self.training}"

    @property
    def mask(self) -> Tensor:
        """Which weights are replaced (R, C)."""
        return self.wide(self.coins < self.p)

    def wide(self, blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(self.block, 1)

    def zeros(self, mask: Tensor) -> Tensor:
        return torch.where(mask, 0.0, self.w.double())

    @cached_property
    def right(self) -> Tensor:
        return self.zeros(self.mask) if self.training else self.w.double()

    @cached_property
    def pull(self) -> Tensor:
        return randn(Random(self.w.numel()), *self.w.shape)

    def play(self, run: Callable) -> tuple[Tensor, Any, Tensor]:
        """What came back, in double precision, as it is, and the leaf of w."""
        with torch.enable_grad():
            leaf = leaf_of(self.w) if self.learns else self.w
            case = Case((leaf, self.block, self.p, self.training, self.coins), self.label)
            found, value = answer(run, case, lambda value: (self.read(value), value))
        return found, value, leaf

    def read(self, value: Any) -> Tensor:
        found = tensor(value, tuple(self.w.shape), "the weight")
        if not isinstance(value, Tensor):
            raise NotYet(
                "Your function returns a list or an array, and the task asks for a tensor: a gradient has to pass."
            )
        if not found.isfinite().all():
            raise NotYet(
                "There are NaN or infinite numbers in what you return. Do you divide by 1 - p where p is 1?"
            )
        return found

    def gradient(self, value: Tensor, leaf: Tensor) -> Tensor | None:
        """That of w, where `pull` is that of what came back; None if there is none."""
        if not value.requires_grad:
            return None
        found = torch.autograd.grad(value, leaf, self.pull, allow_unused=True)[0]
        return None if found is None else found.double()


def noises(draw: Random) -> list[Noise]:
    """Training and eval, p between the ends and at both, a single row, a coin that is exactly p (which is a sum of powers of 2, so in any precision), a weight that learns nothing."""
    found = []
    for R, B, block, p, training in (
        (7, 5, 3, 0.375, True), (6, 4, 5, 0.25, True), (9, 3, 4, 0.75, True), (5, 6, 2, 0.125, True),
        (4, 3, 3, 0.0, True), (3, 5, 4, 1.0, True), (6, 5, 3, 0.5, False), (4, 3, 7, 1.0, False), (5, 1, 6, 0.5, True), (1, 6, 1, 0.5, True),
    ):  # fmt: skip
        coins = torch.tensor([draw.uniform(0.01, 0.99) for _ in range(R * B)]).view(R, B)
        coins = torch.where((coins - p).abs() < 0.01, coins / 2, coins)
        places = draw.sample(range(R * B), 4 if R * B > 4 else 3)
        for place, coin in zip(places, (p if p < 1 else 0.999, p / 2, (1 + p) / 2 - 1e-3, 0.0), strict=False):
            coins.view(-1)[place] = coin
        found.append(Noise(randn(draw, R, B * block) + 0.5, block, p, training, coins))
    first = found[0]
    return [*found, Noise(first.w, first.block, first.p, True, first.coins, learns=False)]


def outputs(case: Noise) -> Tensor:
    """The weight, with blocks cut along its columns, row of blocks after row of blocks."""
    parts = case.w.double().T.reshape(-1, case.block)
    return torch.where(case.coins.reshape(-1, 1) < case.p, 0.0, parts).view(case.w.T.shape).T


def of_blocks(case: Noise, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Replaced blocks `of` their numbers."""
    parts = case.w.double().unflatten(1, (-1, case.block))
    return torch.where(case.mask, of(parts).expand_as(parts).flatten(1), case.w.double())


VALUE_MISTAKES: dict[str, Callable | tuple] = {
    "In training nothing is replaced.": lambda c: c.w.double(),
    "You replace the blocks that should stay, and keep the others. Which coins are below p more often, for a large p or for a small one?": (
        lambda c: c.zeros(~c.mask),
        lambda c: c.zeros(c.wide(c.coins > c.p)),
    ),
    "You compare the coin with 1 - p. p is the probability that a block is replaced.": (
        lambda c: c.zeros(c.wide(c.coins < 1 - c.p)),
        lambda c: c.zeros(c.wide(c.coins <= 1 - c.p)),
    ),
    "A coin that is exactly p replaces a block. Compare again: with p = 0 a coin of 0 is possible.": lambda c: c.zeros(c.wide(c.coins <= c.p)),
    "The blocks of yours run down the columns. A block is a piece of a row, along the input.": outputs,
    "Your mask repeats the row of coins as a whole. The weights of a block are neighbours, and have one coin.": (
        lambda c: c.zeros((c.coins < c.p).repeat(1, c.block))
    ),
    "You divide what stays by 1 - p, as dropout does. Quant-Noise rescales nothing: the coded weight will not be larger either.": (
        lambda c: c.right / (1 - c.p if c.p < 1 else 1)
    ),
    "You multiply what stays by 1 - p. It should stay as it is.": lambda c: c.right * (1 - c.p),
    "Replaced blocks have the mean of their numbers. That is another stand-in of the paper's; here it is zero.": (
        lambda c: of_blocks(c, lambda parts: parts.mean(-1, keepdim=True))
    ),
    "Replaced blocks are negative, not zero: is something taken away twice?": lambda c: torch.where(c.mask, -c.w.double(), c.w.double()),
    "One coin replaces a whole row. Each block has its own.": lambda c: c.zeros((c.coins[:, :1] < c.p).expand_as(c.w)),
    "You return zeros everywhere.": lambda c: torch.zeros_like(c.w).double(),
}  # fmt: skip

GRADIENT_MISTAKES: dict[str, Callable] = {
    "In replaced blocks the gradient is zero: the mask multiplies it as well. It should pass as if nothing had been replaced.": (
        lambda c: torch.where(c.mask, 0.0, c.pull.double())
    ),
    "Weights that stay get their gradient twice: two terms of your sum pass it. Which of them should be cut off?": (
        lambda c: torch.where(c.mask, c.pull.double(), 2 * c.pull.double())
    ),
    "Weights that stay get no gradient, only those that were replaced.": lambda c: torch.where(
        c.mask, c.pull.double(), 0.0
    ),
    "The gradient is divided by 1 - p.": lambda c: c.pull.double() / (1 - c.p if c.p < 1 else 1.0),
}


def noise_complaint(cases: list[Noise], got: list[tuple[Tensor, Any, Tensor]]) -> str:
    """What is wrong with values and gradients; empty if nothing is."""
    trained = [(case, mine) for case, (mine, *_) in zip(cases, got, strict=True) if case.training]
    if not all(close(mine, case.right) for case, mine in trained):
        return value_complaint([case for case, _ in trained], [mine for _, mine in trained])
    idle = [(case, mine) for case, (mine, *_) in zip(cases, got, strict=True) if not case.training]
    if not all(close(mine, case.right) for case, mine in idle):
        if all(close(mine, case.zeros(case.mask)) for case, mine in idle):
            return "Right in training. In eval mode blocks are replaced as well: noise belongs to training."
        return "Right in training. In eval mode you return something else than w, which should come back as it is."
    slopes = [
        (case, case.gradient(value, leaf))
        for case, (_, value, leaf) in zip(cases, got, strict=True)
        if case.learns
    ]
    for case, slope in slopes:
        if slope is None:
            return f"The values are right, and with training={case.training} no gradient comes back to w. What cuts it off?"
    trained = [(case, slope) for case, slope in slopes if case.training]
    if not all(close(slope, case.pull.double()) for case, slope in trained):
        message = explained(
            [slope for _, slope in trained],
            [case for case, _ in trained],
            GRADIENT_MISTAKES,
            lambda mine, wrong, case: close(mine, wrong),
        )
        return f"The values are right. {message or 'The gradient of w in training is not that of what you return.'}"
    if not all(close(slope, case.pull.double()) for case, slope in slopes):
        return (
            "Right in training. In eval mode the gradient of w is another one than that of what you return."
        )
    return ""


def value_complaint(cases: list[Noise], got: list[Tensor]) -> str:
    message = explained(got, cases, VALUE_MISTAKES, lambda mine, wrong, case: close(mine, wrong))
    if message:
        return message
    gone = [(case, mine == 0) for case, mine in zip(cases, got, strict=True)]
    if not any(zero[case.mask].any() for case, zero in gone):
        return "In the blocks whose coin is below p, what you return is not zero."
    if any(
        0 < share < 1
        for case, zero in gone
        for share in zero.double().unflatten(1, (-1, case.block)).mean(-1).flatten()
    ):
        return "Within one block some weights are replaced and others stay. A coin decides for a whole block: all of its neighbours, or none."
    if any(not torch.equal(zero, case.mask) for case, zero in gone):
        return "Whole blocks are replaced, and other ones than those whose coin is below p. All chance comes from `coins`."
    return "The right blocks are zero, and what stays is not as it was. Nothing else changes."


def divides(run: Callable, draw: Random) -> None:
    """NotYet unless a block that does not divide a row is a ValueError in training, and does not matter in eval mode."""
    for R in (4, 6):
        try:
            run(randn(draw, R, 11), 3, 0.5, True, torch.full((R, 3), 0.7))
        except NotYet as refusal:
            error = refusal.__cause__
            if isinstance(error, ValueError):
                continue
            if error is None:
                raise
            raise NotYet(
                f"Rows of 11 weights cannot be cut into blocks of 3, and your function stops with {type(error).__name__}. The task asks "
                "for a ValueError, which you raise yourself, before anything is cut."
            ) from None
        if R == 4:
            raise NotYet(
                "Rows of 11 weights cannot be cut into blocks of 3, and your function returns something all the same."
            )
        raise NotYet(
            "For w (6, 11) and block=3 there is no ValueError. The block divides the number of rows and that of all weights, and a block "
            "is a piece of a row."
        )
    try:
        Noise(randn(draw, 4, 11), 3, 0.5, False, torch.full((4, 3), 0.7), learns=False).play(run)
    except NotYet as refusal:
        if isinstance(refusal.__cause__, ValueError):
            raise NotYet(
                "In eval mode w comes back as it is, whatever the block, and your function raises its ValueError there, too. When is w cut?"
            ) from None
        raise


def noise_figure(case: Noise, mine: Tensor) -> tuple[Figure, str]:
    """Which weights are zero, expected and yours."""
    figure, axes = plot.panels(2, width=3.2, height=2.6)
    for ax, name, zero in zip(axes, ("expected", "yours"), (case.mask, mine == 0), strict=True):
        ax.imshow(zero.numpy(), cmap="Greys", vmin=0, vmax=1.4, aspect="auto")
        ax.set_title(f"{name}: zeros are dark", fontsize=10)
        ax.set_xlabel(f"input, in blocks of {case.block}")
        ax.set_xticks([n * case.block - 0.5 for n in range(case.coins.shape[1] + 1)], [])
        ax.set_ylabel("output")
    return (
        figure,
        f"Which weights are zero for p={case.p:g}: {int(case.mask.sum())} of {case.w.numel()} expected, {int((mine == 0).sum())} in yours.",
    )
