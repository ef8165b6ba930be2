import struct

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from backbone import InputError
from data import coordinates
from data.coordinates import (
    PRESETS,
    LeftOut,
    check_drawing,
    choose_columns,
    clean,
    day_of,
    drawn_order,
    exif_position,
    exif_taken,
    group_name,
    groups_of,
    position_of,
    read_rows,
    stream_coordinates,
    training_coordinates,
)

PARIS = (48 + 51 / 60 + 29.9 / 3600, 2 + 21 / 60 + 5 / 3600)


def streamed(file, columns=None, left_out=None):
    return np.concatenate(list(stream_coordinates(file, columns, left_out)))


def read(file, columns=None, left_out=None):
    """All rows as [(line, latlng, path, group, taken, split)]."""
    found = []
    for rows in read_rows(file, columns, left_out):
        others = [[None] * len(rows.lines) if part is None else part.tolist() for part in rows[2:]]
        found += zip(rows.lines.tolist(), map(tuple, rows.latlng.tolist()), *others, strict=True)
    return found


def write(path, text):
    path.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    return path


# --- EXIF -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_position_as_a_camera_writes_it_by_hand(tmp_path, ending):
    exif = tiff({1: letter(b"S"), 2: LATITUDE, 3: letter(b"W"), 4: LONGITUDE})
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        gps = {1: "S", 2: (48.0, 51.0, 29.9), 3: "W", 4: (2.0, 21.0, 5.0)}
        Image.new("RGB", (8, 8)).save(path, tiffinfo={34853: gps})
    else:
        Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert exif_position(path) == pytest.approx((-PARIS[0], -PARIS[1]), abs=1e-9)


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
    tags = {1: letter(b"N"), 2: latitude, 3: letter(b"E"), 4: LONGITUDE}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=tiff({t: v for t, v in tags.items() if v is not None}))
    found = exif_position(tmp_path / "a.jpg")
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
    exif = tiff({tag: value for tag, value in tags.items() if value})
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    expected = "reference" if signs is None else pytest.approx((signs[0] * PARIS[0], signs[1] * PARIS[1]))
    assert exif_position(tmp_path / "a.jpg") == expected


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
    assert exif_taken(write_photo(tmp_path / "a.jpg", pixels, PARIS, "2020:01:31 23:59:59")) == (
        pytest.approx(PARIS, abs=1e-7),
        "2020:01:31",
    )
    assert exif_taken(write_photo(tmp_path / "b.jpg", pixels, None, "2020:02:01 00:00:00")) == (
        "no position",
        "2020:02:01",
    )
    for taken in ("0000:00:00 00:00:00", "    :  :     :  :  ", "", "soon"):
        assert exif_taken(write_photo(tmp_path / "c.jpg", pixels, (-1, -2), taken)).day == ""
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    assert exif_taken(tmp_path / "bare.png") == ("no position", "")
    for name, content in (("empty.jpg", b""), ("page.jpg", b"<html>"), ("cut.jpg", b"\xff\xd8\xff\xe1\x10")):
        (tmp_path / name).write_bytes(content)
        assert exif_taken(tmp_path / name) == ("unreadable", "")
    assert exif_position(tmp_path / "none.jpg") == "unreadable"
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: whole.index(b"\xff\xda") + 16])
    assert exif_position(tmp_path / "half.jpg") == pytest.approx(PARIS, abs=1e-7)  # loading will say that it is cut


def test_a_position_that_stands_for_none_and_one_past_180_are_as_in_training(tmp_path, write_photo):
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert exif_position(write_photo(tmp_path / "a.jpg", pixels, (0.0, 0.0))) == "zero"
    exif = tiff({1: letter(b"N"), 2: triple((5, 1)), 3: letter(b"E"), 4: triple((200, 1))})
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", exif=exif)
    assert exif_position(tmp_path / "b.jpg") == (5.0, -160.0)


# --- what is refused and what is counted ------------------------------------------------------------------------------


def where(row):
    return f"row {row}"


def test_what_is_kept_is_kept_to_the_bit_and_the_rest_counted():
    latlng = np.array([[90, 180], [-90, -180], [0, 0], [10, 180.5], [0, 360], [-0.0, 0], [0, 1e-9], [5, 200.25]])
    left_out = LeftOut()
    found, keep = clean(latlng, "a.csv", where, left_out)
    assert keep.tolist() == [True, True, False, True, False, False, True, True]
    expected = [[90, 180], [-90, -180], [10, -179.5], [0, 1e-9], [5, -159.75]]
    assert found[keep].tolist() == expected
    assert {what: count for what, count in left_out.counts.items() if count} == {"zero": 3, "wrapped": 3}
    assert left_out.lines("row", "a.csv") == [
        "a.csv: 3 rows at (0, 0), which stands for no position, left out (first: row 2)",
        "a.csv: 3 rows with a longitude above 180, of which 360 was taken (first: row 3)",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((np.nan, 0), r"a\.csv, row 3: the latitude is nan; it must be a number, or empty"),
        ((1, np.inf), r"a\.csv, row 3: the longitude is inf; it must be a number"),
        ((90.001, 1), r"a\.csv, row 3: the latitude is 90.001, beyond 90; correct or remove the line"),
        ((-91, 91), r"a\.csv, row 3: the latitude is -91, beyond 90; correct"),
        ((1, -180.01), r"a\.csv, row 3: the longitude is -180.01; it must be from -180 to 180"),
        ((1, 360.01), r"a\.csv, row 3: the longitude is 360.01; it must be"),
    ],
)
def test_what_is_certainly_wrong_is_refused_with_its_row(row, message):
    latlng = np.random.default_rng(0).uniform((-60, -170), (60, 170), (1000, 2))
    latlng[3] = row
    with pytest.raises(InputError, match=message):
        clean(latlng, "a.csv", where, LeftOut())


def test_swapped_columns_are_told_from_a_slip():
    latlng = np.random.default_rng(0).uniform((-60, -170), (60, 170), (1000, 2))
    over = int((np.abs(latlng[:, 1]) > 90).sum())
    with pytest.raises(
        InputError, match=rf"beyond 90; .*likely swapped \(of 1,000 rows, {over} are out of range, and 0"
    ):
        clean(latlng[:, ::-1], "a.csv", where, LeftOut())
    with pytest.raises(InputError, match="likely swapped"):
        clean(np.array([[139.69, 35.68]]), "a.csv", where, LeftOut())
    with pytest.raises(InputError, match=r"beyond 90; correct"):
        clean(latlng * 2.2, "a.csv", where, LeftOut())  # either way round out of range


# --- a CSV ------------------------------------------------------------------------------------------------------------


def test_streaming_equals_full_reading_and_a_plain_parser(tmp_path, monkeypatch):
    """All that may stand in a CSV, in chunks that end in every place."""
    generator = np.random.default_rng(0)
    text, expected = "\ufeffpath,note,latitude,longitude\r\n", []
    counts = dict.fromkeys(LeftOut().counts, 0)
    line = 1
    for i in range(400):
        latitude, longitude = generator.uniform((-90, -180), (90, 180)).round(int(generator.integers(0, 12))).tolist()
        note = ("plain", '"a, b"', '"two\nlines, ""quoted"""', "", 'Ä 5" lens')[i % 5]
        cells = [repr(latitude), f'"{longitude!r}"' if i % 3 else f" {longitude!r} "]
        if i % 17 == 0:
            cells[i % 2] = ("", " ", '""')[i // 17 % 3]
            counts["no position"] += 1
        elif i % 23 == 0:
            cells = ["0", "0.0"]
            counts["zero"] += 1
        elif i % 19 == 0:
            cells[1] = repr(longitude + 360) if longitude < 0 else "180.0"
            counts["wrapped"] += longitude < 0
            longitude = longitude + 360 - 360 if longitude < 0 else 180.0
        text += f"{i}.jpg,{note},{cells[0]},{cells[1]}\r\n" + "\r\n" * (i % 29 == 0)
        line += 1 + (i % 5 == 2)
        if i % 17 and i % 23:
            expected.append((line, (latitude, longitude), f"{i}.jpg".encode(), None, None, None))
        line += i % 29 == 0
    file = write(tmp_path / "a.csv", text)
    for chunk in (1, 7, 100, 100_000):
        monkeypatch.setattr(coordinates, "_CHUNK", chunk)
        monkeypatch.setattr(coordinates, "_ROWS", 1 + chunk % 97)
        ours, theirs = LeftOut(), LeftOut()
        assert read(file, left_out=ours) == expected
        assert streamed(file, left_out=theirs).tolist() == [list(latlng) for _, latlng, *_ in expected]
        assert ours.counts == theirs.counts == counts
        assert ours.lines("row", file) == theirs.lines("row", file)


def test_numbers_are_read_to_the_bit(tmp_path):
    latlng = np.random.default_rng(1).uniform((-90, -180), (90, 180), (2000, 2))
    rows = "\n".join(f"{latitude!r};{longitude!r}" for latitude, longitude in latlng.tolist())
    file = write(tmp_path / "a.csv", f"latitude;longitude\n{rows}")  # and no path, nor an end to the last line
    assert (streamed(file) == latlng).all()
    with pytest.raises(InputError, match="no column 'path' for the path; the nearest are "):
        read(file)


# The true layouts, with rows of our own.
YFCC_25 = (
    "0\t6985418911\t4e2f7a26a1dfbf165a7e30bdabf7e72a\t39019111@N00\tguy\t2012-02-16 09:56:37.0\t1331840483\tCanon\t"
    "{title}\t\tcamera\t\t{lng}\t{lat}\t16\thttp://www.flickr.com/photos/1/\thttp://farm8.staticflickr.com/1.jpg\tLicense\t"
    "http://creativecommons.org/\t7205\t8\tdf7747990d\t692d7e0a7f\tjpg\t0\n"
)
YFCC_23 = YFCC_25.partition("\t")[2].replace("4e2f7a26a1dfbf165a7e30bdabf7e72a\t", "")


@pytest.mark.parametrize("row", [YFCC_25, YFCC_23])
def test_yfcc100m_has_no_header_tabs_and_longitude_first(tmp_path, row):
    cells = [{"lng": "139.69", "lat": "35.68", "title": '"open+quote'}, {"lng": "", "lat": "", "title": "none"}]
    cells += [{"lng": "-43.17", "lat": "-22.91", "title": "Rio"}]
    file = write(tmp_path / "yfcc100m_dataset", "".join(row.format(**cell) for cell in cells))
    columns = choose_columns("yfcc100m")
    left_out = LeftOut()
    assert streamed(file, columns, left_out).tolist() == [[35.68, 139.69], [-22.91, -43.17]]
    assert left_out.counts["no position"] == 1
    name = b"4e2f7a26a1dfbf165a7e30bdabf7e72a" if row is YFCC_25 else b"6985418911"
    taken = (name, b"39019111@N00", b"2012-02-16 09:56:37.0", None)
    assert read(file, columns) == [(1, (35.68, 139.69), *taken), (3, (-22.91, -43.17), *taken)]
    if row is YFCC_25:
        assert read(file, choose_columns("yfcc100m", path="1"))[0][2] == b"6985418911"
    with pytest.raises(InputError, match=r"'id', but yfcc100m has no header; give its position from 0"):
        choose_columns("yfcc100m", path="id")
    with pytest.raises(InputError, match=r"no column 'latitude' .* \(a file without a header\?"):
        streamed(write(tmp_path / "bare.csv", "35.68,139.69\n"))
    with pytest.raises(InputError, match=r"line 1: it has 3 columns separated by tabs"):
        streamed(write(tmp_path / "short.tsv", "1\t2\t3\n"), columns)


@pytest.mark.parametrize(
    ("preset", "header", "row", "expected"),
    [
        (
            "osv5m",
            "id,latitude,longitude,thumb_original_url,country,sequence,captured_at,lon_bin,lat_bin,cell,creator_id",
            "3859149887465501,-22.9,-43.17,https://x,BR,S1,2019-05-01,1,2,3,107",
            (b"3859149887465501", b"107", b"2019-05-01"),
        ),
        (
            "mp16",
            "IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban",
            "d4/0f/4459.jpg,62548@N00,-22.9,-43.17,2,3,4,0.1,0.2,0.7",
            (b"d4/0f/4459.jpg", b"62548@N00", None),
        ),
        ("geo_clip", "IMG_FILE,LAT,LON", "a.jpg,-22.9,-43.17", (b"a.jpg", None, None)),
        ("path_lat_lon", "path,latitude,longitude,Owner", "a.jpg,-22.9,-43.17,me", (b"a.jpg", b"me", None)),
    ],
)
def test_the_header_tells_the_preset(tmp_path, preset, header, row, expected):
    file = write(tmp_path / "a.csv", f"{header}\n{row}\n")
    for columns in (None, PRESETS[preset], choose_columns(preset)):
        assert read(file, columns) == [(2, (-22.9, -43.17), *expected, None)]
        assert streamed(file, columns).tolist() == [[-22.9, -43.17]]


def test_columns_are_named_one_by_one(tmp_path):
    file = write(tmp_path / "a.csv", "file,y,x,who,author,latitude\na.jpg,1,2,me,you,\n")
    columns = choose_columns(path="file", latitude="y", longitude="x")
    assert read(file, columns) == [(2, (1.0, 2.0), b"a.jpg", b"you", None, None)]
    assert group_name(file, columns) == "author"
    assert read(file, choose_columns(None, "file", "y", "x", "who"))[0][3] == b"me"
    plain = write(tmp_path / "b.csv", "path,latitude,longitude,who\na.jpg,1,2,me\n")
    assert read(plain, choose_columns(group="who"))[0][3] == b"me"
    assert read(plain)[0][3] is None
    with pytest.raises(InputError, match="preset 'flickr' is unknown; it must be one of path_lat_lon, yfcc100m"):
        choose_columns("flickr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,latitude,longitude\na,1,2\nb,nan,2\n", r"line 3: the latitude is nan; it must be a number, or empty"),
        ("path,latitude,longitude\na,1,2\n\nb,,\nc,1,-inf\n", r"line 5: the longitude is -inf"),
        ("path,latitude,longitude\na,1,2\nb,91,2\nc,,\n", r"line 3: the latitude is 91, beyond 90; "),
        ('path,note,latitude,longitude\na,"x\ny",1,2\nb,,1,361\n', r"line 4: the longitude is 361"),
        ("path,latitude,longitude\na,1,2\nb,48°,2\n", r"line 3: the latitude is '48°'; it must be in degrees"),
        ("path;latitude;longitude\na;48,8;2,3\n", r"line 2: the latitude is '48,8'; .*a decimal point is wanted"),
        ("path,latitude,longitude\na,1,2\nb,1\n", r"line 3: it has 2 values, and at least 3 are wanted"),
        (
            "path,latitude,longitude\nTokyo,139.69,35.68\n",
            r"line 2: the latitude is 139.69, beyond 90; .*likely swapped",
        ),
        ("path,Latitude,lon\na,1,2\n", r"no column 'latitude' for the latitude; the nearest are 'Latitude'"),
        ("path,lat,lon\na,1,2\n", r"no column 'latitude' for the latitude; the nearest are 'lat'"),
        ("path,latitude,latitude,longitude\na,1,1,2\n", "has the column 'latitude' more than once"),
        ("path,latitude,longitude\n", r"has no position \(no rows\)"),
        (
            "path,latitude,longitude\na,,\nb,0,0\n",
            r"has no position \(1 row without a position, .*; 1 row at \(0, 0\)",
        ),
        ("", "is empty"),
        ("<!DOCTYPE html>\n<html>", "is a web page"),
        (b"PK\x03\x04\x14\x00\x00\x00", "is not text in UTF-8; unpack it"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, message):
    file = write(tmp_path / "a.csv", text)
    for reader in (read, streamed):
        with pytest.raises(InputError, match=message) as raised:
            reader(file)
        assert "\n" not in str(raised.value)
        assert str(file) in str(raised.value)


def test_lines_are_right_far_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(coordinates, "_CHUNK", 40)
    monkeypatch.setattr(coordinates, "_ROWS", 30)
    rows = [f'{i}.jpg,"{"x" * (i % 7)}",{i / 100},{i / 50}' for i in range(3000)]
    rows[2500] = "2500.jpg,,95,1"
    file = write(tmp_path / "a.csv", "path,note,latitude,longitude\n" + "\n".join(rows))
    for reader in (read, streamed):
        with pytest.raises(InputError, match="line 2502: the latitude is 95"):
            reader(file)
    rows[2500] = "2500.jpg,,"
    write(file, "path,note,latitude,longitude\n" + "\n".join(rows))
    for reader in (read, streamed):
        with pytest.raises(InputError, match="line 2502: it has 3 values, and at least 4"):
            reader(file)


# --- which split a row is of ------------------------------------------------------------------------------------------


def test_the_order_depends_on_the_name_alone_and_is_even():
    names = np.array([f"author {i}" for i in range(20_000)], "S")
    drawn = drawn_order(names, 0)
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    for width in (40, 64, 100):
        assert (drawn_order(names.astype(f"S{width}"), 0) == drawn).all()
    assert (drawn_order(names[5:6], 0) == drawn[5]).all()
    assert len(np.unique(drawn)) == len(names)
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-squared with 19 degrees of freedom, p = 0.001
    other = drawn_order(names, 1)
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03
    assert 1700 < ((drawn < 0.3) & (other < 0.3)).sum() < 1900  # 0.09 of all, by independence


def test_a_partition_is_given_the_training_rows_alone(tmp_path):
    rows = [(f"{i}.jpg", i / 10, i / 5 + 1, f"author {i // 10}") for i in range(500)]
    settings = {"val_fraction": 0.2, "test_fraction": 0.1, "seed": 3}

    def training(header, lines, columns=None):
        file = write(tmp_path / "a.csv", "\n".join([header, *(",".join(map(str, line)) for line in lines)]))
        return np.concatenate(list(training_coordinates(file, columns, **settings)))

    found = training("path,latitude,longitude,author", rows)
    drawn = drawn_order(np.array([row[3] for row in rows], "S"), 3)
    assert found.tolist() == [[a, b] for (_, a, b, _), u in zip(rows, drawn, strict=True) if u >= 0.3]
    assert 250 < len(found) < 450
    assert len(np.unique(found[:, 0] // 1)) * 10 == len(found)  # whole authors
    drawn = drawn_order(np.array([row[0] for row in rows], "S"), 3)
    found = training("path,latitude,longitude", [row[:3] for row in rows])
    assert found.tolist() == [[a, b] for (_, a, b, _), u in zip(rows, drawn, strict=True) if u >= 0.3]
    assert len(training("LAT,LON", [row[1:3] for row in rows])) == 500
    split = [(*row, ("Train", "val", "test")[i % 3]) for i, row in enumerate(rows)]
    found = training("path,latitude,longitude,author,split", split)
    assert found.tolist() == [[a, b] for _, a, b, *_ in rows[::3]]


@pytest.mark.parametrize(
    ("same", "others"),
    [
        (("31/01/2020 12:00", "31/1/2020", "31/01/2020"), ("01/02/2020 12:00", "30/01/2020")),
        (
            ("1577836800000", "1577923199999", "1577836800", "1577836800.0"),
            ("1577923200000", "1577836799"),
        ),  # 2020-01-01
        (("2020-01-31 23:59", "2020:01:31 00:00:00", "20200131T0900", "20200131090000", "2020-1-31"), ("2020-02-01",)),
        (("2020-01-31T12:00:00Z", "2020/01/31", "202001311200"), ("2020-01-30",)),
        (("1.2.20 8:00", "01.02.20"), ("2.1.20",)),
        (("2020-01",), ("2020-02", "2020")),
        (("", "soon", "0000:00:00 00:00:00", "0000", "00/00/2020", "12:30:45"), ("2020:01:01",)),
    ],
)
def test_dates_of_one_day_have_one_name(same, others):
    names = {day_of(text.encode()) for text in same}
    assert len(names) == 1
    assert not names & {day_of(text.encode()) for text in others}
    assert (b"" in names) == ("" in same)


def test_days_by_hand():
    assert day_of(b"1580472000") == day_of(b"2020-01-31 12:00:00.0") == b"2020:01:31"  # date -u -d @1580472000
    assert day_of(b"1580515200000") == b"2020:02:01"


def test_rows_of_which_no_day_can_be_read_are_counted(tmp_path):
    file = write(
        tmp_path / "a.csv",
        "path,latitude,longitude,taken\na,1,2,1577836800\nb,1,3,soon\nc,1,4,\nd,1,5,1577840000\ne,1,6,later\n",
    )
    (rows,), left_out = read_rows(file), LeftOut()
    names, by = groups_of(rows, left_out)
    assert names.tolist() == [b"2020:01:01", b"b", b"c", b"2020:01:01", b"e"]
    assert by == "day"
    assert left_out.lines("row", "a.csv") == [
        "a.csv: 2 rows with a date of which no day can be read, each drawn on its own (first: line 3, 'soon')"
    ]
    (rows,) = read_rows(write(file, "path,latitude,longitude,taken\na,1,2,soon\nb,1,3,\n"))
    assert groups_of(rows, LeftOut())[1] == "picture"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((np.nan, 0.1, 0), "--data.val_fraction is nan; it must be 0 or more, and below 1"),
        ((0.1, -0.1, 0), "--data.test_fraction is -0.1; it must"),
        ((1, 0, 0), "--data.val_fraction is 1; it must"),
        ((0.6, 0.4, 0), "val_fraction 0.6 and --data.test_fraction 0.4 together leave nothing to train on"),
        ((0.1, 0.1, -1), "--data.seed is -1; it must be from 0 to 4294967295"),
        ((0.1, 0.1, 2**64), "--data.seed is 18446744073709551616; it must"),
    ],
)
def test_what_nothing_can_be_drawn_by_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_drawing(*settings)
    check_drawing(0, 0.99, 2**32 - 1)


@pytest.mark.parametrize("column", ["path", "author"])
def test_a_cell_that_would_widen_all_others_is_refused_with_its_line(tmp_path, column):
    long = {"path": "b.jpg", "author": "me", column: "x" * 401}
    rows = ["a.jpg,1,2,me", f"{'y' * 401},,,me", f"{long['path']},3,4,{long['author']}"]
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,author", *rows]))
    name = "path" if column == "path" else "group"
    with pytest.raises(InputError, match=rf"line 4: the {name} has 401 bytes, and 400 are the most; shorten it"):
        read(file)
    write(file, file.read_text().replace("x" * 401, "x" * 400))
    assert len(read(file)) == 2


def test_a_picture_that_is_listed_twice_is_refused_in_a_partition_too(tmp_path):
    rows = [f"{name},{i},{i},author {i}" for i, name in enumerate(["a.jpg", "b.jpg", "c/../b.jpg", "d.jpg"])]
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,author", *rows]))
    settings = {"val_fraction": 0, "test_fraction": 0, "seed": 0}
    with pytest.raises(InputError, match=r"a\.csv lists b\.jpg more than once \(lines 3 and 4\); keep one of its rows"):
        list(training_coordinates(file, **settings))
    write(file, file.read_text().replace("c/../b", "c"))
    assert len(np.concatenate(list(training_coordinates(file, **settings)))) == 3  # one is at (0, 0)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for reader in (read, streamed):
        with pytest.raises(InputError, match=r"none\.csv does not exist; give the path of a CSV"):
            reader(tmp_path / "none.csv")
