"""Images of a batch mixed with each other."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp


class Mixed(NamedTuple):
    """Images uint8 (B, 3, H, W) and their targets: labels (B,) where nothing was mixed, else probabilities (B, C)."""

    images: Tensor
    targets: Tensor


def mix(images: Tensor, labels: Tensor, num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> Mixed:
    """Mix each uint8 image with the one before it by mixup or cutmix; an alpha of 0 leaves that out, two take turns.

    mixup (Zhang et al. 2017, arXiv 1710.09412) blends by a part drawn from Beta(alpha, alpha); cutmix (Yun et al. 2019,
    arXiv 1905.04899) pastes a rectangle of that part of the area. Pixels are rounded to uint8 again, so that a teacher,
    which normalises them another way, sees the very image that its student does, as function matching wants it (Beyer
    et al. 2021, arXiv 2106.05237). Draws from torch's global generator.
    """
    ways = [way(alpha=a, num_classes=num_classes) for way, a in ((MixUp, mixup_alpha), (CutMix, cutmix_alpha)) if a > 0]
    if not ways:
        return Mixed(images, labels)
    way = ways[int(torch.randint(len(ways), ()))]
    mixed, targets = way(images.float(), labels)
    return Mixed(mixed.round_().to(torch.uint8), targets)
