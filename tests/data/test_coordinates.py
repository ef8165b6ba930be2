import numpy as np
import pytest

from backbone import InputError
from data.coordinates import IssueCounts, clean


def where(row):
    return f"row {row}"


def test_what_is_kept_is_kept_to_the_bit_and_the_rest_counted():
    latlng = np.array([[90, 180], [-90, -180], [0, 0], [10, 180.5], [0, 360], [-0.0, 0], [0, 1e-9], [5, 200.25]])
    counts = IssueCounts("row")
    found, keep = clean(latlng, "a.csv", where, counts)
    assert keep.tolist() == [True, True, False, True, False, False, True, True]
    expected = [[90, 180], [-90, -180], [10, -179.5], [0, 1e-9], [5, -159.75]]
    assert found[keep].tolist() == expected
    assert {what: count for what, count in counts.counts.items() if count} == {"zero": 3, "wrapped": 3}
    assert [(issue.count, issue.first) for issue in counts.issues] == [(3, "row 2"), (3, "row 3")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((np.nan, 0), r"a\.csv, row 3: the latitude is nan"),
        ((1, np.inf), r"a\.csv, row 3: the longitude is inf"),
        ((90.001, 1), r"a\.csv, row 3: the latitude is 90.001"),
        ((-91, 91), r"a\.csv, row 3: the latitude is -91"),
        ((1, -180.01), r"a\.csv, row 3: the longitude is -180.01"),
        ((1, 360.01), r"a\.csv, row 3: the longitude is 360.01"),
    ],
)
def test_what_is_certainly_wrong_is_refused_with_its_row(row, message):
    latlng = np.random.default_rng(0).uniform((-60, -170), (60, 170), (1000, 2))
    latlng[3] = row
    with pytest.raises(InputError, match=message):
        clean(latlng, "a.csv", where, IssueCounts("row"))


def test_swapped_columns_are_told_from_a_slip():
    latlng = np.random.default_rng(0).uniform((-60, -170), (60, 170), (1000, 2))
    over = int((np.abs(latlng[:, 1]) > 90).sum())
    with pytest.raises(
        InputError, match=rf"beyond 90; .*likely swapped \(of 1,000 rows, {over} are out of range, and 0"
    ):
        clean(latlng[:, ::-1], "a.csv", where, IssueCounts("row"))
    with pytest.raises(InputError, match="likely swapped"):
        clean(np.array([[139.69, 35.68]]), "a.csv", where, IssueCounts("row"))
    with pytest.raises(InputError, match=r"beyond 90; correct"):
        clean(latlng * 2.2, "a.csv", where, IssueCounts("row"))  # either way round out of range
