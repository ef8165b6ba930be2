import re
import time

import numpy as np
import pytest
from helpers import names, one_sentence, tree
from PIL import Image

from backbone import InputError
from data.layouts import read_attributes
from data.readers.celeba import LICENCE, is_celeba, read
from data.records import SPLITS
from data.splits import assign_splits

NAMES = ("5_o_Clock_Shadow", "Eyeglasses", "Smiling", "Wearing_Hat")
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


def file_name(row):
    return f"{row + 1:06}.jpg"


def write_celeba(root, count=30, parts=None, people=None, images=None):
    """CelebA's lists in `root` as they are distributed, with `count` rows, and images of the rows in `images`, or all.

    First the number of rows, then names with a space behind; values are padded to two places.
    """
    (root / "img_align_celeba").mkdir(parents=True)
    values = np.random.default_rng(0).choice([-1, 1], (count, len(NAMES)))
    rows = [f"{file_name(i)} " + " ".join(f"{value:2}" for value in row) for i, row in enumerate(values.tolist())]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(count), " ".join(NAMES) + " ", *rows, ""]))
    for name, column in (("list_eval_partition.txt", parts), ("identity_CelebA.txt", people)):
        if column is not None:
            (root / name).write_text("".join(f"{file_name(i)} {value}\n" for i, value in enumerate(column)))
    for i in range(count) if images is None else images:
        Image.new("RGB", (18, 22), (i, 0, 0)).save(root / "img_align_celeba" / file_name(i))
    return values


def assert_same(one, other):
    assert (one.classes, names(one)) == (other.classes, names(other))
    assert all(np.array_equal(one[column], other[column]) for column in other.columns)


def test_all_three_lists_are_read(tmp_path):
    parts = np.random.default_rng(1).integers(0, 3, 30)
    people = 100 + np.arange(30) // 2 * 3
    values = write_celeba(tmp_path / "celeba", parts=parts, people=people)
    before = tree(tmp_path)
    records = read(tmp_path / "celeba")
    assert records.classes == NAMES
    assert records.notes == (LICENCE,)
    assert records.issues == ()
    assert [records.path(i) for i in range(30)] == [
        tmp_path / "celeba/img_align_celeba" / file_name(i) for i in range(30)
    ]
    assert records["attributes"].tolist() == (values > 0).astype(int).tolist()
    assert records["split"].tolist() == parts.tolist()
    assert records["identities"].tolist() == people.tolist()
    assert (records.grouped_by, records["group"].tolist()) == ("person", [b"person %d" % person for person in people])
    assert [records[name].dtype for name in ("attributes", "split", "identities")] == [np.int8, np.int8, np.int64]
    assert tree(tmp_path) == before


def test_the_folders_that_it_is_distributed_in_do_as_well(tmp_path):
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    for root in (flat, deep):
        write_celeba(root, parts=[0, 1, 2] * 10, people=range(30))
    parts = ("list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt", "img_align_celeba")
    for name, folder in zip(parts, ("Anno", "Anno", "Eval", "Img"), strict=True):
        (deep / folder).mkdir(exist_ok=True)
        (deep / name).rename(deep / folder / name)
    assert is_celeba(deep)
    assert_same(read(flat), read(deep))
    assert read(deep).path(0).exists()


def test_byte_order_mark_line_ends_and_blank_lines_change_nothing(tmp_path):
    write_celeba(tmp_path, parts=[0, 1, 2] * 10, people=range(30))
    plain = read(tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert_same(read(tmp_path), plain)


def test_rows_without_an_image_are_left_out_and_counted(tmp_path):
    images = [1, 2, 5, 9, 14, 22, 29]
    values = write_celeba(tmp_path, parts=[0, 0, 1, 1, 2, 2] * 5, images=images)
    Image.new("RGB", (9, 9)).save(tmp_path / "img_align_celeba" / "other.jpg")
    (tmp_path / "img_align_celeba" / ".hidden.jpg").write_bytes(b"")
    records = read(tmp_path)
    assert names(records) == [file_name(i) for i in images]
    assert records["attributes"].tolist() == (values[images] > 0).astype(int).tolist()
    assert records["split"].tolist() == [i % 6 // 2 for i in images]
    assert [(issue.count, issue.first) for issue in records.issues] == [(23, "000001.jpg"), (1, "other.jpg")]


def as_kaggle(root, separator=",", mark=""):
    """Turn CelebA's lists into Kaggle's CSVs, and its folder into one of a folder, as its archive unpacks."""
    for name, header in (("list_attr_celeba", None), ("list_eval_partition", "partition"), ("identity_CelebA", "id")):
        lines = (root / f"{name}.txt").read_text().splitlines()
        head = lines[1].split() if header is None else [header]
        rows = [["image_id", *head], *(line.split() for line in lines[2 if header is None else 0 :])]
        (root / f"{name}.csv").write_text(mark + "".join(separator.join(row) + "\n" for row in rows))
        (root / f"{name}.txt").unlink()
    (root / "img_align_celeba").rename(root / "images")
    (root / "img_align_celeba").mkdir()
    (root / "images").rename(root / "img_align_celeba/img_align_celeba")


@pytest.mark.parametrize(("separator", "mark"), [(",", ""), (";", "\ufeff")])
def test_the_lists_and_folders_of_kaggle_are_those_of_the_authors(tmp_path, separator, mark):
    parts = [0] * 20 + [1] * 4 + [2] * 6
    write_celeba(tmp_path / "set", parts=parts, people=range(30))
    expected = read(tmp_path / "set")
    as_kaggle(tmp_path / "set", separator, mark)
    (tmp_path / "set/list_bbox_celeba.csv").write_text("image_id,x_1,y_1,width,height\n")
    records = read_attributes(tmp_path / "set")
    assert_same(records, expected)
    assert np.bincount(records["split"]).tolist() == [20, 4, 6]
    assert (records.issues, records.notes) == ((), (LICENCE,))
    assert all(records.path(i).is_file() for i in range(30))
    text = (tmp_path / "set/list_attr_celeba.csv").read_text()
    (tmp_path / "set/list_attr_celeba.csv").write_text(re.sub(r"(000004.jpg.)-?1", r"\g<1>x", text))
    with one_sentence(r"list_attr_celeba\.csv, line 5"):
        read(tmp_path / "set")


@pytest.mark.parametrize("above", ["", "celeba", "CelebA"])
def test_the_folders_of_google_drive_and_torchvision_are_known(tmp_path, above):
    write_celeba(tmp_path / "set", parts=[0, 1, 2] * 10, people=range(30))
    expected = read(tmp_path / "set")
    root = tmp_path / "root" / above
    for place, name in (
        ("Anno", "list_attr_celeba.txt"),
        ("Anno", "identity_CelebA.txt"),
        ("Eval", "list_eval_partition.txt"),
        ("Img", "img_align_celeba"),
    ):
        (root / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).rename(root / place / name)
    assert_same(read_attributes(tmp_path / "root"), expected)
    for path in list(root.glob("*/*")):  # torchvision has all in one
        path.rename(root / path.name)
    assert_same(read_attributes(tmp_path / "root"), expected)


def test_people_without_a_row_are_unknown_and_people_in_two_parts_are_counted(tmp_path):
    write_celeba(tmp_path, parts=[0, 1, 2] * 10, people=[7, 7, 8, *range(10, 36), 99])
    lines = (tmp_path / "identity_CelebA.txt").read_text().splitlines(keepends=True)
    (tmp_path / "identity_CelebA.txt").write_text("".join(lines[:-1]))
    records = assign_splits(read(tmp_path), val_fraction=0.2, test_fraction=0.1, seed=3, source=tmp_path)
    assert records["identities"][-1] == -1
    assert records["group"][-1] == b"000030.jpg"
    assert [issue.count for issue in records.issues] == [1]
    assert re.match(r"1 of the .* \(by person\) have images in more than one split", records.notes[-1])


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        ("list_attr_celeba.txt", b"30\n", b"31\n", r"30 rows.*31"),
        ("list_attr_celeba.txt", b"30\n", b"image_id\n", "line 1 is 'image_id'"),
        ("list_attr_celeba.txt", b" Smiling", b"", "line 3"),
        ("list_attr_celeba.txt", b"Smiling", b"Eyeglasses", "Eyeglasses more than once"),
        ("list_attr_celeba.txt", rb"(?m)^000004.jpg *-?1", b"000004.jpg", "line 6"),
        ("list_attr_celeba.txt", rb"(?m)^000004.jpg *-?1", b"000004.jpg  0", "5_o_Clock_Shadow of 000004.jpg is 0"),
        ("list_attr_celeba.txt", rb"-?1\s*\Z", b"-12\n", "Wearing_Hat of 000030.jpg is -12"),
        ("list_attr_celeba.txt", rb"-?1\s*\Z", b"x\n", "line 32"),
        ("list_attr_celeba.txt", b"000009", b"000008", r"000008\.jpg more than once"),
        ("list_attr_celeba.txt", rb"(?s)\A.*\Z", QUOTA, "web page"),
        ("list_eval_partition.txt", rb"(?s)\A.*\Z", QUOTA, "web page"),
        ("identity_CelebA.txt", rb"(?s)\A.*\Z", QUOTA, "web page"),
        ("list_attr_celeba.txt", rb"(?s)\A.*\Z", b"", "line 1 is ''"),
        ("list_eval_partition.txt", rb"(?s)\A.*\Z", b"", "no rows"),
        ("list_eval_partition.txt", b"000002.jpg 1", b"000002.jpg 3", "000002.jpg is 3"),
        ("list_eval_partition.txt", b"000002.jpg 1\n", b"", r"no row for 000002\.jpg"),
        ("list_eval_partition.txt", b"000002.jpg", b"000001.jpg", r"000001\.jpg more than once"),
        ("identity_CelebA.txt", b"000002.jpg 1", b"000002.jpg x", "line 2"),
        ("identity_CelebA.txt", b"000002.jpg 1", b"000002.jpg", "line 2"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, name, old, new, named):
    write_celeba(tmp_path, parts=[0, 1, 2] * 10, people=range(30))
    path = tmp_path / name
    content = path.read_bytes().rstrip() + b"\n"
    changed = re.sub(old, new, content, count=1)
    assert changed != content
    path.write_bytes(changed)
    with one_sentence(rf"{name}.*{named}"):
        read(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    write_celeba(tmp_path / "set", images=())
    assert is_celeba(tmp_path / "set")
    with pytest.raises(InputError, match=r"img_align_celeba .*30.*000001\.jpg"):
        read(tmp_path / "set")
    (tmp_path / "set" / "img_align_celeba").rmdir()
    with pytest.raises(InputError, match="no img_align_celeba/"):
        read(tmp_path / "set")
    (tmp_path / "bare" / "img_align_celeba").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no list_attr_celeba\.txt"):
        read_attributes(tmp_path / "bare")
    assert not is_celeba(tmp_path)
    with pytest.raises(InputError, match=r"attributes\.csv.*bare"):
        read_attributes(tmp_path)


def test_lists_of_the_real_size_are_read_in_seconds(tmp_path):
    """The 202,599 rows of 40 values; each image is a name without bytes, since no image is opened."""
    count = 202_599
    values = np.random.default_rng(0).choice(np.array([b" -1", b"  1"]), (count, 40))
    ids = np.char.zfill(np.arange(1, count + 1).astype(str), 6).astype(bytes)
    rows = b"\n".join(name + b".jpg" + row.tobytes() for name, row in zip(ids.tolist(), values, strict=True))
    header = " ".join(f"a{k}" for k in range(40)).encode()
    (tmp_path / "list_attr_celeba.txt").write_bytes(b"%d\n%s \n%s\n" % (count, header, rows))
    parts = [f"{i + 1:06}.jpg {0 if i < 162770 else 1 if i < 182637 else 2}\n" for i in range(count)]
    (tmp_path / "list_eval_partition.txt").write_text("".join(parts))
    (tmp_path / "img_align_celeba").mkdir()
    for i in (0, 162770, 202_598):
        (tmp_path / "img_align_celeba" / f"{i + 1:06}.jpg").write_bytes(b"")
    start = time.process_time()
    records = read(tmp_path)
    assert time.process_time() - start < 5  # about 1.5 s of one core
    assert [SPLITS[split] for split in records["split"]] == ["train", "val", "test"]
    assert records["attributes"][0].tolist() == (values[0] == b"  1").astype(int).tolist()
    assert records["attributes"][-1].tolist() == (values[-1] == b"  1").astype(int).tolist()
