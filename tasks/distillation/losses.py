"""What a student is held to, as pure functions: each a mean over the batch, in float32, and 0 where it matches.

The `temperature` softens both sides; its square in front keeps the size of the gradient (Hinton et al. 2015, arXiv
1503.02531, section 2). Every function raises InputError where student and teacher differ in shape.
"""

import torch.nn.functional as F
from torch import Tensor

from backbone.errors import InputError


def softmax_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the teacher's classes from the student's, of logits (B, C), times T^2.

    At a high temperature it is half the mean squared difference of the logits, each row less its own mean (Hinton et
    al. 2015, section 2.1).
    """
    student, teacher = _alike(student, teacher)
    check_temperature(temperature)
    of_student, of_teacher = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return F.kl_div(of_student, of_teacher, reduction="batchmean", log_target=True) * temperature**2


def binary_kl(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Mean divergence of one yes-or-no answer of the teacher from the student's, of logits (B, K), times T^2.

    Each attribute by itself, as the multi-label logits distillation of Yang et al. 2023 (arXiv 2308.06453) has it: a
    softmax over attributes would make rivals of them. It is the cross-entropy with the teacher's probability less that
    probability's entropy, and at a high temperature `mse_logits` / 8. `mask` bool (B, K) says which answers count;
    where none does, the loss is 0.
    """
    student, teacher = _alike(student, teacher)
    check_temperature(temperature)
    student, teacher = student / temperature, teacher / temperature
    # p (t - s) + softplus(s) - softplus(t): log p = t - softplus(t), log(1 - p) = -softplus(t). Exactly 0 at a match.
    divergence = teacher.sigmoid() * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    return (divergence.mean() if mask is None else _masked_mean(divergence, mask)) * temperature**2


def mse_logits(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of logits (B, K): 8 times what `binary_kl` tends to at a high temperature."""
    return F.mse_loss(*_alike(student, teacher))


def squared_error(student: Tensor, teacher: Tensor, unit_teacher: bool) -> Tensor:
    """Squared distance of embeddings (B, D), summed over D: "the squared differences of the output" (section 4.7).

    `unit_teacher` first brings the teacher's to length 1, where FaceNet's are (Schroff et al. 2015, arXiv 1503.03832).
    """
    student, teacher = _alike(student, teacher)
    target = F.normalize(teacher, dim=1) if unit_teacher else teacher
    return (student - target).square().sum(1).mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 less the cosine of the angle between embeddings (B, D): half the squared distance of their directions."""
    return (1 - F.cosine_similarity(*_alike(student, teacher), dim=1)).mean()


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, K) with targets int8 (B, K), 1 or 0, over the known ones alone.

    A target below 0, unknown, gives neither loss nor gradient; where all are unknown the loss is 0.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
    return _masked_mean(losses, targets >= 0)


def check_temperature(temperature: float) -> None:
    """Raise InputError unless the temperature is a number above 0."""
    if not 0 < temperature < float("inf"):
        raise InputError(f"the temperature is {temperature}; it must be above 0, and 1 leaves the logits as they are.")


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def _alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 and of one shape: (B, 1) beside (B, K) would be broadcast unnoticed."""
    if student.shape != teacher.shape:
        raise InputError(
            f"the student answers {tuple(student.shape)} (pictures, numbers) and the teacher {tuple(teacher.shape)}; "
            "map the teacher's classes to the student's by name, or project the student's embedding to that width."
        )
    return student.float(), teacher.float()
