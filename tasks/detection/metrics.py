"""COCO's detection figures (https://cocodataset.org/#detection-eval), on plain arrays.

The matching is hotcoco's or, on demand, that of pycocotools, the reference; the figures are the same to the last digit.
What they would take in silence (unknown ids, NaN, an annotation id 0), data/readers/coco_file.py refuses or mends.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.readers.coco_fields import as_ids
from data.readers.coco_file import Detections
from data.records import Records
from tasks.reporting import unique_names

Backend = Literal["hotcoco", "pycocotools"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # the best so many of an image and class
AREAS = ("all", "small", "medium", "large")  # small below 32**2 px², large above 96**2 px²

# COCO's own twelve lines, in its order: name, kind, IoU (None: mean of all ten), area of the truth, detections
_LINES: tuple[tuple[str, str, float | None, str, int], ...] = (
    ("map", "AP", None, "all", 100),
    ("map_50", "AP", 0.5, "all", 100),
    ("map_75", "AP", 0.75, "all", 100),
    ("map_small", "AP", None, "small", 100),
    ("map_medium", "AP", None, "medium", 100),
    ("map_large", "AP", None, "large", 100),
    ("mar_1", "AR", None, "all", 1),
    ("mar_10", "AR", None, "all", 10),
    ("mar_100", "AR", None, "all", 100),
    ("mar_small", "AR", None, "small", 100),
    ("mar_medium", "AR", None, "medium", 100),
    ("mar_large", "AR", None, "large", 100),
)
FIGURES = tuple(line[0] for line in _LINES)


@dataclass(frozen=True)
class CocoScores:
    """The outcome of `evaluate`. A figure is -1 where there is no ground truth to measure it on, as COCO has it.

    `figures`: the twelve, named as in `FIGURES`. `ap_by_class`: class name to AP, in the order of the category ids.
    `precision` (10, 101, classes): precision at each of `IOU_THRESHOLDS`, `RECALL_POINTS` and class, -1 where the
    class has no ground truth (all areas, 100 detections per image).
    """

    figures: dict[str, float]
    ap_by_class: dict[str, float]
    precision: np.ndarray


def stack_detections(
    boxes_xyxy: Sequence[np.ndarray], scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> Detections:
    """The boxes (N, 4) of each image, with corners in its own px, as columns."""
    columns = ([np.zeros((0, 4)), *boxes_xyxy], [np.zeros(0), *scores], [np.zeros(0, np.int64), *labels])
    return detections_of(np.array([len(boxes) for boxes in boxes_xyxy], np.int64), *map(np.concatenate, columns))


def detections_of(counts: np.ndarray, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Detections:
    """The boxes of N images, of which each has `counts` (N,), one image after the other: (M, 4), (M,), (M,)."""
    corners = boxes_xyxy.astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    return Detections(np.repeat(np.arange(len(counts)), counts), labels, corners, scores.astype(np.float64))


def coco_results(detections: Detections, image_ids: np.ndarray, class_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO results; `image_ids` (N,) by the position of the image, `class_ids` by label."""
    columns = image_ids[detections.images], as_ids(class_ids)[detections.labels], *detections[2:]
    return [
        {"image_id": image_id, "category_id": class_id, "bbox": box, "score": score}
        for image_id, class_id, box, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def evaluate(truth: Records, detections: Detections, backend: Backend = "hotcoco") -> CocoScores:
    """Score detections in the images of `truth`, which has `boxes` and a column `image_ids`, as COCO does."""
    assert truth.boxes is not None
    # Both libraries get ids that count from 1: neither errs with those. Images come by their ids, as ties depend on it.
    image = np.empty(len(truth), np.int64)
    image[np.argsort(truth["image_ids"])] = np.arange(1, len(truth) + 1)
    boxes = truth.boxes
    columns = np.repeat(image, np.diff(boxes.offsets)), boxes.labels + 1, boxes.xywh, boxes.areas, boxes.crowd + 0
    content: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": i} for i in range(1, len(truth) + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, len(truth.classes) + 1)],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
            for i, (image_id, label, box, area, crowd) in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1)
        ],
    }
    table = np.column_stack([image[detections.images], detections.xywh, detections.scores, detections.labels + 1.0])
    run = _run_hotcoco if backend == "hotcoco" else _run_pycocotools
    precision, recall = run(content, table)
    figures = {}
    for name, kind, iou, area, max_detections in _LINES:
        values = precision if kind == "AP" else recall
        values = values if iou is None else values[iou == IOU_THRESHOLDS]
        figures[name] = mean_measured(values[..., AREAS.index(area), MAX_DETECTIONS.index(max_detections)])
    precision = np.ascontiguousarray(precision[..., 0, -1])  # (10, 101, K): all areas, 100 detections
    by_class = (mean_measured(precision[:, :, k]) for k in range(len(truth.classes)))
    names = unique_names(truth.classes, truth.class_ids)
    return CocoScores(figures, dict(zip(names, by_class, strict=True)), precision)


def _run_hotcoco(content: dict[str, Any], table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101, K, 4, 3) and recall (10, K, 4, 3) by IoU, recall point, class, area and detections.

    `table` (M, 7) is image, x, y, width, height, score, class.
    """
    from hotcoco import COCO, COCOeval

    truth = COCO(content)
    run = COCOeval(truth, truth.load_res(table), "bbox")
    run.evaluate()
    run.accumulate()
    assert run.eval is not None
    return run.eval["precision"], run.eval["recall"]


def _run_pycocotools(content: dict[str, Any], table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = [  # not by its loadRes, which fails on an empty list
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "score": score}
        for i, (image, *box, score, label) in enumerate(table.tolist(), 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
        sides = COCO(), COCO()
        for side, annotations in zip(sides, (content["annotations"], found), strict=True):
            side.dataset = {**content, "annotations": annotations}
            side.createIndex()
        run = COCOeval(*sides, "bbox")
        run.evaluate()
        run.accumulate()
    tables: dict[str, np.ndarray] = run.eval
    return tables["precision"], tables["recall"]


def mean_measured(values: np.ndarray) -> float:
    """Mean over any part of a precision or recall table, leaving out -1 (no ground truth); -1 if nothing is left."""
    measured = values[values > -1]
    return float(np.mean(measured)) if measured.size else -1.0


def measured(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with NaN for COCO's -1, as the whole project says that there was nothing to measure."""
    return {name: math.nan if value == -1 else value for name, value in figures.items()}


def format_figures(figures: Mapping[str, float]) -> str:
    """The twelve lines that COCO's own tool prints, word for word."""
    lines = []
    for name, kind, iou, area, max_detections in _LINES:
        title = {"AP": "Average Precision", "AR": "Average Recall"}[kind]
        ious = "0.50:0.95" if iou is None else f"{iou:.2f}"
        part = f"IoU={ious:<9} | area={area:>6s} | maxDets={max_detections:>3d}"
        lines.append(f" {title:<18} ({kind}) @[ {part} ] = {figures[name]:0.3f}")
    return "\n".join(lines)
