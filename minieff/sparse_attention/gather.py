"""Attention over the visible pairs alone: each group gathers its keys once, and is a dense product.

Inside of a group the mask hides what a query does not see. A pattern in two passes is two attentions, joined
by the denominators of their softmaxes (as the blocks of FlashAttention, Dao et al. 2022, arXiv 2205.14135):

    Z1 = sum of exp(score) over pass 1,   y = (Z1 y1 + Z2 y2) / (Z1 + Z2)

What is computed besides the visible pairs are the hidden ones inside of groups; `Gather.macs` counts both.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from minieff.core.attention import Mask, fused, softmax, unchanged
from minieff.sparse_attention.layout import Groups, layouts
from minieff.sparse_attention.masks import pairs


class Pass(nn.Module):
    """The groups of one pass as tables, the same for all heads or (H of them) one a head.

    `queries` (G, H, N) and `keys` (G, H, M) are positions, filled up with the context's length; `seen`
    (G, H, N, M) is the mask; `slot` (H, context) is where each query is, g N + n, or -1.
    """

    def __init__(self, pairs: Bool[Tensor, "H T S"], heads: list[Groups], size: int) -> None:
        super().__init__()
        H, T, S = pairs.shape
        G, M = max(map(len, heads)), max(len(keys) for groups in heads for _, keys in groups)
        tables = {
            "queries": torch.full((G, H, size), T),
            "keys": torch.full((G, H, M), S),
            "seen": torch.zeros(G, H, size, M, dtype=torch.bool),
            "slot": torch.full((H, T), -1),
        }
        for h, groups in enumerate(heads):
            for g, (queries, keys) in enumerate(groups):
                n, m = len(queries), len(keys)
                tables["queries"][g, h, :n], tables["keys"][g, h, :m] = queries, keys
                tables["seen"][g, h, :n, :m] = pairs[h][queries[:, None], keys]
                tables["slot"][h, queries] = g * size + torch.arange(n)
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)  # finalize makes them again

    def upto(self, T: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and mask of the groups that the first T positions need, without later keys."""
        n = int((self.queries[:, :, 0] < T).any(1).sum())
        here = self.keys[:n] < T
        m = int(here.sum(-1).max()) if n else 0  # keys are in order
        queries, keys = (index[:n].clamp(max=T - 1) for index in (self.queries, self.keys[:, :, :m]))
        return queries, keys, self.seen[:n, :, :, :m] & here[:, :, None, :m]

    def home(self, x: Shaped[Tensor, "B G H N D"], T: int) -> Shaped[Tensor, "B H T D"]:
        """From groups back to positions. Of a query that is in no group the values mean nothing."""
        return rows(x.transpose(1, 2).flatten(2, 3), self.slot[None, :, :T].clamp(min=0))[:, 0]

    def absent(self, T: int) -> Bool[Tensor, "h T 1"]:
        """The queries that are in no group."""
        return (self.slot[:, :T] < 0)[..., None]

    def extra_repr(self) -> str:
        groups, heads, queries, keys = self.seen.shape
        return f"{groups} groups of {queries} queries and {keys} keys" + f", {heads} heads" * (heads > 1)


def rows(x: Shaped[Tensor, "B H S D"], index: Int[Tensor, "G h N"]) -> Shaped[Tensor, "B G H N D"]:
    """x at the positions of `index`, which is the same for all heads (h = 1) or one a head.

    >>> rows(torch.arange(6.0).view(1, 2, 3, 1), torch.tensor([[[2, 0]]])).flatten()
    tensor([2., 0., 5., 3.])
    """
    x, index = x.transpose(1, 2), index.transpose(1, 2)  # contiguous rows, as the projections have left them
    H = x.shape[2]
    if index.shape[2] == 1:
        found = x.flatten(2).index_select(1, index.flatten())  # the heads together
    else:
        index = index * H + torch.arange(H, device=x.device)  # (G, N, H)
        found = x.flatten(1, 2).index_select(1, index.flatten())
    return found.view(len(x), *index.shape[:2], H, -1).transpose(2, 3)


def narrowed(
    seen: Bool[Tensor, "G h *N"], asked: list[Mask], B: int, H: int, q_idx: Tensor, kv_idx: Tensor
) -> Bool[Tensor, "..."]:
    """What these masks leave of `seen`, at positions that broadcast to its shape: (..., G, h or H, *N).

    >>> table, q_idx = torch.ones(3, 1, 2, dtype=torch.bool), torch.arange(3).view(3, 1, 1)
    >>> narrowed(table, [Mask(lambda b, h, q, k: q >= k)], 1, 1, q_idx, torch.tensor([0, 2])).flatten().long()
    tensor([1, 0, 1, 0, 1, 1])
    """
    b = torch.arange(B, device=seen.device).view(-1, *[1] * seen.dim())
    h = torch.arange(H, device=seen.device).view(-1, *[1] * (seen.dim() - 2))
    for mask in asked:
        seen = seen & mask(b, h, q_idx, kv_idx)
    return seen


def needs_weights(attn: nn.Module, q: Tensor) -> bool:
    """For other seams, for dropout, and where torch's fused kernel returns no Z, or none with a gradient.

    >>> from minieff.core.attention import Attention
    >>> needs_weights(Attention(8, 2).eval(), torch.randn(1, 2, 5, 4))
    False
    """
    other_seams = attn.normalize is not softmax or attn.reweight is not unchanged
    dropout = attn.training and attn.dropout > 0
    return other_seams or dropout or q.device.type != "cpu" or (torch.is_grad_enabled() and q.requires_grad)


class Gather(nn.Module):
    """A kernel of `Attention` that computes the pairs of `mask`, in groups; for up to `context` positions.

    The mask of a call may hide more (padding, say), but must include all of `mask`: it is asked at the
    gathered positions about the rest. ValueError for a mask that depends on the row of the batch, and for a
    call that lacks a part of `mask` or is longer.

    >>> from minieff.core.attention import Attention, causal, itself
    >>> q, k, v = torch.randn(3, 1, 2, 5, 4)  # (B, H, T, D) each
    >>> kernel = Gather(causal & itself, heads=2, context=8)
    >>> torch.equal(kernel(Attention(8, 2), q, k, v, causal & itself, start=0), v)
    True
    """

    def __init__(self, mask: Mask, heads: int, context: int) -> None:
        super().__init__()
        self.mask, self.context = mask, context
        first = torch.zeros(1, 1, dtype=torch.long)
        if mask.visible(2, 1, first, first[0]).shape[:-2].numel() > 1:
            raise ValueError(f"mask={mask} differs from row to row of a batch; give it to the call instead")
        visible = pairs(mask, context, heads)
        empty = (~visible.any(-1)).nonzero().tolist()
        if empty:
            raise ValueError(
                f"mask={mask}: position {empty[0][1]} sees nothing in head {empty[0][0]}; add `| itself`"
            )
        best = min(layouts(visible), key=lambda layout: layout.cost)
        self.passes = nn.ModuleList(
            Pass(pairs, heads, best.size) for pairs, heads in zip(best.pairs, best.groups, strict=True)
        )

    def forward(
        self,
        attn: nn.Module,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H S D"],
        v: Float[Tensor, "B H S D"],
        mask: Mask,
        start: int,
    ) -> Float[Tensor, "B H T D"]:
        asked = self.rest(mask, k.shape[2])
        if start:  # few queries: to read all keys is faster than to gather some
            return fused(attn, q, k, v, mask, start)
        if not q.shape[2]:  # no query, no output
            return q
        if needs_weights(attn, q):
            return self.by_rows(attn, q, k, v, asked)
        return self.by_groups(q, k, v, asked)

    def rest(self, mask: Mask, end: int) -> list[Mask]:
        """The parts of a call's mask that are not in the tables."""
        missing = [part for part in self.mask.parts if part not in mask.parts]
        if missing:
            raise ValueError(
                f"this kernel computes the pairs of {self.mask}, and was called with {mask}, which lacks "
                f"{missing[0]}; finalize with mask= what all calls have, such as everything"
            )
        if end > self.context:
            raise ValueError(
                f"{end} positions, but this kernel has context={self.context}; finalize with more"
            )
        return [part for part in mask.parts if part not in self.mask.parts]

    def tables(self, q: Float[Tensor, "B H T D"], asked: list[Mask]) -> list[tuple]:
        """The passes that T positions need, with queries, keys and the mask, that of the call included."""
        B, H, T, _ = q.shape
        found = [(each, *each.upto(T)) for each in self.passes]
        return [
            (each, queries, keys, narrowed(seen, asked, B, H, queries[..., None], keys[..., None, :]))
            for each, queries, keys, seen in found
            if seen.numel()
        ]

    def blind(self, q: Float[Tensor, "B H T D"], tables: list[tuple]) -> Bool[Tensor, "B H T 1"]:
        """The queries from which the call's mask has hidden all keys: their output is 0, as SDPA's."""
        B, H, T, _ = q.shape
        blind = torch.ones(B, H, T, 1, dtype=torch.bool, device=q.device)
        for each, _, _, seen in tables:
            some = seen.any(-1, keepdim=True).expand(B, len(seen) if seen.dim() == 4 else -1, H, -1, 1)
            blind &= ~each.home(some, T) | each.absent(T)
        return blind

    def by_groups(self, q: Float[Tensor, "B H T D"], k: Tensor, v: Tensor, asked: list[Mask]) -> Tensor:
        """Each group by torch's fused attention, which returns log Z as well."""
        B, T = q.shape[0], q.shape[2]
        tables, found = self.tables(q, asked), []
        for each, queries, keys, seen in tables:
            # not -inf: of a row without a key in this pass the kernel would return log Z = 0
            bias = (seen.to(q.dtype) - 1) * (torch.finfo(q.dtype).max / 2)
            y, log_z = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *(rows(x, index).flatten(0, 1) for x, index in ((q, queries), (k, keys), (v, keys))),
                attn_mask=bias.expand(B, *bias.shape[-4:]).flatten(0, 1),
            )  # (B G, H, N, D) and (B G, H, N)
            y, log_z = (each.home(x.unflatten(0, (B, -1)), T) for x in (y, log_z[..., None]))
            found.append((y, log_z.masked_fill(each.absent(T), -torch.inf)))
        y, log_z = found[0]
        for other, log_other in found[1:]:  # at most one
            y = torch.lerp(y, other, (log_other - log_z).sigmoid().to(y.dtype))
        return y.masked_fill(self.blind(q, tables), 0.0) if asked else y

    def by_rows(
        self, attn: nn.Module, q: Float[Tensor, "B H T D"], k: Tensor, v: Tensor, asked: list[Mask]
    ) -> Float[Tensor, "B H T D"]:
        """Written out: the scores of all passes side by side, so that the seams see one row per query."""
        T, D = q.shape[2:]
        tables, scores, distances = self.tables(q, asked), [], []
        for each, queries, keys, seen in tables:
            own = (rows(q, queries) @ rows(k, keys).mT / sqrt(D)).masked_fill(~seen, -torch.inf)
            scores.append(each.home(own, T).masked_fill(each.absent(T), -torch.inf))
            distances.append(each.home((queries[..., None] - keys[..., None, :])[None], T)[0])  # (h, T, M)
        blind = self.blind(q, tables)
        rowwise = torch.cat(scores, -1).masked_fill(blind, 0.0)  # a row of -inf has no softmax
        weights = attn.reweight(attn.normalize(rowwise), torch.cat(distances, -1))
        weights = F.dropout(weights, attn.dropout, attn.training)
        parts = weights.split([own.shape[-1] for own in scores], -1)
        y = torch.zeros_like(q)
        for (each, queries, keys, _), own in zip(tables, parts, strict=True):
            own = rows(own, queries) @ rows(v, keys)  # (B, G, H, N, D)
            y = y + each.home(own, T).masked_fill(each.absent(T), 0.0)
        return y.masked_fill(blind, 0.0)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        """Of all pairs inside of groups, the hidden ones too; for a pass from position 0."""
        B, H, T, D = inputs[1].shape
        return sum(2 * B * H // each.slot.shape[0] * each.upto(T)[2].numel() * D for each in self.passes)

    def extra_repr(self) -> str:
        return f"context={self.context}"
