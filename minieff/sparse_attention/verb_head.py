"""A head that attends to verbs: content, and not position, decides what it sees.

Fan, Lewis, Dauphin 2019, "Strategies for Structuring Story Generation", arXiv 1902.01109: when the plan of a
story is generated, one head sees only the verbs so far, lest the model repeat common ones. The tags are those
of the tokens read, so the mask is made anew in each call, and for cached tokens as well.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from minieff.core.attention import Mask, causal
from minieff.core.past import Fresh, fresh
from minieff.core.surgery import Wrap, swap
from minieff.core.tokenizer import needs
from minieff.core.transformer import Transformer
from minieff.sparse_attention.masks import head, verbs


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
    """A copy in which one head of every layer sees only tokens so far that `tags` marks, such as verbs.

    As long as there is none, the head sees the token itself; where a layer's own mask hides all tagged ones,
    it sees nothing, and gives 0. With all tokens marked, nothing changes. The tag of padding must be False.
    ValueError for tags that are no booleans or not one per token of the vocabulary, or a head that is not
    there.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8))
    >>> tagged(model, tags=torch.arange(50) < 5)(torch.tensor([[7, 3, 8]])).shape
    torch.Size([1, 3, 50])
    """
    if not isinstance(model, Transformer):
        raise ValueError(
            f"a {type(model).__name__} is no minieff.core.transformer.Transformer, called with a mask: "
            "give another model's attention the mask `verbs(is_verb) | ~head(i)` yourself"
        )
    vocab, heads = model.config.vocab, model.config.heads
    if not isinstance(tags, Tensor):
        raise ValueError(
            f"tags of type {type(tags).__name__}: give a tensor with one bool per token, ({vocab},)"
        )
    if tags.dtype != torch.bool or tags.shape != (vocab,):
        raise ValueError(f"tags of {tags.dtype}, {tuple(tags.shape)}: give one bool per token, ({vocab},)")
    if type(head) is not int or not 0 <= head < heads:
        raise ValueError(f"head={head!r}: this model has heads 0 to {heads - 1}")
    return swap(model, lambda name, module: not name, lambda root: Tagged(root, tags.clone(), head))


def verb_tags(texts: Iterable[str], encode: Callable[[str], list[int]], vocab: int) -> Bool[Tensor, "V"]:
    """Tags (V,) of the tokens that mostly begin a verb in these texts, by the tagger of `textblob`.

    `encode` turns text into ids; each word is given to it with a space in front. ImportError without the
    package `textblob`; ValueError for one text in place of a list, and ids outside of the vocabulary.

    >>> ids = {" They": 0, " flew": 1, " home": 2, " .": 3}
    >>> verb_tags(["They flew home."], lambda word: [ids[word]], vocab=4)  # doctest: +SKIP
    tensor([False,  True, False, False])
    """
    if isinstance(texts, str):
        raise ValueError(f"texts={texts[:20]!r}: give a list of texts, as [text]")
    tagger = needs("textblob.taggers", "verbs").PatternTagger()
    votes = torch.zeros(vocab, dtype=torch.long)
    for text in texts:
        for word, tag in tagger.tag(text):
            ids = encode(f" {word}")
            if not ids or not 0 <= ids[0] < vocab:
                raise ValueError(f"encode gives {ids} for {word!r}; the first must be below vocab={vocab}")
            votes[ids[0]] += 1 if tag.startswith("VB") else -1
    return votes > 0
