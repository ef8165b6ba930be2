"""From the raw outputs to at most 100 boxes an image in fixed shapes, as a network that is exported needs it.

The boxes are those of postprocess.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.deployment.suppression import Suppression, suppress, suppress_by_rounds
from tasks.detection.postprocess import MAX_CANDIDATES, MAX_DETECTIONS, MAX_IOU, MIN_SCORE

BY_OPERATOR = Suppression(suppress, MAX_CANDIDATES)
# All pairs of 1,000 take ExecuTorch 9 ms, those of 500 1.2 ms; 500 cost COCO's SSD nothing of its AP, 300 0.0005.
BY_ROUNDS = Suppression(suppress_by_rounds, 500)


class Suppressed(NamedTuple):
    """Of B images the best boxes; the rows from `count` on are 0, of label -1."""

    boxes_xyxy: Tensor  # (B, 100, 4) as parts of the image's width and height
    scores: Tensor  # (B, 100)
    labels: Tensor  # int64 (B, 100)
    count: Tensor  # type: ignore[assignment]  # int64 (B,); hides tuple.count, which nobody needs here


def suppressed(
    boxes_xyxy: Tensor,
    scores: Tensor,
    input_size: tuple[int, int],
    suppression: Suppression,
    class_agnostic: bool,
) -> Suppressed:
    """The best of boxes_xyxy (B, A, 4) in px of the `input_size` (height, width), of which scores are (B, A, K).

    Boxes of several classes are told apart as by torchvision's `batched_nms`: each class is moved out of the others'
    reach, by the same distance to the last bit.
    """
    classes, (height, width) = scores.shape[2], input_size
    flat = scores.flatten(1)
    best, order = flat.topk(min(suppression.candidates, flat.shape[1]))
    anchor, label = order // classes, order % classes
    x1, y1, x2, y2 = boxes_xyxy.gather(1, anchor[..., None].expand(-1, -1, 4)).unbind(-1)
    boxes = torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)
    apart = boxes
    if not class_agnostic:
        reach = torch.where(best > MIN_SCORE, boxes.amax(-1), 0.0).amax(1, keepdim=True)
        apart = boxes + (label * (reach + 1))[..., None]
    keep = suppression.choose(apart, best, MAX_IOU, MIN_SCORE)
    best, kept = torch.where(keep, best, 0.0).topk(min(MAX_DETECTIONS, best.shape[1]))
    found = best > 0
    boxes = boxes.gather(1, kept[..., None].expand(-1, -1, 4)) / boxes.new_tensor([width, height, width, height])
    labels = torch.where(found, label.gather(1, kept), -1)
    return Suppressed(boxes * found[..., None], best, labels, found.sum(1))
