"""What a decoder remembers, so that each token is computed once.

A causal decoder that has read t tokens needs, for the next one, only the keys and values of those t tokens.
Each *application* of a mixer owns a `Slot` for them, handed out in running order: a block used twice in one
pass (weight sharing, loops) has two slots, and a pruned stack has fewer.

    past = Past()
    logits = model(prompt, past=past)           # (B, T, V): reads the prompt, remembers it
    logits = model(next_ids, past=past)         # (B, 1, V): equals the last row of one pass over all of it

Memory: 2 * L * B * T * C numbers. It saves computation, O(T) instead of O(T^2) per new token; it does not
save memory, and it does not make reading the prompt cheaper.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


class Slot:
    """The memory of one application of one mixer: tensors whose second-last dimension is time.

    >>> slot = Slot()
    >>> for step in range(3):
    ...     (keys,) = slot.extend(torch.randn(1, 1, 4))
    >>> keys.shape
    torch.Size([1, 3, 4])
    """

    def __init__(self) -> None:
        self.kept: tuple[Tensor, ...] = ()

    def extend(self, *new: Tensor, keep: int | None = None) -> tuple[Tensor, ...]:
        """Append `new`, each (..., T, D), and return everything remembered, each (..., S, D).

        `keep` limits what is returned to that many old steps before the new ones. Nothing is deleted, so that
        `Past.rewind` can still undo the call.
        """
        old, self.kept = self.kept, new
        if old:
            self.kept = tuple(torch.cat(pair, dim=-2) for pair in zip(old, new, strict=True))
        if keep is None:
            return self.kept
        return tuple(t[..., -(n.shape[-2] + keep) :, :] for t, n in zip(self.kept, new, strict=True))


class Fresh:
    """No past, as in training: its slots are thrown away and nothing is stored."""

    start = 0  # position of the first token of the current forward
    length = 0  # tokens read so far

    def so_far(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B S"]:
        """All tokens up to and including `ids`; may be called before the model's forward begins."""
        return ids

    def begin(self, ids: Int[Tensor, "B T"]) -> None:
        """A forward over `ids` starts."""

    def slot(self) -> Slot:
        """The memory of the next application of a mixer in this forward."""
        return Slot()


fresh = Fresh()


class Past(Fresh):
    """The tokens read so far, and one slot for each application of a mixer.

    >>> past = Past()
    >>> past.begin(torch.tensor([[5, 3, 8]]))
    >>> past.rewind(2)
    >>> past.so_far(torch.tensor([[9]]))
    tensor([[5, 3, 9]])
    """

    def __init__(self) -> None:
        self.ids: Tensor | None = None
        self.slots: list[Slot] = []
        self.start = 0
        self.turn = 0

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return 0 if self.ids is None else self.ids.shape[1]

    def so_far(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B S"]:
        """All tokens up to and including `ids`, (B, S)."""
        if self.ids is None:
            return ids
        if self.ids.shape[0] != ids.shape[0]:
            raise ValueError(
                f"this Past holds {self.ids.shape[0]} sequences and was given {ids.shape[0]}; "
                "use a new Past for another batch, or past.pick(rows)"
            )
        return torch.cat([self.ids, ids], dim=1)

    def begin(self, ids: Int[Tensor, "B T"]) -> None:
        """A forward over `ids` starts: slots are handed out from the first one again."""
        self.start, self.ids, self.turn = self.length, self.so_far(ids), 0

    def slot(self) -> Slot:
        """The slot of the next application, created on first use."""
        if self.turn == len(self.slots):
            self.slots.append(Slot())
        self.turn += 1
        return self.slots[self.turn - 1]

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens, such as a rejected draft.

        ValueError when `length` is negative or more than was read.
        """
        if not 0 <= length <= self.length:
            raise ValueError(
                f"rewind({length}): this Past holds {self.length} tokens; "
                f"pick a length from 0 to {self.length}"
            )
        if self.ids is not None:
            self.ids = self.ids[:, :length]
        for slot in self.slots:
            slot.kept = tuple(t[..., :length, :] for t in slot.kept)  # a slot holds one step per token

    def pick(self, rows: Int[Tensor, "R"]) -> None:
        """Keep these sequences of the batch, in this order, repeats allowed (for beam search)."""
        if self.ids is not None:
            self.ids = self.ids[rows]
        for slot in self.slots:
            slot.kept = tuple(t[rows] for t in slot.kept)

    def nbytes(self) -> int:
        """Bytes that the slots hold (the token ids are not counted)."""
        return sum(t.numel() * t.element_size() for slot in self.slots for t in slot.kept)


def goes_on(values: Sequence[Any], tokens: int) -> bool:
    """Whether a call with these arguments goes on with a memory: a `Past`, or a cache that is fuller than the
    `tokens` of this call. Caches, as in transformers, have `get_seq_length(layer)`; an empty one is common in
    training.

    >>> goes_on([torch.ones(1), None], 5), goes_on([Past()], 5)
    (False, True)
    """
    caches = [value for value in values if callable(getattr(value, "get_seq_length", None))]
    held = [_held(cache, layer) for cache in caches for layer in range(len(cache))]
    return max(held, default=0) > tokens or any(isinstance(value, Past) for value in values)


def _held(cache: Any, layer: int) -> int:
    try:
        return int(cache.get_seq_length(layer))
    except ValueError:  # a layer that counts no tokens
        return 0
