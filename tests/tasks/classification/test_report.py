import json

import numpy as np
import pytest
from helpers import HOSTILE, harmless, is_color, pixels, rows_of, tree
from matplotlib import colormaps

from backbone.errors import InputError
from tasks.classification import report
from tasks.classification.metrics import evaluate
from tasks.classification.report import readable_part, write_report

COLORS = np.array([(200, 40, 40), (40, 160, 60), (50, 70, 200), (220, 180, 30)], np.uint8)  # of the images
GREY = (160, 160, 160)


def images_of(labels):
    """Each image is 60 x 80 in the colour of its class."""
    return lambda position: np.full((60, 80, 3), COLORS[labels[position] % 4], np.uint8)


def write(folder, logits, labels, names=None, open_image=None, temperature=1.0, files=None, **more):
    logits, labels = np.asarray(logits, np.float32), np.asarray(labels)
    scores = evaluate(logits, labels, temperature)
    names = names or [f"class {k}" for k in range(logits.shape[1])]
    files = files or [f"images/{k}.jpg" for k in range(len(labels))]
    told = {"split": "test", "scores": scores, "logits": logits, "labels": labels, "class_names": names, **more}
    return scores, write_report(folder, files=files, open_image=open_image or images_of(labels), **told)


def answering(truths_and_answers, num_classes, height=3.0):
    """Logits that answer as told, and the labels."""
    labels, answers = np.array(truths_and_answers).reshape(-1, 2).T
    return height * np.eye(num_classes, dtype=np.float32)[answers], labels


def noisy(num_images, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    logits = rng.normal(size=(num_images, num_classes)).astype(np.float32)
    logits[np.arange(num_images), labels] += 2
    return logits, labels


# a cat and a dog are confused more often than a cow and a dog; "fox" is answered but has no image, "elk" is neither
NAMES = ["cat", "dog", "cow", "fox", "elk"]
CAT, DOG, COW, FOX = range(4)
ANSWERS = [(CAT, CAT)] * 3 + [(CAT, DOG)] * 2 + [(DOG, DOG)] * 4 + [(DOG, COW)] + [(COW, COW)] * 5 + [(DOG, FOX)]


@pytest.fixture
def no_plots(monkeypatch):
    """Without the two figures that matplotlib takes half a second for."""
    for name in ("_plot_confusion", "_plot_calibration"):
        monkeypatch.setattr(report, name, lambda *_: None)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """The folder, the scores and what was returned; the caller adds one figure and has no value for another."""
    folder = tmp_path_factory.mktemp("animals")
    extra = {"imagenet_overlap": 0.25, "nll": None}
    return folder, *write(folder, *answering(ANSWERS, 5), NAMES, temperature=2.0, extra=extra)


def test_the_figures_file_holds_the_scores_the_recalls_and_what_the_caller_adds(animals):
    folder, scores, returned = animals
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == returned
    assert metrics["test/top1"] == scores.figures["top1"] == 12 / 16
    assert metrics["test/temperature"] == 2
    assert metrics["test/imagenet_overlap"] == 0.25
    assert metrics["test/nll"] is None
    recall = {name.rpartition("/")[2]: value for name, value in metrics.items() if "/recall/" in name}
    assert recall == {"cat": 3 / 5, "dog": 4 / 6, "cow": 1.0}
    for name, value in scores.figures.items():
        assert name == "nll" or metrics[f"test/{name}"] == value


def test_the_table_of_classes_begins_with_the_worst_and_ends_with_those_without_images(animals):
    rows = rows_of(animals[0] / "per_class.csv")
    # the dog was taken for a cow and for a fox once each: the first by label is named
    assert [tuple(row.values()) for row in rows] == [
        ("0", "cat", "5", "0.6", "1.0", str(6 / 8), "dog", "2"),
        ("1", "dog", "6", str(4 / 6), str(4 / 6), str(8 / 12), "cow", "1"),
        ("2", "cow", "5", "1.0", str(5 / 6), str(10 / 11), "", "0"),
        ("3", "fox", "0", "", "0.0", "0.0", "", "0"),
    ]
    assert " ".join(rows[0]) == "label class images recall precision f1 most_often_taken_for times"


def test_the_table_of_pairs_begins_with_the_most_confused(animals):
    assert [tuple(row.values()) for row in rows_of(animals[0] / "confused_pairs.csv")] == [
        ("cat", "dog", "2", "5", str(2 / 5)),
        ("dog", "cow", "1", "6", str(1 / 6)),
        ("dog", "fox", "1", "6", str(1 / 6)),
    ]


@pytest.mark.usefixtures("no_plots")
def test_every_image_has_its_best_classes_with_probabilities_after_the_temperature(tmp_path):
    logits = np.log(np.float32([[9, 4, 1], [1, 4, 9]]))
    write(tmp_path, logits, [0, 0], ["a", "b", "c"], temperature=2.0)
    # divided by 2, odds of 9 : 4 : 1 become 3 : 2 : 1
    best = {"probability_1": "0.500000", "probability_2": "0.333333", "probability_3": "0.166667"}
    classes = [{f"class_{k}": name for k, name in enumerate(order, 1)} for order in ("abc", "cba")]
    assert rows_of(tmp_path / "predictions.csv") == [
        {"file": "images/0.jpg", "truth": "a", "result": "right", **classes[0], **best},
        {"file": "images/1.jpg", "truth": "a", "result": "wrong", **classes[1], **best},
    ]


@pytest.mark.usefixtures("no_plots")
def test_names_that_classes_share_are_told_apart(tmp_path):
    _, metrics = write(tmp_path, *answering([(0, 0), (2, 0)], 3), ["crane", "heron", "crane"])
    assert metrics["test/recall/crane (0)"] == 1
    assert metrics["test/recall/crane (2)"] == 0
    assert rows_of(tmp_path / "predictions.csv")[1]["truth"] == "crane (2)"


@pytest.mark.filterwarnings("error")
def test_any_name_is_drawn_without_a_warning_and_kept_in_the_tables(tmp_path):
    names = ["柴犬", "🐶 dog", "$\\frac{$", "_hidden", "n" * 300]
    write(tmp_path, *noisy(60, 5), names)
    assert {row["class"] for row in rows_of(tmp_path / "per_class.csv")} == set(names)
    assert pixels(tmp_path / "pictures" / "confusion_matrix.png").shape[1] < 1200


@pytest.mark.filterwarnings("error")
def test_names_from_strangers_do_no_harm(tmp_path):
    count = len(HOSTILE)
    _, metrics = write(
        tmp_path, *answering([(k, (k + k % 2) % count) for k in range(count)], count), HOSTILE, files=HOSTILE
    )
    harmless(tmp_path)
    assert [name.removeprefix("test/recall/") for name in metrics if "/recall/" in name] == HOSTILE
    assert [row["file"] for row in rows_of(tmp_path / "predictions.csv")][:2] == [
        "n" * 5000,
        r"two\nlines,\ta tab\rand more",
    ]


# ------------------------------------------------------------------------------------------------- confusion matrix


def cells_of(path, num_rows, num_columns, cell):
    """The colour of each cell near its upper left corner, (R, K, 3); the frame around the cells is found by its ink."""
    image = pixels(path)
    black = is_color(image, (0, 0, 0))
    left = next(x for x in range(image.shape[1]) if black[:, x].sum() > 0.9 * num_rows * cell)
    top = next(y for y in range(image.shape[0]) if black[y, left : left + cell].all())
    ys, xs = top + 6 + cell * np.arange(num_rows), left + 6 + cell * np.arange(num_columns)
    return image[np.ix_(ys, xs)]


def test_the_cells_are_blue_where_right_orange_where_wrong_and_the_darker_the_larger_their_share(animals):
    counts = np.array([[3, 2, 0, 0], [0, 4, 1, 1], [0, 0, 5, 0]])  # truth cat, dog, cow; answer cat, dog, cow, fox
    cells = cells_of(animals[0] / "pictures" / "confusion_matrix.png", 3, 4, cell=80).astype(int)
    for (row, column), count in np.ndenumerate(counts):
        color = colormaps["Blues" if row == column else "Oranges"](np.sqrt(count / counts[row].sum()))
        expected = 255 * np.array(color[:3]) if count else np.full(3, 255)
        np.testing.assert_allclose(cells[row, column], expected, atol=2, err_msg=f"{row}, {column}")


def test_all_classes_that_have_images_are_drawn_and_the_rest_is_summed():
    confusion = np.zeros((40, 40), int)
    confusion[5, [5, 9, 30]] = 6, 2, 1
    confusion[9, 9] = 3
    confusion[5, 10:24] = np.arange(14, 0, -1)  # 14 classes without images: ten have columns, 4 + 3 + 2 + 1 do not
    rows, columns, table = readable_part(confusion)
    assert rows == [5, 9]
    assert columns == [5, 9, *range(10, 20)]
    assert table.tolist() == [[6, 2, *range(14, 4, -1), 4 + 3 + 2 + 1 + 1], [0, 3] + [0] * 11]
    assert table.sum() == confusion.sum()
    rows, columns, table = readable_part(np.ones((150, 150), int))
    assert rows == columns == list(range(150))
    assert table.shape == (150, 150)


def test_of_very_many_classes_those_in_the_most_confused_pairs_are_drawn():
    confusion = 20 * np.eye(400, dtype=int)
    for k in range(40):  # pairs (10 k, 10 k + 1), the last the most confused
        confusion[10 * k, 10 * k + 1] = 1 + k
    rows, columns, table = readable_part(confusion)
    assert rows == columns == sorted([10 * k for k in range(10, 40)] + [10 * k + 1 for k in range(10, 40)])
    assert table.shape == (60, 60)  # no "others": the answers all lie inside
    assert readable_part(np.eye(400, dtype=int))[0] == list(range(60))


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "cell"), [(12, 50), (84, 12), (300, 16)])
def test_a_confusion_matrix_of_any_size_has_room_for_its_cells(tmp_path, num_classes, cell):
    logits, labels = answering([(k, k) for k in range(num_classes)] * 2, num_classes)
    write(tmp_path, logits, labels)
    shown = min(num_classes, 60 if num_classes > 150 else num_classes)
    cells = cells_of(tmp_path / "pictures" / "confusion_matrix.png", shown, shown, cell)
    darkest = 255 * np.array(colormaps["Blues"](1.0)[:3])
    np.testing.assert_allclose(cells[np.eye(shown, dtype=bool)], np.tile(darkest, (shown, 1)), atol=2)
    assert (cells[~np.eye(shown, dtype=bool)] == 255).all()


# ------------------------------------------------------------------------------------------------------ the sheets


@pytest.mark.usefixtures("no_plots")
def test_the_surest_errors_come_first_and_an_unreadable_image_is_grey(tmp_path):
    # three errors, of logit 1, 5 and 3: the surest is image 2
    logits = np.float32([[0, 1, 0], [9, 0, 0], [0, 0, 5], [3, 0, 0]])
    labels = np.array([0, 0, 1, 2])

    def open_image(position):
        if position == 3:
            raise InputError("images/3.jpg is truncated")
        return images_of(labels)(position)

    write(tmp_path, logits, labels, open_image=open_image)
    sheet = pixels(tmp_path / "pictures" / "worst_errors.png")
    # 60 x 80 fits into 300 x 240 as 225 x 300, a square of 300 as 240 x 240
    first = np.argmax(is_color(sheet[:, 20], COLORS[1]))
    across = sheet[first + 100]
    tiles = [across[14 + k * 314 + 120] for k in range(3)]
    assert [tile.tolist() for tile in tiles] == [COLORS[1].tolist(), list(GREY), COLORS[0].tolist()]
    assert not is_color(sheet, COLORS[2]).any()


@pytest.mark.usefixtures("no_plots")
def test_a_confused_pair_shows_the_mistaken_beside_the_class_they_were_taken_for(tmp_path):
    write(tmp_path, *answering([(CAT, DOG)] * 2 + [(DOG, DOG), (CAT, CAT), (COW, FOX)], 5), NAMES)
    sheet = pixels(tmp_path / "pictures" / "most_confused.png")
    assert sheet.shape[1] == 2 * 14 + 2 * 3 * 150 + 24
    left, right = sheet[:, : 14 + 450], sheet[:, 14 + 450 + 24 :]
    thumbnail = 144 * 108
    count = [[int(is_color(side, COLORS[k]).sum()) for k in (CAT, DOG, COW)] for side in (left, right)]
    # two cats beside the one dog that was known; a cow beside nothing, as no fox is there
    assert count == [[2 * thumbnail, 0, thumbnail], [0, thumbnail, 0]]
    first_cat, first_cow = (np.argmax(is_color(left, COLORS[k]).any(axis=1)) for k in (CAT, COW))
    assert first_cat < first_cow


@pytest.mark.usefixtures("no_plots")
def test_two_classes_confused_both_ways_are_one_pair(tmp_path):
    write(tmp_path, *answering([(CAT, DOG)] * 3 + [(DOG, CAT)] * 2, 2), NAMES[:2])
    sheet = pixels(tmp_path / "pictures" / "most_confused.png")
    thumbnail = 144 * 108
    # no dog was known, so those taken for cats are shown on the right
    assert [int(is_color(sheet, COLORS[k]).sum()) for k in (CAT, DOG)] == [3 * thumbnail, 2 * thumbnail]


def test_the_calibration_picture_has_a_bar_for_each_bin_that_holds_images(tmp_path):
    # 30 answers of probability 0.6 in the bin (8/15, 9/15], 15 of 0.9: at temperature 1 and after it alike
    chances = np.array([[0.599, 0.401]] * 30 + [[0.9, 0.1]] * 15)
    write(tmp_path, np.log(chances), np.arange(45) % 2)
    image = pixels(tmp_path / "pictures" / "calibration.png")
    assert image.shape == (660, 1100, 3)
    for half, color in ((image[:, :570], (213, 94, 0)), (image[:, 570:], (0, 114, 178))):
        lower = is_color(half, color)[500:]  # below the curves
        heights = lower.sum(axis=0)
        tall, short = (heights > 0.9 * heights.max()).sum(), ((heights > 0.4 * heights.max()) & (heights < 55)).sum()
        assert heights.max() > 80
        assert tall == pytest.approx(short, abs=4)  # two bars of one width, one twice as high as the other
        assert (heights > 0).sum() == tall + short > 50


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("num_images", "num_classes"), [(0, 4), (1, 1), (4, 4)])
def test_without_images_or_without_errors_there_still_is_a_report(tmp_path, num_images, num_classes):
    labels = np.arange(num_images)
    _, metrics = write(tmp_path, 3 * np.eye(num_images, num_classes), labels)
    assert metrics["test/top1"] == (1.0 if len(labels) else None)
    assert len(rows_of(tmp_path / "predictions.csv")) == len(labels)
    assert rows_of(tmp_path / "confused_pairs.csv") == []
    for name in ("worst_errors", "most_confused"):
        sheet = pixels(tmp_path / "pictures" / f"{name}.png")
        assert sheet.shape[0] < 100  # the title alone
        assert (sheet < 100).any()


def test_the_same_input_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, *noisy(80, 8), temperature=1.5)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    pictures = {f"pictures/{name}.png" for name in ("calibration", "confusion_matrix", "most_confused", "worst_errors")}
    tables = {"confused_pairs.csv", "metrics.json", "per_class.csv", "predictions.csv"}
    assert {str(file) for file in tree(tmp_path / "a")} == tables | pictures
