"""Non-maximum suppression in the forms that an exported network can have."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms


class Suppression(NamedTuple):
    """A form of suppression, and how many boxes it is given: the best ones."""

    choose: Callable[[Tensor, Tensor, float, float], Tensor]  # as `suppress`
    candidates: int


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


# Of 128 photographs, COCO's SSD needs up to 13 rounds for the last box; 8 are enough for its AP to the last digit.
ROUNDS = 16
_LEAST = 1e-30  # of two boxes without area the IoU is 0, not 0 / 0
_STEEP = 2.0**40  # what is above a limit of at least 2**-16 by the last bit of a float32 becomes 1 or more


def suppress_by_rounds(boxes: Tensor, scores: Tensor, max_iou: float, min_score: float) -> Tensor:
    """`suppress` in plain tensor operations of fixed shapes, for runtimes that have no operator for it.

    A box stays if none of the better ones that stay overlaps it. First all are taken to stay; then each of the 16
    rounds asks that of what the last one left. A box of which every chain of better boxes, each overlapping the next,
    has at most 16 of them is judged as by greedy suppression; of the others one too many may stay.
    """
    # All in float arithmetic and truth values as 0 and 1, as that is what ExecuTorch's fast kernels (XNNPACK) have: a
    # comparison of all pairs takes ten times as long as all else here. The IoU is rounded as in torchvision.
    x1, y1, x2, y2 = (side[..., None] for side in boxes.unbind(-1))
    left, top, right, bottom = (side.transpose(1, 2) for side in (x1, y1, x2, y2))
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    shared, area = width * height, (x2 - x1) * (y2 - y1)
    iou = shared / (area + area.transpose(1, 2) - shared).clamp(min=_LEAST)
    place = torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device)
    better = (place[:, None] - place).clamp(0, 1)
    over = ((iou - _float_below(max_iou)) * _STEEP).clamp(0, 1) * better  # (B, N, N): is it overlapped by that one
    live = (scores > min_score).to(scores.dtype)[..., None]
    keep = live
    for _ in range(ROUNDS):
        keep = live * (1 - torch.bmm(over, keep).clamp(max=1))
    return keep[..., 0] > 0


def _float_below(value: float) -> float:
    """The largest float32 that is not above a value: a float32 is above both or neither."""
    near = np.float32(value)  # as a Python number below: numpy would round the other side of a comparison too
    return float(near if float(near) <= value else np.nextafter(near, np.float32(-np.inf)))


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
