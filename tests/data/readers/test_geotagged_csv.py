import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import names, tree

from backbone import InputError
from data.layouts import read_places
from data.readers import geotagged_csv
from data.readers.coordinates_csv import choose_columns
from data.records import SPLITS, UNSPLIT

HEADER = ("path", "latitude", "longitude", "author")


def write_csv(root, rows, header=HEADER, name="images.csv", images=True):
    """A list in `root`, and an empty file for each row."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for row in rows if images else ():
        (root / str(row[0])).parent.mkdir(parents=True, exist_ok=True)
        (root / str(row[0])).touch()
    return root


def authors(count=40, each=3):
    """Rows by `count` authors with `each` images."""
    return [
        (f"{author:03}/{i}.png", author / 2 - 40, author * 3 - 150 + i / 10 + 0.01, f"author {author}")
        for author in range(count)
        for i in range(each)
    ]


def test_a_csv_is_read_as_a_plain_parser_reads_it(tmp_path):
    rows = [(*row, ("train", "Val", "testing")[i % 3]) for i, row in enumerate(authors(10))]
    root = write_csv(tmp_path, rows, (*HEADER, "split"))
    before = tree(root)
    for given in (root, root / "images.csv"):
        records = geotagged_csv.read(given)
        assert names(records) == [row[0] for row in rows]
        assert records["latlng"].tolist() == [[row[1], row[2]] for row in rows]
        assert records["group"].tolist() == [row[3].encode() for row in rows]
        assert records["split"].tolist() == [0, 1, 2] * 10
        assert (records.grouped_by, records.issues, records.path(1)) == ("author", (), root / rows[1][0])
    assert tree(root) == before


@pytest.mark.parametrize(
    ("header", "cells", "group", "by", "groups"),
    [
        ("region", ("north", "north", "", "south"), None, "image", ["0.png", "1.png", "2.png", "3.png"]),
        ("region", ("north", "north", "", "south"), "region", "region", ["north", "north", "2.png", "south"]),
        (
            "Date",
            ("2020-01-31 9:00", "2020-01-31 10:00", "", "soon"),
            None,
            "day",
            [*["2020:01:31"] * 2, "2.png", "3.png"],
        ),
    ],
)
def test_a_group_is_an_author_or_a_day_or_the_image(tmp_path, header, cells, group, by, groups):
    rows = [(f"{i}.png", i + 1, i, cell) for i, cell in enumerate(cells)]
    records = geotagged_csv.read(write_csv(tmp_path, rows, (*HEADER[:3], header)), choose_columns(group=group))
    assert records.grouped_by == by
    assert [name.decode() for name in records["group"].tolist()] == groups
    assert records["split"].tolist() == [UNSPLIT] * 4
    assert [issue.first for issue in records.issues] == ["images.csv, line 5, 'soon'"] * (by == "day")


def test_a_file_for_each_split_with_ids_for_paths(tmp_path):
    """As OSV-5M comes, its images somewhere in folders."""
    header = ("id", "latitude", "longitude", "sequence", "creator_id")
    for name, ids in (("train.csv", range(100, 160)), ("test.csv", range(200, 220))):
        rows = [(i, i / 10, -i / 2, f"s{i}", i // 4) for i in ids]
        write_csv(tmp_path, [*rows, ("none", "", "", "", "")], header, name, images=False)
        for i in ids:
            path = tmp_path / "images" / name[:-4] / f"{i % 7:02}" / f"{i}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "images" / "train" / "02" / "100.JPG").unlink()
    records = geotagged_csv.read(tmp_path)
    assert np.bincount(records["split"]).tolist() == [59, 0, 20]
    firsts = ["train.csv, line 62", "test.csv, line 22", "100"]
    assert [(issue.count, issue.first) for issue in records.issues] == [(1, first) for first in firsts]
    for i, name in enumerate(names(records)):
        number = int(Path(name).stem)
        assert records.path(i).is_file()
        assert records["latlng"][i].tolist() == [number / 10, -number / 2]
        assert records["group"][i] == b"%d" % (number // 4)
    assert records.grouped_by == "creator_id"
    (tmp_path / "images" / "101.png").touch()
    with pytest.raises(InputError, match=r"101 may be .*101.* or .*101"):
        geotagged_csv.read(tmp_path)
    (tmp_path / "train.csv").unlink()
    records = geotagged_csv.read(tmp_path)
    assert records["split"].tolist() == [SPLITS.index("test")] * 20


def test_a_file_for_each_split_by_any_of_its_names(tmp_path):
    rows = authors(9, 1)
    for i, name in enumerate(("Training.csv", "valid.csv", "TEST.CSV")):
        write_csv(tmp_path, rows[3 * i : 3 * i + 3], name=name)
    records = geotagged_csv.read(tmp_path)
    assert names(records) == [row[0] for row in rows]
    assert records["split"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    write_csv(tmp_path, rows[:3], name="train.csv")
    with pytest.raises(InputError, match=r"Training\.csv and train\.csv"):
        geotagged_csv.read(tmp_path)


def test_images_that_are_not_there_are_left_out_and_counted(tmp_path):
    root = write_csv(tmp_path, authors())
    (root / "003" / "1.png").unlink()
    shutil.rmtree(root / "007")
    records = geotagged_csv.read(root)
    assert len(records) == 116
    assert [(issue.count, issue.first) for issue in records.issues] == [(4, "003/1.png")]
    for folder in root.glob("*/"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"none of its 120 images is there, the first being .*000/0\.png"):
        geotagged_csv.read(root)


def test_an_image_that_is_listed_twice_or_without_a_path_is_refused(tmp_path):
    for path, message in (("./a.png", r"lists a\.png more than once \(1 such"), ("", "line 3: the path is empty")):
        with pytest.raises(InputError, match=message):
            geotagged_csv.read(write_csv(tmp_path, [("a.png", 1, 2, "x"), (path, 1, 2, "y")], images=False))


def test_paths_are_the_same_however_they_are_written(tmp_path, monkeypatch):
    root = write_csv(tmp_path / "a", authors())
    text = (root / "images.csv").read_text().splitlines()
    text[2:5] = f"./{text[2]}", f"{root}/{text[3]}", text[4].replace("/", "//", 1)
    plain = names(geotagged_csv.read(root))
    (root / "images.csv").write_text("\n".join(text))
    assert names(geotagged_csv.read(root)) == plain
    monkeypatch.chdir(tmp_path)
    assert names(geotagged_csv.read(Path("a"))) == plain
    text[1] = text[1].replace("0.png", "Ä\udcff.png")
    (root / "images.csv").write_bytes("\n".join(text).encode(errors="surrogateescape"))
    (root / "000" / "0.png").rename(root / "000" / "Ä\udcff.png")
    assert len(geotagged_csv.read(root)) == 120


def test_an_image_listed_twice_for_one_place_is_counted_and_for_two_is_refused_with_the_lines(tmp_path):
    write_csv(tmp_path / "same", [("a.png", 1, 2, "x"), ("b.png", 3, 4, "y"), ("a.png", 1.0, 2, "x")])
    records = geotagged_csv.read(tmp_path / "same")
    assert names(records) == ["a.png", "b.png"]
    assert [(issue.count, issue.first) for issue in records.issues] == [(1, "a.png")]
    write_csv(tmp_path / "two", [("a.png", 1, 2, "x"), ("b.png", 3, 4, "y"), ("a.png", 1, 2.5, "x")])
    with pytest.raises(InputError, match=r"a\.png for two places \(images\.csv, line 2, and images\.csv, line 4\)"):
        geotagged_csv.read(tmp_path / "two")


def test_the_only_list_of_places_is_read_whatever_it_is_called(tmp_path):
    root = write_csv(tmp_path, authors(3), ("Filename", "Lat", "Lng", "author"), name="export 7.csv")
    (root / "notes.csv").write_text("day,weather\n1,rain\n")
    assert names(read_places(root)) == [row[0] for row in authors(3)]
    write_csv(root, authors(2), name="other.csv")
    assert geotagged_csv.csv_files(root) == {}  # which of the two is meant, nothing says
    write_csv(root, authors(1), name="train.csv")
    assert geotagged_csv.csv_files(root) == {root / "train.csv": 0}
