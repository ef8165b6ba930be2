from pathlib import Path

import numpy as np

from data.records import SPLITS, UNSPLIT, Boxes, Issue, Records, issue_of, joined


def boxes(*counts):
    """Boxes of images with so many objects; x1 counts the objects from 0."""
    total = sum(counts)
    xyxy = np.arange(total)[:, None] + np.array([0.0, 1, 2, 3])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Boxes(offsets, xyxy, np.arange(total), np.arange(total) % 2 == 1, np.full(total, 4.0))


def test_a_part_has_the_rows_and_the_boxes_of_its_images():
    records = Records(
        Path("photos"),
        np.array([b"a.jpg", b"b.jpg", b"c.jpg"]),
        {"years": np.array([1, 2, 3]), "latlng": np.arange(6).reshape(3, 2)},
        boxes(2, 0, 3),
    )
    part = records.take(np.array([2, 0]))
    assert [part.path(0), part.path(1)] == [Path("photos/c.jpg"), Path("photos/a.jpg")]
    assert part["years"].tolist() == [3, 1]
    assert part["latlng"].tolist() == [[4, 5], [0, 1]]
    assert part.boxes.offsets.tolist() == [0, 3, 5]
    assert part.boxes.labels[part.boxes.rows(0)].tolist() == [2, 3, 4]
    assert part.boxes.xyxy[part.boxes.rows(1), 0].tolist() == [0, 1]
    assert part.boxes.crowd.tolist() == [False, True, False, False, True]
    middle = records.take(np.array([False, True, False]))
    assert middle["years"].tolist() == [2]
    assert len(middle.boxes.xyxy) == 0
    assert "photos/c.jpg" in part
    assert "photos/b.jpg" not in part


def test_the_records_of_a_split_are_those_of_its_number():
    split = np.array([SPLITS.index("val"), UNSPLIT, SPLITS.index("test"), SPLITS.index("val")], np.int8)
    records = Records(Path("x"), np.array([b"0", b"1", b"2", b"3"]), {"split": split})
    assert records.of_split("val").file_names.tolist() == [b"0", b"3"]
    assert records.of_split("test").file_names.tolist() == [b"2"]
    assert len(records.of_split("train")) == 0


def test_joined_records_keep_their_rows_and_the_columns_that_all_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"labels": np.array([3, 1]), "identities": np.array([7, 8])}
    first = Records(Path("data"), np.array([b"a.png", b"long/name.png"]), columns, boxes(1, 2), notes=("once",))
    same = Records(tmp_path / "data", np.array([b"b.png"]), {"labels": np.array([2])}, boxes(1), notes=("once",))
    both = joined([first, same])
    assert both.folder == Path("data")
    assert both.file_names.tolist() == [b"a.png", b"long/name.png", b"b.png"]
    assert both["labels"].tolist() == [3, 1, 2]
    assert both.columns.keys() == {"labels"}
    assert both.boxes.offsets.tolist() == [0, 1, 3, 4]
    assert both.boxes.labels.tolist() == [0, 1, 2, 0]
    assert both.notes == ("once",)
    other = Records(tmp_path / "more" / "of it", np.array([b"c.png"]), {"labels": np.array([0])})
    both = joined([first, other])
    assert [both.path(i) for i in range(3)] == [tmp_path / "data/a.png", tmp_path / "data/long/name.png", other.path(0)]
    assert both.boxes is None


def test_an_issue_says_how_often_and_where_first():
    assert (
        str(Issue("boxes over the edge clipped", 1200, "a.jpg")) == "1,200 boxes over the edge clipped (first: a.jpg)"
    )
    assert Issue("boxes over the edge clipped", 1).counted == "1 box over the edge clipped"
    assert Issue("images are missing, as they are elsewhere", 1).counted == "1 image is missing, as they are elsewhere"
    assert Issue("of the 3 classes have no image in val", 1).counted == "1 of the 3 classes have no image in val"
    assert Issue("classes", 1).counted == "1 class"


def test_an_issue_names_the_first_few_places():
    rows = np.array([False, True, True, False, True])
    [issue] = issue_of("boxes", rows, "abcde".__getitem__)
    assert (issue.count, issue.first, issue.more) == (3, "b", ("c", "e"))
    [issue] = issue_of("lines", np.arange(9), str)
    assert (issue.count, issue.first, issue.more) == (9, "0", ("1", "2", "3", "4"))
    assert issue_of("boxes", rows[:1], str) == []
