"""Which anchor is responsible for which object (SSD section 2.2), for a whole batch at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_area, box_iou

NEGATIVE, IGNORED = -1, -2


@torch.no_grad()
def match(
    anchors_xyxy: Tensor,
    boxes_xyxy: Sequence[Tensor],
    crowd_xyxy: Sequence[Tensor],
    *,
    min_iou: float = 0.5,
) -> Tensor:
    """Match anchors (A, 4) to each image's boxes (N, 4), all xyxy: (B, A) row of the box, or NEGATIVE, or IGNORED.

    An anchor takes the box it overlaps most where that IoU is at least `min_iou`. Before that every box is given an
    anchor of its own, pairs of highest IoU first, so that no object is lost where two want the same anchor. A negative
    anchor with more than half its area in a crowd region is ignored: the region says "many, not outlined here".
    """
    counts = torch.tensor([len(boxes) for boxes in boxes_xyxy])
    matches = anchors_xyxy.new_full((len(boxes_xyxy), len(anchors_xyxy)), NEGATIVE, dtype=torch.long)
    if counts.max() > 0:
        padded = pad_sequence([boxes.float() for boxes in boxes_xyxy], batch_first=True)  # (B, N, 4)
        pairs = box_iou(anchors_xyxy, padded.flatten(0, 1))  # (A, B * N); a padding box has area 0 and so IoU 0
        iou = pairs.view(len(anchors_xyxy), *padded.shape[:2]).transpose(0, 1)  # (B, A, N)
        best_iou, best_box = iou.max(dim=2)
        matches = torch.where(best_iou >= min_iou, best_box, NEGATIVE)
        wanted_iou, wanted = iou.max(dim=1)  # (B, N)
        for i, count in enumerate(counts.tolist()):
            if count == 0:
                continue
            own = wanted[i, :count]
            if wanted_iou[i, :count].min() <= 0 or len(own.unique()) < count:
                own = _share_out(iou[i, :, :count], anchors_xyxy, boxes_xyxy[i])
            served = own >= 0  # all, unless the image has more objects than anchors
            matches[i, own[served]] = torch.arange(count, device=own.device)[served]
    for i, crowd in enumerate(crowd_xyxy):
        if len(crowd):
            inside = _overlap(anchors_xyxy, crowd).amax(dim=1) / box_area(anchors_xyxy)
            matches[i, (inside > 0.5) & (matches[i] == NEGATIVE)] = IGNORED
    return matches


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Area of the intersection of every pair of a (A, 4) and b (N, 4): (A, N)."""
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clamp(min=0).prod(dim=2)


def _share_out(iou: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Give every box an anchor of its own, the pair of highest IoU first: iou (A, N) -> (N,) rows of anchors.

    A box that touches no anchor gets the free one with the nearest centre, after all the others were served.
    """
    distance = torch.cdist((anchors[:, :2] + anchors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]).float() / 2)
    worth = torch.where(iou > 0, iou, -distance)
    own = torch.full((iou.shape[1],), -1, device=iou.device)
    for _ in range(min(iou.shape)):
        anchor, box = divmod(int(worth.argmax()), iou.shape[1])
        own[box] = anchor
        worth[anchor, :] = -torch.inf
        worth[:, box] = -torch.inf
    return own
