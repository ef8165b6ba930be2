"""Distillation losses as pure functions: each a mean over the batch, in float32, and 0 where the student matches.

The `temperature`, above 0, softens both sides; its square in front keeps the size of the gradient (Hinton et al. 2015,
arXiv 1503.02531, section 2). Every function raises InputError where student and teacher differ in shape.
"""

import torch.nn.functional as F
from torch import Tensor

from backbone.errors import InputError


def softmax_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the teacher's classes from the student's, of logits (B, C), times T^2.

    At a high temperature it is half the mean squared difference of the logits, each row less its own mean (Hinton et
    al. 2015, section 2.1).
    """
    student, teacher = ((logits / temperature).log_softmax(1) for logits in _alike(student, teacher))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def binary_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean divergence of one yes or no of the teacher from the student's, of logits (B, K), times T^2.

    Each attribute by itself, as the multi-label logits distillation of Yang et al. 2023 (arXiv 2308.06453) has it: a
    softmax over attributes would make rivals of them. It is the cross-entropy with the teacher's probability less that
    probability's entropy, and at a high temperature `mse_logits` / 8.
    """
    student, teacher = (logits / temperature for logits in _alike(student, teacher))
    # p (t - s) + softplus(s) - softplus(t): log p = t - softplus(t), log(1 - p) = -softplus(t). Exactly 0 at a match.
    divergence = teacher.sigmoid() * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    return divergence.mean() * temperature**2


def mse_logits(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of logits (B, K): 8 times what `binary_kl` tends to at a high temperature."""
    return F.mse_loss(*_alike(student, teacher))


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of embeddings (B, D), summed over D: "the squared differences of the output" (section 4.7).

    The teacher's are first brought to length 1, where FaceNet's are (Schroff et al. 2015, arXiv 1503.03832).
    """
    student, teacher = _alike(student, teacher)
    return (student - F.normalize(teacher, dim=1)).square().sum(1).mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 less the cosine of the angle between embeddings (B, D): half the squared distance of their directions."""
    return (1 - F.cosine_similarity(*_alike(student, teacher), dim=1)).mean()


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, K) with targets int8 (B, K), 1 or 0, over the known ones alone.

    A target below 0, unknown, gives neither loss nor gradient; where all are unknown the loss is 0.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
    known = targets >= 0
    return losses.where(known, 0.0).sum() / known.sum().clamp(min=1)


def _alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 and of one shape: (B, 1) beside (B, K) would be broadcast unnoticed."""
    if student.shape != teacher.shape:
        raise InputError(
            f"the student's outputs have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; map "
            "the teacher's classes to the student's by name, or project the student's embedding to that width."
        )
    return student.float(), teacher.float()
