import io
import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import TASKS, pixels, tree
from onnx_writer import BOXES, CELLS, NAMES, metadata, write_onnx
from PIL import Image

from data import images as opened_in_training
from data.transforms import _resize, build_classification_eval, build_detection_eval, needed_in_evaluation
from tasks import run

ORANGE = (204, 102, 51)  # its mean colour is .8, .4, .2


def noise(height, width, seed=0):
    """Half of it of extreme values, at which rounding is hardest."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image[::2] = (image[::2] > 127) * np.uint8(255)
    return image


def save(path, color=ORANGE, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def rows(capsys, *args):
    """The rows that the command printed, and what it said on stderr."""
    assert run.main([*map(str, args)]) == 0
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def refused(capsys, *args):
    """The one sentence with which the command ended."""
    assert run.main([*map(str, args)]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in printed.err
    return last


# --- Resizing ---

FAMILIES = {
    "any": lambda rng: rng.integers(1, 200, 4),
    "thin": lambda rng: np.exp(rng.uniform(0, 5, 4)),
    "enlarged": lambda rng: [*(small := rng.integers(1, 60, 2)), *(small * rng.uniform(1, 4, 2))],
    "smaller": lambda rng: [*((small := rng.integers(1, 60, 2)) * rng.uniform(1, 2.5, 2)), *small],
    "averaged": lambda rng: [*((small := rng.integers(1, 40, 2)) * rng.uniform(2.5, 7, 2)), *small],
    "whole": lambda rng: [*((small := rng.integers(1, 40, 2)) * rng.integers(1, 6, 2)), *small],
    "half": lambda rng: [*(2 * (small := rng.integers(1, 90, 2))), *small],
    "one side grows": lambda rng: [*((small := rng.integers(4, 60, 2)) * [rng.uniform(2.6, 9), 0.4]), *small],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_resizing_is_that_of_training_to_the_bit(family):
    rng = np.random.default_rng(1)
    for seed in range(60):
        height, width, *size = (max(1, int(side)) for side in FAMILIES[family](rng))
        image = noise(height, width, seed)
        assert np.array_equal(run.resize(image, *size), _resize(image, *size)), (height, width, *size)


@pytest.mark.parametrize("size", [(480, 640), (375, 500), (427, 640), (733, 750), (1080, 1920)], ids=str)
def test_photographs_are_resized_as_in_training(size):
    assert np.array_equal(run.resize(noise(*size), 300, 300), _resize(noise(*size), 300, 300))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [0.875, 1.0, 0.3])
def test_the_middle_is_cut_as_in_evaluation(tmp_path, crop, interpolation):
    size = (24, 32)
    model = run.Model(
        write_onnx(tmp_path / "f.onnx", "classification", size=size, crop=crop, interpolation=interpolation)
    )
    transform = build_classification_eval(size, crop, interpolation)
    for height, width in ((100, 75), (31, 97), (24, 32), (1, 50), (7, 3), (200, 221)):
        image = noise(height, width)
        assert np.array_equal(model.resized(image), transform(image=image)["image"]), (height, width)


def test_the_whole_is_squashed_as_in_evaluation(tmp_path):
    model, image = run.Model(write_onnx(tmp_path / "f.onnx", "detection", size=(24, 32))), noise(100, 31)
    assert np.array_equal(model.resized(image), build_detection_eval((24, 32))(image=image, bboxes=[])["image"])


# --- Opening ---


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def photo(mode="RGB", height=48, width=64):
    return Image.fromarray(noise(height, width)).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def transparent(mode):
    image = photo("RGBA")
    image.putalpha(Image.fromarray(noise(48, 64, 1)[..., 0]))
    return image.convert(mode)


def grey_of_16_bits():
    return Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))


def palette():
    image = photo("P")
    image.info["transparency"] = image.getpixel((3, 3))
    return image


FILES = {
    **{f"turned_{k}.jpg": lambda f, k=k: photo().save(f, exif=oriented(k), quality=90) for k in range(1, 10)},
    "turned.png": lambda f: photo().save(f, exif=oriented(6)),
    "turned.tif": lambda f: photo().save(f, exif=oriented(6)),
    "rgba.png": lambda f: transparent("RGBA").save(f),
    "la.png": lambda f: transparent("LA").save(f),
    "palette.png": lambda f: palette().save(f, transparency=palette().info["transparency"]),
    "rgb_key.png": lambda f: photo().save(f, transparency=photo().getpixel((5, 5))),
    "grey_16.png": lambda f: grey_of_16_bits().save(f),
    "grey_16.tif": lambda f: grey_of_16_bits().save(f),
    "grey.jpg": lambda f: photo("L").save(f),
    "bits.png": lambda f: photo("1").save(f),
    "cmyk.jpg": lambda f: photo("CMYK").save(f),
    "animated.gif": lambda f: photo().save(f, save_all=True, append_images=[photo("RGB", 48, 64).rotate(90)]),
    "large.jpg": lambda f: photo("RGB", 600, 800).save(f),
    "large_turned.jpg": lambda f: photo("RGB", 600, 800).save(f, exif=oriented(8)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at_least", [None, (100, 200)])
def test_images_are_opened_as_in_training(tmp_path, name, at_least):
    FILES[name](tmp_path / name)
    expected = opened_in_training.open_image(tmp_path / name, at_least=at_least)
    image = run.open_image(tmp_path / name, at_least)
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)
    if name.startswith("large"):  # so that a draft is one
        assert (max(image.shape) == 800) == (at_least is None)


def test_a_large_photograph_gives_what_the_checkpoint_would_see(tmp_path, capsys):
    least = needed_in_evaluation((24, 24), 0.875)
    file = write_onnx(tmp_path / "f.onnx", "classification", size=(24, 24), crop=0.875, draft_at_least=least)
    photo("RGB", 600, 800).save(tmp_path / "a.jpg", exif=oriented(6))
    model, seen = run.Model(file), opened_in_training.open_image(tmp_path / "a.jpg", at_least=least)
    assert seen.shape == (100, 75, 3)
    expected = build_classification_eval((24, 24), 0.875)(image=seen)["image"]
    assert np.array_equal(model.resized(run.open_image(tmp_path / "a.jpg", model.at_least)), expected)
    [row], _ = rows(capsys, file, tmp_path / "a.jpg")
    assert row == model(tmp_path / "a.jpg")
    model.at_least = None
    assert row != model(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "name", ["cut.jpg", "cut.png", "tail.png", "empty.jpg", "text.png", "float.tif", "out_of_range.tif", "absent.jpg"]
)
def test_what_cannot_be_opened_is_an_image_error(tmp_path, name):
    path = tmp_path / name
    if name.startswith("cut"):
        whole = io.BytesIO()
        photo("RGB", 600, 800).save(whole, "PNG" if name == "cut.png" else "JPEG")
        path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    elif name == "tail.png":  # all pixels are there, and then no chunk
        whole = io.BytesIO()
        photo().save(whole, "PNG")
        path.write_bytes(whole.getvalue()[:-12] + b"\0\0\0\5zzzz")
    elif name.endswith(".tif"):
        Image.fromarray(np.full((4, 4), -1.0, np.float32 if name == "float.tif" else np.int32)).save(path)
    elif name != "absent.jpg":
        path.write_bytes(b"" if name == "empty.jpg" else b"<html>no image</html>")
    with pytest.raises(run.ImageError, match=re.escape(str(path))):
        run.open_image(path)


# --- Rows ---

P = [0.8, 0.4, 0.2]
EXPECTED = {
    "detection": {
        "objects": [
            {"name": "red", "score": 0.8, "box_xyxy": [0, 0, 20, 15]},
            {"name": "green", "score": 0.4, "box_xyxy": [10, 15, 40, 30]},
        ]
    },
    "classification": {"classes": [{"name": name, "probability": p / 1.4} for name, p in zip(NAMES, P, strict=True)]},
    "face_attributes": {"attributes": dict(zip(NAMES, P, strict=True)), "present": ["red", "green"]},
    "face_embeddings": {"embedding": [p / 0.84**0.5 for p in P]},
    "geolocalization": {
        "latitude": 72.0,
        "longitude": 36.0,
        "cells": [
            {"latitude": at[0], "longitude": at[1], "probability": p / 1.4, "cell": token}
            for at, token, p in zip(CELLS["latlng"], CELLS["tokens"], P, strict=True)
        ],
    },
}


def close(row, expected):
    if isinstance(expected, dict):
        return row.keys() == expected.keys() and all(close(row[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(row) == len(expected) and all(map(close, row, expected))
    return row == expected if isinstance(expected, str) else abs(row - expected) < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_a_row_of_each_task(tmp_path, capsys, task):
    file, image = write_onnx(tmp_path / "f.onnx", task), save(tmp_path / "a.png")
    [row], said = rows(capsys, file, image)
    assert row == run.Model(file)(image)
    assert row.pop("file") == str(image)
    assert close(row, EXPECTED[task])
    assert re.fullmatch(r"1 image, [0-9.]+ images/s\n", said)


def test_objects_of_the_least_score_and_no_padding(tmp_path, capsys):
    file, image = write_onnx(tmp_path / "f.onnx", "detection"), save(tmp_path / "a.png", (204, 102, 0))
    [row], _ = rows(capsys, file, image, "--conf", "0.41")
    assert [one["name"] for one in row["objects"]] == ["red"]
    [row], _ = rows(capsys, file, image, "--conf", "0")  # blue, of 0, is no object
    assert [one["name"] for one in row["objects"]] == ["red", "green"]


@pytest.mark.parametrize(("task", "key"), [("classification", "classes"), ("geolocalization", "cells")])
def test_the_likeliest_are_as_many_as_asked(tmp_path, capsys, task, key):
    file, image = write_onnx(tmp_path / "f.onnx", task), save(tmp_path / "a.png", (51, 102, 204))
    [row], _ = rows(capsys, file, image, "--top", "2")
    assert [round(1.4 * one["probability"], 3) for one in row[key]] == [0.8, 0.4]
    assert [one.get("name", one.get("cell")) for one in row[key]] == [
        ["blue", "48"][key == "cells"],
        ["green", "6b"][key == "cells"],
    ]


@pytest.mark.parametrize("task", TASKS)
def test_batches_give_the_rows_of_images_alone(tmp_path, capsys, monkeypatch, task):
    file, of_batch, sizes = write_onnx(tmp_path / "f.onnx", task), run.Model.rows, []
    monkeypatch.setattr(run.Model, "rows", lambda self, *batch: sizes.append(len(batch[0])) or of_batch(self, *batch))
    for k in range(5):
        save(tmp_path / "images" / f"{k}.png", (50 * k + 40, 200 - 40 * k, 90), (10 + 7 * k, 30 - 3 * k))
    together, said = rows(capsys, file, tmp_path / "images", "--batch", "2")
    assert sizes == [2, 2, 1]
    assert together == [run.Model(file)(tmp_path / "images" / f"{k}.png") for k in range(5)]
    assert len({json.dumps({**row, "file": ""}) for row in together}) == 5
    assert said.startswith("5 images, ")


def test_never_more_than_two_batches_are_there():
    made = []
    ahead = run._ahead(iter(lambda: made.append(None) or len(made), 9))
    for done in range(1, 7):
        assert next(ahead) == done
        assert len(made) <= done + 1


def test_folders_are_searched_to_the_bottom_in_order(tmp_path, capsys):
    file = write_onnx(tmp_path / "f.onnx", "classification")
    found = ["B.JPG", "a.png", "deep/b.jpg", "deep/er/c.webp"]
    for name in (*found, ".hidden.png", ".git/d.png", "deep/__MACOSX/e.png", "__MACOSX/._a.png"):
        save(tmp_path / "images" / name)
    (tmp_path / "images/notes.txt").write_text("no image")
    (tmp_path / "images/folder.png").mkdir()
    alone = save(tmp_path / "unnamed", format="PNG")  # named itself, it needs no ending
    listed, said = rows(capsys, file, tmp_path / "images", alone)
    assert said.startswith("5 images, ")
    assert "warning" not in said
    assert [row["file"] for row in listed] == [*(str(tmp_path / "images" / name) for name in found), str(alone)]


def test_a_bad_image_is_named_and_passed_over(tmp_path, capsys):
    file = write_onnx(tmp_path / "f.onnx", "classification")
    for name in ("a.png", "c.png"):
        save(tmp_path / "images" / name)
    (tmp_path / "images" / "b\x1b[2J.png").write_bytes(b"no image")
    listed, said = rows(capsys, file, tmp_path / "images", "--batch", "2")
    assert [Path(row["file"]).name for row in listed] == ["a.png", "c.png"]
    assert r"b\x1b[2J.png" in said
    assert "\x1b" not in said
    assert "2 images, 1 could not be read, " in said
    assert "no image could be read" in refused(capsys, file, next((tmp_path / "images").glob("b*")))
    assert r"absent\x1b.png" in refused(capsys, file, tmp_path / "absent\x1b.png")


def test_names_are_printed_and_drawn_without_what_a_terminal_obeys(tmp_path, capsys):
    names = ["\x1b]0;owned\x07\n\u202e", "é" * 5000, "\ud800"]
    file = write_onnx(tmp_path / "f.onnx", "detection", names=names)
    args = file, save(tmp_path / "a.png"), "--conf", "0.1", "--draw", tmp_path / "drawn"
    assert run.main([*map(str, args)]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.removesuffix("\n").isprintable()
    assert [one["name"] for one in json.loads(printed)["objects"]] == names
    assert pixels(tmp_path / "drawn" / "a.png.jpg").shape == (30, 40, 3)


# --- What cannot be used ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no metadata"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"task": "detection"}), "resize"),
        (json.dumps(metadata("detection", interpolation="nearest")), "nearest"),
        (json.dumps(metadata("detection", size=(8,))), "cannot be read"),
        (json.dumps(metadata("detection", crop="middle")), "middle"),
        (json.dumps(metadata("detection") | {"task": ["detection"]}), "unknown"),
        (json.dumps(metadata("detection") | {"task": "segmentation"}), "unknown"),
        (json.dumps(metadata("detection", nms="none")), "raw boxes"),
        (json.dumps(metadata("detection", names=["red"])), "do not fit"),
        (json.dumps(metadata("classification")), "do not fit"),  # an output that is not there
        *((json.dumps(metadata("detection", size=size)), "the network's") for size in ((0, 0), (-5, 3), (8, 10**9))),
        (json.dumps(metadata("detection", size=(float("inf"), 8))), "cannot be read"),
        *((json.dumps(metadata("detection", crop=crop)), "crop") for crop in (0, -1, 2, float("nan"), float("inf"))),
        *((json.dumps(metadata("detection", draft_at_least=at)), "draft") for at in ([0, 0], [300], [1, 2, 3])),
        (json.dumps(metadata("detection", draft_at_least=["a", "b"])), "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
    ids=itertools.count(),
)
def test_metadata_that_cannot_be_used(tmp_path, capsys, text, said):
    file = write_onnx(tmp_path / "f.onnx", "detection", text)
    assert said in refused(capsys, file, save(tmp_path / "a.png"))


def test_a_file_of_a_name_that_is_not_utf_8_is_run(tmp_path):
    file = write_onnx(tmp_path / "f.onnx", "classification")
    odd = file.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.onnx"))
    assert len(run.Model(odd)(save(tmp_path / "a.png"))["classes"]) == 3


@pytest.mark.parametrize("name", ["absent.onnx", "folder.onnx", "text.onnx", "f.pte", "pte.onnx"])
def test_files_that_cannot_be_run(tmp_path, capsys, name):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.onnx").write_text("no ONNX file")
    (tmp_path / "f.pte").write_bytes(bytes(20))
    (tmp_path / "pte.onnx").write_bytes(b"\x10\0\0\0ET12" + bytes(20))
    message = refused(capsys, tmp_path / name, save(tmp_path / "a.png"))
    assert str(tmp_path / name) in message
    assert ("ExecuTorch" in message) == ("pte" in name)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["absent.jpg"], "absent.jpg"),
        (["empty"], "empty"),
        (["a.png", "--conf", "1.1"], "conf"),
        (["a.png", "--top", "0"], "top"),
        (["a.png", "--batch", "-1"], "batch"),
        (["a.png", "--threads", "100000"], "--threads"),
        (["a.png", "--draw", "a.png"], "is a file"),
        (["a.png", "--draw", "drawn"], "a.png.jpg is there already"),
        (["camera", "a.png"], "alone"),
        (["camera"], "opencv-python"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(tmp_path, capsys, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cv2", None)
    Path("empty").mkdir()
    save(Path("a.png"))
    save(Path("drawn/a.png.jpg"), (0, 0, 0))
    before = tree(tmp_path)
    assert said in refused(capsys, write_onnx(tmp_path / "f.onnx", "classification"), *args)
    assert tree(tmp_path) == {**before, Path("f.onnx"): tree(tmp_path)[Path("f.onnx")]}


def test_without_onnxruntime_a_sentence_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install" in refused(capsys, write_onnx(tmp_path / "f.onnx", "detection"), save(tmp_path / "a.png"))


# --- Drawing ---


def test_boxes_are_drawn_in_the_colours_of_their_classes(tmp_path, capsys):
    file, image = write_onnx(tmp_path / "f.onnx", "detection"), save(tmp_path / "a.png", size=(400, 300))
    rows(capsys, file, image, "--draw", tmp_path / "drawn")
    drawn = pixels(tmp_path / "drawn" / "a.png.jpg").astype(int)
    assert drawn.shape == (300, 400, 3)
    assert Image.open(tmp_path / "drawn" / "a.png.jpg").format == "JPEG"
    left, top, right, bottom = (int(side * of) for side, of in zip(BOXES[1], (400, 300, 399, 299), strict=True))
    assert np.abs(drawn[top + 60 : bottom - 40, left + 40 : right - 40] - ORANGE).max() < 6  # inside nothing is drawn
    edges = [drawn[bottom, left + 50], drawn[top + 80, left], drawn[top + 80, right]]
    assert all(np.abs(edge - ORANGE).max() > 60 for edge in edges)
    assert np.abs(edges[1] - edges[0]).max() < 60
    other = drawn[100, 200]  # the right edge of the other class's box
    assert np.abs(other - ORANGE).max() > 60
    assert np.abs(other - edges[1]).max() > 60


@pytest.mark.parametrize("task", ["classification", "face_attributes", "geolocalization"])
def test_the_likeliest_are_written_below_the_image(tmp_path, capsys, task):
    file, image = write_onnx(tmp_path / "f.onnx", task), save(tmp_path / "a.jpg", size=(200, 100))
    rows(capsys, file, image, "--draw", tmp_path / "drawn")
    drawn = pixels(tmp_path / "drawn" / "a.jpg").astype(int)
    assert np.abs(drawn[:98, :200] - ORANGE).max() < 12
    strip = drawn[102:]
    assert strip.min() < 60  # letters
    assert np.median(strip) == 255
    rows(capsys, file, save(tmp_path / "narrow.jpg", size=(9, 9)), "--draw", tmp_path / "drawn")
    assert pixels(tmp_path / "drawn" / "narrow.jpg").shape[1] > 40  # so that they can be read


def test_an_embedding_is_not_drawn(tmp_path, capsys):
    file, image = write_onnx(tmp_path / "f.onnx", "face_embeddings"), save(tmp_path / "a.jpg")
    assert "nothing to draw" in refused(capsys, file, image, "--draw", tmp_path / "drawn")


def test_no_two_images_are_drawn_into_one_file(tmp_path, capsys):
    file = write_onnx(tmp_path / "f.onnx", "detection")
    for name in ("one/a.jpg", "one/a.png", "one/a.png.jpg", "one/deep/a.jpg", "two/a.jpg", "two/A.JPG", "two/b.jpeg"):
        save(tmp_path / name)
    before = tree(tmp_path)
    rows(capsys, file, tmp_path / "one", tmp_path / "two", "--draw", tmp_path / "drawn")
    drawn = {path.as_posix() for path in tree(tmp_path / "drawn")}
    assert drawn == {"a.jpg", "a.png.jpg", "2_a.png.jpg", "deep/a.jpg", "2_A.JPG", "3_a.jpg", "b.jpeg"}
    assert before.items() <= tree(tmp_path).items()


def test_no_image_is_drawn_over(tmp_path, capsys):
    file = write_onnx(tmp_path / "f.onnx", "detection")
    save(tmp_path / "images" / "deep" / "a.jpg")
    (tmp_path / "link").symlink_to("images")
    before = tree(tmp_path)
    for folder in ("images", "link"):
        assert "is there already" in refused(capsys, file, tmp_path / "images", "--draw", tmp_path / folder)
    assert tree(tmp_path) == before


# --- The camera, ends and what is imported ---


def camera(monkeypatch, frames):
    """A cv2 whose first camera gives these frames, BGR; it has no other."""

    class VideoCapture:
        def __init__(self, index):
            self.index, self.frames = index, iter(frames)

        def isOpened(self):
            return self.index == 0

        def read(self):
            frame = next(self.frames, None)
            return frame is not None, frame

    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(VideoCapture=VideoCapture))


def test_frames_of_a_camera(tmp_path, capsys, monkeypatch):
    blue, green = (np.full((30, 40, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0)))  # BGR
    camera(monkeypatch, [blue, green])
    file = write_onnx(tmp_path / "f.onnx", "classification")
    seen, said = rows(capsys, file, "camera", "--top", "1", "--draw", tmp_path / "drawn")
    assert [row["classes"][0]["name"] for row in seen] == ["blue", "green"]
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {row["file"] for row in seen}
    assert said.startswith("2 images, ")
    for source in ("camera:1", "camera:front"):
        assert source in refused(capsys, file, source)


def test_ctrl_c_ends_the_camera_with_its_count(tmp_path, capsys, monkeypatch):
    def frames():
        yield from [np.zeros((30, 40, 3), np.uint8)] * 3
        raise KeyboardInterrupt

    camera(monkeypatch, frames())
    assert run.main([str(write_onnx(tmp_path / "f.onnx", "detection")), "camera"]) == 130
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert printed.err.startswith("3 images, ")


def test_a_pipe_that_nobody_reads_ends_it_quietly(tmp_path, capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert run.main([str(write_onnx(tmp_path / "f.onnx", "detection")), str(save(tmp_path / "a.png"))]) == 141
        print("more", file=closed, flush=True)  # as the interpreter flushes at its end
    assert "Error" not in capsys.readouterr().err


ALONE = """
import importlib.abc, sys
allowed = sys.stdlib_module_names | {"numpy", "PIL", "onnxruntime", "run"}
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
before = set(sys.modules)
import run
try:
    code = run.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - sys.stdlib_module_names), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("args", "loaded"),
    [(["--help"], ["run"]), (["f.onnx", "a.jpg", "--draw", "drawn"], ["PIL", "numpy", "onnxruntime", "run"])],
    ids=["help", "image"],
)
def test_alone_it_needs_three_packages_and_for_its_help_none(tmp_path, args, loaded):
    (tmp_path / "run.py").write_bytes(Path(run.__file__).read_bytes())
    write_onnx(tmp_path / "f.onnx", "detection")
    save(tmp_path / "a.jpg")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del env["ORT_DISABLE_TELEMETRY"]  # which importing tasks has set for this process
    done = subprocess.run([sys.executable, "-c", ALONE, *args], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == str(loaded)
    assert (tmp_path / "drawn/a.jpg").exists() == (args != ["--help"])
    assert not [*tmp_path.rglob("*Microsoft*")]  # where its telemetry keeps an id of the device
