import math

import pytest
import torch
import torch.nn.functional as F
from scipy.special import logit

from backbone.errors import InputError
from tasks.distillation.losses import binary_kl, cosine, masked_bce, mse_logits, softmax_kl, squared_error


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(loss, student):
    student = student.clone().requires_grad_()
    loss(student).backward()
    return student.grad


def test_softmax_kl_worked_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2), a mean over the rows."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert softmax_kl(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-5)
    # Logits twice as far apart at T = 2 are the same probabilities; T^2 is 4.
    assert softmax_kl(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-5)
    rows = torch.cat([student, teacher]), torch.cat([teacher, teacher])
    assert softmax_kl(*rows, 1.0).item() == pytest.approx(expected / 2, rel=1e-5)


def test_binary_kl_worked_by_hand():
    """Teacher 0.8 and student 0.5: 0.8 ln 1.6 + 0.2 ln 0.4; an attribute that matches halves the mean."""
    expected = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[logit(0.8), 1.0]])
    assert binary_kl(student, teacher, 1.0).item() == pytest.approx(expected / 2, rel=1e-5)
    assert binary_kl(3 * student, 3 * teacher, 3.0).item() == pytest.approx(9 * expected / 2, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_binary_kl_is_the_cross_entropy_less_the_teachers_entropy_and_a_softmax_over_yes_and_no(temperature):
    student, teacher = logits(5, 7), logits(5, 7, seed=1)
    p = (teacher / temperature).sigmoid()
    entropy = F.binary_cross_entropy(p, p)
    expected = F.binary_cross_entropy_with_logits(student / temperature, p) - entropy
    torch.testing.assert_close(binary_kl(student, teacher, temperature), expected * temperature**2)
    pairs = [torch.stack([x, torch.zeros_like(x)], 2).flatten(0, 1) for x in (student, teacher)]
    torch.testing.assert_close(binary_kl(student, teacher, temperature), softmax_kl(*pairs, temperature))


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: softmax_kl(s, t, 1.0),
        lambda s, t: softmax_kl(s, t, 4.0),
        lambda s, t: binary_kl(s, t, 1.0),
        lambda s, t: binary_kl(s, t, 4.0),
        mse_logits,
        lambda s, t: squared_error(s, 3 * t),
        cosine,
    ],
    ids=["softmax", "softmax T", "binary", "binary T", "mse", "squared", "cosine"],
)
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(loss):
    teacher = F.normalize(logits(4, 6), dim=1)  # of length 1, so that all of them have their match
    assert loss(teacher.clone(), teacher).item() == pytest.approx(0, abs=1e-6)
    assert gradient(lambda s: loss(s, teacher), teacher).abs().max() < 1e-6


def test_confident_logits_stay_finite():
    """At logits of 100 a probability is 1 in float32 and its logarithm 0; the loss is then the logits' distance."""
    far, near = torch.tensor([[100.0, -100.0]]), torch.tensor([[-100.0, 100.0]])
    assert binary_kl(near, far, 1.0).item() == pytest.approx(100)
    assert binary_kl(far, far, 1.0).item() == 0
    assert softmax_kl(near, far, 1.0).item() == pytest.approx(200)
    assert gradient(lambda s: binary_kl(s, far, 1.0), near).isfinite().all()


def test_at_a_high_temperature_they_are_squared_differences():
    """The binary one by 8, that of classes half that of the centred logits; the temperature keeps the gradient."""
    student, teacher = logits(8, 9), logits(8, 9, seed=1)
    assert binary_kl(student, teacher, 50.0).item() == pytest.approx(mse_logits(student, teacher).item() / 8, rel=0.01)
    high = gradient(lambda s: binary_kl(s, teacher, 200.0), student)
    torch.testing.assert_close(high, gradient(lambda s: mse_logits(s, teacher) / 8, student), rtol=0.01, atol=1e-5)
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    assert softmax_kl(student, teacher, 200.0).item() == pytest.approx(mse_logits(*centred).item() / 2, rel=0.02)
    for loss in (softmax_kl, binary_kl):
        sizes = [gradient(lambda s, t=t, loss=loss: loss(s, teacher / 4, t), student / 4).norm() for t in (1.0, 8.0)]
        assert 0.8 < sizes[1] / sizes[0] < 1.25


def test_masked_bce_counts_the_known_alone():
    """Logit 0 costs ln 2 whatever the target; logit ln 3, ln(4/3) where it is 1 and ln 4 where it is 0."""
    x = torch.tensor([[0.0, math.log(3)], [math.log(3), 5.0]])
    targets = torch.tensor([[0, 1], [0, -1]], dtype=torch.int8)
    expected = (math.log(2) + math.log(4 / 3) + math.log(4)) / 3
    assert masked_bce(x, targets).item() == pytest.approx(expected)
    slope = gradient(lambda s: masked_bce(s, targets), x)
    torch.testing.assert_close(slope, torch.tensor([[0.5, -0.25], [0.75, 0.0]]) / 3)
    unknown = torch.full((2, 2), -1)
    assert masked_bce(x, unknown).item() == 0
    assert (gradient(lambda s: masked_bce(s, unknown), x) == 0).all()


def test_embedding_losses_worked_by_hand():
    """(3, 4) has length 5; brought to (0.6, 0.8) it is 0.4^2 + 0.8^2 from (1, 0), at a cosine of 0.6."""
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert squared_error(student, teacher).item() == pytest.approx((0.8 + 1) / 2)
    assert cosine(student[:1], teacher[:1]).item() == pytest.approx(0.4)
    assert cosine(7 * student[:1], teacher[:1]).item() == pytest.approx(0.4)
    unit = F.normalize(logits(6, 8), dim=1)  # where the squared error is twice the cosine loss
    torch.testing.assert_close(squared_error(unit, logits(6, 8, seed=1)), 2 * cosine(unit, logits(6, 8, seed=1)))


@pytest.mark.parametrize(
    "loss", [mse_logits, squared_error, cosine, lambda s, t: softmax_kl(s, t, 1.0), lambda s, t: binary_kl(s, t, 1.0)]
)
def test_other_widths_are_refused_and_halves_are_taken_as_float32(loss):
    with pytest.raises(InputError, match=r"student.* \(4, 1\) .*teacher.* \(4, 6\)"):
        loss(torch.zeros(4, 1), torch.zeros(4, 6))
    assert loss(logits(2, 3).bfloat16(), logits(2, 3, seed=1)).dtype == torch.float32
