from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import auc

from tasks.face_embeddings.verification import (
    best_threshold,
    roc,
    tar_at_far,
    thresholds_by_fold,
    verification_accuracy,
)


def case(num_folds, per_fold, seed=0, ties=False):
    """Pairs of one person lie nearer than pairs of two; with `ties` many are equally far."""
    rng = np.random.default_rng(seed)
    folds = np.repeat(np.arange(num_folds), per_fold)
    same = rng.random(len(folds)) < 0.5
    distances = rng.normal(np.where(same, 1.0, 2.0), 0.6)
    return distances.round(1 if ties else 15), same, folds


# ---------------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("num_folds", "per_fold"), [(10, 30), (3, 9), (2, 1)])
def test_accuracy_is_that_of_a_loop_over_folds_and_thresholds(num_folds, per_fold, ties):
    for seed in range(5):
        distances, same, folds = case(num_folds, per_fold, seed, ties)
        shares = []
        for fold in range(num_folds):
            train, test = folds != fold, folds == fold
            values = sorted(set(distances[train]))
            tried = [-np.inf, *((a + b) / 2 for a, b in pairwise(values)), np.inf]
            right = [((distances[train] <= limit) == same[train]).sum() for limit in tried]
            limit = tried[right.index(max(right))]  # the first of equals
            shares.append(((distances[test] <= limit) == same[test]).mean())
        mean = sum(shares) / num_folds
        deviation = (sum((share - mean) ** 2 for share in shares) / (num_folds - 1)) ** 0.5
        assert verification_accuracy(distances, same, folds) == pytest.approx((mean, deviation))


def test_accuracy_worked_by_hand():
    # Fold 0 is best told by fold 1's threshold 2.5 (1 | 4): its own 2 and 3 lie on the right sides. Fold 1 by fold 0's
    # 2.5 too: 1 and 4 right; its third pair, of one person and 9 apart, is lost whatever the threshold.
    distances, same = np.array([2.0, 3, 1, 4, 9]), np.array([True, False, True, False, True])
    mean, deviation = verification_accuracy(distances, same, np.array([0, 0, 1, 1, 1]))
    assert mean == pytest.approx((1 + 2 / 3) / 2)
    assert deviation == pytest.approx((1 / 3) / 2**0.5)


def test_the_held_out_fold_does_not_choose_its_threshold():
    # Fold 0 has its one person farther apart than its two people. Its best is to accept none, which gets one half of
    # fold 1; fold 1's threshold 3 is wrong for both pairs of fold 0.
    distances, same = np.array([5.0, 1, 1, 5]), np.array([True, False, True, False])
    mean, deviation = verification_accuracy(distances, same, np.array([0, 0, 1, 1]))
    assert (mean, deviation) == pytest.approx((0.25, 0.5 / 2**0.5))


def test_a_fold_has_the_threshold_that_is_best_on_all_the_others():
    distances, same, folds = case(4, 25, seed=2)
    limits = thresholds_by_fold(distances, same, folds)
    for fold in range(4):
        others = folds != fold
        assert set(limits[~others]) == {best_threshold(distances[others], same[others])}
    assert len(set(limits)) > 1
    assert best_threshold(np.array([1.0, 2]), np.array([False, True])) == -np.inf
    assert best_threshold(np.array([1.0, 2]), np.array([True, True])) == np.inf


def test_equal_embeddings_are_told_apart_by_nothing():
    distances, same, folds = np.zeros(40), np.tile([True, False], 20), np.repeat(np.arange(10), 4)
    assert verification_accuracy(distances, same, folds) == (0.5, 0)
    assert [rates.tolist() for rates in roc(distances, same)] == [[0, 1], [0, 1]]
    assert tar_at_far(distances, same) == 0


def test_neighbouring_floats_are_still_divided():
    low = np.nextafter(1.0, 2)  # the half of it and the next is rounded up, to the even one
    high = np.nextafter(low, 2)
    distances, same = np.array([low, high] * 2), np.array([True, False] * 2)
    assert verification_accuracy(distances, same, np.array([0, 0, 1, 1])) == (1, 0)


# --------------------------------------------------------------------------------------------------------------- roc


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_has_what_each_distance_accepts_and_its_area_how_often_one_person_is_nearer(ties):
    distances, same, _ = case(1, 200, seed=4, ties=ties)
    accepted = [distances <= limit for limit in (-np.inf, *sorted(set(distances)))]
    false_accepts, true_accepts = roc(distances, same)
    assert false_accepts == pytest.approx([a[~same].mean() for a in accepted])
    assert true_accepts == pytest.approx([a[same].mean() for a in accepted])
    one, two = distances[same][:, None], distances[~same]
    expected = (one < two).mean() + (one == two).mean() / 2
    assert auc(false_accepts, true_accepts) == pytest.approx(expected)


@pytest.mark.parametrize("far", [0.0, 0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_true_accepts_at_a_rate_of_false_ones_are_those_of_a_loop(far, ties):
    distances, same, _ = case(1, 1500, seed=5, ties=ties)
    best = 0.0
    for limit in set(distances):
        accepted = distances <= limit
        if accepted[~same].mean() <= far:
            best = max(best, accepted[same].mean())
    assert tar_at_far(distances, same, far) == best
