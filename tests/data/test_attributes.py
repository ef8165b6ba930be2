import functools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ATTRIBUTES, data_module, faces, image_file

from backbone import InputError
from data.attributes import AttributesDataModule
from data.images import open_image
from data.module import collate
from data.readers.attribute_csv import UNKNOWN

module = functools.partial(data_module, AttributesDataModule)


def pool(root, count=6):
    for i in range(count):
        image_file(root / f"deep/{i}.png" if i % 2 else root / f"{i}.png", 1000 + i)
    return root


def labels(data, split):
    return data.records(split)["attributes"]


def training_set(root, **settings):
    data = module(root, "fit", **settings)
    return data, data.train_dataloader().dataset


def epoch_of(loader, epoch):
    """The batches of one epoch as (position, view) to pixels, and the positions in their order."""
    loader.sampler.set_epoch(epoch)
    pixels, order = {}, []
    for batch in loader:
        assert not batch["bad"]
        for position, view, image in zip(
            batch["positions"].tolist(), batch["view"].tolist(), batch["images"], strict=True
        ):
            pixels[position, view] = image.numpy().copy()
            order.append(position)
    return pixels, order


# --- images without labels ----------------------------------------------------------------------------------------


def test_the_pool_joins_the_training_set_behind_the_labelled_ones(tmp_path, capsys):
    root, other = faces(tmp_path / "faces"), pool(tmp_path / "pool")
    plain, _ = training_set(root)
    data, dataset = training_set(root, unlabelled=str(other))
    assert "train: 18 images, 6 of them without labels, 3 attributes" in capsys.readouterr().out
    assert len(dataset) == 18
    keys = [f"train/{i:02}.png" for i in range(12)]
    keys += [f"../pool/{name}" for name in ("0.png", "2.png", "4.png", "deep/1.png", "deep/3.png", "deep/5.png")]
    assert data.train_keys() == keys
    assert [data.file("train", i) for i in range(18)] == keys
    assert plain.train_keys() == keys[:12]
    assert np.array_equal(labels(data, "train")[:12], labels(plain, "train")[:12])
    assert (labels(data, "train")[[12, 17]] == UNKNOWN).all()
    for i, key in enumerate(keys):
        assert np.array_equal(data.image("train", i), open_image(root / key))
    assert len(data.val_dataloader().dataset) == 4
    data.need_labels("without a teacher")
    alone, _ = training_set(root, unlabelled=str(other), labelled_fraction=0.0)
    with pytest.raises(
        InputError, match=r"none of the 6 training images has a label, .* needed without a teacher; rai"
    ):
        alone.need_labels("without a teacher")
    assert alone.train_keys() == keys[12:]
    assert (labels(alone, "train")[:6] == UNKNOWN).all()


def test_relative_and_full_paths_name_the_same_files(tmp_path, monkeypatch):
    root, other = faces(tmp_path / "faces"), pool(tmp_path / "faces" / "more")
    monkeypatch.chdir(tmp_path)
    data, dataset = training_set("faces", unlabelled=str(other))
    full, _ = training_set(root, unlabelled="faces/more")
    assert data.train_keys() == full.train_keys()
    assert data.train_keys()[-1] == "more/deep/5.png"
    assert dataset.records.path(17) in dataset.records
    os.chdir("/")
    assert full.image("train", 0).shape == (30, 40, 3)


def test_what_is_scored_or_used_already_is_not_taken_from_the_pool(tmp_path, capsys):
    root = faces(tmp_path)
    pool(root / "more")
    data, dataset = training_set(root, unlabelled=str(root))
    assert len(dataset) == 12 + 6
    said = f"train: 20 of 26 images in {root} are left out, in use already or scored"
    assert said in capsys.readouterr().out
    assert not any(key.startswith(("val/", "test/")) for key in data.train_keys())
    data, dataset = training_set(root, unlabelled=str(root), labelled_fraction=0.25)
    known = (dataset.records["attributes"] != UNKNOWN).any(1)
    assert known.tolist() == [True] * 3 + [False] * 15  # labelled images that are not used are images still
    assert max(Counter(data.train_keys()).values()) == 1


def test_fractions_are_seeded_parts_within_each_other(tmp_path):
    root, other = faces(tmp_path / "faces", train=40), pool(tmp_path / "pool", 20)
    keys = {}
    for fraction in (0.1, 0.25, 0.5, 1.0):
        settings = {"unlabelled": str(other), "labelled_fraction": fraction, "unlabelled_fraction": fraction}
        data, _ = training_set(root, **settings)
        keys[fraction] = data.train_keys()
        labelled = [key for key in keys[fraction] if not key.startswith("..")]
        assert (len(labelled), len(keys[fraction])) == (40 * fraction, 60 * fraction)
        assert sorted(labelled) == labelled
        assert training_set(root, **settings)[0].train_keys() == keys[fraction]
    assert set(keys[0.1]) < set(keys[0.25]) < set(keys[0.5]) < set(keys[1.0])
    assert training_set(root, labelled_fraction=0.5, seed=1)[0].train_keys() != keys[0.5][:20]
    with pytest.raises(InputError, match="leave nothing to train on"):
        training_set(root, unlabelled=str(other), labelled_fraction=0.0, unlabelled_fraction=0.0)
    for name in ("none", "attributes.csv"):
        with pytest.raises(InputError, match=rf"--data.unlabelled .*{name} (is not a folder|does not exist)"):
            training_set(root, unlabelled=str(root / name))


# --- attributes and labels ------------------------------------------------------------------------------------------


def test_attributes_are_chosen_by_name_in_the_order_asked(tmp_path):
    root = faces(tmp_path)
    every = module(root, "fit", "test")
    some = module(root, "fit", "test", attributes=["Wearing_Hat", "Smiling"])
    assert every.categories == dict(enumerate(ATTRIBUTES))
    assert some.categories == {0: "Wearing_Hat", 1: "Smiling"}
    for split in ("train", "val", "test"):
        assert np.array_equal(labels(some, split)[:4], labels(every, split)[:4][:, [2, 0]])
    for asked, message in (
        (["Smiling", "eyeglases"], "'eyeglases', which is not among the data's 3 attributes; the nearest is 'Eyeglass"),
        (["smiling"], "'smiling', .* the nearest is 'Smiling'"),
        (["Smiling", "Smiling"], "'Smiling' more than once"),
    ):
        with pytest.raises(InputError, match=message):
            _ = module(root, attributes=asked).categories


def test_subgroups_may_be_of_attributes_that_are_not_learned(tmp_path):
    root = faces(tmp_path)
    every = module(root, "validate", "test", test_split="all")
    chosen = {"attributes": ["Smiling"], "subgroups": ["Wearing_Hat", "Eyeglasses"]}
    some = module(root, "validate", "test", **chosen, test_split="all")
    assert some.categories == {0: "Smiling"}
    for split, positions in (("val", [3, 0, 1]), ("test", [19, 2, 7, 0])):
        groups, targets = some.subgroups(split), labels(every, split)[positions]
        assert list(groups) == ["Wearing_Hat", "Eyeglasses"]
        assert np.array_equal(np.column_stack(list(groups.values()))[positions], targets[:, [2, 1]])
    assert every.subgroups("test") == {}
    with pytest.raises(InputError, match=r"--data.subgroups has 'Hat', which is not among .* is 'Wearing_Hat'"):
        _ = module(root, attributes=["Smiling"], subgroups=["Hat"]).categories


# --- batches --------------------------------------------------------------------------------------------------------


def test_evaluation_sees_each_image_once_with_its_targets_masked_where_unknown(tmp_path):
    data = module(faces(tmp_path, val=5), "validate", batch_size=3)
    batches = list(data.val_dataloader())
    assert [len(batch["images"]) for batch in batches] == [3, 2]
    assert {name: batches[0][name].dtype for name in ("images", "attributes", "positions", "view")} == {
        "images": torch.uint8,
        "attributes": torch.int8,
        "positions": torch.int64,
        "view": torch.int64,
    }
    targets = torch.cat([batch["attributes"] for batch in batches]).numpy()
    assert np.array_equal(targets, labels(data, "val")[:5])
    assert (targets[:, 1] == UNKNOWN).tolist() == [i % 3 == 1 for i in range(5)]


@pytest.mark.parametrize(
    ("asked", "splits"), [("test", {"test"}), ("val", {"val"}), ("train", {"train"}), ("all", {"train", "val", "test"})]
)
def test_test_split_chooses_what_is_scored(tmp_path, asked, splits):
    data = module(faces(tmp_path), "test", test_split=asked)
    count = len(data.test_dataloader().dataset)
    assert count == sum({"train": 12, "val": 4, "test": 4}[split] for split in splits)
    assert {Path(data.file("test", i)).parent.name for i in range(count)} == splits


def test_fixed_views_take_turns_and_have_the_same_pixels_every_time(tmp_path):
    _, dataset = training_set(faces(tmp_path), views=3)
    for epoch in range(7):
        assert dataset[epoch, 5]["view"] == epoch % 3
        assert np.array_equal(dataset[epoch, 5]["image"], dataset[epoch % 3, 5]["image"])
    assert len({dataset[epoch, 5]["image"].tobytes() for epoch in range(9)}) == 3
    _, dataset = training_set(tmp_path)
    assert len({dataset[epoch, 5]["image"].tobytes() for epoch in range(9)}) == 9
    assert [dataset[epoch, 5]["view"] for epoch in (0, 4)] == [0, 4]


def test_views_are_the_same_in_any_number_of_workers_and_in_any_order(tmp_path):
    root, other = faces(tmp_path / "faces", train=10), pool(tmp_path / "pool")
    settings = {"unlabelled": str(other), "views": 2}
    data, dataset = training_set(root, **settings)
    parallel, _ = training_set(root, num_workers=2, **settings)
    loader = parallel.train_dataloader()
    for epoch in (0, 3):
        pixels, order = epoch_of(data.train_dataloader(), epoch)
        again, same_order = epoch_of(loader, epoch)
        assert order == same_order
        assert order != sorted(order)
        assert pixels.keys() == again.keys() == {(position, epoch % 2) for position in range(16)}
        assert all(np.array_equal(pixels[key], again[key]) for key in pixels)
    for workers in (data, parallel):
        for view, positions in ((1, [3, 12, 0, 15, 3, 7]), (0, [5])):
            batches = list(workers.train_views(view, positions))
            assert torch.cat([batch["positions"] for batch in batches]).tolist() == positions
            assert {number for batch in batches for number in batch["view"].tolist()} == {view}
            images = torch.cat([batch["images"] for batch in batches]).permute(0, 2, 3, 1).numpy()
            assert all(np.array_equal(images[i], dataset[view, p]["image"]) for i, p in enumerate(positions))
    assert {key[1] for key in pixels} == {1}
    assert all(np.array_equal(pixels[i, 1].transpose(1, 2, 0), dataset[1, i]["image"]) for i in range(16))


def test_without_augmentation_all_views_are_those_of_evaluation(tmp_path):
    root = faces(tmp_path)
    _, dataset = training_set(root, augment=False, views=1)
    scored = module(root, "test", test_split="train")
    images = torch.cat([batch["images"] for batch in scored.test_dataloader()])
    for epoch in (0, 5):
        assert dataset[epoch, 2]["view"] == 0
        assert np.array_equal(dataset[epoch, 2]["image"], images[2].permute(1, 2, 0).numpy())


def test_bad_images_are_left_out_of_the_batch_and_stop_the_run_when_too_many(tmp_path):
    root, other = faces(tmp_path / "faces"), pool(tmp_path / "pool")
    (root / "train" / "02.png").write_bytes(b"")
    (other / "2.png").write_text("<html>")
    data, dataset = training_set(root, unlabelled=str(other), max_bad_fraction=0.1)
    data.bad_images.start("train", data.records("train"), 18, {"a": "it is empty", "b": "it is empty"})
    mixed = collate([dataset[0, i] for i in (0, 2, 4, 13)])
    assert mixed["positions"].tolist() == [0, 4]
    assert np.array_equal(mixed["attributes"].numpy(), labels(data, "train")[[0, 4]])
    assert [Path(file).name for file, _ in mixed["bad"]] == ["02.png", "2.png"]
    none = collate([dataset[0, 2], dataset[0, 13]])
    assert none["images"].shape[0] == 0
    assert none["attributes"].shape == (0, 3)
    data.bad_images.note(mixed["bad"][:1])
    with pytest.raises(InputError, match=r"4 of the 18 images of the train split cannot be used.*02\.png: it is empty"):
        data.bad_images.note(mixed["bad"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": -1}, "--data.views is -1; it must be 0"),
        ({"views": 2, "augment": False}, "--data.views is 2; it must be 0 or 1 where --data.augment is false"),
        ({"labelled_fraction": 1.5}, "--data.labelled_fraction is 1.5; it must be from 0 to 1"),
        ({"labelled_fraction": 0.0}, "it must be above 0 where there is no --data.unlabelled"),
        ({"unlabelled_fraction": -0.1}, "--data.unlabelled_fraction is -0.1"),
        ({"attributes": []}, r"--data.attributes is \[\]; it must be one name or more"),
    ],
)
def test_options_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        module("x", **settings)


def test_a_root_that_is_neither_is_named(tmp_path):
    image_file(tmp_path / "a.png", 0)
    with pytest.raises(InputError, match=r"has neither attributes\.csv, .*, nor CelebA's list_attr_celeba\.txt; give"):
        _ = module(tmp_path).categories
    with pytest.raises(InputError, match=r"--data .*none does not exist"):
        _ = module(tmp_path / "none").categories
    root = faces(tmp_path / "faces")
    data, _ = training_set(root / "attributes.csv")
    assert data.train_keys()[0] == "train/00.png"
    assert data.licence == ""


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize("layout", ["csv", "celeba"])
def test_a_data_set_of_one_split_is_scored_but_not_trained_on(tmp_path, layout, stage, split):
    if layout == "csv":
        faces(tmp_path, **{name: 4 * (name == split) for name in ("train", "val", "test")})
    else:
        for i in range(1, 5):
            image_file(tmp_path / "img_align_celeba" / f"{i:06}.jpg", i)
        rows = "".join(f"{i:06}.jpg {i % 2 * 2 - 1}\n" for i in range(1, 5))
        (tmp_path / "list_attr_celeba.txt").write_text(f"4\nSmiling\n{rows}")
        part = ("train", "val", "test").index(split)
        (tmp_path / "list_eval_partition.txt").write_text("".join(f"{i:06}.jpg {part}\n" for i in range(1, 5)))
    data = module(tmp_path, stage)
    assert len(data.records(split)) == 4
    with pytest.raises(InputError, match="no image to train on"):
        module(tmp_path).setup("fit")
