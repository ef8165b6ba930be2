import numpy as np
import pytest
from helpers import names, one_sentence, write_lines

from data.layouts import read_classes
from data.readers import class_csv
from data.records import SPLITS, UNSPLIT


def images(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def found(records):
    """Name of each image to its class and split."""
    splits = ["none" if number == UNSPLIT else SPLITS[number] for number in records["split"].tolist()]
    classes = [records.classes[label] for label in records["labels"].tolist()]
    return dict(zip(names(records), zip(classes, splits, strict=True), strict=True))


@pytest.mark.parametrize("header", ["path,label", "Image,Class", "FILENAME,Category", "file_name,breed", "id,species"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_list_of_labels_is_read_under_its_usual_headers(tmp_path, header, given):
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write_lines(tmp_path / "labels.csv", [header, "b.jpg,dog", "a.jpg,cat", "c.jpg,dog"])
    records = read_classes(tmp_path if given == "folder" else tmp_path / "labels.csv")
    assert found(records) == {"b.jpg": ("dog", "none"), "a.jpg": ("cat", "none"), "c.jpg": ("dog", "none")}
    assert (records.classes, records["labels"].tolist()) == (("cat", "dog"), [1, 0, 1])
    assert (records["labels"].dtype, records["split"].dtype, records.layout) == (np.int64, np.int8, "a CSV of labels")


@pytest.mark.parametrize("kind", ["comma", "semicolons", "tabs", "backslashes", "utf-16"])
def test_a_list_as_spreadsheets_write_it(tmp_path, kind):
    images(tmp_path, "cats/1.jpg", "cats/2.jpg")
    text = "path,label,split\r\ncats/1.jpg,cat,train\r\ncats/2.jpg,dog,valid\r\n"
    mark = {"semicolons": ";", "tabs": "\t"}.get(kind, ",")
    text = text.replace(",", mark) if kind != "backslashes" else text.replace("/", "\\")
    content = text.encode("utf-16") if kind == "utf-16" else b"\xef\xbb\xbf" + text.encode()
    (tmp_path / "list.csv").write_bytes(content)
    records = read_classes(tmp_path)
    assert found(records) == {"cats/1.jpg": ("cat", "train"), "cats/2.jpg": ("dog", "val")}
    assert len(records.notes) == (kind == "backslashes")


def test_ids_without_endings_as_kaggle_lists_dogs(tmp_path):
    images(tmp_path, *(f"train/{i}.jpg" for i in ("00ff", "01ab", "02cd")), "test/0a0a.jpg")
    write_lines(tmp_path / "labels.csv", ["id,breed", "00ff,pug", "02cd,boston_bull", "01ab,pug"])
    write_lines(tmp_path / "sample_submission.csv", ["id,affenpinscher,pug", "0a0a,0.5,0.5"])
    records = read_classes(tmp_path)
    assert found(records) == {
        "train/00ff.jpg": ("pug", "none"),
        "train/02cd.jpg": ("boston_bull", "none"),
        "train/01ab.jpg": ("pug", "none"),
    }


def test_a_list_for_each_split(tmp_path):
    images(tmp_path, *(f"{i}.png" for i in range(4)))
    for name, rows in {
        "train.csv": ["0.png,b", "1.png,a"],
        "valid.csv": ["2.png,a"],
        "test_labels.csv": ["3.png,b"],
    }.items():
        write_lines(tmp_path / name, ["image,label", *rows])
    expected = {"0.png": ("b", "train"), "1.png": ("a", "train"), "2.png": ("a", "val"), "3.png": ("b", "test")}
    assert found(read_classes(tmp_path)) == expected


def test_numbers_are_in_the_order_of_their_values(tmp_path):
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write_lines(tmp_path / "l.csv", ["path,label", "a.jpg,10", "b.jpg,9", "c.jpg,100"])
    records = read_classes(tmp_path)
    assert (records.classes, records["labels"].tolist()) == (("9", "10", "100"), [1, 0, 2])


def test_rows_without_a_label_twice_the_same_and_of_no_file_are_counted(tmp_path):
    images(tmp_path, "a.jpg", "b.jpg")
    rows = ["a.jpg,x", "b.jpg,", "a.jpg,x", "b.jpg,y", "gone.jpg,z"]
    write_lines(tmp_path / "l.csv", ["path,label", *rows])
    records = class_csv.read(tmp_path)
    assert found(records) == {"a.jpg": ("x", "none"), "b.jpg": ("y", "none")}
    assert records.classes == ("x", "y")
    assert [(issue.count, issue.first.split(";")[0]) for issue in records.issues][:2] == [
        (1, "l.csv, line 3"),
        (1, "a.jpg"),
    ]
    assert records.issues[2].first.startswith("gone.jpg")


def test_class_folders_come_before_a_list_beside_them_unless_it_is_the_root(tmp_path):
    images(tmp_path, "cat/1.jpg", "dog/1.jpg")
    write_lines(tmp_path / "labels.csv", ["path,label", "cat/1.jpg,x", "dog/1.jpg,y"])
    records = read_classes(tmp_path)
    assert records.classes == ("cat", "dog")
    assert "labels.csv" in records.notes[-1]
    assert read_classes(tmp_path / "labels.csv").classes == ("x", "y")


def test_images_in_one_folder_are_of_the_list_beside_it(tmp_path):
    images(tmp_path, "images/1.jpg", "images/2.jpg")
    write_lines(tmp_path / "labels.csv", ["filename,label", "1.jpg,x", "2.jpg,y"])
    assert found(read_classes(tmp_path)) == {"images/1.jpg": ("x", "none"), "images/2.jpg": ("y", "none")}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"one.csv": ["path,label", "a.jpg,x"], "two.csv": ["path,label", "a.jpg,y"]}, r"one\.csv, two\.csv"),
        ({"one.csv": ["path,label", "a.jpg,x", "a.jpg,y"]}, r"a\.jpg more than once"),
        ({"one.csv": ["path,label,split", "a.jpg,x,third"]}, r"line 2.*'third'"),
        ({"one.csv": ["path,label", "a.jpg,"]}, "no images with labels"),
        ({"one.csv": ["path,label", "b.jpg,x"]}, r"b\.jpg"),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path, files, named):
    images(tmp_path, "a.jpg")
    for name, lines in files.items():
        write_lines(tmp_path / name, lines)
    with one_sentence(named):
        read_classes(tmp_path)
