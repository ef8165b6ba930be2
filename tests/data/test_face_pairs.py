import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LFW_LINES, data_module, lfw, write_lines

from backbone.errors import InputError
from data.face_pairs import FacePairsDataModule, draw_pairs
from data.readers.lfw_pairs import read_list

module = functools.partial(data_module, FacePairsDataModule)

PEOPLE = {"Ann_Lee": 10, "Bo": 12, "Cy": 3}

# --- pairs that are drawn ---------------------------------------------------------------------------------------------


def crowd(num_people, seed=0, unknown=0, most=6):
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(num_people) * 7, rng.integers(1, most, num_people))
    return rng.permutation(np.concatenate([people, np.full(unknown, -1)]))


def unordered(pairs, rows):
    return {frozenset(two) for two in zip(pairs.first[rows].tolist(), pairs.second[rows].tolist(), strict=True)}


@pytest.mark.parametrize("num_people", [4, 23, 60, 400])
@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_pairs_are_what_they_say_balanced_and_of_folds_that_share_nobody(num_people, seed):
    people = crowd(num_people, seed, unknown=30)
    pairs = draw_pairs(people, seed)
    first, second = people[pairs.first], people[pairs.second]
    assert np.array_equal(first == second, pairs.same)
    assert min(first.min(), second.min()) >= 0  # nobody unknown
    assert len(unordered(pairs, slice(None))) == len(pairs.same)  # none twice, whichever comes first
    assert all(len(two) == 2 for two in unordered(pairs, slice(None)))  # none with itself
    folds = range(pairs.folds.max() + 1)
    assert len(folds) == min(10, num_people // 2, (np.unique(people[people >= 0], return_counts=True)[1] > 1).sum())
    for fold in folds:
        mine = pairs.folds == fold
        assert pairs.same[mine].sum() == (~pairs.same[mine]).sum() > 0
    for one, other in itertools.combinations(folds, 2):
        groups = [set(first[pairs.folds == fold]) | set(second[pairs.folds == fold]) for fold in (one, other)]
        assert not groups[0] & groups[1]


def test_all_pairs_of_one_person_are_taken_where_they_are_few():
    people = crowd(40)
    pairs = draw_pairs(people, 0)
    everyone = {
        frozenset(two) for two in itertools.combinations(range(len(people)), 2) if len(set(people[[*two]])) == 1
    }
    assert unordered(pairs, pairs.same) == everyone


def test_a_large_set_gives_lfws_number_from_all_of_its_people():
    people = crowd(600, most=60)
    pairs = draw_pairs(people, 0)
    assert np.bincount(pairs.folds[pairs.same]).tolist() == np.bincount(pairs.folds[~pairs.same]).tolist() == [300] * 10
    met = np.unique(people[pairs.first[pairs.same]])
    assert np.abs(np.median(met) / np.median(np.unique(people)) - 1) < 0.15  # not the first ones alone
    assert len(met) > 500


def test_the_seed_decides():
    people = crowd(50)
    one, again, other = draw_pairs(people, 3), draw_pairs(people, 3), draw_pairs(people, 4)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert unordered(one, ~one.same) != unordered(other, ~other.same)


@pytest.mark.parametrize("people", [[], [-1] * 9, [1, 1, 2, 2], [1, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1] * 20])
def test_too_few_people_give_no_pairs(people):
    assert draw_pairs(np.array(people, np.int64), 0) is None


# --- loading ----------------------------------------------------------------------------------------------------------


def files(data, split):
    return [data.file(split, i) for i in range(len(data.records(split)))]


def test_a_tree_of_images_is_divided_by_image_and_has_no_pairs(tmp_path, capsys):
    lfw(tmp_path / "faces", PEOPLE)
    data = module(tmp_path / "faces", "fit", "test", val_fraction=0.2, test_fraction=0.2)
    printed = capsys.readouterr().out
    assert "val: nobody knows who is on these images" in printed
    parts = [set(files(data, split)) for split in ("train", "val", "test")]
    assert all(parts)
    assert len(set.union(*parts)) == 25
    assert data.pairs("val") is None
    batch = next(iter(data.train_views(0, [0, 1])))
    assert batch["images"].shape == (2, 3, 32, 32)
    assert batch["images"].dtype == torch.uint8


def celeba(root, write_faces, splits, unlabelled=0):
    """With a person on every two images."""
    write_faces(root, splits, unlabelled=unlabelled)
    rows = [f"{i + 1:06}.jpg {i // 2}" for i in range(sum(splits.values()))]
    (root / "identity_CelebA.txt").write_text("\n".join(rows) + "\n")
    return root


def test_celebas_people_are_paired_within_their_split(write_faces, tmp_path, capsys):
    root = celeba(tmp_path / "faces", write_faces, {"train": 8, "val": 8, "test": 12})
    data = module(root, "fit", "test")
    assert "val: 8 images, 4 pairs of one person and 4 of two in 2 folds, in" in capsys.readouterr().out
    pairs = data.pairs("test")
    assert pairs.same.sum() == 6
    for first, second, same in zip(pairs.first, pairs.second, pairs.same, strict=True):
        numbers = [int(Path(data.file("test", i)).stem) for i in (first, second)]
        assert min(numbers) > 16
        assert (len({(number - 1) // 2 for number in numbers}) == 1) == same


def test_what_is_scored_is_not_trained_on_and_nothing_comes_twice(write_faces, tmp_path, capsys):
    root = celeba(tmp_path / "faces", write_faces, {"train": 8, "val": 8, "test": 8}, unlabelled=5)
    data = module(root, unlabelled=str(root))  # the folder of all, with what is scored
    data.setup("fit")
    assert sorted(Path(name).name for name in files(data, "train")) == sorted(
        [f"{i:06}.jpg" for i in range(1, 9)] + [f"{i:06}.jpg" for i in range(25, 30)]
    )
    assert f"24 of 37 images in {root} are left out, in use already or scored" in capsys.readouterr().out
    assert len(set(data.train_keys())) == 13


def test_the_pairs_of_a_list_are_scored_not_trained_on_and_need_no_root(tmp_path):
    folder = lfw(tmp_path / "lfw", PEOPLE)
    given = {"pairs": str(write_lines(tmp_path / "pairs.txt", LFW_LINES)), "pairs_root": str(folder)}
    data = module(folder, "fit", **given, val_fraction=0.1)
    listed = set(read_list(tmp_path / "pairs.txt")[0])
    assert files(data, "train")
    assert not listed & set(files(data, "train"))
    elsewhere = module(tmp_path / "gone", "test", **given)
    assert set(files(elsewhere, "test")) == listed
    assert len(elsewhere.pairs("test").same) == 8


def test_options_that_cannot_be_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"--data.pairs is p.txt and --data.pairs_root None"):
        module(tmp_path, pairs="p.txt")
    with pytest.raises(InputError, match=r"--data.pairs_root nowhere does not exist"):
        module(tmp_path, pairs="p.txt", pairs_root="nowhere").setup("test")
    with pytest.raises(InputError, match="holds no image"):
        module(tmp_path).setup("fit")
    lfw(tmp_path / "lfw", PEOPLE)
    with pytest.raises(InputError, match=r"--data.unlabelled nowhere does not exist"):
        module(tmp_path / "lfw", unlabelled="nowhere").setup("fit")
    with pytest.raises(InputError, match=r"--data.views is -1"):
        module(tmp_path, views=-1)


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
def test_faces_of_one_split_are_scored_but_not_trained_on(tmp_path, stage, split):
    rows = [f"{i}.png,{i // 2},1,{split}" for i in range(8)]
    write_lines(tmp_path / "attributes.csv", ["path,identity,Smiling,split", *rows])
    for i in range(8):
        (tmp_path / f"{i}.png").touch()
    data = module(tmp_path, stage)
    assert data.pairs(split).same.sum() == 4
    with pytest.raises(InputError, match="no image to train on"):
        module(tmp_path).setup("fit")


def test_nobody_is_left_to_test_on_where_two_people_are_enough_to_train_and_validate(tmp_path):
    rows = [f"{i}.png,{i // 2},1" for i in range(4)]
    write_lines(tmp_path / "attributes.csv", ["path,identity,Smiling", *rows])
    for i in range(4):
        (tmp_path / f"{i}.png").touch()
    data = module(tmp_path, "fit")
    assert (len(data.records("train")), len(data.records("val"))) == (2, 2)
    data.setup("test")
    assert data.file("test", 0) == data.file("val", 0)
