import json
import sys

import drawn_boxes
import pytest
from drawn_boxes import assert_same, expected, plain, write

from data.convert import main
from data.readers.coco import read


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", ["coco", "roboflow", "darknet", "voc", "csv_retinanet"])
def test_a_copy_as_coco_reads_as_what_was_drawn(tmp_path, layout, capsys):
    getattr(drawn_boxes, layout)(tmp_path / "src")
    before = tree(tmp_path / "src")
    assert main([str(tmp_path / "src"), str(tmp_path / "dst"), "--copy"]) == 0
    assert_same(plain(read(tmp_path / "dst")), expected(), within=1e-2)
    assert tree(tmp_path / "src") == before
    assert "train: 3 images, 3 boxes of 2 classes" in capsys.readouterr().out.splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_a_data_yaml_stands_for_its_folder(tmp_path, capsys):
    drawn_boxes.roboflow(tmp_path / "src")
    for target, code in (("dst", 0), ("src/new", 2)):
        assert main([str(tmp_path / "src/data.yaml"), str(tmp_path / target), "--copy"]) == code
    assert_same(plain(read(tmp_path / "dst")), expected(), within=1e-2)
    assert main([str(write(tmp_path / "src/other.txt", "x")), str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_without_copy_names_count_from_the_images_folder(tmp_path, capsys):
    drawn_boxes.voc_two_folders(tmp_path / "src")
    (tmp_path / "dst").mkdir()
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
    assert [path.name for path in sorted((tmp_path / "dst").rglob("*"))] == ["annotations", "instances_train.json"]
    content = json.loads((tmp_path / "dst/annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == sorted(f"{one.name}.png" for one in drawn_boxes.DRAWN)
    assert content["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert [one["id"] for one in content["annotations"]] == list(range(1, 9))
    assert content["annotations"][0]["bbox"] == [5, 6, 20, 10]
    assert str(tmp_path / "src/images") in capsys.readouterr().out


def test_difficult_objects_are_crowd_and_what_cannot_be_used_is_left_out(tmp_path, capsys):
    one = drawn_boxes.DRAWN[0]._replace(name="a", boxes=[("dog", 1, 2, 3, 4), ("cat", 5, 6, 7, 8), ("cat", 5, 6, 0, 8)])
    for name in ("a", "b"):
        drawn_boxes.draw(tmp_path / f"src/{name}.png", one.size)
        write(tmp_path / f"src/{name}.xml", drawn_boxes.voc_xml(one, difficult=[1]))
    write(tmp_path / "src/b.xml", "<annotation>")
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
    content = json.loads((tmp_path / "dst/annotations/instances_train.json").read_text())
    assert [(box["bbox"], box["iscrowd"]) for box in content["annotations"]] == [([1, 2, 3, 4], 0), ([5, 6, 7, 8], 1)]
    assert [image["file_name"] for image in content["images"]] == ["a.png"]
    printed = capsys.readouterr().out
    assert "1 image left out" in printed
    assert "zero or negative size" in printed


@pytest.mark.parametrize("target", ["full", "file", "src", "src/dst", "no/dst"])
def test_a_folder_that_must_not_be_written_to_is_refused(tmp_path, target, capsys):
    drawn_boxes.voc(tmp_path / "src")
    write(tmp_path / "full/mine.txt", "mine")
    write(tmp_path / "file", "mine")
    before = tree(tmp_path)
    assert main([str(tmp_path / "src"), str(tmp_path / target)]) == 2
    assert tree(tmp_path) == before
    assert capsys.readouterr().err.startswith("error: DST ")


@pytest.mark.parametrize("text", [None, "<!DOCTYPE annotation []><annotation/>"])
def test_data_that_cannot_be_read_leave_nothing_behind(tmp_path, text, capsys):
    (tmp_path / "src").mkdir()
    if text:
        write(tmp_path / "src/b.xml", text)
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 2
    assert not (tmp_path / "dst").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_disk_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    drawn_boxes.voc(tmp_path / "src")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.convert.shutil.copyfile", full)
    assert main([str(tmp_path / "src"), str(tmp_path / "dst"), "--copy"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
    assert "make room" in capsys.readouterr().err


@pytest.mark.slow
def test_it_needs_no_torch(tmp_path):
    import subprocess

    drawn_boxes.voc(tmp_path / "src")
    code = "import sys; from data.convert import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "src"), str(tmp_path / "dst")], check=True)
