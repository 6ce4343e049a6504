"""What a student predicts, compared with what its teacher predicts and with what is right."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def soft_errors(
    student_logits: Float[Tensor, "*B V"], teacher_logits: Float[Tensor, "..."], temperature: float
) -> Float[Tensor, "*B"]:
    """T^2 KL(teacher || student) of each token, in nats; no gradient reaches the teacher.

    A word that the teacher excludes, with the logit -inf, adds nothing. Half precision is computed in fp32.
    ValueError for a temperature that is not positive, what is no tensor of floats, and logits of different
    shapes.

    >>> soft_errors(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]]), 1.0)  # equal but for a constant
    tensor([0.])
    """
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature!r}: give a finite number above 0, such as 2.0")
    both = student_logits, teacher_logits
    if not all(isinstance(z, Tensor) and z.is_floating_point() for z in both):
        raise ValueError(f"logits of {[getattr(z, 'dtype', type(z)) for z in both]}: give floats, as .logits")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"logits {[tuple(z.shape) for z in both]}: give the same tokens, of one vocabulary")
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    log_p, log_q = ((z.to(dtype) / temperature).log_softmax(-1) for z in both)
    log_p, log_q = (log.masked_fill(log_q.isneginf(), 0.0) for log in (log_p, log_q))  # 0 log 0 = 0, not NaN
    return temperature**2 * F.kl_div(log_p, log_q.detach(), reduction="none", log_target=True).sum(-1)


def hard_errors(logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Cross-entropy of each token, 0 where the target is -100, in nats.

    Half precision is computed in fp32. ValueError for targets of another shape than the
    tokens, and for what is neither -100 nor one of V words.

    >>> hard_errors(torch.zeros(3, 2), torch.tensor([0, 1, -100]))  # log 2
    tensor([0.6931, 0.6931, 0.0000])
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        raise ValueError(f"targets of {getattr(targets, 'dtype', type(targets))}: give a tensor of integers")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {tuple(targets.shape)}: each token has one, {tuple(logits.shape[:-1])}")
    if not ((targets == -100) | (targets >= 0) & (targets < logits.shape[-1])).all():
        raise ValueError(
            f"targets {targets.min()} to {targets.max()}: words are below {logits.shape[-1]}, or -100"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    return F.cross_entropy(logits, targets.flatten().long(), reduction="none").view(targets.shape)


def hard_loss(logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]) -> Float[Tensor, ""]:
    """The mean of `hard_errors` over tokens with a label; without any it is 0.

    >>> hard_loss(torch.zeros(3, 2), torch.tensor([0, 1, -100]))  # log 2
    tensor(0.6931)
    """
    return hard_errors(logits, targets).sum() / (targets != -100).sum().clamp(min=1)
