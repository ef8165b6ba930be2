import contextlib
import copy
import io

import numpy as np
import pytest
from coco_content import annotation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.readers.coco_file import parse_annotations, parse_results
from tasks.detection import metrics
from tasks.detection.metrics import (
    FIGURES,
    IOU_THRESHOLDS,
    RECALL_POINTS,
    coco_results,
    format_figures,
    stack_detections,
)

BACKENDS = ("hotcoco", "pycocotools")


def evaluate(ground_truth, results, backend="hotcoco", image_ids=None):
    truth = parse_annotations(ground_truth, "A", for_scoring=True)
    if image_ids is not None:
        truth = truth.take(np.isin(truth["image_ids"], image_ids))
        results = [row for row in results if row["image_id"] in image_ids]
    return metrics.evaluate(truth, parse_results(results, truth, "R", "A")[0], backend)


def oracle(ground_truth, results, category_ids=None, image_ids=None):
    """pycocotools alone, as its demo uses it; returns the evaluation and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        if category_ids is not None:
            run.params.catIds = category_ids
        if image_ids is not None:
            run.params.imgIds = image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run, printed.getvalue()


def crowded_case(seed):
    """Random boxes of all sizes with tied scores, crowds, empty images, classes without truth, over 100 detections."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.sort(rng.choice(5000, int(rng.integers(2, 9)), replace=False))).tolist()
    category_ids = rng.permutation(np.sort(rng.choice(np.arange(1, 91), 5, replace=False))).tolist()
    with_truth = category_ids[: int(rng.integers(1, 6))]
    many = seed % 3 == 0
    annotations, results = [], []
    for image_id in image_ids[1:]:
        for _ in range(int(rng.integers(0, 50 if many else 6))):
            box = np.array([*rng.uniform(0, 300, 2), *np.exp(rng.uniform(1, 5.3, 2))])
            box = box.round() if rng.random() < 0.3 else box
            category_id = int(rng.choice(with_truth))
            one = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "bbox": box.tolist()}
            one |= {"area": float(box[2] * box[3] * rng.choice([1, 0.6])), "iscrowd": int(rng.random() < 0.1)}
            one["bbox"][2] *= rng.choice([1, 0, -1], p=[0.9, 0.05, 0.05])  # empty or inverted
            annotations.append(one)
            for _ in range(int(rng.integers(0, 4))):
                noise = rng.choice([0, 0.02, 0.1, 0.3]) * rng.normal(size=4)
                found = [*(box[:2] + noise[:2] * box[2:]), *(box[2:] * np.exp(noise[2:]))]
                if rng.random() < 0.1:
                    found = [*box[:2], box[2] * rng.choice([0.5, 0.75, 0.95]), box[3]]  # an IoU that is a threshold
                results.append((image_id, category_id if rng.random() < 0.8 else rng.choice(category_ids), *found))
    for _ in range(160 if many else 4):
        results.append((image_ids[0], category_ids[0], *rng.uniform(1, 200, 4)))
    score = lambda: float(rng.random().__round__(1) if rng.random() < 0.5 else rng.random())  # noqa: E731
    results = [
        {"image_id": int(r[0]), "category_id": int(r[1]), "bbox": [float(x) for x in r[2:]], "score": score()}
        for r in results
    ]
    ground_truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": annotations,
    }
    return ground_truth, results


def three_boxes():
    """One image, one class, three objects of 40 x 40; results are given by the test."""
    return {
        "images": [{"id": 7, "width": 200, "height": 200}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [annotation(k + 1, 7, [60 * k, 0, 40, 40], 3) for k in range(3)],
    }


def row(bbox, score, image_id=7, category_id=3):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_twelve_figures_equal_pycocotools_to_the_last_digit(backend):
    for seed in range(25):
        ground_truth, results = crowded_case(seed)
        run, printed = oracle(ground_truth, results)
        scores = evaluate(ground_truth, results, backend)
        assert list(scores.figures) == list(FIGURES)
        assert list(scores.figures.values()) == run.stats.tolist(), seed
        assert np.array_equal(scores.precision, run.eval["precision"][:, :, :, 0, 2])
        lines = [line for line in printed.splitlines() if line.startswith(" Average")]
        assert format_figures(scores.figures).splitlines() == lines


def test_the_figures_of_some_images_equal_pycocotools_on_those_images():
    for seed in range(6):
        ground_truth, results = crowded_case(seed)
        image_ids = [image["id"] for image in ground_truth["images"]][::2]
        run, _ = oracle(ground_truth, results, image_ids=image_ids)
        assert list(evaluate(ground_truth, results, image_ids=image_ids).figures.values()) == run.stats.tolist()


def test_ap_of_a_class_equals_pycocotools_run_on_that_class_alone():
    ground_truth, results = crowded_case(3)
    scores = evaluate(ground_truth, results)
    category_ids = sorted(category["id"] for category in ground_truth["categories"])
    assert list(scores.ap_by_class) == [f"class {c}" for c in category_ids]
    for category_id in category_ids:
        run, _ = oracle(ground_truth, results, category_ids=[category_id])
        assert scores.ap_by_class[f"class {category_id}"] == run.stats[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ap_of_three_boxes_worked_by_hand(backend):
    # By falling score: right (IoU 1), wrong, right (IoU 1); the third object is not found. So after each box
    #   precision 1/1, 1/2, 2/3   recall 1/3, 1/3, 2/3.
    # Never rising, from the right: 1, 2/3, 2/3. The recall points 0, .01, ..., .33 (34 of them, <= 1/3) get 1,
    # .34, ..., .66 (33, <= 2/3) get 2/3, the 34 beyond get 0. AP = (34 * 1 + 33 * 2/3) / 101 = 56 / 101.
    results = [row([0, 0, 40, 40], 0.9), row([150, 150, 40, 40], 0.8), row([60, 0, 40, 40], 0.7)]
    figures = evaluate(three_boxes(), results, backend).figures
    assert figures["map"] == pytest.approx(56 / 101, abs=1e-12)
    assert figures["map_50"] == pytest.approx(56 / 101, abs=1e-12)
    # 1600 px lies between 32**2 and 96**2
    assert figures["map_medium"] == pytest.approx(56 / 101, abs=1e-12)
    assert figures["map_small"] == figures["map_large"] == -1
    # one box per image finds 1 of 3, all boxes find 2 of 3
    assert figures["mar_1"] == pytest.approx(1 / 3)
    assert figures["mar_100"] == pytest.approx(2 / 3)


def test_ap_falls_with_the_iou_threshold_worked_by_hand():
    # The one box is 40 wide and 5 off: IoU = 35 / 45 = .778, so it counts at .50, .55, ..., .75: 6 of 10 thresholds.
    # One of three objects found: recall 1/3, so precision 1 on 34 of 101 recall points. AP = .6 * 34 / 101.
    figures = evaluate(three_boxes(), [row([5, 0, 40, 40], 0.9)]).figures
    assert figures["map"] == pytest.approx(0.6 * 34 / 101, abs=1e-12)
    assert figures["map_75"] == pytest.approx(34 / 101, abs=1e-12)


def test_ground_truth_fed_back_through_corners_and_coco_results_scores_one():
    ground_truth, _ = crowded_case(1)
    for one in ground_truth["annotations"]:
        one |= {"area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
    truth = parse_annotations(ground_truth, "A", for_scoring=True)
    rows = [truth.boxes.rows(i) for i in range(len(truth))]
    columns = ([column[own] for own in rows] for column in (truth.boxes.xyxy, np.ones(9999), truth.boxes.labels))
    detections = stack_detections(*columns)
    scores = metrics.evaluate(truth, detections)
    assert scores.figures["map"] == pytest.approx(1, abs=1e-12)
    assert scores.figures["mar_100"] == 1
    results = coco_results(detections, truth["image_ids"], truth.class_ids)
    assert evaluate(ground_truth, results).figures == scores.figures


def test_corners_become_corner_and_size_with_plain_numbers():
    detections = stack_detections([np.float32([[10, 20, 40.5, 60]])], [np.float32([0.5])], [np.array([1])])
    [result] = coco_results(detections, np.array([42]), (3, 90))
    assert result == {"image_id": 42, "category_id": 90, "bbox": [10.0, 20.0, 30.5, 40.0], "score": 0.5}
    assert [type(value) for value in (result["image_id"], result["category_id"], result["score"])] == [int, int, float]
    [large] = coco_results(detections, np.array([2**64], dtype=object), (2**53, 2**63 + 1))
    assert (large["image_id"], large["category_id"]) == (2**64, 2**63 + 1)
    assert coco_results(stack_detections([], [], []), np.zeros(0, int), (3,)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_scores_zero_where_there_is_truth_and_minus_one_where_there_is_none(backend):
    ground_truth = three_boxes()
    ground_truth["categories"].append({"id": 9, "name": "cat"})
    scores = evaluate(ground_truth, [], backend)
    for name, value in scores.figures.items():
        assert value == (-1 if name.endswith(("small", "large")) else 0), name
    assert scores.ap_by_class == {"dog": 0.0, "cat": -1.0}
    ground_truth["annotations"] = []
    assert set(evaluate(ground_truth, [row([0, 0, 9, 9], 0.5)], backend).figures.values()) == {-1.0}
    assert set(evaluate(three_boxes(), [], backend, image_ids=[]).figures.values()) == {-1.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_area_and_crowd_and_odd_ids_change_no_figure_and_nothing_is_printed(backend, capfd):
    ground_truth, results = crowded_case(4)
    for one in ground_truth["annotations"]:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    before = copy.deepcopy((ground_truth, results))
    whole = evaluate(ground_truth, results, backend).figures
    assert (ground_truth, results) == before
    for one in [one for one in ground_truth["annotations"] if not one["iscrowd"]][:3]:
        del one["iscrowd"]
    for one in ground_truth["annotations"]:
        one["id"] = max(one["id"] - 3, 0)  # pycocotools takes 0 for "not matched", and keeps one box for an id
        del one["area"]
    assert evaluate(ground_truth, results, backend).figures == whole
    assert capfd.readouterr() == ("", "")


def test_two_categories_of_one_name_are_told_apart_by_id():
    ground_truth = dict(three_boxes(), categories=[{"id": 9, "name": "dog"}, {"id": 3, "name": "dog"}])
    assert list(evaluate(ground_truth, []).ap_by_class) == ["dog (3)", "dog (9)"]


def test_the_axes_of_the_precision_table_are_pycocotools_own():
    run = COCOeval(iouType="bbox")
    assert np.array_equal(run.params.iouThrs, IOU_THRESHOLDS)
    assert np.array_equal(run.params.recThrs, RECALL_POINTS)
