import io
import itertools
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import TURNS, one_sentence
from PIL import Image

from backbone import InputError
from data import images
from data.folders import list_images
from data.images import ImageError, image_size, memory_limit, open_image, read_exif, take_cut_short, to_array

# Four flat quarters, so that golden values hold after JPEG too: red green / blue grey, 64 x 48 px.
QUARTERS = np.zeros((48, 64, 3), np.uint8)
QUARTERS[:24, :32], QUARTERS[:24, 32:] = (200, 20, 30), (20, 180, 40)
QUARTERS[24:, :32], QUARTERS[24:, 32:] = (10, 40, 220), (128, 128, 128)


def quarters_of(pixels):
    """The colour at the middle of each quarter, row by row."""
    h, w = pixels.shape[:2]
    return [pixels[y, x].tolist() for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


EXPECTED = quarters_of(QUARTERS)


def assert_rgb(pixels, expected, tolerance=0):
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    np.testing.assert_allclose(quarters_of(pixels), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("a.png", 0), ("a.bmp", 0), ("a.tif", 0), ("a.ppm", 0), ("a.jpg", 4), ("a.webp", 8)]
)
def test_rgb_files_of_every_format_give_their_colours(tmp_path, name, tolerance):
    Image.fromarray(QUARTERS).save(tmp_path / name)
    assert_rgb(open_image(tmp_path / name), EXPECTED, tolerance)


@pytest.mark.parametrize(
    ("pixels", "values"), [(QUARTERS[..., 0], (200, 20, 10, 128)), (QUARTERS[..., 0] > 100, (255, 0, 0, 255))]
)
def test_grey_and_one_bit_become_three_equal_channels(tmp_path, pixels, values):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert_rgb(open_image(tmp_path / "a.png"), [[value] * 3 for value in values])


SIXTEEN_BIT = np.zeros((48, 64), np.uint16)
SIXTEEN_BIT[:24, :32], SIXTEEN_BIT[:24, 32:] = 65535, 32768
SIXTEEN_BIT[24:, :32], SIXTEEN_BIT[24:, 32:] = 257, 129


@pytest.mark.parametrize("kind", ["png", "tif", "pgm", "tif int32"])
def test_16_bit_grey_is_scaled_by_257_and_not_cut_at_255(tmp_path, kind):
    path = tmp_path / f"a.{kind.split()[0]}"
    values = SIXTEEN_BIT.astype(np.int32) if "int32" in kind else SIXTEEN_BIT
    Image.fromarray(values).save(path)
    # 32768 / 257 = 127.5 rounds up; 257 / 257 = 1; 129 / 257 = .502 rounds up
    assert_rgb(open_image(path), [[255] * 3, [128] * 3, [1] * 3, [1] * 3])


def test_integers_beyond_16_bits_and_floats_are_refused_for_want_of_a_white(tmp_path):
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(ImageError, match=r"i\.tif: pixel values 70000 to 70000 are outside 16 bits"):
        open_image(tmp_path / "i.tif")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif: 32-bit floating-point"):
        open_image(tmp_path / "f.tif")


def test_transparency_is_shown_on_white_whatever_colour_lies_under_it(tmp_path):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:24], alpha[24:, :32], alpha[24:, 32:] = 255, 0, 51  # 51 is one fifth
    Image.fromarray(np.dstack([QUARTERS, alpha])).save(tmp_path / "rgba.png")
    faint = round(128 * 0.2 + 255 * 0.8)
    assert_rgb(open_image(tmp_path / "rgba.png"), [*EXPECTED[:2], [255] * 3, [faint] * 3], 1)
    Image.fromarray(np.dstack([QUARTERS[..., 0], alpha]), "LA").save(tmp_path / "la.png")
    assert_rgb(open_image(tmp_path / "la.png"), [[200] * 3, [20] * 3, [255] * 3, [faint] * 3], 1)


def palette_image():
    indices = np.zeros((48, 64), np.uint8)
    indices[:24, 32:], indices[24:, :32], indices[24:, 32:] = 1, 2, 3
    image = Image.fromarray(indices, "P")
    image.putpalette([v for colour in EXPECTED for v in colour])
    return image


def test_palette_gives_its_colours_and_its_transparent_entry_white(tmp_path):
    palette_image().save(tmp_path / "p.png")
    assert_rgb(open_image(tmp_path / "p.png"), EXPECTED)
    palette_image().save(tmp_path / "t.png", transparency=2)
    assert_rgb(open_image(tmp_path / "t.png"), [*EXPECTED[:2], [255] * 3, EXPECTED[3]])


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    Image.fromarray(QUARTERS).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
    assert_rgb(open_image(tmp_path / "a.jpg"), EXPECTED, 8)


def test_the_first_frame_of_an_animation_is_the_image(tmp_path):
    second = Image.fromarray(np.full_like(QUARTERS, 255))
    palette_image().save(tmp_path / "a.gif", save_all=True, append_images=[second.convert("P")])
    assert_rgb(open_image(tmp_path / "a.gif"), EXPECTED)


def save_oriented(path, orientation, pixels=QUARTERS):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied_once(tmp_path, orientation, name):
    save_oriented(tmp_path / name, orientation)
    expected = TURNS[orientation](QUARTERS)
    np.testing.assert_array_equal(open_image(tmp_path / name), expected)
    assert image_size(tmp_path / name) == expected.shape[:2]


def test_the_annotated_size_decides_whether_the_image_is_turned(tmp_path):
    save_oriented(tmp_path / "a.png", 6)
    assert open_image(tmp_path / "a.png", annotated_size=(64, 48)).shape == (64, 48, 3)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png", annotated_size=(48, 64)), QUARTERS)
    with pytest.raises(ImageError, match=r"a\.png: the image is 48 x 64 px but its annotation says 100 x 50 px"):
        open_image(tmp_path / "a.png", annotated_size=(50, 100))


def test_a_large_jpeg_may_be_decoded_smaller_but_not_below_at_least(tmp_path):
    large = QUARTERS.repeat(10, 0).repeat(10, 1)  # 480 x 640
    save_oriented(tmp_path / "a.jpg", 6, large)
    small = open_image(tmp_path / "a.jpg", at_least=(160, 120))  # upright it is 640 x 480: a quarter fits
    assert small.shape == (160, 120, 3)
    assert_rgb(small, quarters_of(TURNS[6](QUARTERS)), 4)
    assert open_image(tmp_path / "a.jpg", at_least=(161, 120)).shape == (320, 240, 3)


def png_of_size(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


LIMIT = "MOBILENET_TASKS_MAX_IMAGE_MB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_350, 20_000, 40_000])  # just over the limit; where PIL warns; and where it refuses
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_of_size(side, side))
    for look in (open_image, image_size, read_exif):
        with pytest.raises(ImageError, match=r"bomb\.png: .*limit of (910 MB|227,500,000 px).*; replace or remove"):
            look(tmp_path / "bomb.png")


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def refused_at(limit, content, monkeypatch, **options):
    monkeypatch.setenv(LIMIT, str(limit))
    with pytest.raises(ImageError, match="limit of"):
        open_image("a", content=content, **options)


def accepted_at(limit, content, monkeypatch, **options):
    monkeypatch.setenv(LIMIT, str(limit))
    return open_image("a", content=content, **options)


PLAIN = Image.new("RGB", (2000, 1000), (1, 2, 3))  # 2 Mpx, of which 1 is converted at a time: 8.4 MB more
LARGE = PLAIN.resize((2500, 2000))
FULL = {"subsampling": 0}  # colours at full resolution


@pytest.mark.parametrize(
    ("image", "kind", "options", "megabytes"),
    [
        (PLAIN, "png", {}, 8 + 6 + 9),  # 4 bytes as PIL has them, and 3 of RGB
        (PLAIN.convert("L"), "png", {}, 2 + 6 + 9),
        (PLAIN.convert("P"), "png", {"transparency": 0}, 2 + 6 + 9),
        (PLAIN.convert("LA"), "png", {}, 8 + 6 + 9),
        (PLAIN.convert("RGBA"), "png", {}, 8 + 6 + 9),
        (Image.new("I;16", PLAIN.size), "png", {}, 4 + 6 + 9),
        (PLAIN.convert("CMYK"), "jpeg", {}, 8 + 6 + 9),
        (LARGE, "jpeg", FULL, 20 + 15 + 9),
        (LARGE, "jpeg", {**FULL, "progressive": True}, 20 + 30),  # 3 coefficients of 2 bytes each
        (PLAIN, "webp", {}, 32),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_the_limit_is_of_the_memory_that_decoding_takes(image, kind, options, megabytes, monkeypatch):
    content = encoded(image, kind, **options)
    refused_at(megabytes - 1, content, monkeypatch)
    assert accepted_at(megabytes, content, monkeypatch).shape == (image.height, image.width, 3)


SCAN, SCAN_OF_ONE = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11", b"\xff\xda\x00\x08\x01\x01\x00"


def test_a_jpeg_is_measured_by_what_is_decoded_of_it_unless_its_coefficients_are_all_kept(monkeypatch):
    """At an eighth, 0.03 Mpx of 2; in several scans 12 MB are kept."""
    small = {"at_least": (100, 100)}
    content = encoded(PLAIN, "jpeg", **FULL)
    assert accepted_at(1, content, monkeypatch, **small).shape == (125, 250, 3)
    refused_at(12, content, monkeypatch)
    assert SCAN in content
    for several in (encoded(PLAIN, "jpeg", **FULL, progressive=True), content.replace(SCAN, SCAN_OF_ONE)):
        refused_at(12, several, monkeypatch, **small)


def claimed(content, width, height):
    """A JPEG whose header claims another size; what lacks of its pixels is grey."""
    at = re.search(rb"\xff[\xc0\xc2]\x00", content).start() + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_jpeg_is_limited_by_what_is_decoded_of_it_and_where_none_is_by_nothing(tmp_path):
    """900 Mpx, which PIL refuses at its own limit, and 300 Mpx, of which it warns."""
    grey = encoded(Image.new("L", (64, 64), 99), "jpeg")
    for width, height in ((30_000, 30_000), (20_000, 15_000)):
        (tmp_path / "a.jpg").write_bytes(claimed(grey, width, height))
        assert image_size(tmp_path / "a.jpg") == (height, width)
        assert read_exif(tmp_path / "a.jpg") == ({}, {})
        for content in (None, claimed(grey, width, height)):
            small = open_image(tmp_path / "a.jpg", content=content, at_least=(300, 300))
            assert small.shape == (height // 8, width // 8, 3)
            assert (small[0, :64] == 99).all()  # as many blocks as there are
            with pytest.raises(ImageError, match=rf"decoding {width} x {height} px takes .* MB, over the limit of 910"):
                open_image(tmp_path / "a.jpg", content=content)
    coloured = encoded(Image.new("RGB", (64, 64)), "jpeg", progressive=True)
    with pytest.raises(ImageError, match=r"decoding 30000 x 30000 px takes .* MB, over the limit of 910"):
        open_image("a.jpg", content=claimed(coloured, 30_000, 30_000), at_least=(300, 300))


def test_what_was_accepted_of_rgb_still_is_and_pil_neither_warns_nor_refuses_below_the_limit(tmp_path, monkeypatch):
    assert memory_limit() == 910 * 10**6
    assert Image.MAX_IMAGE_PIXELS == 227_500_000
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for width, height in ((9_459, 9_459), (11_349, 11_349)):
            (tmp_path / "a.png").write_bytes(png_of_size(width, height))
            with pytest.raises(ImageError, match="cannot be decoded"):  # it has no pixels, but the limit lets it pass
                open_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert memory_limit() == 910 * 10**6
    assert Image.MAX_IMAGE_PIXELS is None  # who has taken it away keeps it so


def test_a_row_too_wide_for_pil_is_a_bad_image_and_no_want_of_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_size(89_478_485, 1))
    with pytest.raises(ImageError, match="89478485 x 1 px is too wide"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "1e3"])
def test_a_limit_that_is_no_number_of_megabytes_is_refused(value, tmp_path, monkeypatch):
    Image.fromarray(QUARTERS).save(tmp_path / "a.png")
    monkeypatch.setenv(LIMIT, value)
    for look in (open_image, image_size, read_exif):
        with one_sentence(f"{LIMIT} is '{value}'") as refused:
            look(tmp_path / "a.png")
        assert not isinstance(refused.value, ImageError)  # which would be one bad image of many


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["RGB", "P", "RGBA", "I;16"])
def test_strips_make_up_the_image_to_the_last_bit(kind, orientation, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (45, 31, 4), dtype=np.uint8))
    if kind == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (45, 31), dtype=np.uint16))
    elif kind != "RGBA":
        image = image.convert("RGB").quantize(40) if kind == "P" else image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, "png", exif=exif, **({"transparency": bytes(range(40))} if kind == "P" else {}))
    whole = open_image("a.png", content=content)
    monkeypatch.setattr(images, "_STRIP", 7 * 31)  # seven rows, and three at the end
    np.testing.assert_array_equal(open_image("a.png", content=content), whole)
    assert whole.flags.c_contiguous
    if kind == "RGB":
        np.testing.assert_array_equal(whole, TURNS[orientation](np.asarray(image)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("L", "png", {}),
        ("RGB", "png", {}),
        ("RGBA", "png", {}),
        ("LA", "png", {}),
        ("I;16", "png", {}),
        ("P", "png", {"transparency": 0}),
        ("RGB", "jpeg", {}),
        ("CMYK", "jpeg", {}),
        ("RGB", "jpeg", {"subsampling": 0, "progressive": True}),
        ("RGB", "webp", {"lossless": True, "method": 0}),
        ("RGB", "jpeg2000", {}),
        ("RGB", "heif", {"chroma": 444}),
        ("L", "heif", {}),
    ],
)
def test_the_memory_counted_is_within_a_quarter_of_what_decoding_takes(mode, kind, options, tmp_path):
    """The peak of a process of its own, with 36 Mpx; ru_maxrss would begin with that of this one, which starts it."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells a process's peak so")
    image = Image.new(mode, (6000, 6000))
    if kind == "heif":
        pytest.importorskip("pi_heif")
        pytest.importorskip("pillow_heif").from_pillow(image).save(
            tmp_path / "a", enc_params={"preset": "ultrafast"}, **options
        )
    else:
        image.save(tmp_path / "a", kind, **options)
    code = """
        import re
        from pathlib import Path
        from data.images import _memory_needed, _opened, open_image
        with _opened("a") as image:
            counted = _memory_needed(image, image.size)
        peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
        before = peak()
        open_image("a")
        print(counted / (peak() - before))
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert 0.75 < float(done.stdout) < 1.25


@pytest.mark.parametrize("look", [open_image, image_size, read_exif])
def test_what_is_no_regular_file_is_refused_at_once(look, tmp_path, monkeypatch):
    """A pipe that nobody writes to lets whoever opens it wait for ever; the alarm would end that."""
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # the name of a socket may be 107 bytes long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        signal.alarm(20)
        for name, kind in (("pipe.jpg", "a pipe"), ("socket.jpg", "a socket"), ("/dev/zero", "a device")):
            with pytest.raises(ImageError, match=f"{name}: it is {kind}, not a file"):
                look(name)
        with pytest.raises(ImageError, match="Is a directory"):
            look(tmp_path)
        signal.alarm(0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a Git LFS pointer"),
        (b"just some words", "it is not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "it is not an image of a known format"),
    ],
)
def test_what_is_no_image_is_refused_with_its_name_and_what_it_is(tmp_path, content, reason):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"x\.jpg: {reason}"):
        open_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.gif", "a.ppm", "a.bmp"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.98])
def test_a_truncated_file_is_refused(tmp_path, name, part):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ImageError, match=rf"{name}: it (cannot be decoded \(|is not an image)"):
        open_image(tmp_path / name)
    assert take_cut_short() == []


def photo_like(height=603, width=400):
    """Smooth, with some noise: the chroma of a coder's last blocks is as in a photo."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


JPEGS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "grey": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "a restart each row": {"restart_marker_rows": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("at_least", [None, (300, 200), (75, 50)], ids=str)
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_its_last_bytes_is_used_as_far_as_it_goes(kind, at_least):
    image = photo_like().convert("L" if kind == "grey" else "RGB")
    content = encoded(image, "jpeg", **JPEGS[kind])
    whole = open_image("a.jpg", content=content, at_least=at_least)
    height = len(whole)
    block = 16 * height / 603  # rows of a row of blocks
    for missing in (1, 2, 3, 100, len(content) // 100):
        pixels = open_image("a.jpg", content=content[:-missing], at_least=at_least)
        [(file, reason)] = take_cut_short()
        assert file == "a.jpg"
        differ = (pixels != whole).reshape(height, -1).any(1)
        alike = int(differ.argmax()) if differ.any() else height
        said = 100 if "%" not in reason else int(reason.split()[3])
        assert alike >= 0.95 * height - block - 1
        # A block cut within may decode like the noise, or as it was: up to one row of blocks too many or too few.
        assert abs(said - 100 * alike / height) <= 100 * (block + 2) / height
    with pytest.raises(ImageError, match=r"a\.jpg: it ends (after (6|7)\d % of its rows|before the last of its scans)"):
        open_image("a.jpg", content=content[: len(content) * 7 // 10], at_least=at_least)
    assert take_cut_short() == []


def test_a_jpeg_cut_right_at_a_restart_marker_ends_there():
    content = encoded(photo_like(), "jpeg", restart_marker_rows=1)
    starts = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", content)]
    assert len(starts) == 37
    for row, more in itertools.product((12, 19, 27, 34), (0, 1, 2, 3)):
        with pytest.raises(ImageError, match="it ends after") as refused:
            open_image("a.jpg", content=content[: starts[row] + more])
        assert abs(int(refused.value.reason.split()[3]) - 100 * 16 * (row + 1) / 603) < 1.5


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_jpeg_is_used_as_far_as_its_stored_rows_go(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo_like(), "jpeg", exif=exif)
    (tmp_path / "a.jpg").write_bytes(content[:-100])
    pixels, whole = open_image(tmp_path / "a.jpg"), open_image("a.jpg", content=content)
    assert take_cut_short() == [(str(tmp_path / "a.jpg"), "it ends after 98 % of its rows")]
    stored = TURNS[{6: 8, 8: 6}.get(orientation, orientation)]  # each turn undone by its opposite
    assert np.array_equal(stored(pixels)[:590], stored(whole)[:590])
    assert not np.array_equal(pixels, whole)


def test_a_jpeg_that_ends_between_two_scans_is_refused_though_all_its_rows_are_there():
    content = encoded(photo_like(), "jpeg", progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", content)]
    assert len(scans) == 10
    for scan in scans[2:]:
        with pytest.raises(ImageError, match="it ends before the last of its scans"):
            open_image("a.jpg", content=content[:scan])


def test_an_mpo_is_cut_where_its_first_picture_is():
    content = encoded(photo_like(), "mpo", save_all=True, append_images=[photo_like().rotate(180)])
    second = content.index(b"\xff\xd8\xff", 3)
    whole = open_image("a.mpo", content=content)
    assert np.array_equal(open_image("a.mpo", content=content[: second + 100]), whole)
    assert take_cut_short() == []
    pixels = open_image("a.mpo", content=content[: second - 60])
    assert np.array_equal(pixels[:580], whole[:580])
    assert take_cut_short() == [("a.mpo", "it ends after 98 % of its rows")]
    with pytest.raises(ImageError, match=r"it ends after 4\d % of its rows"):
        open_image("a.mpo", content=content[: second // 2])


def test_what_is_decoded_twice_takes_the_memory_of_both(monkeypatch):
    content = encoded(LARGE, "jpeg")
    monkeypatch.setenv(LIMIT, "45")  # 20 + 15 + 9
    assert open_image("a.jpg", content=content).shape == (2000, 2500, 3)
    with pytest.raises(ImageError, match="takes 59 MB, over the limit of 45 MB"):
        open_image("a.jpg", content=content[:-2])
    monkeypatch.setenv(LIMIT, "60")
    assert open_image("a.jpg", content=content[:-2]).shape == (2000, 2500, 3)
    take_cut_short()


@pytest.mark.parametrize("part", [0.01, 0.2, 0.8])
def test_a_png_damaged_in_its_pixels_is_refused(tmp_path, part):
    """Not black where the damage is: asked for its EXIF, PIL loads a PNG, and a second load() would say nothing."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    at = content.index(b"IDAT") + 4 + int(len(content) * part)
    content[at : at + 9] = bytes(9)
    (tmp_path / "a.png").write_bytes(content)
    for given in (None, bytes(content)):
        with pytest.raises(ImageError, match=r"a\.png: it cannot be decoded \(broken data stream"):
            open_image(tmp_path / "a.png", content=given)


def test_the_bytes_of_a_file_are_the_file(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    expected = open_image(tmp_path / "a.jpg", at_least=(30, 20))
    assert np.array_equal(open_image("shard.tar/a.jpg", at_least=(30, 20), content=content), expected)
    for wrong, reason in ((b"", "it is empty"), (b"<html>", "it is a web page"), (content[:300], "it cannot be dec")):
        with pytest.raises(ImageError, match=rf"shard\.tar/a\.jpg: {reason}"):
            open_image("shard.tar/a.jpg", content=wrong)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(ImageError, match=r"no\.jpg: there is no such file"):
        open_image(tmp_path / "no.jpg")
    with pytest.raises(ImageError, match=r"it cannot be read \(Is a directory\)"):
        open_image(tmp_path)


def test_the_error_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "it is empty")))
    assert (error.file, error.reason) == ("a.jpg", "it is empty")
    assert str(error) == "a.jpg: it is empty; replace or remove the file."


def test_images_in_memory_become_rgb_or_are_refused():
    assert_rgb(to_array(palette_image()), EXPECTED)
    np.testing.assert_array_equal(to_array(QUARTERS), QUARTERS)
    for image, found in (
        (QUARTERS[..., 0], r"shape is \(48, 64\) of uint8"),
        (QUARTERS / 255, "of float64"),
        (3, "of type int"),
    ):
        with pytest.raises(InputError, match=rf"{found}; give .*uint8 RGB \(H, W, 3\)\.$") as refused:
            to_array(image)
        assert "file" not in str(refused.value)


@pytest.mark.parametrize("name", ["a.mpo", "a.JPG"])
def test_of_a_picture_of_several_the_first_is_read(tmp_path, name):
    one, other = (Image.new("RGB", size, colour) for size, colour in (((40, 30), "red"), ((8, 6), "blue")))
    one.save(tmp_path / name, format="MPO", save_all=True, append_images=[other])
    assert open_image(tmp_path / name).shape == (30, 40, 3)
    assert list_images(tmp_path).tolist() == [name.encode()]
