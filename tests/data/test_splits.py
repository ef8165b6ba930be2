from pathlib import Path

import numpy as np
import pytest

from backbone import InputError
from data.records import SPLITS, UNSPLIT, Records
from data.splits import assign_splits, draw_numbers, set_aside, split_named

VAL, TEST = SPLITS.index("val"), SPLITS.index("test")


def records(names, **columns):
    return Records(Path("photos"), np.array(names, np.bytes_), columns)


def drawn(names, strata=None, val=0.2, test=0.1, seed=0, **columns):
    options = {"val_fraction": val, "test_fraction": test, "seed": seed, "source": "photos"}
    return assign_splits(records(names, **columns), strata=strata, **options)["split"]


NAMES = [f"{i:04}.jpg" for i in range(2000)]


def test_the_parts_are_as_large_as_asked_and_depend_on_the_seed():
    split = drawn(NAMES)
    shares = np.bincount(split, minlength=3) / len(NAMES)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.03)  # three standard deviations are 0.027
    assert (drawn(NAMES) == split).all()
    assert (drawn(NAMES, seed=1) != split).mean() > 0.3


@pytest.mark.parametrize("strata", [False, True])
def test_images_that_are_added_leave_the_others_where_they_are(strata):
    labels = np.arange(len(NAMES)) % 7
    before = drawn(NAMES, labels if strata else None)
    names = ["new.jpg", *NAMES, *(f"more/{i}.jpg" for i in range(300))]
    labels = np.concatenate([[3], labels, np.arange(300) % 9])
    after = drawn(names, labels if strata else None)
    assert (after[1 : 1 + len(NAMES)] == before).all()
    order = np.random.default_rng(0).permutation(len(NAMES))
    shuffled = drawn([NAMES[i] for i in order], (np.arange(len(NAMES)) % 7)[order] if strata else None)
    assert (shuffled == before[order]).all()


def test_a_group_is_in_one_split():
    group = np.array([f"person {i % 60}" for i in range(len(NAMES))], np.bytes_)
    split = drawn(NAMES, group=group)
    assert {len(set(split[group == name])) for name in np.unique(group)} == {1}
    assert set(split.tolist()) == {0, VAL, TEST}


def test_every_class_of_two_images_or_more_has_one_on_each_side():
    labels = np.repeat(np.arange(40), 3)
    split = drawn(NAMES[:120], labels, val=0.05, test=0.0)
    counts = np.array([[(split[labels == k] == part).sum() for part in (0, VAL)] for k in range(40)])
    assert counts.min() >= 1
    single = drawn(["a.jpg", "b.jpg", "c.jpg"], np.array([0, 0, 1]), val=0.5, test=0.0)
    assert single[2] == 0  # a class with one image is trained on


def test_what_is_known_stays_and_only_what_lacks_is_drawn():
    given = np.full(len(NAMES), UNSPLIT, np.int8)
    given[:50] = TEST
    split = drawn(NAMES, split=given)
    assert (split == TEST).tolist() == [True] * 50 + [False] * 1950
    assert 300 < (split == VAL).sum() < 480
    given[50:60] = VAL
    assert (drawn(NAMES, split=given) == np.where(given == UNSPLIT, 0, given)).all()


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["a.jpg"], {}),
        (["a.jpg", "b.jpg"], {"split": np.array([VAL, TEST], np.int8)}),
        (["a.jpg", "b.jpg", "c.jpg"], {"group": np.array([b"x"] * 3)}),
    ],
)
def test_too_few_to_leave_a_split_and_something_to_train_on_are_refused(names, columns):
    with pytest.raises(InputError, match="photos"):
        drawn(names, **columns)


def test_numbers_are_spread_evenly_and_known_for_a_name():
    numbers = draw_numbers(np.array(NAMES, np.bytes_), seed=5)
    assert np.histogram(numbers, 10, (0, 1))[0].tolist() == pytest.approx([200] * 10, abs=50)
    wider = np.array([*NAMES, "a much longer name than the others.jpg"], np.bytes_)
    assert (draw_numbers(wider, seed=5)[:-1] == numbers).all()  # whatever the longest name is


@pytest.mark.parametrize(
    ("numbers", "fractions", "ends"),
    [
        ([0.05, 0.15, 0.5, 0.9], [0.1, 0.1], [1, 2]),
        ([0.5, 0.6, 0.7], [0.1, 0.1], [1, 2]),  # each part has one all the same
        ([0.01, 0.02, 0.03], [0.5], [2]),  # and something is left
        ([0.5, 0.6], [0.1, 0.1], [1, 1]),  # too few for both: the first part, and one to train on
        ([0.5], [0.1], [0]),
    ],
)
def test_set_aside_worked_by_hand(numbers, fractions, ends):
    assert set_aside(np.array(numbers), fractions) == ends


def test_split_names_are_known_in_any_case():
    names = {"Training": "train", "TRAIN": "train", " valid ": "val", "Dev": "val", "eval": "val", "Testing": "test"}
    assert {name: split_named(name) for name in names} == names
    assert split_named("trainset") is None
