"""What a net that predicts cells is trained with, as pure functions, in float32.

An image in a cell that the partition dropped has the label -1: it trains nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.geolocalization.sphere import EARTH_RADIUS_KM


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, C) with labels int64 (B,), or with `haversine_labels` (B, C).

    The mean is over the images that have a cell; those of label -1, or of a row of zeros, give neither loss nor
    gradient. Without any the loss is 0.
    """
    counted = targets >= 0 if targets.ndim == 1 else targets.any(1)
    total = F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=-1)
    return total / counted.sum().clamp(min=1)


@torch.no_grad()
def haversine_labels(latlng: Tensor, points: Tensor, labels: Tensor, tau_km: float) -> Tensor:
    """Soft labels float32 (B, C): each cell by how much farther from the image its point is than the own cell's.

    exp(-(d(image, cell) - d(image, own cell)) / tau), at most 1, brought to a sum of 1; a row of zeros where the label
    is -1. After PIGEON (Haas et al. 2023, arXiv 2307.05845), whose published code differs twice: it subtracts the
    distance to the nearest point, which need not be the own cell's, so that a small tau does not lead back to plain
    labels; and it leaves the sums as they are, so that an image weighs more where cells lie close.

    `latlng` (B, 2) in degrees, `points` (C, 3) unit vectors, `labels` int64 (B,), `tau_km` above 0.
    """
    latitude, longitude = torch.deg2rad(latlng).unbind(1)  # in the precision given
    across = latitude.cos()
    images = torch.stack([across * longitude.cos(), across * longitude.sin(), latitude.sin()], 1).float()
    # From coordinate differences: by way of a product of matrices float32 would be kilometres wrong for neighbours.
    chord = torch.cdist(images, points.float(), compute_mode="donot_use_mm_for_euclid_dist")  # (B, C)
    weights = chord.div_(2).clamp_(max=1).asin_().mul_(2 * EARTH_RADIUS_KM)  # km; one array from here to the end
    own = weights.gather(1, labels.clamp(min=0)[:, None])
    weights.sub_(own).div_(-tau_km).clamp_(max=0).exp_()
    return weights.div_(weights.sum(1, keepdim=True)).mul_((labels >= 0)[:, None])
