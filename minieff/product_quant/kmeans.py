"""k-means: K codewords that stand for N points, each point represented by the nearest.

    repeat:  code(i) = argmin over k of |b_i - c_k|^2         c_k = mean of the b_i with code(i) = k

Neither step can raise the sum of squared distances (Lloyd 1982). The start decides where it ends: k-means++
(Arthur and Vassilvitskii 2007) picks each next codeword among the points, with a probability proportional to
its squared distance from the nearest one so far. A step costs N K d multiply-accumulates.
"""

from math import log

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

AT_ONCE = 2**19  # distances held at a time: 2 MB, which stay in the caches


def kmeans(
    points: Num[Tensor, "N d"],
    codewords: int,
    *,
    iterations: int = 25,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "K d"], Int[Tensor, "N"]]:
    """A codebook and the code of each point; at most `iterations` steps, fewer when no code changes.

    At most `codewords` distinct points are the codebook themselves, padded with copies of the last, and
    nothing is lost. A codeword without points moves to the point farthest from its own codeword.
    ValueError for no points or codewords, NaN or infinity.

    >>> points = torch.tensor([[0.0], [1.0], [8.0], [9.0]])
    >>> codebook, codes = kmeans(points, 2)
    >>> codebook[codes].flatten()
    tensor([0.5000, 0.5000, 8.5000, 8.5000])
    """
    _refuse_points(points, codewords)
    few = _without_loss(points, codewords)
    if few is not None:
        return few
    # centred, in units of the largest: squares neither overflow nor lose their digits to an offset
    unit = points.abs().max()
    points = points / unit
    middle = points.mean(0)
    points = points - middle
    codebook, codes = lloyd(points, start(points, codewords, generator), iterations)
    return (codebook + middle) * unit, codes


def lloyd(
    points: Float[Tensor, "N d"], codebook: Float[Tensor, "K d"], iterations: int = 25
) -> tuple[Float[Tensor, "K d"], Int[Tensor, "N"]]:
    """k-means from a given codebook: a better one, and the code of each point.

    >>> lloyd(torch.tensor([[0.0], [1.0], [8.0], [9.0]]), torch.tensor([[0.0], [1.0]]))[0].flatten()
    tensor([0.5000, 8.5000])
    """
    codes = torch.empty(0)
    for _ in range(iterations):
        before, codes = codes, nearest(points, codebook)
        if torch.equal(codes, before):
            break
        codebook = means(points, codes, codebook)
    return codebook, nearest(points, codebook)


def _refuse_points(points: Tensor, codewords: int) -> None:
    if type(codewords) is not int or codewords < 1 or points.numel() == 0:
        raise ValueError(
            f"{codewords} codewords for points of shape {tuple(points.shape)}; at least one of each is needed"
        )
    if not points.is_floating_point() or not points.isfinite().all():
        raise ValueError(f"NaN, infinity or whole numbers among the points ({points.dtype}); fix them")


def _without_loss(
    points: Float[Tensor, "N d"], codewords: int
) -> tuple[Float[Tensor, "K d"], Int[Tensor, "N"]] | None:
    """The distinct points as codewords, if there are few enough."""
    if len(points[: 4 * codewords].unique(dim=0)) > codewords:  # a look at all of them takes long
        return None
    distinct, codes = points.unique(dim=0, return_inverse=True)
    if len(distinct) > codewords:
        return None
    return torch.cat([distinct, distinct[-1:].expand(codewords - len(distinct), -1)]), codes


def start(
    points: Float[Tensor, "N d"],
    codewords: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "K d"]:
    """The codewords of k-means++, each the best of 2 + log K candidates, as in scikit-learn.

    >>> start(torch.tensor([[0.0], [0.0], [9.0]]), 2, None).flatten().sort().values
    tensor([0., 9.])
    """
    candidates = 2 + int(log(codewords))
    own = points.square().sum(1, keepdim=True)  # (N, 1)

    def reach_to(others: Tensor) -> Tensor:
        """Squared distances (n, N) from each of `others` to all points."""
        return (own + _distances(points, others)).clamp_(min=0).T

    chosen = [int(torch.randint(len(points), (), generator=generator))]
    reach = reach_to(points[chosen])[0]  # (N,), of each point to the nearest codeword
    for _ in range(codewords - 1):
        odds = reach if reach.sum() > 0 else torch.ones_like(reach)  # every point equals a codeword
        tried = torch.multinomial(odds, candidates, replacement=True, generator=generator)
        reached = torch.minimum(reach, reach_to(points[tried]))  # (candidates, N)
        best = int(reached.sum(1).argmin())
        chosen.append(int(tried[best]))
        reach = reached[best]
    return points[chosen]


def nearest(points: Float[Tensor, "N d"], codebook: Float[Tensor, "K d"]) -> Int[Tensor, "N"]:
    """The code of each point: the index of the nearest codeword.

    >>> nearest(torch.tensor([[0.0], [4.0], [9.0]]), torch.tensor([[1.0], [8.0]]))
    tensor([0, 0, 1])
    """
    rows = max(1, AT_ONCE // len(codebook))
    return torch.cat([_argmin(_distances(part, codebook)) for part in points.split(rows)])


def _argmin(distances: Float[Tensor, "n K"]) -> Int[Tensor, "n"]:
    """The place of the smallest number in each row. For long rows NumPy takes a tenth of the time of
    torch.argmin, and torch.min half of it.
    """
    if distances.is_cpu and distances.dtype == torch.float32 and distances.shape[1] >= 64:
        return torch.from_numpy(distances.detach().numpy().argmin(1))
    return distances.min(1).indices


def _distances(points: Tensor, codebook: Tensor) -> Float[Tensor, "n K"]:
    """Squared distances, less |b_i|^2, which all K have in common."""
    return torch.addmm(codebook.square().sum(1), points, codebook.T, alpha=-2)


def means(
    points: Float[Tensor, "N d"],
    codes: Int[Tensor, "N"],
    codebook: Float[Tensor, "K d"],
) -> Float[Tensor, "K d"]:
    """The mean of each codeword's points; for one without points, a point far from its codeword.

    >>> points = torch.tensor([[0.0], [2.0], [9.0]])
    >>> means(points, torch.tensor([0, 0, 1]), torch.zeros(2, 1)).flatten()
    tensor([1., 9.])
    """
    counts = torch.bincount(codes, minlength=len(codebook))
    new = torch.zeros_like(codebook).index_add_(0, codes, points) / counts[:, None].clamp(min=1)
    empty = counts == 0
    if empty.any():
        errors = (points - codebook[codes]).square().sum(1)
        new[empty] = points[errors.topk(int(empty.sum())).indices]
    return new
