"""LayerDrop: skip whole layers at random in training, so that layers can be removed afterwards.

Fan, Grave, Joulin 2019, "Reducing Transformer Depth on Demand with Structured Dropout", arXiv 1909.11556. In
training each layer is replaced by the identity with probability p, without rescaling:

    x <- x                with probability p
    x <- layer(x)         otherwise, and always in eval mode

Stochastic Depth (Huang et al. 2016, arXiv 1603.09382) had skipped residual blocks, deeper ones more often,
and scaled each by its 1 - p at inference; LayerDrop scales nothing, and skips so that layers can be removed.

Of L layers L (1 - p) run in an average step, so for pruning to r layers the paper derives p = 1 - r / L. A
layer must hold its own residual connection; a bare sub-layer would turn x + f(norm(x)) into x + norm(x).
Saves: training time, about p of the time spent in the layers; and after `finalize(keep=...)` parameters,
bytes, MACs and latency, in proportion to the layers removed. Costs: some quality at full depth, unless there
was overfitting to prevent. It does not save: anything at inference before layers are removed, nor the
embedding; and where sub-layers were skipped, `finalize` has no whole layers to remove. By hand, for a model
with a list of layers:

    # before training
    model.layers = nn.ModuleList(Skip(layer, p=0.2) for layer in model.layers)
    # after training, keep some
    model.layers = nn.ModuleList(model.layers[i].inner for i in (0, 2, 5))
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn

from minieff.core.adopt import Adopted
from minieff.core.attention import Attention
from minieff.core.past import Past
from minieff.core.surgery import Where, Wrap, clone, is_a, pick, swap
from minieff.core.transformer import Block, FeedForward, Transformer

STAGE = "depth"
IDEA = ("Skip",)

# what has no residual connection of its own
is_bare = is_a(
    Attention, Adopted, FeedForward, nn.MultiheadAttention, nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm
)


class Skip(Wrap):
    """A layer with a coin in front: with probability p, in training, x passes unchanged.

    The coin is tossed on the CPU, once per call, from `generator` (None: torch's global one): processes with
    the same seed skip the same layers. Activation checkpointing belongs inside, not around it.
    """

    def __init__(self, inner: nn.Module, p: float, generator: torch.Generator | None = None) -> None:
        super().__init__(inner)
        self.p = p
        self.generator = generator

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        if self.training and any(isinstance(value, Past) for value in (*args, *kwargs.values())):
            # slots go to layers in running order: a skipped layer would shift them
            raise ValueError("a Past needs the same layers in every call; call model.eval() first")
        if self.training and torch.rand((), generator=self.generator, device="cpu") < self.p:
            return x
        return self.inner(x, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def apply(
    model: nn.Module,
    *,
    p: float | list,
    where: Where = is_a(Block),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy whose layers are skipped with probability `p` in train mode; with p=0 all of them run.

    `p` is one number, or a list with one per layer, in running order. `where` may also pick sub-layers.
    ValueError when p is not a probability, the list has the wrong length, no layer matches, or `where` picks
    a module without a residual connection of its own.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6)
    >>> [layer.p for layer in apply(model, p=0.2, where=is_a(nn.TransformerEncoderLayer)).layers]
    [0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    """
    layers = pick(model, where)
    bare = [name for layer, name in layers.items() if is_bare(name, layer)]
    if bare:
        kind = type(model.get_submodule(bare[0])).__name__
        raise ValueError(
            f"where picks {bare[0] or 'the root'}, a bare {kind}: skipped, it would pass on its own input, "
            "and x + f(norm(x)) would become x + norm(x); pick what holds the residual connection, a "
            "Residual or a whole layer"
        )
    rates = iter(_probabilities(p, len(layers)))
    return swap(model, where, lambda layer: Skip(layer, next(rates), generator))


def _probabilities(p: float | list, layers: int) -> list[float]:
    """One probability per layer."""
    rates = list(p) if isinstance(p, list | tuple) else [p] * layers
    if len(rates) != layers:
        raise ValueError(f"p has {len(rates)} values for {layers} layers; give one number, or one per layer")
    for rate in rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"p={p}: the probability of skipping a layer is a number from 0 to 1")
    return rates


def finalize(model: nn.Module, *, keep: list[int] | None = None, where: Where = is_a(Block)) -> nn.Module:
    """A copy in eval mode without coins, and with only the layers `keep` (None: all), counted from 0.

    Its output is that of `model` in eval mode with all other layers skipped. Also works on a model that was
    never wrapped; `where` then says what a layer is. Layers that store their own number (`layer_idx`, as in
    transformers) get the new one. ValueError for an empty, unordered or impossible `keep`.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6)
    >>> len(finalize(model, keep=[0, 2, 5], where=is_a(nn.TransformerEncoderLayer)).layers)
    3
    """
    model = clone(model) if keep is None else _prune(model, keep, where)
    if any(isinstance(module, Skip) for module in model.modules()):
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
        return _numbered(nn.ModuleList(layers[i] for i in keep))

    if not any(holds_layers(name, module) for name, module in model.named_modules()):
        raise ValueError("keep= prunes a list, but no nn.ModuleList holds only layers that where matches")
    model = swap(model, holds_layers, shorten)
    config = getattr(model, "config", None)
    if isinstance(model, Transformer):
        model.config = replace(config, layers=len(keep))
    elif hasattr(config, "num_hidden_layers"):  # transformers
        config.num_hidden_layers = len(keep)
    return model


def _numbered(layers: nn.ModuleList) -> nn.ModuleList:
    """The cache of transformers is indexed by the number that each attention stores."""
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    return layers


def keep_evenly(layers: int, kept: int) -> list[int]:
    """The numbers of `kept` out of `layers` layers, evenly spaced from first to last (for one, the first).

    The paper's rule, every layer d with d = 0 modulo floor(1 / p), can only drop 1/2, 1/3, 1/4 ... of the
    layers, and drops all of them for p > 1/2. ValueError unless 1 <= kept <= layers.

    >>> keep_evenly(8, 4)
    [0, 2, 5, 7]
    """
    if not 1 <= kept <= layers:
        raise ValueError(f"kept={kept}: keep from 1 to all {layers} layers")
    gaps = max(1, kept - 1)
    return [(i * (layers - 1) + gaps // 2) // gaps for i in range(kept)]


def keep_best(layers: int, kept: int, loss: Callable[[list[int]], float]) -> list[int]:
    """The `kept` of `layers` layers with the lowest `loss(keep)` of all combinations.

    Use the loss on held-out text, and judge the winner on other text: the lowest of many losses is too
    optimistic. ValueError unless 1 <= kept <= layers, and for a loss of NaN.

    >>> keep_best(4, 2, loss=lambda keep: abs(sum(keep) - 4))
    [1, 3]
    """
    keep_evenly(layers, kept)  # checks `kept`
    losses = {keep: loss(list(keep)) for keep in combinations(range(layers), kept)}
    for keep, value in losses.items():
        if value != value:
            raise ValueError(f"loss({list(keep)}) is {value}, which cannot be compared; fix the loss")
    return list(min(losses, key=losses.__getitem__))
