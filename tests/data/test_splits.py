from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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
    ("names", "columns", "split"),
    [
        (["a.jpg"], {}, [UNSPLIT]),
        (["a.jpg", "b.jpg", "c.jpg"], {"group": np.array([b"x"] * 3)}, [UNSPLIT] * 3),
        (["a.jpg", "b.jpg"], {"split": np.array([VAL, TEST], np.int8)}, [VAL, TEST]),
        (["a.jpg", "b.jpg"], {"split": np.array([UNSPLIT, TEST], np.int8)}, [UNSPLIT, TEST]),
        (["a.jpg"], {"split": np.array([0], np.int8)}, [0]),
        (["a.jpg", "b.jpg"], {"group": np.array([b"x", b"y"])}, None),  # none is left to test on
    ],
)
def test_of_too_few_to_leave_a_split_and_something_to_train_on_none_is_drawn(names, columns, split):
    found = drawn(names, **columns).tolist()
    assert found == split if split else sorted(found) == [0, VAL]


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


def written(folder, contents):
    """Records of files of these contents, by name."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return Records(folder, np.array(list(contents), np.bytes_))


@pytest.mark.parametrize("strata", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_files_of_the_same_bytes_are_in_one_split_and_counted(tmp_path, seed, strata):
    contents = {f"{i}.png": b"%09d" % (i // 2 if i < 20 else i) for i in range(60)}  # 10 pairs, all of one size
    images = written(tmp_path, contents)
    options = {"val_fraction": 0.3, "test_fraction": 0.2, "seed": seed, "source": "photos"}
    assigned = assign_splits(images, **options, strata=np.arange(60) // 20 if strata else None)
    split = assigned["split"]
    assert (split[:20:2] == split[1:20:2]).all()
    assert set(split.tolist()) == {0, VAL, TEST}
    assert [note[:10] for note in assigned.notes if "byte" in note] == ["10 of the "]
    apart = assign_splits(images, **options, find_copies=False)["split"]
    assert (apart[20:] == split[20:]).all() or strata  # what is no copy stays where it was
    assert not [note for note in assign_splits(images.take(np.arange(0, 60, 2)), **options).notes if "byte" in note]


def test_copies_join_the_groups_that_they_are_of(tmp_path):
    contents = {f"{i}.png": b"%09d" % (0 if i in (0, 39) else i + 1) for i in range(40)}
    group = np.array([b"person %d" % (i // 4) for i in range(40)])
    images = written(tmp_path, contents).with_columns(group=group)
    for seed in range(10):
        split = assign_splits(images, val_fraction=0.3, test_fraction=0.2, seed=seed, source="photos")["split"]
        assert len(set(split[[0, 1, 2, 3, 36, 37, 38, 39]].tolist())) == 1


def test_where_all_are_copies_files_are_drawn_all_the_same(tmp_path):
    images = written(tmp_path, {f"{i}.png": b"same" for i in range(8)})
    assigned = assign_splits(images, val_fraction=0.3, test_fraction=0, seed=0, source="photos")
    assert set(assigned["split"].tolist()) == {0, VAL}
    assert "flatter" in " ".join(assigned.notes)


@pytest.mark.parametrize("given", [False, True])
def test_copies_under_two_labels_are_counted_and_used(tmp_path, given):
    contents = [b"one", b"two", b"six", b"one", b"two", b"ten", b"old", b"new"]  # one under two labels, two under one
    images = written(tmp_path, {f"{i}.png": content for i, content in enumerate(contents)})
    columns = {"labels": np.array([0, 0, 0, 1, 0, 1, 1, 1]), **({"split": np.int8([0] * 6 + [1, 2])} if given else {})}
    assigned = assign_splits(
        replace(images, columns=columns, classes=("cat", "dog")),
        val_fraction=0.2,
        test_fraction=0.2,
        seed=0,
        source="x",
    )
    assert len(assigned) == 8
    copies, odd = (note for note in assigned.notes if "byte" in note)
    assert copies.startswith("2 of the files of x are copies")
    assert odd.startswith("2 of the files of x")
    assert "0.png (cat) and 3.png (dog)" in odd
    alike = replace(images, columns={**columns, "labels": np.zeros(8, np.int64)})
    notes = assign_splits(alike, val_fraction=0.2, test_fraction=0.2, seed=0, source="x").notes
    assert len([note for note in notes if "byte" in note]) == 1


def test_a_file_that_is_listed_under_several_groups_is_in_one_split():
    names = [f"{i % 10}.jpg" for i in range(40)]
    for seed in range(5):
        split = drawn(names, group=np.array([b"id %d" % i for i in range(40)]), seed=seed)
        assert all(len(set(split[i::10].tolist())) == 1 for i in range(10))
