"""What a test run leaves in its folder: figures, AP by class, predictions, and pictures to learn from."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from tasks.detection.metrics import IOU_THRESHOLDS, RECALL_POINTS, CocoScores, class_names, mean_measured
from tasks.plotting import GREEN, VERMILLION, class_color, contact_sheet, draw_boxes, fit
from tasks.reporting import clipped, write_csv, write_json

MATCH_IOU = 0.5
NEAR_IOU = 0.1  # below it a box has nothing to do with the object; as in TIDE (Bolya et al. 2020, section 2.2)
KINDS = ("missed", "wrong class", "false alarm", "badly localised", "second box")  # the order on the sheet

_SHEET_IMAGES = 12
_SHEET_ERRORS = 24
_UNREADABLE_GREY = 160


def write_report(
    folder: Path,
    *,
    split: str,
    scores: CocoScores,
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    open_image: Callable[[int], np.ndarray],
    image_ids: Iterable[int] | None = None,
) -> dict[str, float | None]:
    """Write the results of a run into `folder`; return what went into metrics.json.

    `scores` is what `evaluate` gave for the same `ground_truth`, `results` and `image_ids`. `open_image` gives a
    photograph (H, W, 3) uint8 RGB by its id; where it raises InputError a grey tile stands for the photograph.

    Written: `metrics.json` ("<split>/<figure>" and "<split>/ap/<class>" to a number, null where there is no ground
    truth; the best F1 and its score), `ap_by_class.csv`, `predictions.json` (COCO results) and, under `pictures/`,
    `precision_recall.png`, `detections.png` and `worst_errors.png`. The same input gives the same files.
    """
    names = class_names(ground_truth["categories"])
    every_id = [image["id"] for image in ground_truth["images"]]
    wanted = sorted(every_id if image_ids is None else set(image_ids))
    files = {image["id"]: str(image.get("file_name", f"image {image['id']}")) for image in ground_truth["images"]}
    scenes = arrange(ground_truth, results, wanted)
    progress = tqdm(scenes.items(), "matching boxes", disable=None, leave=False)  # 4 s for COCO's 5,000 images
    matches = {image_id: match(scene) for image_id, scene in progress}
    best_f1, min_score = best_threshold(scenes, matches)
    mistakes = [
        mistake
        for image_id, scene in scenes.items()
        for mistake in find_mistakes(image_id, scene, matches[image_id], min_score)
    ]

    def open_or_grey(image_id: int) -> np.ndarray:
        try:
            return open_image(image_id)
        except InputError:
            image = next(image for image in ground_truth["images"] if image["id"] == image_id)
            size = int(image.get("height", 300)), int(image.get("width", 300)), 3
            return np.full(size, _UNREADABLE_GREY, np.uint8)

    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    metrics = {
        **{f"{split}/{name}": value for name, value in scores.figures.items()},
        **{f"{split}/ap/{name}": value for name, value in scores.ap_by_class.items()},
    }
    measured = {name: None if value == -1 else value for name, value in metrics.items()}  # -1 is pycocotools' NaN
    measured |= {f"{split}/best_f1": best_f1, f"{split}/best_f1_score": min_score}
    flat = write_json(folder / "metrics.json", measured)
    (folder / "predictions.json").write_text(json.dumps([dict(row) for row in results], allow_nan=False) + "\n")
    _write_ap_by_class(folder / "ap_by_class.csv", scores, names, scenes)
    _plot_precision_recall(pictures / "precision_recall.png", scores, names)
    _draw_detections(pictures / "detections.png", scenes, names, files, min_score, open_or_grey)
    _draw_mistakes(pictures / "worst_errors.png", mistakes, names, files, min_score, open_or_grey)
    return flat


# --------------------------------------------------------------------------------------------------------- matching


class Scene(NamedTuple):
    """One photograph's boxes; classes are positions in the ascending category ids; found boxes by falling score."""

    true_xyxy: np.ndarray  # (G, 4) pixels
    true_class: np.ndarray  # (G,)
    is_crowd: np.ndarray  # (G,) bool
    found_xyxy: np.ndarray  # (D, 4) pixels
    found_class: np.ndarray  # (D,)
    scores: np.ndarray  # (D,)


class Match(NamedTuple):
    """Which truth each found box takes: `taken` (D,) is its row, -1 for none, -2 for a crowd; `ious` (D, G)."""

    taken: np.ndarray
    ious: np.ndarray


class Mistake(NamedTuple):
    """One error of the detector; a box that plays no part in it is None."""

    kind: str  # one of KINDS
    image_id: int
    said: int | None  # class found
    truth: int | None  # class in truth
    score: float | None  # of the found box; for a miss, of the best box below the threshold
    iou: float | None
    found_xyxy: np.ndarray | None  # (4,)
    true_xyxy: np.ndarray | None  # (4,)


def arrange(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int]
) -> dict[int, Scene]:
    """The boxes of each of these images, from COCO annotations and COCO results, in the order of `image_ids`."""
    position = {c: k for k, c in enumerate(sorted(category["id"] for category in ground_truth["categories"]))}
    true_rows, found_rows = defaultdict(list), defaultdict(list)
    for row in ground_truth["annotations"]:
        true_rows[row["image_id"]].append(row)
    for row in results:
        found_rows[row["image_id"]].append(row)

    def boxes_and_classes(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)  # (N, 4) xywh
        boxes[:, 2:] += boxes[:, :2]
        return boxes, np.array([position[row["category_id"]] for row in rows], np.int64)

    scenes = {}
    for image_id in image_ids:
        true, found = true_rows[image_id], sorted(found_rows[image_id], key=lambda row: -row["score"])
        crowd = np.array([bool(row.get("iscrowd")) for row in true], bool)
        scores = np.array([row["score"] for row in found], np.float64)
        scenes[image_id] = Scene(*boxes_and_classes(true), crowd, *boxes_and_classes(found), scores)
    return scenes


def match(scene: Scene) -> Match:
    """Match as COCO does at IoU 0.5: by falling score, each box takes the free truth of its class it overlaps most.

    A box over a crowd of its class (half of the box inside it) counts neither as right nor as wrong.
    """
    ious = _ious(scene.found_xyxy, scene.true_xyxy, scene.is_crowd)
    taken = np.full(len(scene.scores), -1)
    free = ~scene.is_crowd
    for d in range(len(scene.scores)):
        near = (scene.true_class == scene.found_class[d]) & (ious[d] >= MATCH_IOU)
        if (near & free).any():
            taken[d] = int(np.argmax(np.where(near & free, ious[d], -1.0)))
            free[taken[d]] = False
        elif (near & scene.is_crowd).any():
            taken[d] = -2
    return Match(taken, ious)


def best_threshold(scenes: Mapping[int, Scene], matches: Mapping[int, Match]) -> tuple[float, float]:
    """The best F1 over all images and classes together (IoU 0.5), and the score from which on boxes reach it.

    If no box is right, F1 is 0 and the score lets as many boxes pass as there are objects.
    """
    scores = np.concatenate([scene.scores for scene in scenes.values()] or [np.zeros(0)])
    taken = np.concatenate([found.taken for found in matches.values()] or [np.zeros(0, int)])
    num_true = sum(int((~scene.is_crowd).sum()) for scene in scenes.values())
    scores, taken = scores[taken != -2], taken[taken != -2]
    if len(scores) == 0:
        return 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], (taken[order] >= 0).cumsum()
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    f1 = np.where(last_of_ties, 2 * right / (np.arange(1, len(scores) + 1) + num_true), -1.0)
    best = int(np.argmax(f1)) if right[-1] else min(len(scores), max(num_true, 1)) - 1
    return max(0.0, float(f1[best])), float(scores[best])


def find_mistakes(image_id: int, scene: Scene, found: Match, min_score: float) -> list[Mistake]:
    """What is wrong with the boxes of at least `min_score` in one photograph, each error named once.

    A truth that a wrongly named or badly placed box already points at is not also counted as missed.
    """
    mistakes = []
    explained: set[int] = set()
    regular = np.where(scene.is_crowd[None], -1.0, found.ious)  # (D, G)
    for d in np.flatnonzero((scene.scores >= min_score) & (found.taken == -1)):
        same = np.where(scene.true_class == scene.found_class[d], regular[d], -1.0)
        other = np.where(scene.true_class == scene.found_class[d], -1.0, regular[d])
        same_best, other_best = same.max(initial=-1.0), other.max(initial=-1.0)
        truth: int | None
        if same_best >= MATCH_IOU:
            kind, truth = "second box", int(np.argmax(same))
        elif other_best >= MATCH_IOU:
            kind, truth = "wrong class", int(np.argmax(other))
        elif same_best >= NEAR_IOU:
            kind, truth = "badly localised", int(np.argmax(same))
        else:
            kind, truth = "false alarm", None
        if truth is not None:
            explained.add(truth)
        mistakes.append(
            Mistake(
                kind,
                image_id,
                said=int(scene.found_class[d]),
                truth=None if truth is None else int(scene.true_class[truth]),
                score=float(scene.scores[d]),
                iou=max(0.0, float(regular[d].max(initial=0.0))) if truth is None else float(regular[d, truth]),
                found_xyxy=scene.found_xyxy[d],
                true_xyxy=None if truth is None else scene.true_xyxy[truth],
            )
        )
    hit = set(found.taken[scene.scores >= min_score].tolist())
    for g in np.flatnonzero(~scene.is_crowd):
        if int(g) in hit or int(g) in explained:
            continue
        late = np.flatnonzero(found.taken == g)  # found, but with too low a score
        mistakes.append(
            Mistake(
                "missed",
                image_id,
                said=None,
                truth=int(scene.true_class[g]),
                score=float(scene.scores[late[0]]) if len(late) else None,
                iou=float(found.ious[late[0], g]) if len(late) else None,
                found_xyxy=None,
                true_xyxy=scene.true_xyxy[g],
            )
        )
    return mistakes


def worst(mistakes: Sequence[Mistake], count: int) -> list[Mistake]:
    """The worst of each kind in turn: the surest false boxes, the largest misses."""

    def badness(mistake: Mistake) -> float:
        if mistake.kind != "missed":
            return -(mistake.score or 0.0)
        assert mistake.true_xyxy is not None
        return -float(np.prod(mistake.true_xyxy[2:] - mistake.true_xyxy[:2]))

    piles = [sorted((m for m in mistakes if m.kind == kind), key=badness) for kind in KINDS]
    turns = [pile[k] for k in range(max(map(len, piles), default=0)) for pile in piles if k < len(pile)]
    chosen = turns[:count]
    return [mistake for kind in KINDS for mistake in chosen if mistake.kind == kind]


def _ious(found_xyxy: np.ndarray, true_xyxy: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """IoU (D, G); for a crowd, the share of the found box that lies in it (pycocotools, `iscrowd`)."""
    low = np.maximum(found_xyxy[:, None, :2], true_xyxy[None, :, :2])
    high = np.minimum(found_xyxy[:, None, 2:], true_xyxy[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)  # (D, G)
    found_area = (found_xyxy[:, 2:] - found_xyxy[:, :2]).prod(axis=1)[:, None]
    true_area = (true_xyxy[:, 2:] - true_xyxy[:, :2]).prod(axis=1)[None]
    whole = np.where(is_crowd[None], found_area, found_area + true_area - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


# ---------------------------------------------------------------------------------------------------------- writing


def _write_ap_by_class(path: Path, scores: CocoScores, names: Sequence[str], scenes: Mapping[int, Scene]) -> None:
    truths = Counter(k for scene in scenes.values() for k in scene.true_class[~scene.is_crowd].tolist())
    found = Counter(k for scene in scenes.values() for k in scene.found_class.tolist())
    rows = []
    for k, name in enumerate(names):
        parts = scores.precision[:, :, k], scores.precision[0, :, k], scores.precision[5, :, k]
        values = [mean_measured(part) for part in parts]
        rows.append([name, truths[k], found[k], *("" if value == -1 else value for value in values)])
    write_csv(path, ["class", "objects", "detections", "ap", "ap_50", "ap_75"], rows)


def _plot_precision_recall(path: Path, scores: CocoScores, names: Sequence[str]) -> None:
    from matplotlib import colormaps  # slow to import, and only needed here
    from matplotlib.figure import Figure  # a bare Figure has no window and no global state

    figure = Figure(figsize=(13, 5.8), layout="constrained", dpi=110)
    by_class, by_iou = figure.subplots(1, 2)
    measured = [k for k in range(len(names)) if (scores.precision[0, :, k] > -1).all()]
    ap_50 = {k: mean_measured(scores.precision[0, :, k]) for k in measured}
    ranked = sorted(measured, key=lambda k: (-ap_50[k], k))
    # a legend of eighty names cannot be read: then name the ends, and draw the rest in grey
    named = ranked if len(ranked) <= 20 else ranked[:8] + ranked[-8:]
    rest = [k for k in ranked if k not in named]
    for k in rest:
        by_class.plot(RECALL_POINTS, scores.precision[0, :, k], color="0.8", linewidth=0.8)
    if rest:
        by_class.plot([], [], color="0.8", label=f"{len(rest)} classes between")
    for k in named:
        color = tuple(0.8 * part / 255 for part in class_color(k))  # darker: the paper is white
        label = f"{clipped(names[k])}  {ap_50[k]:.3f}"
        by_class.plot(RECALL_POINTS, scores.precision[0, :, k], color=color, linewidth=1.4, label=label)
    if measured:
        mean = scores.precision[:, :, measured].mean(axis=2)  # (10, 101)
        by_class.plot(RECALL_POINTS, mean[0], color="black", linewidth=3, label=f"mean  {mean[0].mean():.3f}")
        for t, iou in enumerate(IOU_THRESHOLDS):
            shade = colormaps["viridis"](t / len(IOU_THRESHOLDS))
            by_iou.plot(
                RECALL_POINTS, mean[t], color=shade, linewidth=1.4, label=f"IoU {iou:.2f}  {mean[t].mean():.3f}"
            )
        by_iou.plot(RECALL_POINTS, mean.mean(axis=0), color="black", linewidth=3, label=f"mean  {mean.mean():.3f}")
    for axes, title in ((by_class, "by class, at IoU 0.50"), (by_iou, "mean over classes, by IoU")):
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(color="0.92")
        if measured:
            axes.legend(
                loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, title="average precision"
            )
        else:
            axes.text(0.5, 0.5, "no ground truth", ha="center")
    figure.savefig(path, metadata={"Software": None})  # the same bytes whatever the version


def _draw_detections(
    path: Path,
    scenes: Mapping[int, Scene],
    names: Sequence[str],
    files: Mapping[int, str],
    min_score: float,
    open_image: Callable[[int], np.ndarray],
) -> None:
    ids = list(scenes)
    chosen = [ids[k] for k in np.linspace(0, len(ids) - 1, min(len(ids), _SHEET_IMAGES)).round().astype(int)]
    tiles, captions = [], []
    for image_id in chosen:
        scene = scenes[image_id]
        image, scale = fit(open_image(image_id), 440, 400)
        shown = np.flatnonzero(scene.scores >= min_score)
        said = [f"{names[scene.found_class[d]]} {scene.scores[d]:.2f}" for d in shown]
        meant = [
            names[k] + (" (crowd)" if crowd else "")
            for k, crowd in zip(scene.true_class.tolist(), scene.is_crowd.tolist(), strict=True)
        ]
        true_side = draw_boxes(image, scene.true_xyxy * scale, meant, [class_color(k) for k in scene.true_class])
        found_colors = [class_color(scene.found_class[d]) for d in shown]
        found_side = draw_boxes(image, scene.found_xyxy[shown] * scale, said, found_colors)
        gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
        tiles.append(np.concatenate([true_side, gap, found_side], axis=1))
        captions.append(f"{files[image_id]}\n{len(meant)} in truth (left), {len(shown)} found (right)")
    title = (
        f"{len(chosen)} of {len(ids)} images: ground truth left, found with a score of at least {min_score:.2f} right"
    )
    contact_sheet(tiles, captions, path, columns=2, title=title)


def _draw_mistakes(
    path: Path,
    mistakes: Sequence[Mistake],
    names: Sequence[str],
    files: Mapping[int, str],
    min_score: float,
    open_image: Callable[[int], np.ndarray],
) -> None:
    tiles, captions = [], []
    for mistake in worst(mistakes, _SHEET_ERRORS):
        image = open_image(mistake.image_id)
        # truth below, what was found on top
        marks = [
            (
                mistake.found_xyxy,
                VERMILLION,
                "" if mistake.said is None else f"{names[mistake.said]} {mistake.score:.2f}",
            ),
            (mistake.true_xyxy, GREEN, "" if mistake.truth is None else f"is {names[mistake.truth]}"),
        ]
        boxes = np.array([box for box, _, _ in marks if box is not None])  # (1 or 2, 4)
        crop, origin = _around(image, boxes)
        tile, scale = fit(crop, 300, 260)
        boxes = (boxes - np.tile(origin, 2)) * scale
        kept = [(label, color) for box, color, label in marks if box is not None]
        tiles.append(draw_boxes(tile, boxes, [label for label, _ in kept], [color for _, color in kept]))
        captions.append(f"{_said(mistake, names)}\n{files[mistake.image_id]}")
    count = Counter(mistake.kind for mistake in mistakes)
    summary = ", ".join(f"{kind} {count[kind]}" for kind in KINDS if count[kind]) or "none"
    title = (
        f"Errors at IoU 0.5 among boxes with a score of at least {min_score:.2f}: {summary}. Green: truth, red: found."
    )
    contact_sheet(tiles, captions, path, columns=4, title=title)


def _said(mistake: Mistake, names: Sequence[str]) -> str:
    """Two lines that say what is wrong, with score and IoU."""
    said = "" if mistake.said is None else names[mistake.said]
    truth = "" if mistake.truth is None else names[mistake.truth]
    if mistake.kind == "missed":
        late = "no box fits it at any score" if mistake.score is None else f"found only at score {mistake.score:.2f}"
        return f"missed: {truth}\n{late}"
    first = {
        "wrong class": f"wrong class: {truth} taken for {said}",
        "false alarm": f"false alarm: no {said} here",
        "badly localised": f"badly localised: {said}",
        "second box": f"second box on one {said}",
    }[mistake.kind]
    best = "best IoU" if mistake.truth is None else "IoU"
    return f"{first}\nscore {mistake.score:.2f}, {best} {mistake.iou:.2f}"


def _around(image: np.ndarray, boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photograph around the boxes (N, 4), with as much again beside them, and its corner (x, y)."""
    size = np.array([image.shape[1], image.shape[0]], np.float64)
    low, high = boxes_xyxy[:, :2].min(axis=0), boxes_xyxy[:, 2:].max(axis=0)
    reach = np.maximum((high - low) / 2, 32.0)
    low = np.clip(np.floor(low - reach), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high + reach), low + 1, size).astype(int)
    return image[low[1] : high[1], low[0] : high[0]], low.astype(np.float64)
