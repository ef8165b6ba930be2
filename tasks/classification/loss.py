"""Cross-entropy with smoothed labels, on images and labels that are mixed or not."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp


class Mixed(NamedTuple):
    """Images (B, 3, H, W) and their targets: labels (B,) where nothing was mixed, else probabilities (B, classes)."""

    images: Tensor
    targets: Tensor


def mix(images: Tensor, labels: Tensor, num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> Mixed:
    """Mix each normalised image with the next by mixup or cutmix; an alpha of 0 leaves that out, two take turns.

    mixup (Zhang et al. 2017, arXiv 1710.09412) blends by a part drawn from Beta(alpha, alpha); cutmix (Yun et al. 2019,
    arXiv 1905.04899) pastes a rectangle of that part of the area. Draws from torch's global generator.
    """
    ways = [way(alpha=a, num_classes=num_classes) for way, a in ((MixUp, mixup_alpha), (CutMix, cutmix_alpha)) if a > 0]
    if not ways:
        return Mixed(images, labels)
    way = ways[int(torch.randint(len(ways), ()))]
    return Mixed(*way(images, labels))


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (B, C) with labels (B,) or probabilities (B, C), in float32.

    `smoothing` gives that part of each target to all classes alike (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
