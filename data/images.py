"""The one place that opens an image: any raster file PIL reads in, RGB uint8 out, or a sentence that says why not.

PIL, because OpenCV decodes a truncated JPEG in silence and torchvision ignores the EXIF orientation.
"""

import importlib.util
import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

from backbone.errors import InputError
from backbone.web_pages import is_web_page

# The memory in MB that decoding one image may take, counted from its header before a byte is decoded: a WebP of 89
# megapixels may be a file of 40 bytes. It is enough for 89,478,485 px of RGB, where PIL warns and where the limit once
# was, in PNG, TIFF, BMP or JPEG: 7 bytes each, or 10 of a progressive JPEG at full colour resolution, and 8 MB more.
# The decoders of WebP (16 bytes) and JPEG 2000 (19) need more: 56 and 47 megapixels are their limits.
_MAX_MB = 910
_MAX_MB_VARIABLE = "MOBILENET_TASKS_MAX_IMAGE_MB"
_FEWEST = 4  # bytes that a pixel takes: one of grey, and then three of RGB
_WIDEST = 1 << 25  # px: PIL's decoders count the bits of a row in 32, and else say that there is no memory
_STRIP = 1 << 20  # px that are converted at once, so that nothing but the image and its RGB is ever there as a whole

# Raster formats of photos. Not "whatever PIL knows": EPS, for one, starts Ghostscript on the file.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")

# What is larger than may be decoded is refused below by its memory, and what a JPEG decodes small is not.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

HEIF_ENDINGS = frozenset((".heic", ".heif", ".hif"))  # of phones
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
_READS_HEIF = importlib.util.find_spec("pi_heif") is not None  # the extra `heif`, imported for such a file alone

# By these, in lower case, a folder's images are told from its other files.
# fmt: off
IMAGE_ENDINGS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm",
    ".jp2",
)) | (HEIF_ENDINGS if _READS_HEIF else frozenset())
# fmt: on

_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"  # its first bytes, and its last
_ENOUGH_ROWS = 0.95  # of a JPEG whose last bytes are missing
_NOISE = 100_000  # bytes
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_cut_short: dict[str, str] = {}  # file to how far it goes, until take_cut_short()

_BITS_PER_SAMPLE = 258  # TIFF tag
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
# The view (height, width, 3) of an upright image in which its pixels lie as stored.
_AS_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}
_GREY_OF_16_BITS = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)  # 65535 / 257 = 255


class ImageError(InputError):
    """An image that cannot be used: `file` names it, `reason` says why."""

    def __init__(self, file: str | Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}; replace or remove the file.")
        self.file = str(file)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:  # so that it crosses from a loader's worker
        return ImageError, (self.file, self.reason)


def open_image(
    path: str | Path,
    *,
    annotated_size: tuple[int, int] | None = None,
    at_least: tuple[int, int] | None = None,
    content: bytes | None = None,
) -> np.ndarray:
    """One image as RGB uint8 (H, W, 3), upright by its EXIF orientation, the first frame of an animation.

    16-bit grey is scaled, not cut; transparency is shown on white, as a viewer shows it, since the colours under
    transparent pixels are whatever the writing program left there.
    `annotated_size` (height, width) is the size the annotations were made on. Some tools annotate the pixels as
    stored, unrotated: where only the stored size equals it, the image stays unrotated; where neither does, it is bad.
    `at_least` (height, width): a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as it stays that large.
    `content`: the file as it came out of an archive, which `path` then only names.
    Raises ImageError with the file and the reason; a JPEG that lacks at most 5 % of its rows is used all the same, and
    told of by `take_cut_short`.
    """
    if content is None:
        _check_kind(path)
    limit = memory_limit()
    try:
        return _decoded(path, content, annotated_size, at_least, limit)[0]
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # PIL's plugins raise a dozen kinds: OSError, SyntaxError, ValueError, struct.error ...
        if isinstance(error, OSError) and "truncated" in str(error):
            given = annotated_size, at_least, limit
            if (pixels := _as_far_as_it_goes(path, content, *given)) is not None:
                return pixels
        raise ImageError(path, _reason(path, error, content)) from error


def take_cut_short() -> list[tuple[str, str]]:
    """(file, how far it goes) of the JPEGs used though their last bytes are missing, since this was called last."""
    taken = []
    while _cut_short:
        taken.append(_cut_short.popitem())
    return taken


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """An image already in memory as RGB uint8 (H, W, 3): a PIL image of any mode, or an array that is so already.

    Raises InputError for anything else, and ImageError for a PIL image that cannot be decoded.
    """
    if isinstance(image, Image.Image):
        try:
            image.load()  # one that was opened lazily is read only now
            return _upright_rgb("the PIL image", image, _orientation(image))
        except OSError as error:
            raise ImageError("the PIL image", f"it cannot be decoded ({error})") from error
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise InputError(f"the image is of type {kind}; give a path, a PIL image or an array of uint8 RGB (H, W, 3).")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"the array's shape is {image.shape} of {image.dtype}; give uint8 RGB (H, W, 3).")
    return image


def read_file(path: str | Path) -> bytes:
    """The bytes of an image's file. Raises ImageError where it is missing, empty, changing or cannot be read."""
    _check_kind(path)
    try:
        with Path(path).open("rb") as file:
            before, content, after = os.stat(file.fileno()), file.read(), os.stat(file.fileno())  # noqa: PTH116
    except OSError as error:
        raise ImageError(path, _reason(path, error)) from error
    if not content:
        raise ImageError(path, "it is empty (0 bytes)")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(content) != after.st_size:
        raise ImageError(path, "it changed while it was read")
    return content


def image_size(
    path: str | Path, annotated_size: tuple[int, int] | None = None, *, content: bytes | None = None
) -> tuple[int, int]:
    """(height, width) of the upright image, in px, from the header alone. Raises ImageError.

    It does so as well where `open_image` would for the sake of the `annotated_size`; `content` is as of that.
    """
    if content is None:
        _check_kind(path)
    limit = memory_limit()
    try:
        with _opened(path, content) as image:
            if image.format == "PNG":  # as in `open_image`
                _check_memory(path, image, image.size, limit)
            _turn(path, image, annotated_size)
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(path, _reason(path, error, content)) from error


def read_exif(path: str | Path) -> tuple[dict[int, Any], dict[int, Any]]:
    """The tags of the GPS and of the Exif part of a file's metadata; empty where it has none. Raises ImageError."""
    _check_kind(path)
    limit = memory_limit()
    try:
        with _opened(path) as image:
            if image.format == "PNG":  # as in `open_image`
                _check_memory(path, image, image.size, limit)
            exif = image.getexif()
            return dict(exif.get_ifd(ExifTags.IFD.GPSInfo)), dict(exif.get_ifd(ExifTags.IFD.Exif))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(path, _reason(path, error)) from error


def memory_limit() -> int:
    """The bytes that decoding one image may take: $MOBILENET_TASKS_MAX_IMAGE_MB, or 910 MB. Raises InputError.

    PIL's own limit, which counts the pixels, is raised to what fits within these bytes.
    """
    text = os.environ.get(_MAX_MB_VARIABLE) or str(_MAX_MB)
    if not text.isdecimal() or not int(text):
        raise InputError(f"{_MAX_MB_VARIABLE} is {text!r}; it must be a whole number of MB above 0, such as {_MAX_MB}.")
    limit = int(text) * 10**6
    if Image.MAX_IMAGE_PIXELS is not None:  # else who uses PIL has taken it away
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit // _FEWEST)
    return limit


def _check_kind(path: str | Path) -> None:
    """Raise ImageError for what is there, but no regular file: it may have no end, or let wait for ever."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a str need not become a Path for it
    except OSError:
        return  # opening it says why
    if stat.S_ISDIR(mode):
        raise ImageError(path, "it cannot be read (Is a directory)")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ImageError(path, f"it is {kind}, not a file")


def _opened(path: str | Path, content: bytes | None = None) -> Image.Image:
    """A file of which PIL has read the header."""
    try:
        return Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS)
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise
        with Path(path).open("rb") if content is None else io.BytesIO(content) as file:
            head = file.read(12)
        if isinstance(error, Image.DecompressionBombError) and head.startswith(_JPEG):
            return JpegImagePlugin.JpegImageFile(path if content is None else io.BytesIO(content))  # it may be drafted
        if not _is_heif(head) or not _READS_HEIF:
            raise
        from pi_heif import HeifImageFile

        return HeifImageFile(path if content is None else io.BytesIO(content))


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _decoded(
    path: str | Path,
    content: bytes | None,
    annotated_size: tuple[int, int] | None,
    at_least: tuple[int, int] | None,
    limit: int,
    held: int = 0,
) -> tuple[np.ndarray, int]:
    """The image as `open_image` gives it, and the orientation that was undone; `held` bytes are in memory beside it."""
    with _opened(path, content) as image:
        size = image.size
        if image.format == "PNG":  # which is decoded when asked for its EXIF
            _check_memory(path, image, size, limit, held)
        turn = _turn(path, image, annotated_size)
        if at_least is not None:  # draft() wants (width, height) as stored; formats other than JPEG ignore it
            image.draft(None, at_least if turn >= 5 else at_least[::-1])
        _check_memory(path, image, size, limit, held)
        image.load()
        return _upright_rgb(path, image, turn), turn


def _as_far_as_it_goes(
    path: str | Path,
    content: bytes | None,
    annotated_size: tuple[int, int] | None,
    at_least: tuple[int, int] | None,
    limit: int,
) -> np.ndarray | None:
    """A JPEG that is cut short, where nearly all of its rows are there; what lacks is as its decoder leaves it.

    Decoded twice, once as if it ended there and once as if noise went on, it is alike as far as it goes. None where
    that cannot be told, as of other formats.
    """
    try:
        data = (Path(path).read_bytes() if content is None else content).rstrip(b"\xff")  # half of a marker
        if not data.startswith(_JPEG):
            return None
        if not _begins_all_scans(data):
            raise ImageError(path, "it ends before the last of its scans")
        given, held = (annotated_size, at_least, limit), 2 * (len(data) + _NOISE)
        pixels, turn = _decoded(path, data + _END, *given, held)
        noise = np.random.default_rng(0).integers(0, 255, _NOISE, dtype=np.uint8).tobytes()  # no 255, as of a marker
        # Cut right before a restart marker, it would be searched for the next one, and the noise passed over.
        restarts = _RESTART.findall(data)
        restart = bytes([0xFF, 0xD0 + (restarts[-1][1] + 1) % 8 if restarts else 0xD0])
        other, _ = _decoded(path, data + noise + restart + noise + _END, *given, held + pixels.nbytes)
    except (ImageError, MemoryError):
        raise
    except Exception:
        return None
    ended, gone_on = _AS_STORED[turn](pixels), _AS_STORED[turn](other)
    height = len(ended)
    rows = next((row for row in range(height) if not np.array_equal(ended[row], gone_on[row])), height)
    reason = f"it ends after {100 * rows // height} % of its rows" if rows < height else "it lacks its last bytes"
    if rows < _ENOUGH_ROWS * height:
        raise ImageError(path, reason)
    _cut_short[str(path)] = reason
    return pixels


def _begins_all_scans(data: bytes) -> bool:
    """Whether the scans that a JPEG has begun bring every coefficient of every colour to its full precision."""
    missing: set[tuple[int, int]] | None = None  # (colour, coefficient)
    at, progressive = 2, False
    while (at := data.find(b"\xff", at)) >= 0:
        marker, head = data[at + 1], data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
        if marker <= 1 or 0xD0 <= marker <= 0xD8 or marker == 0xFF:  # these have no head
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            progressive = marker in (0xC2, 0xCA)
            missing = {(colour, k) for colour in head[6::3] for k in range(64)}
        elif marker == 0xDA and missing is not None:
            if len(head) < 4 or len(head) < 4 + 2 * head[0]:
                break
            first, last, precision = head[1 + 2 * head[0] : 4 + 2 * head[0]] if progressive else (0, 63, 0)
            if not precision & 15:
                missing -= {(colour, k) for colour in head[1 : 1 + 2 * head[0] : 2] for k in range(first, last + 1)}
        at += 4 + len(head)
    return missing == set()


def _check_memory(path: str | Path, image: Image.Image, size: tuple[int, int], limit: int, held: int = 0) -> None:
    """Raise ImageError where decoding takes more than `limit` bytes; `size` is (width, height) before any draft."""
    needed = _memory_needed(image, size) + held
    if needed > limit:
        reason = (
            f"decoding {size[0]} x {size[1]} px takes {needed / 1e6:,.0f} MB, over the limit of {limit / 1e6:,.0f} MB"
        )
        raise ImageError(path, f"{reason} ({_MAX_MB_VARIABLE})")
    if size[0] > _WIDEST:
        raise ImageError(path, f"{size[0]} x {size[1]} px is too wide")


def _memory_needed(image: Image.Image, size: tuple[int, int]) -> int:
    """Bytes at the peak: the pixels as PIL holds them, and beside them what their decoder holds, or then the RGB."""
    pixels = image.width * image.height
    held = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, 4)
    return pixels * held + max(_decoder_needs(image, size), 3 * pixels + 8 * min(pixels, _STRIP))


def _decoder_needs(image: Any, size: tuple[int, int]) -> int:
    """Bytes that a decoder holds beside the pixels it gives, by measurement; few where it goes row by row."""
    pixels, bands = image.width * image.height, len(image.getbands())
    if image.format == "TIFF":  # a strip or tile, which may be all of it
        return pixels * sum(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) // 8
    if image.format == "HEIF":  # its colours and their RGB, in 16 bits each where it has more than 8
        return pixels * (2 * bands - 1) * (2 if image.info["bit_depth"] > 8 else 1)
    if image.format == "MPO" or (image.format == "JPEG" and _has_scans(image)):  # all coefficients, in 16 bits
        parts = [across * down for _, across, down, _ in image.layer]
        return 2 * size[0] * size[1] * sum(parts) // max(parts)
    return pixels * {"JPEG2000": 5 * bands, "WEBP": 12, "AVIF": 2 * bands}.get(image.format, 0)


def _has_scans(image: Any) -> bool:
    """Whether a JPEG comes in several scans: it is progressive, or its first one, behind whose head PIL stands, is not
    of all colours; such a head has no 0xFF but the first, so that none can be made up of two pieces.
    """
    colours = image.layers
    image.fp.seek(-(8 + 2 * colours), os.SEEK_CUR)
    head = image.fp.read(8 + 2 * colours)
    whole = head.startswith(bytes([0xFF, 0xDA, 0, 6 + 2 * colours, colours])) and 0xFF not in head[1:]
    return bool(image.info.get("progressive")) or not whole


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it cannot be read: the pixels are still good."""
    if image.format in ("TIFF", "HEIF"):  # these come upright, and with their upright size
        return 1
    if image.format == "PNG":
        image.load()  # getexif() would, as EXIF may follow the pixels, and a damaged file would be told only here
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in _AS_STORED else 1


def _turn(path: str | Path, image: Image.Image, annotated_size: tuple[int, int] | None) -> int:
    """The orientation to undo, so that the image has the size that its annotations were made on."""
    orientation = _orientation(image)
    stored = image.size[::-1]
    upright = stored[::-1] if orientation >= 5 else stored
    if annotated_size is None or annotated_size == upright:
        return orientation
    if annotated_size == stored:
        return 1
    height, width = annotated_size
    raise ImageError(path, f"the image is {upright[1]} x {upright[0]} px but its annotation says {width} x {height} px")


def _upright_rgb(path: str | Path, image: Image.Image, turn: int) -> np.ndarray:
    """A decoded image as RGB uint8 (H, W, 3), with the orientation `turn` undone, by strips of whole rows."""
    width, height = image.size
    rows = max(1, _STRIP // max(width, 1))
    if image.mode == "I":
        low, high = cast(tuple[int, int], image.getextrema())
        if low < 0 or high > 65535:
            raise ImageError(path, f"pixel values {low} to {high} are outside 16 bits")
    if rows >= height and turn == 1:  # most images: not copied once more
        return np.asarray(_to_rgb(path, image))
    upright = np.empty((width, height, 3) if turn >= 5 else (height, width, 3), np.uint8)
    stored = _AS_STORED[turn](upright)  # (height, width, 3), a view
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        stored[top : top + rows] = np.asarray(_to_rgb(path, strip))
    return upright


def _to_rgb(path: str | Path, image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # I;16, I;16B, I: convert("RGB") would cut everything above 255 to white
        return Image.fromarray(_GREY_OF_16_BITS[np.asarray(image)]).convert("RGB")
    if image.mode == "F":
        raise ImageError(path, "32-bit floating-point pixels have no fixed white")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _reason(path: str | Path, error: Exception, content: bytes | None = None) -> str:
    """Why a file could not be opened or decoded, in the user's terms."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the limit of {Image.MAX_IMAGE_PIXELS:,} px"
    try:
        with Path(path).open("rb") if content is None else io.BytesIO(content) as file:
            head = file.read(512)
    except OSError as unreadable:
        return f"it cannot be read ({unreadable.strerror or unreadable})"
    if not head:
        return "it is empty (0 bytes)"
    if is_web_page(head):
        return "it is a web page or XML, not an image"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image itself"
    if _is_heif(head) and not _READS_HEIF:
        return "it is HEIC, which is read once the extra for it is there: pip install '.[heif]', or save as JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format"
    return f"it cannot be decoded ({error or type(error).__name__})"
