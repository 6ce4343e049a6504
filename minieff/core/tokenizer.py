"""Text to token ids and back: plain bytes, byte pairs, and spellings with their phonemes."""

from importlib import import_module
from types import ModuleType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


def needs(package: str, extra: str) -> ModuleType:
    """The package, or an ImportError with the command that installs it.

    >>> needs("no_such_package", "course")
    Traceback (most recent call last):
        ...
    ImportError: this needs the package 'no_such_package': pip install -c constraints.txt -e '.[course]'
    """
    try:
        return import_module(package)
    except ImportError:
        raise ImportError(
            f"this needs the package {package!r}: pip install -c constraints.txt -e '.[{extra}]'"
        ) from None


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back; `sizes[id]` is the number of bytes that a token stands for."""

    vocab: int
    sizes: Tensor

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


class Bytes:
    """Each byte of UTF-8 is a token.

    >>> Bytes().encode("né")
    [110, 195, 169]
    """

    vocab = 256
    sizes = torch.ones(256, dtype=torch.long)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class BPE:
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) by the package `tokenizers`.

    >>> bpe = BPE.learn(["low lower lowest"], vocab=258)  # 256 bytes and two merges
    >>> [bpe.decode([token]) for token in bpe.encode("lowest")]
    ['low', 'e', 's', 't']
    """

    def __init__(self, json: str) -> None:
        self.json = json
        self.inner = needs("tokenizers", "course").Tokenizer.from_str(json)
        self.vocab = self.inner.get_vocab_size()
        # the byte-level alphabet writes each byte of a token as one character
        self.sizes = torch.tensor([len(self.inner.id_to_token(i)) for i in range(self.vocab)])

    @classmethod
    def learn(cls, texts: list[str], vocab: int) -> "BPE":
        """Learns merges from `texts`, for at most `vocab` tokens; equal texts give equal merges."""
        tokenizers = needs("tokenizers", "course")
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        inner.train_from_iterator(
            texts,
            tokenizers.trainers.BpeTrainer(
                vocab_size=vocab,
                show_progress=False,
                initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            ),
        )
        return cls(inner.to_str(pretty=False))

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode(ids)


class Sounds:
    """Letters, `=`, phonemes and a line end, which also pads: "cat=K AE1 T\\n" is 3 + 1 + 3 + 1 tokens.

    >>> sounds = Sounds([("cat", ["K", "AE1", "T"])])
    >>> sounds.encode("cat=K AE1 T\\n")
    [3, 2, 4, 1, 6, 5, 7, 0]
    """

    def __init__(self, entries: list[tuple[str, list[str]]]) -> None:
        letters = sorted({letter for word, _ in entries for letter in word})
        phonemes = sorted({phoneme for _, sounds in entries for phoneme in sounds})
        self.symbols = ["\n", "=", *letters, *phonemes]
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.vocab = len(self.symbols)
        self.sizes = torch.zeros(self.vocab, dtype=torch.long)  # phonemes do not stand for bytes

    def encode(self, text: str) -> list[int]:
        word, separator, sounds = text.partition("=")
        symbols = [*word, *separator, *sounds.split(), *("\n" if text.endswith("\n") else "")]
        unknown = [s for s in symbols if s not in self.ids]
        if unknown:
            raise ValueError(
                f"{unknown} in {text!r}: a line is letters, '=' and phonemes, such as 'cat=K AE1 T'"
            )
        return [self.ids[s] for s in symbols]

    def decode(self, ids: list[int]) -> str:
        word, separator, sounds = "\0".join(self.symbols[i] for i in ids).partition("=")
        return word.replace("\0", "") + separator + sounds.strip("\0").replace("\0", " ").replace(" \n", "\n")
