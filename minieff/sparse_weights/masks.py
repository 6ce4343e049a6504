"""Which weights stay: the largest, one by one, two of every four, or by rows, columns and blocks.

    keep = the n - round(s n) units with the largest norm        w_sparse = w * keep

A unit is what stays or goes together: a weight, or the weights of a row, a column or a block. A matrix (R, C)
with units of r x c weights has a grid of R / r x C / c of them.
"""

import torch
from jaxtyping import Bool, Num, Real, Shaped
from torch import Tensor, nn

PATTERNS = ("any", "2:4", "row", "column")
UPDATES = 100  # of the masks, over a schedule: finding the largest weights takes time


def unit_of(pattern: str | int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a unit of a matrix of that shape. ValueError for an unknown pattern, or one that
    the shape does not allow.

    >>> unit_of("any", (8, 6)), unit_of("row", (8, 6)), unit_of(2, (8, 6))
    ((1, 1), (1, 6), (2, 2))
    """
    if len(shape) != 2:
        raise ValueError(
            f"a weight of shape {tuple(shape)}: only matrices are pruned; pick others with where="
        )
    rows, columns = shape
    if type(pattern) is int and pattern >= 1:
        if rows % pattern or columns % pattern:
            raise ValueError(
                f"{rows} x {columns} weights cannot be cut into blocks of {pattern}; pick a divisor"
            )
        return pattern, pattern
    if pattern not in PATTERNS:
        raise ValueError(f"pattern={pattern!r}: give one of {PATTERNS}, or the size of a square block")
    if pattern == "2:4" and columns % 4:
        raise ValueError(f'pattern="2:4": rows of {columns} weights are no groups of four; pick other layers')
    return {"row": (1, columns), "column": (rows, 1)}.get(pattern, (1, 1))


def norms(w: Num[Tensor, "R C"], unit: tuple[int, int] = (1, 1)) -> Real[Tensor, "r c"]:
    """The Euclidean norm of each unit. ValueError for NaN.

    >>> norms(torch.tensor([[3.0, 4.0], [0.0, -1.0]]), (1, 2))
    tensor([[5.],
            [1.]])
    """
    if w.isnan().any():
        raise ValueError(
            "a weight holds NaN, which is neither large nor small; look for where training broke"
        )
    if unit == (1, 1):
        return w.abs()
    return torch.linalg.vector_norm(w.unflatten(0, (-1, unit[0])).unflatten(2, (-1, unit[1])), dim=(1, 3))


def spread(grid: Shaped[Tensor, "r c"], shape: torch.Size) -> Shaped[Tensor, "R C"]:
    """A value per unit of a matrix of that shape, given to each of its weights.

    >>> spread(torch.tensor([[1, 2]]), torch.Size([2, 4]))
    tensor([[1, 1, 2, 2],
            [1, 1, 2, 2]])
    """
    r, c = shape[0] // grid.shape[0], shape[1] // grid.shape[1]
    return grid[:, None, :, None].expand(-1, r, -1, c).reshape(shape)


def keep_largest(scores: Real[Tensor, "*n"], zeros: int) -> Bool[Tensor, "*n"]:
    """False for the `zeros` smallest, exactly; of equal ones the first go first, so that masks nest.

    A threshold alone would drop all that equal it, or none. ValueError for more zeros than there are scores.

    >>> keep_largest(torch.tensor([1.0, 1.0, 3.0, 1.0]), zeros=2)
    tensor([False, False,  True,  True])
    """
    if type(zeros) is not int or not 0 <= zeros <= scores.numel():
        raise ValueError(f"zeros={zeros!r}: give a whole number, from 0 to {scores.numel()}")
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    threshold = flat.kthvalue(zeros).values
    equal = flat == threshold
    dropped = (flat < threshold) | equal & (equal.cumsum(0) <= zeros - (flat < threshold).sum())
    return ~dropped.view_as(scores)


def two_of_four(w: Num[Tensor, "R C"]) -> Bool[Tensor, "R C"]:
    """True for the two of every four neighbours in a row with the largest |w|, the first among equals.

    >>> two_of_four(torch.tensor([[1.0, -3.0, 2.0, 0.0]]))
    tensor([[False,  True,  True, False]])
    """
    groups = w.unflatten(1, (-1, 4)).float().abs()
    largest = groups.argsort(dim=-1, descending=True, stable=True)[..., :2]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, largest, True).flatten(1)


class Schedule(nn.Module):
    """The share of zeros after `step` of `steps` steps: s (1 - (1 - step / steps)^3); without steps, s.

    Masks with one schedule share one threshold. The step is part of the state dict.

    >>> schedule = Schedule("any", 0.8, steps=2)
    >>> [schedule.share(), schedule.advance(), schedule.share(), schedule.advance(), schedule.share()]
    [0.0, True, 0.7000000000000001, True, 0.8]
    """

    def __init__(self, pattern: str | int, sparsity: float, steps: int) -> None:
        super().__init__()
        self.pattern, self.sparsity, self.steps = pattern, sparsity, steps
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def share(self) -> float:
        left = 1 - int(self.step) / self.steps if self.steps else 0.0
        return self.sparsity * (1 - left**3)

    def advance(self) -> bool:
        """One step, up to the last. Whether masks are due: a hundred times, at equal distances."""
        step = int(self.step)
        if step >= self.steps:
            return False
        self.step += 1
        return UPDATES * (step + 1) // self.steps > UPDATES * step // self.steps

    def scores(self, w: Num[Tensor, "R C"]) -> Real[Tensor, "r c"]:
        """The smallest go first; what the pattern protects is infinite."""
        found = norms(w, unit_of(self.pattern, w.shape))
        return found.masked_fill(two_of_four(w), float("inf")) if self.pattern == "2:4" else found

    def extra_repr(self) -> str:
        return f"{self.pattern}, sparsity={self.sparsity}, step {int(self.step)} of {self.steps}"


class Pruned(nn.Module):
    """A parametrization: w * keep. Momentum and weight decay move w, and bring no weight back.

    `keep` has a value for each unit. With a schedule, `project` finds it anew; else it stays.
    """

    def __init__(self, keep: Bool[Tensor, "r c"], schedule: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("keep", keep)
        self.schedule = schedule

    def forward(self, w: Num[Tensor, "R C"]) -> Num[Tensor, "R C"]:
        return w * spread(self.keep, w.shape)

    def extra_repr(self) -> str:
        return f"{1 - self.keep.float().mean():.1%} zero"


@torch.no_grad()
def prune(masks: dict[Pruned, Tensor], schedule: Schedule) -> None:
    """Sets the masks, given with their weights, so that the schedule's share of all their units is zero.

    Over several matrices one threshold could empty those with small weights, and no gradient would pass
    them: each keeps at least its largest unit.

    >>> one, other = (Pruned(torch.ones(1, 2, dtype=torch.bool)) for _ in range(2))
    >>> weights = torch.tensor([[1.0, 2.0]]), torch.tensor([[30.0, 40.0]])
    >>> prune({one: weights[0], other: weights[1]}, Schedule("any", 0.5, steps=0))
    >>> one.keep, other.keep
    (tensor([[False,  True]]), tensor([[False,  True]]))
    """
    scores = [schedule.scores(w.detach()).flatten() for w in masks.values()]
    if len(scores) > 1:
        scores = [s.index_fill(0, s.argmax(), float("inf")) for s in scores]
    flat = torch.cat(scores)
    keep = keep_largest(flat, round(schedule.share() * len(flat))).split([len(s) for s in scores])
    for mask, own in zip(masks, keep, strict=True):
        mask.keep = own.view_as(mask.keep)
