import os

import numpy as np
import pytest
from drawn_boxes import (
    DRAWN,
    assert_same,
    darknet,
    draw,
    expected,
    label_studio,
    plain,
    plain_yolo,
    roboflow,
    ultralytics,
    write,
    yolo_lists,
)

from backbone.errors import InputError
from data.layouts import boxes_reader
from data.readers.boxes import LOST
from data.readers.yolo import read
from data.records import UNSPLIT


def one_image(root, text, names="names: [cat, dog]\n", size=(100, 50)):
    """A training image with this text."""
    draw(root / "images/train/a.png", size)
    if text is not None:
        write(root / "labels/train/a.txt", text)
    write(root / "data.yaml", f"train: images/train\nval: images/train\n{names}")
    return root


def issues(records):
    return {issue.what: (issue.count, issue.first) for issue in records.issues}


@pytest.mark.parametrize("layout", [ultralytics, roboflow, yolo_lists, darknet, plain_yolo])
def test_every_layout_gives_the_boxes_that_were_drawn(tmp_path, layout):
    layout(tmp_path)
    records = read(tmp_path)
    assert_same(plain(records), expected(), within=1e-3)
    assert (records.classes, records.class_ids) == (("cat", "dog"), (0, 1))
    assert sorted(records["image_ids"].tolist()) == list(range(1, len(DRAWN) + 1))
    assert set(records["problem"].tolist()) == {b""}
    assert not [
        what for what in issues(records) if "boxes" in what
    ]  # one is of a pixel, of which the digits lack a bit


def test_label_studios_folder_has_no_splits(tmp_path):
    label_studio(tmp_path)
    records = read(tmp_path)
    assert_same(plain(records, splits=False), expected(splits=False), within=1e-3)
    assert set(records["split"].tolist()) == {UNSPLIT}


def test_texts_beside_their_images_and_a_list_of_folders(tmp_path):
    for folder in ("one/images", "two/deep/images"):
        draw(tmp_path / folder / "a.png", (10, 10))
        write(tmp_path / folder / "a.txt", "1 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "data.yaml", "train: [one/images, ./two]\nnames: [cat, dog]")
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"one/images/a.png", b"two/deep/images/a.png"]
    np.testing.assert_allclose(records.boxes.xywh, [[4, 3, 2, 4]] * 2)


def below(root, lists="data/{}.txt", folder="data", name="obj.data"):
    """Darknet's own layout: all in a folder below, and every path from the folder above it."""
    for file, split, place in (("a", "train", 0.5), ("b", "train", 0.4), ("c", "test", 0.3)):
        draw(root / folder / f"obj/{file}.png", (10, 10))
        write(root / folder / f"obj/{file}.txt", f"1 {place} 0.5 0.2 0.4\n")
        with (root / folder / f"{split}.txt").open("a") as listed:
            listed.write(f"data/obj/{file}.png\n")
    write(root / folder / "obj.names", "cat\ndog\n")
    paths = "".join(f"{key} = {lists.format(file)}\n" for key, file in (("train", "train"), ("valid", "test")))
    write(root / folder / name, f"classes= 2\n{paths}names = data/obj.names\nbackup = backup/\n")


@pytest.mark.parametrize(
    ("given", "options"),
    [("", {}), ("", {"lists": "{}.txt"}), ("", {"name": "pets.data"}), ("data", {}), ("data/obj.data", {}),
     ("", {"folder": "mine"})],
)  # fmt: skip
def test_darknets_description_is_found_one_folder_down(tmp_path, given, options):
    below(tmp_path, **options)
    write(tmp_path / "cfg/yolo.data", "train = elsewhere/train.txt\nnames = elsewhere/obj.names\n")  # of another set
    write(tmp_path / "nets/a.yaml", "nc: 80\n")
    write(tmp_path / "nets/b.yaml", "nc: 80\n")
    records = boxes_reader(tmp_path / given)()
    assert records.layout == "YOLO"
    assert [name[-5:] for name in records.file_names.tolist()] == [b"a.png", b"b.png", b"c.png"]
    assert records["split"].tolist() == [0, 0, 1]
    assert len(records.notes) == (not given)  # which description it is, where it is not in the folder given
    np.testing.assert_allclose(records.boxes.xywh, [[4, 3, 2, 4], [3, 3, 2, 4], [2, 3, 2, 4]])
    assert records.classes == ("cat", "dog")


def test_a_yaml_one_folder_down_may_count_from_either_and_two_are_refused(tmp_path):
    for folder, train in (("one", "images/a"), ("two", "two/images/a")):
        draw(tmp_path / folder / "images/a/1.png", (10, 10))
        write(tmp_path / folder / "labels/a/1.txt", "0 0.5 0.5 0.2 0.4\n")
        write(tmp_path / folder / "data.yaml", f"train: {train}\nnames: [{folder}]\n")
        records = boxes_reader(tmp_path)() if folder == "one" else read(tmp_path / folder)
        assert (records["split"].tolist(), records.classes) == ([0], (folder,))
    with pytest.raises(InputError, match=r"one/data\.yaml and .*two/data\.yaml"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("path", "train"),
    [
        ("", "images/train"),
        ("", "../images/train"),
        ("", "../../images/train"),
        ("", "../drawn/images/train"),
        ("", "drawn/images/train"),
        ("", "/content/datasets/x/images/train"),
        ("", r"C:\data\x\images\train"),
        ("/content/x", "images/train"),
        ("images", "train"),
        ("../drawn", "images/train/"),
        ("", "train.txt"),
    ],
)
def test_paths_count_from_the_file_its_parent_and_path_or_are_known_by_their_end(tmp_path, path, train):
    root = one_image(tmp_path / "drawn", "0 0.5 0.5 1 1\n")
    write(root / "train.txt", "/home/them/x/images/train/a.png\n\n")
    write(root / "data.yaml", f"path: {path}\ntrain: {train}\nval:\nnames: [cat]\n")
    records = read(root)
    assert [records.path(0).resolve()] == [(root / "images/train/a.png").resolve()]
    assert len(records) == len(records.boxes.labels) == 1


@pytest.mark.parametrize(
    ("path", "train"),
    [
        ("", "images/train*/*.png"),
        ("", "../images/train*"),
        (".", "./images/../images/train*"),
        ("images", "train*/*"),
        ("", "**/train?/*.png"),
        ("", "lists/*.txt"),
    ],
)
def test_wildcards_stand_for_all_that_fits(tmp_path, path, train):
    for folder in ("train1", "train2", "val"):
        draw(tmp_path / f"images/{folder}/a.png", (10, 10))
        write(tmp_path / f"labels/{folder}/a.txt", "0 .5 .5 .2 .2\n")
        write(tmp_path / f"images/{folder}/a.txt", "not looked at")
        write(tmp_path / f"lists/{folder}.txt", f"images/{folder}/a.png" if folder != "val" else "")
    write(tmp_path / "data.yaml", f"path: {path}\ntrain: '{train}'\nval: images/val\nnames: [cat]\n")
    records = read(tmp_path)
    names = ["images/train1/a.png", "images/train2/a.png", "images/val/a.png"]
    assert sorted(os.fsdecode(name) for name in records.file_names) == names
    assert records["split"].tolist() == [0, 0, 1]
    assert len(records.boxes.labels) == 3


def test_a_folder_outside_is_found_with_its_labels(tmp_path):
    draw(tmp_path / "elsewhere/images/a.png", (10, 10))
    write(tmp_path / "elsewhere/labels/a.txt", "0 .5 .5 .2 .2")
    write(tmp_path / "configs/data.yaml", f"train: {tmp_path}/elsewhere/images\nnames: [cat]")
    records = read(tmp_path / "configs")
    assert records.path(0).is_file()
    assert len(records.boxes.labels) == 1


def test_paths_of_which_none_is_there_are_refused_and_one_is_counted(tmp_path):
    root = one_image(tmp_path, "0 0.5 0.5 1 1\n", "test: ../test/images\nnames: [cat]\n")
    assert any(
        "are not there" in what and first == "test: ../test/images" for what, (_, first) in issues(read(root)).items()
    )
    write(root / "data.yaml", "train: gone\nval: lost\nnames: [cat]")
    with pytest.raises(InputError, match="train: gone"):
        read(root)


def test_the_last_images_of_a_path_becomes_labels(tmp_path):
    draw(tmp_path / "images/old/images/a.png", (10, 10))
    write(tmp_path / "images/old/labels/a.txt", "0 .5 .5 .2 .2\n")
    write(tmp_path / "labels/old/images/a.txt", "0 .5 .5 1 1\n")
    np.testing.assert_allclose(read(tmp_path).boxes.xywh, [[4, 4, 2, 2]])


def test_polygons_become_boxes(tmp_path):
    records = read(one_image(tmp_path, "1 0.1 0.2 0.5 0.2 0.3 0.8\n0 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n"))
    np.testing.assert_allclose(records.boxes.xywh, [[10, 10, 40, 30], [10, 5, 10, 10]])
    assert records.boxes.labels.tolist() == [1, 0]


def test_keypoints_are_passed_over(tmp_path):
    text = "0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.9 0.9 0\n"
    write(tmp_path / "x", "")
    with pytest.raises(InputError, match="outside"):  # it may be a polygon
        read(one_image(tmp_path, text))
    records = read(one_image(tmp_path, text, "kpt_shape: [2, 3]\nnames: [cat]\n"))
    np.testing.assert_allclose(records.boxes.xywh, [[40, 15, 20, 20]])


@pytest.mark.parametrize(
    "line",
    ["0 0.5 x 0.1 0.1", "0 0.5 0.5 0.1", "0 0.5 0.5 0.1 0.1 0.9", "0 1.2 0.5 0.1 0.1", "0 0.5 0.5 -0.1 0.1",
     "0 nan 0.5 0.1 0.1", "2 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1", "inf 0.5 0.5 0.1 0.1",
     "cat 0.5 0.5 0.1 0.1", "0 0.5 0.5 \xff 0.1"],
)  # fmt: skip
def test_a_bad_line_is_dropped_and_counted_and_its_image_stays(tmp_path, line):
    records = read(one_image(tmp_path, f"0 0.5 0.5 1 1\n\n{line}\n1 1.0000005 0.5 0.1 0.1\r\n"))
    assert records.boxes.labels.tolist() == [0, 1]
    dropped = [found for what, found in issues(records).items() if "dropped" in what]
    assert dropped == [(1, "labels/train/a.txt, line 3")]


@pytest.mark.parametrize("text", ["2 .5 .5 1 1\n", "0 .5 x 1 1\n9 .5 .5 1 1\n", None])
def test_an_image_without_a_line_that_can_be_used_is_not_one_without_objects(tmp_path, text):
    root = one_image(tmp_path, "0 .5 .5 1 1\n7 .5 .5 1 1\n")
    draw(root / "images/train/b.png", (10, 10))
    draw(root / "images/train/c.png", (10, 10))
    write(root / "labels/train/c.txt", "\n")
    if text is None:
        (root / "labels/train/b.txt").mkdir()  # cannot be read
    else:
        write(root / "labels/train/b.txt", text)
    records = read(root)
    assert records["problem"].tolist() == [b"", LOST, b""]
    assert records.boxes.offsets.tolist() == [0, 1, 1, 1]
    counted = [
        first for what, (_, first) in issues(records).items() if what.startswith("image") and "split" not in what
    ]
    assert sorted(counted) == ["images/train/b.png", "images/train/c.png"]


CORNERS = "0 .1 .1 .9 .9\n1 .5 .6 .9 .9\n0 .2 .7 .8 1\n"


@pytest.mark.parametrize("text", [CORNERS, (CORNERS + "0 .1 .1 .3 .3\n") * 3])
def test_corners_in_place_of_middle_and_size_are_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"(2 of 3|6 of 12) leave"):
        read(one_image(tmp_path, text))


@pytest.mark.parametrize(
    "text", [CORNERS * 4 + "1 .5 .5 .2 .2\n", "0 .5 .5 1 1\n" * 20, "0 .1 .1 .11 .11\n" * 20, "0 .4 .4 .9 .9\n" * 20]
)
def test_boxes_that_may_be_middle_and_size_are_used(tmp_path, text):
    records = read(one_image(tmp_path, text))
    np.testing.assert_allclose(records.boxes.xywh[-1, 2:] / (100, 50), [float(word) for word in text.split()[-2:]])


@pytest.mark.parametrize("description", [True, False])
def test_images_of_a_kind_that_cannot_be_read_are_counted(tmp_path, description):
    root = one_image(tmp_path, "0 .5 .5 1 1\n")
    for name in ("b.psd", "c.PSD", "d.cr2"):
        write(root / "images/train" / name, "")
    write(root / "e.psd", "")  # not where images are
    if not description:
        (root / "data.yaml").unlink()
    counts = {what.split()[0]: count for what, (count, _) in issues(read(root)).items() if "kind of image" in what}
    assert counts == {".psd": 2, ".cr2": 1}


def test_where_no_line_can_be_used_the_first_is_named(tmp_path):
    with pytest.raises(InputError, match=r"labels/train/a\.txt, line 1: not one of the 2 lines.*outside 0 to 1"):
        read(one_image(tmp_path, "0 50 25 10 10\n0 20 25 10 10\n"))


def test_images_without_objects_stay_and_splits_without_texts_do_not(tmp_path):
    root = one_image(tmp_path, "0 .5 .5 1 1\n")
    draw(root / "images/train/empty.png", (10, 10))
    write(root / "labels/train/empty.txt", "\n")
    draw(root / "images/train/none.png", (10, 10))
    draw(root / "images/test/t.png", (10, 10))
    write(root / "data.yaml", "train: images/train\ntest: images/test\nnames: [cat]\n")
    records = read(root)
    assert records.file_names.tolist() == [b"images/train/a.png", b"images/train/empty.png", b"images/train/none.png"]
    assert records.boxes.offsets.tolist() == [0, 1, 1, 1]
    assert len(records.notes) == 1
    (root / "labels/train/a.txt").unlink()
    (root / "labels/train/empty.txt").unlink()
    with pytest.raises(InputError, match="images of train has a text file"):
        read(root)


def test_images_that_two_splits_list_are_in_the_first_alone(tmp_path):
    records = read(one_image(tmp_path, "0 .5 .5 1 1\n"))  # Ultralytics' coco128 has one folder for both
    assert records["split"].tolist() == [0]
    assert any("another split" in what for what in issues(records))


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: [no, 'on', 1]", {0: "no", 1: "on", 2: "1"}),
        ("names: {0: cat, 2: dog}", {0: "cat", 2: "dog"}),
        ("names:\n  '1': cat\n  0: dog", {0: "dog", 1: "cat"}),
        ("nc: 2", {0: "0", 1: "1"}),
        ("names: my.names", {0: "cat", 1: "dog"}),
    ],
)
def test_names_are_a_list_a_mapping_a_count_or_a_file(tmp_path, names, classes):
    write(tmp_path / "my.names", "cat\ndog\n\n")
    records = read(one_image(tmp_path, "0 .5 .5 1 1\n", names))
    assert dict(zip(records.class_ids, records.classes, strict=True)) == classes
    assert records.boxes.labels.tolist() == [0]


def test_without_names_the_classes_are_numbers(tmp_path):
    draw(tmp_path / "images/a.png", (10, 10))
    write(tmp_path / "labels/a.txt", "2 .5 .5 .2 .2\n99999999 .5 .5 .2 .2")
    records = read(tmp_path)
    assert records.classes == ("0", "1", "2")
    assert records.boxes.labels.tolist() == [2]
    assert len(records.notes) == 1


@pytest.mark.parametrize("text", ["names: [cat\ntrain: x", "names: {a: cat}\ntrain: x", "names: []\ntrain: x",
                                  "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: x",
                                  "train: {a: b}\nnames: [cat]", "names: \xff\0"])  # fmt: skip
def test_a_description_that_cannot_be_used_is_one_sentence(tmp_path, text):
    one_image(tmp_path, "0 .5 .5 1 1\n")
    (tmp_path / "data.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"data\.yaml"):
        read(tmp_path)


def test_missing_and_broken_images_are_known_as_bad(tmp_path):
    root = one_image(tmp_path, "0 .5 .5 1 1\n")
    write(root / "images/train/b.png", "")
    write(root / "labels/train/b.txt", "0 .5 .5 1 1\n")
    write(root / "list.txt", "".join(f"./images/train/{name}.png\n" for name in "abc"))
    write(root / "data.yaml", "train: list.txt\nnames: [cat]\n")
    records = read(root)
    assert records["sizes"].tolist() == [[50, 100], [0, 0], [0, 0]]
    assert [bool(problem) for problem in records["problem"].tolist()] == [False, True, True]


def test_names_that_are_no_utf_8_are_files_too(tmp_path):
    root = one_image(tmp_path, "0 .5 .5 1 1\n")
    for folder, ending in (("images", b".png"), ("labels", b".txt")):
        path = os.fsencode(root / folder / "train")
        os.rename(path + b"/a" + ending, path + b"/\xe9" + ending)  # noqa: PTH104
    records = read(root)
    assert records.file_names.tolist() == [b"images/train/\xe9.png"]
    assert len(records.boxes.labels) == 1
