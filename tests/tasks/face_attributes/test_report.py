from unittest.mock import Mock

import numpy as np
import pytest
from helpers import HOSTILE, figures, harmless, is_color, pixels, rows_of, tree

from tasks.face_attributes import report
from tasks.face_attributes.metrics import by_subgroup, evaluate
from tasks.face_attributes.report import Evaluated, surest_errors, write_model_card, write_report

NAMES = ["Hat", "Smiling", "Eyeglasses", "Bald"]
BLUE = (0, 114, 178)


def evaluated(logits, targets, names=NAMES, thresholds=None, teacher=None):
    logits, targets = np.asarray(logits, float), np.asarray(targets, np.int8)
    thresholds = np.full(len(names), 0.5) if thresholds is None else thresholds
    scores = evaluate(logits, targets, thresholds, teacher)
    return Evaluated("test", names, logits, targets, thresholds, scores, teacher)


def write(folder, *given, **more):
    found = evaluated(*given, **more)
    files = [f"images/{k}.jpg" for k in range(len(found.logits))]
    write_report(folder, found, files, lambda position: np.full((60, 80, 3), position, np.uint8))
    return found.scores, figures(folder)


def noisy(num_images, num_attributes, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (num_images, num_attributes)).astype(np.int8)
    return (2 * targets - 1 + noise * rng.normal(size=targets.shape)).astype(np.float32), targets


# "Hat": the second of four has it, AP 1/2. "Smiling": perfect. "Eyeglasses": nobody has them. "Bald": unknown but one.
LOGITS = np.float32([[2, 3, -1, 0], [1, 2, -1, 0], [-1, -2, 1, 0], [-2, -3, -1, 0]])
TARGETS = np.int8([[0, 1, 0, -1], [1, 1, 0, -1], [0, 0, 0, -1], [0, 0, 0, 1]])
THRESHOLDS = np.array([0.8, 0.5, 0.5, 0.5])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    return folder, *write(folder, LOGITS, TARGETS, thresholds=THRESHOLDS, teacher=2 * LOGITS[:, ::-1])


def test_the_figures_file_is_flat_and_holds_the_scores(written):
    _, scores, metrics = written
    assert (metrics["test/ap/Hat"], metrics["test/ap/Smiling"], metrics["test/map"]) == (0.5, 1, 0.75)
    assert metrics["test/attributes_left_out"] == 2
    assert {name for name in metrics if "/ap/" in name} == {"test/ap/Hat", "test/ap/Smiling"}
    for name, value in scores.figures.items():
        assert metrics[f"test/{name}"] == value


def test_the_table_of_attributes_begins_with_the_worst_and_ends_with_those_left_out(written):
    folder, scores, _ = written
    rows = rows_of(folder / "per_attribute.csv")
    assert [row["attribute"] for row in rows] == ["Hat", "Smiling", "Eyeglasses", "Bald"]
    # from 0.8 on only logit 2 (0.88) is a yes, and wrong: F1 0, and two of three noes are right
    expected = {"ap": 0.5, "base_rate": 0.25, "threshold": 0.8, "f1": 0, "accuracy": 0.5, "known": 4, "positive": 1}
    assert {name: float(rows[0][name]) for name in expected} == expected
    assert float(rows[0]["balanced_accuracy"]) == pytest.approx((0 + 2 / 3) / 2)
    assert [row["ap"] for row in rows[2:]] == ["", ""]
    assert (rows[2]["accuracy"], rows[3]["known"]) == ("0.75", "1")
    for row in rows:
        assert float(row["teacher_kl"]) == scores.by_attribute["teacher_kl"][NAMES.index(row["attribute"])]
    # the teacher's logits of the hat are 0, 0, 0, 0: no yes from 0.8 on, and a probability of 1/2 where 1/4 has it
    of_teacher = {name: float(rows[0][f"teacher_{name}"]) for name in ("balanced_accuracy", "f1", "accuracy", "ece")}
    assert of_teacher == {"balanced_accuracy": 0.5, "f1": 0, "accuracy": 0.75, "ece": 0.25}


def test_every_image_has_the_probability_of_each_attribute_and_its_threshold_beside(written):
    rows = rows_of(written[0] / "predictions.csv")
    probabilities = {"Hat": "0.731059", "Smiling": "0.880797", "Eyeglasses": "0.268941", "Bald": "0.500000"}
    expected = {"file": "images/1.jpg"}
    for name, limit in zip(NAMES, ("0.800000", "0.500000", "0.500000", "0.500000"), strict=True):
        expected |= {name: probabilities[name], f"{name}_threshold": limit}
    assert list(rows[1].items()) == list(expected.items())
    assert len(rows) == 4


# -------------------------------------------------------------------------------------------------------- the bars


@pytest.mark.parametrize("count", [1, 40])
def test_the_bars_are_as_long_as_the_average_precision_the_shortest_on_top(tmp_path, monkeypatch, count):
    monkeypatch.setattr(report, "_draw_errors", lambda *_: None)
    logits, targets = noisy(200, count, noise=3.0)
    scores, _ = write(tmp_path, logits, targets, [f"attribute {k}" for k in range(count)])
    image = pixels(tmp_path / "pictures" / "per_attribute.png")
    blue = is_color(image, BLUE)
    left = np.flatnonzero(blue.sum(axis=0) > 10 * count)[0]  # where all bars begin
    rows = np.flatnonzero(blue[:, left + 1])
    starts = rows[np.append(True, np.diff(rows) > 1)]
    lengths = [(np.flatnonzero(blue[start + 1, : left + 570])[-1] + 1 - left) / 560 for start in starts]
    ap, base_rate = scores.by_attribute["ap"], scores.by_attribute["base_rate"]
    assert lengths == pytest.approx(sorted(ap), abs=0.006)  # 3 px: the spine and soft edges
    assert set(np.diff(starts)) <= {23, 24, 25}
    for k, start in zip(np.argsort(ap), starts, strict=True):
        dark = np.flatnonzero(is_color(image[start + 6], (0, 0, 0))[left + 20 : left + 560])
        assert (dark.mean() + 20) / 560 == pytest.approx(base_rate[k], abs=0.005)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_images", [0, 1])
def test_where_nothing_can_be_measured_there_still_is_a_report(tmp_path, num_images):
    _, metrics = write(tmp_path, np.zeros((num_images, 4)), np.full((num_images, 4), -1))
    assert metrics["test/map"] is None
    assert len(rows_of(tmp_path / "predictions.csv")) == num_images
    assert not [name for name in rows_of(tmp_path / "per_attribute.csv")[0] if "teacher" in name]  # there is none
    for name in ("per_attribute", "worst_errors"):
        assert (pixels(tmp_path / "pictures" / f"{name}.png") < 100).any()


@pytest.mark.filterwarnings("error")
def test_any_name_is_drawn_without_a_warning_and_kept_in_the_tables(tmp_path):
    names = ["眼鏡", "🎩 hat", "$\\frac{$", "_hidden", "n" * 200]
    logits, targets = noisy(30, 5)
    targets[:, 0] = 0  # its name is in the title
    write(tmp_path, logits, targets, names)
    assert {row["attribute"] for row in rows_of(tmp_path / "per_attribute.csv")} == set(names)
    assert pixels(tmp_path / "pictures" / "per_attribute.png").shape[1] < 1200


@pytest.mark.filterwarnings("error")
def test_names_from_strangers_do_no_harm(tmp_path):
    logits, targets = noisy(len(HOSTILE), len(HOSTILE))
    targets[:, :3] = 0  # these names are in the title
    found = evaluated(logits, targets, HOSTILE, teacher=logits + 1)
    write_report(tmp_path, found, HOSTILE, lambda position: np.full((60, 80, 3), position, np.uint8))
    groups = {name: targets[:, k] for k, name in enumerate(HOSTILE)}
    told = {"model": "M\x1b[2J.", "data": "D \udcff.", "licence": "\u202eL", "scored": "test", "teachers": HOSTILE}
    write_model_card(tmp_path / "model_card.md", found, groups=groups, **told)
    harmless(tmp_path)
    lines = (tmp_path / "model_card.md").read_text("utf-8").splitlines()
    assert [line.count("|") for line in lines if line.startswith("| with")] == [9] * 2 * len(HOSTILE)
    assert {name.removeprefix("test/ap/") for name in figures(tmp_path) if "/ap/" in name} == set(HOSTILE[3:])


# ------------------------------------------------------------------------------------------------------- the sheet


def test_the_surest_errors_have_prediction_and_target_in_their_captions(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "contact_sheet", sheet := Mock())
    logits = np.float32([[4, 0], [-3, 5], [1, -3], [-1, -6]])
    targets = np.int8([[0, -1], [1, 0], [1, 0], [0, 1]])
    thresholds = np.array([0.5, 0.25])
    write(tmp_path, logits, targets, NAMES[:2], thresholds, teacher=np.zeros((4, 2), np.float32))
    # from the threshold's logit, -1.10, the second attribute is wrong by 6.1 and by 4.9, the first by 4 and by 3, of
    # which the last is in an image that has come already
    assert sheet.call_args.args[1] == [
        "Smiling 0.99\nyes from 0.25, target no\nteacher 0.50\n1 more wrong\nimages/1.jpg",
        "Smiling 0.00\nyes from 0.25, target yes\nteacher 0.50\nimages/3.jpg",
        "Hat 0.98\nyes from 0.50, target no\nteacher 0.50\nimages/0.jpg",
    ]


def test_one_attribute_does_not_fill_the_sheet_while_others_have_errors():
    # 6 attributes of which the first is wrong most surely in 30 images, the others in 5 images of their own
    logits, targets = np.full((55, 6), -9.0, np.float32), np.zeros((55, 6), np.int8)
    logits[:30, 0] = np.linspace(8, 9, 30)
    for k in range(1, 6):
        logits[25 + 5 * k : 30 + 5 * k, k] = k
    chosen, errors = surest_errors(case := evaluated(logits, targets, "abcdef"), 24)
    assert chosen[:5] == [(29, 0), (28, 0), (27, 0), (26, 0), (25, 0)]
    assert [k for _, k in chosen[5:]] == [5] * 5 + [4] * 5 + [3] * 5 + [2] * 4
    assert errors.tolist() == [1] * 55
    only_one, _ = surest_errors(case._replace(logits=logits[:30], targets=targets[:30]), 24)
    assert only_one == [(k, 0) for k in range(29, 5, -1)]
    # at the ends of what a threshold can be
    assert len(surest_errors(case._replace(thresholds=np.zeros(6)), 24)[0]) == 24
    assert surest_errors(case._replace(thresholds=np.ones(6)), 24)[0] == []


def test_the_same_input_gives_the_same_files(tmp_path):
    logits, targets = noisy(40, 6)
    for name in ("a", "b"):
        write(tmp_path / name, logits, targets, [f"attribute {k}" for k in range(6)], teacher=logits + 1)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    names = ("metrics.json", "per_attribute.csv", "predictions.csv")
    pictures = ("pictures/per_attribute.png", "pictures/worst_errors.png")
    assert {str(path) for path in tree(tmp_path / "a")} == {*names, *pictures}


# -------------------------------------------------------------------------------------------------------- model card


def card(path, names=NAMES, groups=None, teachers=(), licence=""):
    logits, targets = noisy(60, len(names))
    targets[:, 0] = 1  # left out
    found = evaluated(logits, targets, names, None, logits if teachers else None)
    data = {"data": "Faces drawn by code.", "licence": licence, "scored": "test"}
    write_model_card(path, found, model="M.", **data, groups=groups or {}, teachers=teachers)
    return path.read_text("utf-8"), found


def table(text, head):
    """Rows of the table whose head begins so, by their first cell."""
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        assert len(rest) == lines[start].count("|") - 2
        rows[first] = rest
    return rows


def test_the_card_has_the_figures_and_what_the_law_asks_to_be_said(tmp_path):
    text, found = card(tmp_path / "model_card.md")
    figures = table(text, "figure")
    assert figures["mean average precision"] == [f"{found.scores.figures['map']:.3f}"]
    assert figures["balanced accuracy"] == [f"{found.scores.figures['balanced_accuracy']:.3f}"]
    for word in ("Faces drawn by code.", "Article 5(1)(g)", "Annex III, 1(b)", "Article 50(3)", "To identify a person"):
        assert word in text
    for word in ("CelebA", "commercial", "teacher", "ethnic origin"):  # nothing of these here
        assert word not in text


def test_celebas_terms_and_its_sensitive_attributes_are_in_the_card(tmp_path):
    licence = "CelebA is for non-commercial research only (its agreement, point 1)."
    text, _ = card(tmp_path / "card.md", ["Eyeglasses", "Male", "Pale_Skin"], licence=licence, teachers=["a ResNet-50"])
    for word in (licence, "no commercial use", "no record that they agreed", "- `Male`, `Pale_Skin`: ", "a ResNet-50."):
        assert word in text
    figures = table(text, "figure")
    assert figures["KL divergence from the teacher, nats"] == ["0.000"]
    for name in ("balanced accuracy", "F1", "accuracy"):  # the card's teacher predicts as its student
        assert figures[f"the teacher's {name}"] == figures[name]


def test_the_subgroups_are_a_table_with_two_rows_for_each_attribute_named(tmp_path):
    halves = np.arange(60) % 2
    text, found = card(tmp_path / "card.md", groups={"Smiling": halves, "a|b": 1 - halves, "nobody": 0 * halves})
    rows = table(text, "images")
    assert list(rows) == [f"{which} `{name}`" for name in ("Smiling", "a/b", "nobody") for which in ("with", "without")]
    part = by_subgroup(found.logits, found.targets, halves, found.thresholds)["without"]
    names = ("map", "base_rate", "balanced_accuracy", "f1", "accuracy")
    assert rows["without `Smiling`"] == [str(int(part["images"])), "3", *(f"{part[name]:.3f}" for name in names)]
    assert rows["with `nobody`"] == ["0", "0", *["not measured"] * 5]
