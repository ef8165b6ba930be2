"""What a test run leaves in its folder: figures, AP by class, predictions, and pictures to learn from."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hotcoco.primitives import bbox_iou
from tqdm import tqdm

from backbone.files import replacing
from backbone.names import shown
from data.readers.coco_file import Detections
from data.records import Records
from tasks.detection.metrics import IOU_THRESHOLDS, RECALL_POINTS, CocoScores, coco_results, mean_measured, measured
from tasks.plotting import GREEN, VERMILLION, class_color, contact_sheet, draw_boxes, fit, image_or_grey
from tasks.reporting import clipped, legible, save_figure, unique_names, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MATCH_IOU = 0.5
NEAR_IOU = 0.1  # below it a box has nothing to do with the object; as in TIDE (Bolya et al. 2020, section 2.2)
KINDS = ("missed", "wrong class", "false positive", "badly localised", "second box")  # the order on the sheet

_SHEET_IMAGES = 12
_SHEET_ERRORS = 24
_WRITTEN = 10_000  # results that are Python's objects at once

OpenImage = Callable[[int], np.ndarray]  # the image at a position of the truth, uint8 RGB (H, W, 3)


def write_report(
    folder: Path, *, split: str, scores: CocoScores, truth: Records, detections: Detections, open_image: OpenImage
) -> dict[str, float | None]:
    """Write the results of a run into `folder`; return what went into metrics.json.

    `scores` is what `evaluate` gave for `truth` and `detections`. Where `open_image` raises InputError a grey tile
    stands for the image.

    Written: `metrics.json` ("<split>/<figure>" and "<split>/ap/<class>" to a number, null where there is no ground
    truth; the best F1 and its score, likewise), `ap_by_class.csv`, `predictions.json` (COCO results) and, under
    `pictures/`, `precision_recall.png`, `detections.png` and `worst_errors.png`. The same input gives the same files.
    """
    names = unique_names(truth.classes, truth.class_ids)
    files = [shown(truth.path(i).name) for i in range(len(truth))]
    scenes = arrange(truth, detections)
    matches = [match(scene) for scene in tqdm(scenes, "matching boxes", disable=None, leave=False)]  # COCO's take 4 s
    best_f1, min_score = best_threshold(scenes, matches)
    errors = [
        error
        for i, (scene, matched) in enumerate(zip(scenes, matches, strict=True))
        for error in find_errors(i, scene, matched, min_score)
    ]

    def open_or_grey(i: int) -> np.ndarray:
        height, width = truth["sizes"][i].tolist()
        return image_or_grey(open_image, i, (height or 300, width or 300))

    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float | None] = {f"ap/{name}": value for name, value in measured(scores.ap_by_class).items()}
    any_object = any((~scene.is_crowd).any() for scene in scenes)
    best = (best_f1, min_score) if any_object else (None, None)
    figures = {**measured(scores.figures), **figures, "best_f1": best[0], "best_f1_score": best[1]}
    flat = write_json(folder / "metrics.json", {f"{split}/{name}": value for name, value in figures.items()})
    _write_results(folder / "predictions.json", detections, truth)
    _write_ap_by_class(folder / "ap_by_class.csv", scores, names, scenes)
    drawn = Shown(scenes, min_score, legible(names, "class"), files, open_or_grey)
    _plot_precision_recall(pictures / "precision_recall.png", scores, drawn.names)
    _draw_detections(pictures / "detections.png", drawn)
    _draw_errors(pictures / "worst_errors.png", drawn, errors)
    return flat


# --------------------------------------------------------------------------------------------------------- matching


class Scene(NamedTuple):
    """One image's boxes; classes are labels from 0; detected boxes by falling score."""

    true_xyxy: np.ndarray  # (G, 4) pixels
    true_class: np.ndarray  # (G,)
    is_crowd: np.ndarray  # (G,) bool
    detected_xyxy: np.ndarray  # (D, 4) pixels
    detected_class: np.ndarray  # (D,)
    scores: np.ndarray  # (D,)


class Match(NamedTuple):
    """Which truth each detected box takes: `taken` (D,) is its row, -1 for none, -2 for a crowd; `ious` (D, G)."""

    taken: np.ndarray
    ious: np.ndarray


class DetectionError(NamedTuple):
    """One error of the detector; a box that plays no part in it is None."""

    kind: str  # one of KINDS
    image: int  # position in the truth
    detected: int | None  # row in the image's scene
    true: int | None  # row in the image's scene
    score: float | None  # of the detected box; for a miss, of the best box below the threshold
    iou: float | None  # of both boxes; for a false positive, the best with any truth


def arrange(truth: Records, detections: Detections) -> list[Scene]:
    """The boxes of each image of `truth`."""
    boxes, xywh = truth.boxes, detections.xywh
    assert boxes is not None
    true_xyxy = boxes.xyxy
    order = np.lexsort((-detections.scores, detections.images))  # stable: ties stay as they come
    ends = np.searchsorted(detections.images[order], np.arange(len(truth) + 1))
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    columns = corners[order], detections.labels[order], detections.scores[order]
    scenes = []
    for i in range(len(truth)):
        rows, own = boxes.rows(i), slice(ends[i], ends[i + 1])
        detected = (column[own] for column in columns)
        scenes.append(Scene(true_xyxy[rows], boxes.labels[rows], boxes.crowd[rows], *detected))
    return scenes


def match(scene: Scene) -> Match:
    """Match as COCO does at IoU 0.5: by falling score, each box takes the free truth of its class it overlaps most.

    A box over a crowd of its class (half of the box inside it) counts neither as right nor as wrong.
    """
    detected, true = (np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in (scene.detected_xyxy, scene.true_xyxy))
    ious = bbox_iou(detected, true, scene.is_crowd)  # of a crowd, the share of the detected box that lies in it
    taken = np.full(len(scene.scores), -1)
    free = ~scene.is_crowd
    near = (scene.true_class == scene.detected_class[:, None]) & (ious >= MATCH_IOU)  # (D, G)
    for d in np.flatnonzero(near.any(axis=1)).tolist():  # few of a hundred boxes are near anything
        if (near[d] & free).any():
            taken[d] = int(np.argmax(np.where(near[d] & free, ious[d], -1.0)))
            free[taken[d]] = False
        elif (near[d] & scene.is_crowd).any():
            taken[d] = -2
    return Match(taken, ious)


def best_threshold(scenes: Sequence[Scene], matches: Sequence[Match]) -> tuple[float, float]:
    """The best F1 over all images and classes together (IoU 0.5), and the score from which on boxes reach it.

    If no box is right, F1 is 0 and the score lets as many boxes pass as there are objects.
    """
    scores = np.concatenate([scene.scores for scene in scenes] or [np.zeros(0)])
    taken = np.concatenate([one.taken for one in matches] or [np.zeros(0, int)])
    num_true = sum(int((~scene.is_crowd).sum()) for scene in scenes)
    scores, taken = scores[taken != -2], taken[taken != -2]
    if len(scores) == 0:
        return 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], (taken[order] >= 0).cumsum()
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    f1 = np.where(last_of_ties, 2 * right / (np.arange(1, len(scores) + 1) + num_true), -1.0)
    best = int(np.argmax(f1)) if right[-1] else min(len(scores), max(num_true, 1)) - 1
    return max(0.0, float(f1[best])), float(scores[best])


def find_errors(image: int, scene: Scene, matched: Match, min_score: float) -> list[DetectionError]:
    """What is wrong with the boxes of at least `min_score` in one image, each error named once.

    A truth that a wrongly named or badly placed box already points at is not also counted as missed.
    """
    errors = []
    sure = scene.scores >= min_score
    explained = set(matched.taken[sure].tolist())
    ious = np.where(scene.is_crowd, -1.0, matched.ious)  # (D, G)
    named_alike = scene.detected_class[:, None] == scene.true_class  # (D, G)
    for d in np.flatnonzero(sure & (matched.taken == -1)).tolist():
        same, other = np.where(named_alike[d], ious[d], -1.0), np.where(named_alike[d], -1.0, ious[d])
        causes = ("second box", same, MATCH_IOU), ("wrong class", other, MATCH_IOU), ("badly localised", same, NEAR_IOU)
        for kind, candidates, least in causes:
            if candidates.max(initial=-1.0) >= least:
                truth = int(candidates.argmax())
                explained.add(truth)
                errors.append(DetectionError(kind, image, d, truth, float(scene.scores[d]), float(ious[d, truth])))
                break
        else:
            best = max([0.0, *ious[d].tolist()])  # an inverted box has -0.0
            errors.append(DetectionError("false positive", image, d, None, float(scene.scores[d]), best))
    for g in np.flatnonzero(~scene.is_crowd).tolist():
        if g not in explained:
            late = scene.scores[matched.taken == g]  # detected, but with too low a score
            errors.append(DetectionError("missed", image, None, g, float(late[0]) if len(late) else None, None))
    return errors


def worst(errors: Sequence[DetectionError], scenes: Sequence[Scene], count: int) -> list[DetectionError]:
    """The worst of each kind in turn: the surest false boxes, the largest misses."""

    def badness(error: DetectionError) -> float:
        if error.kind != "missed":
            return -(error.score or 0.0)
        left, top, right, bottom = scenes[error.image].true_xyxy[error.true]
        return -float((right - left) * (bottom - top))

    piles = [sorted((one for one in errors if one.kind == kind), key=badness) for kind in KINDS]
    turns = [error for turn in zip_longest(*piles) for error in turn if error is not None]
    return sorted(turns[:count], key=lambda error: KINDS.index(error.kind))


# ---------------------------------------------------------------------------------------------------------- writing


def _write_results(path: Path, detections: Detections, truth: Records) -> None:
    """Write COCO results by parts: five million as Python's objects would be 4 GB."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(detections.scores), _WRITTEN):
            part = Detections(*(column[start : start + _WRITTEN] for column in detections))
            text = json.dumps(coco_results(part, truth["image_ids"], truth.class_ids), allow_nan=False)
            file.write(", " * (start > 0) + text[1:-1])
        file.write("]\n")


def _write_ap_by_class(path: Path, scores: CocoScores, names: Sequence[str], scenes: Sequence[Scene]) -> None:
    truths = Counter(k for scene in scenes for k in scene.true_class[~scene.is_crowd].tolist())
    found = Counter(k for scene in scenes for k in scene.detected_class.tolist())
    rows = []
    for k, name in enumerate(names):
        values = (mean_measured(scores.precision[ious, :, k]) for ious in (slice(None), 0, 5))
        rows.append([name, truths[k], found[k], *("" if value == -1 else value for value in values)])
    write_csv(path, ["class", "objects", "detections", "ap", "ap_50", "ap_75"], rows)


def _plot_precision_recall(path: Path, scores: CocoScores, names: Sequence[str]) -> None:
    from matplotlib import colormaps  # slow to import, and only needed here
    from matplotlib.figure import Figure  # a bare Figure has no window and no global state

    figure = Figure(figsize=(13, 5.8), layout="constrained", dpi=110)
    by_class, by_iou = figure.subplots(1, 2)

    def draw(axes: "Axes", precision: np.ndarray, name: str, **style: Any) -> None:
        axes.plot(RECALL_POINTS, precision, label=f"{name}  {precision.mean():.3f}", **style)

    measured = [k for k in range(len(names)) if (scores.precision[0, :, k] > -1).all()]
    at_50 = scores.precision[0]  # (101, K)
    ranked = sorted(measured, key=lambda k: (-at_50[:, k].mean(), k))
    # a legend of eighty names cannot be read: then name the ends, and draw the rest in grey
    named = ranked if len(ranked) <= 20 else ranked[:8] + ranked[-8:]
    if rest := [k for k in ranked if k not in named]:
        by_class.plot(RECALL_POINTS, at_50[:, rest], color="0.8", linewidth=0.8)
        by_class.plot([], [], color="0.8", label=f"{len(rest)} classes between")
    for k in named:
        color = tuple(0.8 * part / 255 for part in class_color(k))  # darker: the paper is white
        draw(by_class, at_50[:, k], clipped(names[k]), color=color, linewidth=1.4)
    if measured:
        mean = scores.precision[:, :, measured].mean(axis=2)  # (10, 101)
        draw(by_class, mean[0], "mean", color="black", linewidth=3)
        for precision, iou in zip(mean, IOU_THRESHOLDS, strict=True):
            draw(by_iou, precision, f"IoU {iou:.2f}", color=colormaps["viridis"](2 * iou - 1), linewidth=1.4)
        draw(by_iou, mean.mean(axis=0), "mean", color="black", linewidth=3)
    for axes, title in ((by_class, "by class, at IoU 0.50"), (by_iou, "mean over classes, by IoU")):
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(color="0.92")
        if measured:
            beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "frameon": False}
            axes.legend(**beside, fontsize=8, title="average precision")
        else:
            axes.text(0.5, 0.5, "no ground truth", ha="center")
    save_figure(figure, path, tight=False)


class Shown(NamedTuple):
    """What is drawn of N images."""

    scenes: Sequence[Scene]
    min_score: float  # of the boxes that are drawn
    names: Sequence[str]  # of the classes
    files: Sequence[str]
    open_image: OpenImage


def _draw_detections(path: Path, images: Shown) -> None:
    scenes, min_score, names, files, open_image = images
    chosen = np.linspace(0, len(scenes) - 1, min(len(scenes), _SHEET_IMAGES)).round().astype(int).tolist()
    tiles, captions = [], []
    for i in chosen:
        scene = scenes[i]
        image, scale = fit(open_image(i), 440, 400)
        sure = np.flatnonzero(scene.scores >= min_score)
        detected = [f"{names[scene.detected_class[d]]} {scene.scores[d]:.2f}" for d in sure]
        true = [
            names[k] + (" (crowd)" if crowd else "")
            for k, crowd in zip(scene.true_class.tolist(), scene.is_crowd.tolist(), strict=True)
        ]
        true_side = draw_boxes(image, scene.true_xyxy * scale, true, [class_color(k) for k in scene.true_class])
        colors = [class_color(scene.detected_class[d]) for d in sure]
        detected_side = draw_boxes(image, scene.detected_xyxy[sure] * scale, detected, colors)
        gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
        tiles.append(np.concatenate([true_side, gap, detected_side], axis=1))
        captions.append(f"{files[i]}\n{len(true)} in truth (left), {len(sure)} detected (right)")
    title = f"{len(chosen)} of {len(scenes)} images: ground truth left, detections from score {min_score:.2f} right"
    contact_sheet(tiles, captions, path, columns=2, title=title)


def _draw_errors(path: Path, images: Shown, errors: Sequence[DetectionError]) -> None:
    scenes, min_score, names, files, open_image = images
    tiles, captions = [], []
    for error in worst(errors, scenes, _SHEET_ERRORS):
        scene, image = scenes[error.image], open_image(error.image)
        detected = truth = ""
        marks = []  # what was detected lies on the truth
        if error.detected is not None:
            detected = names[scene.detected_class[error.detected]]
            marks.append((scene.detected_xyxy[error.detected], f"{detected} {error.score:.2f}", VERMILLION))
        if error.true is not None:
            truth = names[scene.true_class[error.true]]
            marks.append((scene.true_xyxy[error.true], f"truth: {truth}", GREEN))
        corners, labels, colors = zip(*marks, strict=True)
        boxes = np.array(corners)  # (1 or 2, 4)
        crop, origin = _around(image, boxes)
        tile, scale = fit(crop, 300, 260)
        tiles.append(draw_boxes(tile, (boxes - np.tile(origin, 2)) * scale, labels, colors))
        captions.append(f"{_description(error, detected, truth)}\n{files[error.image]}")
    count = Counter(error.kind for error in errors)
    summary = ", ".join(f"{kind} {count[kind]}" for kind in KINDS if count[kind]) or "none"
    title = f"Errors at IoU 0.5 among boxes of score {min_score:.2f} or more: {summary}. Green: truth, red: detected."
    contact_sheet(tiles, captions, path, columns=4, title=title)


def _description(error: DetectionError, detected: str, truth: str) -> str:
    """Two lines that say what is wrong, with score and IoU."""
    if error.kind == "missed":
        late = "no box fits it at any score" if error.score is None else f"detected only at score {error.score:.2f}"
        return f"missed: {truth}\n{late}"
    what = {
        "wrong class": f": {truth} taken for {detected}",
        "false positive": f": {detected}",
        "badly localised": f": {detected}",
        "second box": f" on one {detected}",
    }[error.kind]
    best = "best IoU" if error.true is None else "IoU"
    return f"{error.kind}{what}\nscore {error.score:.2f}, {best} {error.iou:.2f}"


def _around(image: np.ndarray, boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image around the boxes (N, 4), with as much again beside them, and its corner (x, y)."""
    size = np.array([image.shape[1], image.shape[0]], np.float64)
    low, high = boxes_xyxy[:, :2].min(axis=0), boxes_xyxy[:, 2:].max(axis=0)
    reach = np.maximum((high - low) / 2, 32.0)
    low = np.clip(np.floor(low - reach), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high + reach), low + 1, size).astype(int)
    return image[low[1] : high[1], low[0] : high[0]], low.astype(np.float64)
