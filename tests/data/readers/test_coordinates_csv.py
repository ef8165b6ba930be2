import numpy as np
import pytest

from backbone import InputError
from data import coordinates_csv
from data.coordinates import LeftOut
from data.coordinates_columns import PRESETS, choose_columns, group_name
from data.coordinates_csv import read_rows, stream_coordinates


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
        monkeypatch.setattr(coordinates_csv, "_CHUNK", chunk)
        monkeypatch.setattr(coordinates_csv, "_ROWS", 1 + chunk % 97)
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
    monkeypatch.setattr(coordinates_csv, "_CHUNK", 40)
    monkeypatch.setattr(coordinates_csv, "_ROWS", 30)
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


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for reader in (read, streamed):
        with pytest.raises(InputError, match=r"none\.csv does not exist; give the path of a CSV"):
            reader(tmp_path / "none.csv")
