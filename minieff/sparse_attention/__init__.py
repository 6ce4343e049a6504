"""Sparse attention: each token sees some of the tokens before it, by a pattern, and only those are computed.

    strided:  i sees j   if  i - j <= l,  or  (i - j) mod l = 0                     local(l) | strides(l)
    fixed:    i sees j   if  floor(i / l) = floor(j / l),  or  j mod l >= l - c     fixed(l, c)

Child, Gray, Radford, Sutskever 2019, "Generating Long Sequences with Sparse Transformers", arXiv 1904.10509.
With a stride l of about sqrt(T), each token sees about 2 sqrt(T) others, and yet two layers carry
information from every token to every later one. The two halves of a pattern are given to one head together
(`|`), to different heads (`head(i) &`), or to layers in turn (a list of masks). Text wants the fixed pattern,
data with a period (images, audio) the strided one.

A pattern may also depend on the tokens: in one head of Fan, Lewis, Dauphin 2019, "Strategies for Structuring
Story Generation", arXiv 1902.01109, a token sees only the verbs so far (`verbs`, `tagged`).

Saves, after `finalize`: time and MACs of attention, which grow as T sqrt(T) and not as T^2. Costs: what a
token sees only by way of others; and the patterns are given, not learned. It does not save: anything in
training, where all pairs are computed and then hidden, as in every implementation by masks; parameters; the
cache of a decoder, which keeps all keys; nor much of short sequences, where linears take most of the time.
By hand, in an attention of your own:

    # in forward, with q, k, v of shape (B, H, T, D)
    i = torch.arange(q.shape[-2])
    visible = (causal & (local(8) | strides(8)))(0, 0, i[:, None], i)  # (T, T)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
"""

import ast
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, causal, everything, fused, itself
from minieff.core.past import Fresh, fresh
from minieff.core.surgery import Where, Wrap, is_a, pick, swap
from minieff.core.tokenizer import needs
from minieff.sparse_attention.gather import Gather

STAGE = "seam"
IDEA = ("local", "strides", "fixed", "head", "causal")


def local(width: int) -> Mask:
    """The `width` nearest positions on each side, and the token itself: under a causal mask width + 1 keys.

    OpenAI's code counts the token itself into the width. ValueError for a negative width.

    >>> local(2).visible(1, 1, torch.tensor([[5]]), torch.arange(8)).long()
    tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    """
    _at_least(0, width=width)
    return Mask(lambda b, h, q, k: (q - k).abs() <= width, f"local({width})")


def strides(stride: int) -> Mask:
    """Every `stride`-th position, counted from the token itself. ValueError for a stride below 1.

    >>> strides(3).visible(1, 1, torch.tensor([[5]]), torch.arange(8)).long()
    tensor([[0, 0, 1, 0, 0, 1, 0, 0]])
    """
    _at_least(1, stride=stride)
    return Mask(lambda b, h, q, k: (q - k) % stride == 0, f"strides({stride})")


def block(size: int) -> Mask:
    """The positions of the token's own block: 0 to size - 1, size to 2 size - 1, and so on.

    >>> block(3).visible(1, 1, torch.tensor([[5]]), torch.arange(8)).long()
    tensor([[0, 0, 0, 1, 1, 1, 0, 0]])
    """
    _at_least(1, size=size)
    return Mask(lambda b, h, q, k: q // size == k // size, f"block({size})")


def summaries(stride: int, summary: int = 1) -> Mask:
    """The last `summary` positions of each block of `stride`, the token's own block or any other.

    Under a causal mask the first tokens see nothing: for a head or a layer of its own, add `| itself`.
    ValueError unless 1 <= summary <= stride.

    >>> summaries(3).visible(1, 1, torch.tensor([[5]]), torch.arange(8)).long()
    tensor([[0, 0, 1, 0, 0, 1, 0, 0]])
    """
    _at_least(1, stride=stride, summary=summary)
    if summary > stride:
        raise ValueError(f"summary={summary}: a block of stride={stride} has no more positions than that")
    return Mask(lambda b, h, q, k: k % stride >= stride - summary, f"summaries({stride}, {summary})")


def fixed(stride: int, summary: int = 1) -> Mask:
    """The token's own block of `stride` positions, and the last `summary` of every block.

    >>> (causal & fixed(3)).visible(1, 1, torch.tensor([[4]]), torch.arange(8)).long()
    tensor([[0, 0, 1, 1, 1, 0, 0, 0]])
    """
    own, others = block(stride), summaries(stride, summary)
    return Mask((own | others).see, f"fixed({stride}, {summary})")


def head(number: int) -> Mask:
    """True in this head: `head(0) & local(3) | ~head(0) & strides(4)`. ValueError for a negative number.

    >>> (head(0) | head(2)).visible(1, 3, torch.tensor([[0]]), torch.tensor([0])).flatten()
    tensor([ True, False,  True])
    """
    _at_least(0, number=number)
    # `k * 0`: a mask is elementwise in all positions
    return Mask(lambda b, h, q, k: h + k * 0 == number, f"head({number})")


def verbs(is_verb: Bool[Tensor, "B S"]) -> Mask:
    """The tokens marked in `is_verb`, given for all tokens so far; before the first, the token itself.

    To be used with a causal mask. Padding must not be marked, or a row may see nothing but padding.

    >>> mask = causal & verbs(torch.tensor([[False, True, False, False]]))
    >>> mask.visible(1, 1, torch.arange(4)[:, None], torch.arange(4))[0, 0].long()
    tensor([[1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 0, 0]])
    """
    begun = is_verb.cumsum(1) > 0
    return Mask(lambda b, h, q, k: is_verb[b, k] | ((q == k) & ~begun[b, q]), "verbs")


def _at_least(lowest: int, **knobs: int) -> None:
    for name, value in knobs.items():
        if type(value) is not int or value < lowest:
            raise ValueError(f"{name}={value!r}: give an integer of at least {lowest}")


WORDS = {"causal": causal, "everything": everything, "itself": itself, "local": local, "strides": strides}
WORDS |= {"block": block, "summaries": summaries, "fixed": fixed, "head": head}
GRAMMAR = (
    ast.Expression, ast.BinOp, ast.BitAnd, ast.BitOr, ast.UnaryOp, ast.Invert, ast.Call, ast.Name, ast.Load,
    ast.Constant,
)  # fmt: skip


def parse(text: str) -> Mask:
    """The mask of an expression, as recipes and `repr` have it. ValueError for anything else.

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
    given = iter([parse(each) if isinstance(each, str) else each for each in masks])

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
    model: nn.Module, *, context: int, mask: Mask = causal, where: Where = is_a(Attention)
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
    _at_least(1, context=context)
    if not any(attention.mask is not everything for attention in _checked(model, where)):
        raise ValueError("no attention has a mask of its own, so no pair can be left out; call apply first")
    kernels: dict[tuple[Mask, int], Gather] = {}

    def gather(attention: nn.Module) -> nn.Module:
        key = (attention.mask, attention.heads)
        if attention.mask is not everything:
            if key not in kernels:
                kernels[key] = Gather(mask & attention.mask, attention.heads, context)
            attention.kernel = kernels[key].to(attention.q.weight.device)
        return attention

    return swap(model, where, gather).eval()


def _checked(model: nn.Module, where: Where) -> list[nn.Module]:
    """The attentions that match. ValueError for a module without the seam, or with a kernel in place."""
    found = list(pick(model, where))
    for module in found:
        if not isinstance(getattr(module, "mask", None), Mask):
            raise ValueError(f"a {type(module).__name__} has no seam `mask`; use minieff.core.adopt first")
        if module.kernel is not fused:
            raise ValueError(f"kernel={module.kernel}: taken; apply all masks first, then finalize, once")
    return found


class Tagged(Wrap):
    """A model whose head `head` sees, in every layer, only the tokens so far that `tags` (V,) marks."""

    def __init__(self, inner: nn.Module, tags: Bool[Tensor, "V"], head: int) -> None:
        super().__init__(inner)
        self.register_buffer("tags", tags)
        self.head = head

    def forward(self, ids: Int[Tensor, "B T"], mask: Mask = causal, past: Fresh = fresh) -> Tensor:
        seen = verbs(self.tags[past.so_far(ids)])  # of the cached tokens, too
        return self.inner(ids, mask & (seen | ~head(self.head)), past)

    def extra_repr(self) -> str:
        return f"head={self.head}, tagged={int(self.tags.sum())} of {len(self.tags)}"


def tagged(model: nn.Module, *, tags: Bool[Tensor, "V"], head: int = 0) -> nn.Module:
    """A copy in which one head of every layer sees only the tokens so far that `tags` marks, such as verbs.

    As long as there is none, the head sees the token itself. With all tokens marked, nothing changes. The
    tag of padding must be False. ValueError for tags that are no booleans or not one per token of the
    vocabulary, or a head that is not there.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8))
    >>> tagged(model, tags=torch.arange(50) < 5)(torch.tensor([[7, 3, 8]])).shape
    torch.Size([1, 3, 50])
    """
    vocab, heads = model.config.vocab, model.config.heads
    if tags.dtype != torch.bool or tags.shape != (vocab,):
        raise ValueError(f"tags of {tags.dtype}, {tuple(tags.shape)}: give one bool per token, ({vocab},)")
    if not 0 <= head < heads:
        raise ValueError(f"head={head}: this model has heads 0 to {heads - 1}")
    return swap(model, lambda name, module: not name, lambda root: Tagged(root, tags.clone(), head))


def verb_tags(texts: Iterable[str], encode: Callable[[str], list[int]], vocab: int) -> Bool[Tensor, "V"]:
    """Tags (V,) of the tokens that mostly begin a verb in these texts, by the tagger of `textblob`.

    `encode` turns text into ids; each word is given to it with a space in front. ImportError without the
    package `textblob`.
    """
    tagger = needs("textblob.taggers", "verbs").PatternTagger()
    votes = torch.zeros(vocab, dtype=torch.long)
    for text in texts:
        for word, tag in tagger.tag(text):
            votes[encode(f" {word}")[0]] += 1 if tag.startswith("VB") else -1
    return votes > 0
