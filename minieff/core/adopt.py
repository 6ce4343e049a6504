"""Our Attention in the place of `nn.MultiheadAttention`: seam techniques reach `nn.TransformerEncoder`."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, everything
from minieff.core.surgery import Where, is_a, swap


class Adopted(nn.Module):
    """Our Attention behind the signature of `nn.MultiheadAttention`, self-attention only."""

    # nn.TransformerEncoderLayer asks for these before its fused path, which would ignore this module; None
    # declines it
    in_proj_weight = in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, theirs: nn.MultiheadAttention) -> None:
        super().__init__()
        if not theirs._qkv_same_embed_dim or theirs.bias_k is not None or theirs.add_zero_attn:
            raise ValueError(
                "adopt takes nn.MultiheadAttention with one width for q, k, v and without add_bias_kv and "
                "add_zero_attn; build the encoder without them, or pick others with where="
            )
        weight, bias = theirs.in_proj_weight, theirs.in_proj_bias
        self.batch_first = theirs.batch_first
        self.num_heads = theirs.num_heads
        self.attention = Attention(theirs.embed_dim, theirs.num_heads, theirs.dropout, bias is not None)
        self.attention.to(weight.device, weight.dtype)
        state = {"out.weight": theirs.out_proj.weight}
        state |= {f"{name}.weight": part for name, part in zip("qkv", weight.chunk(3), strict=True)}
        if bias is not None:
            state |= {"out.bias": theirs.out_proj.bias}
            state |= {f"{name}.bias": part for name, part in zip("qkv", bias.chunk(3), strict=True)}
        self.attention.load_state_dict(state)
        for name, p in self.attention.named_parameters():
            p.requires_grad_(state[name].requires_grad)  # what was frozen stays frozen

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        if key is not query or value is not query or query.dim() != 3:
            raise ValueError(
                "an adopted attention is self-attention in batches: pass one tensor (B, T, C) as query, key "
                "and value, for one sequence x[None]"
            )
        if need_weights:
            raise ValueError("an adopted attention keeps no weights: call it with need_weights=False")
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is only a hint about attn_mask: pass the causal mask itself, too")
        x = query if self.batch_first else query.transpose(0, 1)  # (B, T, C)
        y = self.attention(
            x, torchs_mask(key_padding_mask, attn_mask, x.shape[0], x.shape[1], self.num_heads)
        )
        return (y if self.batch_first else y.transpose(0, 1)), None


def torchs_mask(padding: Tensor | None, attn_mask: Tensor | None, B: int, T: int, H: int) -> Mask:
    """The masks of `nn.MultiheadAttention`, (B, T) and (T, T) or (B * H, T, T), as one of ours."""
    mask = everything
    if padding is not None:
        hidden = hides(padding, (B, T))
        mask = Mask(lambda b, h, q, k: ~hidden[b, k] | (q == k), "padding")  # no row is empty
    if attn_mask is not None:
        shape = (T, T) if attn_mask.dim() == 2 else (B * H, T, T)
        table = hides(attn_mask, shape).reshape(-1, T, T)
        mask = mask & Mask(lambda b, h, q, k: ~table[(b * H + h) % len(table), q, k], "attn_mask")
    return mask


def hides(mask: Tensor, shape: tuple[int, ...]) -> Bool[Tensor, "..."]:
    """torch's two kinds of mask, True or -inf where hidden, as one. ValueError for any other, or another
    shape.
    """
    if mask.shape != shape:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} where {shape} is needed")
    if mask.dtype == torch.bool:
        return mask
    if not ((mask == 0) | (mask == float("-inf"))).all():
        raise ValueError("a float mask may hold 0 and -inf only: a bias on scores is not a mask")
    return mask != 0


def adopt(model: nn.Module, *, where: Where = is_a(nn.MultiheadAttention)) -> nn.Module:
    """A copy with our Attention in place of every `nn.MultiheadAttention`, so that seam techniques reach it.

    Works for `nn.TransformerEncoder` in all its layouts, with padding and causal masks, under grad and
    no_grad; what it puts at hidden positions may differ. ValueError when there is none to adopt, one of
    another kind than self-attention, or, when it runs, one that is given something else than itself.
    """
    model = swap(model, where, Adopted)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its packed batches are for its own fused path only
    return model
