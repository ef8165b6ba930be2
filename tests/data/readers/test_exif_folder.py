import re
import struct

import numpy as np
import pytest
from helpers import one_sentence, tree
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from backbone import InputError
from data.readers import exif_folder
from data.readers.exif_folder import exif_position, exif_taken, position_of
from data.records import SPLITS, UNSPLIT

PARIS = (48 + 51 / 60 + 29.9 / 3600, 2 + 21 / 60 + 5 / 3600)


def rational(*numbers):
    """The bytes of EXIF rationals of (numerator, denominator)."""
    return b"".join(struct.pack("<II", *number) for number in numbers)


def tiff(tags):
    """A whole EXIF block by hand, of {tag: (type, count, bytes)} in its GPS part: little-endian, as cameras write."""
    start = 8 + 2 + 12 + 4  # header, and a first part whose only entry points to the GPS part
    after = start + 2 + 12 * len(tags) + 4
    entries, data = b"", b""
    for tag, (kind, count, value) in sorted(tags.items()):
        at = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", after + len(data))
        entries += struct.pack("<HHI", tag, kind, count) + at
        data += value if len(value) > 4 else b""
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + struct.pack("<HHII", 34853, 4, 1, start)
    return b"Exif\0\0" + head + b"\0\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + data


def letter(text):
    return (2, 2, text + b"\0")


def triple(*numbers):
    return (5, len(numbers), rational(*numbers))


LATITUDE, LONGITUDE = triple((48, 1), (51, 1), (299, 10)), triple((2, 1), (21, 1), (5, 1))


def of_tags(path, tags):
    """What an image says of its place whose GPS part has those of these tags that are there."""
    Image.new("RGB", (8, 8)).save(path, exif=tiff({tag: value for tag, value in tags.items() if value}))
    return exif_position(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_position_as_a_camera_writes_it_by_hand(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        gps = {1: "S", 2: (48.0, 51.0, 29.9), 3: "W", 4: (2.0, 21.0, 5.0)}
        Image.new("RGB", (8, 8)).save(path, tiffinfo={34853: gps})
        found = exif_position(path)
    else:
        found = of_tags(path, {1: letter(b"S"), 2: LATITUDE, 3: letter(b"W"), 4: LONGITUDE})
    assert found == pytest.approx((-PARIS[0], -PARIS[1]), abs=1e-9)


@pytest.mark.parametrize(
    ("latitude", "expected"),
    [
        (LATITUDE, PARIS[0]),
        (triple((48858306, 1_000_000), (0, 1), (0, 1)), 48.858306),  # decimal degrees
        (triple((48, 1), (514983, 10_000), (0, 1)), 48 + 51.4983 / 60),  # decimal minutes
        (triple((48, 1), (51, 1)), 48.85),  # without seconds
        (triple((485, 10)), 48.5),  # a number alone, which Pillow gives without its tuple
        (triple((48, 1), (59, 1), (60, 1)), 49.0),  # 59.9999 seconds, rounded
        (triple((90, 1), (0, 1), (0, 1)), 90.0),
        (triple((0, 0), (0, 0), (0, 0)), "0/0"),
        (triple((48, 1), (51, 1), (0, 0)), "0/0"),
        (triple((5, 0)), "0/0"),
        (triple((48, 1), (61, 1), (0, 1)), "malformed"),
        (triple((48, 1), (51, 1), (61, 1)), "malformed"),
        (triple((485, 10), (51, 1), (0, 1)), "malformed"),  # 48.5 degrees and 51 minutes: which are meant?
        (triple((48, 1), (515, 10), (3, 1)), "malformed"),
        (triple((90, 1), (0, 1), (1, 1)), "malformed"),
        (triple((1, 1), (1, 1), (1, 1), (1, 1)), "malformed"),
        (letter(b"N"), "malformed"),
        (None, "no position"),
    ],
)
def test_every_form_of_a_latitude(tmp_path, latitude, expected):
    found = of_tags(tmp_path / "a.jpg", {1: letter(b"N"), 2: latitude, 3: letter(b"E"), 4: LONGITUDE})
    assert found == (expected if isinstance(expected, str) else pytest.approx((expected, PARIS[1]), abs=1e-9))


@pytest.mark.parametrize(
    ("north", "east", "signs"),
    [
        (b"N", b"E", (1, 1)),
        (b"s", b" w", (-1, -1)),
        (b"N\0", b"W", (1, -1)),
        (b"\0", b"E", None),
        (b"", b"E", None),
        (b"N", b"\0", None),
        (b"E", b"N", None),
        (b"K", b"E", None),
        (None, b"E", None),
        (b"N", None, None),
    ],
)
def test_a_hemisphere_is_never_guessed(tmp_path, north, east, signs):
    tags = {1: north and letter(north), 2: LATITUDE, 3: east and letter(east), 4: LONGITUDE}
    expected = "reference" if signs is None else pytest.approx((signs[0] * PARIS[0], signs[1] * PARIS[1]))
    assert of_tags(tmp_path / "a.jpg", tags) == expected


def test_bytes_and_odd_values_of_other_readers():
    good = {1: b"N\x00", 2: (48.0, 30.0, 0.0), 3: "E", 4: IFDRational(5, 2)}
    assert position_of(good) == (48.5, 2.5)
    assert position_of(good | {4: (200.0, 0.0, 0.0)}) == (48.5, 200.0)  # clean() takes 360 off
    for odd in ("48", None, (), (None, 1, 2), (-48.0, 30.0, 0.0), (361.0,)):
        assert position_of(good | {4: odd}) in ("malformed", (48.5, 48.0))
    assert position_of(good | {4: (361.0,)}) == "malformed"
    assert position_of({}) == "no position"


def test_files_without_a_position_and_days(tmp_path, write_photo):
    pixels = np.zeros((8, 8, 3), np.uint8)
    paris = write_photo(tmp_path / "a.jpg", pixels, PARIS, "2020:01:31 23:59:59")
    assert exif_taken(paris) == (pytest.approx(PARIS, abs=1e-7), "2020:01:31")
    nowhere = write_photo(tmp_path / "b.jpg", pixels, None, "2020:02:01 00:00:00")
    assert exif_taken(nowhere) == ("no position", "2020:02:01")
    for taken in ("0000:00:00 00:00:00", "    :  :     :  :  ", "", "soon"):
        assert exif_taken(write_photo(tmp_path / "c.jpg", pixels, (-1, -2), taken)).day == ""
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    assert exif_taken(tmp_path / "bare.png") == ("no position", "")
    for name, content in (("empty.jpg", b""), ("page.jpg", b"<html>"), ("cut.jpg", b"\xff\xd8\xff\xe1\x10")):
        (tmp_path / name).write_bytes(content)
        assert exif_taken(tmp_path / name) == ("unreadable", "")
    assert exif_position(tmp_path / "none.jpg") == "unreadable"
    whole = paris.read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: whole.index(b"\xff\xda") + 16])
    assert exif_position(tmp_path / "half.jpg") == pytest.approx(PARIS, abs=1e-7)  # loading will say that it is cut


def test_a_position_that_stands_for_none_and_one_past_180_are_as_in_training(tmp_path, write_photo):
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert exif_position(write_photo(tmp_path / "a.jpg", pixels, (0.0, 0.0))) == "zero"
    tags = {1: letter(b"N"), 2: triple((5, 1)), 3: letter(b"E"), 4: triple((200, 1))}
    assert of_tags(tmp_path / "b.jpg", tags) == (5.0, -160.0)


# --- a folder -------------------------------------------------------------------------------------------------------


def noise(i):
    return np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def test_a_folder_with_its_splits(places_root):
    before = tree(places_root)
    records = exif_folder.read(places_root)
    assert np.bincount(records["split"]).tolist() == [12, 6, 6]
    assert (records.grouped_by, records.issues) == ("day", ())
    for i in range(len(records)):
        assert records.path(i).parent == places_root / SPLITS[records["split"][i]]
        assert records["latlng"][i].tolist() == list(exif_position(records.path(i)))
        assert records["group"][i].decode() == exif_taken(records.path(i)).day
    assert tree(places_root) == before


def test_folders_named_otherwise(write_places, tmp_path):
    records = exif_folder.read(write_places(tmp_path / "a", {"Train": 6, "valid": 5, "testing": 4, "more": 3}))
    assert np.bincount(records["split"]).tolist() == [6, 5, 4]
    assert [(issue.count, issue.first) for issue in records.issues] == [(3, "more/more_000.jpg")]
    records = exif_folder.read(write_places(tmp_path / "b", {"val": 3, "more": 3}))  # without train they are names
    assert records["split"].tolist() == [UNSPLIT] * 6


def test_images_without_a_position_are_counted_by_what_is_amiss(tmp_path, write_photo):
    for i in range(12):
        write_photo(tmp_path / f"{i:02}.jpg", noise(i), (i + 1, i), f"2021:01:{i + 1:02} 00:00:00" if i % 2 else "")
    for i in range(3):
        write_photo(tmp_path / f"no_gps_{i}.jpg", noise(50 + i), None)
    write_photo(tmp_path / "zero.jpg", noise(60), (0.0, 0.0))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "bare.png")
    for name, gps in (
        ("zerozero.jpg", {1: "N", 2: (IFDRational(0, 0),) * 3, 3: "E", 4: (1.0, 0.0, 0.0)}),
        ("noref.jpg", {2: (1.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)}),
        ("far.jpg", {1: "N", 2: (99.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)}),
        ("wrapped.jpg", {1: "N", 2: (9.0, 0.0, 0.0), 3: "E", 4: (200.0, 0.0, 0.0)}),
    ):
        exif = Image.Exif()
        exif.get_ifd(34853).update(gps)
        Image.fromarray(noise(70)).save(tmp_path / name, exif=exif.tobytes())
    (tmp_path / "notes.txt").write_text("x")
    records = exif_folder.read(tmp_path)
    assert [(issue.count, issue.first) for issue in records.issues] == [
        (4, "bare.png"),
        *((1, f"{name}.jpg") for name in ("zerozero", "noref", "far", "zero", "wrapped", "broken")),
    ]
    for issue, word in zip(records.issues, ("out", "0/0", "N or S", "range", "(0, 0)", "180", "read"), strict=True):
        assert word in issue.what
    assert len(records) == 13
    assert dict(zip(records.file_names.tolist(), records["latlng"].tolist(), strict=True))[b"wrapped.jpg"] == [9, -160]
    assert records["group"][:3].tolist() == [b"00.jpg", b"2021:01:02", b"02.jpg"]


def test_photographs_of_kinds_that_cannot_be_read_are_counted(tmp_path, write_photo):
    for i in range(3):
        write_photo(tmp_path / f"{i}.jpg", np.full((8, 8, 3), i, np.uint8), (40 + i, 5 + i))
    for name in ("IMG_1.DJVU", "IMG_2.djvu", "deep/IMG_3.DNG", "._IMG_4.DJVU", "@eaDir/5.djvu", "__MACOSX/6.djvu"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"ftypdjvu")
    records = exif_folder.read(tmp_path)
    assert len(records) == 3
    assert [(issue.count, issue.what.split()[0]) for issue in records.issues] == [(2, ".djvu"), (1, ".dng")]
    for i in range(3):
        (tmp_path / f"{i}.jpg").unlink()
    with one_sentence(r"2 \.djvu files left out.*JPEG"):
        exif_folder.read(tmp_path)


def test_folders_that_cannot_be_used(tmp_path, write_photo):
    write_photo(tmp_path / "none" / "a.jpg", noise(0), None)
    with pytest.raises(InputError, match=r"no image with a GPS position \(1 image without"):
        exif_folder.read(tmp_path / "none")
    (tmp_path / "none" / "list.csv").write_text("path,latitude,longitude\n")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "none" / "list.csv"))):
        exif_folder.read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        exif_folder.read(tmp_path / "empty")
