"""How long the twelve COCO figures take from Python records: ours beside pycocotools used as its demo has it.

    python benchmarks/coco_evaluation.py                  # 5,000 images, 36,000 objects, 200,000 detections
    python benchmarks/coco_evaluation.py --images 200     # the same density, in seconds

All sides score the same boxes in memory, in alternating rounds of one process, and must agree to the last digit.
"""

import argparse
import contextlib
import copy
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from data.readers.coco_file import parse_annotations, parse_results
from tasks.detection.metrics import FIGURES, Backend, CocoScores, evaluate, format_figures

NUM_CLASSES = 80
OBJECTS_PER_IMAGE, DETECTIONS_PER_IMAGE = 7.2, 40
CROWD_SHARE, EMPTY_SHARE = 0.012, 0.01  # as in COCO val2017


def make_case(num_images: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results with COCO's gapped ids, sizes, crowds and empty images, and plausible detections."""
    rng = np.random.default_rng(seed)
    category_ids = np.sort(rng.choice(np.arange(1, 91), NUM_CLASSES, replace=False))
    image_ids = np.sort(rng.choice(np.arange(1, 600_000), num_images, replace=False))
    width, height = 640.0, 480.0
    count, num_found = round(num_images * OBJECTS_PER_IMAGE), num_images * DETECTIONS_PER_IMAGE

    def boxes_inside(number: int) -> np.ndarray:
        sides = np.minimum(np.exp(rng.uniform(np.log(8), np.log(400), (number, 2))), [width, height])
        return np.concatenate([rng.uniform(0, 1, (number, 2)) * ([width, height] - sides), sides], axis=1)  # (N, 4)

    filled = image_ids[: max(1, round(num_images * (1 - EMPTY_SHARE)))]
    boxes, images, categories = boxes_inside(count), rng.choice(filled, count), rng.choice(category_ids, count)
    crowd = rng.random(count) < CROWD_SHARE
    ground_truth = {
        "images": [{"id": int(i), "width": int(width), "height": int(height)} for i in image_ids],
        "categories": [{"id": int(c), "name": f"class {c}"} for c in category_ids],
        "annotations": [
            {"id": k + 1, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": int(many)}
            for k, (i, c, box, many) in enumerate(
                zip(images.tolist(), categories.tolist(), boxes.round(2).tolist(), crowd.tolist(), strict=True)
            )
        ],
    }
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
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": score}
        for i, c, box, score in zip(
            found_images.tolist(), found_categories.tolist(), found_boxes.tolist(), scores.tolist(), strict=True
        )
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


def main() -> None:
    """Time the sides in turn and print the medians; fails if any figure differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="7.2 objects and 40 detections each (default: 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="ours has five times as many, being short (default: 3)")
    options = parser.parse_args()
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
