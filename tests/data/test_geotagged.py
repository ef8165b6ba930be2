import csv
import re
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import tree
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from backbone import InputError
from data.coordinates_columns import choose_columns
from data.exif_positions import exif_position
from data.folders import SPLITS
from data.geotagged import GeotaggedDataModule, find_geotagged, read_geotagged
from data.geotagged_splits import drawn_order, training_coordinates
from data.images import open_image

PARIS, RIO = (48.858306, 2.351389), (-22.91, -43.17)


def scene(i, size=(60, 80)):
    """A picture of its own for each `i`, far from all others by its hash."""
    small = np.random.default_rng(i).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def write_csv(root, rows, header=("path", "latitude", "longitude", "author"), name="photographs.csv", pictures=True):
    """A list in `root`, and the picture of each row."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for row in rows if pictures else ():
        path = root / str(row[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(zlib.crc32(str(row[0]).encode()))).save(path)
    return root


def authors(count=40, each=3, start=0):
    """Rows by `count` authors with `each` pictures."""
    return [
        (f"{author:03}/{i}.png", author / 2 - 40, author * 3 - 150 + i / 10 + 0.01, f"author {author}")
        for author in range(start, start + count)
        for i in range(each)
    ]


def names(data):
    return {split: {name.decode() for name in data.splits[split].file_names.tolist()} for split in SPLITS}


def module(root, **settings):
    return GeotaggedDataModule(str(root), **{"image_size": 32, "batch_size": 4, "num_workers": 0, **settings})


# --- a CSV ----------------------------------------------------------------------------------------------------------


def test_a_csv_is_read_as_a_plain_parser_reads_it(tmp_path):
    rows = [(*row[:3], ("train", "Val", "test")[i % 3]) for i, row in enumerate(authors(10))]
    root = write_csv(tmp_path / "a", rows, ("path", "latitude", "longitude", "split"))
    before = tree(root)
    for given in (root, root / "photographs.csv"):
        data = read_geotagged(given)
        assert data.notes == ()
        for number, split in enumerate(SPLITS):
            images, expected = data.splits[split], rows[number::3]
            assert [name.decode() for name in images.file_names.tolist()] == [row[0] for row in expected]
            assert images.latlng.tolist() == [[row[1], row[2]] for row in expected]
            assert images.latlng.dtype == np.float64
            assert images.path(1) == root / expected[1][0]
            assert images.path(1) in images
    taken = data.splits["val"].take(np.array([3, 1]))
    assert taken.latlng.tolist() == [[rows[10][1], rows[10][2]], [rows[4][1], rows[4][2]]]
    assert tree(root) == before


def test_authors_are_drawn_whole_and_stay_where_they_are(tmp_path):
    rows = authors()
    data = read_geotagged(write_csv(tmp_path / "a", rows), val_fraction=0.2, test_fraction=0.1, seed=2)
    by_author = {row[0]: row[3] for row in rows}
    found = {split: {by_author[name] for name in listed} for split, listed in names(data).items()}
    assert sum(map(len, found.values())) == 40
    assert sum(len(images) for images in data.splits.values()) == 120
    for split, below in (("val", (0, 0.2)), ("test", (0.2, 0.3)), ("train", (0.3, 1))):
        for author in found[split]:
            assert below[0] <= drawn_order(np.array([author.encode()]), 2)[0] < below[1]
    groups = {split: set(images.groups.tolist()) for split, images in data.splits.items()}
    assert {split: len(of) for split, of in groups.items()} == {split: len(of) for split, of in found.items()}
    assert not groups["train"] & (groups["val"] | groups["test"])
    assert re.search(r"drawn by author with seed 2, are set aside \(--data.val_fraction, --data.test", data.notes[0])
    assert len(data.notes) == 1

    more = rows + authors(20, 2, 40) + [(f"{i:03}/late.png", 1, 1, f"author {i}") for i in range(40)]
    np.random.default_rng(0).shuffle(more)
    later = names(read_geotagged(write_csv(tmp_path / "b", more), val_fraction=0.2, test_fraction=0.1, seed=2))
    for split, listed in names(data).items():
        assert listed <= later[split]
    other = names(read_geotagged(tmp_path / "a", val_fraction=0.2, test_fraction=0.1, seed=3))
    assert other != names(data)


def test_few_authors_still_give_every_split_one(tmp_path):
    for count in range(3, 7):
        root = write_csv(tmp_path / str(count), authors(count))
        for seed in range(5):
            data = read_geotagged(root, val_fraction=0.05, test_fraction=0.05, seed=seed)
            assert min(map(len, data.splits.values())) >= 3
            assert sum(map(len, data.splits.values())) == 3 * count
    with pytest.raises(InputError, match=r"pictures of 2 authors to train on, too few to set some aside for val and t"):
        read_geotagged(write_csv(tmp_path / "two", authors(2)))


def test_rows_without_an_author_are_groups_of_their_own(tmp_path):
    rows = [(*row[:3], "" if i % 2 else "one") for i, row in enumerate(authors(30))]
    data = read_geotagged(write_csv(tmp_path, rows), val_fraction=0.3, test_fraction=0.2)
    sizes = {split: len(listed) for split, listed in names(data).items()}
    assert sum(sizes.values()) == 90
    assert sorted(size > 30 for size in sizes.values()) == [False, False, True]
    assert len(np.unique(np.concatenate([images.groups for images in data.splits.values()]))) == 46


def test_another_column_and_the_day(tmp_path):
    rows = [
        (f"{i}.png", i, i + 1, f"place {i % 9}", f"2020-01-{1 + i // 6:02}T0{i % 6}:00", f"x{i}") for i in range(60)
    ]
    header = ("path", "latitude", "longitude", "region", "taken", "note")
    root = write_csv(tmp_path, rows, header)
    for group, column, key in (("region", 3, lambda cell: cell), (None, 4, lambda cell: cell[:10])):
        data = read_geotagged(root, choose_columns(group=group), val_fraction=0.2, test_fraction=0.2)
        cells = {row[0]: key(row[column]) for row in rows}
        found = {split: {cells[name] for name in listed} for split, listed in names(data).items()}
        assert sum(map(len, found.values())) == len(set(cells.values()))
        assert f"drawn by {group or 'day'} with" in data.notes[0]
    with pytest.raises(InputError, match=r"no column 'regio' for the group; the nearest are 'region'"):
        read_geotagged(root, choose_columns(group="regio"))


def test_the_same_author_on_both_sides_is_counted_and_said(tmp_path):
    rows = [(*row, "train" if i % 3 else "test") for i, row in enumerate(authors(12))]
    rows += [(f"only/{i}.png", 1, i, "alone", "val") for i in range(3)]
    data = read_geotagged(write_csv(tmp_path, rows, ("path", "latitude", "longitude", "author", "split")))
    assert [len(images) for images in data.splits.values()] == [24, 3, 12]
    assert re.search(r"^12 of the 13 groups of .* \(by author\) have pictures in more than one split", data.notes[0])


def test_a_split_that_no_row_has_is_drawn_from_the_training_rows(tmp_path):
    rows = [(*row, "test" if i >= 90 else "train") for i, row in enumerate(authors())]
    data = read_geotagged(write_csv(tmp_path, rows, ("path", "latitude", "longitude", "author", "split")))
    assert names(data)["test"] == {row[0] for row in rows[90:]}
    assert 0 < len(data.splits["val"]) < 30
    assert "leaves no picture for validation: " in data.notes[0]
    assert data.notes[0].endswith("are set aside (--data.val_fraction)")


def test_a_file_for_each_split(tmp_path):
    """As OSV-5M comes: ids in place of paths, and the pictures somewhere in folders."""
    header = ("id", "latitude", "longitude", "sequence", "creator_id")
    for name, ids in (("train.csv", range(100, 160)), ("test.csv", range(200, 220))):
        rows = [(i, i / 10, -i / 2, f"s{i}", i // 4) for i in ids]
        write_csv(tmp_path, rows, header, name, pictures=False)
        for row in rows:
            path = tmp_path / "images" / name[:-4] / f"{row[0] % 7:02}" / f"{row[0]}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(row[0])).save(path, "JPEG")
    (tmp_path / "images" / "train" / "02" / "100.JPG").unlink()
    data = read_geotagged(tmp_path)
    assert re.search(r": 1 picture listed but not there, left out \(first: 100\)", data.notes[0])
    assert len(data.splits["train"]) + len(data.splits["val"]) == 59
    assert len(data.splits["test"]) == 20
    assert data.splits["test"].path(0) == tmp_path / "images" / "test" / "04" / "200.JPG"
    for images in data.splits.values():
        for i in range(len(images)):
            number = int(images.path(i).stem)
            assert images.path(i).exists()
            assert images.latlng[i].tolist() == [number / 10, -number / 2]
    assert "drawn by creator_id" in data.notes[1]
    (tmp_path / "images" / "train" / "100.png").write_bytes(b"")
    (tmp_path / "images" / "other").mkdir()
    (tmp_path / "images" / "other" / "101.png").write_bytes(b"")
    with pytest.raises(InputError, match=r": 101 may be .*101.* or .*101.* in .*; write their paths in the list, or"):
        read_geotagged(tmp_path)
    (tmp_path / "train.csv").unlink()
    with pytest.raises(InputError, match=r"has test\.csv but no train\.csv; give the file itself"):
        read_geotagged(tmp_path)


def test_pictures_that_are_not_there_are_left_out_and_counted(tmp_path):
    root = write_csv(tmp_path, authors())
    (root / "003" / "1.png").unlink()
    shutil.rmtree(root / "007")
    data = read_geotagged(root)
    assert re.search(
        r"photographs\.csv: 4 pictures listed but not there, left out \(first: 003/1\.png\)", data.notes[0]
    )
    assert sum(map(len, data.splits.values())) == 116
    shutil.rmtree(root / "000")
    for folder in root.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    with pytest.raises(
        InputError, match=r"none of its 120 pictures is there, the first being .*000/0\.png; paths must"
    ):
        read_geotagged(root)


def test_rows_that_cannot_be_used_are_counted_in_a_line_each(tmp_path):
    rows = [*authors(), ("a.png", "", "", "x"), ("b.png", 0, 0, "x"), ("c.png", 10, 200, "x"), ("d.png", 1, "", "x")]
    data = read_geotagged(write_csv(tmp_path, rows))
    assert [note.removeprefix(f"{tmp_path}/photographs.csv: ") for note in data.notes[:3]] == [
        "2 rows without a position, left out (first: line 122)",
        "1 row at (0, 0), which stands for no position, left out (first: line 123)",
        "1 row with a longitude above 180, of which 360 was taken (first: line 124)",
    ]
    assert sum(map(len, data.splits.values())) == 121
    latlng = np.concatenate([images.latlng for images in data.splits.values()])
    assert [10.0, -160.0] in latlng.tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.png", 1, 2, "x"), ("b.png", 1, 2, "y"), ("./a.png", 1, 2, "z")], r"lists a\.png more than once \(1 such"),
        ([("a.png", 1, 2, "x"), ("", 1, 2, "y")], "line 3: the path is empty"),
        ([("a.png", 1, 2, "x"), ("b.png", 99, 2, "y")], r"line 3: the latitude is 99"),
        ([("a.png", 1, 2, "x"), ("b.png", 3, 2, "x")], r"pictures of 1 author to train on, too few"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, rows, message):
    write_csv(tmp_path, rows, pictures=False)
    for name in ("a.png", "b.png"):
        Image.fromarray(scene(0)).save(tmp_path / name)
    with pytest.raises(InputError, match=message) as raised:
        read_geotagged(tmp_path)
    assert "\n" not in str(raised.value)


def test_paths_are_the_same_however_they_are_written(tmp_path, monkeypatch):
    root = write_csv(tmp_path / "a", authors())
    text = (root / "photographs.csv").read_text().splitlines()
    text[2:5] = f"./{text[2]}", f"{root}/{text[3]}", text[4].replace("/", "//", 1)
    plain = names(read_geotagged(root))
    (root / "photographs.csv").write_text("\n".join(text))
    assert names(read_geotagged(root)) == plain
    monkeypatch.chdir(tmp_path)
    assert names(read_geotagged(Path("a"))) == plain
    text[1] = text[1].replace("0.png", "Ä\udcff.png")
    (root / "photographs.csv").write_bytes("\n".join(text).encode(errors="surrogateescape"))
    (root / "000" / "0.png").rename(root / "000" / "Ä\udcff.png")
    assert sum(map(len, read_geotagged(root).splits.values())) == 120


def test_a_wrong_split_and_fractions(tmp_path):
    write_csv(tmp_path, [("a.png", 1, 2, "dev")], ("path", "latitude", "longitude", "split"))
    with pytest.raises(InputError, match=r"line 2: the split is 'dev'; it must be train, val or test"):
        read_geotagged(tmp_path)
    with pytest.raises(InputError, match=r"0\.6 and --data\.test_fraction 0\.4 together leave nothing to train on"):
        read_geotagged(tmp_path, val_fraction=0.6, test_fraction=0.4)
    with pytest.raises(InputError, match=r"--data\.val_fraction is nan; it must be 0 or more"):
        read_geotagged(tmp_path, val_fraction=float("nan"))
    with pytest.raises(InputError, match=r"--data\.val_fraction is 0; it must be above 0"):
        module(tmp_path, val_fraction=0)


def test_nothing_is_set_aside_by_a_fraction_of_0(tmp_path):
    write_csv(tmp_path, authors(6))
    data = read_geotagged(tmp_path, val_fraction=0, test_fraction=0)
    assert [len(data.splits[split]) for split in SPLITS] == [18, 0, 0]
    assert data.notes == ()
    data = read_geotagged(tmp_path, val_fraction=0.3, test_fraction=0)
    assert len(data.splits["train"]) + len(data.splits["val"]) == 18
    assert len(data.splits["val"]) >= 3


def both_ways(root, rows, header, **settings):
    """The places that a partition takes of a CSV, and those that are trained on, as lists of tuples."""
    write_csv(root, rows, header)
    file = root / "photographs.csv"
    taken = np.concatenate([np.zeros((0, 2)), *training_coordinates(file, **settings)])
    trained = read_geotagged(file, **settings).splits["train"].latlng
    return sorted(map(tuple, taken.tolist())), sorted(map(tuple, trained.tolist()))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", ["paths", "in full", "empty authors", "no val", "no test", "neither", "few", "dates"])
def test_a_partition_takes_the_places_of_the_training_photographs_and_no_others(tmp_path, monkeypatch, case, seed):
    """However the list is written; a classifier's cells must not be made of what it is scored on."""
    count = 3 if case == "few" else 40
    rows = [(f"{i:03}.png", i / 2 - 40, i + 0.5, f"author {i % count if case == 'few' else i // 3}") for i in range(60)]
    header = ["path", "latitude", "longitude", "author"]
    settings = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": seed}
    if case in ("paths", "in full", "dates"):
        monkeypatch.setattr("data.near_duplicates.near_duplicates", lambda hashes, of: np.zeros(len(hashes), bool))
    if case == "paths":
        rows, header = [(f"./{row[0]}" if i % 2 else row[0], *row[1:3]) for i, row in enumerate(rows)], header[:3]
    elif case == "in full":
        rows, header = [(f"{tmp_path}/{row[0]}", *row[1:3]) for row in rows], header[:3]
    elif case == "empty authors":
        rows = [(f"./{row[0]}", *row[1:3], "" if i % 3 else "one") for i, row in enumerate(rows)]
    elif case in ("no val", "no test", "neither"):
        given = {"no val": ("train", "test"), "no test": ("Train", "validation"), "neither": ("train", "train")}[case]
        rows, header = [(*row, given[i % 3 == 0]) for i, row in enumerate(rows)], [*header, "split"]
    elif case == "dates":
        rows = [(f"./{row[0]}", *row[1:3], f"{1 + i // 3:02}/05/2020 0{i % 3}:00") for i, row in enumerate(rows[:54])]
        header = [*header[:3], "taken"]
    taken, trained = both_ways(tmp_path, rows, header, **settings)
    assert taken == trained
    assert 0 < len(trained) < len(rows)


def test_a_split_that_training_refuses_a_partition_refuses_too(tmp_path):
    write_csv(tmp_path, [("a.png", 1, 2, "train"), ("b.png", 1, 2, "dev")], ("path", "latitude", "longitude", "split"))
    settings = {"val_fraction": 0.1, "test_fraction": 0.1, "seed": 0}
    with pytest.raises(InputError, match=r"line 3: the split is 'dev'; it must be train, val or test"):
        list(training_coordinates(tmp_path / "photographs.csv", **settings))


def test_the_day_is_read_however_it_is_written_and_said_where_it_is_not(tmp_path):
    header = ("path", "latitude", "longitude", "taken")
    for name, written in (("order", "{0:02}/01/2020 {1:02}:00"), ("epoch", "{2}000")):
        days = [(1 + i // 4, i % 4) for i in range(80)]
        rows = [
            (f"{i}.png", 1, i, written.format(day, hour, 1577836800 + 86400 * (day - 1) + 3600 * hour))
            for i, (day, hour) in enumerate(days)
        ]
        data = read_geotagged(write_csv(tmp_path / name, rows, header), val_fraction=0.3, test_fraction=0.3)
        assert "drawn by day with seed 0" in data.notes[0]
        of = {split: {int(Path(n).stem) // 4 for n in listed} for split, listed in names(data).items()}
        assert sum(map(len, of.values())) == 20
    rows = [(f"{i}.png", 1, i, f"the {i}th of May") for i in range(30)]
    data = read_geotagged(write_csv(tmp_path / "none", rows, header))
    assert re.search(r": 30 rows with a date of which no day can be read.*\(first: line 2, 'the 0th", data.notes[0])
    assert "drawn by picture with seed 0" in data.notes[1]


# --- a folder of pictures with EXIF ---------------------------------------------------------------------------------


def test_a_folder_of_photographs_with_their_splits(places_root):
    before = tree(places_root)
    data = read_geotagged(places_root)
    assert [len(data.splits[split]) for split in SPLITS] == [12, 6, 6]
    assert data.notes == ()
    for split, images in data.splits.items():
        for i in range(len(images)):
            assert images.path(i).parent == places_root / split
            assert images.latlng[i].tolist() == list(exif_position(images.path(i)))
    assert tree(places_root) == before


def test_days_are_drawn_whole_and_stay_where_they_are(tmp_path, write_photo):
    def photos(root, days, each):
        for day in days:
            for i in range(each):
                path = root / f"{i}" / f"{day:03}.jpg"
                taken = f"2021:{1 + day // 28:02}:{1 + day % 28:02} {i:02}:00:00"
                write_photo(path, scene(1000 * day + i), (day / 4, i + 1), taken)
        return root

    data = read_geotagged(photos(tmp_path / "a", range(60), 2), val_fraction=0.2, test_fraction=0.2)
    days = {split: {name[-7:] for name in listed} for split, listed in names(data).items()}
    assert sum(map(len, days.values())) == 60
    assert sum(map(len, data.splits.values())) == 120
    assert "drawn by day with seed 0" in data.notes[0]
    assert len(data.notes) == 1
    later = names(read_geotagged(photos(tmp_path / "b", range(80), 3), val_fraction=0.2, test_fraction=0.2))
    for split, listed in names(data).items():
        assert listed <= later[split]


def test_what_looks_like_a_scored_picture_is_not_trained_on(tmp_path, write_photo):
    for i in range(40):
        write_photo(tmp_path / f"{i:02}.jpg", scene(i), (i, i + 1), f"2021:01:{1 + i % 28:02} 00:00:00")
    before = names(read_geotagged(tmp_path, val_fraction=0.2, test_fraction=0.2))
    scored = sorted(before["val"] | before["test"])
    copies = {}
    for i, name in enumerate(scored):  # a copy from days of their own, brighter and mirrored
        image = scene(int(name[:2]))[:, ::-1].astype(int) * 9 // 10 + 20
        copy = f"copy_{i:02}.jpg"
        write_photo(tmp_path / copy, image.astype(np.uint8), (1, 2), f"2022:02:{1 + i:02} 00:00:00")
        copies[copy] = name
    data = read_geotagged(tmp_path, val_fraction=0.2, test_fraction=0.2)
    after = names(data)
    assert before["train"] - after["train"] <= {copies[c] for c in copies}
    for copy, name in copies.items():
        trained = {copy, name} & after["train"]
        held = {copy, name} & (after["val"] | after["test"])
        assert held
        assert not trained
    removed = len(scored) - len([c for c in copies if c in after["val"] | after["test"]])
    assert removed > 0
    assert re.search(
        rf"^{removed} of \d+ training pictures look like one that is set aside and are left", data.notes[1]
    )


def test_pictures_without_a_position_are_counted_by_what_is_amiss(tmp_path, write_photo):
    for i in range(12):
        write_photo(tmp_path / f"{i:02}.jpg", scene(i), (i + 1, i), f"2021:01:{i + 1:02} 00:00:00")
    for i in range(3):
        write_photo(tmp_path / f"no_gps_{i}.jpg", scene(50 + i), None)
    write_photo(tmp_path / "zero.jpg", scene(60), (0.0, 0.0))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    Image.new("RGB", (9, 9)).save(tmp_path / "bare.png")
    for name, gps in (
        ("zerozero.jpg", {1: "N", 2: (IFDRational(0, 0),) * 3, 3: "E", 4: (1.0, 0.0, 0.0)}),
        ("noref.jpg", {2: (1.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)}),
        ("far.jpg", {1: "N", 2: (99.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)}),
        ("wrapped.jpg", {1: "N", 2: (9.0, 0.0, 0.0), 3: "E", 4: (200.0, 0.0, 0.0)}),
    ):
        exif = Image.Exif()
        exif.get_ifd(34853).update(gps)
        Image.fromarray(scene(70 + len(name))).save(tmp_path / name, exif=exif.tobytes())
    (tmp_path / "notes.txt").write_text("x")
    data = read_geotagged(tmp_path, val_fraction=0.2, test_fraction=0.2)
    said = [re.sub(r"^.*: (\d+) pictures? (.*?) \(first: (.*)\)$", r"\1|\2|\3", note) for note in data.notes[:7]]
    assert [(line.split("|")[0], line.split("|")[2]) for line in said] == [
        ("4", "bare.png"),  # no GPS
        ("1", "zerozero.jpg"),
        ("1", "noref.jpg"),
        ("1", "far.jpg"),
        ("1", "zero.jpg"),
        ("1", "wrapped.jpg"),
        ("1", "broken.jpg"),
    ]
    for line, words in zip(said, ("without", "0/0", "N or S", "cannot be", "(0, 0)", "180", "read"), strict=True):
        assert words in line
    assert sum(map(len, data.splits.values())) == 13
    found = {
        name: images.latlng[i].tolist() for images in data.splits.values() for i, name in enumerate(images.file_names)
    }
    assert found[b"wrapped.jpg"] == [9.0, -160.0]


def test_folders_that_cannot_be_used(tmp_path, write_photo, write_places):
    write_photo(tmp_path / "none" / "a.jpg", scene(0), None)
    with pytest.raises(InputError, match=r"no picture with a GPS position \(none: 1 picture without .*give ph"):
        read_geotagged(tmp_path / "none")
    (tmp_path / "none" / "list.csv").write_text("path,latitude,longitude\n")
    with pytest.raises(InputError, match=r"is .*list\.csv meant\?"):
        read_geotagged(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        read_geotagged(tmp_path / "empty")
    root = write_places(tmp_path / "parts", {"Train": 6, "valid": 6, "test": 6, "more": 6})
    data = read_geotagged(root)
    assert [len(data.splits[split]) for split in SPLITS] == [6, 6, 6]
    assert re.search(r"^6 pictures of .* are in none of train/, val/ and test/", data.notes[0])


# --- the data module ------------------------------------------------------------------------------------------------


def test_batches_have_the_pixels_and_the_place(places_root):
    data = module(places_root, augment=False)
    data.setup("fit")
    data.setup("test")
    assert data.categories == {}
    for split, loader in (
        ("train", data.train_dataloader()),
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
    ):
        seen = []
        for batch in loader:
            assert batch["images"].dtype == torch.uint8
            assert batch["images"].shape[1:] == (3, 32, 32)
            assert batch["latlng"].dtype == torch.float64
            assert not batch["bad"]
            for position, latlng in zip(batch["positions"].tolist(), batch["latlng"], strict=True):
                path = places_root / data.file(split, position)
                assert latlng.tolist() == list(exif_position(path))
                assert data.latlng(split, [position]).tolist() == [latlng.tolist()]
                assert np.array_equal(data.photograph(split, position), open_image(path))
                seen.append(position)
        assert sorted(seen) == list(range({"train": 12, "val": 6, "test": 6}[split]))
    assert data.train_latlng().tolist() == data.latlng("train", list(range(12))).tolist()


def test_pictures_are_mirrored_only_when_asked(tmp_path, write_photo):
    """Left dark and right bright: what is not cropped from one side alone says which way round it is."""
    pixels = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    for i in range(32):
        for split in SPLITS:
            write_photo(tmp_path / split / f"{i}.jpg", pixels, (i + 1, i))
    for mirror in (False, True):
        data = module(tmp_path, mirror=mirror, batch_size=32)
        data.setup("fit")
        images = next(iter(data.train_dataloader()))["images"].float()
        rising = (images[..., 16:].mean((1, 2, 3)) > images[..., :16].mean((1, 2, 3))).tolist()
        assert all(rising) != mirror
    assert 4 < sum(rising) < 28


def test_what_test_scores_is_chosen(places_root):
    for split, count in (("train", 12), ("val", 6), ("all", 24)):
        data = module(places_root, test_split=split)
        data.setup("test")
        assert len(data.test_dataloader().dataset) == count
    assert {Path(data.file("test", i)).parts[0] for i in range(24)} == {"train", "val", "test"}
    assert data.latlng("test", [23]).tolist() == [list(exif_position(places_root / data.file("test", 23)))]


def test_all_is_all_even_of_one_day_and_of_pictures_that_look_alike(tmp_path, write_photo, capsys):
    for i in range(6):
        write_photo(tmp_path / "alike" / f"{i}.jpg", scene(0), (i + 1, i), f"2021:01:{1 + i:02} 00:00:00")
        write_photo(tmp_path / "one day" / f"{i}.jpg", scene(i), (i + 1, i), "2021:01:01 00:00:00")
    write_csv(tmp_path / "one author", authors(1, 6))
    for name in ("alike", "one day", "one author"):
        with pytest.raises(InputError, match=r"too few to set some aside|looks like one that is set aside"):
            read_geotagged(tmp_path / name)
        assert len(find_geotagged(tmp_path / name).images) == 6
        data = module(tmp_path / name, test_split="all")
        data.setup("test")
        assert len(data.test_dataloader().dataset) == 6
        assert len({data.file("test", i) for i in range(6)}) == 6
        assert "set aside" not in capsys.readouterr().out


def test_what_is_said_at_the_start(tmp_path, write_places, capsys):
    root = write_csv(tmp_path, authors())
    data = module(root, val_fraction=0.2)
    data.setup("fit")
    said = capsys.readouterr().out.splitlines()
    assert "drawn by author with seed 0" in said[0]
    assert re.fullmatch(rf"train: \d+ images in \d+ squares of one degree, in {root}", said[1])
    assert said[2].startswith("val: ")
    assert len(said) == 3
    with pytest.raises(InputError, match=r"--data\.root .*none does not exist"):
        module(tmp_path / "none").setup("fit")
    with pytest.raises(InputError, match="preset 'x' is unknown"):
        module(root, preset="x")


def test_corrupt_pictures_are_left_out_of_a_batch_and_counted(tmp_path):
    root = write_csv(tmp_path, authors())
    (root / "005" / "1.png").write_bytes((root / "005" / "1.png").read_bytes()[:300])
    data = module(root, max_bad_fraction=0.5, test_split="all", batch_size=50)
    data.setup("test")
    bad, count = [], 0
    for batch in data.test_dataloader():
        bad += batch["bad"]
        count += len(batch["latlng"])
        assert len(batch["latlng"]) == len(batch["images"]) == len(batch["positions"])
    assert [file for file, _ in bad] == [str(root / "005" / "1.png")]
    assert count == 119
