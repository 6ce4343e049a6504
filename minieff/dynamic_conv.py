"""Lightweight and dynamic convolutions: mix W neighbours with a short kernel in place of attention.

Wu, Fan, Baevski, Dauphin, Auli 2019, arXiv 1901.10430, "Pay Less Attention with Lightweight and Dynamic
Convolutions". Between two linears, channel c of position t is an average of the same channel nearby:

    x = glu(x A),   y[t, c] = sum over j of softmax(w[h])[j] x[t + j - (W - 1) + ahead, c],   then y B

The channels of a head, h = floor(c H / C), share their W weights. They are learned (lightweight), or are
computed from the position (dynamic): w[t] = x[t] Q, with Q (C, H W). The softmax is over all W taps; then
those are left out that the mask hides or that lie outside of the sequence, as in a convolution with zeros
around its input. DropConnect, with probability p, leaves out others in training.

Saves: time in long sequences, O(T W) in place of O(T^2), and C^2 of attention's 4 C^2 parameters, less the
C H W that dynamic weights take; a decoder needs the last W - 1 inputs only (`Past` keeps all, to be able to
rewind). It does not save: the linears, most of the cost in short sequences. Costs: L layers see no more than
L (W - 1) positions back.
By hand:

    # in __init__
    self.into, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
    self.taps = DynamicTaps(dim, heads=4, width=7)
    # in forward: no position sees a later one
    x = F.glu(self.into(x), dim=-1)
    y = self.out(convolve(F.pad(x, (0, 0, 6, 0)), self.taps(x)))
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, causal, everything, fused, softmax, unchanged
from minieff.core.draw import uniform
from minieff.core.past import Fresh, fresh
from minieff.core.surgery import Where, clone, is_a, swap

STAGE = "mixer"
IDEA = ("convolve", "DynamicTaps")


def convolve(x: Float[Tensor, "B S C"], taps: Float[Tensor, "#B H T W"]) -> Float[Tensor, "B T C"]:
    """y[t] = sum over j of taps[t, j] x[t + j], with S = T + W - 1, for the channels of each head alike.

    As products of matrices: n positions see n + W - 1 inputs, through a matrix with their taps on its
    diagonals. Reading rows of taps and n zeros as rows that are one shorter moves each one step to the right.
    Most of these matrices are zeros, and still that is faster than a sum over W shifted copies of x.

    >>> convolve(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[[1.0, 1.0], [0.0, 10.0]]]])).flatten()
    tensor([ 3., 30.])
    """
    (H, T, W), n = taps.shape[1:], min(32, taps.shape[2])
    if T < 1 or x.shape[1] != T + W - 1 or x.shape[2] % H:
        raise ValueError(f"x {tuple(x.shape)}, taps {tuple(taps.shape)}: T >= 1, S = T + W - 1, H divides C")
    rest, seen = -T % n, n + W - 1
    x, taps = F.pad(x, (0, 0, 0, rest)), F.pad(taps, (0, n, 0, rest))
    rows = taps.unflatten(2, (-1, n)).flatten(-2)[..., : n * seen]
    bands = rows.unflatten(-1, (n, seen))  # (B, H, T / n, n, n + W - 1)
    windows = x.unfold(1, seen, n).unflatten(2, (H, -1))  # (B, T / n, H, D, n + W - 1)
    return torch.einsum("bhits,bihds->bithd", bands, windows).flatten(3).flatten(1, 2)[:, :T]


class LightTaps(nn.Module):
    """W weights a head, the same at every position: (1, H, 1, W)."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width)))

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "1 H 1 W"]:
        return self.weight.softmax(-1)[None, :, None]

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return 0


class DynamicTaps(nn.Module):
    """W weights a head, computed from x[t] (C): (B, H, T, W)."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Linear(dim, heads * width, bias=False)
        nn.init.xavier_uniform_(self.query.weight)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B H T W"]:
        return self.query(x).unflatten(-1, (-1, self.width)).softmax(-1).transpose(1, 2)


class LightConv(nn.Module):
    """A convolution in the place of Attention, with its last linear: x (B, T, C), a mask and a past."""

    def __init__(
        self,
        out: nn.Linear,
        heads: int,
        width: int,
        ahead: int = 0,
        dynamic: bool = True,
        p: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.width, self.ahead, self.p, self.generator = heads, width, ahead, p, generator
        dim, kind = out.in_features, DynamicTaps if dynamic else LightTaps
        self.into, self.taps = nn.Linear(dim, 2 * dim), kind(dim, heads, width)
        nn.init.xavier_uniform_(self.into.weight)
        nn.init.zeros_(self.into.bias)
        self.to(out.weight)
        self.out = out

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        if not x.shape[1]:
            raise ValueError(f"x of shape {tuple(x.shape)} has no token; give at least one")
        x = F.glu(self.into(x), dim=-1)
        taps, behind, T = self.dropped(self.taps(x)), self.width - 1 - self.ahead, x.shape[1]
        (seen,) = past.slot().extend(x, keep=behind)
        seen = F.pad(seen, (0, 0, behind + T - seen.shape[1], self.ahead))  # (B, T + W - 1, C)
        q_idx = torch.arange(past.start, past.start + T, device=x.device)[:, None]
        kv_idx = q_idx + torch.arange(-behind, self.ahead + 1, device=x.device)  # (T, W)
        # a tap outside of the sequence asks about a position inside, and meets a zero anyway
        visible = mask.visible(len(x), self.heads, q_idx, kv_idx.clamp(0, past.start + T - 1))
        return self.out(convolve(seen, taps * visible))

    def dropped(self, taps: Float[Tensor, "B H T W"]) -> Float[Tensor, "B H T W"]:
        """DropConnect: in train mode a tap is zero with probability p, else 1 / (1 - p) times as large."""
        if not (self.training and self.p):
            return taps
        stays = uniform(taps.shape, self.generator) >= self.p
        return taps * stays.to(taps) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, width={self.width}, ahead={self.ahead}, p={self.p}"

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return output.numel() * self.width


def apply(
    model: nn.Module,
    *,
    width: int,
    dynamic: bool = True,
    ahead: int = 0,
    p: float = 0.0,
    where: Where = is_a(Attention),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy with a convolution of `width` taps, dynamic or lightweight, in place of each attention.

    `ahead` of them lie after the position: 0 for a decoder, width // 2 for an encoder; what the call's mask
    hides stays hidden either way. Heads and the output's linear are those of the attention, whose dropout
    goes; `p` is the DropConnect of training. ValueError for a width below 1, `ahead` not within it, p outside
    of [0, 1), an nn.MultiheadAttention (`adopt` first), or an attention that another technique has changed.

    >>> apply(Attention(8, 2), width=7)(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """
    whole = type(width) is int and type(ahead) is int and type(dynamic) is bool
    if not (whole and 0 <= ahead < width and isinstance(p, int | float) and 0 <= p < 1):
        raise ValueError(f"{width=}, {ahead=}, {p=}, {dynamic=}: width >= 1, ahead < width, p < 1, a bool")

    def convolution(attention: nn.Module) -> nn.Module:
        if not isinstance(attention, Attention):
            raise ValueError(f"where picks a {type(attention).__name__}; pick Attention, which adopt makes")
        if isinstance(attention, Attention):
            plain = {"mask": everything, "normalize": softmax, "reweight": unchanged, "kernel": fused}
            held = [name for name, default in plain.items() if getattr(attention, name) is not default]
            parts = ("q", "k", "v", "out")
            held += [name for name in parts if type(getattr(attention, name)) is not nn.Linear]
            if held:
                raise ValueError(f"{held} of an attention are changed already, which replacing it would drop")
        return LightConv(attention.out, attention.heads, width, ahead, dynamic, p, generator)

    return swap(model, where, convolution)


def finalize(model: nn.Module) -> nn.Module:
    """A copy in eval mode, hence without DropConnect. Nothing else is left to do.

    >>> finalize(apply(Attention(8, 2), width=7)).training
    False
    """
    return clone(model).eval()
