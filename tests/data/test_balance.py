from pathlib import Path

import numpy as np
import pytest
from helpers import one_sentence
from sklearn.utils.class_weight import compute_class_weight

from data.balance import balanced_draws, balanced_weights, loss_weights
from data.records import Boxes, Records


def of_labels(labels, classes=("bar", "cross", "disc")):
    files = np.array([b"%d.png" % i for i in range(len(labels))])
    return Records(Path("images"), files, {"labels": np.asarray(labels)}, classes=classes)


def of_boxes(images, classes=("bar", "cross", "disc")):
    """Images with boxes of these labels; of -1 is a crowd of class 2, which is not trained on."""
    labels = np.array([label for image in images for label in image], np.int64)
    offsets = np.cumsum([0, *map(len, images)])
    boxes = Boxes(
        offsets, np.tile([1.0, 1, 8, 8], (len(labels), 1)), labels % 3, labels < 0, np.full(len(labels), 64.0)
    )
    files = np.array([b"%d.png" % i for i in range(len(images))])
    return Records(Path("images"), files, {"sizes": np.full((len(images), 2), 20)}, boxes, classes)


def test_weights_are_scikit_learns_and_a_class_without_examples_weighs_1():
    for seed in range(5):
        labels = np.random.default_rng(seed).choice([0, 1, 3, 4], p=[0.9, 0.06, 0.03, 0.01], size=1000)
        weights = balanced_weights(np.bincount(labels, minlength=6))
        there = np.unique(labels)
        theirs = compute_class_weight("balanced", classes=there, y=labels)
        assert weights[there] == pytest.approx(theirs, rel=1e-12)
        assert weights[[2, 5]].tolist() == [1, 1]
        assert weights[labels].mean() == pytest.approx(1)
    assert balanced_weights(np.array([1000, 10])).tolist() == [0.505, 50.5]
    assert balanced_weights(np.zeros(2, int)).tolist() == [1, 1]


def test_whole_images_of_each_class_are_drawn_equally_often():
    labels = np.repeat([0, 1, 2], [90, 2, 8])
    draws = balanced_draws(of_labels(labels))
    assert [draws[labels == label].sum() for label in range(3)] == pytest.approx([100 / 3] * 3)
    assert np.unique(draws) == pytest.approx([100 / 3 / 90, 100 / 3 / 8, 100 / 3 / 2])
    assert balanced_draws(of_labels([0, 0, 2, 2])).tolist() == [1] * 4  # one class has no image


def test_images_with_boxes_are_drawn_by_their_rarest_class():
    images = [[0, 0, 0], [0], [0, 1], [0, 2, 0], [], [0], [2], [0], [0], [-1, 0]] + [[0]] * 10
    draws = balanced_draws(of_boxes(images))
    repeats = []
    for image in images:
        shown_in = [sum(label in other for other in images) for label in set(image) - {-1}]
        repeats.append(max([1, *(np.sqrt(18 / count) for count in shown_in)]))  # class 0 is in 18 images
    assert draws == pytest.approx(np.array(repeats) / np.mean(repeats))
    assert draws[2] / draws[0] == pytest.approx(np.sqrt(18))
    assert balanced_draws(of_boxes([[], []])).tolist() == [1, 1]


@pytest.mark.parametrize("of", [of_labels, lambda labels: of_boxes([[label] for label in labels])])
def test_a_fit_on_classes_far_apart_names_the_two_remedies_once(of, capsys):
    far = of([0] * 63 + [1] * 3)
    assert loss_weights(far, weighted=False, sampled=False) is None
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    for part in ("bar has 63", "cross has 3", "--model.class_weights balanced", "--data.balanced true"):
        assert part in line
    assert loss_weights(far, weighted=False, sampled=True) is None
    assert loss_weights(of([0] * 60 + [1] * 3), weighted=False, sampled=False) is None
    assert loss_weights(far, weighted=True, sampled=False).tolist() == [66 / 126, 11, 1]
    assert capsys.readouterr().out == ""
    with one_sentence("--model.class_weights balanced and --data.balanced true"):
        loss_weights(far, weighted=True, sampled=True)
