"""How long the twelve COCO figures take: ours beside pycocotools used as its demo has it.

    python benchmarks/coco_evaluation.py                  # 5,000 images, 36,000 objects, 200,000 detections
    python benchmarks/coco_evaluation.py --images 200     # the same density, in seconds
    python benchmarks/coco_evaluation.py --many           # 50,000 images, 360,000 objects, 5,000,000 detections

All sides score the same boxes in memory, from Python records, in alternating rounds of one process, and must agree to
the last digit. With `--many` each side has a process of its own, and its peak of memory is told too: ours from what a
head keeps, in one process and in two that each have every second image; the file of results by `evaluate`; and, on the
first tenth of the images, pycocotools and ours. Then `--images` and `--rounds` are of these.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from benchmarks.sides import ONE_THREAD, answer, ask, line
from data.readers.coco_file import Detections, parse_annotations, parse_results, read_json, read_results
from data.records import Boxes, Records
from tasks.detection.metrics import FIGURES, Backend, CocoScores, detections_of, evaluate, format_figures

NUM_CLASSES = 80
OBJECTS_PER_IMAGE, DETECTIONS_PER_IMAGE, MANY_PER_IMAGE = 7.2, 40, 100
CROWD_SHARE, EMPTY_SHARE = 0.012, 0.01  # as in COCO val2017


class Columns(NamedTuple):
    """G objects and D detections in images of 640 x 480."""

    image_ids: np.ndarray  # (N,)
    category_ids: np.ndarray  # (80,)
    boxes: np.ndarray  # (G, 4) x, y, width, height
    images: np.ndarray  # (G,) ids
    categories: np.ndarray  # (G,) ids
    crowd: np.ndarray  # bool (G,)
    found: tuple[np.ndarray, ...]  # images and categories, ids, boxes and scores of detections, (D, ...)


def make_columns(num_images: int, detections: int = DETECTIONS_PER_IMAGE, seed: int = 0) -> Columns:
    """COCO's gapped ids, sizes, crowds and empty images, and plausible detections."""
    rng = np.random.default_rng(seed)
    category_ids = np.sort(rng.choice(np.arange(1, 91), NUM_CLASSES, replace=False))
    image_ids = np.sort(rng.choice(np.arange(1, 600_000), num_images, replace=False))
    width, height = 640.0, 480.0
    count, num_found = round(num_images * OBJECTS_PER_IMAGE), num_images * detections

    def boxes_inside(number: int) -> np.ndarray:
        sides = np.minimum(np.exp(rng.uniform(np.log(8), np.log(400), (number, 2))), [width, height])
        return np.concatenate([rng.uniform(0, 1, (number, 2)) * ([width, height] - sides), sides], axis=1)  # (N, 4)

    filled = image_ids[: max(1, round(num_images * (1 - EMPTY_SHARE)))]
    boxes, images, categories = boxes_inside(count), rng.choice(filled, count), rng.choice(category_ids, count)
    crowd = rng.random(count) < CROWD_SHARE
    # half of the detections lie near an object, mostly with its class and a higher score; half lie anywhere
    near = rng.integers(0, count, num_found // 2)
    spread = rng.choice([0.03, 0.1, 0.3], (len(near), 1)) * np.tile(boxes[near, 2:], 2)
    right = rng.random(len(near)) < 0.8
    anywhere = num_found - len(near)
    found_boxes = np.concatenate([boxes[near] + rng.normal(size=(len(near), 4)) * spread, boxes_inside(anywhere)])
    found_boxes[:, 2:] = np.maximum(found_boxes[:, 2:], 1)
    found_images = np.concatenate([images[near], rng.choice(image_ids, anywhere)])
    near_categories = np.where(right, categories[near], rng.choice(category_ids, len(near)))
    found_categories = np.concatenate([near_categories, rng.choice(category_ids, anywhere)])
    scores = np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 5, anywhere)]).round(3)  # rounded: ties occur
    found = found_images, found_categories, found_boxes, scores
    return Columns(image_ids, category_ids, boxes.round(2), images, categories, crowd, found)


def make_case(num_images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results as Python records."""
    return records_of(make_columns(num_images))


def records_of(case: Columns) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results as Python records."""
    rows = zip(*(column.tolist() for column in (case.images, case.categories, case.boxes, case.crowd)), strict=True)
    ground_truth = {
        "images": [{"id": int(i), "width": 640, "height": 480} for i in case.image_ids],
        "categories": [{"id": int(c), "name": f"class {c}"} for c in case.category_ids],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": int(many)}
            for k, (i, c, box, many) in enumerate(rows, 1)
        ],
    }
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": score}
        for i, c, box, score in zip(*(column.tolist() for column in case.found), strict=True)
    ]
    return ground_truth, results


def plain_pycocotools(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """The twelve figures as pycocotools' own demo computes them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


def ours(ground_truth: dict[str, Any], results: list[dict[str, Any]], backend: Backend = "hotcoco") -> CocoScores:
    """The same from the same Python records by this project: checked, made columns, scored."""
    truth = parse_annotations(ground_truth, "the ground truth", for_scoring=True)
    detections, _ = parse_results(results, truth, "the results", "the ground truth")
    return evaluate(truth, detections, backend)


# ------------------------------------------------------------------------------------------------ many, side by side


def as_held(case: Columns) -> tuple[Records, Detections]:
    """The truth as records, and what was found as a head has it: by image, float32."""
    order, at = np.argsort(case.images, kind="stable"), np.searchsorted(case.image_ids, case.images)
    labels = np.searchsorted(case.category_ids, case.categories)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=len(case.image_ids)))])
    areas = case.boxes[:, 2] * case.boxes[:, 3]
    boxes = Boxes(offsets, case.boxes[order], labels[order], case.crowd[order], areas[order])
    sizes = np.tile([480, 640], (len(case.image_ids), 1))
    names, ids = [f"class {number}" for number in case.category_ids], case.category_ids.tolist()
    columns = {"image_ids": case.image_ids, "sizes": sizes}
    truth = Records(Path(), np.array([b"a.jpg"] * len(sizes)), columns, boxes, tuple(names), tuple(ids))
    images, categories, xywh, scores = case.found
    order = np.argsort(images, kind="stable")
    labels = np.searchsorted(case.category_ids, categories[order])
    found = np.searchsorted(case.image_ids, images[order]), labels, xywh[order].astype(np.float32)
    return truth, Detections(*found, scores[order].astype(np.float32))


def kept_by(rank: int, world: int, images: int) -> tuple[Records, Any]:
    """The truth, and what a head of one of several processes keeps of every `world`-th image, in batches of 64."""
    from tasks.kept import Kept

    truth, (at, labels, xywh, scores) = as_held(make_columns(images, MANY_PER_IMAGE))
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    ends, kept = np.searchsorted(at, np.arange(images + 1)), Kept()
    for first in range(0, images, 64 * world):
        mine = np.arange(first, min(first + 64 * world, images))[rank::world]
        rows = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in mine] or [np.empty(0, int)])
        kept.add(
            mine.tolist(), corners[rows], scores[rows], labels[rows], counts=(ends[mine + 1] - ends[mine]).tolist()
        )
    return truth, kept


def scored(truth: Records, kept: Any) -> list[float]:
    """The figures as the head's `compute` has them: of all processes' images."""
    positions, columns, counts = kept.take()
    return list(evaluate(truth.take(positions), detections_of(counts, *columns)).figures.values())


def one_side(side: str, images: int, folder: str) -> None:
    """Run a side of `--many` in this process, and print what it took."""
    name, _, rank = side.partition(":")
    if name == "kept":
        truth, kept = kept_by(0, 1, images)
        answer(lambda: scored(truth, kept))
    elif name == "rank":
        import torch.distributed as dist

        truth, kept = kept_by(int(rank), 2, images)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=2)
        answer(lambda: scored(truth, kept))
        dist.destroy_process_group()
    elif name == "write":
        for file, content in zip("AR", records_of(make_columns(images, MANY_PER_IMAGE)), strict=True):
            Path(folder, f"{file}.json").write_text(json.dumps(content))
        answer(lambda: None)
    elif name == "file":

        def from_files() -> list[float]:
            truth = parse_annotations(read_json(Path(folder) / "A.json"), "A", for_scoring=True)
            detections, _ = parse_results(read_results(Path(folder) / "R.json"), truth, "R", "A")
            return list(evaluate(truth, detections).figures.values())

        answer(from_files)
    else:
        case = records_of(make_columns(images, MANY_PER_IMAGE))
        answer(lambda: list(ours(*case).figures.values()) if name == "ours" else plain_pycocotools(*case))


def many(images: int, rounds: int) -> None:
    """Each side of `--many` in turn, `rounds` times, and the medians."""
    tenth = images // 10
    titles = {
        "kept": f"ours, {images:,} images",
        "rank:0": "ours, in two processes, the first",
        "rank:1": "ours, in two processes, the second",
        "file": "ours, from the files",
        "ours": f"ours, {tenth:,} images, records",
        "pycocotools": f"pycocotools, {tenth:,} images",
    }
    with tempfile.TemporaryDirectory() as folder:
        ask(__file__, "write", ["--many", "--images", images, "--folder", folder])
        taken: dict[str, list[dict[str, Any]]] = {side: [] for side in titles}
        args = ["--many", "--images", images, "--folder", folder]
        for _ in range(rounds):
            for side in ("kept", "file"):
                taken[side].append(ask(__file__, side, args))
            command = [sys.executable, __file__, *map(str, args), "--side"]
            options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | ONE_THREAD}
            both = {side: subprocess.Popen([*command, side], **options) for side in ("rank:0", "rank:1")}
            for side, process in both.items():
                taken[side].append(json.loads(process.communicate()[0].splitlines()[-1]))
            Path(folder, "meet").unlink(missing_ok=True)
            for side in ("ours", "pycocotools"):
                taken[side].append(ask(__file__, side, ["--many", "--images", tenth]))
    medians = {
        side: {**runs[-1], "seconds": statistics.median(run["seconds"] for run in runs)} for side, runs in taken.items()
    }
    for side, title in titles.items():
        base = medians["ours" if side in ("ours", "pycocotools") else "kept"]
        print(line(title, medians[side], base))
    results = {side: found["result"] for side, found in medians.items()}
    assert results["kept"] == results["rank:0"] == results["rank:1"], results  # exactly, not nearly
    assert results["ours"] == results["pycocotools"], results
    print("all twelve figures equal to the last digit on one process and two, and with pycocotools")
    print(format_figures(dict(zip(FIGURES, results["kept"], strict=True))))


def main() -> None:
    """Time the sides in turn and print the medians; fails if any figure differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="7.2 objects each, and 40 detections (default: 5,000), or 100")
    parser.add_argument("--many", action="store_true", help="50,000 images by default")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="ours has five times as many, being short (default: 3)")
    options = parser.parse_args()
    options.images = options.images or (50_000 if options.many else 5000)
    if options.side:
        return one_side(options.side, options.images, options.folder)
    if options.many:
        return many(options.images, options.rounds)
    ground_truth, results = make_case(options.images)
    print(f"{options.images} images, {len(ground_truth['annotations'])} objects, {len(results)} detections")

    sides: dict[str, tuple[int, Callable[[dict, list], list[float]]]] = {
        "pycocotools": (1, plain_pycocotools),
        "ours (hotcoco)": (5, lambda g, r: list(ours(g, r).figures.values())),
    }
    for _, side in sides.values():  # imports, before any clock runs
        side(*make_case(2))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    figures = {"ours (backend pycocotools)": list(ours(ground_truth, results, "pycocotools").figures.values())}
    with tqdm(total=options.rounds * sum(times for times, _ in sides.values()), disable=None, leave=False) as bar:
        for _ in range(options.rounds):
            for name, (times, side) in sides.items():
                for _ in range(times):
                    # pycocotools writes into what it is given; the copy is made before the clock runs
                    case = copy.deepcopy(ground_truth), copy.deepcopy(results)
                    start = time.perf_counter()
                    figures[name] = side(*case)
                    seconds[name].append(time.perf_counter() - start)
                    bar.update()
    base = statistics.median(seconds["pycocotools"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:15} median {median:7.3f} s  {base / median:6.2f}x  ({', '.join(f'{t:.3f}' for t in taken)})")
    first = figures["pycocotools"]
    assert all(other == first for other in figures.values()), figures  # exactly, not nearly
    print("all twelve figures equal to the last digit:")
    print(format_figures(dict(zip(FIGURES, first, strict=True))))


if __name__ == "__main__":
    main()
