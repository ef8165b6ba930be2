"""Results files that are read in pieces: equal to the file as a whole, whatever it holds."""

import json

import numpy as np
import pytest
from coco_content import content

from backbone.errors import InputError
from data.readers import coco_file
from data.readers.coco_file import ResultColumns, parse_annotations, parse_results, read_json, read_results


def results(count):
    rng = np.random.default_rng(0)
    return [
        {
            "image_id": int(rng.integers(1, 4)),
            "category_id": int(rng.choice([2, 7])),
            "bbox": [int(rng.integers(9)), *rng.uniform(1, 20, 3).tolist()],
            "score": float(rng.random()) if i % 5 else int(rng.integers(2)),
        }
        for i in range(count)
    ]


@pytest.fixture(params=[40, 200, 1000, 1 << 17])
def piece(request, monkeypatch):
    monkeypatch.setattr(coco_file, "_PIECE", request.param)
    return request.param


@pytest.mark.parametrize("form", [{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": "\t"}])
@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_plain_results_become_the_same_detections_in_pieces_of_any_size(tmp_path, piece, count, form):
    path = tmp_path / "R.json"
    path.write_text(" \n" + json.dumps(results(count), **form) + "\n")
    read = read_results(path)
    assert piece == 40 or isinstance(read, ResultColumns)  # objects of more than four pieces are read as a whole
    truth = parse_annotations(content(3), "A")
    expected, odd = parse_results(results(count), truth, "R", "A")
    found, issues = parse_results(read, truth, "R", "A")
    for ours, column in zip(found, expected, strict=True):
        assert ours.dtype == column.dtype
        assert np.array_equal(ours, column)
    assert [str(issue) for issue in issues] == [str(issue) for issue in odd]


PLAIN = '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}'
UNUSUAL = {
    "a cut within a text": PLAIN.replace("}", ', "note": "}, {"}'),
    "a cut within an object": PLAIN.replace("}", ', "parts": [{"a": 1}, {"b": 2}]}'),
    "an id in quotes": PLAIN.replace("1,", '"1",', 1),
    "an id as a float": PLAIN.replace("1,", "1.0,", 1),
    "an id that is true": PLAIN.replace("1,", "true,", 1),
    "an id beyond 64 bits": PLAIN.replace("1,", "36893488147419103232,", 1),
    "an id that is unknown": PLAIN.replace("1,", "9,", 1),
    "a category that is unknown": PLAIN.replace("2,", "9,", 1),
    "a score in quotes": PLAIN.replace("0.5", '"0.5"'),
    "a score that is true": PLAIN.replace("0.5", "true"),
    "a score that is not a number": PLAIN.replace("0.5", "NaN"),
    "a score beyond floats": PLAIN.replace("0.5", "1" + 400 * "0"),
    "no score": PLAIN.replace(', "score": 0.5', ""),
    "a field more": PLAIN.replace("}", ', "id": 5}'),
    "three sides": PLAIN.replace("3, 4", "3"),
    "three sides, then five": PLAIN.replace("3, 4", "3") + ", " + PLAIN.replace("3, 4", "3, 4, 5"),
    "sides in a text": PLAIN.replace("[1, 2, 3, 4]", '"1234"'),
    "sides in an object": PLAIN.replace("[1, 2, 3, 4]", '{"1": 1, "2": 2, "3": 3, "4": 4}'),
    "no box": PLAIN.replace("[1, 2, 3, 4]", "null"),
    "no object": "5",
    "nothing between two commas": "",
    "cut off": '{"image_id": 1, "cat',
    "two lists": PLAIN + "], [" + PLAIN,
}


@pytest.mark.parametrize("at", [0, 7, 30])
@pytest.mark.parametrize("one", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_answered_as_of_the_file_as_a_whole(tmp_path, piece, one, at):
    path, truth = tmp_path / "R.json", parse_annotations(content(3), "A")
    path.write_text("[" + ", ".join([PLAIN] * at + [one] + [PLAIN] * (30 - at)) + "]")

    def outcome(read):
        try:
            found, issues = parse_results(read(path), truth, "R", "A")
        except InputError as error:
            return str(error)
        return [column.tolist() for column in found], [str(issue) for issue in issues]

    assert outcome(read_results) == outcome(read_json)


@pytest.mark.parametrize("text", ["", "{}", "[", "[]]", '{"a": [1]}', "\ufeff[]", "7", "[" * 100_000])
def test_what_is_no_list_is_answered_as_of_the_file_as_a_whole(tmp_path, text):
    path = tmp_path / "R.json"
    path.write_text(text)

    def outcome(read):
        try:
            return parse_results(read(path), parse_annotations(content(3), "A"), "R", "A")[0].images.tolist()
        except InputError as error:
            return str(error)

    assert outcome(read_results) == outcome(read_json)
    path.unlink()
    assert "R.json does not exist" in outcome(read_results)
