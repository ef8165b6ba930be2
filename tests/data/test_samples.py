import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from backbone.errors import InputError
from data.samples import detection, dogs, faces, places, write_sample
from data.samples.__main__ import SAMPLES, main
from data.samples.detection import CATEGORIES, HEIGHT, WIDTH, draw_scene, outline
from data.samples.drawing import progress

# --- all samples ------------------------------------------------------------------------------------------------------

# What makes each small, and the function that draws one image.
FEW = {
    "detection": (detection, {"IMAGES": {"train": 3, "val": 1, "test": 1}}, "draw_scene"),
    "dogs": (dogs, {"TRAIN_IMAGES": 1, "TEST_IMAGES": [0] * 7 + [1], "_SUPERSAMPLING": 1}, "draw_dog"),
    "faces": (faces, {"IMAGES": {"train": 3, "val": 0, "test": 1}, "UNLABELLED": 1}, "draw_face"),
    "places": (places, {"IMAGES": {"train": 3, "val": 1, "test": 1}}, "draw_view"),
}


@pytest.fixture(params=FEW)
def kind(request, monkeypatch):
    module, settings, _ = FEW[request.param]
    for name, value in settings.items():
        monkeypatch.setattr(module, name, value)
    return request.param


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_the_same_seed_draws_the_same_files(kind, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_sample(kind, tmp_path / name, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}  # nothing half-made is left beside


def test_an_interrupted_drawing_leaves_nothing(kind, tmp_path, monkeypatch):
    module, _, name = FEW[kind]
    draw, drawn = getattr(module, name), []

    def stop(*arguments):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(module, name, stop)
    with pytest.raises(KeyboardInterrupt):
        write_sample(kind, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_used(kind, tmp_path, capsys):
    assert kind in SAMPLES
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="full"):
        write_sample(kind, tmp_path / "full")
    assert main([kind, str(tmp_path / "full")]) == 2
    assert "full" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]
    (tmp_path / "empty").mkdir()
    assert main([kind, str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "empty")
    assert len(list((tmp_path / "empty").rglob("*.jpg"))) >= 5


# --- detection --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "IMAGES", {"train": 20, "val": 20, "test": 20})
        folder = tmp_path_factory.mktemp("samples") / "detection"
        write_sample("detection", folder)
    return folder


def content(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_has_its_images_all_five_classes_crowds_and_empty_images(small_sample, split):
    data = content(small_sample, split)
    assert len(data["images"]) == 20
    for image in data["images"]:
        with Image.open(small_sample / split / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"]) == (320, 240)
    assert {a["category_id"] for a in data["annotations"]} == set(CATEGORIES) == {1, 3, 4, 7, 9}
    assert sum(a["iscrowd"] for a in data["annotations"]) >= 1
    assert {i["id"] for i in data["images"]} - {a["image_id"] for a in data["annotations"]}
    ids = [a["id"] for a in data["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_boxes_lie_inside_the_image_and_hold_their_mask(small_sample):
    for annotation in content(small_sample, "train")["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x < x + w <= WIDTH + 0.01
        assert 0 <= y < y + h <= HEIGHT + 0.01
        assert min(w, h) > 5
        assert 0 < annotation["area"] <= w * h * 1.01
        if annotation["iscrowd"]:
            mask = coco_mask.decode(coco_mask.frPyObjects(annotation["segmentation"], HEIGHT, WIDTH))
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == [x, y, x + w, y + h]
            assert mask.sum() == annotation["area"]


def test_the_shape_is_where_its_box_says(monkeypatch):
    """Drawn again on a white ground, the changed pixels fill the box of each lone shape, up to its soft shadow."""
    monkeypatch.setattr(detection, "_clutter", lambda canvas, rng: None)
    monkeypatch.setattr(detection, "_ground", lambda rng: np.full((HEIGHT, WIDTH, 3), 255, np.float32))
    lone = 0
    for seed in range(40):
        pixels, objects = draw_scene(np.random.default_rng(seed))
        if len(objects) != 1:
            continue
        lone += 1
        y, x = np.nonzero(pixels.astype(int).min(axis=2) < 160)  # the shadow stays above 255 * 0.7 less grain
        left, top, w, h = objects[0]["bbox"]
        np.testing.assert_allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], [left, top, left + w, top + h], atol=2)
    assert lone >= 4


def test_outlines_worked_by_hand():
    square = outline("square", 100, 50, 10, 0)
    half = 10 / 2**0.5
    np.testing.assert_allclose(square.min(axis=0), [100 - half, 50 - half])
    np.testing.assert_allclose(square.max(axis=0), [100 + half, 50 + half])
    np.testing.assert_allclose(outline("triangle", 0, 0, 10, 0)[0], [0, -10], atol=1e-9)  # up


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_alone(terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal, write=len, flush=int))
    with progress(total=1) as bar:
        assert bar.disable != terminal
