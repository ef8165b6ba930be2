"""HEIC and HEIF, by the extra `heif`, written by libheif's encoder; of flat squares, whose colours hold."""

import io
import os
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import TURNS, one_sentence
from PIL import ExifTags, Image

from data import folders, images
from data.folders import list_readable, unreadable_images
from data.images import ImageError, image_size, open_image, read_exif

pytest.importorskip("pi_heif")
pillow_heif = pytest.importorskip("pillow_heif")

# Six flat squares of 32 px, no two alike: the upright image, 64 x 96 px.
COLOURS = np.array(
    [[(200, 20, 30), (20, 180, 40), (10, 40, 220)], [(128, 128, 128), (230, 220, 20), (5, 5, 5)]], np.uint8
)
UPRIGHT = COLOURS.repeat(32, 0).repeat(32, 1)


def squares(pixels):
    return pixels[16::32, 16::32].astype(int)


def heic(image=None, exif=None, **options):
    content = io.BytesIO()
    given = {"quality": 90, "chroma": 444, **({"exif": exif.tobytes()} if exif else {}), **options}
    pillow_heif.from_pillow(image or Image.fromarray(UPRIGHT)).save(content, **given)
    return content.getvalue()


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_heic_gives_its_colours_and_its_size_and_is_found(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(heic())
    for pixels in (open_image(tmp_path / "a.HEIC"), open_image("shard.tar/a.heic", content=heic())):
        assert pixels.shape == (64, 96, 3)
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(squares(pixels), COLOURS, atol=4)
    assert image_size(tmp_path / "a.HEIC") == (64, 96)
    assert list_readable(tmp_path)[0].tolist() == [b"a.HEIC"]
    with pytest.raises(ImageError, match="is 96 x 64 px but its annotation says 64 x 96"):
        open_image(tmp_path / "a.HEIC", annotated_size=(96, 64))


@pytest.mark.parametrize("brand", [b"mif1", b"heix", b"msf1"])  # PIL takes mif1 for AVIF at first
def test_the_kind_is_told_by_any_of_its_brands(tmp_path, brand):
    (tmp_path / "a.hif").write_bytes(heic().replace(b"ftypheic", b"ftyp" + brand, 1))
    np.testing.assert_allclose(squares(open_image(tmp_path / "a.hif")), COLOURS, atol=4)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turn_is_made_once_though_both_the_container_and_the_exif_say_it(tmp_path, orientation):
    content = heic(exif=oriented(orientation))
    assert (b"irot" in content or b"imir" in content) == (orientation > 1)
    assert struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) in content
    (tmp_path / "a.heic").write_bytes(content)
    expected = TURNS[orientation](COLOURS)
    pixels = open_image(tmp_path / "a.heic")
    assert pixels.shape[:2] == image_size(tmp_path / "a.heic") == tuple(32 * n for n in expected.shape[:2])
    np.testing.assert_allclose(squares(pixels), expected, atol=4)


def test_an_orientation_of_the_exif_alone_turns_nothing():
    """So the standard has it, and so do viewers: of a HEIC only the container's counts."""
    tag = struct.pack(">HHI", 0x0112, 3, 1)
    content = heic(exif=oriented(1)).replace(tag + b"\0\1", tag + b"\0\6")
    assert tag + b"\0\6" in content
    np.testing.assert_allclose(squares(open_image("a.heic", content=content)), COLOURS, atol=4)


def test_the_place_and_the_time_are_read(tmp_path):
    exif = oriented(6)
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 30.0, 0.0), 3: "E", 4: (11.0, 15.0, 0.0)}
    exif[ExifTags.IFD.Exif] = {0x9003: "2021:05:01 10:00:00"}
    (tmp_path / "a.heic").write_bytes(heic(exif=exif))
    place, rest = read_exif(tmp_path / "a.heic")
    assert (place[1], place[2], place[4]) == ("N", (48.0, 30.0, 0.0), (11.0, 15.0, 0.0))
    assert rest[0x9003] == "2021:05:01 10:00:00"


def test_ten_bits_grey_and_transparency_become_8_bit_rgb():
    wide = UPRIGHT.astype(np.uint16) * 257
    ten = pillow_heif.from_bytes("RGB;16", (96, 64), wide.tobytes())
    content = io.BytesIO()
    ten.save(content, quality=90, chroma=444)
    assert pillow_heif.open_heif(io.BytesIO(content.getvalue()), convert_hdr_to_8bit=False).info["bit_depth"] == 10
    np.testing.assert_allclose(squares(open_image("a.heic", content=content.getvalue())), COLOURS, atol=4)
    grey = heic(Image.fromarray(UPRIGHT[..., 0]))
    expected = COLOURS[..., :1].repeat(3, 2)
    np.testing.assert_allclose(squares(open_image("a.heic", content=grey)), expected, atol=4)
    alpha = np.full((64, 96, 1), 255, np.uint8)
    alpha[:, :32] = 0
    shown = COLOURS.astype(int).copy()
    shown[:, 0] = 255
    seen = heic(Image.fromarray(np.dstack([UPRIGHT, alpha])))
    np.testing.assert_allclose(squares(open_image("a.heic", content=seen)), shown, atol=4)


@pytest.mark.parametrize(
    ("mode", "megabytes"), [("RGB", 16 + 21), ("RGBA", 16 + 28), ("L", 4 + 12 + 9), ("RGB;16", 16 + 40)]
)
def test_its_memory_is_counted_before_it_is_decoded(mode, megabytes, monkeypatch):
    """4 Mpx: as PIL has them, and what the decoder holds beside them or, of grey, then the RGB."""
    content = io.BytesIO()
    size, pixel = (2000, 2000), {"L": 1, "RGB": 3, "RGBA": 4, "RGB;16": 6}[mode]
    pillow_heif.from_bytes(mode, size, bytes(pixel * 4 * 10**6)).save(
        content, quality=10, enc_params={"preset": "ultrafast"}
    )
    monkeypatch.setenv("MOBILENET_TASKS_MAX_IMAGE_MB", str(megabytes - 1))
    with pytest.raises(ImageError, match=r"decoding 2000 x 2000 px takes .* over the limit"):
        open_image("a.heic", content=content.getvalue())
    monkeypatch.setenv("MOBILENET_TASKS_MAX_IMAGE_MB", str(megabytes))
    assert open_image("a.heic", content=content.getvalue()).shape == (2000, 2000, 3)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.98])
def test_a_cut_heic_is_a_bad_image(tmp_path, part):
    content = heic(Image.effect_noise((96, 64), 60).convert("RGB"))
    (tmp_path / "a.heic").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ImageError, match=r"a\.heic: it (cannot be decoded|is not an image)"):
        open_image(tmp_path / "a.heic")


def test_without_the_extra_such_files_are_counted_and_the_way_to_read_them_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(heic())
    monkeypatch.setattr(images, "_READS_HEIF", False)
    for look in (open_image, image_size, read_exif):
        with one_sentence(r"a\.heic: it is HEIC.*pip install '\.\[heif\]'"):
            look(tmp_path / "a.heic")
    monkeypatch.setattr(folders, "UNREADABLE_ENDINGS", frozenset((".heic", ".hif", ".dng")))
    [many, one, other] = unreadable_images([Counter({".heic": 3, ".hif": 2, ".dng": 1, ".txt": 9})])
    assert (many.count, one.count, other.count) == (3, 2, 1)
    assert str(many).startswith("3 .heic files left out")
    assert "[heif]" in str(many)
    assert "[heif]" in str(one)
    assert "[heif]" not in str(other)


def test_the_endings_follow_the_extra_and_it_is_imported_for_such_a_file_alone(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.jpg")
    (tmp_path / "a.heic").write_bytes(heic())
    code = """
        import importlib.util, sys
        if sys.argv[1] == "without":
            found = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *given: None if name == "pi_heif" else found(name, *given)
        from data import folders, images
        images.open_image("a.jpg")
        print(".heic" in images.IMAGE_ENDINGS, ".heic" in folders.UNREADABLE_ENDINGS, "pi_heif" in sys.modules)
        if sys.argv[1] == "with":
            images.open_image("a.heic")
            print("pi_heif" in sys.modules)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for extra, said in (("with", "True False False True"), ("without", "False True False")):
        command = [sys.executable, "-c", textwrap.dedent(code), extra]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.stdout.split() == said.split(), done.stderr
