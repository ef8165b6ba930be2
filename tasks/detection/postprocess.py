"""From the raw outputs to at most 100 boxes an image, in the image's own pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from tasks.detection.anchors import decode

MAX_DETECTIONS = 100  # as COCO scores
MIN_SCORE, MAX_IOU = 0.01, 0.6  # 0.6 and 100 boxes are TensorFlow's for this network
MAX_CANDIDATES = 1000  # boxes that suppression sees: it takes as long for an untrained net as for a good one


class Detected(NamedTuple):
    """Detections of one image, best first: boxes_xyxy (N, 4) in pixels, scores (N,) in 0..1, labels (N,) from 0."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor


def class_scores(class_logits: Tensor, num_classes: int) -> Tensor:
    """Scores (B, A, K) of class logits: a softmax where they have a background column, else a sigmoid each."""
    logits = class_logits.float()
    return logits.softmax(dim=-1)[..., 1:] if logits.shape[-1] == num_classes + 1 else logits.sigmoid()


@torch.no_grad()
def postprocess(
    class_logits: Tensor,
    box_codes: Tensor,
    anchors: Tensor,
    num_classes: int,
    input_size: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    *,
    min_score: float = MIN_SCORE,
    max_iou: float = MAX_IOU,
    class_agnostic: bool = False,
) -> list[Detected]:
    """Decode, suppress and scale to each image's (height, width) of `sizes`; `input_size` is the network's.

    class_logits (B, A, K or K + 1), box_codes (B, A, 4), anchors (A, 4) cxcywh. The 1,000 best (anchor, class) pairs
    over `min_score` enter one non-maximum suppression, by class or, with `class_agnostic`, over all classes, where two
    boxes of IoU above `max_iou` leave the better one.
    """
    scores = class_scores(class_logits, num_classes)
    found = []
    for image_scores, codes, (height, width) in zip(scores, box_codes, sizes, strict=True):
        flat = image_scores.flatten()  # (A * K,)
        best, order = flat.topk(min(MAX_CANDIDATES, len(flat)))
        order = order[best > min_score]
        best = best[: len(order)]
        anchor, label = order // num_classes, order % num_classes
        boxes = clip_boxes_to_image(decode(codes[anchor].float(), anchors[anchor]), input_size)
        keep = batched_nms(boxes, best, torch.zeros_like(label) if class_agnostic else label, max_iou)[:MAX_DETECTIONS]
        scale = boxes.new_tensor([width / input_size[1], height / input_size[0]]).repeat(2)
        found.append(Detected(boxes[keep] * scale, best[keep], label[keep]))
    return found
