import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import drawn_boxes
import numpy as np
import pytest
from helpers import data_module, faces, image_file, is_color, one_sentence, pixels, tree
from PIL import Image

from data import overview
from data.attributes import AttributesDataModule
from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from data.face_pairs import FacePairsDataModule
from data.geotagged import GeotaggedDataModule
from data.records import SPLITS, Boxes, Records
from tasks.cli import Parser
from tasks.plotting import class_color
from tasks.short_options import translated

MODULES = {
    "detection": DetectionDataModule,
    "classification": ClassificationDataModule,
    "face_attributes": AttributesDataModule,
    "face_embeddings": FacePairsDataModule,
    "geolocalization": GeotaggedDataModule,
}


def check(task, root, *args):
    """The exit code."""
    return importlib.import_module(f"tasks.{task}.__main__").main(["check", "--data.root", str(root), *args])


def lines_of(task):
    [file] = Path("runs", task).glob("*/check/check.txt")
    return file.read_text().splitlines()


def table(lines, head):
    """The rows of the table of that first column, by their first cell."""
    start = next(i for i, line in enumerate(lines) if re.match(rf"  {head} ", line))
    keys = re.split(r"  +", lines[start].strip())
    rows = [re.split(r"  +", line.strip()) for line in lines[start + 1 :]]
    rows = rows[: next((i for i, row in enumerate(rows) if len(row) != len(keys)), None)]
    return {row[0]: dict(zip(keys[1:], (int(cell.replace(",", "")) for cell in row[1:]), strict=True)) for row in rows}


@pytest.fixture(scope="module")
def roots(tmp_path_factory, classes_root, places_root, coco_root, write_classes):
    root = tmp_path_factory.mktemp("faces")
    unsplit = tmp_path_factory.mktemp("unsplit")
    for i in range(40):
        image_file(unsplit / f"{'abc'[i % 3]}/{i:02}.png", i)
    without_test = write_classes(tmp_path_factory.mktemp("without_test"), {"train": 12, "val": 4})
    yolo = tmp_path_factory.mktemp("yolo")
    drawn_boxes.label_studio(yolo)
    return {
        "detection": [coco_root, yolo],
        "classification": [classes_root, unsplit, without_test],
        "face_attributes": [faces(root / "csv")],
        "face_embeddings": [root / "csv", unsplit],
        "geolocalization": [places_root],
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("task", MODULES)
def test_splits_and_classes_are_those_of_a_fit(roots, task, number):
    for root in roots[task][number:][:1]:
        before = tree(root)
        assert check(task, root) == 0
        assert tree(root) == before  # the data are as they were
        lines = lines_of(task)
        data = data_module(MODULES[task], root, "fit")
        rows, classes = table(lines, "split"), {}
        for split in ("train", "val"):
            assert rows[split]["images"] == len(data.records(split)), split
            if data.records(split).classes:
                counts = overview.class_counts(data.records(split)).tolist()
                classes[split] = dict(zip(data.records(split).classes, counts, strict=True))
        assert rows["test"]["images"] == (data.all_records["split"] == SPLITS.index("test")).sum()
        for split, expected in classes.items():
            found = table(lines, "attribute" if "face" in task else "class")
            assert {name: row[split] for name, row in found.items()} == expected


def test_a_fit_with_the_same_options_comes_next(roots, capsys):
    root = roots["classification"][1]
    assert check("classification", root, "--data.val_fraction", "0.25", "--data.seed", "3") == 0
    line = capsys.readouterr().out.splitlines()[-1].removeprefix("next: python -m tasks.classification ")
    command, *args = words = shlex.split(line)
    assert words == ["fit", "--data", str(root), "--data.val_fraction", "0.25", "--data.seed", "3"]
    parser = Parser()
    parser.add_lightning_class_args(ClassificationDataModule, "data")
    assert parser.parse_args(translated("classification", command, args), defaults=False).data.as_dict() == {
        **{"root": str(root), "val_fraction": 0.25, "seed": 3}
    }


def test_neither_torch_nor_lightning_is_imported_and_the_pictures_lie_in_a_run_folder(roots, tmp_path):
    root = roots["detection"][0]
    given = ["check", "--data.root", str(root)]
    code = (
        "import sys\nfrom tasks.detection.__main__ import main\n"
        f"assert main({given}) == 0\nprint([m in sys.modules for m in ('torch', 'lightning', 'torchvision', 'cv2')])"
    )
    args = [sys.executable, "-c", code]
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str([False] * 4)
    [folder] = Path("runs/detection").glob("*/check")
    assert sorted(path.name for path in folder.iterdir()) == ["check.txt", "labels.png", "sizes.png"]
    assert [path.name for path in folder.parent.iterdir()] == ["check"]
    assert not Path("runs/detection/latest").exists()


def test_what_is_odd_is_named_with_its_first_files(tmp_path, write_classes, monkeypatch):
    root = write_classes(tmp_path / "set", {"train": 12, "val": 4, "test": 4})
    train, val = (sorted((root / split).rglob("*.png")) for split in ("train", "val"))
    val[0].write_bytes(train[0].read_bytes())
    val[1].write_bytes(train[1].read_bytes())
    for path in train[3:9]:
        path.write_bytes(b"nothing")
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    Image.fromarray(image).save(train[10], format="JPEG")
    train[10].write_bytes(train[10].read_bytes()[:800])  # its header is whole
    Image.fromarray(image).resize((480, 640)).save(train[11], format="JPEG")
    train[11].write_bytes(train[11].read_bytes()[:-9])
    assert check("classification", root) == 0
    lines = lines_of("classification")
    start = next(i for i, line in enumerate(lines) if re.match(r"  4 images are in more than one split", line))
    pairs = [[f"{os.path.relpath(path, root)} ({path.relative_to(root).parts[0]})" for path in two] for two in
             ((train[0], val[0]), (train[1], val[1]))]  # fmt: skip
    assert lines[start + 1 : start + 3] == [f"    {' and '.join(two)}" for two in pairs]
    start = next(i for i, line in enumerate(lines) if re.match(r"  6 images cannot be used", line))
    assert lines[start + 1 : start + 6] == [f"    {os.path.relpath(path, root)}" for path in train[3:8]]
    assert any(line.endswith("leaves out: 6 images") for line in lines)
    assert re.search(r"fit would refuse this: 6 of the 36 images of the train split", lines[-1])
    Path("runs").rename("before")
    assert check("classification", root, "--decode") == 0
    lines = lines_of("classification")
    assert any(line.endswith("leaves out: 7 images") for line in lines)
    start = next(i for i, line in enumerate(lines) if re.match(r"  1 image without their last bytes", line))
    assert lines[start + 1].startswith(f"    {os.path.relpath(train[11], root)}: it ends after 9")


def test_images_that_are_missing_or_of_another_size_are_counted_and_the_others_are_read(tmp_path, write_coco):
    root = write_coco(tmp_path / "set", {"train": 9})
    images = sorted((root / "train").glob("*.png"))
    images[1].unlink()
    Image.new("RGB", (50, 50)).save(images[4])
    with Image.open(images[6]) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(images[6])
    with Image.open(images[7]) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # it is shown turned, but was annotated as it is stored
        image.save(images[7], exif=exif)
    assert check("detection", root) == 0
    lines = lines_of("detection")
    [line] = [line for line in lines if line.startswith("images, ")]
    assert line.startswith("images, 6 by their headers: ")
    start = next(i for i, line in enumerate(lines) if line.startswith("  2 images cannot be used"))
    assert lines[start + 1 : start + 3] == [
        f"    {images[4].name}: the image is 50 x 50 px but its annotation says 128 x 96 px",
        f"    {images[6].name}: the image is 96 x 128 px but its annotation says 128 x 96 px",
    ]
    start = next(i for i, line in enumerate(lines) if line.startswith("  1 image of the annotations is missing"))
    assert images[1].name in lines[start + 1]
    split = table(lines, "split")
    left = next(line for line in lines if line.startswith("training leaves out"))
    assert split["train"]["images"] + split["val"]["images"] == 9
    assert int(left.split()[3]) == 3 - sum(images[i].name in _of_val(root) for i in (1, 4, 6))


def _of_val(root):
    data = data_module(DetectionDataModule, root)
    records = data.all_records.of_split("val")
    return {Path(os.fsdecode(name)).name for name in records.file_names.tolist()}


def test_boxes_are_drawn_where_they_are_read(tmp_path):
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("cat\ndog\n")
    for i in range(3):
        Image.new("RGB", (360, 360), "white").save(root / f"images/{i}.png")
        (root / f"labels/{i}.txt").write_text("1 0.5 0.6 0.5 0.4\n")
    assert check("detection", root) == 0
    [sheet] = Path("runs/detection").glob("*/check/labels.png")
    color = is_color(pixels(sheet), class_color(1))
    top = np.flatnonzero(is_color(pixels(sheet)[:, 16], (255, 255, 255)))  # somewhere in the first tile's column
    assert top.size
    rows, columns = np.flatnonzero(color.sum(axis=1) > 500), np.flatnonzero(color[:, :374].sum(axis=0) > 100)
    assert columns.min() == 14 + 90  # the margin, and a quarter of the tile
    assert columns.max() == 14 + 270
    assert rows.max() - rows.min() == pytest.approx(144, abs=22)  # 0.4 of 360 px, and the label upon it


def test_boxes_of_an_image_that_is_missing_are_of_no_size(tmp_path):
    drawn_boxes.csv_retinanet(tmp_path / "set")
    [image] = (tmp_path / "set").rglob("b.png")
    image.unlink()
    assert check("detection", tmp_path / "set") == 0
    assert any(re.match(r"boxes: four of five have a side of \d+% to \d+% of", line) for line in lines_of("detection"))


def test_what_a_fit_would_refuse_is_said(tmp_path):
    for name in "abcde":
        image_file(tmp_path / "set" / name / "1.png", ord(name))
    assert check("classification", tmp_path / "set") == 0
    lines = lines_of("classification")
    assert table(lines, "split")["no split"] == {"images": 5}
    assert {row["no split"] for row in table(lines, "class").values()} == {1}
    assert [line.partition(":")[0] for line in lines[-2:]] == ["fit would refuse this"] * 2


def test_a_layout_that_nobody_knows_is_refused_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    assert check("detection", tmp_path / "set") == 2
    assert "error: " in capsys.readouterr().err
    assert not Path("runs").exists()


def test_examples_show_each_class_in_turn():
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    records = Records(Path(), np.array([b"%d" % i for i in range(100)]), {"labels": labels}, classes=("a", "b", "c"))
    chosen = overview.examples(records, 8, 0)
    assert len(set(chosen.tolist())) == 8
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 2]
    boxes = Boxes(
        np.array([0, 0, 1, 1]), np.array([[1.0, 1, 5, 5]]), np.array([0]), np.array([False]), np.array([25.0])
    )
    sizes = np.full((3, 2), 10)
    records = Records(Path(), np.array([b"a", b"b", b"c"]), {"sizes": sizes}, boxes, ("cat",))
    assert overview.examples(records, 2, 0)[0] == 1  # the only image with an object comes first
    assert sorted(overview.examples(records, 9, 0).tolist()) == [0, 1, 2]


def test_counts_in_words():
    def words(count):
        labels = np.repeat(np.arange(count), np.arange(count, 0, -1))
        names = tuple(f"c{i}" for i in range(count))
        return overview.counts_in_words(Records(Path(), labels.astype("S"), {"labels": labels}, classes=names))

    assert words(3) == "3 c0, 2 c1, 1 c2"
    assert words(9) == "1 c8 to 9 c0"


def test_options_are_those_of_the_reader(places_root, tmp_path, capsys):
    with one_sentence("is unknown"):
        from tasks.geolocalization.__main__ import _read

        _read(places_root, preset="nowhere")
    assert check("geolocalization", places_root, "--data.preset", "nowhere") == 2
    with pytest.raises(SystemExit) as stop:
        check("detection", tmp_path, "--data.crop", "bbox")
    assert stop.value.code == 2
