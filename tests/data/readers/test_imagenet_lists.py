import numpy as np
import pytest
from helpers import names, one_sentence, write_lines
from scipy.io import savemat

from data.layouts import read_classes
from data.records import SPLITS

IDS = ("n01440764", "n01443537", "n03445777")
# As Kaggle's list has them, in no order, with a class more than once where it has several boxes.
LOC = {
    2: "n03445777 0 14 216 299 ",
    1: "n01440764 111 108 230 289 n01440764 1 2 3 4 ",
    3: "n01443537 70 142 382 355 ",
}


def val_images(folder, count=3):
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        (folder / f"ILSVRC2012_val_{i:08}.JPEG").touch()


def train_images(folder, ids=IDS):
    for word in ids:
        (folder / word).mkdir(parents=True)
        (folder / word / f"{word}_7.JPEG").touch()


def kaggle_list(folder):
    rows = [f"ILSVRC2012_val_{i:08},{boxes}" for i, boxes in LOC.items()]
    write_lines(folder / "LOC_val_solution.csv", ["ImageId,PredictionString", *rows])


def devkit(folder):
    """Its numbers are in another order than the ids; those above 1000 are no leaves."""
    folder.mkdir(parents=True)
    rows = [
        (2, "n01440764", "tench"),
        (3, "n03445777", "golf ball"),
        (1, "n01443537", "goldfish"),
        (1001, "n1", "fish"),
    ]
    synsets = np.zeros((len(rows), 1), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for i, row in enumerate(rows):
        synsets[i, 0] = row
    savemat(folder / "meta.mat", {"synsets": synsets})
    write_lines(folder / "ILSVRC2012_validation_ground_truth.txt", ["2", "3", "1"])


def classes_of(records, split):
    part = records.of_split(split)
    return dict(zip(names(part), (records.classes[label] for label in part["labels"].tolist()), strict=True))


def numbered(start=""):
    return {f"{start}ILSVRC2012_val_{i:08}.JPEG": boxes.split()[0] for i, boxes in sorted(LOC.items())}


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("train", [True, False])
def test_kaggles_folder_is_read_from_each_of_its_levels(tmp_path, given, train):
    inside = tmp_path / "ILSVRC/Data/CLS-LOC"
    val_images(inside / "val")
    (inside / "test").mkdir()
    (inside / "test" / "ILSVRC2012_test_00000001.JPEG").touch()
    if train:
        train_images(inside / "train")
    kaggle_list(tmp_path)
    records = read_classes(tmp_path / given)
    assert records.classes == IDS
    assert classes_of(records, "val") == numbered("val/" if train else "")
    assert classes_of(records, "train") == ({f"train/{word}/{word}_7.JPEG": word for word in IDS} if train else {})
    assert len(records) == 3 + 3 * train
    assert all(records.path(i).is_file() for i in range(len(records)))


@pytest.mark.parametrize("val", ["val", "ILSVRC2012_img_val"])
@pytest.mark.parametrize("place", ["ILSVRC2012_devkit_t12/data", "."])
def test_a_devkits_numbers_are_the_ids_of_its_table(tmp_path, val, place):
    val_images(tmp_path / "set" / val)
    devkit(tmp_path / "kit")
    (tmp_path / "set" / place).mkdir(parents=True, exist_ok=True)
    for file in (tmp_path / "kit").iterdir():
        file.rename(tmp_path / "set" / place / file.name)
    records = read_classes(tmp_path / "set")
    expected = dict(zip(numbered(), ("n01440764", "n03445777", "n01443537"), strict=True))
    assert classes_of(records, "val") == expected
    assert records["split"].tolist() == [SPLITS.index("val")] * 3


def test_images_of_the_list_that_are_not_there_are_counted(tmp_path):
    val_images(tmp_path / "val", count=2)
    kaggle_list(tmp_path)
    records = read_classes(tmp_path)
    assert sorted(classes_of(records, "val")) == [f"ILSVRC2012_val_{i:08}.JPEG" for i in (1, 2)]
    assert [issue.count for issue in records.issues] == [1]


def test_validation_images_in_folders_of_their_ids_need_no_list(tmp_path):
    train_images(tmp_path / "train")
    train_images(tmp_path / "val")
    kaggle_list(tmp_path)
    records = read_classes(tmp_path)
    assert (records.layout, records.classes) == ("a folder for each class", IDS)
    assert len(records.of_split("val")) == 3


def test_a_list_that_does_not_fit_is_refused_with_its_line(tmp_path):
    val_images(tmp_path / "val")
    devkit(tmp_path / "ILSVRC2012_devkit_t12" / "data")
    truth = tmp_path / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    write_lines(truth, ["2", "17", "1"])
    with one_sentence("line 2: '17'"):
        read_classes(tmp_path)
    truth.with_name("meta.mat").write_bytes(b"no table")
    with one_sentence(r"meta\.mat"):
        read_classes(tmp_path)
