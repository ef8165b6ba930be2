"""The two losses of an SSD, as pure functions of the network's outputs and the matches (SSD section 2.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from tasks.detection.anchors import encode
from tasks.detection.matcher import IGNORED, NEGATIVE

NEGATIVES_PER_POSITIVE = 3
# TensorFlow's focal recipe for the same network (ssd_mobilenet_v1_300x300_coco14_sync): alpha 0.75, gamma 2.
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.75, 2.0


class Losses(NamedTuple):
    """Both parts, each summed over the batch and divided by its positive anchors; an image without one counts as 1."""

    classes: Tensor
    boxes: Tensor


def multibox_loss(
    class_logits: Tensor,
    box_codes: Tensor,
    anchors: Tensor,
    matches: Tensor,
    boxes_xyxy: Sequence[Tensor],
    labels: Sequence[Tensor],
    class_weights: Tensor | None = None,
) -> Losses:
    """Cross-entropy over K classes and background (column 0) with hard-negative mining, smooth L1 on the box codes.

    class_logits (B, A, K + 1), box_codes (B, A, 4), anchors (A, 4) cxcywh, matches (B, A) of `match`, labels from 0.
    Each image gives its three hardest negatives for every positive; one without an object gives three all the same,
    where SSD and torchvision give none, so that empty images teach what is not an object. `class_weights` (K,) weigh
    the positive anchors by their class; background weighs 1, and boxes are not weighted.
    """
    positive, targets, box_loss = _targets(box_codes, anchors, matches, boxes_xyxy, labels)
    classes = torch.zeros_like(matches)
    classes[positive] = targets + 1
    loss = F.cross_entropy(class_logits.float().flatten(0, 1), classes.flatten(), reduction="none")
    loss = _weighted(loss.view_as(matches), positive, targets, class_weights)  # (B, A)

    with torch.no_grad():
        wanted = NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        hardness = torch.where(matches == NEGATIVE, loss, -torch.inf)
        rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        mined = (rank < wanted) & (matches == NEGATIVE)
    return Losses(loss[positive | mined].sum() / _count(positive), box_loss)


def focal_loss(
    class_logits: Tensor,
    box_codes: Tensor,
    anchors: Tensor,
    matches: Tensor,
    boxes_xyxy: Sequence[Tensor],
    labels: Sequence[Tensor],
    class_weights: Tensor | None = None,
) -> Losses:
    """Sigmoid focal loss over K classes, every anchor counted (Lin et al. 2017), smooth L1 on the box codes.

    Shapes as in `multibox_loss`, but class_logits are (B, A, K): there is no background column.
    """
    positive, targets, box_loss = _targets(box_codes, anchors, matches, boxes_xyxy, labels)
    classes = torch.zeros_like(class_logits, dtype=torch.float32)
    classes[positive] = F.one_hot(targets, class_logits.shape[2]).float()
    loss = sigmoid_focal_loss(class_logits.float(), classes, alpha=_FOCAL_ALPHA, gamma=_FOCAL_GAMMA).sum(2)  # (B, A)
    loss = _weighted(loss, positive, targets, class_weights)
    return Losses(loss[matches != IGNORED].sum() / _count(positive), box_loss)


def _weighted(loss: Tensor, positive: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """The loss of each anchor (B, A), times the weight of its class where it has one."""
    if class_weights is None:
        return loss
    weights = torch.ones_like(loss)
    weights[positive] = class_weights[targets]
    return weights * loss


def _targets(
    box_codes: Tensor, anchors: Tensor, matches: Tensor, boxes_xyxy: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which anchors are positive (B, A), their labels (P,), and the box loss that both recipes share."""
    positive = matches >= 0
    image, anchor = positive.nonzero(as_tuple=True)
    first = torch.tensor([0, *(len(boxes) for boxes in boxes_xyxy[:-1])], device=matches.device).cumsum(0)
    row = first[image] + matches[image, anchor]  # of the boxes of all images in one list
    wanted = encode(torch.cat(list(boxes_xyxy))[row].float(), anchors[anchor])  # (P, 4)
    loss = F.smooth_l1_loss(box_codes[image, anchor].float(), wanted, reduction="sum")
    return positive, torch.cat(list(labels))[row], loss / _count(positive)


def _count(positive: Tensor) -> Tensor:
    return positive.sum(dim=1).clamp(min=1).sum()
