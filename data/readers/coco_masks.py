"""The boxes around masks as COCO's JSON has them: polygons, or run-length encoded. No torch."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np


def around_mask(mask: Any, size: tuple[int, int]) -> list[float]:
    """The box around a `segmentation`, [x, y, width, height] px; [0, 0, 0, 0] where it has no area.

    It is a list of polygons, or run-length encoded, where `size` (height, width) must be the image's if that is known.
    Raises ValueError and the like where it is neither.
    """
    if isinstance(mask, Mapping):
        return _around_runs(mask, size)
    if mask and isinstance(mask[0], Mapping):
        xywh = np.array([_around_runs(part, size) for part in mask])
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[xywh[:, 2] > 0]
    else:
        pairs = bool(mask) and all(isinstance(part, Sequence) and len(part) == 2 for part in mask)
        parts = [mask] if pairs or (mask and isinstance(mask[0], Real)) else mask  # one polygon, by points or numbers
        polygons = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts]
        if not all(np.isfinite(points).all() for points in polygons):
            raise ValueError("not finite")
        wide = [one for one in polygons if len(one) > 2 and np.linalg.matrix_rank(one - one[0]) == 2]  # not on one line
        corners = np.array([[*points.min(axis=0), *points.max(axis=0)] for points in wide])
    if not len(corners):
        return [0.0] * 4
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _around_runs(mask: Mapping[str, Any], size: tuple[int, int]) -> list[float]:
    from pycocotools import mask as masks  # it is compiled, and few files need it

    height, width = map(int, mask["size"])
    if min(height, width) < 1 or (all(size) and (height, width) != size):
        raise ValueError("another size")
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        counts = counts.encode() if isinstance(counts, str) else counts
        if not counts or min(counts) < 48 or max(counts) >= 112 or (counts[-1] - 48) & 32:
            raise ValueError("not COCO's letters, or cut off")
        packed = {"size": [height, width], "counts": counts}
    else:
        runs = np.array(counts, dtype=np.int64)
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError("not the runs of all pixels")
        packed = masks.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    if not masks.area(packed):
        return [0.0] * 4
    box: list[float] = masks.toBbox(packed).tolist()
    if box[0] + box[2] > width or box[1] + box[3] > height:
        raise ValueError("more pixels than the size has")
    return box
