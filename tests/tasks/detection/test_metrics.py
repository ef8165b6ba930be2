import contextlib
import copy
import io
import warnings

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbone.errors import InputError
from tasks.detection.metrics import (
    FIGURES,
    IOU_THRESHOLDS,
    RECALL_POINTS,
    Detections,
    evaluate,
    format_figures,
    to_coco_results,
)

BACKENDS = ("faster", "pycocotools")


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
    image_ids = np.sort(rng.choice(5000, int(rng.integers(2, 9)), replace=False)).tolist()
    category_ids = rng.permutation(np.sort(rng.choice(np.arange(1, 91), 5, replace=False))).tolist()
    with_truth = category_ids[: int(rng.integers(1, 6))]
    many = seed % 3 == 0
    annotations, results = [], []
    for image_id in image_ids[1:]:
        for _ in range(int(rng.integers(0, 50 if many else 6))):
            box = np.array([*rng.uniform(0, 300, 2), *np.exp(rng.uniform(1, 5.3, 2))])
            box = box.round() if rng.random() < 0.3 else box
            category_id = int(rng.choice(with_truth))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.choice([1, 0.6])),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                noise = rng.choice([0, 0.02, 0.1, 0.3]) * rng.normal(size=4)
                found = [*(box[:2] + noise[:2] * box[2:]), *(box[2:] * np.exp(noise[2:]))]
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
        "annotations": [
            {"id": k + 1, "image_id": 7, "category_id": 3, "bbox": [60 * k, 0, 40, 40], "area": 1600, "iscrowd": 0}
            for k in range(3)
        ],
    }


def row(bbox, score, image_id=7, category_id=3):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_twelve_figures_equal_pycocotools_to_the_last_digit(backend):
    for seed in range(25):
        ground_truth, results = crowded_case(seed)
        run, _ = oracle(ground_truth, results)
        scores = evaluate(ground_truth, results, backend=backend)
        assert list(scores.figures) == list(FIGURES)
        assert list(scores.figures.values()) == run.stats.tolist(), seed
        assert np.array_equal(scores.precision, run.eval["precision"][:, :, :, 0, 2])


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


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 128, 129, 300])
@pytest.mark.parametrize("right_first", [1, 2])
def test_a_lone_first_match_is_rounded_as_pycocotools_rounds_it(count, right_first):
    # pycocotools divides by tp + fp + 2**-52, so 1 right of 1 is 1 - 2**-52 but 2 right of 2 is 1; the fast backend
    # has 1 in both. The next box is wrong, so no later precision hides it.
    annotations = [
        {"id": k + 1, "image_id": k, "category_id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
        for k in range(count)
    ]
    images = [{"id": k, "width": 100, "height": 100} for k in range(count)]
    ground_truth = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    right = [row([0, 0, 20, 20], 0.9 - k / 10, k, 1) for k in range(min(right_first, count))]
    results = [*right, row([60, 60, 20, 20], 0.5, 0, 1)]
    run, _ = oracle(ground_truth, results)
    scores = evaluate(ground_truth, results)
    assert scores.precision[0, 0, 0] == (1.0 if len(right) == 2 else 1 - 2**-52)
    assert list(scores.figures.values()) == run.stats.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_ap_of_three_boxes_worked_by_hand(backend):
    # By falling score: right (IoU 1), wrong, right (IoU 1); the third object is not found. So after each box
    #   precision 1/1, 1/2, 2/3   recall 1/3, 1/3, 2/3.
    # Never rising, from the right: 1, 2/3, 2/3. The recall points 0, .01, ..., .33 (34 of them, <= 1/3) get 1,
    # .34, ..., .66 (33, <= 2/3) get 2/3, the 34 beyond get 0. AP = (34 * 1 + 33 * 2/3) / 101 = 56 / 101.
    results = [row([0, 0, 40, 40], 0.9), row([150, 150, 40, 40], 0.8), row([60, 0, 40, 40], 0.7)]
    figures = evaluate(three_boxes(), results, backend=backend).figures
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


def test_ground_truth_fed_back_through_detections_scores_one():
    ground_truth, _ = crowded_case(1)
    ground_truth["annotations"] = [
        dict(one, area=one["bbox"][2] * one["bbox"][3]) for one in ground_truth["annotations"] if not one["iscrowd"]
    ]
    results = []
    for image in ground_truth["images"]:
        rows = [one for one in ground_truth["annotations"] if one["image_id"] == image["id"]]
        xywh = np.array([one["bbox"] for one in rows]).reshape(-1, 4)
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        ids = np.array([one["category_id"] for one in rows], int)
        results += to_coco_results(image["id"], Detections(xyxy, np.full(len(rows), 0.5), ids))
    scores = evaluate(ground_truth, results)
    assert scores.figures["map"] == pytest.approx(1, abs=1e-12)
    assert scores.figures["mar_100"] == 1


def test_corners_become_corner_and_size_with_plain_numbers():
    detections = Detections(np.float32([[10, 20, 40.5, 60]]), np.float32([0.5]), np.array([90]))
    (result,) = to_coco_results(np.int64(42), detections)
    assert result == {"image_id": 42, "category_id": 90, "bbox": [10.0, 20.0, 30.5, 40.0], "score": 0.5}
    assert [type(value) for value in (result["image_id"], result["category_id"], result["score"])] == [int, int, float]
    assert to_coco_results(1, Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))) == []


def test_an_array_of_results_scores_as_the_list_does():
    ground_truth, results = crowded_case(5)
    table = np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in results])
    assert evaluate(ground_truth, table).figures == evaluate(ground_truth, results).figures


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_scores_zero_where_there_is_truth_and_minus_one_where_there_is_none(backend):
    ground_truth = three_boxes()
    ground_truth["categories"].append({"id": 9, "name": "cat"})
    scores = evaluate(ground_truth, [], backend=backend)
    for name, value in scores.figures.items():
        assert value == (-1 if name.endswith(("small", "large")) else 0), name
    assert scores.ap_by_class == {"dog": 0.0, "cat": -1.0}
    assert evaluate(ground_truth, np.zeros((0, 7)), backend=backend).figures == scores.figures
    ground_truth["annotations"] = []
    assert set(evaluate(ground_truth, [row([0, 0, 9, 9], 0.5)], backend=backend).figures.values()) == {-1.0}
    assert set(evaluate(three_boxes(), [], image_ids=[], backend=backend).figures.values()) == {-1.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_input_is_changed_and_nothing_is_printed(backend, capfd):
    ground_truth, results = crowded_case(2)
    before = copy.deepcopy((ground_truth, results))
    evaluate(ground_truth, results, backend=backend)
    assert (ground_truth, results) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_area_and_crowd_and_id_zero_are_mended_and_counted(backend):
    ground_truth, results = crowded_case(4)
    for one in ground_truth["annotations"]:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    whole = evaluate(ground_truth, results, backend=backend).figures
    regular = [one for one in ground_truth["annotations"] if not one["iscrowd"]]
    for one in ground_truth["annotations"]:
        one["id"] -= 1  # the first is 0 now, which both libraries take for "not matched"
        del one["area"]
    for one in regular[:3]:
        del one["iscrowd"]
    with pytest.warns(UserWarning, match="annotations: of") as caught:
        mended = evaluate(ground_truth, results, backend=backend).figures
    assert mended == whole
    count = len(ground_truth["annotations"])
    (message,) = [str(one.message) for one in caught]
    assert f"of {count}, {count} without area" in message
    assert "3 without iscrowd" in message
    assert "1 with an id that is 0" in message


def test_repeated_annotation_ids_lose_no_box():
    # pycocotools keeps one annotation per id, so it would score the last box three times over
    ground_truth = three_boxes()
    for one in ground_truth["annotations"]:
        one["id"] = 5
    results = [row(one["bbox"], 0.9) for one in ground_truth["annotations"]]
    with pytest.warns(UserWarning, match="3 with an id that is 0, missing or repeated"):
        assert evaluate(ground_truth, results).figures["mar_100"] == 1


def without(key):
    return {name: value for name, value in row([0, 0, 9, 9], 0.5).items() if name != key}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([row([0, 0, 9, 9], 0.5), row([0, 0, 9, 9], float("nan"))], r"the results\[1\] has score nan"),
        ([row([0, 0, 9, 9], float("inf"))], r"\[0\] has score inf.*finite"),
        ([row([0, float("nan"), 9, 9], 0.5)], r"\[0\] has bbox \[0.0, nan, 9.0, 9.0\].*finite"),
        ([row([0, 0, 9, 9], 0.5, image_id=8)], r"\[0\] has image_id 8, which is not among the 1 images"),
        (
            [row([0, 0, 9, 9], 0.5, category_id=1)],
            r"\[0\] has category_id 1, which is not among the 1 categories.*\(3\)",
        ),
        ([row([0, 0, 9, 9], 0.5), without("score")], r"\[1\] has no 'score'"),
        ([without("bbox")], r"\[0\] has no 'bbox'"),
        ([row([0, 0, 9], 0.5)], r"\[0\] has bbox \[0, 0, 9\]; it needs a list of 4 numbers"),
        ([row([0, 0, 9, 9], 0.5), row([0, 0, 9], 0.5)], r"\[1\] has bbox"),
        ([row([0, 0, 9, 9], "0.5")], r"\[0\] has score '0.5'; it needs a number"),
        ([row([0, 0, 9, 9], None)], r"\[0\] has score None"),
        ([row([0, 0, 9, 9], 0.5, image_id="7")], r"\[0\] has image_id '7'"),
        ([row([0, 0, 9, 9], 0.5, image_id=7.5)], r"\[0\] has image_id 7.5; an id is a whole number"),
        ([["a"]], r"\[0\] is a list; each must be an object"),
        ({"annotations": []}, "found an object, not COCO results.*list of objects with image_id, category_id, bbox"),
        (np.zeros((3, 6)), r"shape \(3, 6\).*\(M, 7\)"),
    ],
)
def test_results_that_cannot_be_scored_are_refused_by_row_and_value(results, message):
    with pytest.raises(InputError, match=message):
        evaluate(three_boxes(), results)


def broken_truth(**changes):
    ground_truth = three_boxes()
    ground_truth["annotations"][1].update(changes)
    return ground_truth


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        ([row([0, 0, 9, 9], 0.5)], "found a list, not COCO annotations.*results file"),
        ({"images": [], "categories": []}, "no list 'annotations'"),
        (broken_truth(bbox=[0, 0, float("nan"), 3]), r"annotations\[1\] has bbox .*nan"),
        (broken_truth(image_id=99), r"annotations\[1\] has image_id 99"),
        (broken_truth(category_id=99), r"annotations\[1\] has category_id 99"),
        (broken_truth(area=float("inf")), r"annotations\[1\] has area inf"),
        (dict(three_boxes(), images=[{"id": 7}, {"id": 7}]), "images: id 7 occurs 2 times"),
    ],
)
def test_ground_truth_that_cannot_be_scored_is_refused(ground_truth, message):
    with pytest.raises(InputError, match=message):
        evaluate(ground_truth, [])


def test_an_unknown_backend_or_image_is_refused():
    with pytest.raises(InputError, match="'slower' is unknown"):
        evaluate(three_boxes(), [], backend="slower")
    with pytest.raises(InputError, match="asks for image 8"):
        evaluate(three_boxes(), [], image_ids=[7, 8])


def test_boxes_given_by_corners_are_warned_of_and_right_ones_are_not():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 150, (50, 2))
    wh = rng.uniform(10, 50, (50, 2))
    corners = [row([*a, *(a + b)], 0.5) for a, b in zip(xy.tolist(), wh, strict=True)]
    with pytest.warns(UserWarning, match=r"of 50 boxes leave their image; they look like \(x1, y1, x2, y2\)"):
        evaluate(three_boxes(), corners)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(three_boxes(), [row([*a, *b], 0.5) for a, b in zip(xy.tolist(), wh, strict=True)])


def test_two_categories_of_one_name_are_told_apart_by_id():
    ground_truth = dict(three_boxes(), categories=[{"id": 9, "name": "dog"}, {"id": 3, "name": "dog"}])
    assert list(evaluate(ground_truth, []).ap_by_class) == ["dog (3)", "dog (9)"]


def test_the_twelve_lines_are_what_pycocotools_prints():
    for seed in (0, 1):
        ground_truth, results = crowded_case(seed)
        _, printed = oracle(ground_truth, results)
        lines = [line for line in printed.splitlines() if line.startswith(" Average")]
        assert len(lines) == 12
        assert format_figures(evaluate(ground_truth, results).figures).splitlines() == lines


def test_the_axes_of_the_precision_table_are_pycocotools_own():
    run = COCOeval(iouType="bbox")
    assert np.array_equal(run.params.iouThrs, IOU_THRESHOLDS)
    assert np.array_equal(run.params.recThrs, RECALL_POINTS)


def found(score):
    return Detections(np.float32([[0, 0, 1, 1]]), np.float32([score]), np.array([3]))
