"""Weight sharing: several layers use the weights of one, and embedding and head use one small table.

Of L layers, each chunk of `every` calls one block again and again; with every = L that is ALBERT (Lan et al.
2019, arXiv 1909.11942), which also cuts the embedding of V tokens into two factors of width r:

    x <- block[i - i mod every](x)            for i = 0 ... L - 1
    E (V, C) ~ A (V, r) B (r, C)              V r + r C numbers in place of V C

A Universal Transformer (Dehghani et al. 2018, arXiv 1807.03819) has one block for all steps and tells it
which step it is; with adaptive computation time (Graves 2016, arXiv 1603.08983) each position decides how
many of them it takes. The gradient of a shared weight is the sum over its uses.

Saves: parameters and stored bytes, up to L times in the layers; in training the optimizer's state as well. It
does not save: MACs, activations or time, for every layer still runs, and none of a decoder's keys and values,
since each use of a block remembers its own. By hand, of a model with a list of layers:

    # two neighbours share
    model.layers = nn.ModuleList(model.layers[i - i % 2] for i in range(len(model.layers)))
    # or one block, six steps, each with its vector
    model.layers = nn.ModuleList([Loop(model.layers[0], steps=6, dim=16)])
"""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from minieff.core.storage import refuse_other_layers
from minieff.core.surgery import Where, Wrap, clone, first_users, is_a, parametrizations, pick, source, swap
from minieff.core.transformer import Block, TokenEmbedding
from minieff.weight_sharing.embedding import FactorizedEmbedding, FactorizedHead
from minieff.weight_sharing.loop import Loop, Ponder

STAGE = "stack"
VERBS = ("apply", "universal", "factorize")
IDEA = ("Loop",)


def apply(model: nn.Module, *, every: int, where: Where = is_a(Block)) -> nn.Module:
    """A copy in which each chunk of `every` layers in running order is the first of them, called again.

    every=1 shares nothing, and the number of layers shares all; the last chunk may be shorter. `where` says
    what a layer is; the list that holds them is found by that. ValueError when there is no such list, its
    layers are shared already, or `every` is not from 1 to their number.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6)
    >>> layers = apply(model, every=2, where=is_a(nn.TransformerEncoderLayer)).layers
    >>> layers[0] is layers[1], layers[1] is layers[2], len(layers)
    (True, False, 6)
    """

    def chunks(layers: nn.ModuleList) -> nn.ModuleList:
        if type(every) is not int or not 1 <= every <= len(layers):
            raise ValueError(f"every={every!r}: from 1, nothing shared, to all {len(layers)} layers")
        return nn.ModuleList(_again(layers[i - i % every], i) for i in range(len(layers)))

    return _replace_lists(model, where, chunks)


def _again(layer: nn.Module, number: int) -> nn.Module:
    """The layer itself; or, where its parts are numbered, a copy with that number and the same weights.

    A cache of transformers is indexed by that number (`layer_idx`): two uses would write into one place.
    """
    if not any(hasattr(module, "layer_idx") for module in layer.modules()):
        return layer
    other = clone(layer)
    for mine, theirs in zip(other.modules(), layer.modules(), strict=True):
        mine._parameters.update(theirs._parameters)
        mine._buffers.update(theirs._buffers)
        if hasattr(mine, "layer_idx"):
            mine.layer_idx = number
    return other


def _replace_lists(model: nn.Module, where: Where, make) -> nn.Module:
    """A copy with make(list) for each list that holds only layers, bare or wrapped."""

    def is_layer(name: str, module: nn.Module) -> bool:
        return where(name, module) or (isinstance(module, Wrap) and is_layer(f"{name}.inner", module.inner))

    def holds_layers(name: str, module: nn.Module) -> bool:
        layers = list(module) if type(module) is nn.ModuleList else []
        return bool(layers) and all(is_layer(f"{name}.{i}", layer) for i, layer in enumerate(layers))

    def make_once(layers: nn.ModuleList) -> nn.ModuleList:
        different = {frozenset(layer.parameters()) for layer in layers}
        if len(different) < len(layers) or any(isinstance(layer, Loop | Ponder) for layer in layers):
            raise ValueError("these layers share their weights already; start from the model before that")
        return make(layers)

    pick(model, where)  # refuses what is no `where`, and one that matches nothing
    if not any(holds_layers(name, module) for name, module in model.named_modules()):
        raise ValueError("sharing needs a list: no nn.ModuleList holds only what where= picks; pick layers")
    return swap(model, holds_layers, make_once)


def universal(
    model: nn.Module,
    *,
    steps: int,
    halt: float | None = None,
    price: float = 0.01,
    dim: int | None = None,
    where: Where = is_a(Block),
) -> nn.Module:
    """A copy with the first of its layers in a loop of `steps`, in place of all: a Universal Transformer.

    To x each step adds a vector of its own, zero at first (the paper adds fixed sinusoids of the step, and
    positions again); steps=1 is then the block alone. With `halt` each position stops by itself, once the
    shares of its steps reach 1 - halt (the paper: 0.01); `penalty` is `price` times the mean number of steps.
    `dim` is the width of x; None: that of the block's first parameter. ValueError for steps or dim below 1, a
    halt outside of (0, 1), a negative price, and as in `apply`.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6)
    >>> universal(model, steps=4, where=is_a(nn.TransformerEncoderLayer)).layers[0].time.shape
    torch.Size([4, 8])
    """
    if any(type(size) is not int or size < 1 for size in (steps, 1 if dim is None else dim)):
        raise ValueError(f"steps={steps!r}, dim={dim!r}: whole numbers of at least 1")
    numbers = all(isinstance(value, int | float) for value in (price, halt or 0))
    if not numbers or (halt is not None and not 0 < halt < 1) or not 0 <= price < float("inf"):
        raise ValueError(f"halt={halt!r}, price={price!r}: halt is None or within (0, 1), price 0 or more")

    def loop(layers: nn.ModuleList) -> nn.ModuleList:
        first = next(layers[0].parameters())
        width = first.shape[-1] if dim is None else dim
        if halt is None:
            made = Loop(layers[0], steps, width)
        else:
            made = Ponder(layers[0], steps, width, halt, price)
            made.share.to(first)
        made.time = nn.Parameter(made.time.to(first))
        return nn.ModuleList([made])

    return _replace_lists(model, where, loop)


def penalty(model: nn.Module, *, real: Bool[Tensor, "B T"] | None = None) -> Tensor:
    """`price` times the mean ponder cost of the last forward, 0 without `halt`; joins the loss.

    `real` says which tokens count (None: all): padding ponders, too, but should not be paid for. It is True
    where a token counts, in the layout of x. ValueError before the first forward, and for another `real` or
    one without any token.

    >>> penalty(nn.Linear(3, 2))
    tensor(0.)
    """
    total = torch.zeros(())
    for ponder in (module for module in model.modules() if isinstance(module, Ponder)):
        if ponder.cost is None:
            raise ValueError("the ponder cost is that of the last forward: call the model first")
        kind, shape = getattr(real, "dtype", type(real)), tuple(getattr(real, "shape", ()))
        if real is not None and (kind != torch.bool or shape != ponder.cost.shape or not real.any()):
            raise ValueError(f"real: {kind} {shape}; give booleans {tuple(ponder.cost.shape)}, some True")
        cost = ponder.cost if real is None else ponder.cost[real]
        total = total.to(cost) + ponder.price * cost.mean()
    return total


def factorize(model: nn.Module, *, rank: int, where: Where = is_a(TokenEmbedding)) -> nn.Module:
    """A copy whose embeddings (V, C) are products of (V, rank) and (rank, C), the best of that rank (SVD).

    Exact for rank = C. A head that uses the same weight is to be picked, too, and shares the factors.
    ValueError for a rank that is not from 1 to min(V, C), half a tie, a weight that is stored otherwise,
    parametrized or not finite, or when nothing matches.

    >>> model = nn.Sequential(nn.Embedding(1000, 64))
    >>> factorize(model, rank=8, where=is_a(nn.Embedding))[0].tokens
    Embedding(1000, 8)
    """
    chosen = pick(model, where)
    refuse_other_layers(chosen)
    first_users(model, chosen)  # refuses half a tie
    for module, name in chosen.items():
        most = min(module.weight.shape)
        if type(rank) is not int or not 1 <= rank <= most:
            raise ValueError(f"rank={rank!r}: {name} has ranks from 1 to {most}")
        if parametrizations(module):
            raise ValueError(f"{name} is parametrized, which its factors would lose; factorize it first")
        if not (module.weight.is_meta or module.weight.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity, which has no factors; fix its weight first")
    factors: dict[nn.Parameter, FactorizedEmbedding] = {}

    def split(module: nn.Module) -> nn.Module:
        weight = source(module)
        if weight not in factors:
            factors[weight] = FactorizedEmbedding(weight, rank)
        if isinstance(module, nn.Embedding):
            factors[weight].tokens.padding_idx = module.padding_idx
            return factors[weight]
        return FactorizedHead(factors[weight], module.bias)

    return swap(model, where, split)


def tie(model: nn.Module, *, where: Where) -> nn.Module:
    """A copy in which the modules that match use one weight, that of the first: embedding and head, say.

    Load weights first, then tie; a head keeps its bias. ValueError for fewer than two modules, weights of
    different shapes or types, or one that is parametrized or stored otherwise.

    >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    >>> tied = tie(model, where=is_a(nn.Embedding, nn.Linear))
    >>> tied[0].weight is tied[1].weight
    True
    """
    model = clone(model)
    chosen = pick(model, where)
    shapes = {n: None if source(m) is None else (*m.weight.shape, m.weight.dtype) for m, n in chosen.items()}
    kinds = set(shapes.values())
    if len(chosen) < 2 or len(kinds) > 1 or None in kinds or any(parametrizations(m) for m in chosen):
        raise ValueError(f"two or more plain weights of one shape and type can be tied; where picks {shapes}")
    first, *others = chosen
    for module in others:
        module.weight = source(first)
    return model


def finalize(model: nn.Module) -> nn.Module:
    """A copy in eval mode. What is shared is so at inference as well: there is nothing to take away.

    >>> finalize(nn.Linear(3, 2)).training
    False
    """
    return clone(model).eval()
