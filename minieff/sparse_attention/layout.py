"""Which queries are computed together: a sparse pattern cut into dense pieces.

A group is some queries with all the keys that any of them sees. Which queries go together is read off the
pattern: in the order of their first visible key, neighbours follow each other under a local pattern, and i,
i + s, i + 2 s, ... under a stride of s. The union of two such patterns fits neither order. It is computed in
two passes: a key that a single query of a block sees is left to the second.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

SIZES = (8, 16, 32, 64, 128)  # of a group, in queries
COPY = 24  # what gathering a key costs, in scores

Groups = list[tuple[Tensor, Tensor]]  # queries (n,) and keys (m,), positions


def grouped(visible: Bool[Tensor, "T S"], size: int, sort: bool) -> Groups:
    """Groups of at most `size` queries, in the order of their positions or of their first visible key.

    Positions grow inside of a group, and first queries from group to group. Queries that see nothing are in
    none.

    >>> stride = torch.eye(4, dtype=torch.bool) | torch.eye(4).roll(2, 0).tril().bool()
    >>> [(queries.tolist(), keys.tolist()) for queries, keys in grouped(stride, 2, sort=True)]
    [([0, 2], [0, 2]), ([1, 3], [1, 3])]
    """
    order = visible.any(1).nonzero().flatten()
    if sort:
        order = order[visible[order].byte().argmax(1).argsort(stable=True)]
    runs = order.tensor_split((order.diff() < 0).nonzero().flatten() + 1)
    groups = [queries for run in runs for queries in run.split(size) if len(queries)]
    groups.sort(key=lambda queries: int(queries[0]))
    return [(queries, visible[queries].any(0).nonzero().flatten()) for queries in groups]


def divided(visible: Bool[Tensor, "T S"], size: int) -> list[Bool[Tensor, "T S"]]:
    """The pairs whose key another query of the block sees, too, or sees a neighbour of; and the others.

    >>> near, far = divided(torch.eye(8, dtype=torch.bool) | torch.eye(8).roll(4, 0).tril().bool(), 4)
    >>> near.sum().item(), far.sum().item()
    (0, 12)
    """
    blocks = F.pad(visible, (0, 0, 0, -len(visible) % size)).unflatten(0, (-1, size))
    shared = F.max_pool1d(
        (blocks.sum(1, dtype=torch.uint8) > 1).float(), 3, 1, 1
    )  # (blocks, S); a run of keys with its ends
    near = shared.bool().repeat_interleave(size, 0)[: len(visible)]
    return [visible & near, visible & ~near]


class Layout(NamedTuple):
    """One way to compute a pattern: for each pass the pairs (H, T, S) and, a head each, the groups."""

    size: int
    pairs: list[Bool[Tensor, "H T S"]]
    groups: list[list[Groups]]

    @property
    def cost(self) -> int:
        """In scores, those that only fill up groups included."""
        return sum(
            len(heads) * max(map(len, heads)) * max(len(keys) for groups in heads for _, keys in groups)
            for heads in self.groups
        ) * (self.size + COPY)


def layouts(visible: Bool[Tensor, "H T S"]) -> Iterator[Layout]:
    """One pass by position, one by first key, and two, with groups of one or two sizes.

    >>> triangle = torch.ones(1, 64, 64, dtype=torch.bool).tril()
    >>> [(layout.size, layout.cost) for layout in layouts(triangle)]
    [(8, 16384), (8, 16384)]
    """
    T = visible.shape[1]
    for size in [size for size in SIZES if T <= 4 * size**2 <= 8 * T] or SIZES[:1]:  # near sqrt(T)
        for sort in (False, True):
            yield Layout(size, [visible], [[grouped(head, size, sort) for head in visible]])
        both = zip(*(divided(head, size) for head in visible), strict=True)
        both = [torch.stack(heads) for heads in both]
        both = [pairs for pairs in both if pairs.any()]
        if len(both) == 2:
            yield Layout(size, both, [[grouped(head, size, True) for head in pairs] for pairs in both])
