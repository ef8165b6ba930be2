import numpy as np
import pytest
from helpers import one_sentence

from backbone import InputError
from data.coordinates import IssueCounts
from data.readers import csv_table
from data.readers.coordinates_csv import Columns, choose_columns, day_of, read_rows, training_coordinates

TOLD = Columns()  # by the header


def read(file, columns=TOLD, counts=None):
    """All rows as [(line, latlng, path, group, taken, split)]."""
    found = []
    for rows in read_rows(file, columns, counts or IssueCounts("row")):
        others = [[None] * len(rows.lines) if part is None else part.tolist() for part in rows[3:-1]]
        found += zip(rows.lines.tolist(), map(tuple, rows.latlng.tolist()), *others, strict=True)
    return found


def training(file, columns=TOLD, **settings):
    settings = {"val_fraction": 0, "test_fraction": 0, "seed": 0, **settings}
    return np.concatenate(list(training_coordinates(file, columns, IssueCounts("row"), **settings)))


def write(path, text):
    path.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    return path


def test_rows_are_those_of_a_plain_parser(tmp_path, monkeypatch):
    """All that may stand in a CSV, in chunks that end in every place."""
    generator = np.random.default_rng(0)
    text, expected = "\ufeffpath,note,latitude,longitude\r\n", []
    counts = dict.fromkeys(IssueCounts("row").counts, 0)
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
        monkeypatch.setattr(csv_table, "_CHUNK", chunk)
        found = IssueCounts("row")
        assert read(file, counts=found) == expected
        assert found.counts == counts


def test_numbers_are_read_to_the_bit(tmp_path):
    latlng = np.random.default_rng(1).uniform((-90, -180), (90, 180), (2000, 2))
    rows = "\n".join(f"{latitude!r};{longitude!r}" for latitude, longitude in latlng.tolist())
    file = write(tmp_path / "a.csv", f"latitude;longitude\n{rows}")  # and no path, nor an end to the last line
    assert (training(file) == latlng).all()
    with pytest.raises(InputError, match=r"no column 'path'.*--data\.path_column"):
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
    columns, counts = choose_columns("yfcc100m"), IssueCounts("row")
    name = b"4e2f7a26a1dfbf165a7e30bdabf7e72a" if row is YFCC_25 else b"6985418911"
    taken = (name, b"39019111@N00", b"2012-02-16 09:56:37.0", None)
    assert read(file, columns, counts) == [(1, (35.68, 139.69), *taken), (3, (-22.91, -43.17), *taken)]
    assert counts.counts["no position"] == 1
    if row is YFCC_25:
        assert read(file, choose_columns("yfcc100m", path="1"))[0][2] == b"6985418911"
    with pytest.raises(InputError, match="path is 'id', but yfcc100m has no header"):
        choose_columns("yfcc100m", path="id")
    with pytest.raises(InputError, match=r"no column 'latitude'.*no header"):
        training(write(tmp_path / "bare.csv", "35.68,139.69\n"))
    with pytest.raises(InputError, match="line 1: it has 3 columns"):
        read(write(tmp_path / "short.tsv", "1\t2\t3\n"), columns)


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
        ("path_lat_lon", " Path,LATITUDE,Longitude,user,Author", "a.jpg,-22.9,-43.17,u,me", (b"a.jpg", b"me", None)),
        (None, "filename,lat,lng,Date", "a.jpg,-22.9,-43.17,2020", (b"a.jpg", None, b"2020")),
    ],
)
def test_the_header_tells_the_columns_in_any_case(tmp_path, preset, header, row, expected):
    file = write(tmp_path / "a.csv", f"{header}\n{row}\n")
    for columns in (TOLD, choose_columns(preset)):
        assert read(file, columns) == [(2, (-22.9, -43.17), *expected, None)]


def test_columns_are_named_one_by_one(tmp_path):
    file = write(tmp_path / "a.csv", "file,y,x,who,author,latitude\na.jpg,1,2,me,you,\n")
    columns = choose_columns(path="file", latitude="y", longitude="x")
    assert read(file, columns) == [(2, (1.0, 2.0), b"a.jpg", b"you", None, None)]
    assert next(read_rows(file, columns, IssueCounts("row"))).group_column == "author"
    assert read(file, choose_columns(None, "file", "y", "x", "who"))[0][3] == b"me"
    plain = write(tmp_path / "b.csv", "path,latitude,longitude,who\na.jpg,1,2,me\n")
    assert read(plain, choose_columns(group="who"))[0][3] == b"me"
    assert read(plain)[0][3] is None
    named = write(tmp_path / "c.csv", "file,LAT,LON\na.jpg,1,2\n")
    assert read(named, choose_columns(path="file")) == [(2, (1.0, 2.0), b"a.jpg", None, None, None)]
    with pytest.raises(InputError, match=r"'flickr' .*path_lat_lon, yfcc100m"):
        choose_columns("flickr")
    with pytest.raises(InputError, match="no column 'regio' for the group"):
        read(plain, choose_columns(group="regio"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,latitude,longitude\na,1,2\nb,nan,2\n", "line 3: the latitude is nan"),
        ("path,latitude,longitude\na,1,2\n\nb,,\nc,1,-inf\n", "line 5: the longitude is -inf"),
        ("path,latitude,longitude\na,1,2\nb,91,2\nc,,\n", "line 3: the latitude is 91"),
        ('path,note,latitude,longitude\na,"x\ny",1,2\nb,,1,361\n', "line 4: the longitude is 361"),
        ("path,latitude,longitude\na,1,2\nb,48°12,2\n", "line 3: the latitude is '48°12'"),
        ("path,latitude,longitude\na,48,8,2,3\n", "line 2: it has 5 values, .* names 3; .*semicolons"),
        ("path;latitude;longitude\na;48,8,1;2,3\n", "line 2: the latitude is '48,8,1'"),
        ("path;latitude;longitude\na;48,8E;2,3\n", "line 2: the latitude is '48,8E'"),
        ("path;latitude;longitude\na;48,8;-2,3W\n", "line 2: the longitude is '-2,3W'"),
        ("title,lat,lng\na,48.8,2.3\n", "no column 'path' for the path; the nearest are 'title': .*--data.path_column"),
        ("path,latitude,longitude\na,1,2\nb,1\n", "line 3: it has 2 values, but 3 or more"),
        ("path,latitude,longitude\nTokyo,139.69,35.68\n", "line 2: the latitude is 139.69, .*likely swapped"),
        ("path,Latitude,easting\na,1,2\n", r"no column 'longitude' .*'easting'.*--data\.longitude_column"),
        ("path,latitude,latitude,longitude\na,1,1,2\n", "'latitude' more than once"),
        ("path,latitude,longitude\n", r"no position \(no rows\)"),
        ("path,latitude,longitude\na,,\nb,0,0\n", r"no position \(1 row without .*; 1 row at \(0, 0\)"),
        ("", "is empty"),
        ("<!DOCTYPE html>\n<html>", "is a web page"),
        (b"PK\x03\x04\x14\x00\x00\x00", "is not text in UTF-8"),
        (None, "does not exist"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, message):
    file = tmp_path / "a.csv" if text is None else write(tmp_path / "a.csv", text)
    with one_sentence(f"^{file}.*{message}"):
        read(file)


SPREADSHEETS = {
    "comma": "path;latitude;longitude\na.jpg;40,5;-5,25\nb.jpg;41;6,25\n",
    "tabs": "path\tLatitude\tLONGITUDE\r\na.jpg\t40,5\t-5,25\r\nb.jpg\t41\t6,25\r\n",
    "quotes": 'path,latitude,longitude\na.jpg,"40,5","-5,25"\nb.jpg,"41","6,25"\n',
    "letters": "path,latitude,longitude\na.jpg,40.5N,5.25W\nb.jpg,41 n,6.25° E\n",
    "filename": "Filename,Lat,Lng\na.jpg,40.5,-5.25\nb.jpg,41,6.25\n",
    "other columns": "lon,title,image,lat\n-5.25,x,a.jpg,40.5\n6.25,y,b.jpg,41\n",
    "sep": "sep=;\r\nIMAGE_PATH;latitude;longitude\r\na.jpg;40,5;-5,25\r\nb.jpg;41;6,25\r\n",
    "bars": "path|latitude|longitude\na.jpg|40.5|-5.25\nb.jpg|41|6.25\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_a_list_of_a_spreadsheet_is_read_as_it_is_meant(tmp_path, kind, encoding):
    file, counts = write(tmp_path / "a.csv", SPREADSHEETS[kind].encode(encoding)), IssueCounts("row")
    found = read(file, counts=counts)
    assert [row[1:3] for row in found] == [((40.5, -5.25), b"a.jpg"), ((41.0, 6.25), b"b.jpg")]
    assert [row[0] for row in found] == ([3, 4] if kind == "sep" else [2, 3])
    odd = {"comma": "comma", "tabs": "comma", "quotes": "comma", "letters": "letter", "sep": "comma"}
    assert {what: count for what, count in counts.counts.items() if count} == ({odd[kind]: 2} if kind in odd else {})


@pytest.mark.parametrize("column", ["path", "author"])
def test_a_cell_that_would_widen_all_others_is_refused_with_its_line(tmp_path, column):
    long = {"path": "b.jpg", "author": "me", column: "x" * 401}
    rows = ["a.jpg,1,2,me", f"{'y' * 401},,,me", f"{long['path']},3,4,{long['author']}"]
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,author", *rows]))
    with pytest.raises(InputError, match=rf"line 4: the {'path' if column == 'path' else 'group'} has 401 bytes"):
        read(file)
    write(file, file.read_text().replace("x" * 401, "x" * 400))
    assert len(read(file)) == 2


# --- days, and what is trained on -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("same", "others"),
    [
        (("31/01/2020 12:00", "31/1/2020", "31/01/2020"), ("01/02/2020 12:00", "30/01/2020")),
        (("1577836800000", "1577923199999", "1577836800.0", "2020-01-01"), ("1577923200000", "1577836799")),
        (("1580472000", "1580515199999", "2020-01-31 12:00:00.0"), ("1580515200",)),  # by date -u -d @1580472000
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


def test_rows_of_which_no_day_can_be_read_are_counted(tmp_path):
    head = "path,latitude,longitude,taken\n"
    file = write(tmp_path / "a.csv", f"{head}a,1,2,1577836800\nb,1,3,soon\nc,1,4,\nd,1,5,1577840000\ne,1,6,later\n")
    counts = IssueCounts("row")
    (rows,) = read_rows(file, TOLD, counts)
    names, by = rows.group(counts)
    assert names.tolist() == [b"2020:01:01", b"b", b"c", b"2020:01:01", b"e"]
    assert by == "day"
    assert [(issue.count, issue.first) for issue in counts.issues] == [(2, "line 3, 'soon'")]
    (rows,) = read_rows(write(file, f"{head}a,1,2,soon\nb,1,3,\n"), TOLD, counts)
    assert rows.group(counts)[1] == "image"


def test_rows_of_places_alone_are_all_taken_and_a_column_says_the_split(tmp_path):
    rows = [f"{i}.jpg,{i + 1},{i},{('Train', 'val', 'test')[i % 3]}" for i in range(60)]
    settings = {"val_fraction": 0.2, "test_fraction": 0.1, "seed": 3}
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,split", *rows]))
    assert training(file, **settings).tolist() == [[i + 1, i] for i in range(0, 60, 3)]
    alone = write(tmp_path / "b.csv", "\n".join(["LAT,LON", *(f"{i + 1},{i}" for i in range(60))]))
    assert len(training(alone, **settings)) == 60
    with pytest.raises(InputError, match="line 3: the split is 'held'"):
        training(write(file, file.read_text().replace("val", "held")), **settings)


def test_a_split_that_begins_late_in_a_long_list_is_not_drawn(tmp_path, monkeypatch):
    rows = [f"{i}.jpg,{i + 1},{i},{'train' if i < 50 else 'test'}" for i in range(60)]
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,split", *rows]))
    whole = training(file, val_fraction=0.2, test_fraction=0.2)
    assert 35 <= len(whole) < 50  # without some for validation
    monkeypatch.setattr(csv_table, "_CHUNK", 10)
    assert training(file, val_fraction=0.2, test_fraction=0.2).tolist() == whole.tolist()


def test_an_image_that_is_listed_twice_is_refused_in_a_partition_too(tmp_path):
    rows = [f"{name},{i},{i},author {i}" for i, name in enumerate(["a.jpg", "b.jpg", "c/../b.jpg", "d.jpg"])]
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,author", *rows]))
    with pytest.raises(InputError, match=r"lists b\.jpg more than once \(lines 3 and 4\)"):
        training(file)
    write(file, file.read_text().replace("c/../b", "c"))
    assert len(training(file)) == 3  # one is at (0, 0)
    with pytest.raises(InputError, match="too few groups"):
        training(write(file, "path,latitude,longitude\na,1,2\n"), val_fraction=0.5)
