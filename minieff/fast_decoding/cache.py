"""Memories for decoding: keys and values written in place, and keys and values in int8.

Both are a `Past`, so that any model takes them: `model(ids, past=StaticPast(128))`.

    int8 of a key or value x of D numbers:   scale = max |x| / 127,   code = round(x / scale)
"""

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from minieff.core.past import Past, Slot


class StaticSlot(Slot):
    """A slot with room for `length` steps, allocated at its first use: nothing old is copied again."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.room: tuple[Tensor, ...] = ()

    def extend(self, *new: Tensor, keep: int | None = None) -> tuple[Tensor, ...]:
        start = self.kept[0].shape[-2] if self.kept else 0
        end = start + new[0].shape[-2]
        if end > self.length:
            raise ValueError(f"{end} tokens, and StaticPast({self.length}) has room for {self.length}")
        if not self.room:
            self.room = tuple(t.new_empty(*t.shape[:-2], self.length, t.shape[-1]) for t in new)
        for room, t in zip(self.room, new, strict=True):
            room[..., start:end, :] = t
        self.kept = tuple(room[..., :end, :] for room in self.room)
        if keep is None:
            return self.kept
        return tuple(t[..., max(0, start - keep) :, :] for t in self.kept)

    def settle(self) -> None:
        """Room again, after other tensors were put in `kept`."""
        kept, self.kept, self.room = self.kept, (), ()
        if kept:
            self.extend(*kept)


class StaticPast(Past):
    """A Past whose tensors are allocated once, for `length` tokens, and written in place.

    For inference: a gradient cannot go through what is overwritten.

    >>> past = StaticPast(8)
    >>> for step in range(3):
    ...     past.begin(torch.tensor([[step]]))
    ...     (keys,) = past.slot().extend(torch.randn(1, 1, 4))
    >>> keys.shape, past.nbytes()  # 8 steps of 4 numbers
    (torch.Size([1, 3, 4]), 128)
    """

    kind = StaticSlot

    def __init__(self, length: int) -> None:
        super().__init__()
        if type(length) is not int or length < 1:
            raise ValueError(f"length={length!r}: room for at least 1 token, such as the model's context")
        self.room = length

    def slot(self) -> Slot:
        if self.turn == len(self.slots):
            self.slots.append(self.kind(self.room))
        return super().slot()

    def pick(self, rows: Int[Tensor, "R"]) -> None:
        super().pick(rows)
        for slot in self.slots:
            slot.settle()

    def nbytes(self) -> int:
        """Bytes that are allocated, filled or not."""
        return sum(t.numel() * t.element_size() for slot in self.slots for t in slot.room)


def encode(x: Float[Tensor, "*B D"]) -> tuple[Int8[Tensor, "*B D"], Float[Tensor, "*B 1"]]:
    """Codes from -127 to 127 and one scale per vector; in float32 the error is at most half a scale.

    In 16 bits the scale is rounded, too: the error is then less than one scale.

    >>> encode(torch.tensor([[0.5, -1.27]]))
    (tensor([[  50, -127]], dtype=torch.int8), tensor([[0.0100]]))
    """
    scale = x.abs().amax(-1, keepdim=True) / 127
    codes = x.float() / scale.float().clamp(min=1e-30)
    # a scale that was rounded down in 16 bits makes a code of 128, which int8 would wrap to -128
    return codes.round().clamp(-127, 127).to(torch.int8), scale


def decode(codes: Int8[Tensor, "*B D"], scale: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B D"]:
    """What `encode` stored, up to its rounding.

    >>> decode(*encode(torch.tensor([[0.5, -1.27]])))
    tensor([[ 0.5000, -1.2700]])
    """
    return codes * scale


class Int8Slot(StaticSlot):
    """A slot that stores codes and scales, and returns what they stand for."""

    def extend(self, *new: Tensor, keep: int | None = None) -> tuple[Tensor, ...]:
        parts = super().extend(*(part for x in new for part in encode(x)), keep=keep)
        return tuple(decode(codes, scale) for codes, scale in zip(parts[::2], parts[1::2], strict=True))

    def settle(self) -> None:
        kept, self.kept, self.room = self.kept, (), ()
        if kept:
            StaticSlot.extend(self, *kept)  # codes already


class Int8Past(StaticPast):
    """A StaticPast that stores what it is given in int8, with a scale for each vector.

    Of D numbers in float32, 4 D bytes become D + 4. It saves memory and what is read from it, not time:
    everything is decoded for each token.

    >>> past, x = Int8Past(1), torch.randn(1, 2, 1, 32)
    >>> past.begin(torch.tensor([[0]]))
    >>> (found,) = past.slot().extend(x)
    >>> (found - x).abs().max() <= 0.5 * x.abs().max() / 127 + 1e-6, past.nbytes(), x.nbytes
    (tensor(True), 72, 256)
    """

    kind = Int8Slot
