"""Where images were taken: what is certainly wrong is refused, what is known to stand for no place is left out.

Places are `latlng` (N, 2) float64: degrees, latitude first, longitude in [-180, 180]. What is refused is named with its
line; what cameras and web sites are known to write in place of a position is counted. No torch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from backbone.errors import InputError
from data.records import NAMED, Issue

_MANY = 0.01  # of the rows out of range: then it is no slip of a pen

_ISSUES = {
    "no position": "without a position, left out",
    "0/0": "with 0/0 for a position, as cameras without a fix write it, left out",
    "reference": "with a position but no valid N or S, E or W, which is not guessed, left out",
    "malformed": "with a position that cannot be, its numbers being out of range, left out",
    "zero": "at (0, 0), which stands for no position, left out",
    "comma": "with a decimal comma, read as a point",
    "letter": "with N, S, E or W at the number, read as its sign",
    "wrapped": "with a longitude above 180, of which 360 was taken",
    "unreadable": "that cannot be read, left out",
    "no day": "with a date of which no day can be read, each a group of its own",
}


class IssueCounts:
    """How often each known kind of odd position occurred among many `things` ("row", "image"), and where first."""

    def __init__(self, thing: str) -> None:
        self.thing = thing
        self.counts: dict[str, int] = dict.fromkeys(_ISSUES, 0)
        self._named: dict[str, list[str]] = {}

    def note(self, what: str, count: int, first: Callable[[], str]) -> None:
        """Count one kind; `first` gives the line or the file that it is first seen in, and is called a few times."""
        self.counts[what] += count
        if len(named := self._named.setdefault(what, [])) < NAMED:
            named.append(first())

    @property
    def issues(self) -> tuple[Issue, ...]:
        """One for each kind that occurred."""
        return tuple(
            Issue(f"{self.thing}{'s' * (count > 1)} {_ISSUES[what]}", count, named[0], tuple(named[1:]))
            for what, count in self.counts.items()
            if count and (named := self._named[what])
        )


def clean(
    latlng: np.ndarray,
    source: str | Path,
    where: Callable[[int], str],
    issues: IssueCounts,
    given: Literal["line", "JSON"] = "line",
) -> tuple[np.ndarray, np.ndarray]:
    """(latlng with longitudes in [-180, 180], which to keep, bool (N,)); a longitude in (180, 360] loses 360.

    (0, 0) is not kept. For a sentence: `where(row)` is a row's line in `source`, and `given` what it was read from.
    Raises InputError for a number that is not finite, a latitude over 90, saying so where latitude and longitude are
    likely swapped, and a longitude outside [-180, 360].
    """
    finite = np.isfinite(latlng)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        name = ("latitude", "longitude")[column]
        raise InputError(
            f"{source}, {where(int(row))}: the {name} is {latlng[row, column]:g}; it must be a number, or empty where "
            "it is unknown."
        )
    latitude, longitude = np.abs(latlng[:, 0]), latlng[:, 1]
    over = latitude > 90
    if over.any():
        row, swapped = int(np.argmax(over)), int((np.abs(longitude) > 90).sum())
        likely = over.mean() >= _MANY and 10 * swapped < over.sum() and (latitude <= 360).all()
        remedy = (
            f"latitude and longitude are likely swapped (of {len(latlng):,} rows, {over.sum():,} are out of range, and "
            f"{swapped:,} would be the other way round): {'name the columns' if given == 'line' else 'write them'} the "
            "other way round"
            if likely
            else f"correct or remove the {given}"
        )
        raise InputError(f"{source}, {where(row)}: the latitude is {latlng[row, 0]:g}, beyond 90; {remedy}.")
    outside = (longitude < -180) | (longitude > 360)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"{source}, {where(row)}: the longitude is {longitude[row]:g}; it must be from -180 to 180 (or to 360, "
            f"eastward); correct or remove the {given}."
        )
    high = longitude > 180
    if high.any():
        issues.note("wrapped", int(high.sum()), lambda: where(int(np.argmax(high))))
        latlng = np.stack([latlng[:, 0], np.where(high, longitude - 360, longitude)], axis=1)
    keep = np.asarray(latlng.any(axis=1))
    if not keep.all():
        issues.note("zero", int((~keep).sum()), lambda: where(int(np.argmin(keep))))
    return latlng, keep
