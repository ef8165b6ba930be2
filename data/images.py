"""The one place that opens an image: any raster file PIL reads in, RGB uint8 out, or a sentence that says why not.

PIL, because OpenCV decodes a truncated JPEG in silence and torchvision ignores the EXIF orientation.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from backbone.errors import InputError
from backbone.web_pages import is_web_page

# Above this an image is refused from its header, before a byte of it is decoded: a 400-megapixel PNG may be a file of
# 48 kB. It is PIL's own figure (1 GiB of RGB over 4 and 3), at which PIL only warns; PIL refuses at twice that.
MAX_PIXELS = 89_478_485

# Raster formats of photos. Not "whatever PIL knows": EPS, for one, starts Ghostscript on the file.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")

# By these, in lower case, a folder's images are told from its other files.
# fmt: off
IMAGE_ENDINGS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".jp2",
))
# fmt: on

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    Raises ImageError with the file and the reason.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as image:
            _check_pixel_count(path, image)
            turn = _turn(path, image, annotated_size)
            if at_least is not None:  # draft() wants (width, height) as stored; formats other than JPEG ignore it
                image.draft(None, at_least if turn >= 5 else at_least[::-1])
            image.load()
            rgb = _to_rgb(path, image)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # PIL's plugins raise a dozen kinds: OSError, SyntaxError, ValueError, struct.error ...
        raise ImageError(path, _reason(path, error, content)) from error
    if turn in _TURN:
        rgb = rgb.transpose(_TURN[turn])
    return np.asarray(rgb)  # (H, W, 3)


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """An image already in memory as RGB uint8 (H, W, 3): a PIL image of any mode, or an array that is so already.

    Raises InputError for anything else, and ImageError for a PIL image that cannot be decoded.
    """
    if isinstance(image, Image.Image):
        try:
            image.load()  # one that was opened lazily is read only now
            turn = _orientation(image)
            rgb = _to_rgb("the PIL image", image)
        except OSError as error:
            raise ImageError("the PIL image", f"it cannot be decoded ({error})") from error
        return np.asarray(rgb.transpose(_TURN[turn]) if turn in _TURN else rgb)
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise InputError(f"the image is of type {kind}; give a path, a PIL image or an array of uint8 RGB (H, W, 3).")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"the array's shape is {image.shape} of {image.dtype}; give uint8 RGB (H, W, 3).")
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, in px, from the header alone. Raises ImageError."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixel_count(path, image)
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(path, _reason(path, error)) from error


def read_exif(path: str | Path) -> tuple[dict[int, Any], dict[int, Any]]:
    """The tags of the GPS and of the Exif part of a file's metadata; empty where it has none. Raises ImageError."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            exif = image.getexif()
            return dict(exif.get_ifd(ExifTags.IFD.GPSInfo)), dict(exif.get_ifd(ExifTags.IFD.Exif))
    except Exception as error:
        raise ImageError(path, _reason(path, error)) from error


def _check_pixel_count(path: str | Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(path, f"{width} x {height} px is over the limit of {MAX_PIXELS:,} px")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it cannot be read: the pixels are still good."""
    if image.format == "TIFF":  # PIL turns a TIFF upright itself while loading, and gives its upright size
        return 1
    if image.format == "PNG":
        image.load()  # getexif() would, as EXIF may follow the pixels, and a damaged file would be told only here
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in _TURN else 1


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


def _to_rgb(path: str | Path, image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # I;16, I;16B, I: convert("RGB") would cut everything above 255 to white
        values = np.asarray(image).astype(np.int64)  # (H, W)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(path, f"pixel values {values.min()} to {values.max()} are outside 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 / 257 = 255
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
        return f"it has more than the limit of {MAX_PIXELS:,} px"
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
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format"
    return f"it cannot be decoded ({error or type(error).__name__})"
