import json

import numpy as np
import pytest
from coco_content import annotation
from helpers import HOSTILE, harmless, is_color, pixels, rows_of, tree
from PIL import Image

from backbone.errors import InputError
from data.readers.coco_file import parse_annotations, parse_results
from tasks.detection import report
from tasks.detection.metrics import evaluate
from tasks.detection.report import KINDS, Scene, arrange, best_threshold, find_errors, match, worst, write_report
from tasks.plotting import GREEN, VERMILLION, class_color

DOG, CAT = 0, 1


def scene(true, detected):
    """`true`: (box, class, crowd); `detected`: (box, class, score), already by falling score."""
    return Scene(
        np.array([one[0] for one in true], float).reshape(-1, 4),
        np.array([one[1] for one in true], int),
        np.array([one[2] for one in true], bool),
        np.array([one[0] for one in detected], float).reshape(-1, 4),
        np.array([one[1] for one in detected], int),
        np.array([one[2] for one in detected], float),
    )


ONE_OF_EACH = scene(
    true=[
        ([0, 0, 100, 100], DOG, False),  # found twice
        ([200, 0, 300, 100], CAT, False),  # taken for a dog
        ([0, 200, 100, 300], DOG, False),  # found, badly placed
        ([200, 200, 260, 260], CAT, False),  # found only at 0.1
        ([400, 400, 500, 500], DOG, True),  # a crowd of dogs
        ([300, 300, 320, 320], CAT, False),  # not found
    ],
    detected=[
        ([0, 0, 100, 100], DOG, 0.95),
        ([200, 0, 300, 90], DOG, 0.9),  # on the cat: IoU 9000 / 10000
        ([0, 0, 100, 80], DOG, 0.8),  # second on the first dog: IoU .8
        ([60, 200, 160, 300], DOG, 0.7),  # IoU 4000 / 16000 = .25
        ([410, 410, 450, 450], DOG, 0.65),  # inside the crowd: neither right nor wrong
        ([410, 410, 450, 450], CAT, 0.6),  # cats have no crowd here
        ([200, 200, 260, 260], CAT, 0.1),
    ],
)


def test_each_error_is_named_once_with_its_boxes_score_and_iou():
    errors = find_errors(5, ONE_OF_EACH, match(ONE_OF_EACH), 0.5)
    seen = [(one.kind, one.detected, one.true, one.score, one.iou and round(one.iou, 6)) for one in errors]
    assert seen == [  # boxes by their row in the scene
        ("wrong class", 1, 1, 0.9, 0.9),
        ("second box", 2, 0, 0.8, 0.8),
        ("badly localised", 3, 2, 0.7, 0.25),
        ("false positive", 5, None, 0.6, 0.0),
        ("missed", None, 3, 0.1, None),
        ("missed", None, 5, None, None),
    ]
    assert {one.kind for one in errors} == set(KINDS)
    assert {one.image for one in errors} == {5}


def test_each_box_takes_the_free_truth_it_overlaps_most_by_falling_score():
    assert match(ONE_OF_EACH).taken.tolist() == [0, -1, -1, -1, -2, -1, 3]
    # both boxes fit both dogs; the surer one takes the better of the two, the other what is left
    near = scene(
        true=[([0, 0, 100, 100], DOG, False), ([10, 0, 110, 100], DOG, False)],
        detected=[([8, 0, 108, 100], DOG, 0.9), ([10, 0, 110, 100], DOG, 0.8)],
    )
    assert match(near).taken.tolist() == [1, 0]


def test_matches_agree_with_cocos_recall():
    rng = np.random.default_rng(0)
    truth, detections = parsed(*busy_case(rng, 12, 3))
    scenes = arrange(truth, detections)
    taken = [match(one).taken for one in scenes]
    scores = evaluate(truth, detections)
    # highest recall point with precision at IoU .5, by class, against the share of truths taken
    for k in range(3):
        hits = sum(int((t[s.detected_class == k] >= 0).sum()) for t, s in zip(taken, scenes, strict=True))
        total = sum(int((~s.is_crowd & (s.true_class == k)).sum()) for s in scenes)
        reached = np.flatnonzero(scores.precision[0, :, k] > 0).max()
        assert reached == int(np.floor(100 * hits / total + 1e-9))


BOXES = [[k * 50, 0, k * 50 + 40, 40] for k in range(4)]
AWAY = [0, 500, 40, 540]


@pytest.mark.parametrize(
    ("num_true", "detected", "f1", "score"),
    [
        # by falling score right, right, wrong, right: F1 = 2/5, 4/6, 4/7, 6/8; then a wrong one lowers it
        (4, [(BOXES[0], 0.9), (BOXES[1], 0.8), (AWAY, 0.7), (BOXES[2], 0.6), (AWAY, 0.5)], 0.75, 0.6),
        # a right and a wrong box of one score cannot be parted: F1 = 2 / (2 + 1), not 1
        (1, [(BOXES[0], 0.5), (AWAY, 0.5)], 2 / 3, 0.5),
        # without a right box as many pass as there are objects
        (2, [(AWAY, 0.9), (AWAY, 0.8), (AWAY, 0.7)], 0, 0.8),
        (1, [], 0, 0),
    ],
)
def test_best_threshold_worked_by_hand(num_true, detected, f1, score):
    one = scene([(box, DOG, False) for box in BOXES[:num_true]], [(box, DOG, score) for box, score in detected])
    assert best_threshold([one], [match(one)]) == (pytest.approx(f1), score)


def test_the_worst_are_the_surest_false_boxes_and_the_largest_misses_of_every_kind():
    errors = find_errors(0, ONE_OF_EACH, match(ONE_OF_EACH), 0.5)
    first = worst(errors, [ONE_OF_EACH], 5)
    assert [one.kind for one in first] == list(KINDS)
    assert first[0].true == 3  # of 60 x 60 px, before 20 x 20
    assert len(worst(errors, [ONE_OF_EACH], 99)) == 6


def busy_case(rng, num_images, num_classes):
    images, annotations, results = [], [], []
    for k in range(num_images):
        image_id = 10 + 3 * k
        images.append({"id": image_id, "width": 320, "height": 240, "file_name": f"{image_id}.jpg"})
        for _ in range(int(rng.integers(1, 7))):
            box = [*rng.uniform(0, [220, 140]), *rng.uniform(20, 100, 2)]
            one = {"image_id": image_id, "category_id": 2 * int(rng.integers(num_classes)) + 1}
            annotations.append(annotation(len(annotations) + 1, image_id, box, one["category_id"]))
            moved = [value + rng.normal() * 6 for value in box]
            results.append({**one, "bbox": moved, "score": rng.random()})
            one["category_id"] = 2 * int(rng.integers(num_classes)) + 1
            results.append({**one, "bbox": moved, "score": rng.random() / 2})
    categories = [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(num_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def hand_case():
    """A 200 x 200 image with one dog, found, and one cat, missed; "bird" has no ground truth."""
    ground_truth = {
        "images": [{"id": 4, "width": 200, "height": 200, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 5, "name": "cat"}, {"id": 9, "name": "bird"}],
        "annotations": [annotation(1, 4, [20, 20, 60, 60], 1), annotation(2, 4, [120, 100, 60, 80], 5)],
    }
    results = [{"image_id": 4, "category_id": 1, "bbox": [20.0, 20.0, 60.0, 60.0], "score": 0.9}]
    return ground_truth, results


def parsed(ground_truth, results):
    truth = parse_annotations(ground_truth, "A")
    return truth, parse_results(results, truth, "R", "A")[0]


def write(folder, ground_truth, results, open_image=None):
    truth, detections = parsed(ground_truth, results)
    return write_report(
        folder,
        split="test",
        scores=evaluate(truth, detections),
        truth=truth,
        detections=detections,
        open_image=open_image or (lambda i: np.full((*truth["sizes"][i], 3), 90, np.uint8)),
    )


def test_the_files_hold_the_figures(tmp_path):
    ground_truth, results = hand_case()
    returned = write(tmp_path, ground_truth, results)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == returned
    # one class found whole (AP 1, less pycocotools' rounding), one not at all; no object under 32 x 32 px
    assert metrics["test/map"] == pytest.approx(0.5)
    assert metrics["test/map_small"] is None
    assert metrics["test/ap/dog"] == pytest.approx(1)
    assert metrics["test/ap/cat"] == 0
    assert metrics["test/ap/bird"] is None
    assert metrics["test/best_f1"] == pytest.approx(2 / 3)  # 1 right of 1 found and 2 true: 2 * 1 / (1 + 2)
    assert metrics["test/best_f1_score"] == 0.9
    assert json.loads((tmp_path / "predictions.json").read_text()) == results
    rows = [list(row.values()) for row in rows_of(tmp_path / "ap_by_class.csv")]
    assert [row[:3] for row in rows] == [["dog", "1", "1"], ["cat", "1", "0"], ["bird", "0", "0"]]
    assert [float(value) for value in rows[0][3:]] == pytest.approx([metrics["test/ap/dog"]] * 3)  # whole at any IoU
    assert [row[3:] for row in rows[1:]] == [["0.0"] * 3, [""] * 3]


def pixels_of(path, color):
    return is_color(pixels(path), color)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_results_written_by_parts_are_the_file_as_a_whole(tmp_path, monkeypatch, count):
    monkeypatch.setattr(report, "_WRITTEN", 3)
    ground_truth, results = busy_case(np.random.default_rng(2), 4, 3)
    truth, detections = parsed(ground_truth, results[:count])
    report._write_results(tmp_path / "r.json", detections, truth)
    assert (tmp_path / "r.json").read_text() == json.dumps(results[:count]) + "\n"


def test_the_pictures_show_truth_left_predictions_right_and_the_miss(tmp_path):
    write(tmp_path, *hand_case())
    sheet = tmp_path / "pictures" / "detections.png"
    tile = 400  # 200 x 200 enlarged to fit 440 x 400, twice, with a gap of 6
    assert Image.open(sheet).width == 14 + 2 * tile + 6 + 14
    top = int(np.argmax(pixels_of(sheet, (90, 90, 90)).mean(axis=1) > 0.5))  # below the title: the first row of tiles
    dog, cat = pixels_of(sheet, class_color(0)), pixels_of(sheet, class_color(1))
    left, right = slice(14, 14 + tile), slice(14 + tile + 6, 14 + 2 * tile + 6)
    # box (20, 20, 80, 80) is (40, 40, 160, 160) after doubling, on both sides; the cat is on the left only
    for side in (left, right):
        assert dog[top + 160, side][40:161].all()
    assert cat[top + 360, left][240:361].all()
    assert not cat[:, right].any()

    errors = tmp_path / "pictures" / "worst_errors.png"
    assert pixels_of(errors, GREEN).sum() > 300
    assert not pixels_of(errors, VERMILLION).any()  # no false box


def test_the_precision_recall_plot_draws_each_class_in_its_color(tmp_path):
    write(tmp_path, *hand_case())
    plot = pixels(tmp_path / "pictures" / "precision_recall.png").astype(int)
    assert plot.shape[1] == 1430
    for k, drawn in ((0, True), (1, True), (2, False)):  # the class without ground truth has no curve
        near = np.abs(plot - 0.8 * np.array(class_color(k))).max(axis=-1) < 12
        assert (near.sum() > 40) == drawn


def test_the_same_input_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, *busy_case(np.random.default_rng(1), 5, 25))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(tree(tmp_path / "a")) == 6


def test_no_detection_and_no_truth_still_make_a_report(tmp_path):
    ground_truth, _ = hand_case()
    write(tmp_path, ground_truth, [])
    assert json.loads((tmp_path / "metrics.json").read_text())["test/map"] == 0
    assert pixels_of(tmp_path / "pictures" / "worst_errors.png", GREEN).any()  # both objects are missed
    metrics = write(tmp_path, dict(ground_truth, annotations=[]), [])
    assert metrics["test/map"] is metrics["test/best_f1"] is metrics["test/best_f1_score"] is None
    assert set(metrics.values()) == {None}
    assert not pixels_of(tmp_path / "pictures" / "worst_errors.png", GREEN).any()


def test_an_image_that_cannot_be_opened_is_a_grey_tile(tmp_path):
    def open_image(image_id):
        raise InputError("a.jpg is truncated")

    write(tmp_path, *hand_case(), open_image)
    assert pixels_of(tmp_path / "pictures" / "detections.png", (160, 160, 160)).mean() > 0.3


@pytest.mark.filterwarnings("error")
def test_names_from_strangers_do_no_harm(tmp_path):
    names = [name for name in HOSTILE if name]
    ground_truth, results = busy_case(np.random.default_rng(0), 12, len(names))
    for category, name in zip(ground_truth["categories"], names, strict=True):
        category["name"] = name
    for image, name in zip(ground_truth["images"], names, strict=False):
        image["file_name"] = f"{name}.jpg"
    metrics = write(tmp_path, ground_truth, results)
    harmless(tmp_path)
    assert {name.removeprefix("test/ap/") for name in metrics if "/ap/" in name} == set(names)
