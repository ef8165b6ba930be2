import os

import numpy as np
import pytest
from helpers import one_sentence
from torchvision.datasets import ImageFolder

from backbone.errors import InputError
from data.readers.image_folder import read
from data.records import SPLITS, UNSPLIT
from data.splits import assign_splits


def write_tree(root, folders):
    """Empty files: of each folder their names, or how many images there are."""
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in [f"{i:03}.jpg" for i in range(files)] if isinstance(files, int) else files:
            (root / folder / name).touch()
    return root


def files(records):
    return [str(records.path(i)) for i in range(len(records))]


def by_class(records, split):
    """How many images of each class a split has; None: those of no split."""
    mine = records["split"] == (UNSPLIT if split is None else SPLITS.index(split))
    return np.bincount(records["labels"][mine], minlength=len(records.classes)).tolist()


# --- what is found --------------------------------------------------------------------------------------------------


def test_images_and_labels_are_those_of_torchvision_in_its_order(tmp_path):
    odd = {
        "n02088364": ["b.JPEG", "a.jpg", "c d.PnG"],
        "11": 2,
        "2": 3,
        "toy poodle": 4,
        "Ärzte 猫": ["ü.webp", "z.tif"],
    }
    deep = {"2/more": 2, "2/more/still": 1, "2/more of it": 1, "2-b": 1, "2/A": 1, "11/x": 1}
    root = write_tree(tmp_path / "set", {f"train/{folder}": n for folder, n in (odd | deep).items()})
    write_tree(root, {f"validation/{folder}": 2 for folder in (*odd, "2-b")})
    records = read(root)
    for split, folder in (("train", "train"), ("val", "validation")):
        expected, images = ImageFolder(str(root / folder)), records.of_split(split)
        assert list(records.classes) == expected.classes
        assert list(zip(files(images), images["labels"].tolist(), strict=True)) == expected.samples
    assert (records["labels"].dtype, records["split"].dtype, records.file_names.dtype.kind) == (np.int64, np.int8, "S")
    assert (records.issues, records.notes) == ((), ())


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Train", "VALID", "Test"), ("Training", "validation", "Testing")],
)
def test_splits_are_found_under_their_usual_names(tmp_path, train, val, test):
    root = write_tree(tmp_path / "set", {f"{train}/a": 3, f"{train}/b": 2, f"{val}/a": 1, f"{val}/b": 2})
    write_tree(root, {f"{test}/a": 1, f"{test}/b": 4})
    records = read(root)
    assert [by_class(records, split) for split in SPLITS] == [[3, 2], [1, 2], [1, 4]]
    assert by_class(records, None) == [0, 0]


@pytest.mark.parametrize("parts", [("Training", "Testing"), ("train", "dev", "test"), ("TRAIN", "Eval", "testing")])
def test_parts_by_any_name_are_not_classes(tmp_path, parts):
    classes = ("glioma", "meningioma", "no tumor")
    counts = {part: 10 if part.lower().startswith("train") else 4 for part in parts}
    records = read(write_tree(tmp_path, {f"{part}/{name}": counts[part] for part in parts for name in classes}))
    assert records.classes == classes
    assert by_class(records, "train") == [10, 10, 10]
    assert by_class(records, "val") == ([4, 4, 4] if len(parts) == 3 else [0, 0, 0])
    assert by_class(records, "test") == [4, 4, 4]


def test_folders_that_all_hold_the_same_folders_are_parts_whose_names_are_asked_for(tmp_path):
    folders = {f"{part}/{name}": 2 for part in ("Apprentissage", "Essai") for name in ("cat", "dog")}
    with one_sentence(r"Apprentissage/, Essai/.*cat, dog.*train, val and test"):
        read(write_tree(tmp_path / "parts", folders))
    intel = {f"{part}/{part}/{name}": 2 for part in ("seg_train", "seg_test", "seg_pred") for name in ("cat", "dog")}
    with one_sentence(r"seg_train/.*train, val and test"):
        read(write_tree(tmp_path / "intel", intel))
    deep = write_tree(tmp_path / "deep", {**folders, "Essai": 1})  # an image beside them: a class that goes deep
    assert read(deep).classes == ("Apprentissage", "Essai")


def test_folders_of_classes_alone_are_of_no_split_and_one_may_be_called_train(tmp_path):
    records = read(write_tree(tmp_path / "set", {"bus": 10, "train": 9, "test": 8}))
    assert records.classes == ("bus", "test", "train")
    assert by_class(records, None) == [10, 8, 9]


def test_what_is_not_an_image_is_passed_over_or_counted(tmp_path):
    junk = [".hidden.jpg", "._001.jpg", "Thumbs.db", "a.txt", "b.TXT", "c.djvu", "README"]
    root = write_tree(tmp_path / "set", {"a": ["1.jpg", *junk], "b": ["1.jpg", "2.avif"], "b/.git": 3, "b/__MACOSX": 3})
    write_tree(root, {".ipynb_checkpoints": 2, "__MACOSX/a": 2, "a/folder.jpg": ["2.jpg"]})
    (root / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "a" / "round.jpg").symlink_to("round.jpg")
    (root / "labels.csv").touch()
    (root / "stray.jpg").touch()
    records = read(root)
    assert records.classes == ("a", "b")
    assert files(records) == [str(root / name) for name in ("a/1.jpg", "a/folder.jpg/2.jpg", "b/1.jpg", "b/2.avif")]
    counted = {issue.what.partition("(")[2].partition(")")[0]: issue.count for issue in records.issues}
    assert counted == {".txt": 2, "links to nothing": 2, "": 1, "without an ending": 1}
    assert str(records.issues[0]).startswith("1 .djvu file left out")
    assert [note.split()[0] for note in records.notes] == ["1"]  # right in the root


def test_classes_of_photographs_that_cannot_be_read_are_refused_with_their_number(tmp_path):
    content = ["1.DJVU", "2.djvu", "3.CR2", "._4.jpg"]
    root = write_tree(tmp_path, {"a": [], "b": content, "b/@eaDir": 2})
    with one_sentence(r"'a'.* 2 \.djvu files left out.*JPEG.* 1 \.cr2 file "):
        read(root)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_folder_of_one_split_is_read_without_the_others(tmp_path, split):
    records = read(write_tree(tmp_path, {f"{split}/b": 2, f"{split}/a": 1}))
    assert (records.classes, by_class(records, split), len(records)) == (("a", "b"), [1, 2], 3)


def test_labels_count_the_training_folders_before_what_others_have_besides(tmp_path):
    folders = {"train/b": 2, "train/c": 1, "val/b": 1, "test/a": 3, "test/c": 1}
    records = read(write_tree(tmp_path, folders))
    assert records.classes == ("b", "c", "a")
    assert [by_class(records, part) for part in SPLITS] == [[2, 1, 0], [1, 0, 0], [0, 1, 3]]


@pytest.mark.parametrize("val", [4, 0])
def test_a_folder_for_validation_without_classes_is_left_out_and_told(tmp_path, val):
    records = read(write_tree(tmp_path, {"train/a": 2, "train/b": 2, "val": val}))
    assert (len(records), by_class(records, "val")) == (4, [0, 0])
    assert sum(str(tmp_path / "val") in note for note in records.notes) == 1


def test_names_that_are_not_utf8_are_read_and_can_be_printed(tmp_path):
    root = write_tree(tmp_path / "set", {"train/a": 2, "train/b": 1, "val/a": 1})
    for split in ("train", "val"):
        folder = root / split / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"here")
    records = read(root)
    assert records.classes == ("a", "b", "caf\ufffd")
    assert records.path(3).read_bytes() == b"here"
    assert str(records.path(3)) in records
    "".join((*records.classes, *map(str, records.issues), *records.notes)).encode()


def test_classes_that_a_split_lacks_and_what_is_left_out_are_told(tmp_path):
    root = write_tree(tmp_path / "set", {"train/a": 5, "train/b": 5, "val/a": 1, "test": 9, "extra/c": 5})
    records = read(root)
    assert [by_class(records, split) for split in SPLITS] == [[5, 5], [1, 0], [0, 0]]
    assert [(issue.count, issue.first) for issue in records.issues] == [(1, "b")]
    for name in ("extra", str(root / "test")):
        assert sum(name in note for note in records.notes) == 1


CLASSES_IN_SPLITS = {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 4}


@pytest.mark.parametrize("wrapper", ["archive", "archive/data set/v1"])
def test_the_only_folder_is_descended_into_where_it_has_splits_or_classes(tmp_path, wrapper):
    root = write_tree(tmp_path / "splits", {f"{wrapper}/{name}": n for name, n in CLASSES_IN_SPLITS.items()})
    write_tree(root, {"__MACOSX/archive": 2, wrapper: ["cover.jpg"]})
    (root / "README").touch()
    records = read(root)
    assert (records.folder, records.classes) == (root / wrapper, ("cat", "dog"))
    assert [by_class(records, split) for split in SPLITS] == [[3, 2], [1, 4], [0, 0]]
    assert files(records)[0] == str(root / wrapper / "train/cat/000.jpg")
    assert str(root / wrapper) in records.notes[0]
    flowers = read(write_tree(tmp_path / "classes", {f"{wrapper}/daisy": 3, f"{wrapper}/rose/deep": 2}))
    assert (flowers.classes, by_class(flowers, None)) == (("daisy", "rose"), [3, 2])
    linked = write_tree(tmp_path / "linked", {f"{wrapper}/train/{name}": 3 for name in "ab"})
    (linked / wrapper / "val").symlink_to(write_tree(tmp_path / "elsewhere", {"a": 1, "b": 1}))
    assert by_class(read(linked), "val") == [1, 1]


@pytest.mark.parametrize("folders", [{"train/a": 2}, {"a": 2}, {"val/a": 2, "val/b": 1}])
def test_a_folder_of_one_class_or_one_split_is_no_wrapper(tmp_path, folders):
    records = read(write_tree(tmp_path, folders))
    assert (records.folder, records.classes) == (tmp_path, ("a", "b")[: len(folders)])
    assert records.notes == ()


def test_splits_within_the_class_folders_are_read_as_splits(tmp_path):
    folders = {"cats/Train": 3, "cats/valid": 1, "dogs/Train": 2, "dogs/validation": 4, "dogs/test": 1, "none": 0}
    records = read(write_tree(tmp_path, folders))
    assert records.classes == ("cats", "dogs")
    assert [by_class(records, split) for split in SPLITS] == [[3, 2], [1, 4], [0, 1]]
    assert files(records)[:4] == [
        *(str(tmp_path / f"cats/Train/00{i}.jpg") for i in range(3)),
        f"{tmp_path}/dogs/Train/000.jpg",
    ]
    empty = read(
        write_tree(tmp_path / "empty", {f"{name}/{part}": n for name in "ab" for part, n in (("train", 2), ("val", 0))})
    )
    assert (empty.classes, by_class(empty, None)) == (("a", "b"), [2, 2])


@pytest.mark.parametrize("odd", [{"cats": 1}, {"cats/more": 1}, {"cats/valid": 1}])
def test_folders_called_after_splits_that_have_others_beside_them_are_a_class(tmp_path, odd):
    inner = {f"{name}/{split}": 2 for name in ("cats", "dogs") for split in ("train", "val")}
    records = read(write_tree(tmp_path / "set", inner | odd))
    assert (records.classes, by_class(records, None), records.notes) == (("cats", "dogs"), [5, 4], ())
    with one_sentence("cats/train/"):  # these may be the classes
        read(write_tree(tmp_path / "deep", inner | {"cats/train/more": 1}))


def test_a_folder_that_holds_no_image_is_no_class(tmp_path):
    root = write_tree(tmp_path / "set", {"train/a": 2, "train/b": 2, "train/c": 0, "train/d": ["x.txt"], "val/b": 1})
    write_tree(root, {"val/c": 0, "val/e": 0, "val/f": 1, "test/a": 1})
    records = read(root)
    assert records.classes == ("a", "b", "f")
    assert [by_class(records, split) for split in SPLITS] == [[2, 2, 0], [0, 1, 1], [1, 0, 0]]
    assert [(issue.count, issue.first) for issue in records.issues] == [(1, "f"), (1, "a"), (2, "b")]
    [note] = records.notes
    assert note.startswith("3 folders")
    assert "c, d, e" in note


@pytest.mark.parametrize("content", [["x.djvu"], ["link.jpg"]])
def test_a_folder_whose_images_cannot_be_read_is_a_class_all_the_same(tmp_path, content):
    root = write_tree(tmp_path / "set", {"a": 2, "b": 2, "c": [name for name in content if name[0] == "x"]})
    if content == ["link.jpg"]:
        (root / "c" / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert read(root).classes == ("a", "b", "c")


# --- what is refused ------------------------------------------------------------------------------------------------

TWO = {"train/a": 2, "train/b": 2}
REFUSED = {  # folders, and what the sentence must name
    "empty": ({}, ["set", "<class>/"]),
    "images in the root": ({".": 3}, ["set", "3 images"]),
    "images in train": ({"train": 3, "val": 1}, ["set/train", "3 images"]),
    "one class that goes deep": ({"dogs": 1, "dogs/a": 1, "dogs/b": 1}, ["'dogs'", "set/dogs the data set?"]),
    "images beside one folder": ({".": 1, "dogs/a": 1, "dogs/b": 1}, ["'dogs'", "set/dogs the data set?"]),
    "one class that is split": ({"dogs/train": 1, "dogs/val": 1}, ["'dogs'"]),
    "classes without images": ({"a": 0, "b": 0}, ["'a'"]),
    "test beside classes": ({"a": 2, "b": 2, "test/a": 1}, ["test/", "no train/"]),
    "val twice": (TWO | {"val/a": 1, "valid/a": 1}, ["val/", "valid/"]),
}


@pytest.mark.parametrize(("folders", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, folders, named):
    (tmp_path / "set").mkdir()
    with one_sentence("set") as refusal:
        read(write_tree(tmp_path / "set", folders))
    assert all(part in str(refusal.value) for part in named)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_root_that_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root, scandir = write_tree(tmp_path / "set", {"a": 1, "sp ace": 1}), os.scandir

    def denied(path):
        if os.fsdecode(path).endswith("sp ace"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match="set/sp ace"):
        read(root)


# --- links ----------------------------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_without_going_round(tmp_path):
    elsewhere = write_tree(tmp_path / "disk", {"cats": 3, "cats/more": 2})
    root = write_tree(tmp_path / "set", {"train/dog": 4, "train/dog/deep": 1, "val/cat": 1, "val/dog": 1})
    (root / "train" / "cat").symlink_to(elsewhere / "cats")
    (elsewhere / "cats" / "more" / "up").symlink_to(elsewhere / "cats")  # a loop
    (root / "train" / "dog" / "all").symlink_to(root)  # another, around the class
    (root / "train" / "dog" / "self").symlink_to(root / "train" / "dog")
    (root / "train" / "dog" / "again").symlink_to(root / "train" / "dog" / "deep")  # there already
    records = read(root)
    assert records.classes == ("cat", "dog")
    assert by_class(records, "train") == [5, 5]
    assert len({os.path.realpath(name) for name in files(records.of_split("train"))}) == 10


@pytest.mark.parametrize("link", ["symbolic", "hard", "folder", "split"])
def test_a_file_that_is_trained_on_cannot_be_in_another_split(tmp_path, link):
    root = write_tree(tmp_path / "set", {"train/a": 5, "train/b": 5, "val/a": 1})
    if link == "split":
        (root / "test").symlink_to(root / "train")
    else:
        write_tree(root, {"test/a": ["x.jpg"]})
        if link == "folder":
            (root / "test" / "b").symlink_to(root / "train" / "b")
        elif link == "hard":
            os.link(root / "train" / "b" / "003.jpg", root / "test" / "a" / "y.jpg")
        else:
            (root / "test" / "a" / "y.jpg").symlink_to(root / "train" / "b" / "003.jpg")
    with pytest.raises(InputError, match=r"set/test/\S+ is the same file as \S+set/train/\S+"):
        read(root)


def test_splits_of_links_into_one_pool_and_a_test_split_that_is_the_validation_split_are_fine(tmp_path):
    pool = write_tree(tmp_path / "pool", {"all": 8})
    root = write_tree(tmp_path / "set", {f"{split}/{name}": 0 for split in ("train", "val") for name in "ab"})
    for i in range(8):
        (root / ("train", "val")[i % 2] / "ab"[i // 4] / f"{i}.jpg").symlink_to(pool / "all" / f"{i:03}.jpg")
    (root / "test").symlink_to(root / "val")
    records = read(root)
    assert [by_class(records, split) for split in SPLITS] == [[2, 2]] * 3


def test_a_file_of_two_names_is_drawn_for_one_split(tmp_path):
    root = write_tree(tmp_path / "set", {"a": 30, "b": 30})
    (root / "c").symlink_to(root / "a")
    for i in range(30):
        os.link(root / "b" / f"{i:03}.jpg", root / "b" / f"{i:03}_again.jpg")
    records = assign_splits(read(root), val_fraction=0.3, test_fraction=0.3, seed=0, source=root)
    assert by_class(read(root), None) == [30, 60, 30]
    splits = dict(zip(files(records), records["split"].tolist(), strict=True))
    assert set(splits.values()) == {0, 1, 2}
    for i in range(30):
        assert splits[f"{root}/a/{i:03}.jpg"] == splits[f"{root}/c/{i:03}.jpg"]
        assert splits[f"{root}/b/{i:03}.jpg"] == splits[f"{root}/b/{i:03}_again.jpg"]
