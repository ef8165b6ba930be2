"""Places of images from a CSV of any size: its columns, its rows, and which of them are trained on. No torch."""

import difflib
import os
import re
import time
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from backbone.errors import InputError
from data.coordinates import IssueCounts, clean
from data.readers.csv_table import (
    PATH_NAMES,
    CsvTable,
    degrees_of,
    packed,
    read_header,
    relative_paths,
    split_numbers,
)
from data.records import UNSPLIT
from data.splits import draw_numbers, hash_names, set_aside

_LONGEST = 400  # bytes of a path or a group: arrays are as wide as their longest, so that one would cost all
_WORD = 64  # bytes of a date or a split that are looked at


class Columns(NamedTuple):
    """Which columns have what, by name, or by position from 0 (from -1 backwards) where there is no header.

    `group` is the photographer, the sequence or the place, of which no two splits should have one; `taken` the date.
    What is None the header tells.
    """

    path: str | int | None = None
    latitude: str | int | None = None
    longitude: str | int | None = None
    group: str | int | None = None
    taken: str | int | None = None
    header: bool = True


PRESETS: dict[str, Columns] = {
    "path_lat_lon": Columns("path", "latitude", "longitude"),
    # Tabs, no header; longitude first. Backwards, as the first release has 23 columns and the later 25, two more in
    # front. The path is the later one's hash, by which Multimedia Commons names the files, and the first one's id.
    "yfcc100m": Columns(-23, -12, -13, group=-22, taken=-20, header=False),
    "osv5m": Columns("id", "latitude", "longitude", group="creator_id", taken="captured_at"),
    "mp16": Columns("IMG_ID", "LAT", "LON", group="AUTHOR"),
    "im2gps": Columns("IMG_ID", "LAT", "LON", group="AUTHOR"),  # Im2GPS and Im2GPS3k, by the same authors as MP-16's
    "geo_clip": Columns("IMG_FILE", "LAT", "LON"),
}

# What a header calls them, in any case, where no column is named for it; the first that is there.
# fmt: off
GROUP_NAMES = (
    "author", "author_id", "photographer", "creator_id", "creator", "owner", "uid", "user", "user_id",
    "sequence", "sequence_id", "place", "place_id",
)
# fmt: on
_NAMES: dict[str, tuple[str, ...]] = {
    "path": PATH_NAMES,
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "group": GROUP_NAMES,
    "taken": ("taken", "date_taken", "datetaken", "captured_at", "date", "datetime"),
}


def choose_columns(
    preset: str | None = None,
    path: str | None = None,
    latitude: str | None = None,
    longitude: str | None = None,
    group: str | None = None,
) -> Columns:
    """The columns of a preset, with those named here in their place. Raises InputError for an unknown preset."""
    options = {"path": path, "latitude": latitude, "longitude": longitude, "group": group}
    named = {field: name for field, name in options.items() if name is not None}
    if preset is not None and preset not in PRESETS:
        raise InputError(f"the preset {preset!r} is unknown; it must be one of {', '.join(PRESETS)}.")
    columns = PRESETS[preset] if preset else Columns()
    for field, name in named.items():
        if not columns.header and not re.fullmatch(r"-?\d+", name):
            raise InputError(
                f"the column for the {field} is {name!r}, but {preset} has no header; give its position from 0."
            )
    given = named if columns.header else {field: int(name) for field, name in named.items()}
    return columns._replace(**given)


# --- the first line -------------------------------------------------------------------------------------------------


def _layout(file: Path, columns: Columns, paths: bool) -> tuple[CsvTable, dict[str, int]]:
    """A table, and the positions from 0 of `split` and the fields of _NAMES in it, -1 for none.

    Raises InputError where a column is missing; `paths`: the images' as well.
    """
    table = read_header(file, "a CSV of path,latitude,longitude", header=columns.header)
    if not columns.header:
        return table, {"split": -1} | {name: _position(table, name, getattr(columns, name)) for name in _NAMES}
    required = {"latitude", "longitude", "path" if paths else "", "group" if columns.group is not None else ""}
    at = {"split": table.column("split")}
    for field, known in _NAMES.items():
        named = getattr(columns, field)
        names = known if named is None else (str(named), *(known if field == "taken" else ()))
        at[field] = table.column(*names)
        if field in required and at[field] < 0:
            _refuse_missing(table, field, names[0])
        if field in required and table.cells.count(cell := table.cells[at[field]]) > 1:
            raise InputError(f"{file} has the column {cell!r} more than once; give each a name of its own.")
    return table, at


def _position(table: CsvTable, field: str, position: Any) -> int:
    """The position from 0 of a column of a table without a header, which may be counted backwards; -1 for none."""
    if position is None:
        return -1
    count = len(table.cells)
    if not -count <= position < count:
        raise InputError(
            f"{table.file}, line 1: it has {count} columns separated by tabs, and the {field} should be number "
            f"{position} from 0; give the file as it was distributed, or another preset."
        )
    return int(position % count)


def _refuse_missing(table: CsvTable, field: str, name: str) -> NoReturn:
    others = {known for other, names in _NAMES.items() if other != field for known in (*names, "split")}
    lower = {cell.lower(): cell for cell in reversed(table.cells) if cell and cell.lower() not in others}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5) or list(lower)[-5:][::-1]
    numbers = all(re.fullmatch(r"[-+\d.eE]*", cell) for cell in table.cells)
    hint = " (if it has no header, write one into its first line)" if numbers else ""
    option = "group" if field == "group" else f"{field}_column"
    nearest = ", ".join(repr(lower[cell]) for cell in near) or "none of its columns"
    raise InputError(
        f"{table.file} has no column {name!r} for the {field}; the nearest are {nearest}{hint}: name the right one by "
        f"--data.{option} (of `partition`, --{option}), or a preset."
    )


def lists_places(file: Path) -> bool:
    """Whether the header of a file has a path, a latitude and a longitude, by the usual words."""
    try:
        _layout(file, Columns(), paths=True)
    except InputError:
        return False
    return True


def has_places_alone(file: Path, columns: Columns) -> bool:
    """Whether a CSV has nothing by which its rows could be split. Raises InputError."""
    at = _layout(file, columns, paths=False)[1]
    return max(at["split"], at["path"], at["group"]) < 0


# --- rows -----------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of a CSV that have a position: cells as UTF-8 bytes (N,), None for a column that it has not."""

    file: Path
    lines: np.ndarray  # int64 (N,) from 1
    latlng: np.ndarray  # float64 (N, 2)
    paths: np.ndarray  # relative to the CSV's folder, the same however they are written; None of places alone
    groups: np.ndarray | None
    taken: np.ndarray | None
    splits: np.ndarray | None
    group_column: str  # for sentences

    def split(self) -> np.ndarray:
        """Of each row the position in SPLITS by the column `split`, UNSPLIT without one: int8 (N,); or InputError."""
        if self.splits is None:
            return np.full(len(self.lines), UNSPLIT, np.int8)
        return split_numbers(self.file, self.splits, self.lines)

    def group(self, issues: IssueCounts) -> tuple[np.ndarray, str]:
        """The name of the group of each row, bytes (N,), and what a group is: its column's name, "day" or "image".

        A row without a group, or without a day where dates are all there is, is a group of its own, named by its path.
        """
        if self.groups is not None:
            return np.where(self.groups == b"", self.paths, self.groups), self.group_column
        if self.taken is None:
            return self.paths, "image"
        days = np.array([day_of(taken) for taken in self.taken.tolist()], np.bytes_)
        undated = (days == b"") & (self.taken != b"")
        if undated.any():
            row = int(np.argmax(undated))
            text = self.taken[row].decode(errors="replace")
            issues.note("no day", int(undated.sum()), lambda: f"line {self.lines[row]}, {text!r}")
        return np.where(days == b"", self.paths, days), "day" if (days != b"").any() else "image"


def read_rows(file: Path, columns: Columns, issues: IssueCounts, *, paths: bool = True) -> Iterator[Rows]:
    """The rows of a CSV that have a position, in chunks; without `paths` there need be none. Raises InputError."""
    table, at = _layout(file, columns, paths)
    group_column = table.cells[at["group"]] if columns.header else f"column {at['group']}"
    kept = 0
    for lines, cells in table.chunks(1 + max(at.values())):
        latlng, has = _floats(file, cells[at["latitude"]], cells[at["longitude"]], lines, issues)
        where = lines[has]
        latlng, keep = clean(latlng, file, lambda row, where=where: f"line {where[row]}", issues)  # type: ignore[misc]
        chosen, lines = np.flatnonzero(has)[keep].tolist(), where[keep]
        kept += len(chosen)
        pick = partial(_column, file, cells, chosen, lines)
        named: Any = relative_paths(file, pick(at["path"], "path"), lines) if paths else None
        others = pick(at["group"], "group"), pick(at["taken"]), pick(at["split"])
        yield Rows(file, lines, latlng[keep], named, *others, group_column)
    if not kept:
        why = "; ".join(map(str, issues.issues)) or "no rows"
        raise InputError(f"{file} has no position ({why}); give a CSV of path,latitude,longitude with a row an image.")


def _floats(
    file: Path, latitudes: tuple[str, ...], longitudes: tuple[str, ...], lines: np.ndarray, issues: IssueCounts
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (M, 2) of the rows in which neither cell is empty, and which these are, bool (N,)."""
    try:
        numbers = [np.fromiter(map(float, column), np.float64, len(lines)) for column in (latitudes, longitudes)]
        return np.stack(numbers, axis=1), np.ones(len(lines), dtype=bool)
    except ValueError:  # an empty cell, or one that is no number: slower
        cells = [(one.strip(), other.strip()) for one, other in zip(latitudes, longitudes, strict=True)]
    has = np.array([all(pair) for pair in cells])
    if not has.all():
        issues.note("no position", int((~has).sum()), lambda: f"line {lines[np.argmin(has)]}")
    latlng = np.empty((len(cells), 2))
    for row in np.flatnonzero(has).tolist():
        for column, cell in enumerate(cells[row]):
            number = degrees_of(cell, ("NS", "EW")[column])
            if number is None:
                raise InputError(
                    f"{file}, line {lines[row]}: the {('latitude', 'longitude')[column]} is {cell!r}; it must be in "
                    f"degrees, as 48.8583{', 48,8583 or 48.8583N' if column == 0 else ', 2,3525 or 2.3525E'}, or empty "
                    "where it is unknown."
                )
            latlng[row, column] = number
    for what, mark in (("comma", re.compile(",")), ("letter", re.compile(r"[NSEW]$", re.IGNORECASE))):
        odd = [row for row in np.flatnonzero(has).tolist() if any(map(mark.search, cells[row]))]
        if odd:
            issues.note(what, len(odd), lambda odd=odd: f"line {lines[odd[0]]}")  # type: ignore[misc]
    return latlng[has], has


def _column(
    file: Path, cells: list[tuple[str, ...]], chosen: list[int], lines: np.ndarray, at: int, limited: str = ""
) -> Any:
    """The cells of the `chosen` rows, on `lines`, bytes (N,); None for no column. InputError over the limit."""
    if at < 0:
        return None
    found = packed([cells[at][row] if limited else cells[at][row][:_WORD] for row in chosen])
    if limited and found.dtype.itemsize > _LONGEST:
        row = int(np.argmax(np.strings.str_len(found) > _LONGEST))
        raise InputError(
            f"{file}, line {lines[row]}: the {limited} has {len(found[row]):,} bytes, and {_LONGEST} are the most; "
            "shorten it, or remove the line."
        )
    return found


_SINCE_1970 = {9: 1, 10: 1, 12: 1000, 13: 1000, 15: 10**6, 16: 10**6}  # digits: how many in a second
_NUMBER = re.compile(rb"(\d+)(?:\.\d*)?$")
_YEAR_FIRST = re.compile(rb"(\d{4})\D{1,3}(\d\d?)\D{1,3}(\d\d?)(?!\d)")
_TOGETHER = re.compile(rb"((?:19|20)\d\d)([01]\d)([0-3]\d)(?=\D|(?:\d{4}|\d{6})?$)")  # with the time, or not
_YEAR_LAST = re.compile(rb"(\d\d?)[-/. ](\d\d?)[-/. ](\d{4}|\d\d)(?!\d)")
_NO_DAY = re.compile(rb"\d{4}(\D\d\d?)?$")


def day_of(written: bytes) -> bytes:
    """The name of the day of a date as it was written: b"2020:01:31", as EXIF has it; empty where none can be read.

    Seconds since 1970, or thousandths or millionths, are read as UTC. Where the year is last, day and month stay as
    they are, as which is which does not matter: one day has one name. A month or a year alone is taken whole.
    """
    if found := _YEAR_FIRST.match(written) or _TOGETHER.match(written):
        return b"%04d:%02d:%02d" % numbers if all(numbers := tuple(map(int, found.groups()))) else b""
    if (number := _NUMBER.match(written)) and (a_second := _SINCE_1970.get(len(number[1]))):
        return time.strftime("%Y:%m:%d", time.gmtime(int(number[1]) // a_second)).encode()
    if found := _YEAR_LAST.match(written):
        numbers = tuple(map(int, found.groups()))
        return b"%02d/%02d/%d" % numbers if all(numbers[:2]) else b""
    return written if _NO_DAY.match(written) and int(written[:4]) else b""


# --- what is trained on ---------------------------------------------------------------------------------------------


def training_coordinates(
    file: Path, columns: Columns, issues: IssueCounts, *, val_fraction: float, test_fraction: float, seed: int
) -> Iterator[np.ndarray]:
    """The latlng (N, 2), in chunks, of the rows that a training on `file` with the same settings is given, or more.

    By the `split` column; without the groups that splits.assign_splits() draws for validation or testing where no row
    is of it, in the memory of a chunk and two numbers a row. A file of nothing but coordinates is all taken. It cannot
    be known here which images are missing, or look like others. Raises InputError for an image that is listed twice,
    and for fewer groups than are to be set aside.
    """
    if has_places_alone(file, columns):
        yield from (rows.latlng for rows in read_rows(file, columns, issues, paths=False))
        return
    first = _first_trained_on(file, columns, {1: val_fraction, 2: test_fraction}, seed)
    met = array("Q")
    for rows in read_rows(file, columns, issues):
        chosen = rows.split() <= 0
        if first:
            chosen &= draw_numbers(rows.group(issues)[0], seed) >= first
        met.frombytes(hash_names(rows.paths, 0).view(np.uint8).data)
        yield rows.latlng[chosen]
    _refuse_repeated(file, columns, np.frombuffer(met, np.uint64))


def _first_trained_on(file: Path, columns: Columns, fractions: dict[int, float], seed: int) -> float:
    """The number by draw_numbers() from which on groups are trained on, as set_aside() has it; 0 where all are."""
    lacking = {split: fraction for split, fraction in fractions.items() if fraction > 0}
    every, parts = [], set[int]()
    for rows in read_rows(file, columns, IssueCounts("row")):
        split = rows.split()
        for known in np.unique(split).tolist():
            lacking.pop(known, None)
        if not lacking:
            return 0.0
        groups = rows.group(IssueCounts("row"))[0][split <= 0]
        every.append(np.unique(draw_numbers(groups, seed)))
        if rows.splits is None:
            below = np.cumsum(list(lacking.values()))
            parts.update(np.searchsorted(below, every[-1], side="right").tolist())
            if len(parts) > len(below):  # each has a group, which is soon so but in small sets
                return float(below[-1])
    drawn = np.unique(np.concatenate(every))
    if len(drawn) <= len(lacking):
        raise InputError(
            f"{file} has too few groups to train on ({len(drawn)}) to set one aside for each of validation and testing "
            "that no row is of; add some, or give a fraction of 0 where none is to be set aside."
        )
    return float(drawn[set_aside(drawn, list(lacking.values()))[-1]])


def _refuse_repeated(file: Path, columns: Columns, hashed: np.ndarray) -> None:
    """Raises InputError where an image is listed twice, by the hash of each; rereads only if it may be."""
    ordered = np.sort(hashed)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    met: dict[bytes, int] = {}
    for rows in read_rows(file, columns, IssueCounts("row")) if len(again) else ():
        for row in np.flatnonzero(np.isin(hash_names(rows.paths, 0), again)).tolist():
            name, line = rows.paths[row], int(rows.lines[row])
            if name in met:
                raise InputError(
                    f"{file} lists {os.fsdecode(name)} more than once (lines {met[name]} and {line}); keep one of its "
                    "rows."
                )
            met[name] = line
