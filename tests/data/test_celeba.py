import re
import time

import numpy as np
import pytest
from helpers import tree
from PIL import Image

from backbone import InputError
from data.attributes import read_attributes
from data.celeba import LICENCE, is_celeba, read_celeba

NAMES = ("5_o_Clock_Shadow", "Eyeglasses", "Smiling", "Wearing_Hat")
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


def file_name(row):
    return f"{row + 1:06}.jpg"


def write_lists(root, values, parts=None, people=None):
    """The lists as they are distributed: count, names with a space behind, values padded to two places."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [f"{file_name(i)} " + " ".join(f"{value:2}" for value in row) for i, row in enumerate(values.tolist())]
    names = NAMES[: values.shape[1]]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(len(values)), " ".join(names) + " ", *rows, ""]))
    for name, column in (("list_eval_partition.txt", parts), ("identity_CelebA.txt", people)):
        if column is not None:
            (root / name).write_text("".join(f"{file_name(i)} {value}\n" for i, value in enumerate(column)))


def write_celeba(root, count=30, parts=None, people=None, pictures=None, seed=0):
    """CelebA in `root` with `count` rows, and pictures of the rows in `pictures`; all of them by default."""
    values = np.random.default_rng(seed).choice([-1, 1], (count, len(NAMES)))
    write_lists(root, values, parts, people)
    (root / "img_align_celeba").mkdir()
    for i in range(count) if pictures is None else pictures:
        Image.new("RGB", (18, 22), (i, 0, 0)).save(root / "img_align_celeba" / file_name(i))
    return values


def parsed(root):
    """What the lists say, read word by word: file to (values, part, person)."""
    lines = (root / "list_attr_celeba.txt").read_text().splitlines()
    rows = {line.split()[0]: [max(int(word), 0) for word in line.split()[1:]] for line in lines[2:]}
    columns = []
    for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
        words = (root / name).read_text().split()
        columns.append(dict(zip(words[::2], map(int, words[1::2]), strict=True)))
    return {file: (values, columns[0][file], columns[1][file]) for file, values in rows.items()}


def names_of(images):
    return [name.decode() for name in images.file_names.tolist()]


def test_all_three_lists_are_read_as_a_plain_parser_reads_them(tmp_path):
    parts = np.random.default_rng(1).integers(0, 3, 30)
    people = 100 + np.arange(30) // 2 * 3
    parts = parts[np.arange(30) // 2]  # one part for each person
    write_celeba(tmp_path / "celeba", parts=parts, people=people)
    before = tree(tmp_path)
    data = read_celeba(tmp_path / "celeba")
    expected = parsed(tmp_path / "celeba")
    assert data.attributes == NAMES
    assert data.licence == LICENCE
    assert data.notes == ()
    for number, split in enumerate(("train", "val", "test")):
        images = data.splits[split]
        assert names_of(images) == [file for file, (_, part, _) in expected.items() if part == number]
        for position, file in enumerate(names_of(images)):
            values, _, person = expected[file]
            assert images.targets[position].tolist() == values
            assert images.identities[position] == person
            assert images.path(position) == tmp_path / "celeba" / "img_align_celeba" / file
            assert images.path(position) in images
    assert data.splits["train"].targets.dtype == np.int8
    assert data.splits["train"].identities.dtype == np.int64
    assert data.splits["val"].path(0) not in data.splits["train"]
    assert tree(tmp_path) == before


def test_the_folders_that_it_is_distributed_in_do_as_well(tmp_path):
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    for root in (flat, deep):
        write_celeba(root, parts=[0, 1, 2] * 10, people=range(30))
    for folder, names in {
        "Anno": ("list_attr_celeba.txt", "identity_CelebA.txt"),
        "Eval": ("list_eval_partition.txt",),
        "Img": ("img_align_celeba",),
    }.items():
        (deep / folder).mkdir()
        for name in names:
            (deep / name).rename(deep / folder / name)
    assert is_celeba(deep)
    for split, images in read_celeba(deep).splits.items():
        assert np.array_equal(images.file_names, read_celeba(flat).splits[split].file_names)
        assert images.path(0).exists()


def test_byte_order_mark_line_ends_and_blank_lines_change_nothing(tmp_path):
    write_celeba(tmp_path, parts=[0, 1, 2] * 10, people=range(30))
    plain = read_celeba(tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    again = read_celeba(tmp_path)
    assert again.attributes == plain.attributes
    for split, images in plain.splits.items():
        for field in ("file_names", "targets", "identities"):
            assert np.array_equal(getattr(again.splits[split], field), getattr(images, field))


def test_rows_without_a_picture_are_left_out_and_counted(tmp_path):
    pictures = [1, 2, 5, 9, 14, 22, 29]
    values = write_celeba(tmp_path, parts=[0, 0, 1, 1, 2, 2] * 5, pictures=pictures)
    Image.new("RGB", (9, 9)).save(tmp_path / "img_align_celeba" / "other.jpg")
    (tmp_path / "img_align_celeba" / ".hidden.jpg").write_bytes(b"")
    data = read_celeba(tmp_path)
    kept = {split: [file_name(i) for i in pictures if i % 6 // 2 == k] for k, split in enumerate(data.splits)}
    assert {split: names_of(images) for split, images in data.splits.items()} == kept
    assert data.splits["val"].targets.tolist() == [(values[i] > 0).astype(int).tolist() for i in (2, 9, 14)]
    assert re.search(r"^23 of the 30 pictures of .*are not there and left out \(first: 000001\.jpg\)", data.notes[0])
    assert re.search(r"^1 files in .*img_align_celeba are not in .*list_attr_celeba\.txt", data.notes[1])


def test_without_a_partition_people_are_drawn_whole_where_they_are_known(tmp_path):
    people = np.random.default_rng(2).integers(0, 40, 200)
    write_celeba(tmp_path, 200, people=people)
    data = read_celeba(tmp_path, val_fraction=0.2, test_fraction=0.1, seed=3)
    seen = {split: set(images.identities.tolist()) for split, images in data.splits.items()}
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]
    assert sum(map(len, data.splits.values())) == 200
    most = np.bincount(people).max()  # a part is full once it has its number of pictures; the last person may exceed it
    assert 40 <= len(data.splits["val"]) < 40 + most
    assert 20 <= len(data.splits["test"]) < 20 + most
    (note,) = data.notes
    assert "leaves no picture for validation and testing" in note
    assert "drawn by person with seed 3" in note
    same, other = (read_celeba(tmp_path, val_fraction=0.2, seed=seed).splits["val"].file_names for seed in (3, 4))
    assert np.array_equal(same, data.splits["val"].file_names)
    assert not np.array_equal(same, other)


def test_without_a_partition_and_people_pictures_are_drawn_and_it_says_so(tmp_path):
    write_celeba(tmp_path, 50)
    data = read_celeba(tmp_path, val_fraction=0.2, test_fraction=0.1)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 35, "val": 10, "test": 5}
    assert len({name for images in data.splits.values() for name in names_of(images)}) == 50
    assert data.splits["val"].identities is None
    assert "10 and 5 of its 50 training pictures, drawn by picture (it is not known who is on which)" in data.notes[0]


def test_the_first_pictures_alone_are_all_of_the_official_training_part_and_are_divided(tmp_path):
    parts = [0] * 20 + [1] * 5 + [2] * 5
    write_celeba(tmp_path, parts=parts, pictures=range(20))
    data = read_celeba(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 16, "val": 2, "test": 2}
    assert re.search(r"list_eval_partition\.txt leaves no picture for validation and testing", data.notes[-1])
    for i in range(25, 30):  # with the official test pictures, those are the test
        Image.new("RGB", (18, 22)).save(tmp_path / "img_align_celeba" / file_name(i))
    data = read_celeba(tmp_path)
    assert names_of(data.splits["test"]) == [file_name(i) for i in range(25, 30)]
    assert len(data.splits["val"]) == 2


def test_people_without_a_row_are_unknown_and_people_in_two_parts_are_counted(tmp_path):
    write_celeba(tmp_path, parts=[0, 1, 2] * 10, people=[7, 7, 8, *range(10, 36), 99])
    lines = (tmp_path / "identity_CelebA.txt").read_text().splitlines(keepends=True)
    (tmp_path / "identity_CelebA.txt").write_text("".join(lines[:-1]))
    data = read_celeba(tmp_path)
    assert data.splits["test"].identities[-1] == -1
    assert re.search(r"^1 of 30 pictures are not in .*identity_CelebA\.txt", data.notes[0])
    assert re.search(r"^1 of the people in .* are in more than one split", data.notes[1])


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", b"30\n", b"31\n", r"list_attr_celeba\.txt has 30 rows, but line 1 says 31"),
        ("list_attr_celeba.txt", b"30\n", b"image_id\n", "line 1 is 'image_id', not the number of pictures"),
        ("list_attr_celeba.txt", b" Smiling", b"", "line 3: 4 values after .* but line 2 names 3 attributes"),
        ("list_attr_celeba.txt", b"Smiling", b"Eyeglasses", "line 2 names Eyeglasses more than once"),
        ("list_attr_celeba.txt", rb"(?m)^000004.jpg *-?1", b"000004.jpg", "line 6: 3 values after"),
        ("list_attr_celeba.txt", rb"(?m)^000004.jpg *-?1", b"000004.jpg  0", "line 6: 5_o_.* is '0'; it must be 1 or"),
        ("list_attr_celeba.txt", rb"-?1\s*\Z", b"-12\n", "line 32: Wearing_Hat is '-12'.*1 such values"),
        ("list_attr_celeba.txt", b"000009", b"000008", r"lists 000008\.jpg more than once \(1 such rows\)"),
        ("list_attr_celeba.txt", rb"(?s)\A.*\Z", QUOTA, "is a web page, not a list: Google Drive"),
        ("list_eval_partition.txt", rb"(?s)\A.*\Z", QUOTA, r"partition\.txt is a web page"),
        ("identity_CelebA.txt", rb"(?s)\A.*\Z", QUOTA, r"identity_CelebA\.txt is a web page"),
        ("list_attr_celeba.txt", rb"(?s)\A.*\Z", b"", "line 1 is '', not the number"),
        ("list_eval_partition.txt", rb"(?s)\A.*\Z", b"", "has no rows"),
        ("list_eval_partition.txt", b"000002.jpg 1", b"000002.jpg 3", "line 2: the part of 000002.jpg is '3'"),
        ("list_eval_partition.txt", b"000002.jpg 1\n", b"", r"no row for 000002\.jpg \(1 of the 30"),
        ("list_eval_partition.txt", b"000002.jpg", b"000001.jpg", r"lists 000001\.jpg more than once"),
        ("identity_CelebA.txt", b"000002.jpg 1", b"000002.jpg x", "line 2: the person is 'x', not a number"),
        ("identity_CelebA.txt", b"000002.jpg 1", b"000002.jpg", "line 2: 0 values after the picture's name"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, name, old, new, message):
    write_celeba(tmp_path, parts=[0, 1, 2] * 10, people=range(30))
    path = tmp_path / name
    content = path.read_bytes().rstrip() + b"\n"
    changed = re.sub(old, new, content, count=1)
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(InputError, match=message) as raised:
        read_celeba(tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_named(tmp_path):
    write_celeba(tmp_path / "celeba", pictures=())
    assert is_celeba(tmp_path / "celeba")
    with pytest.raises(InputError, match=r"img_align_celeba holds none of the 30 pictures .* such as 000001\.jpg"):
        read_celeba(tmp_path / "celeba")
    (tmp_path / "celeba" / "img_align_celeba").rmdir()
    with pytest.raises(InputError, match=r"has no img_align_celeba/; unpack img_align_celeba\.zip there"):
        read_celeba(tmp_path / "celeba")
    (tmp_path / "bare" / "img_align_celeba").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no list_attr_celeba\.txt"):
        read_attributes(tmp_path / "bare")
    assert not is_celeba(tmp_path)
    with pytest.raises(InputError, match=r"neither attributes\.csv.*; is .*bare meant\?"):
        read_attributes(tmp_path)
    write_celeba(tmp_path / "few", count=2)
    with pytest.raises(InputError, match="too few pictures to train on to set some of them aside for val and test"):
        read_celeba(tmp_path / "few")
    write_celeba(tmp_path / "same", people=[5] * 20 + [6] * 10)
    with pytest.raises(InputError, match="too few people"):
        read_celeba(tmp_path / "same")


def test_lists_of_the_real_size_are_read_in_seconds(tmp_path):
    """The 202,599 rows of 40 values; each picture is a name without bytes, since no picture is opened."""
    count = 202_599
    values = np.random.default_rng(0).choice(np.array([b" -1", b"  1"]), (count, 40))
    ids = np.char.zfill(np.arange(1, count + 1).astype(str), 6).astype(bytes)
    rows = b"\n".join(name + b".jpg" + row.tobytes() for name, row in zip(ids.tolist(), values, strict=True))
    names = " ".join(f"a{k}" for k in range(40)).encode()
    (tmp_path / "list_attr_celeba.txt").write_bytes(b"%d\n%s \n%s\n" % (count, names, rows))
    parts = [f"{i + 1:06}.jpg {0 if i < 162770 else 1 if i < 182637 else 2}\n" for i in range(count)]
    (tmp_path / "list_eval_partition.txt").write_text("".join(parts))
    (tmp_path / "img_align_celeba").mkdir()
    for i in (0, 162770, 202_598):
        (tmp_path / "img_align_celeba" / f"{i + 1:06}.jpg").write_bytes(b"")
    start = time.process_time()
    data = read_celeba(tmp_path)
    assert time.process_time() - start < 5  # about 1.5 s of one core
    assert data.splits["train"].targets[0].tolist() == (values[0] == b"  1").astype(int).tolist()
    assert data.splits["test"].targets[0].tolist() == (values[-1] == b"  1").astype(int).tolist()
