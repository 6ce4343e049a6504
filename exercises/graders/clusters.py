"""Task 1 of exercise 11: points and codewords, and the misconceptions about k-means. And what the other tasks compare tensors with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from exercises.graders import Case, NotYet
from exercises.graders.judge import answer
from exercises.graders.kinds import kind_of
from minieff import plot


def tensor(value: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """A tensor, an array, or a list of numbers of that shape, in double precision; NotYet for anything else."""
    if isinstance(value, np.ndarray | list | tuple):
        try:
            value = torch.as_tensor(np.array(value, dtype=np.float64))
        except (TypeError, ValueError):
            raise NotYet(
                f"For {what} your function returns {kind_of(value)}, and the task asks for a tensor."
            ) from None
    if not isinstance(value, Tensor):
        raise NotYet(f"For {what} your function returns {kind_of(value)}, and the task asks for a tensor.")
    if tuple(value.shape) != shape:
        raise NotYet(
            f"For {what} your function returns the shape {tuple(value.shape)}, and the task asks for {shape}."
        )
    return value.detach().double()


def close(mine: Tensor, wanted: Tensor) -> bool:
    """Equal, but for what float32 loses."""
    reach = 1 + wanted.abs().max() if wanted.numel() else 1
    return mine.shape == wanted.shape and bool(((mine - wanted).abs() <= 1e-4 * reach).all())


def explained(got: Sequence, cases: Sequence, mistakes: dict[str, Callable | tuple], same: Callable) -> str:
    """The first message of which one mistake gives the learner's answers to all cases; empty if there is none."""
    for message, ways in mistakes.items():
        for way in ways if isinstance(ways, tuple) else (ways,):
            if all(same(mine, way(case), case) for mine, case in zip(got, cases, strict=True)):
                return message
    return ""


def randn(draw: Random, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(draw.randrange(2**31)))


# Task 1


@dataclass(frozen=True)
class Cluster:
    """One call of Task 1."""

    points: Tensor
    codebook: Tensor

    @property
    def label(self) -> str:
        N, d = self.points.shape
        return f"{N} points of {d} numbers, {len(self.codebook)} codewords, {int(self.empty.sum())} of them without points"

    @cached_property
    def off(self) -> Tensor:
        """Differences (N, K, d)."""
        return self.points.double()[:, None] - self.codebook.double()

    @cached_property
    def codes(self) -> Tensor:
        return self.off.square().sum(-1).argmin(1)

    @cached_property
    def empty(self) -> Tensor:
        return torch.bincount(self.codes, minlength=len(self.codebook)) == 0

    def each(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`of` the points of each codeword; a codeword without points where it was."""
        rows = [
            of(self.points[self.codes == k].double()) if not self.empty[k] else self.codebook[k].double()
            for k in range(len(self.codebook))
        ]
        return torch.stack(rows)

    @cached_property
    def means(self) -> Tensor:
        return self.each(lambda own: own.mean(0))

    def play(self, run: Callable) -> tuple[Tensor, Tensor]:
        """Codes and codebook, of whatever number of codewords."""
        return answer(run, Case((self.points, self.codebook), self.label), self.read)

    def read(self, value: Any) -> tuple[Tensor, Tensor]:
        (N, d), K = self.points.shape, len(self.codebook)
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise NotYet(
                f"Your function returns {kind_of(value)}, and the task asks for a pair, (codes, new_codebook)."
            )
        codes, book = value
        if isinstance(codes, Tensor) and codes.shape == (K, d) and getattr(book, "shape", None) == (N,):
            raise NotYet("You return the codebook first. The task asks for the codes, then the codebook.")
        if isinstance(codes, Tensor) and codes.shape == (K,) and K != N:
            raise NotYet(
                "You return one number for each codeword, and each *point* needs one. Over which axis of the distances do you "
                "look for the nearest?"
            )
        codes = tensor(codes, (N,), "the codes")
        if not codes.isfinite().all() or (codes != codes.round()).any():
            raise NotYet("A code is the number of a codeword, and among yours are numbers with a fraction.")
        if isinstance(book, Tensor) and book.ndim == 2 and book.shape[1] == d and len(book) < K:
            raise NotYet(
                f"Your new codebook has {len(book)} codewords, and {K} were given. A codeword without points keeps its place: "
                "without it, the numbers of those behind it change."
            )
        return codes.long(), tensor(book, (K, d), "the new codebook")


def clusters(draw: Random) -> list[Cluster]:
    """Codewords without points in the middle and at both ends, none without, more codewords than points, than a byte counts, and a
    single one, with more points than a byte counts, and with one.
    """
    sizes = ((37, 5, 3, [2]), (58, 7, 2, [0, 6]), (3, 6, 5, []), (60, 300, 3, [13, 150]))
    alone = ((321, 1, 4, []), (1, 1, 1, []))
    return [*(cluster(draw, *size) for size in (*sizes, *alone)), around_zero(draw)]


def cluster(draw: Random, N: int, K: int, d: int, far: list[int]) -> Cluster:
    """Points whose nearest codeword is clear: their order does not hang on rounding."""
    spread = torch.tensor([draw.uniform(0.7, 2.5) for _ in range(d)])
    codebook = spread * randn(draw, K, d) + draw.uniform(0.3, 0.8)
    codebook[far] = codebook[far] * 3 + torch.tensor([[draw.choice((-40.0, 40.0))] for _ in far]).view(-1, 1)
    found = Cluster(1.3 * spread * randn(draw, 2 * N + 20, d) - 0.4, codebook)
    two = found.off.square().sum(-1).sort(1).values
    clear = two[:, min(1, K - 1)] > 1e-3 + two[:, 0] if K > 1 else torch.ones(len(two), dtype=torch.bool)
    return Cluster(found.points[clear][:N], codebook)


def around_zero(draw: Random) -> Cluster:
    """Two codewords, of which one has points that add up to exactly 0."""
    half = (64 * randn(draw, 9, 3)).round() / 64
    points = torch.cat([half, -half, 40 + randn(draw, 5, 3)])
    return Cluster(points, torch.stack([0.1 * randn(draw, 3) + 0.6, 40 + randn(draw, 3)]))


def next_codes(case: Cluster) -> Tensor:
    return Cluster(case.points, case.means.float()).codes


def product(case: Cluster) -> Tensor:
    return case.points.double() @ case.codebook.double().T


CODE_MISTAKES: dict[str, Callable] = {
    "You choose the codeword that is *farthest*. Which of the distances do you want, the largest or the smallest?": (
        lambda c: c.off.square().sum(-1).argmax(1)
    ),
    "Your codes are nearest by the sum of absolute differences. k-means goes by squares, and its means are right for squares only.": (
        lambda c: c.off.abs().sum(-1).argmin(1)
    ),
    "You compare the largest difference of a coordinate alone. All coordinates count.": lambda c: c.off.abs().amax(-1).argmin(1),
    "You add the differences up and square, or take the size, afterwards: those of two signs cancel. What comes first?": (
        lambda c: c.off.sum(-1).abs().argmin(1)
    ),
    "You compare products of points with codewords. A long codeword is then taken where a nearer one is short: take distances.": (
        lambda c: product(c).argmax(1)
    ),
    "You take the smallest product of point and codeword, and that is the codeword which points away most. Take distances.": (
        lambda c: product(c).argmin(1)
    ),
    "You compare angles. Two points in one direction can be far from each other.": (
        lambda c: (product(c) / c.codebook.double().norm(dim=1)).argmax(1)
    ),
    "You multiply the squared distance out, and the mixed term is too small. What is (b - c) squared?": (
        lambda c: (c.codebook.double().square().sum(1) - product(c)).argmin(1)
    ),
    "Your codes belong to the *new* codebook. In this step each point is assigned first, under the codebook that was given, and then "
    "the codewords move.": next_codes,
    "You count codewords from 1. The first one is number 0.": lambda c: c.codes + 1,
    "Your codes are kept in a byte, which goes on with 0 after 255. There may be more codewords.": lambda c: c.codes % 256,
}  # fmt: skip

BOOK_MISTAKES: dict[str, Callable] = {
    "Codewords are where they were. After the codes, each of them moves.": lambda c: c.codebook.double(),
    "A codeword becomes the *sum* of its points. Then it lies far from all of them.": lambda c: c.each(lambda own: own.sum(0)),
    "You divide each codeword's sum by the number of all points. How many of them are its own?": (
        lambda c: c.each(lambda own: own.sum(0) / len(c.points))
    ),
    "You divide each codeword's sum by the number of codewords. How many points are its own?": (
        lambda c: c.each(lambda own: own.sum(0) / len(c.codebook))
    ),
    "Each codeword becomes the mean of *all* points.": lambda c: c.each(lambda own: c.points.double().mean(0)),
    "You take a codeword's median. The sum of squares is least at another point.": lambda c: c.each(lambda own: own.median(0).values),
    "The old codeword is counted among its points.": (
        lambda c: c.each(lambda own: own.mean(0)) + (c.codebook - c.means)
        / (1 + torch.bincount(c.codes, minlength=len(c.codebook)))[:, None]
    ),
    "You count the points of a codeword in a byte, which goes on with 0 after 255. One here has more.": (
        lambda c: c.each(lambda own: own.sum(0) / (len(own) % 256))
    ),
    "You move the codewords twice. The task asks for one step.": lambda c: Cluster(c.points, c.means.float()).means,
}  # fmt: skip


def lloyd_complaint(cases: list[Cluster], got: list[tuple[Tensor, Tensor]]) -> str:
    """What is wrong with codes and codebooks; empty if nothing is."""
    codes, books = zip(*got, strict=True)
    for case, own in zip(cases, codes, strict=True):
        if own.min() < 0:
            return (
                f"Your codes begin at {own.min()}, for {case.label}. There is no such codeword. A type with a sign and 8 bits ends at "
                "127."
            )
    if not all(torch.equal(own, case.codes) for own, case in zip(codes, cases, strict=True)):
        message = explained(codes, cases, CODE_MISTAKES, lambda mine, wrong, case: torch.equal(mine, wrong))
        return message or wrong_code(cases, codes)
    used = [(case, book[~case.empty]) for case, book in zip(cases, books, strict=True)]
    if not all(close(book, case.means[~case.empty]) for case, book in used):
        return explained(
            books,
            cases,
            BOOK_MISTAKES,
            lambda mine, wrong, case: close(mine[~case.empty], wrong[~case.empty]),
        ) or wrong_mean(used)
    return idle_complaint(
        [(book, case.codebook, case.empty) for case, book in zip(cases, books, strict=True)], "points"
    )


def idle_complaint(trios: list[tuple[Tensor, Tensor, Tensor]], of: str) -> str:
    """What is wrong with codewords that have no points, or no blocks, from (yours, before, which); empty if nothing is."""
    idle = [(mine[which], before[which].double()) for mine, before, which in trios]
    if all(close(mine, before) for mine, before in idle):
        return ""
    begin = f"Codewords with {of} are right. Those without"
    if any(mine.isnan().any() for mine, _ in idle):
        return f"{begin} become NaN: that is 0 / 0, the mean of nothing. They should stay where they are."
    if not any(mine.any() for mine, _ in idle):
        return f"{begin} become zero. They should stay where they are."
    return f"{begin} move somewhere else. They should stay where they are."


def wrong_code(cases: list[Cluster], codes: Sequence[Tensor]) -> str:
    case, own = next(
        pair for pair in zip(cases, codes, strict=True) if not torch.equal(pair[1], pair[0].codes)
    )
    if own.max() >= len(case.codebook):
        return f"A code of yours is {own.max()}, for {case.label}. There is no such codeword."
    i = int((own != case.codes).nonzero()[0])
    away = case.off[i].square().sum(-1)
    return (
        f"For {case.label}, {int((own != case.codes).sum())} codes are wrong. The first is that of point {i}: its squared distance from "
        f"your codeword is {away[own[i]]:.4g}, and from another one {away.min():.4g}."
    )


def wrong_mean(used: list[tuple[Cluster, Tensor]]) -> str:
    case, book = next((case, book) for case, book in used if not close(book, case.means[~case.empty]))
    off = (book - case.means[~case.empty]).abs().amax(1)
    k = int(off.argmax())
    return (
        f"Your codes are right. For {case.label}, a codeword is off by {off[k]:.3g}. It has "
        f"{int(torch.bincount(case.codes)[(~case.empty).nonzero()[k, 0]])} of the points. Add these up and divide, by hand."
    )


def moved_figure(case: Cluster, book: Tensor) -> tuple[Figure, str]:
    """The points of a case in two dimensions, and where the codewords went."""
    figure, (ax,) = plot.panels(1, width=4.6, height=3.4)
    colours = [name for name in plot.PALETTE if name not in ("black", "grey")]
    for k in torch.unique(case.codes).tolist():
        own = case.points[case.codes == k]
        ax.scatter(own[:, 0], own[:, 1], s=9, color=plot.PALETTE[colours[k % len(colours)]])
        ax.annotate(
            "", book[k].tolist(), case.codebook[k].tolist(), arrowprops={"arrowstyle": "->", "lw": 1.2}
        )
        ax.annotate(str(k), case.codebook[k].tolist(), fontsize=10)
    ax.set_xlabel("first number of a point")
    ax.set_ylabel("second number")
    return figure, (
        f"{len(case.points)} points in a plane, coloured by code; an arrow leads from each codeword to the mean of its points."
    )
