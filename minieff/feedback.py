"""Feedback memory: every layer attends to one vector per past token, a mixture of all layers' outputs.

Fan et al. 2020, "Addressing Some Limitations of Transformers with Feedback Memory", arXiv 2002.09402. In a
Transformer, layer l reads what the layers below it made of earlier tokens; here even the first layer reads
what the last one made of them. With x^0 the embedding and L layers:

    m_t = sum over l = 0..L of softmax(w)_l x_t^l         w learned, zeros at first: the mean
    x_t^l = layer_l(x_t^(l-1), keys W_k m_i and values W_v m_i of the tokens i < t)

Keys and values are shared by all layers. Two details are ours: each m_i goes through a LayerNorm, as what a
pre-norm layer reads does; and at its own position, where no memory exists yet, a token finds a learned vector
`now`, so that the first token has something to attend to. (The released code starts with a cache of zeros
that are not masked: absent tokens take a part of the attention.) A mask can only hide: of later tokens there
is no memory yet, so a prefix mask acts as a causal one.

Saves: the cache holds one key and one value per token instead of L, and the other layers' projections go,
(L - 1) 2 (C^2 + C) parameters. Costs: tokens are computed one after the other, in training and for the
prompt, too: T times L small steps instead of L large ones, and a graph of T^2 C numbers for the backward
pass, so keep T to a few hundred. It does not save depth by itself; the paper reports that fewer layers then
do as well. Noise on weights is drawn once per pass, a coin of LayerDrop once per token.
By hand, where `layer(x, memory)` attends from x to memory, (B, T, C) each:

    # in __init__
    self.mix, self.start = MemoryVector(layers=len(self.layers)), nn.Parameter(torch.zeros(1, 1, dim))
    # in forward, x (B, T, C): token by token
    memory, outputs = [self.start.expand(len(x), 1, -1)], []
    for token in x.split(1, dim=1):
        states = [token]
        for layer in self.layers:
            states.append(layer(states[-1], torch.cat(memory, dim=1)))
        memory.append(self.mix(states))
        outputs.append(states[-1])
    y = torch.cat(outputs, dim=1)
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from minieff.core.attention import Attention, Mask, causal
from minieff.core.past import Fresh, fresh
from minieff.core.surgery import Where, is_a, swap
from minieff.core.transformer import Stack

STAGE = "stack"
IDEA = ("MemoryVector",)


class MemoryVector(nn.Module):
    """A weighted sum of what a token becomes: its embedding and the output of each of `layers` layers.

    >>> mix = MemoryVector(layers=1)
    >>> mix([torch.zeros(1, 1, 2), torch.ones(1, 1, 2)])
    tensor([[[0.5000, 0.5000]]], grad_fn=<ViewBackward0>)
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers + 1))

    def forward(self, states: list[Tensor]) -> Tensor:
        if len(states) != len(self.weight):
            raise ValueError(
                f"{len(states)} states for {len(self.weight)} weights, one for the embedding and each layer: "
                "change the number of layers before the memory is made"
            )
        return torch.tensordot(self.weight.softmax(0), torch.stack(states), 1)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return output.numel() * len(self.weight)


class Memory(Fresh):
    """The past as all layers see it while they compute one token: the same keys and values for each.

    >>> k, v = torch.randn(2, 1, 5, 8)  # of four past tokens and of `now`
    >>> own = torch.randn(1, 2, 1, 4)  # what a layer with two heads would add of its own: not looked at
    >>> keys, values = Memory(k, v, start=4).slot().extend(own, own)
    >>> keys.shape
    torch.Size([1, 2, 5, 4])
    """

    def __init__(self, k: Float[Tensor, "B S C"], v: Float[Tensor, "B S C"], start: int) -> None:
        self.k, self.v = k, v
        self.start = self.length = start

    def slot(self) -> "Memory":
        return self

    def extend(self, *own: Float[Tensor, "B H 1 D"], keep: int | None = None) -> tuple[Tensor, ...]:
        """Shared keys and values, (B, H, S, D) each, of the last `keep` memories (None: all) and of `now`."""
        if len(own) != 2:
            raise ValueError(
                f"a mixer stores {len(own)} tensors per token, and a feedback memory a key and a value; "
                "keep Attention in every block"
            )
        first = 0 if keep is None else max(0, self.start - keep)
        k, v = (t[:, first:].unflatten(-1, (-1, own[0].shape[-1])).transpose(1, 2) for t in (self.k, self.v))
        return k, v


def _layers(stack: nn.Module) -> nn.ModuleList:
    """What a stack runs. ValueError for a module without layers, or whose layers take no past."""
    layers = getattr(stack, "layers", None)
    if not (isinstance(layers, nn.ModuleList) and layers) or isinstance(stack, nn.TransformerEncoder):
        kind = type(stack).__name__
        raise ValueError(f"where picks a {kind}, which holds no layers that take a past; pick is_a(Stack)")
    return layers


def _readers(stack: nn.Module, attention: Where) -> list[list[nn.Module]]:
    """The modules of each layer that read the memory. ValueError for what has none, or cannot share one."""
    layers = _layers(stack)
    if isinstance(attention, type) or not callable(attention):
        raise ValueError(f"attention={attention!r}: give a function, such as is_a(Attention)")
    readers = [[m for name, m in layer.named_modules() if attention(name, m)] for layer in layers]
    if not all(readers):
        number = readers.index([])
        kinds = ", ".join(sorted({type(m).__name__ for m in layers[number].modules()}))
        raise ValueError(
            f"layer {number} has no attention to read the memory; it is made of: {kinds}. "
            "Apply feedback to a stack with attention in every layer"
        )
    linears = [all(isinstance(m._modules.get(part), nn.Linear) for part in "kv") for m in sum(readers, [])]
    if not all(linears):
        kind = type(sum(readers, [])[linears.index(False)]).__name__
        raise ValueError(
            f"attention picks a {kind}, which has no linears `k` and `v` to share; "
            "pick is_a(Attention), before weights are stored otherwise"
        )
    if any(getattr(module, "counts_per_pass", False) for module in stack.modules()):
        raise ValueError(
            "a layer here counts its cost per pass, and feedback calls it for each token alone; "
            "use universal without halt"
        )
    return readers


class Feedback(nn.Module):
    """Runs the layers of a `Stack` on one token after the other, all of them reading one memory.

    The projections of the last layer become the shared ones; the others' are removed. `attention` says which
    modules of a layer read the memory. ValueError for a layer without one.
    """

    def __init__(self, stack: nn.Module, attention: Where) -> None:
        super().__init__()
        readers = _readers(stack, attention)
        self.layers, last = stack.layers, readers[-1][-1]
        self.k, self.v, dim = last.k, last.v, last.k.in_features
        for reader in sum(readers, []):
            # the shared ones take their place; parameters that nothing uses would get no gradient
            reader.k, reader.v = nn.Identity(), nn.Identity()
        weight = next(stack.parameters())
        self.mix, self.norm = MemoryVector(len(self.layers)).to(weight), nn.LayerNorm(dim).to(weight)
        self.now = nn.Parameter(weight.new_zeros(1, 1, dim))

    def project(self, x: Float[Tensor, "B T C"]) -> tuple[Tensor, Tensor]:
        return self.k(x), self.v(x)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        with cached():  # weights that are computed, such as quantized ones, once and not per token
            return torch.cat(list(self.outputs(x, mask, past)), 1)

    def outputs(self, x: Float[Tensor, "B T C"], mask: Mask, past: Fresh) -> Iterator[Tensor]:
        """The last layer's output for each token, (B, 1, C)."""
        slot = past.slot()  # the only one: all layers share it
        now = [t.expand(len(x), -1, -1) for t in self.project(self.now)]
        kept = slot.extend(*self.project(x[:, :0]))  # what earlier calls stored
        for position, token in enumerate(x.split(1, dim=1), past.start):
            memory = Memory(*(torch.cat(pair, 1) for pair in zip(kept, now, strict=True)), position)
            states = [token]
            for layer in self.layers:
                states.append(layer(states[-1], mask, memory))
            kept = slot.extend(*self.project(self.norm(self.mix(states))))
            yield states[-1]

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return 0  # its parts count themselves, and `now` is an input

    def extra_repr(self) -> str:
        return f"one memory per token for {len(self.layers)} layers"


def apply(model: nn.Module, *, where: Where = is_a(Stack), attention: Where = is_a(Attention)) -> nn.Module:
    """A copy whose layers run token by token and read one feedback memory: another model, to be trained.

    `where` picks what holds the layers in `.layers` and calls each as `layer(x, mask, past)`; `attention` the
    modules of a layer that have projections `k` and `v` and read `past.slot().extend(k, v)`. Decoding through
    `Past` is exact and stores one key and one value per token. ValueError when the model has a feedback
    memory already, when there is no `Stack`, or for a layer without attention.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = apply(Transformer(Config(vocab=50, context=16, layers=3, heads=2, dim=8)))
    >>> model.blocks.k, model.blocks.layers[0].mix.inner.k
    (Linear(in_features=8, out_features=8, bias=True), Identity())
    """
    if any(isinstance(module, Feedback) for module in model.modules()):
        raise ValueError("this model has a feedback memory already: a stack is run in one way; apply it once")
    return swap(model, where, lambda stack: Feedback(stack, attention))
