"""A folder of images with the positions that cameras wrote into their EXIF. No torch."""

import itertools
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.coordinates import IssueCounts, clean
from data.folders import list_readable, progress
from data.images import ImageError, read_exif
from data.records import SPLITS, UNSPLIT, Records, issue_of
from data.splits import splits_named

_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4  # tags of the GPS IFD, Exif 2.32, table 15
_DATE_TIME_ORIGINAL = 0x9003

_THREADS = 16  # they wait for the disk
_BLOCK = 64  # images that a thread takes at a time


def read(root: Path) -> Records:
    """Every image to the bottom of `root` that has a position, with columns `latlng`, `group` and `split`.

    Images in `train/`, `val/` and `test/` are of that split, if there is a `train/` or nothing else. A group
    is a day, or an image without one. Raises InputError where no image has a position.
    """
    names, unreadable = list_readable(root)
    split = splits_named(np.array([name.partition(b"/")[0] for name in names.tolist()]))
    issues = list(unreadable)
    if (
        not (split == SPLITS.index("train")).any() and (split == UNSPLIT).any()
    ):  # then val/ and test/ are names like others
        split[:] = UNSPLIT
    elif count := int((split == UNSPLIT).sum()):
        what = f"image{'s' * (count > 1)} in none of the folders train, val and test, left out"
        issues += issue_of(what, split == UNSPLIT, lambda i: os.fsdecode(names[i]))
        names, split = names[split != UNSPLIT], split[split != UNSPLIT]
    latlng, days = np.full((len(names), 2), np.nan), np.zeros(len(names), "S10")
    counts, starts = IssueCounts("image"), range(0, len(names), _BLOCK)

    def block(start: int) -> list[Taken]:
        return [exif_taken(root / os.fsdecode(name)) for name in names[start : start + _BLOCK]]

    pool = ThreadPoolExecutor(_THREADS)
    try:
        every = itertools.chain.from_iterable(pool.map(block, starts))
        bar = progress(every, "reading EXIF positions", len(names), unit=" images")
        for i, (position, day) in enumerate(bar):
            days[i] = day.encode()
            if isinstance(position, str):
                counts.note(position, 1, partial(os.fsdecode, names[i]))
            else:
                latlng[i] = position
    finally:
        pool.shutdown(cancel_futures=True)

    has = np.flatnonzero(~np.isnan(latlng[:, 0]))
    latlng, keep = clean(latlng[has], root, lambda row: os.fsdecode(names[has[row]]), counts)
    if not keep.any():
        other = next((file for file in sorted(root.iterdir()) if file.suffix.lower() in (".csv", ".tsv")), None)
        remedy = f"is {other} meant?" if other else "give images with GPS, or images.csv: path,latitude,longitude."
        raise InputError(
            f"{root} has no image with a GPS position ({'; '.join(map(str, (*counts.issues, *issues)))}); {remedy}"
        )
    kept = has[keep]
    names, days = names[kept], days[kept]
    return Records(
        root,
        names,
        {"latlng": latlng[keep], "group": np.where(days == b"", names, days), "split": split[kept]},
        issues=(*issues, *counts.issues),
        grouped_by="day" if (days != b"").any() else "image",
    )


class Taken(NamedTuple):
    """What EXIF says of an image: (latitude, longitude) or why there is none, and the day, "2020:01:31" or empty."""

    position: tuple[float, float] | str
    day: str


def exif_taken(path: str | Path) -> Taken:
    """Where and when an image was taken, by its EXIF; without a position why, as one of `IssueCounts.counts`."""
    try:
        gps, exif = read_exif(path)
    except ImageError:
        return Taken("unreadable", "")
    day = re.match(r"[12]\d{3}:[01]\d:[0-3]\d", str(exif.get(_DATE_TIME_ORIGINAL, "")))
    return Taken(position_of(gps), day.group() if day else "")


def exif_position(path: str | Path) -> tuple[float, float] | str:
    """(latitude, longitude) of an image by its EXIF as training takes it; else why not, as `IssueCounts.counts`."""
    position = exif_taken(path).position
    if isinstance(position, str):
        return position
    latlng, keep = clean(np.array([position]), path, str, IssueCounts("image"))
    return (float(latlng[0, 0]), float(latlng[0, 1])) if keep[0] else "zero"


def position_of(gps: Mapping[int, Any]) -> tuple[float, float] | str:
    """(latitude, longitude in [-180, 360]) of the tags of a GPS IFD as Pillow reads them, or why there is none.

    Degrees alone, or degrees and minutes, may have decimals; what comes after a number with decimals must be 0. N or S,
    E or W must be there: a position in the wrong hemisphere is worse than none.
    """
    found = []
    for tag, ref_tag, signs in (
        (_LATITUDE, _LATITUDE_REF, {"N": 1, "S": -1}),
        (_LONGITUDE, _LONGITUDE_REF, {"E": 1, "W": -1}),
    ):
        if tag not in gps:
            return "no position"
        degrees = _degrees(gps[tag])
        if isinstance(degrees, str):
            return degrees
        ref = gps.get(ref_tag, "")
        ref = ref.decode("latin-1") if isinstance(ref, bytes) else str(ref)
        sign = signs.get(ref.strip("\0 ").upper())
        if sign is None:
            return "reference"
        found.append(sign * degrees)
    latitude, longitude = found
    if abs(latitude) > 90 or not -180 <= longitude <= 360:
        return "malformed"
    return latitude, longitude


def _degrees(value: Any) -> float | str:
    try:
        numbers = [float(part) for part in (value if isinstance(value, tuple) else (value,))]
    except (TypeError, ValueError, ZeroDivisionError):
        return "malformed"
    if np.isnan(numbers).any():  # Pillow's for a denominator of 0
        return "0/0"
    if not 1 <= len(numbers) <= 3:
        return "malformed"
    degrees, minutes, seconds = (*numbers, 0.0, 0.0)[:3]
    out_of_range = degrees < 0 or not 0 <= minutes <= 60 or not 0 <= seconds <= 60  # 60 by rounding
    if out_of_range or (degrees % 1 and (minutes or seconds)) or (minutes % 1 and seconds):
        return "malformed"
    return degrees + minutes / 60 + seconds / 3600
