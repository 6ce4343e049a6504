"""Sparse attention: each token sees some of the tokens before it, by a pattern, and only those are computed.

    strided:  i sees j   if  i - j <= l,  or  (i - j) mod l = 0                     local(l) | strides(l)
    fixed:    i sees j   if  floor(i / l) = floor(j / l),  or  j mod l >= l - c     fixed(l, c)

Child, Gray, Radford, Sutskever 2019, arXiv 1904.10509. With a stride l of about sqrt(T), each token sees
some 2 sqrt(T) others, and yet two layers carry information from every token to every later one. The two
halves of a pattern are given to one head together (`|`), to different heads (`head(i) &`), or to layers in
turn (a list of masks). Text wants the fixed pattern, data with a period (images, audio) the strided one. What
a token sees may also depend on the tokens: `verb_head`.

Saves, after `finalize`: time and MACs of attention, which grow as T sqrt(T) and not as T^2. Costs: what a
token sees only by way of others; and the patterns are given, not learned. It does not save: anything in
training, where all pairs are computed and the hidden ones thrown away; parameters; a decoder's cache, which
keeps all keys, nor time per token decoded; nor much on short sequences, where the linears take most of it.
By hand, in an attention of your own:

    # before training, for at most T positions
    i = torch.arange(T)
    visible = (i[:, None] >= i) & ((i[:, None] // 64 == i // 64) | (i % 64 == 63))  # fixed, l = 64, c = 1
    groups = grouped(visible, 64, sort=True)
    # in forward, with q, k, v of shape (B, H, T, D): the hidden pairs of other blocks are never computed
    y = torch.empty_like(q)
    for queries, keys in groups:
        y[:, :, queries] = F.scaled_dot_product_attention(
            q[:, :, queries], k[:, :, keys], v[:, :, keys], attn_mask=visible[queries][:, keys]
        )
"""

import torch
from torch import nn

from minieff.core.attention import Attention, Mask, as_mask, causal, everything, fused
from minieff.core.surgery import Where, is_a, pick, swap
from minieff.sparse_attention.gather import Gather
from minieff.sparse_attention.masks import (
    at_least,
    block,
    fixed,
    head,
    local,
    parse,
    strides,
    summaries,
    verbs,
)
from minieff.sparse_attention.verb_head import tagged, verb_tags

__all__ = [
    "apply", "finalize", "tagged", "verb_tags", "parse",
    "local", "strides", "block", "summaries", "fixed", "head", "verbs",
]  # fmt: skip
STAGE = "seam"
IDEA = ("grouped",)


def apply(model: nn.Module, *, mask: Mask | str | list, where: Where = is_a(Attention)) -> nn.Module:
    """A copy whose attentions see only what `mask` allows, too; `everything` changes nothing.

    `mask` is one mask for all, or a list with one a layer, in running order; each may be an expression (see
    `parse`). The mask of the call goes on to hide the future. Applied twice, both hold. ValueError when no
    attention matches, the list is of another length, a head is left without a mask (its first token would
    see nothing), or a kernel is in place already.

    >>> apply(Attention(8, 2), mask=local(8) | strides(8))
    Attention(
      heads=2, mask=(local(8) | strides(8))
      ...
    """
    layers = len(_checked(model, where))
    masks = list(mask) if isinstance(mask, list | tuple) else [mask] * layers
    if len(masks) != layers:
        raise ValueError(f"mask has {len(masks)} values for {layers} layers; give one mask, or one a layer")
    given = iter([_as_mask(each) for each in masks])

    def restrict(attention: nn.Module) -> nn.Module:
        attention.mask = attention.mask & next(given)
        first = torch.zeros(1, 1, dtype=torch.long)
        blind = (~attention.mask.visible(1, attention.heads, first, first[0])).nonzero()
        if len(blind):
            named = f" of head {blind[0][1]}" if blind.shape[1] == 4 else ""
            raise ValueError(f"mask={attention.mask}: the first token{named} sees nothing; add `| itself`")
        return attention

    return swap(model, where, restrict)


def finalize(
    model: nn.Module, *, context: int, mask: Mask | str = causal, where: Where = is_a(Attention)
) -> nn.Module:
    """A copy in eval mode that computes, of up to `context` positions, groups of visible pairs alone.

    Equals the eval output. `mask` is what the masks of all calls include: `causal` for a decoder, also with
    padding; `everything` for an encoder or with `prefix`. Layers without a mask of their own keep the fused
    kernel. Layers with one mask share their tables, which are not stored in files; they depend on the knobs
    alone. ValueError when no layer has a mask, a position would see nothing, or a kernel is in place already.

    >>> finalize(apply(Attention(8, 2), mask=local(2)), context=64).kernel
    Gather(
      context=64
      ...
    """
    at_least(1, context=context)
    mask = _as_mask(mask)
    if not any(attention.mask is not everything for attention in _checked(model, where)):
        raise ValueError("no attention has a mask of its own, so no pair can be left out; call apply first")
    kernels: dict[tuple[Mask, int], Gather] = {}

    def gather(attention: nn.Module) -> nn.Module:
        key = (attention.mask, attention.heads)
        if attention.mask is not everything:
            if key not in kernels:
                kernels[key] = Gather(mask & attention.mask, attention.heads, context)
            attention.kernel = kernels[key].to(next(attention.parameters()).device)
        return attention

    return swap(model, where, gather).eval()


def _as_mask(given: Mask | str) -> Mask:
    """The mask, also of an expression. ValueError for what is neither."""
    return as_mask(parse(given) if isinstance(given, str) else given)


def _checked(model: nn.Module, where: Where) -> list[nn.Module]:
    """The attentions that match. ValueError for a module without the seam, or with a kernel in place."""
    found = list(pick(model, where))
    for module in found:
        if not isinstance(getattr(module, "mask", None), Mask):
            raise ValueError(f"a {type(module).__name__} has no seam `mask`; use minieff.core.adopt first")
        if module.kernel is not fused:
            raise ValueError(f"kernel={module.kernel}: taken; apply all masks first, then finalize, once")
    return found
