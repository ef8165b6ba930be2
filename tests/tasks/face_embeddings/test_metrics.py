import itertools

import numpy as np
import pytest

from data.face_pairs import Pairs
from tasks.face_embeddings.metrics import evaluate, pairs_among, unit, verify


def embeddings(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def some_pairs(rows, count, folds=2, seed=0):
    rng = np.random.default_rng(seed)
    two = np.array([rng.choice(rows, 2, replace=False) for _ in range(count)])
    return Pairs(two[:, 0], two[:, 1], np.arange(count) % 3 == 0, np.arange(count) % folds)


def test_distances_are_squared_of_unit_vectors_and_so_twice_one_less_the_cosine():
    values, pairs = embeddings(12, 5), some_pairs(12, 30)
    found = verify(values, pairs).distances
    for k, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        a, b = values[i].astype(float), values[j].astype(float)
        cosine = a @ b / np.sqrt(a @ a * (b @ b))
        assert found[k] == pytest.approx(2 - 2 * cosine, abs=1e-12)
    np.testing.assert_allclose(verify(7 * values, pairs).distances, found, rtol=1e-6)  # length says nothing


def test_worked_by_hand():
    """Two people on the axes: pairs of one at distance 0, of two at 2; the teacher has two of its images swapped."""
    student = np.array([[2.0, 0], [5, 0], [0, 1], [0, 3]])
    teacher = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    pairs = Pairs(
        np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3]), np.array([True, True, False, False]), np.array([0, 1, 0, 1])
    )
    projected = np.array([[1.0, 0, 0], [3, 4, 0], [0, 1, 0], [0, 0, 1]])
    scores = evaluate(student, pairs, projected, teacher)
    figures = scores.figures
    assert scores.student.distances.tolist() == [0, 0, 2, 2]
    assert scores.teacher.distances.tolist() == [2, 2, 2, 2]
    assert (figures["verification_accuracy"], figures["verification_accuracy_std"], figures["auc"]) == (1, 0, 1)
    assert figures["tar_at_far_0.001"] == 1
    assert (figures["teacher_verification_accuracy"], figures["teacher_auc"]) == (0.5, 0.5)
    assert scores.student.best_threshold == 1
    assert scores.cosines == pytest.approx([1, 0.8, 1, 0])
    assert figures["cosine"] == pytest.approx(0.7)
    assert figures["squared_distance"] == pytest.approx(0.6)
    assert figures["teacher_spread"] == pytest.approx((4 * 2 + 2 * 0) / 6)
    assert (figures["images"], figures["pairs"]) == (4, 4)


def test_the_spread_is_the_mean_over_all_pairs_of_images():
    values = embeddings(40, 6) + 1
    directions = unit(values)
    expected = np.mean([np.square(a - b).sum() for a, b in itertools.combinations(directions, 2)])
    assert evaluate(values, None, values, values).figures["teacher_spread"] == pytest.approx(expected)


def test_what_is_not_there_is_not_measured():
    values = embeddings(6, 3)
    assert evaluate(values, None).figures == {"images": 6}
    one_kind = some_pairs(6, 4)._replace(same=np.ones(4, bool))
    assert evaluate(values, one_kind).figures == {"images": 6, "pairs": 4}
    none = pairs_among(some_pairs(6, 4), np.array([0]))
    assert evaluate(values, none).figures == {"images": 6, "pairs": 0}
    one_fold = evaluate(values, some_pairs(6, 9, folds=1))
    assert np.isnan(one_fold.figures["verification_accuracy"])
    assert one_fold.figures["auc"] >= 0
    assert (one_fold.student.thresholds == one_fold.student.best_threshold).all()


def test_pairs_of_images_that_could_not_be_read_are_left_out():
    pairs = Pairs(np.array([0, 5, 2, 7]), np.array([1, 2, 7, 0]), np.array([1, 0, 1, 0], bool), np.array([0, 1, 2, 3]))
    left = pairs_among(pairs, np.array([0, 2, 5, 7]))
    assert (left.first.tolist(), left.second.tolist()) == ([2, 1, 3], [1, 3, 0])
    assert (left.same.tolist(), left.folds.tolist()) == ([False, True, False], [1, 2, 3])


def test_an_embedding_of_zeros_stays_and_one_that_is_not_finite_is_named():
    values = embeddings(4, 3)
    values[1] = 0
    pairs = Pairs(np.array([0, 2]), np.array([1, 3]), np.array([True, False]), np.array([0, 1]))
    assert verify(values, pairs).distances[0] == pytest.approx(1)
    values[1] = np.nan
    with pytest.raises(ValueError, match="image 1 is not finite"):
        verify(values, pairs)
