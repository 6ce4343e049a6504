"""The paper's data-driven choice of layers, which lesson 08 compares with two simpler ones."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from minieff.core.surgery import Where, Wrap, is_a, record, swap
from minieff.core.transformer import Block
from minieff.layerdrop import finalize, keep_evenly


class Gate(Wrap):
    """x + gate (layer(x) - x): a layer between absent, gate 0, and present, gate 1."""

    gate: Tensor | float = 1.0

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return x + self.gate * (self.inner(x, *args, **kwargs) - x)


def keep_learned(
    model: nn.Module,
    batches: Iterable,
    kept: int,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    where: Where = is_a(Block),
    rate: float = 0.05,
) -> list[int]:
    """The `kept` layers whose learned share is largest, on a trained model, with one step a batch.

    After the paper's data-driven pruning, which learns a probability for each layer from its activations.
    Here h_d (C,) is the mean activation that layer d leaves, its share softmax over d of
    w_d . tanh(h_d) + b_d, and its gate min(1, kept * share). Adam with the learning rate `rate` trains w and
    b alone, to lessen `loss(model, batch)`. Shares are averaged over the second half of the batches. A layer
    behind a half-open gate is not a layer that is gone: check what comes out. ValueError unless
    1 <= kept <= layers, without batches, and where a layer runs twice.
    """
    gated = swap(finalize(model), where, Gate).requires_grad_(False)
    gates = [module for module in gated.modules() if isinstance(module, Gate)]
    keep_evenly(len(gates), kept)  # refuses
    shares = list(_learned_shares(gated, gates, batches, kept, loss, rate))
    if not shares:
        raise ValueError("no batches: the shares are learned from them; give some")
    mean = torch.stack(shares[len(shares) // 2 :]).mean(0)
    return sorted(mean.topk(kept).indices.tolist())


def _learned_shares(
    gated: nn.Module,
    gates: list[Gate],
    batches: Iterable,
    kept: int,
    loss: Callable[[nn.Module, Any], Tensor],
    rate: float,
) -> Iterator[Tensor]:
    """The share of each layer, (L,), at every batch; what gives the shares takes a step after each."""
    scores = None
    for batch in batches:
        h = _mean_activations(gated, gates, batch, loss)  # (L, C)
        if scores is None:
            scores = [torch.zeros_like(t, requires_grad=True) for t in (h, h[:, 0])]  # w and b
            optimizer = torch.optim.Adam(scores, lr=rate)
        share = ((scores[0] * h.tanh()).sum(-1) + scores[1]).softmax(0)
        for gate, value in zip(gates, (kept * share).clamp(max=1), strict=True):
            gate.gate = value
        optimizer.zero_grad()
        loss(gated, batch).backward()
        optimizer.step()
        yield share.detach()


@torch.no_grad()
def _mean_activations(
    gated: nn.Module, gates: list[Gate], batch: Any, loss: Callable[[nn.Module, Any], Tensor]
) -> Tensor:
    """What each layer leaves when all are present, averaged over batch and positions: (L, C)."""
    for gate in gates:
        gate.gate = 1.0
    with record(gated, is_a(Gate)) as calls:
        loss(gated, batch)
    if len(calls) != len(gates):
        raise ValueError(f"{len(gates)} layers ran {len(calls)} times; each must run once, to have one share")
    return torch.stack([call.output.flatten(0, -2).mean(0) for call in calls])
