import csv

import numpy as np
import pytest
from helpers import ATTRIBUTES, faces, image_file, names, one_sentence, tree, write_attributes
from PIL import Image

from data.layouts import read_attributes
from data.readers.attribute_csv import UNKNOWN, read
from data.records import SPLITS


def test_a_csv_is_read_as_a_plain_parser_reads_it(tmp_path):
    root = faces(tmp_path / "faces")
    before = tree(root)
    records = read(root)
    with (root / "attributes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert records.classes == ATTRIBUTES
    assert (records.notes, records.issues) == ((), ())
    assert names(records) == [row["path"] for row in rows]
    values = [[UNKNOWN if row[name] == "" else int(row[name]) for name in ATTRIBUTES] for row in rows]
    assert records["attributes"].tolist() == values
    assert records["attributes"].dtype == np.int8
    assert [SPLITS[split] for split in records["split"]] == [row["split"] for row in rows]
    assert records.path(1) == root / "train" / "01.png"
    assert "identities" not in records.columns
    assert tree(root) == before


def test_every_way_to_write_a_value_and_a_line(tmp_path):
    root = write_attributes(tmp_path, [(f"{i}.png", 0, 0) for i in range(9)])
    text = "\ufeffPath , Smiling,Odd\r\n"
    text += "./0.png,1,0\r\n1.png,0, 1 \r\n\r\n2.png,TRUE,false\r\n3.png,False,True\r\n4.png,1.0,0.0\r\n5.png,, \r\n"
    text += f'"6.png","1","0"\r\n{root.resolve()}/7.png,1,0\r\n8.png,0,1\r\n,,\r\n'
    for written in (text, text.replace(",", ";")):
        (root / "attributes.csv").write_text(written, newline="")
        records = read(root / "attributes.csv")
        assert records.classes == ("Smiling", "Odd")
        assert names(records) == [f"{i}.png" for i in range(9)]
        values = [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [-1, -1], [1, 0], [1, 0], [0, 1]]
        assert records["attributes"].tolist() == values


def test_identities_are_any_text_and_an_image_of_nobody_known_is_a_group_of_its_own(tmp_path):
    texts = [f"person {i // 4}" if i < 36 else "" for i in range(40)]
    rows = [(f"{i}.png", i % 2, text) for i, text in enumerate(texts)]
    records = read(write_attributes(tmp_path, rows, ("path", "Smiling", "identity")))
    people, groups = records["identities"].tolist(), records["group"].tolist()
    assert len({*zip(people, texts, strict=True)}) == len({*people}) == 10  # one number for each text
    assert people[36:] == [-1] * 4
    assert groups == [b"person %d" % person for person in people[:36]] + [b"%d.png" % i for i in range(36, 40)]
    assert (records.grouped_by, records.classes) == ("person", ("Smiling",))


def test_images_of_a_csv_that_are_not_there_are_left_out_and_counted(tmp_path):
    root = faces(tmp_path)
    (root / "train" / "03.png").unlink()
    (root / "val" / "00.png").unlink()
    records = read(root)
    assert np.bincount(records["split"]).tolist() == [11, 3, 4]
    [issue] = records.issues
    assert (issue.count, issue.first) == (2, "train/03.png")
    assert "train/03.png" not in names(records)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,Smiling\na.png,-1\n", "line 2: Smiling is '-1'.*CelebA"),
        ("path,Smiling\na.png,1\nb.png,2\n", "line 3: Smiling is '2'"),
        ("path,Smiling\na.png,1\nb.png,0\n./a.png,0\n", r"a\.png more than once"),
        ("path\na.png\n", "no attribute column"),
        ("path,split,identity\na.png,val,x\n", "no attribute column"),
        ("title,Smiling\na.png,1\n", "no column `path`"),
        ("path,Smiling,Smiling\na.png,1,1\n", "'Smiling' more than once"),
        ("path,Smiling,\na.png,1,1\n", "column without a name"),
        ("path,Smiling\na.png\n", "line 2"),
        ("path,Smiling\n", "no images"),
        ("", "is empty"),
        ("path,Smiling\n,1\n", "line 2: the path is empty"),
        ("path,Smiling,split\na.png,1,spare\n", "line 2: the split is 'spare'"),
        ("<!DOCTYPE html>\n<html></html>", "web page"),
        ("path,Smil\xffng\na.png,1\n", "UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_by_its_line(tmp_path, text, named):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "attributes.csv").write_bytes(text.encode("latin-1"))
    with one_sentence(rf"attributes\.csv.*{named}"):
        read_attributes(tmp_path)


def test_paths_with_backslashes_are_found_and_two_rows_of_one_file_refused(tmp_path):
    root = write_attributes(tmp_path, [(f"faces/{i}.png", i % 2, 0) for i in range(12)], ("path", "Smiling", "Hat"))
    file = root / "attributes.csv"
    file.write_text(file.read_text().replace("faces/", "faces\\"))
    records = read(root)
    assert names(records) == [f"faces/{i}.png" for i in range(12)]
    assert records["attributes"][:, 0].tolist() == [0, 1] * 6
    assert [note.split(" (")[0] for note in records.notes] == [
        f"12 file names of {file} found otherwise than written: 12 with / for \\"
    ]
    file.write_text(file.read_text() + "faces/3.png,1,0\n")
    with one_sentence("faces/3.png more than once"):
        read(root)


def test_photographs_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    root = write_attributes(tmp_path, [(f"{i}.png", i % 2, 0) for i in range(4)], ("path", "Smiling", "Hat"))
    for name in ("4.DJVU", "5.djvu", "6.NEF"):
        (root / name).write_bytes(b"ftypdjvu")
        with (root / "attributes.csv").open("a") as file:
            file.write(f"{name},1,0\n")
    (root / "0.png").unlink()
    records = read(root)
    assert names(records) == ["1.png", "2.png", "3.png"]
    assert [(issue.count, issue.what.split()[0]) for issue in records.issues] == [
        (2, ".djvu"),
        (1, ".nef"),
        (1, "listed"),
    ]
    for i in (1, 2, 3):
        (root / f"{i}.png").unlink()
    with one_sentence(r"no image that can be read: 2 \.djvu files"):
        read(root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("separator", "first"), [(";", ""), ("\t", ""), (";", "sep=;\r\n"), (",", "")])
@pytest.mark.parametrize("column", ["PATH", "Filename", "image_id"])
def test_a_table_of_a_spreadsheet_is_read_as_it_is_meant(tmp_path, separator, first, column, encoding):
    rows = [
        [f"faces\\{i}.png", ("Train", "valid", "TESTING")[i % 3], i % 2, "yes" if i % 3 else "No"] for i in range(12)
    ]
    for row in rows:
        image_file(tmp_path / row[0].replace("\\", "/"), 1)
    table = [[column, "Split", "Smiling", "Hat"], *rows]
    text = first + "".join(separator.join(map(str, row)) + "\r\n" for row in table)
    (tmp_path / "attributes.csv").write_bytes(text.encode(encoding))
    records = read(tmp_path)
    assert records.classes == ("Smiling", "Hat")
    assert names(records) == [f"faces/{i}.png" for i in range(12)]
    assert records["attributes"].tolist() == [[i % 2, int(i % 3 > 0)] for i in range(12)]
    assert records["split"].tolist() == [0, 1, 2] * 4


def test_rows_that_say_the_same_again_count_once(tmp_path):
    root = write_attributes(
        tmp_path, [(f"{i}.png", i % 2, "", "a") for i in range(4)], ("path", "Smiling", "Hat", "identity")
    )
    with (root / "attributes.csv").open("a") as file:
        file.write("./2.png,0,,a\n1.png,1,,a\n1.png,1,,a\n")
    records = read(root)
    assert names(records) == ["0.png", "1.png", "2.png", "3.png"]
    assert records["attributes"].tolist() == [[0, -1], [1, -1], [0, -1], [1, -1]]
    assert [(issue.count, issue.first) for issue in records.issues] == [(3, "2.png")]
    with (root / "attributes.csv").open("a") as file:
        file.write("3.png,1,1,a\n")
    with one_sentence(r"lists 3\.png more than once \(1 such"):
        read(root)
