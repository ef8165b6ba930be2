"""COCO's detection metrics, on plain numpy and dictionaries.

The matching itself is done by a library: `faster_coco_eval` by default, `pycocotools` as the reference. What is
ours is the door: both libraries accept a NaN score, an annotation id 0 or boxes of the wrong form in silence and
then give a wrong figure, so everything is checked here first and handed over as fresh, complete rows.
Definition of the figures: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from backbone.errors import InputError

Backend = Literal["faster", "pycocotools"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # the best so many of an image and class
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # px

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


class Detections(NamedTuple):
    """What a detector found in one photograph, in the photograph's own terms.

    `boxes_xyxy` (N, 4): corners in pixels of the photograph as it lies on disk (not of the network's input);
    `scores` (N,) in [0, 1]; `category_ids` (N,): the ids of the annotation file, gaps included.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray


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


def to_coco_results(image_id: int, detections: Detections) -> list[dict[str, Any]]:
    """COCO results rows of one photograph. The one place where (x1, y1, x2, y2) becomes (x, y, width, height)."""
    boxes_xyxy = np.asarray(detections.boxes_xyxy, np.float64).reshape(-1, 4)  # (N, 4)
    boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)  # (N, 4)
    return [
        {"image_id": int(image_id), "category_id": int(category_id), "bbox": box, "score": float(score)}
        for box, score, category_id in zip(boxes_xywh.tolist(), detections.scores, detections.category_ids, strict=True)
    ]


def evaluate(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]] | np.ndarray,
    *,
    image_ids: Iterable[int] | None = None,
    backend: Backend = "faster",
    names: tuple[str, str] = ("the ground truth", "the results"),
) -> CocoScores:
    """Score detections as COCO does; both backends give pycocotools' figures to the last digit.

    `ground_truth` is a COCO annotation file as a dictionary; `results` COCO results rows with `bbox` as
    (x, y, width, height) in pixels, or an array (M, 7) of image_id, x, y, width, height, score, category_id.
    `image_ids` scores these images only. `names` is how messages call the two. Neither input is changed.
    Raises InputError for what cannot be scored: not COCO, unknown ids, coordinates or scores that are not finite.
    """
    images, categories, truths = _checked_ground_truth(ground_truth, names[0])
    found = _checked_results(results, images, categories, names)
    if image_ids is None:
        wanted = np.ones(len(images.ids), bool)
    else:
        asked = np.array(sorted(set(image_ids)), np.int64)
        if unknown := set(asked.tolist()) - set(images.ids.tolist()):
            raise InputError(
                f"image_ids asks for image {min(unknown)}, which {names[0]} does not have; "
                f"ask only for its {len(images.ids)} images."
            )
        wanted = np.isin(images.ids, asked)

    # Ids are replaced by positions among the wanted, from 1: the order stays (ties depend on it), and the libraries
    # never meet an id that is 0 (they read it as "unmatched"), repeated, negative or too large.
    new_image = np.cumsum(wanted)

    def library_table(rows: _Rows, **columns: np.ndarray) -> _Table:
        keep = wanted[rows.image]
        table = {
            "image_id": new_image[rows.image[keep]],
            "category_id": rows.category[keep] + 1,
            "bbox": rows.boxes_xywh[keep],
            "id": np.arange(1, keep.sum() + 1),
            **{name: column[keep] for name, column in columns.items()},
        }
        keys = tuple(table)
        every = [dict(zip(keys, row, strict=True)) for row in zip(*(c.tolist() for c in table.values()), strict=True)]
        return _Table(int(wanted.sum()), len(categories.ids), every)

    found_area = found.rows.boxes_xywh[:, 2] * found.rows.boxes_xywh[:, 3]
    precision, recall = _run(
        backend,
        library_table(truths.rows, area=truths.area, iscrowd=truths.is_crowd),
        library_table(found.rows, area=found_area, score=found.scores),
    )
    figures = {}
    for name, kind, iou, area, max_dets in _LINES:
        table = precision if kind == "AP" else recall
        table = table if iou is None else table[iou == IOU_THRESHOLDS]
        figures[name] = mean_measured(table[..., list(AREAS).index(area), MAX_DETECTIONS.index(max_dets)])
    precision = np.ascontiguousarray(precision[..., 0, -1])  # (10, 101, K): all areas, 100 detections
    by_class = (mean_measured(precision[:, :, k]) for k in range(len(categories.ids)))
    return CocoScores(figures, dict(zip(categories.names, by_class, strict=True)), precision)


def mean_measured(values: np.ndarray) -> float:
    """Mean over any part of a precision or recall table, leaving out -1 (no ground truth); -1 if nothing is left."""
    measured = values[values > -1]
    return float(np.mean(measured)) if measured.size else -1.0


def format_figures(figures: Mapping[str, float]) -> str:
    """The twelve lines that COCO's own tool prints, word for word."""
    lines = []
    for name, kind, iou, area, max_dets in _LINES:
        title = {"AP": "Average Precision", "AR": "Average Recall"}[kind]
        ious = "0.50:0.95" if iou is None else f"{iou:.2f}"
        value = figures[name]
        lines.append(
            f" {title:<18} ({kind}) @[ IoU={ious:<9} | area={area:>6s} | maxDets={max_dets:>3d} ] = {value:0.3f}"
        )
    return "\n".join(lines)


def class_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names in the order of the category ids; a name that two categories share is followed by its id."""
    ordered = sorted(categories, key=lambda category: category["id"])
    names = [str(category.get("name", f"category {category['id']}")) for category in ordered]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({category['id']})"
        for name, category in zip(names, ordered, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ the two libraries


class _Table:
    """Annotations as COCOeval asks its COCO object for them, which is always for all of them.

    It stands in for the libraries' COCO class: that would index the rows once more (a fifth of the whole time), and
    pycocotools' loader of results fails on an empty list.
    """

    def __init__(self, num_images: int, num_classes: int, rows: list[dict[str, Any]]) -> None:
        self.num_images, self.num_classes, self.rows = num_images, num_classes, rows

    def getImgIds(self) -> list[int]:
        return list(range(1, self.num_images + 1))

    def getCatIds(self) -> list[int]:
        return list(range(1, self.num_classes + 1))

    def getAnnIds(self, **_: object) -> range:
        return range(len(self.rows))

    def loadAnns(self, ids: range) -> list[dict[str, Any]]:
        return [self.rows[i] for i in ids]


def _run(backend: Backend, truth: _Table, found: _Table) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101, K, 4, 3) and recall (10, K, 4, 3) by IoU, recall point, class, area and detections."""
    recall_points = RECALL_POINTS
    if backend == "faster":
        from faster_coco_eval import COCOeval_faster as COCOeval

        recall_points = np.concatenate([RECALL_POINTS, _PROBES])
    elif backend == "pycocotools":
        from pycocotools.cocoeval import COCOeval
    else:
        raise InputError(f"evaluation backend {backend!r} is unknown; use 'faster' or 'pycocotools'.")

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        run = COCOeval(truth, found, "bbox")
        run.params.recThrs = recall_points
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"], run.eval["recall"]
    if backend == "faster":
        precision = _as_pycocotools_rounds(precision, truth)
    return precision, recall


# Powers of two: of every count n of ground truths exactly one, 2**-j with n/2 <= 2**j < n, lies in (1/n, 2/n].
_PROBES = 2.0 ** -np.arange(-1, 31)


def _as_pycocotools_rounds(precision: np.ndarray, truth: _Table) -> np.ndarray:
    """Take the probes off `faster_coco_eval`'s precision and round what is left as pycocotools does.

    pycocotools divides by `tp + fp + np.spacing(1)`, which differs from `tp + fp` only where that is 1: a first
    detection that is right and no second right one to follow at once has precision 1 - 2**-52, not 1. Precision at
    the recall that takes a second match, between 1/n and 2/n, tells the two apart.
    """
    crowd, area = (np.array([row[key] for row in truth.rows], np.float64) for key in ("iscrowd", "area"))
    category = np.array([row["category_id"] for row in truth.rows], np.int64) - 1
    counts = np.stack(
        [
            np.bincount(category[(crowd == 0) & (area >= low) & (area <= high)], minlength=truth.num_classes)
            for low, high in AREAS.values()
        ],
        axis=1,
    )  # (K, 4)
    # n - 1 = m * 2**e with .5 <= m < 1 puts 2**(e - 1) in [n/2, n); for n = 1, 2**-1
    probe = np.where(counts > 1, np.frexp(np.maximum(counts - 1, 1))[1], 0)  # (K, 4), index into _PROBES
    k, a = np.indices(counts.shape)
    at_second = precision[:, len(RECALL_POINTS) :][:, probe, k, a, :]  # (10, K, 4, 3)
    precision = precision[:, : len(RECALL_POINTS)].copy()  # (10, 101, K, 4, 3)
    precision[(precision == 1) & (at_second < 1)[:, None]] = 1 / (1 + np.spacing(1))
    return precision


# ------------------------------------------------------------------------------------------------ checks at the door


class _Ids(NamedTuple):
    ids: np.ndarray  # (N,) ascending
    names: list[str]  # of the categories; empty for images
    sizes: np.ndarray  # (N, 2) width and height of the images, NaN where the file does not say


class _Rows(NamedTuple):
    image: np.ndarray  # (M,) position in the ascending image ids
    category: np.ndarray  # (M,) position in the ascending category ids
    boxes_xywh: np.ndarray  # (M, 4) float64


class _Truths(NamedTuple):
    rows: _Rows
    area: np.ndarray  # (M,)
    is_crowd: np.ndarray  # (M,) 0 or 1


class _Found(NamedTuple):
    rows: _Rows
    scores: np.ndarray  # (M,)


def _checked_ground_truth(ground_truth: Mapping[str, Any], name: str) -> tuple[_Ids, _Ids, _Truths]:
    if not isinstance(ground_truth, Mapping):
        raise InputError(
            f"{name}: found {_kind(ground_truth)}, not COCO annotations; "
            "give an object with images, annotations and categories (is it a results file?)."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), list):
            raise InputError(
                f"{name} has no list {key!r}, so it is not a COCO annotation file that can be scored against; "
                "give one with images, annotations and categories."
            )
    images = _ids(ground_truth["images"], f"{name}: images")
    categories = _ids(ground_truth["categories"], f"{name}: categories")
    categories = categories._replace(names=class_names(ground_truth["categories"]))

    annotations = ground_truth["annotations"]
    where = f"{name}: annotations"
    rows = _rows(annotations, images, categories, where, name)
    boxes_area = rows.boxes_xywh[:, 2] * rows.boxes_xywh[:, 3]
    no_area = np.array([row.get("area") is None for row in annotations], bool)
    no_crowd = np.array([row.get("iscrowd") is None for row in annotations], bool)
    area = _numbers([{"area": 0 if row.get("area") is None else row["area"]} for row in annotations], "area", (), where)
    crowd = _numbers([{"iscrowd": row.get("iscrowd") or 0} for row in annotations], "iscrowd", (), where)
    _check_finite(area, "area", where)

    ids = [row.get("id") for row in annotations]
    count = Counter(str(one) for one in ids)
    bad_ids = sum(one is None or one == 0 or count[str(one)] > 1 for one in ids)
    fixes = [
        f"{no_area.sum()} without area (taken as width x height)" if no_area.any() else "",
        f"{no_crowd.sum()} without iscrowd (taken as 0)" if no_crowd.any() else "",
        f"{bad_ids} with an id that is 0, missing or repeated (numbered anew)" if bad_ids else "",
    ]
    if any(fixes):
        warnings.warn(f"{where}: of {len(annotations)}, " + ", ".join(filter(None, fixes)) + ".", stacklevel=3)
    is_crowd = (crowd != 0).astype(np.int64)
    return images, categories, _Truths(rows, np.where(no_area, boxes_area, area.astype(np.float64)), is_crowd)


def _checked_results(
    results: Sequence[Mapping[str, Any]] | np.ndarray, images: _Ids, categories: _Ids, names: tuple[str, str]
) -> _Found:
    where = names[1]
    if isinstance(results, np.ndarray):
        if results.ndim != 2 or results.shape[1] != 7 or results.dtype.kind not in "iuf":
            raise InputError(
                f"{where}: found an array of shape {results.shape} and type {results.dtype}; give numbers of shape "
                "(M, 7): image_id, x, y, width, height, score, category_id."
            )
        table = results.astype(np.float64)
        image_ids, category_ids = _whole(table[:, 0], "image_id", where), _whole(table[:, 6], "category_id", where)
        rows = _located(image_ids, category_ids, table[:, 1:5], images, categories, where, names[0])
        scores = table[:, 5]
    else:
        if not isinstance(results, Sequence) or isinstance(results, str):
            raise InputError(
                f"{where}: found {_kind(results)}, not COCO results; give a list of objects with "
                "image_id, category_id, bbox (x, y, width, height) and score (is it the annotation file?)."
            )
        rows = _rows(results, images, categories, where, names[0])
        scores = _numbers(results, "score", (), where).astype(np.float64)
    _check_finite(scores, "score", where)

    sizes = images.sizes[rows.image]  # (M, 2)
    known = ~np.isnan(sizes).any(axis=1)
    xy, wh = rows.boxes_xywh[:, :2], rows.boxes_xywh[:, 2:]
    # Read as corners such boxes are in order, read as COCO's they leave the image; one pixel for rounding.
    like_xyxy = known & (wh >= xy).all(axis=1) & (xy + wh > sizes + 1).any(axis=1)
    if like_xyxy.sum() * 2 > known.sum():
        warnings.warn(
            f"{where}: {like_xyxy.sum()} of {known.sum()} boxes leave their image; they look like (x1, y1, x2, y2), "
            "COCO's bbox is (x, y, width, height).",
            stacklevel=3,
        )
    return _Found(rows, scores)


def _ids(rows: list[Any], where: str) -> _Ids:
    ids = _whole(_numbers(rows, "id", (), where), "id", where)
    ordered, count = np.unique(ids, return_counts=True)
    if (count > 1).any():
        raise InputError(f"{where}: id {ordered[count > 1][0]} occurs {count.max()} times; give each its own id.")
    sizes = np.full((len(ids), 2), np.nan)
    for position, row in zip(np.searchsorted(ordered, ids), rows, strict=True):
        size = row.get("width"), row.get("height")
        if all(isinstance(side, int | float) for side in size):
            sizes[position] = size
    return _Ids(ordered, [], sizes)


def _rows(rows: Sequence[Any], images: _Ids, categories: _Ids, where: str, truth_name: str) -> _Rows:
    image_ids = _whole(_numbers(rows, "image_id", (), where), "image_id", where)
    category_ids = _whole(_numbers(rows, "category_id", (), where), "category_id", where)
    boxes = _numbers(rows, "bbox", (4,), where).astype(np.float64)
    return _located(image_ids, category_ids, boxes, images, categories, where, truth_name)


def _located(
    image_ids: np.ndarray,
    category_ids: np.ndarray,
    boxes_xywh: np.ndarray,
    images: _Ids,
    categories: _Ids,
    where: str,
    truth_name: str,
) -> _Rows:
    _check_finite(boxes_xywh, "bbox", where)
    image = _positions(image_ids, images.ids, "image_id", where, f"the {len(images.ids)} images of {truth_name}")
    few = ", ".join(map(str, categories.ids[:5])) + (", ..." if len(categories.ids) > 5 else "")
    category = _positions(
        category_ids,
        categories.ids,
        "category_id",
        where,
        f"the {len(categories.ids)} categories of {truth_name} ({few})",
    )
    return _Rows(image, category, boxes_xywh)


def _positions(ids: np.ndarray, known: np.ndarray, key: str, where: str, those: str) -> np.ndarray:
    """Position of each id in the ascending `known` (K,); InputError for the first that is not there."""
    positions = np.searchsorted(known, ids)
    unknown = np.isin(ids, known, invert=True)
    if unknown.any():
        first = int(np.argmax(unknown))
        raise InputError(
            f"{where}[{first}] has {key} {ids[first]}, which is not among {those}; "
            f"score against the annotations it was made for ({unknown.sum()} of {len(ids)} rows are like this)."
        )
    return positions


def _numbers(rows: Sequence[Any], key: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Column `key` of the rows as an array of numbers (M, *shape); InputError that names the first row at fault."""
    if len(rows) == 0:
        return np.zeros((0, *shape))
    try:
        column = np.asarray([row[key] for row in rows])
    except (KeyError, TypeError, IndexError, ValueError):  # a row that is no object, has no such key, or is ragged
        column = np.asarray(None)
    if column.dtype.kind in "iufb" and column.shape[1:] == shape and column.ndim == 1 + len(shape):
        return column
    needs = "a list of 4 numbers (x, y, width, height)" if shape else "a number"
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}[{index}] is {_kind(row)}; each must be an object with {key!r}.")
        if key not in row:
            raise InputError(f"{where}[{index}] has no {key!r}; it needs {needs}.")
        try:
            value = np.asarray(row[key])
        except ValueError:
            value = np.asarray(None)
        if value.dtype.kind not in "iufb" or value.shape != shape:
            raise InputError(f"{where}[{index}] has {key} {_short(row[key])}; it needs {needs}.")
    raise InputError(f"{where}: the values of {key!r} are not all numbers; each needs {needs}.")


def _whole(column: np.ndarray, key: str, where: str) -> np.ndarray:
    if column.dtype.kind == "f":
        _check_finite(column, key, where)
        broken = column != np.round(column)
        if broken.any():
            first = int(np.argmax(broken))
            raise InputError(f"{where}[{first}] has {key} {column[first]}; an id is a whole number.")
    return column.astype(np.int64)


def _check_finite(column: np.ndarray, key: str, where: str) -> None:
    per_row = int(np.prod(column.shape[1:]))
    bad = ~np.isfinite(column.astype(np.float64)).reshape(len(column), per_row).all(axis=1)  # (M,)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{where}[{first}] has {key} {_short(column[first].tolist())}; every number must be finite, "
            f"so correct or remove it ({bad.sum()} of {len(column)} rows are like this)."
        )


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
