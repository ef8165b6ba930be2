import functools
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import helpers
import numpy as np
import pytest
import torch
from helpers import BEAGLE, POODLE, data_module, dog_rows, tree
from PIL import Image

from backbone import InputError
from data import imagenet
from data.classification import ClassificationDataModule, open_cropped
from data.images import open_image
from data.records import Records

module = functools.partial(data_module, ClassificationDataModule)


def write_dogs(root, size=(60, 80)):
    """Stanford Dogs' layout: 4 training and 2 test images of two breeds, red outside the dog's box, blue inside."""
    height, width = size
    x1, y1, x2, y2 = width // 4, height // 3, width // 2, height - 10
    train, test = (dog_rows(first, last, (BEAGLE, POODLE)) for first, last in ((1, 4), (5, 6)))
    content = {}
    for i, (name, _) in enumerate(train + test):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0] = 250 - 3 * i  # no two alike
        pixels[y1:y2, x1:x2] = (0, 0, 250)
        Image.fromarray(pixels).save(file := io.BytesIO(), "jpeg", quality=95, subsampling=0)
        content[name] = file.getvalue()
        annotation = root / "Annotation" / name.removesuffix(".jpg")
        annotation.parent.mkdir(parents=True, exist_ok=True)
        box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2 - 1}</xmax><ymax>{y2 - 1}</ymax>"
        annotation.write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>"
            f"<object><name>dog</name><bndbox>{box}</bndbox></object></annotation>"
        )
    return helpers.write_dogs(root, train, test, content)


def write_training_images(root, image):
    """Two of each of two classes, all of them this JPEG."""
    for name in ("a", "b"):
        (root / "train" / name).mkdir(parents=True)
        for i in range(2):
            image.save(root / "train" / name / f"{i}.jpg", quality=92)
    return root


def test_evaluation_sees_the_middle_of_each_image_in_the_folders_order(classes_root):
    data = module(classes_root, "test", image_size=[40, 32], batch_size=3)
    batches = list(data.test_dataloader())
    assert [len(batch["images"]) for batch in batches] == [3, 3]
    images = torch.cat([batch["images"] for batch in batches])
    positions = torch.cat([batch["positions"] for batch in batches]).tolist()
    assert positions == [0, 1, 2, 3, 4, 5]
    assert images.dtype == torch.uint8
    assert batches[0]["images"].is_contiguous(memory_format=torch.channels_last)
    for image, position in zip(images, positions, strict=True):
        # 48 x 64 px: of the proportions 40 to 32 the largest window is 48 x 38.4; 0.875 of it is 42 x 34 (33.6)
        image_file = open_image(classes_root / data.file("test", position))
        expected = cv2.resize(image_file[3:45, 15:49], (32, 40), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_labels_are_the_sorted_folders_and_test_split_chooses_what_is_scored(classes_root):
    for asked, count in (("test", 6), ("val", 6), ("train", 12), ("all", 24)):
        data = module(classes_root, "test", test_split=asked)
        assert data.categories == {0: "bar", 1: "cross", 2: "disc"}
        batch_of = list(data.test_dataloader())
        labels = torch.cat([batch["labels"] for batch in batch_of]).tolist()
        assert len(labels) == count
        folders = [Path(data.file("test", position)).parent for position in range(count)]
        assert [folder.name for folder in folders] == [data.categories[label] for label in labels]
        assert {folder.parent.name for folder in folders} == ({asked} if asked != "all" else {"train", "val", "test"})
        assert data.records("test")["labels"].tolist() == labels


def test_without_a_test_part_the_validation_part_is_scored_and_it_says_so(write_classes, tmp_path, capsys):
    data = module(write_classes(tmp_path / "x", {"train": 2, "val": 1}), "test")
    assert "has no test images: testing on its validation images" in capsys.readouterr().out
    assert [Path(data.file("test", i)).parts[-3] for i in range(3)] == ["val"] * 3


@pytest.mark.parametrize("size", [(60, 80), (1200, 1600)])  # the larger is decoded at a fraction of its size
def test_the_box_of_the_dog_is_all_that_is_seen(tmp_path, size):
    data = module(write_dogs(tmp_path / "dogs", size), "test", crop="bbox", central_fraction=1.0, batch_size=2)
    for batch in data.test_dataloader():
        blue = batch["images"][:, :, 3:-3, 3:-3].float().mean((2, 3))  # JPEG and resizing blur the edge
        assert (blue[:, 2] > 240).all()
        assert (blue[:, 0] < 8).all()
    whole = module(tmp_path / "dogs", "test")
    assert all((batch["images"][:, 0].float().mean((1, 2)) > 50).all() for batch in whole.test_dataloader())


def test_a_box_beyond_the_image_is_clipped_and_none_at_all_is_the_whole(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes = np.array([[-5, 10, 500, 20], [np.nan] * 4, [39.6, 29.6, 60, 60], [10.4, 5.2, 20.6, 9.9]], np.float32)
    images = Records(tmp_path, np.array([b"a.png"] * 4), {"crop_xyxy": boxes})
    assert np.array_equal(open_cropped(images, 0), pixels[10:20])
    assert np.array_equal(open_cropped(images, 1), pixels)
    assert np.array_equal(open_cropped(images, 2), pixels[29:, 39:])
    assert np.array_equal(open_cropped(images, 3), pixels[5:10, 10:21])


def test_a_box_needs_a_layout_that_has_boxes(classes_root):
    with pytest.raises(InputError, match=r"--data.crop is bbox, but .*signs has no boxes"):
        _ = module(classes_root, crop="bbox").categories


def test_large_jpegs_decoded_small_look_as_they_would_whole(tmp_path):
    """The share of a pixel's range that draft decoding changes, on an image with structure at every scale."""
    generator = np.random.default_rng(0)
    layers = [
        cv2.resize(generator.random((n, n, 3)).astype(np.float32), (1600, 1200), interpolation=cv2.INTER_CUBIC)
        for n in (4, 16, 64, 256)
    ]
    image = np.clip(np.mean(layers, 0) * 255, 0, 255).astype(np.uint8)
    data = module(write_training_images(tmp_path, Image.fromarray(image)), "validate", image_size=64)
    dataset = data.val_dataloader().dataset
    small = dataset[0, 0]["image"].astype(float)
    assert open_image(dataset.records.path(0), at_least=dataset.at_least).shape[0] < 1200 // 2
    dataset.at_least = None
    whole = dataset[0, 0]["image"].astype(float)
    assert np.abs(small - whole).mean() < 1.5
    assert np.abs(small - whole).max() < 12


def test_training_crops_still_have_the_inputs_pixels_after_a_small_decode(tmp_path):
    root = write_training_images(tmp_path, Image.new("RGB", (4000, 3000)))
    for area in (0.08, 0.25, 1.0):
        data = module(root, "fit", min_crop_area=area, image_size=100)
        dataset = data.train_dataloader().dataset
        height, width = open_image(dataset.records.path(0), at_least=dataset.at_least).shape[:2]
        # the narrowest crop of the least area, 3:4 in either direction
        assert min((area * height * width * 3 / 4) ** 0.5, height, width) >= 100
        assert height < 3000


def test_augmentation_depends_on_epoch_and_position_alone(classes_root):
    data = module(classes_root, "fit", random_erasing=1.0)
    dataset = data.train_dataloader().dataset
    first, again = dataset[3, 5], dataset[3, 5]
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], dataset[4, 5]["image"])


@pytest.mark.slow
def test_the_thousand_folders_of_imagenet_get_their_names(tmp_path):
    image = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(image)
    ids = imagenet.class_ids()
    for split in ("train", "val"):
        for folder in ids:
            (tmp_path / "data" / split / folder).mkdir(parents=True)
            shutil.copy(image, tmp_path / "data" / split / folder / "x.png")
    data = module(tmp_path / "data")
    assert tuple(data.categories.values()) == imagenet.class_names()
    shutil.rmtree(tmp_path / "data" / "train" / ids[3])
    shutil.rmtree(tmp_path / "data" / "val" / ids[3])
    assert module(tmp_path / "data").categories[0] == "n01440764"


def test_overlap_with_imagenet_is_the_part_of_images_in_folders_of_its_ids(tmp_path, write_classes):
    dogs = module(write_dogs(tmp_path / "dogs"), "test")
    assert dogs.imagenet_overlap("test") == 1.0
    mixed = write_classes(tmp_path / "mixed", {"train": 2, "val": 1, "test": 1})
    for split in ("train", "val", "test"):
        (mixed / split / "bar").rename(mixed / split / "n02113624-bar")
    shutil.copy(mixed / "test" / "disc" / "test_00.png", mixed / "test" / "disc" / "more.png")
    data = module(mixed, "test")
    assert data.imagenet_overlap("test") == 1 / 4


def test_training_images_that_look_like_a_test_set_are_left_out_and_counted(tmp_path, capsys):
    generator = np.random.default_rng(0)
    images = [
        cv2.resize(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        for _ in range(12)
    ]
    for i, image in enumerate(images):
        folder = tmp_path / "web" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.jpg", quality=60)
        (tmp_path / "web" / "val" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
    for name in "ab":
        Image.fromarray(images[0][::-1]).save(tmp_path / "web" / "val" / name / "v.png")
    for i in (3, 8):  # tested, at another size
        folder = tmp_path / "exam" / "test" / "xy"[i % 2]
        folder.mkdir(parents=True)
        Image.fromarray(images[i]).resize((100, 75)).save(folder / f"{i}.png")
        for split in ("train", "val"):
            (tmp_path / "exam" / split / "xy"[i % 2]).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / "exam" / split / "xy"[i % 2] / "n.png")
    data = module(tmp_path / "web", "fit", without_near_duplicates_of=str(tmp_path / "exam"))
    assert "2 of 12 images left out as near-duplicates of test images" in capsys.readouterr().out
    dataset = data.train_dataloader().dataset
    assert sorted(int(dataset.records.path(i).stem) for i in range(len(dataset))) == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "--data.batch_size is 0; it must be 1 or more"),
        ({"min_crop_area": 0.0}, "--data.min_crop_area is 0.0; it must be above 0 and at most 1"),
        ({"random_erasing": 2.0}, "--data.random_erasing is 2.0; it must be from 0 to 1"),
        ({"central_fraction": 0.0}, "--data.central_fraction is 0.0"),
        ({"val_fraction": 1.0}, "--data.val_fraction is 1.0"),
        ({"test_fraction": 1.0}, "--data.test_fraction is 1.0"),
    ],
)
def test_options_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        module("x", **settings)


def test_nothing_in_the_data_folder_changes(tmp_path):
    root = write_dogs(tmp_path / "dogs")
    before = tree(root)
    data = module(root, "fit", "validate", "test", crop="bbox")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert sum(len(batch["images"]) for batch in loader) > 0
    assert tree(root) == before


def test_a_training_set_of_nothing_but_test_images_is_refused(write_classes, tmp_path):
    root = write_classes(tmp_path / "web", {"train": 2, "val": 1, "test": 2})
    for name in ("bar", "cross"):
        for i in range(2):  # the same images, larger
            image = Image.open(root / "train" / name / f"train_{i:02}.png")
            image.resize((128, 96)).save(root / "test" / name / f"test_{i:02}.png")
    data = module(root, without_near_duplicates_of=str(root))
    with pytest.raises(InputError, match=r"every train image of 2 classes \(first: bar\) looks like a test image"):
        data.setup("fit")


def test_the_image_folder_of_stanford_dogs_is_not_a_folder_of_classes(tmp_path):
    root = write_dogs(tmp_path / "dogs")
    with pytest.raises(InputError, match=r"Images is the image folder of Stanford Dogs.*; give .*dogs\."):
        _ = module(root / "Images").categories


# --- each command needs its own split alone ------------------------------------------------------------------------


def write_folders(root, counts):
    """Drawn images, no two alike, so many in each of the folders."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 40), (20 * number, 20 * i, 90)).save(root / folder / f"{i}.png")
    return root


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
def test_a_folder_of_one_split_is_scored_by_the_classes_of_a_checkpoint(tmp_path, stage, split, capsys):
    root = write_folders(tmp_path / "set", {f"{split}/cicada": 2, f"{split}/bee": 1})
    data = module(root, stage, classes={0: "ant", 1: "bee", 2: "cicada"})
    records = data.records(split)
    assert (records["labels"].tolist(), len(records.classes)) == ([1, 2, 2], 3)
    assert data.categories == {0: "ant", 1: "bee", 2: "cicada"}
    with pytest.raises(InputError, match="no image to train on"):
        module(root).setup("fit")


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_class_that_the_checkpoint_lacks_is_named_where_it_is_used(tmp_path, stage):
    counts = {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("ant", "bee", "cicada")}
    root, classes = write_folders(tmp_path / "set", counts), {0: "ant", 1: "bee"}
    with helpers.one_sentence("'cicada'.*2 classes.*ant, bee"):
        module(root, classes=classes).setup(stage)
    for split in {"train", "val", "test"} - {{"fit": "train", "validate": "val"}.get(stage, stage)}:
        shutil.rmtree(root / split / "cicada")
    with helpers.one_sentence("'cicada'"):
        module(root, classes=classes).setup(stage)
    for other in {"validate", "test"} - {stage}:
        module(root, other, classes=classes)  # it does not use those images


NAMES_OF_A_CHECKPOINT = {  # known names, those of the data, and the label of each
    "by id": (["beagle", "toy poodle"], ["n02113624-Toy_Poodle", "n02088364-beagle"], [1, 0]),
    "the other way": (["n02088364-beagle", "n02113624-toy_poodle"], ["toy poodle", "Beagle"], [1, 0]),
    "the id alone": (["n02088364-beagle", "n02113624-toy_poodle"], ["n02113624"], [1]),
    "hyphens and accents": (["Shih-Tzu", "caf\u00e9 noir"], ["CAFE\u0301_noir", "shih tzu"], [1, 0]),
    "as written first": (["Cardigan", "cardigan"], ["cardigan", "Cardigan"], [1, 0]),
    "two of one": (["beagle", "pug"], ["Beagle", "BEAGLE", "pug"], [None, None, 1]),
    "one is there": (["beagle", "pug"], ["beagle", "Beagle"], [0, None]),
    "one of two": (["Cardigan", "cardigan"], ["CARDIGAN"], [None]),
    "two ids": (["n02012849-crane", "n02088364-beagle"], ["n03126707-crane"], [None]),
    "one by its id": (["n02088364-beagle", "n02113624-toy_poodle"], ["n02088364", "Beagle"], [0, None]),
    "signs": (["A", "1", "12"], ["A+", "A-", "-1", "1-2"], [None] * 4),
}


@pytest.mark.parametrize(("known", "names", "labels"), NAMES_OF_A_CHECKPOINT.values(), ids=NAMES_OF_A_CHECKPOINT)
def test_classes_are_those_of_a_checkpoint_where_one_alone_is_meant(tmp_path, known, names, labels, capsys):
    data = ClassificationDataModule(root=tmp_path, classes=dict(enumerate(known)))
    images = Records(Path("x"), np.array([b"%d" % i for i in range(len(names))]), {"labels": np.arange(len(names))})
    images = replace(images, classes=tuple(names))
    if None in labels:
        unknown = [name for name, label in zip(names, labels, strict=True) if label is None]
        with helpers.one_sentence(", ".join(map(re.escape, map(repr, sorted(unknown)[:5])))):
            data.relabelled(images)
        assert data.relabelled(images.take(np.array([label is not None for label in labels]))).classes == tuple(known)
    else:
        assert [data.relabelled(images)["labels"].tolist() for _ in range(2)] == [labels] * 2
        assert capsys.readouterr().out.count("called otherwise") == (set(names) != set(known))


def test_ids_are_the_classes_of_a_checkpoint_for_imagenets_thousand(tmp_path):
    root = write_folders(tmp_path, {"val/n03888257": 1, "val/n01440764": 1, "val/n03445777-golf_ball": 1})
    data = module(root, "validate", classes=dict(enumerate(imagenet.class_names())))
    assert data.records("val")["labels"].tolist() == [0, 574, 701]


def test_one_image_of_each_class_is_scored_but_not_trained_on(tmp_path, capsys):
    root = write_folders(tmp_path / "set", {"b": 1, "a": 1, "c": 1})
    assert module(root, "test", test_split="all").records("test")["labels"].tolist() == [0, 1, 2]
    assert "fit would be refused" not in capsys.readouterr().out
    for stage, split in (("validate", "val"), ("test", "test")):
        assert module(root, stage).records(split)["labels"].tolist() == [0, 1, 2]
        assert capsys.readouterr().out.count("fit would be refused") == 1
    assert module(root, "validate", classes={0: "c", 1: "b", 2: "a"}).records("val")["labels"].tolist() == [2, 1, 0]
    with pytest.raises(InputError, match="too few images"):
        module(root).setup("fit")


def test_images_that_are_named_for_training_are_not_scored_for_lack_of_others(tmp_path):
    root = write_folders(tmp_path / "set", {"train/a": 1, "train/b": 1})
    for stage in ("fit", "validate", "test"):
        with pytest.raises(InputError, match=r"too few images|no image in the (val|test) split"):
            module(root).setup(stage)


def test_what_only_testing_would_use_is_of_no_concern_to_training(tmp_path):
    root = write_folders(tmp_path / "set", {"train/b": 3, "train/c": 3, "val/b": 2, "test/a": 1, "test/c": 1})
    data = module(root, "fit")
    assert data.categories == {0: "b", 1: "c"}
    assert (len(data.records("train")), len(data.records("val"))) == (6, 2)
    with helpers.one_sentence("1 image of 'a'"):
        data.setup("test")


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"a": 5}, "one class 'a'"),
        ({"a": 5, "b": 0, "c": 0}, r"'b' \(as 1 others\)"),
        ({"train/a": 2, "train/b": 2, "val/A": 1}, "'A'"),
    ],
)
def test_what_is_missing_to_train_is_said_by_fit(tmp_path, counts, named):
    with helpers.one_sentence(named):
        module(write_folders(tmp_path / "set", counts)).setup("fit")


def test_parts_by_any_name_are_trained_and_scored_on(tmp_path):
    """As Kaggle's tumours have them."""
    classes = ("glioma", "meningioma", "no tumor")
    counts = {f"{part}/{name}": n for part, n in (("Training", 10), ("Testing", 4)) for name in classes}
    data = module(write_folders(tmp_path / "set", counts), "fit", "test")
    assert tuple(data.categories.values()) == classes
    train, val, test = (len(data.records(split)) for split in ("train", "val", "test"))
    assert (train + val, test) == (30, 12)
    assert val >= 3


def test_a_list_of_labels_is_trained_and_scored_on(tmp_path):
    root = write_folders(tmp_path / "set", {"images": 24})
    rows = [f"images/{i}.png;{('cat', 'dog', 'owl')[i % 3]}" for i in range(24)]
    helpers.write_lines(root / "labels.csv", ["path;label", *rows])
    for given in (root, root / "labels.csv"):
        data = module(given, "fit", "test")
        sizes = [len(data.records(split)) for split in ("train", "val", "test")]
        assert (sum(sizes), min(sizes) >= 3, data.categories) == (24, True, {0: "cat", 1: "dog", 2: "owl"})
        position = int(data.file("test", 0).split("/")[-1].removesuffix(".png"))
        assert data.records("test")["labels"][0] == position % 3


def test_imagenets_validation_images_of_a_list_are_imagenets_own(tmp_path):
    root = write_folders(tmp_path, {"val": 1})
    (root / "val" / "0.png").rename(root / "val" / "ILSVRC2012_val_00000001.png")
    row = "ILSVRC2012_val_00000001,n03888257 1 2 3 4 "
    helpers.write_lines(root / "LOC_val_solution.csv", ["ImageId,PredictionString", row])
    data = module(root, "validate", classes=dict(enumerate(imagenet.class_names())))
    assert data.records("val")["labels"].tolist() == [701]
    assert data.imagenet_overlap("val") == 1.0
