"""Where and when a photograph was taken, by its EXIF. No torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.coordinates import LeftOut, clean
from data.images import ImageError, read_exif

_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4  # tags of the GPS IFD, Exif 2.32, table 15
_DATE_TIME_ORIGINAL = 0x9003


class Taken(NamedTuple):
    """What EXIF says of a picture: (latitude, longitude) or why there is none, and the day, "2020:01:31" or empty."""

    position: tuple[float, float] | str
    day: str


def exif_taken(path: str | Path) -> Taken:
    """Where and when a picture was taken, by its EXIF; the position is a key of `LeftOut.counts` where it has none."""
    try:
        gps, exif = read_exif(path)
    except ImageError:
        return Taken("unreadable", "")
    day = re.match(r"[12]\d{3}:[01]\d:[0-3]\d", str(exif.get(_DATE_TIME_ORIGINAL, "")))
    return Taken(position_of(gps), day.group() if day else "")


def exif_position(path: str | Path) -> tuple[float, float] | str:
    """(latitude, longitude) of a picture by its EXIF, cleaned as training's are; else why not, as `LeftOut.counts`."""
    position = exif_taken(path).position
    if isinstance(position, str):
        return position
    latlng, keep = clean(np.array([position]), path, str, LeftOut())
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
    if degrees < 0 or not 0 <= minutes <= 60 or not 0 <= seconds <= 60:  # 60 by rounding
        return "malformed"
    if (degrees % 1 and (minutes or seconds)) or (minutes % 1 and seconds):
        return "malformed"
    return degrees + minutes / 60 + seconds / 3600
