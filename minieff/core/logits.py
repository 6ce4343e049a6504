"""What a student predicts, compared with what its teacher predicts and with what is right."""

from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def soft_errors(
    student_logits: Float[Tensor, "*B V"], teacher_logits: Float[Tensor, "..."], temperature: float
) -> Float[Tensor, "*B"]:
    """T^2 KL(teacher || student) of each token, in nats; no gradient reaches the teacher.

    A word that the teacher excludes, with the logit -inf, adds nothing. Half precision is computed in fp32.
    ValueError for a temperature that is not positive, what is no tensor, and logits of different shapes.

    >>> soft_errors(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]]), 1.0)  # equal but for a constant
    tensor([0.])
    """
    if not 0 < temperature < inf:
        raise ValueError(f"temperature={temperature}: give a finite number above 0, such as 2.0")
    for logits in (student_logits, teacher_logits):
        if not isinstance(logits, Tensor):
            raise ValueError(f"logits of type {type(logits).__name__}: give a tensor, such as its .logits")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)}: "
            "both predict the same tokens, from one vocabulary; pick a teacher with the student's tokenizer"
        )
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    both = (student_logits, teacher_logits.detach())
    log_p, log_q = ((logits.to(dtype) / temperature).log_softmax(-1) for logits in both)
    log_p, log_q = (log.masked_fill(log_q == -inf, 0.0) for log in (log_p, log_q))  # 0 log 0 = 0, not NaN
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)


def hard_loss(logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]) -> Float[Tensor, ""]:
    """Cross-entropy, the mean over tokens with a label; -100 is none, and without any it is 0.

    ValueError for targets of another shape than the tokens.

    >>> hard_loss(torch.zeros(3, 2), torch.tensor([0, 1, -100]))  # log 2
    tensor(0.6931)
    """
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets {tuple(targets.shape)}: each token has one; give them as {tuple(logits.shape[:-1])}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    return F.cross_entropy(logits, targets.flatten(), reduction="sum") / (targets != -100).sum().clamp(min=1)
