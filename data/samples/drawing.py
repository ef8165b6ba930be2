"""What the samples' drawings share."""

import colorsys
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbone.errors import InputError
from backbone.files import room_beside
from data import folders

progress = functools.partial(folders.progress, desc="drawing the sample", unit="image")


@contextlib.contextmanager
def drawn_whole(folder: str | Path) -> Iterator[Path]:
    """Give a folder to draw into, beside `folder` and moved there when complete: a kill leaves no half of one.

    Raises InputError where `folder` holds anything already, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; give a new one.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with room_beside(folder) as room:
            drawn = room / "sample"
            yield drawn
            drawn.replace(folder)
    except OSError as error:
        if folder.is_dir() and any(folder.iterdir()):
            return  # another process, started at the same time, was the first to finish the same images
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); give another folder.") from error


def cloud(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """Smooth noise in 0 to 1, float32 (height, width), with about `cells` hills across."""
    small = Image.fromarray(rng.random((cells, cells + 1)).astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def rgb(hue: float, lightness: float, saturation: float, dtype: Any = np.float32) -> np.ndarray:
    """A colour (3,) in 0 to 255 from numbers in 0 to 1; the hue may be beyond and the lightness is clipped."""
    return np.array(colorsys.hls_to_rgb(hue % 1, min(max(lightness, 0.02), 0.98), saturation), dtype) * 255


def texture(
    rng: np.random.Generator, width: int, height: int, period: tuple[float, float], *strengths: float
) -> np.ndarray:
    """Cloudy noise in 0 to 1, float64 (height, width), at times with waves of so many px and across them others."""
    noise = np.sum([cloud(rng, width, height, cells) / (i + 1) for i, cells in enumerate((3, 7, 17, 45))], axis=0)
    y, x = np.mgrid[:height, :width]
    angle, length = rng.uniform(0, np.pi), rng.uniform(*period)
    along, across = x * np.cos(angle) + y * np.sin(angle), x * np.sin(angle) - y * np.cos(angle)
    for strength, way in zip(strengths, (along, across), strict=False):
        noise = noise + rng.choice([0, strength]) * np.sin(way * 2 * np.pi / length)
    return (noise - noise.min()) / np.ptp(noise)
