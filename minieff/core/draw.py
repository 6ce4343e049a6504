"""Random numbers of techniques: drawn on the CPU, so that processes with the same seed draw the same."""

import torch
from torch import Tensor, nn


def refuse_repeats(generator: torch.Generator | None) -> None:
    """ValueError in a backward pass, where activation checkpointing runs a forward again.

    It sets torch's global generator back to where it was; another one would draw other numbers, and gradients
    would be those of another network.

    >>> refuse_repeats(torch.Generator())  # not in a backward pass
    """
    if generator is not None and torch._C._current_graph_task_id() != -1:  # -1: in no backward pass now
        raise ValueError("a forward that a backward pass repeats (checkpointing) needs generator=None")


def before_drawing(module: nn.Module, inputs: tuple) -> None:
    """A hook before modules that draw from a `generator` of their own, with p < 1: `refuse_repeats`."""
    if module.training and module.p < 1:
        refuse_repeats(module.generator)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Numbers from 0 to 1, from `generator` (None: torch's global one); errors of `refuse_repeats`.

    >>> uniform((2, 3), None).shape
    torch.Size([2, 3])
    """
    refuse_repeats(generator)
    return torch.rand(shape, generator=generator, device="cpu")
