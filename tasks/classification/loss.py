"""Cross-entropy with smoothed labels."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (B, C) with labels (B,) or probabilities (B, C), in float32.

    `smoothing` gives that part of each target to all classes alike (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
