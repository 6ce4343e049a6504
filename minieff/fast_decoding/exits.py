"""Early exit: in eval mode a position whose next token is likely enough skips the layers that are left.

Its state stays as it is, and the keys and values that later positions need of it in the skipped layers come
from that state.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, causal
from minieff.core.past import Fresh, fresh
from minieff.core.surgery import Wrap, swap
from minieff.core.transformer import Block, Stack, Transformer


class Exit(nn.Module):
    """Blocks in order, up to the first after which the likeliest token has probability `threshold`.

    Each position has its own exit; a block is skipped when all positions of the call have left, as in
    decoding one sequence. `depth` (B, T) is the number of layers that each position of the last call took.
    """

    def __init__(
        self, layers: nn.ModuleList, norm: nn.Module, tok: nn.Module, threshold: float | int
    ) -> None:
        super().__init__()
        self.layers, self.norm, self.tok, self.threshold = layers, norm, tok, threshold
        self.depth = torch.zeros(0, 0, dtype=torch.long)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        left = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        depth = torch.zeros_like(left, dtype=torch.long)
        for number, layer in enumerate(self.layers, 1):
            if left.all():
                remember(layer, x, mask, past)
                continue
            x, depth = torch.where(left[..., None], x, layer(x, mask, past)), depth + ~left
            if not self.training and number < len(self.layers):
                left = left | (self.confidence(x) >= self.threshold)
        self.depth = depth
        return x

    def confidence(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T"]:
        """The probability of the likeliest token, if this were the last layer."""
        return self.tok.logits(self.norm(x)).softmax(-1).amax(-1)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


def remember(layer: nn.Module, x: Float[Tensor, "B T C"], mask: Mask, past: Fresh) -> None:
    """Fills the slot of a skipped block: keys and values of x, or by running a mixer that has others."""
    mix = unwrapped(unwrapped(layer).mix)
    mixer, x = unwrapped(mix.inner), mix.norm(x)
    if type(mixer) is Attention:
        past.slot().extend(mixer.split(mixer.k(x)), mixer.split(mixer.v(x)))
    else:
        mixer(x, mask, past)


def unwrapped(module: nn.Module) -> nn.Module:
    """What is inside of all wrappers.

    >>> unwrapped(Wrap(Wrap(nn.ReLU())))
    ReLU()
    """
    while isinstance(module, Wrap):
        module = module.inner
    return module


def exits(model: nn.Module, *, threshold: float | int) -> nn.Module:
    """A copy that takes fewer layers in eval mode, where the likeliest token reaches `threshold` before.

    Above 1 it is the model itself; at 0 all positions leave after the first layer. In train mode all layers
    run. Layers are trained to be read early by a loss on each of them; without it few exits are good. Each
    layer costs a product with the head, V C MACs, so this pays for many or wide layers and a small
    vocabulary. ValueError for another `threshold`, when the model is no Transformer of minieff, its stack has
    a runner already, or a layer is no Block.

    >>> from minieff.core.transformer import Config
    >>> model = Transformer(Config(vocab=50, context=16, layers=4, heads=2, dim=8)).eval()
    >>> early = exits(model, threshold=0.0)
    >>> _ = early(torch.zeros(1, 3, dtype=torch.long))
    >>> early.blocks.depth
    tensor([[1, 1, 1]])
    """
    if not isinstance(threshold, int | float) or threshold != threshold:
        raise ValueError(f"threshold={threshold!r}: a probability, or more than 1 to take all layers")
    if not any(type(module) is Transformer for module in model.modules()):
        raise ValueError(
            f"a {type(model).__name__} holds no minieff.core.transformer.Transformer, whose layers exits runs"
        )

    def runner(root: nn.Module) -> nn.Module:
        if type(root.blocks) is not Stack:
            raise ValueError(
                f"the layers are run by {type(root.blocks).__name__} already: exits needs a Stack"
            )
        others = [
            type(layer).__name__ for layer in map(unwrapped, root.blocks.layers) if type(layer) is not Block
        ]
        if others:
            raise ValueError(f"exits knows layers of the kind Block, and one is a {others[0]}")
        root.blocks = Exit(root.blocks.layers, root.norm, root.tok, threshold)
        return root

    return swap(model, lambda name, module: type(module) is Transformer, runner)
