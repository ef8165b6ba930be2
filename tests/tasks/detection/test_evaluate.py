import json

import pytest
from coco_content import annotation
from helpers import largest_file
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.detection.__main__ import main as command


def main(args):
    return command(["evaluate", *args])


@pytest.fixture
def files(tmp_path):
    """Two images, two classes with a gap in their ids, one right box, one shifted, one of the wrong class."""
    ground_truth = {
        "images": [{"id": 4, "width": 640, "height": 480}, {"id": 9, "width": 300, "height": 500}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 90, "name": "cat"}],
        "annotations": [
            annotation(1, 4, [10, 10, 50, 60], 1),
            annotation(2, 4, [200, 100, 150, 150], 90),
            annotation(3, 9, [20, 20, 20, 30], 90),
        ],
    }
    results = [
        {"image_id": 4, "category_id": 1, "bbox": [10, 10, 50, 60], "score": 0.9},
        {"image_id": 4, "category_id": 90, "bbox": [215, 100, 150, 150], "score": 0.8},
        {"image_id": 9, "category_id": 1, "bbox": [20, 20, 20, 30], "score": 0.95},
    ]
    (tmp_path / "A.json").write_text(json.dumps(ground_truth))
    (tmp_path / "R.json").write_text(json.dumps(results))
    return tmp_path


def arguments(folder, *more):
    return ["--annotations", str(folder / "A.json"), "--results", str(folder / "R.json"), *more]


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_files_score_and_print_as_pycocotools_does(files, capsys, backend):
    truth = COCO(str(files / "A.json"))
    run = COCOeval(truth, truth.loadRes(str(files / "R.json")), "bbox")
    run.evaluate()
    run.accumulate()
    capsys.readouterr()
    run.summarize()
    expected = capsys.readouterr().out

    assert main(arguments(files, "--json", str(files / "out.json"), "--backend", backend)) == 0
    output = capsys.readouterr()
    assert output.out == expected
    assert output.err == ""
    written = json.loads((files / "out.json").read_text())
    names = "map map_50 map_75 map_small map_medium map_large mar_1 mar_10 mar_100 mar_small mar_medium mar_large"
    assert " ".join(written) == names
    assert list(written.values()) == run.stats.tolist()
    assert sorted(path.name for path in files.iterdir()) == ["A.json", "R.json", "out.json"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("A.json", None, "A.json does not exist"),
        ("A.json", "<html>", "A.json is not valid JSON"),
        ("R.json", "", "R.json is not valid JSON"),
        ("R.json", '{"images": []}', "R.json is not COCO results"),
        ("R.json", '[{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "`image_id` 5"),
    ],
)
def test_a_file_that_cannot_be_used_gets_one_sentence_and_exit_code_two(files, capsys, name, content, message):
    (files / name).unlink() if content is None else (files / name).write_text(content)
    assert main(arguments(files, "--json", str(files / "out.json"))) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not (files / "out.json").exists()


def test_the_figures_never_overwrite_an_input_nor_go_to_a_missing_folder(files, capsys):
    before = (files / "A.json").read_bytes()
    assert main(arguments(files, "--json", str(files / "A.json"))) == 2
    assert (files / "A.json").read_bytes() == before
    for wrong in (files / "no" / "out.json", files):
        assert main(arguments(files, "--json", str(wrong))) == 2
        assert str(wrong) in capsys.readouterr().err


def test_odd_data_are_one_warning_on_stderr(files, capsys):
    ground_truth = json.loads((files / "A.json").read_text())
    for one in ground_truth["annotations"]:
        del one["area"]
    (files / "A.json").write_text(json.dumps(ground_truth))
    assert main(arguments(files)) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: ")
    assert "A.json: 3 annotations without area" in error
    assert error.count("\n") == 1


def test_a_full_disk_is_one_sentence_and_the_old_figures_stay(files, capsys):
    file = files / "figures.json"
    file.write_text("old")
    with largest_file(100):
        assert main(arguments(files, "--json", str(file))) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} cannot be written")
    assert error.count("\n") == 1
    assert file.read_text() == "old"
    assert len(list(files.iterdir())) == 3


def test_a_warning_does_nothing_to_the_terminal(files, capsys):
    content = json.loads((files / "A.json").read_text())
    del content["annotations"][0]["area"]
    named = files / "A\x1b[2J\n.json"
    named.write_text(json.dumps(content))
    assert main(["--annotations", str(named), "--results", str(files / "R.json")]) == 0
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
    assert warning.isprintable()


def changed(files, name, change):
    """Write a file anew as `change` leaves its content."""
    content = json.loads((files / name).read_text())
    change(content)
    (files / name).write_text(json.dumps(content))


def figures(files):
    out = files / "out.json"
    assert main(arguments(files, "--json", str(out))) == 0
    return json.loads(out.read_text())


def test_ids_of_64_bits_and_in_quotes_change_no_figure(files, capsys):
    before = figures(files)
    large = {4: 2**63 + 4, 9: 2**63 + 9, 1: 2**53 + 1, 90: "9007199254740994"}  # as floats all of a pair are the same

    def change(content):
        lists = content if isinstance(content, list) else [*content["annotations"]]
        for one in lists:
            one["image_id"], one["category_id"] = large[one["image_id"]], large[one["category_id"]]
        if isinstance(content, dict):
            for one in (*content["images"], *content["categories"]):
                one["id"] = large[one["id"]]

    changed(files, "A.json", change)
    changed(files, "R.json", change)
    assert figures(files) == before
    assert before["map"] > 0
    assert "given as text" in capsys.readouterr().err


def test_corners_and_parts_are_refused_in_both_files_by_the_same_words(files, capsys):
    whole = (files / "A.json").read_text(), (files / "R.json").read_text()

    def corners(content):
        for one in content if isinstance(content, list) else content["annotations"]:
            one["bbox"] = [300, 240, 500, 470] if one["image_id"] == 4 else [160, 250, 290, 490]

    def parts(content):
        for one in content if isinstance(content, list) else content["annotations"]:
            one["bbox"] = [0.1, 0.2, 0.3, 0.4]

    for change, words in ((corners, "(x1, y1, x2, y2)"), (parts, "parts of the image, 0 to 1")):
        sentences = []
        for name, text in zip(("A.json", "R.json"), whole, strict=True):
            changed(files, name, change)
            assert main(arguments(files)) == 2
            sentences.append(capsys.readouterr().err.replace(str(files / name), "FILE"))
            (files / name).write_text(text)
        assert words in sentences[0]
        assert sentences[0] == sentences[1]


def test_results_in_the_classes_of_all_splits_score_on_a_split_that_lists_some(files, tmp_path, capsys):
    def split(content):
        content["categories"].append({"id": 50, "name": "owl"})

    folder = tmp_path / "set/annotations"
    folder.mkdir(parents=True)
    before = figures(files)
    for name in ("val", "train"):
        (files / "A.json").rename(folder / f"instances_{name}.json")
        (files / "A.json").write_text((folder / f"instances_{name}.json").read_text())
    changed(folder, "instances_train.json", split)
    extra = {"image_id": 4, "category_id": 50, "bbox": [1, 1, 9, 9], "score": 1}
    changed(files, "R.json", lambda results: results.append(extra))
    capsys.readouterr()
    assert main(arguments(files)) == 2  # alone it lists no such class
    assert "`category_id` 50" in capsys.readouterr().err
    given = ["--annotations", str(folder / "instances_val.json"), "--results", str(files / "R.json")]
    assert main([*given, "--json", str(files / "out.json")]) == 0
    assert json.loads((files / "out.json").read_text()) == before


@pytest.mark.parametrize("place", ["annotations/instances_{}.json", "{}/_annotations.coco.json", "{}.json"])
def test_annotations_of_a_class_that_only_another_split_lists_are_scored(files, tmp_path, capsys, place):
    before = figures(files)
    for name in ("val", "train"):
        path = tmp_path / "set" / place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((files / "A.json").read_text())
    val = tmp_path / "set" / place.format("val")
    changed(val.parent, val.name, lambda content: content["categories"].pop())  # the cat, of two boxes
    capsys.readouterr()
    given = ["--annotations", str(val), "--results", str(files / "R.json")]
    assert main([*given, "--json", str(files / "out.json")]) == 0
    assert json.loads((files / "out.json").read_text()) == before
    assert "2 annotations of a class that only another split's file lists" in capsys.readouterr().err


@pytest.mark.parametrize("crowd", [False, True])
def test_without_an_object_it_says_that_there_is_nothing_to_measure(files, capsys, crowd):
    def change(content):
        for one in content["annotations"]:
            one["iscrowd"] = 1
        content["annotations"] *= crowd

    changed(files, "A.json", change)
    assert set(figures(files).values()) == {None}
    output = capsys.readouterr().out
    assert "nothing to measure" in output
    assert "A.json" in output
    assert "-1" not in output.replace(str(files), "")


def test_a_figure_without_an_object_of_its_size_is_null_and_said_in_words(files, capsys):
    changed(files, "A.json", lambda content: content["annotations"].pop())  # the only small one
    found = figures(files)
    assert {name for name, value in found.items() if value is None} == {"map_small", "mar_small"}
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "area= small" in line and "= not measured" in line]) == 2
    assert len([line for line in lines if line.rpartition("= ")[2][:2] in ("0.", "1.")]) == 10
