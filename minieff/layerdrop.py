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
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from minieff.core.adopt import Adopted
from minieff.core.attention import Attention
from minieff.core.depth import prune
from minieff.core.draw import refuse_repeats
from minieff.core.past import goes_on
from minieff.core.probe import without_weights
from minieff.core.surgery import Where, Wrap, clone, is_a, pick, swap
from minieff.core.transformer import Block, FeedForward

STAGE = "depth"
IDEA = ("Skip",)

# what has no residual connection of its own
is_bare = is_a(
    Attention, Adopted, FeedForward, nn.MultiheadAttention, nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm
)


class Skip(Wrap):
    """A layer with a coin in front: with probability p, in training, x passes unchanged.

    The coin is tossed on the CPU, once per call, from `generator` (None: torch's global one): processes with
    the same seed skip the same layers. Of a layer that returns a tuple only the first part is skipped: the
    others may need the rest, so it runs, and no time is saved.
    """

    def __init__(self, inner: nn.Module, p: float, generator: torch.Generator | None = None) -> None:
        super().__init__(inner)
        self.p, self.generator = p, generator
        self.in_tuple = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        skipped = self.training and torch.rand((), generator=self.generator, device="cpu") < self.p
        x = (*args, *kwargs.values())[0]
        if skipped and not self.in_tuple:
            return x
        y = self.inner(*args, **kwargs)
        return (x, *y[1:]) if skipped else y

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Check:
    """A hook before a `Skip`: ValueError for what would go wrong silently, in training."""

    def __init__(self, name: str) -> None:
        self.name, self.probed = name, False

    def __call__(self, skip: Skip, args: tuple, kwargs: dict) -> None:
        x = (*args, *kwargs.values())[0]
        if not skip.training:
            return
        refuse_repeats(skip.generator)
        if not isinstance(x, Tensor):
            raise ValueError(f"{self.name} gets a {type(x).__name__} first; call it with its input first")
        if goes_on((*args, *kwargs.values()), x.shape[-2:-1].numel()):
            # a memory goes to layers in running order, or by their number: a skipped layer would have a gap
            raise ValueError("a Past or a cache needs the same layers in every call; call model.eval() first")
        if not self.probed:
            self.probe(skip, x, args, kwargs)
            self.probed = True

    def probe(self, skip: Skip, x: Tensor, args: tuple, kwargs: dict) -> None:
        """Whether the layer returns a tuple, and has a residual connection: without weights, x is left."""
        one, other = (without_weights(skip.inner, part, args, kwargs) for part in (x, 1 - x))
        if one is None or other is None:
            return
        skip.in_tuple = isinstance(one, tuple)
        one, other = (y[0] if skip.in_tuple else y for y in (one, other))
        if not isinstance(one, Tensor) or one.shape != x.shape:
            raise ValueError(
                f"{self.name}, a {type(skip.inner).__name__}, returns a {type(one).__name__} unlike its "
                "input, which a skipped layer returns; pick layers that return what they get, with where="
            )
        if torch.equal(one, other):
            raise _bare(self.name, skip.inner)


def _bare(name: str, module: nn.Module) -> ValueError:
    return ValueError(
        f"where picks {name or 'the root'}, a bare {type(module).__name__}: skipped, it would pass on its "
        "own input, and x + f(norm(x)) would become x + norm(x); pick what holds the residual connection, "
        "a Residual or a whole layer"
    )


def apply(
    model: nn.Module,
    *,
    p: float | list | Tensor,
    where: Where = is_a(Block),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy whose layers are skipped with probability `p` in train mode; with p=0 all of them run.

    `p` is one number, or a list with one per layer, in running order. `where` may also pick sub-layers.
    ValueError when p is not a probability, the list has the wrong length, no layer matches, or `where` picks
    a module without a residual connection of its own. Unknown modules are tried for that, without their
    weights, in the first call in train mode; there a Past, or a cache that holds tokens, is refused as well.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6)
    >>> [layer.p for layer in apply(model, p=0.2, where=is_a(nn.TransformerEncoderLayer)).layers]
    [0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    """
    layers = pick(model, where)
    for layer, name in layers.items():
        if is_bare(name, layer):
            raise _bare(name, layer)
    rates, names = iter(_probabilities(p, len(layers))), iter(layers.values())

    def skip(layer: nn.Module) -> Skip:
        made = Skip(layer, next(rates), generator)
        made.register_forward_pre_hook(Check(next(names)), with_kwargs=True)
        return made

    return swap(model, where, skip)


def _probabilities(p: float | list | Tensor, layers: int) -> list[float]:
    """One probability per layer."""
    p = p.tolist() if isinstance(p, Tensor) else p
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
    never wrapped; `where` says what a layer is, and every list of such layers is pruned. The numbers that
    layers store, and a config that says how many there are or has an entry for each, are kept right (see
    core/depth.py). ValueError for an empty, unordered or impossible `keep`, for one without a layer that the
    others need, and for layers that the model's class could not build from any config.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6)
    >>> len(finalize(model, keep=[0, 2, 5], where=is_a(nn.TransformerEncoderLayer)).layers)
    3
    """
    model = clone(model)
    if any(isinstance(module, Skip) for module in model.modules()):
        model = swap(model, is_a(Skip), lambda skip: skip.inner)
    if keep is not None:
        prune(model, keep, where)
    return model.eval()


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
