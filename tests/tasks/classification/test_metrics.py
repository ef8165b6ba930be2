import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from backbone.errors import InputError
from tasks.calibration import calibration_error
from tasks.classification import metrics
from tasks.classification.metrics import (
    TEMPERATURES,
    compare,
    confused_pairs,
    evaluate,
    fit_temperature,
    top_classes,
    wilson_interval,
)


def case(num_images, present, num_classes, seed=0):
    """Logits that favour the truth, of images whose classes are all in `present`."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(present, num_images)
    logits = rng.normal(size=(num_images, num_classes)) * 2
    logits[np.arange(num_images), labels] += 2
    return logits.astype(np.float32), labels


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("num_images", "present", "num_classes"),
    [
        (400, range(7), 7),
        (300, [0, 2, 5], 9),  # classes without images, some of them answered
        (60, range(3), 3),
        (60, range(5), 5),
        (1, [4], 6),
        (50, [3, 7, 500], 1000),
    ],
)
@pytest.mark.parametrize("block", [2**21, 65])  # 65: blocks of a few images, the last one smaller
def test_every_figure_equals_scikit_learns(num_images, present, num_classes, block, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", block)
    logits, labels = case(num_images, list(present), num_classes)
    scores = evaluate(logits, labels, temperature=1.7)
    answers, every = logits.argmax(axis=1), np.arange(num_classes)
    precision, recall, f1, images = precision_recall_fscore_support(labels, answers, labels=every, zero_division=np.nan)
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, answers, labels=every))
    np.testing.assert_array_equal(scores.images, images)
    for ours, theirs in ((scores.precision, precision), (scores.recall, recall), (scores.f1, f1)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    before, after = softmax(logits), softmax(logits / np.float64(1.7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some classes have no images, which is what is asked here
        expected = {
            "top1": accuracy_score(labels, answers),
            "mean_per_class": balanced_accuracy_score(labels, answers),
            "nll": log_loss(labels, before, labels=every),
            "nll_calibrated": log_loss(labels, after, labels=every),
            "ece": calibration_error(before.max(axis=1), answers == labels),
            "ece_calibrated": calibration_error(after.max(axis=1), answers == labels),
            "temperature": 1.7,
            "images": num_images,
            "classes_without_images": num_classes - len(set(labels.tolist())),
        }
    if num_classes > 5:  # of five or fewer all would be among the best five
        expected["top5"] = top_k_accuracy_score(labels, logits, k=5, labels=every)
    assert {name: scores.figures[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert ("top5" in scores.figures) == (num_classes > 5)
    assert (scores.figures["top1_low"], scores.figures["top1_high"]) == wilson_interval(
        int((answers == labels).sum()), num_images
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_newcombes(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)
    assert 0 <= mirrored[0] <= mirrored[1] <= 1


def test_of_equal_logits_the_lower_class_goes_first():
    level = np.zeros((10, 10), np.float32)  # says the same of every class
    figures = evaluate(level, np.arange(10)).figures
    assert (figures["top1"], figures["top5"]) == (0.1, 0.5)
    assert figures["nll"] == pytest.approx(np.log(10))
    by_truth = [evaluate(level[:1], np.array([truth])).figures for truth in range(10)]
    assert [one["top1"] for one in by_truth] == [1] + [0] * 9
    assert [one["top5"] for one in by_truth] == [1] * 5 + [0] * 5
    # class 1 and 2 share the best place, so class 1 is the answer
    tied = np.float32([[0, 5, 5]] * 4)
    scores = evaluate(tied, np.array([2, 1, 0, 2]))
    assert scores.figures["top1"] == 1 / 4
    assert scores.confusion.tolist() == [[0, 1, 0], [0, 1, 0], [0, 2, 0]]
    assert top_classes(tied, 1.0)[0].tolist() == [[1, 2, 0]] * 4


def test_the_best_classes_and_their_probabilities_are_those_of_a_stable_sort():
    logits, _ = case(300, range(12), 12, seed=5)
    logits = logits.round(1)  # many ties
    classes, probabilities = top_classes(logits, 2.5)
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(classes, expected)
    chances = np.take_along_axis(softmax(logits / np.float64(2.5)), expected, axis=1)
    np.testing.assert_allclose(probabilities, chances, rtol=1e-9)
    few = top_classes(logits[:, :2], 1.0)
    assert few[0].shape == few[1].shape == (300, 2)
    np.testing.assert_allclose(few[1].sum(axis=1), 1)


def test_large_logits_neither_overflow_nor_lose_the_figure():
    logits = np.float32([[3e4, 0, -3e4], [-3e4, -3e4 + 1, -3e4]])
    with np.errstate(all="raise", under="ignore"):
        figures = evaluate(logits, np.array([1, 1]), 0.5).figures
        fit_temperature(logits, np.array([1, 1]))
    # the first is wrong by 3e4 nats; the second has probability e / (e + 2)
    assert figures["nll"] == pytest.approx((3e4 + np.log(1 + 2 / np.e)) / 2)
    assert figures["nll_calibrated"] == pytest.approx((6e4 + np.log(1 + 2 / np.e**2)) / 2)


def test_without_images_there_are_no_figures():
    scores = evaluate(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    known = {name: value for name, value in scores.figures.items() if not np.isnan(value)}
    assert known == {"temperature": 1.0, "images": 0.0, "classes_without_images": 4.0}
    assert scores.confusion.sum() == 0
    assert scores.confusion.shape == (4, 4)
    assert np.isnan(scores.recall).all()
    assert fit_temperature(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)) == 1.0
    assert top_classes(np.zeros((0, 4), np.float32), 1.0)[0].shape == (0, 4)


# ------------------------------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.5])
def test_logits_that_are_the_true_log_odds_times_k_have_temperature_k(scale):
    # of 100,000 images that look alike, 5 in 10 are of class 0, 3 of class 1, 2 of class 2
    labels = np.tile([0, 0, 0, 0, 0, 1, 1, 1, 2, 2], 10_000)
    logits = np.tile(scale * np.log(np.float32([[0.5, 0.3, 0.2]])), (len(labels), 1)) + 7
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=1e-3)


def test_no_other_temperature_has_a_lower_likelihood_and_an_overconfident_net_is_mended():
    logits, labels = case(4000, range(10), 10, seed=1)
    logits *= 4
    fitted = fit_temperature(logits[::2], labels[::2])
    assert fitted > 2

    def nll(temperature):
        return evaluate(logits[::2], labels[::2], temperature).figures["nll_calibrated"]

    assert nll(fitted) < min(nll(1.02 * fitted), nll(fitted / 1.02), nll(1.0))
    held_out = evaluate(logits[1::2], labels[1::2], fitted).figures
    assert held_out["ece_calibrated"] < 0.25 * held_out["ece"]
    assert held_out["nll_calibrated"] < held_out["nll"]
    # the answers are the same, so only the probabilities move
    assert held_out["top1"] == evaluate(logits[1::2], labels[1::2]).figures["top1"]


def test_a_set_without_an_error_keeps_some_doubt():
    """All right by a margin of 6, so bare likelihood wants T = 0: N ln(1 + 2 exp(-6 / T)) + (ln T)^2 / 2 on a grid."""
    grid = np.geomspace(0.05, 20, 200_001)
    for count in (3, 20, 3000):
        labels = np.arange(count) % 3
        wanted = grid[np.argmin(count * np.log1p(2 * np.exp(-6 / grid)) + np.log(grid) ** 2 / 2)]
        assert fit_temperature(6 * np.eye(3)[labels], labels) == pytest.approx(wanted, rel=1e-3)


def test_few_images_of_many_classes_are_never_made_worse():
    """The images the temperature is fitted on, with more classes than images: their likelihood must not fall."""
    generator = np.random.default_rng(0)
    for sharpness in (1.0, 5.0, 20.0):
        labels = generator.integers(0, 1000, 38)
        logits = sharpness * generator.normal(size=(38, 1000)).astype(np.float32)
        logits[np.arange(30), labels[:30]] += 5 * sharpness  # most are right
        temperature = fit_temperature(logits, labels)
        figures = evaluate(logits, labels, temperature).figures
        assert figures["nll_calibrated"] <= figures["nll"] + 1e-9


def test_temperatures_stay_within_their_bounds():
    labels = np.arange(30) % 3
    one_hot = (np.arange(3) == labels[:, None]).astype(np.float32)
    many = np.repeat(one_hot, 100_000, axis=0), np.repeat(labels, 100_000)
    assert fit_temperature(-9 * many[0], many[1]) == TEMPERATURES[1]  # all wrong: nothing is too flat
    assert fit_temperature(0.01 * many[0], many[1]) == TEMPERATURES[0]  # all right, hardly told apart
    assert TEMPERATURES[0] <= fit_temperature(9 * one_hot[:1], labels[:1]) <= TEMPERATURES[1]
    assert fit_temperature(0 * one_hot + 3, labels) == pytest.approx(1.0)  # no temperature changes these
    assert fit_temperature(one_hot[:, :1], 0 * labels) == pytest.approx(1.0)  # nor these


# ------------------------------------------------------------------------------------------------------------ pairs


def test_confused_pairs_come_by_images_then_share_then_class():
    confusion = np.array([[50, 4, 0, 0], [2, 2, 4, 0], [0, 2, 4, 2], [0, 0, 0, 0]])
    assert confused_pairs(confusion) == [
        (1, 2, 4, 4 / 8),
        (0, 1, 4, 4 / 54),
        (1, 0, 2, 2 / 8),
        (2, 1, 2, 2 / 8),
        (2, 3, 2, 2 / 8),
    ]
    assert confused_pairs(np.diag([3, 4])) == []


# ----------------------------------------------------------------------------------------------------------- inputs

LOGITS, LABELS = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])


def changed(array, position, value):
    array = array.copy()
    array[position] = value
    return array


@pytest.mark.parametrize("function", [evaluate, fit_temperature])
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (changed(LOGITS, (2, 1), np.nan), LABELS, r"logits\[2\] hold a value that is not finite \(1 of 4 images"),
        (changed(LOGITS, (slice(1, 3), 1), np.inf), LABELS, r"logits\[1\] hold .* \(2 of 4 images"),
        (changed(LOGITS.astype(float), (3, 0), 1e300), LABELS, r"logits\[3\]"),  # more than float32 holds
        (LOGITS, changed(LABELS, 1, 3), r"labels\[1\] is 3; a label is in 0\.\.2"),
        (LOGITS, changed(LABELS, 3, -1), r"labels\[3\] is -1"),
        (LOGITS, LABELS[:3], r"labels have shape \(3,\).*give 4 whole numbers"),
        (LOGITS, LABELS.astype(np.float32), "labels have .* float32"),
        (LOGITS[0], LABELS, r"logits have shape \(3,\)"),
        (LOGITS[:, :0], LABELS, r"logits have shape \(4, 0\)"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_its_position(function, logits, labels, message):
    with pytest.raises(InputError, match=message):
        function(logits, labels)


def test_logits_near_the_end_of_float32_are_scored():
    assert evaluate(np.full((1, 3), 3e38, np.float32), np.array([0])).figures["nll"] == pytest.approx(np.log(3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(InputError, match="temperature is"):
        evaluate(LOGITS, LABELS, temperature)


def test_the_metrics_need_neither_torch_nor_lightning():
    script = "import sys, tasks.classification.metrics; print({'torch', 'lightning'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[3]
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert printed.stdout == "set()\n"


@pytest.mark.parametrize("block", [2**21, 65])  # 65: blocks of a few images
def test_a_teacher_beside_its_student(block, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", block)
    student, labels = case(300, range(7), 7)
    teacher, _ = case(300, range(7), 7, seed=1)
    figures = compare(student, teacher, labels)
    assert figures["teacher_top1"] == evaluate(teacher, labels).figures["top1"]
    assert figures["teacher_agreement"] == accuracy_score(teacher.argmax(1), student.argmax(1))
    p, q = softmax(teacher), softmax(student)
    assert figures["teacher_kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean())


def test_a_teachers_figures_by_hand():
    """It says (1, 3) / 4 and the student (1, 1) / 2; of equal logits the lower class is the answer."""
    figures = compare(np.zeros((2, 2)), np.log([[1.0, 3], [3, 1]]), np.array([1, 1]))
    kl = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert figures == pytest.approx({"teacher_top1": 0.5, "teacher_agreement": 0.5, "teacher_kl": kl})
    with pytest.raises(InputError, match=r"logits\[1\] hold a value that is not finite"):
        compare(np.zeros((2, 2)), np.array([[0, 1], [np.nan, 0]]), np.array([0, 0]))
