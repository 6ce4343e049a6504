"""Who may see whom: patterns of positions, of heads and of tokens, each a `Mask`; `parse` reads them."""

import ast
from functools import cache

import torch
from jaxtyping import Bool
from torch import Tensor

from minieff.core.attention import Mask, causal, everything, itself


def pairs(mask: Mask, positions: int, heads: int = 1) -> Bool[Tensor, "h T T"]:
    """All pairs of `positions`: (heads, T, T), or (1, T, T) when the mask is the same for all heads.

    >>> pairs(causal, 3)[0].long()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]])
    """
    keys = torch.arange(positions)
    # some rows at a time: a mask computes with indices of 8 bytes
    parts = [mask.visible(1, heads, q_idx[:, None], keys) for q_idx in keys.split(256)]
    return torch.cat(parts, -2).view(-1, positions, positions)


def local(width: int) -> Mask:
    """The `width` nearest positions on each side, and the token itself: width + 1 keys when causal.

    OpenAI's code counts the token itself into the width. ValueError for a negative width.

    >>> pairs(local(2), 8)[0, 5].long()
    tensor([0, 0, 0, 1, 1, 1, 1, 1])
    """
    at_least(0, width=width)
    return Mask(lambda b, h, q, k: (q - k).abs() <= width, f"local({width})")


def strides(stride: int) -> Mask:
    """Every `stride`-th position, counted from the token itself. ValueError for a stride below 1.

    >>> pairs(strides(3), 8)[0, 5].long()
    tensor([0, 0, 1, 0, 0, 1, 0, 0])
    """
    at_least(1, stride=stride)
    return Mask(lambda b, h, q, k: (q - k) % stride == 0, f"strides({stride})")


def block(size: int) -> Mask:
    """The positions of the token's own block: 0 to size - 1, size to 2 size - 1, and so on.

    >>> pairs(block(3), 8)[0, 5].long()
    tensor([0, 0, 0, 1, 1, 1, 0, 0])
    """
    at_least(1, size=size)
    return Mask(lambda b, h, q, k: q // size == k // size, f"block({size})")


def summaries(stride: int, summary: int = 1) -> Mask:
    """The last `summary` positions of each block of `stride`, the token's own block or any other.

    Under a causal mask the first tokens see nothing: for a head or a layer of its own, add `| itself`.
    ValueError unless 1 <= summary <= stride.

    >>> pairs(summaries(3), 8)[0, 5].long()
    tensor([0, 0, 1, 0, 0, 1, 0, 0])
    """
    at_least(1, stride=stride, summary=summary)
    if summary > stride:
        raise ValueError(f"summary={summary}: a block of stride={stride} has no more positions than that")
    return Mask(lambda b, h, q, k: k % stride >= stride - summary, f"summaries({stride}, {summary})")


def fixed(stride: int, summary: int = 1) -> Mask:
    """The token's own block of `stride` positions, and the last `summary` of every block.

    >>> pairs((causal & fixed(3)), 8)[0, 4].long()
    tensor([0, 0, 1, 1, 1, 0, 0, 0])
    """
    own, others = block(stride), summaries(stride, summary)
    return Mask((own | others).see, f"fixed({stride}, {summary})")


def head(number: int) -> Mask:
    """True in this head: `head(0) & local(3) | ~head(0) & strides(4)`. ValueError for a negative number.

    >>> pairs(head(0) | head(2), 1, heads=3).flatten()
    tensor([ True, False,  True])
    """
    at_least(0, number=number)
    # `k * 0`: a mask is elementwise in all positions
    return Mask(lambda b, h, q, k: h + k * 0 == number, f"head({number})")


def verbs(is_verb: Bool[Tensor, "B S"]) -> Mask:
    """The tokens marked in `is_verb`, given for all tokens so far; before the first, the token itself.

    To be used with a causal mask. Padding must not be marked, or a row may see nothing but padding.
    ValueError for what is no bools (B, S).

    >>> pairs(causal & verbs(torch.tensor([[False, True, False, False]])), 4)[0].long()
    tensor([[1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 0, 0]])
    """
    if getattr(is_verb, "dtype", None) != torch.bool or is_verb.dim() != 2:
        raise ValueError(f"is_verb={is_verb!r}: give bools (B, S), one per token so far")
    begun = is_verb.cumsum(1) > 0
    return Mask(lambda b, h, q, k: is_verb[b, k] | ((q == k) & ~begun[b, q]), "verbs")


def at_least(lowest: int, **knobs: int) -> None:
    """ValueError for a knob that is no integer of at least `lowest`.

    >>> at_least(1, width=0)
    Traceback (most recent call last):
        ...
    ValueError: width=0: give an integer of at least 1
    """
    for name, value in knobs.items():
        if type(value) is not int or value < lowest:
            raise ValueError(f"{name}={value!r}: give an integer of at least {lowest}")


MASKS = {mask.name: mask for mask in (causal, everything, itself)}
WORDS = MASKS | {make.__name__: make for make in (local, strides, block, summaries, fixed, head)}
GRAMMAR = (
    ast.Expression, ast.BinOp, ast.BitAnd, ast.BitOr, ast.UnaryOp, ast.Invert, ast.Call, ast.Name, ast.Load,
    ast.Constant,
)  # fmt: skip


@cache
def parse(text: str) -> Mask:
    """The mask of an expression, as recipes and `repr` have it: one value per text. ValueError otherwise.

    >>> parse("local(8) | strides(8)")
    (local(8) | strides(8))
    """
    try:
        tree = ast.parse(text, mode="eval")
        known = all(isinstance(node, GRAMMAR) for node in ast.walk(tree))
        mask = eval(compile(tree, "mask", "eval"), {"__builtins__": {}}, WORDS) if known else None
    except (SyntaxError, NameError, TypeError):
        mask = None
    if not isinstance(mask, Mask):
        raise ValueError(
            f"mask={text!r}: combine {', '.join(WORDS)} by &, | and ~, such as local(8) | itself"
        )
    return mask
