"""What AdaBERT takes from a teacher: what each of its layers knows of the task, read by linear probes."""

from collections.abc import Sequence
from math import ceil, inf

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.data import SILENT
from minieff.core.logits import hard_errors
from minieff.core.surgery import clone


class Probes(nn.Module):
    """A linear classifier on the output (..., C) of each layer; it tells what the layer knows of the task.

    ValueError for sizes below 1, outputs of another number or width, and targets that are no classes.

    >>> probes, hidden = Probes(layers=2, dim=8, classes=3), [torch.randn(5, 8), torch.randn(5, 8)]
    >>> probes(hidden).shape, probes.loss(hidden, torch.zeros(5, dtype=torch.long)).shape
    (torch.Size([2, 5, 3]), torch.Size([2, 5]))
    """

    def __init__(self, layers: int, dim: int, classes: int) -> None:
        super().__init__()
        if any(type(size) is not int or size < 1 for size in (layers, dim, classes)):
            raise ValueError(
                f"layers={layers!r}, dim={dim!r}, classes={classes!r}: sizes are integers from 1 on"
            )
        self.layers = nn.ModuleList(nn.Linear(dim, classes) for _ in range(layers))

    def forward(self, hidden: Sequence[Tensor]) -> Float[Tensor, "L *B V"]:
        widths = [x.shape[-1] if isinstance(x, Tensor) else type(x).__name__ for x in hidden]
        if widths != (wanted := [probe.in_features for probe in self.layers]):
            raise ValueError(
                f"outputs of {len(hidden)} layers for {len(wanted)} probes: {widths}, not {wanted}"
            )
        return torch.stack([probe(x) for probe, x in zip(self.layers, hidden, strict=True)])

    def loss(self, hidden: Sequence[Tensor], targets: Int[Tensor, "*B"]) -> Float[Tensor, "L *B"]:
        """Cross-entropy of each layer and target, 0 where the target is -100. Its mean trains the probes."""
        return torch.stack([hard_errors(logits, targets) for logits in self(hidden)])


class KnowledgeLoss(nn.Module):
    """How far the student's layers are from knowing what the teacher's know.

        sum_i share_i temperature^2 KL(teacher's probe ceil(i N / K) || student's probe i),   i = 1..K
        share = softmax over i of -(cross-entropy of the teacher's probe)

    `teacher` are probes that were trained on its N layers; they stay as they are. The student's K are trained
    with the student. Both sides are divided by `temperature`. ValueError if it is not above 0, for a teacher
    that is no `Probes`, and as for these.

    >>> knowledge = KnowledgeLoss(Probes(layers=4, dim=8, classes=3), layers=2, dim=6)
    >>> knowledge.matched
    [1, 3]
    """

    def __init__(self, teacher: Probes, *, layers: int, dim: int, temperature: float = 1.0) -> None:
        super().__init__()
        if not isinstance(temperature, int | float) or not 0 < temperature < inf:
            raise ValueError(f"temperature={temperature!r}: it divides the logits; give a number above 0")
        if not isinstance(teacher, Probes):
            raise ValueError(f"teacher is a {type(teacher).__name__}; give Probes trained on its layers")
        count, self.temperature = len(teacher.layers), temperature
        self.teacher = clone(teacher).requires_grad_(False)
        self.student = Probes(layers, dim, teacher.layers[0].out_features)
        self.matched = [ceil(i * count / layers) - 1 for i in range(1, layers + 1)]

    def forward(
        self, teacher: Sequence[Tensor], student: Sequence[Tensor], targets: Int[Tensor, "*B"]
    ) -> Float[Tensor, ""]:
        """From the outputs of all N and all K layers; mean over the targets that are not -100, 0 for none."""
        with torch.no_grad():
            p = (self.teacher(teacher)[self.matched] / self.temperature).log_softmax(-1)
            share = self.teacher.loss(teacher, targets)[self.matched].neg().softmax(0)  # (K, *B)
        q = (self.student(student) / self.temperature).log_softmax(-1)
        apart = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
        errors = (share * apart).sum(0)[targets != SILENT]
        return self.temperature**2 * errors.sum() / max(1, errors.numel())
