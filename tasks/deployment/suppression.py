"""Non-maximum suppression in the forms that an exported network can have."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

Suppress = Callable[[Tensor, Tensor, float, float], Tensor]  # as `suppress`


def suppress(boxes: Tensor, scores: Tensor, max_iou: float, min_score: float) -> Tensor:
    """Which boxes stay, bool (B, N): greedy non-maximum suppression of boxes (B, N, 4) of descending scores (B, N).

    Boxes of a score up to `min_score` go. As one operator, so that an exporter can put its own in its place.
    """
    return torch.ops.mobilenet_tasks.suppress(boxes, scores, max_iou, min_score)


@torch.library.custom_op("mobilenet_tasks::suppress", mutates_args=())
def _suppress(boxes: Tensor, scores: Tensor, max_iou: float, min_score: float) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image_boxes, image_scores, image_keep in zip(boxes, scores, keep, strict=True):
        count = int((image_scores > min_score).sum())
        image_keep[nms(image_boxes[:count], image_scores[:count], max_iou)] = True
    return keep


@_suppress.register_fake
def _(boxes: Tensor, scores: Tensor, max_iou: float, min_score: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_suppress(boxes: Any, scores: Any, max_iou: float, min_score: float) -> Any:
    """`suppress` as ONNX has it: NonMaxSuppression of one class, and its choice as a mask."""
    from onnxscript import opset18

    op: Any = opset18  # its types are of ONNX, not of Python

    ends = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    limits = (op.Constant(value_floats=[value]) for value in (max_iou, min_score))
    all_of_them = op.Constant(value_ints=[2**31 - 1])
    chosen = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, ends[1]), all_of_them, *limits)  # (M, 3): image, 0, box
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Slice(op.Shape(places), *ends))
    return op.Cast(op.ScatterND(op.Mul(scores, op.Constant(value_floats=[0.0])), places, ones), to=9)  # 9 is bool
