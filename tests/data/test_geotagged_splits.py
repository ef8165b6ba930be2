import numpy as np
import pytest

from backbone import InputError
from data.coordinates import LeftOut
from data.coordinates_csv import read_rows
from data.geotagged_splits import check_drawing, day_of, drawn_order, groups_of, training_coordinates


def write(path, text):
    path.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    return path


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
        "a.csv: 2 rows with a date of which no day can be read, each a group of its own (first: line 3, 'soon')"
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


def test_a_picture_that_is_listed_twice_is_refused_in_a_partition_too(tmp_path):
    rows = [f"{name},{i},{i},author {i}" for i, name in enumerate(["a.jpg", "b.jpg", "c/../b.jpg", "d.jpg"])]
    file = write(tmp_path / "a.csv", "\n".join(["path,latitude,longitude,author", *rows]))
    settings = {"val_fraction": 0, "test_fraction": 0, "seed": 0}
    with pytest.raises(InputError, match=r"a\.csv lists b\.jpg more than once \(lines 3 and 4\); keep one of its rows"):
        list(training_coordinates(file, **settings))
    write(file, file.read_text().replace("c/../b", "c"))
    assert len(np.concatenate(list(training_coordinates(file, **settings)))) == 3  # one is at (0, 0)
