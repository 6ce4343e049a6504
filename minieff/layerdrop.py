"""LayerDrop: skip whole layers at random in training, so that layers can be removed afterwards.

Fan, Grave, Joulin 2019, "Reducing Transformer Depth on Demand with Structured Dropout", arXiv 1909.11556. In
training each layer is replaced by the identity with probability p, without rescaling:

    x <- x                with probability p
    x <- layer(x)         otherwise, and always in eval mode

Of L layers L (1 - p) run in an average step, so to prune to r layers the paper trains with p = 1 - r / L.
Saves: training time, about p of the time spent in the layers; and after `finalize(keep=...)` parameters,
bytes, MACs and latency, in proportion to the layers removed. Costs: some quality at full depth when training
is short. It does not save: anything at inference before layers are removed, nor the embedding.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from minieff.surgery import Where, Wrap, clone, is_a, swap
from minieff.transformer import Block, Transformer

STAGE = "depth"


class Skip(Wrap):
    """A layer with a coin in front: with probability p, in training, x passes unchanged."""

    def __init__(self, inner: nn.Module, p: float, generator: torch.Generator | None = None) -> None:
        super().__init__(inner)
        self.p = p
        self.generator = generator

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        if self.training and torch.rand((), generator=self.generator) < self.p:
            return x
        return self.inner(x, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def apply(
    model: nn.Module, *, p: float, where: Where = is_a(Block), generator: torch.Generator | None = None
) -> nn.Module:
    """A copy whose layers are skipped with probability `p` in train mode; p=0 changes nothing.

    `generator` draws the coins (None: torch's global one). ValueError when p is no probability or no layer
    matches.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: the probability of skipping a layer lies from 0 to 1")
    return swap(model, where, lambda layer: Skip(layer, p, generator))


def finalize(model: nn.Module, *, keep: list[int] | None = None, where: Where = is_a(Block)) -> nn.Module:
    """A copy in eval mode without coins, and with only the layers `keep` (None: all), counted from 0.

    Equals the eval output with the other layers forced to be skipped. Works on a model that was never
    wrapped, too; `where` then says what a layer is. ValueError for an empty, unordered or impossible `keep`.
    """
    model = clone(model) if keep is None else _prune(model, keep, where)
    if any(isinstance(m, Skip) for m in model.modules()):
        model = swap(model, is_a(Skip), lambda skip: skip.inner)
    return model.eval()


def _prune(model: nn.Module, keep: list[int], where: Where) -> nn.Module:
    """A copy in which the list of layers holds those in `keep`."""

    def holds_layers(name: str, module: nn.Module) -> bool:
        return (
            type(module) is nn.ModuleList
            and len(module) > 0
            and all(isinstance(layer, Skip) or where(f"{name}.{i}", layer) for i, layer in enumerate(module))
        )

    def shorten(layers: nn.ModuleList) -> nn.ModuleList:
        if not keep or sorted(set(keep)) != list(keep) or not 0 <= keep[0] <= keep[-1] < len(layers):
            raise ValueError(
                f"keep={keep}: give increasing layer numbers from 0 to {len(layers) - 1}, at least one"
            )
        return nn.ModuleList(layers[i] for i in keep)

    if not any(holds_layers(name, module) for name, module in model.named_modules()):
        raise ValueError("keep= prunes a list: here no nn.ModuleList holds only layers that where matches")
    model = swap(model, holds_layers, shorten)
    if isinstance(model, Transformer):
        model.config = replace(model.config, layers=len(keep))
    return model
