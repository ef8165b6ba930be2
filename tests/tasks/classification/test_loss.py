import math

import pytest
import torch

from tasks.classification.loss import cross_entropy


def test_smoothed_cross_entropy_worked_by_hand():
    """Softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8); 0.3 of the target over three classes is 0.1 each."""
    logits = torch.tensor([[math.log(1), math.log(2), math.log(5)]])
    plain = -math.log(5 / 8)
    smooth = -0.1 * math.log(1 / 8) - 0.1 * math.log(2 / 8) - 0.8 * math.log(5 / 8)
    assert cross_entropy(logits, torch.tensor([2]), 0.0).item() == pytest.approx(plain)
    assert cross_entropy(logits, torch.tensor([2]), 0.3).item() == pytest.approx(smooth)
    half = torch.tensor([[0.5, 0.0, 0.5]])  # mixed: smoothed to 0.45, 0.1, 0.45
    mixed = -0.45 * math.log(1 / 8) - 0.1 * math.log(2 / 8) - 0.45 * math.log(5 / 8)
    assert cross_entropy(logits, half, 0.3).item() == pytest.approx(mixed)
    both = torch.cat([logits, logits])
    assert cross_entropy(both, torch.tensor([2, 0]), 0.0).item() == pytest.approx((plain + math.log(8)) / 2)


def test_the_loss_is_float32_whatever_the_logits():
    assert cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1]), 0.1).dtype == torch.float32
