import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score

from backbone.errors import InputError
from tasks.face_attributes.metrics import average_precision, by_subgroup, choose_thresholds, evaluate, probabilities


def case(num_images, num_attributes, seed=0, unknown=0.2, ties=False):
    """Logits that favour the targets, of attributes of unequal frequency; some targets are unknown."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_images, num_attributes)) < rng.uniform(0.05, 0.95, num_attributes)).astype(np.int8)
    logits = rng.normal(size=targets.shape) * 2 + 2 * targets - 1
    targets[rng.random(targets.shape) < unknown] = -1
    return (logits.round() if ties else logits).astype(np.float32), targets


def measurable(targets):
    return np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("num_images", "num_attributes"), [(400, 7), (37, 40), (5, 30), (2, 9), (1, 4)])
def test_every_figure_equals_scikit_learns(num_images, num_attributes, ties):
    for seed in range(4):
        logits, targets = case(num_images, num_attributes, seed, ties=ties)
        targets[:, 0] = -1  # nothing known
        targets[:, 1] = 0  # no positive
        targets[:, 2] = 1  # no negative
        thresholds = np.random.default_rng(seed).uniform(0.2, 0.8, num_attributes)
        scores = evaluate(logits, targets, thresholds)
        chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
        kept = measurable(targets)
        for k in range(num_attributes):
            known = targets[:, k] >= 0
            truth, said = targets[known, k], chances[known, k] >= thresholds[k]
            assert (scores.known[k], scores.positive[k]) == (known.sum(), (truth == 1).sum())
            if known.any():
                assert scores.accuracy[k] == pytest.approx(accuracy_score(truth, said))
                assert scores.base_rate[k] == pytest.approx(truth.mean())
            if k in kept:
                assert scores.ap[k] == pytest.approx(average_precision_score(truth, logits[known, k]), rel=1e-12)
                assert scores.balanced_accuracy[k] == pytest.approx(balanced_accuracy_score(truth, said))
                assert scores.f1[k] == pytest.approx(f1_score(truth, said))
            else:
                assert np.isnan([scores.ap[k], scores.balanced_accuracy[k], scores.f1[k]]).all()
        assert scores.figures["attributes_left_out"] == num_attributes - len(kept)
        assert scores.figures["images"] == num_images
        for figure, column in (
            ("map", "ap"),
            *((name, name) for name in ("f1", "accuracy", "ece", "balanced_accuracy")),
        ):
            expected = getattr(scores, column)[kept].mean() if len(kept) else np.nan
            assert scores.figures[figure] == pytest.approx(expected, nan_ok=True)


def test_average_precision_worked_by_hand_and_the_order_of_equals_does_not_matter():
    # from the top: yes; then two level, one of them yes; then no; then yes.
    # precision 1/1 for the first, 2/3 for the second (both of its level are said), 3/5 for the third
    scores, truth = np.float32([9, 5, 5, 2, 1]), np.array([True, True, False, False, True])
    expected = (1 + 2 / 3 + 3 / 5) / 3
    assert average_precision(scores, truth) == pytest.approx(expected)
    swapped = [0, 2, 1, 3, 4]
    assert average_precision(scores[swapped], truth[swapped]) == average_precision(scores, truth)
    # all level: the base rate, whatever comes first
    assert average_precision(np.zeros(8, np.float32), np.arange(8) < 2) == 0.25
    assert np.isnan(average_precision(scores, np.ones(5, bool)))
    assert np.isnan(average_precision(scores, np.zeros(5, bool)))


def test_an_unknown_target_counts_nowhere():
    logits, targets = case(200, 3, unknown=0.3)
    changed = np.where(targets == -1, 50 * np.sign(logits), logits)
    assert evaluate(changed, targets).figures == evaluate(logits, targets).figures
    one = evaluate(logits[targets[:, 1] >= 0], targets[targets[:, 1] >= 0])
    whole = evaluate(logits, targets)
    assert [one.ap[1], one.f1[1], one.ece[1]] == [whole.ap[1], whole.f1[1], whole.ece[1]]


def test_the_calibration_error_is_that_of_a_plain_loop_and_zero_for_true_odds():
    logits, targets = case(3000, 2, seed=3, unknown=0)
    for k in range(2):
        chance, truth = probabilities(logits[:, k]), targets[:, k]
        error = 0.0
        for low, high in pairwise(np.linspace(0, 1, 16)):
            inside = (chance > low) & (chance <= high)
            if inside.any():
                error += abs(chance[inside].mean() - truth[inside].mean()) * inside.mean()
        assert evaluate(logits, targets).ece[k] == pytest.approx(error, abs=1e-12)
    # of 10 that get 0.3 three are positive, of 10 that get 0.8 eight
    true_odds = np.log(np.repeat([[3 / 7], [4.0]], 10, axis=0)).astype(np.float32)
    truth = np.int8([1] * 3 + [0] * 7 + [1] * 8 + [0] * 2)[:, None]
    assert evaluate(true_odds, truth).figures["ece"] == pytest.approx(0, abs=1e-7)
    # all sure of yes, one in four right
    assert evaluate(np.full((4, 1), 99, np.float32), np.int8([[1], [0], [0], [0]])).figures["ece"] == 0.75


def test_large_logits_neither_overflow_nor_lose_their_order():
    with np.errstate(all="raise", under="ignore"):
        logits = np.float32([[3e38, -3e38], [40, -40], [39, -41], [-3e38, 3e38]])  # 39 and 40 have probability 1
        scores = evaluate(logits, np.int8([[1, 0], [1, 1], [0, 0], [0, 0]]), teacher=-logits)
    assert scores.ap.tolist() == [1.0, 0.5]
    assert scores.figures["teacher_agreement"] == 0


# -------------------------------------------------------------------------------------------------------- the teacher


def test_the_teacher_is_scored_by_the_same_code_and_compared_on_all_images():
    logits, targets = case(300, 6, unknown=0.5)
    teacher, _ = case(300, 6, seed=9)
    thresholds = np.linspace(0.2, 0.7, 6)
    scores = evaluate(logits, targets, thresholds, teacher)
    alone = evaluate(teacher, targets, thresholds)  # the student's thresholds
    for name in ("map", "balanced_accuracy", "f1", "accuracy", "ece"):
        assert scores.figures[f"teacher_{name}"] == alone.figures[name] != scores.figures[name]
    for name in ("ap", "balanced_accuracy", "f1", "accuracy", "ece"):
        np.testing.assert_array_equal(getattr(scores, f"teacher_{name}"), getattr(alone, name))
    p, q = (1 / (1 + np.exp(-one.astype(np.float64))) for one in (teacher, logits))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(scores.teacher_kl, kl.mean(axis=0), rtol=1e-9)
    assert scores.figures["teacher_kl"] == pytest.approx(kl.mean())
    agreement = (p >= thresholds) == (q >= thresholds)
    assert scores.figures["teacher_agreement"] == pytest.approx(agreement.mean())
    # neither needs labels
    unlabelled = evaluate(logits, np.full_like(targets, -1), thresholds, teacher).figures
    assert unlabelled["teacher_kl"] == scores.figures["teacher_kl"]
    assert unlabelled["attributes_left_out"] == 6
    assert np.isnan(unlabelled["map"])
    assert "teacher_map" not in evaluate(logits, targets).figures


def test_the_divergence_worked_by_hand():
    # a teacher of 3/4 and a student of 1/2: 3/4 ln(3/2) + 1/4 ln(1/2)
    scores = evaluate(np.zeros((2, 1), np.float32), np.int8([[1], [0]]), teacher=np.log(np.float32([[3], [3]])))
    assert scores.figures["teacher_kl"] == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), rel=1e-6)
    # sure of yes, and the student sure of no by 1000: 1000 nats
    sure = np.full((2, 1), 1000, np.float32)
    assert evaluate(-sure, np.int8([[1], [0]]), teacher=sure).figures["teacher_kl"] == pytest.approx(1000)


def test_a_student_that_is_its_teacher_agrees_with_it():
    logits, targets = case(300, 5)
    logits *= 50
    figures = evaluate(logits, targets, choose_thresholds(logits, targets), logits).figures
    assert (figures["teacher_agreement"], figures["teacher_kl"]) == (1, 0)
    assert figures["teacher_map"] == figures["map"]


# -------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [1, 40])  # 40: many probabilities are 1
def test_no_other_threshold_has_a_higher_f1(ties, scale):
    logits, targets = case(40, 6, seed=2, ties=ties)
    logits *= scale
    thresholds = choose_thresholds(logits, targets)
    reached = evaluate(logits, targets, thresholds).f1
    for k in measurable(targets):
        known = targets[:, k] >= 0
        chance = probabilities(logits[known, k])
        tried = [f1_score(targets[known, k], chance >= limit) for limit in [0, *chance]]
        assert reached[k] == pytest.approx(max(tried), abs=1e-12)


def test_a_threshold_lies_halfway_in_logits_and_nearest_to_a_half_among_equals():
    apart = np.float32([[3], [2], [-1], [-4]])
    truth = np.int8([[1], [1], [0], [0]])
    assert choose_thresholds(apart, truth) == pytest.approx(1 / (1 + np.exp(-0.5)))
    # yes, no, no, yes, no: F1 of the first alone is 2 * 1 / (1 + 2), of the first four 2 * 2 / (4 + 2), both 2/3;
    # the limit 2.5 is nearer to 0.5 than -3.5
    logits, truth = np.float32([[3], [2], [1], [-3], [-4]]), np.int8([[1], [0], [0], [1], [0]])
    assert choose_thresholds(logits, truth) == pytest.approx(1 / (1 + np.exp(-2.5)))
    assert choose_thresholds(-logits[::-1], truth) == pytest.approx(1 / (1 + np.exp(2.5)))


@pytest.mark.parametrize(
    ("logits", "truth", "best"),
    [
        # above 37 all have probability 1, so the first cannot be told from three noes: all five, 2 * 2 / (5 + 2)
        ([60, 50, 45, 40, -1], [1, 0, 0, 0, 1], 4 / 7),
        # 1 and the float before it, with halfway between their logits rounded to the lower
        ([36.8, 36, -1], [1, 0, 0], 1.0),
    ],
)
def test_where_probabilities_run_into_one_a_threshold_still_does_what_it_was_chosen_for(logits, truth, best):
    logits, targets = np.float32(logits)[:, None], np.int8(truth)[:, None]
    assert evaluate(logits, targets, choose_thresholds(logits, targets)).f1 == pytest.approx(best)


def test_all_may_get_a_yes_and_an_attribute_without_both_kinds_keeps_a_half():
    logits = np.float32([[0, 1, 1, 1], [-2, 2, 2, 2]])
    targets = np.int8([[0, 0, 1, -1], [1, 0, 1, -1]])
    assert choose_thresholds(logits, targets) == pytest.approx([1 / (1 + np.exp(2)), 0.5, 0.5, 0.5])
    assert choose_thresholds(logits[:0], targets[:0]).tolist() == [0.5] * 4


def test_twenty_thousand_images_are_scored_in_two_seconds():
    logits, targets = case(20_000, 40)
    began = time.perf_counter()
    evaluate(logits, targets, choose_thresholds(logits, targets), logits + 1)
    assert time.perf_counter() - began < 2


# --------------------------------------------------------------------------------------------------------- subgroups


def test_subgroups_are_scored_over_the_attributes_that_both_can_be_judged_by():
    logits, targets = case(500, 5, unknown=0.1)
    group = targets[:, 2]
    targets[group == 0, 4] = 0  # a beard, say: nobody without the attribute has one
    thresholds = np.linspace(0.3, 0.6, 5)
    found = by_subgroup(logits, targets, group, thresholds)
    assert list(found) == ["with", "without"]
    for figures, rows in zip(found.values(), (group == 1, group == 0), strict=True):
        alone = evaluate(logits[rows][:, [0, 1, 3]], targets[rows][:, [0, 1, 3]], thresholds[[0, 1, 3]]).figures
        assert figures == alone | {"attributes_left_out": 2}
    assert found["with"]["images"] + found["without"]["images"] == (group >= 0).sum()


def test_a_group_without_images_has_no_figures():
    logits, targets = case(20, 3, unknown=0)
    found = by_subgroup(logits, targets, np.ones(20, np.int8))
    assert found["without"]["images"] == 0
    assert np.isnan(found["without"]["map"])
    assert found["with"]["attributes_left_out"] == 3


# ------------------------------------------------------------------------------------------------------------ inputs

LOGITS, TARGETS = np.zeros((4, 3), np.float32), np.int8([[1, 0, 1]] * 4)


def changed(array, position, value):
    array = array.copy()
    array[position] = value
    return array


@pytest.mark.parametrize("function", [evaluate, choose_thresholds])
@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (changed(LOGITS, (2, 1), np.nan), TARGETS, r"^logits\[2\] hold a value that is not finite \(1 of 4 images"),
        (changed(LOGITS.astype(float), (3, 0), 1e300), TARGETS, r"^logits\[3\]"),  # more than float32 holds
        (LOGITS, changed(TARGETS, (1, 2), 2), r"targets\[1, 2\] is 2; a target is 1"),
        (LOGITS, changed(TARGETS, (3, 0), -2), r"targets\[3, 0\] is -2"),
        (LOGITS, TARGETS[:, :2], r"targets have shape \(4, 2\) .*logits shape \(4, 3\)"),
        (LOGITS, TARGETS.astype(float), "targets have .* float64"),
        (LOGITS[0], TARGETS, r"logits have shape \(3,\)"),
        (LOGITS[:, :0], TARGETS[:, :0], r"logits have shape \(4, 0\)"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_its_position(function, logits, targets, message):
    with pytest.raises(InputError, match=message):
        function(logits, targets)


@pytest.mark.parametrize("thresholds", [[0.5, 0.5], [0.5, 1.2, 0.5], [0.5, np.nan, 0.5], [-0.1, 0.5, 0.5]])
def test_thresholds_that_are_none_are_refused(thresholds):
    with pytest.raises(InputError, match=r"thresholds are .*; give 3 probabilities"):
        evaluate(LOGITS, TARGETS, np.array(thresholds))


def test_a_teacher_and_a_group_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"^teacher\[1\] hold a value that is not finite"):
        evaluate(LOGITS, TARGETS, teacher=changed(LOGITS, (1, 0), np.inf))
    with pytest.raises(InputError, match=r"targets have shape \(4, 3\) .*teacher shape \(4, 2\)"):
        evaluate(LOGITS, TARGETS, teacher=LOGITS[:, :2])
    with pytest.raises(InputError, match=r"group has shape \(3,\); give 4"):
        by_subgroup(LOGITS, TARGETS, TARGETS[:3, 0])


def test_the_metrics_need_neither_torch_nor_lightning():
    script = (
        "import sys, tasks.face_attributes.metrics, tasks.face_attributes.report;"
        "print({'torch', 'lightning', 'scipy', 'matplotlib.figure'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[3]
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert printed.stdout == "set()\n"
