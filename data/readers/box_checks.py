"""Boxes against their images, in any layout: cut off at the edge, counted if odd, refused in another form. No torch."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from backbone.errors import InputError
from data.records import Issue, Records, issue_of


class ClippedBoxes(NamedTuple):
    """The boxes of records within their images: (M,) rows as the records have them."""

    xyxy: np.ndarray  # float64 (M, 4) px
    usable: np.ndarray  # bool (M,): neither empty nor inverted, and at least 1 px within the image each way
    over: np.ndarray  # bool (M,): was over the edge
    empty: np.ndarray  # bool (M,): of zero or negative size


def clip_boxes(records: Records) -> ClippedBoxes:
    """Clip the boxes to their images, where the size is known."""
    boxes = records.boxes
    assert boxes is not None
    empty: np.ndarray = np.any(boxes.xywh[:, 2:] <= 0, axis=1)
    xyxy = boxes.xyxy
    limits = np.where(records["sizes"][:, ::-1] > 0, records["sizes"][:, ::-1], np.inf)  # (N, 2) width, height
    clipped = np.clip(xyxy, 0, np.tile(np.repeat(limits, np.diff(boxes.offsets), axis=0), 2))
    over: np.ndarray = ~empty & (np.abs(clipped - xyxy) > 1e-3).any(
        axis=1
    )  # 639.9999 + .0002 is rounding, not an error
    usable: np.ndarray = ~empty & (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
    return ClippedBoxes(clipped, usable, over, empty)


def odd_boxes(records: Records) -> list[Issue]:
    """What is odd about the boxes of images, which are used as `clip_boxes` says."""
    clipped, boxes = clip_boxes(records), records.boxes
    assert boxes is not None
    image = boxes.images

    def file(row: int) -> str:
        return os.fsdecode(records.file_names[image[row]])

    return [
        *issue_of("crowd regions, which are not searched for objects", boxes.crowd & clipped.usable, file),
        *issue_of(
            "images without annotations", np.diff(boxes.offsets) == 0, lambda i: os.fsdecode(records.file_names[i])
        ),
        *issue_of("boxes of zero or negative size, not trained on", clipped.empty, file),
        *issue_of("boxes over the edge, clipped", clipped.over & clipped.usable, file),
        *issue_of("boxes under 1 px within the image, not trained on", ~clipped.empty & ~clipped.usable, file),
    ]


# --- boxes in another form ------------------------------------------------------------------------------------------


def with_plain_boxes(records: Records, file: str) -> Records:
    """Raise InputError where the boxes of `file` are certainly not (x, y, width, height) in px; count what looks so."""
    boxes = records.boxes
    assert boxes is not None
    image = boxes.images
    sizes: np.ndarray = records["sizes"][image]
    refuse_other_forms(boxes.xywh, sizes, file)
    issues = like_corners(boxes.xywh, sizes, lambda row: f"image {records['image_ids'][image[row]]}")
    return replace(records, issues=(*records.issues, *issues))


def refuse_other_forms(xywh: np.ndarray, sizes: np.ndarray, file: str) -> None:
    """Raise InputError where boxes, (M, 4), in images of `sizes`, (M, 2), are certainly parts of these, or corners."""
    if _are_parts(xywh, sizes):
        raise InputError(
            f"{file}: its boxes are parts of the image, 0 to 1 (the first is {xywh[0].round(4).tolist()}); `bbox` must "
            "be [x, y, width, height] in px: multiply x and width by the image's width, y and height by its height."
        )
    known = np.asarray((sizes > 0).all(axis=1))
    leaving, far = _leave_as_sizes(xywh, sizes), _leave_as_sizes(xywh, sizes, by=0.1)
    ends = ~known[:, None] | (xywh[:, 2:] <= sizes[:, ::-1] + 1)
    within = (xywh[:, 2:] > xywh[:, :2]) & (xywh[:, :2] >= -1) & ends
    count, of = int(leaving.sum()), int(known.sum())
    if _are_corners(within, far, of):
        row = int(leaving.argmax())
        first = f"{xywh[row].round(4).tolist()} in an image of {sizes[row, 1]} x {sizes[row, 0]} px"
        raise InputError(
            f"{file}: its boxes are corners, (x1, y1, x2, y2), not (x, y, width, height): as sizes {count:,} of "
            f"{of:,} leave their image (the first is {first}), as corners none does; write `bbox` as [x1, y1, x2 - x1, "
            "y2 - y1]."
        )


def refuse_corners_as_parts(parts: np.ndarray, file: str) -> None:
    """Raise InputError where parts of the image, float (M, 4), are certainly corners, not middle, width and height."""
    starts, ends = parts[:, :2] - parts[:, 2:] / 2, parts[:, :2] + parts[:, 2:] / 2
    far = np.maximum(-starts, ends - 1).max(axis=1, initial=0) > 0.1
    if _are_corners(parts[:, 2:] > parts[:, :2], far, len(parts)):
        raise InputError(
            f"{file}: its boxes are corners (x1 y1 x2 y2), not middle, width and height: as these {far.sum():,} of "
            f"{len(parts):,} leave their image far (the first is {parts[far.argmax()].round(4).tolist()}), as corners "
            "none does; write each as (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1."
        )


def _are_corners(within: np.ndarray, far: np.ndarray, of: int) -> bool:
    """Whether boxes are certainly corners: all are in order and `within` their image as such, and many leave it `far`.

    Boxes by their size are hardly ever all in order; of few more than half must leave, as one may be drawn over the
    edge.
    """
    count = int(far.sum())
    return bool(within.all()) and (2 * count > of or (of >= 10 and 5 * count > of))


def _are_parts(xywh: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether all boxes, (M, 4), by size or by corners, are within 0 to 1 in images of `sizes` (M, 2) above that."""
    within, start, end = bool(len(xywh)) and bool((np.abs(xywh - 0.5) <= 0.51).all()), xywh[:, :2], xywh[:, 2:]
    return within and bool(
        (end > 0).any() and (sizes != 1).all() and ((start + end <= 1.01).all() or (end > start).all())
    )


def _leave_as_sizes(xywh: np.ndarray, sizes: np.ndarray, by: float = 0.0) -> np.ndarray:
    """Which boxes, (M, 4), are in order as corners and leave their image as COCO's, by more than a part of its side."""
    known = (sizes > 0).all(axis=1)
    over = (xywh[:, :2] + xywh[:, 2:] > sizes[:, ::-1] * (1 + by) + 1).any(axis=1)  # 1: rounding
    return np.asarray(known & (xywh[:, 2:] >= xywh[:, :2]).all(axis=1) & over)


def like_corners(xywh: np.ndarray, sizes: np.ndarray, first: Callable[[int], str]) -> list[Issue]:
    """The issue of boxes that look like corners, without being so for certain; [] for none."""
    leaving, known = _leave_as_sizes(xywh, sizes), (sizes > 0).all(axis=1).sum()
    what = f"of {known:,} boxes leave their image: they look like (x1, y1, x2, y2), not (x, y, width, height)"
    return issue_of(what, leaving, first) if leaving.sum() * 2 > known else []


def told_if_few_usable(records: Records, file: str, unread: int = 0) -> Records:
    """The records with a note where most of the boxes of `file` cannot be used; `unread` more are none at all."""
    usable = clip_boxes(records).usable
    of, bad = len(usable) + unread, int((~usable).sum()) + unread
    said = f"{file}: {bad:,} of its {of:,} boxes cannot be used: their numbers may mean something else"
    return replace(records, notes=(*records.notes, said)) if 2 * bad > of else records
