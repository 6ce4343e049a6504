"""Random numbers of techniques: drawn on the CPU, so that processes with the same seed draw the same."""

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Numbers from 0 to 1, from `generator` (None: torch's global one).

    Activation checkpointing runs a forward again in the backward pass, with torch's global generator set back
    to where it was; another generator would draw other numbers, and gradients would be those of another
    network. ValueError then.

    >>> uniform((2, 3), None).shape
    torch.Size([2, 3])
    """
    if generator is not None and torch._C._current_graph_task_id() != -1:  # -1: in no backward pass now
        raise ValueError("a forward that a backward pass repeats (checkpointing) needs generator=None")
    return torch.rand(shape, generator=generator, device="cpu")
