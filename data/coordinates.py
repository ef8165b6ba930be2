"""Where photographs were taken, from a CSV of any size or from their EXIF: read, checked, counted. No torch.

Places are `latlng` (N, 2) float64: degrees, latitude first, longitude in [-180, 180]. What is certainly wrong is
refused with its line; what cameras and web sites are known to write in place of a position is left out and counted.
"""

import csv
import difflib
import io
import itertools
import os
import re
import time
import warnings
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from data.images import ImageError, read_exif


class Columns(NamedTuple):
    """Where a CSV has what: a column's name, or its position from 0 (from -1 backwards) where it has no header.

    `group` is the photographer, the sequence or the place, of which no two splits should have one; `taken` the date.
    """

    path: str | int
    latitude: str | int
    longitude: str | int
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

# In a header, in any case, where no column is named for it; the first that is there.
# fmt: off
GROUP_NAMES = (
    "author", "author_id", "photographer", "creator_id", "creator", "owner", "uid", "user", "user_id",
    "sequence", "sequence_id", "place", "place_id",
)
# fmt: on
TAKEN_NAMES = ("taken", "date_taken", "datetaken", "captured_at", "date", "datetime")
SPLIT_NAME = "split"
SPLIT_NUMBERS: dict[bytes, int] = {b"train": 0, b"val": 1, b"valid": 1, b"validation": 1, b"test": 2}  # in any case

_CHUNK = 100_000  # rows of a CSV read at a time, where only its coordinates are wanted
_ROWS = 10_000  # the same where all is wanted; more lists at once would keep the garbage collector busy
_MANY = 0.01  # of the rows out of range: then it is no slip of a pen
_LONGEST = 400  # bytes of a path or a group: arrays are as wide as their longest, so that one would cost all
_WORD = 64  # bytes of a date or a split that are looked at


def choose_columns(
    preset: str | None = None,
    path: str | None = None,
    latitude: str | None = None,
    longitude: str | None = None,
    group: str | None = None,
) -> Columns | None:
    """The columns of a preset with those named here in their place; None, the header tells, where nothing is named.

    Raises InputError for an unknown preset.
    """
    asked = {"path": path, "latitude": latitude, "longitude": longitude, "group": group}
    named = {field: name for field, name in asked.items() if name is not None}
    if preset is None and not named.keys() - {"group"}:
        return Columns("", "", "", group) if group is not None else None
    if preset is not None and preset not in PRESETS:
        raise InputError(f"the preset {preset!r} is unknown; it must be one of {', '.join(PRESETS)}.")
    columns = PRESETS[preset or "path_lat_lon"]
    if columns.header:
        return columns._replace(**named)  # type: ignore[arg-type]  # all are str | int
    for field, name in named.items():
        if not re.fullmatch(r"-?\d+", name):
            raise InputError(
                f"the column for the {field} is {name!r}, but {preset} has no header; give its position from 0."
            )
    return columns._replace(**{field: int(name) for field, name in named.items()})  # type: ignore[arg-type]


# --- what is left out, and what is refused ----------------------------------------------------------------------------

_LEFT_OUT = {
    "no position": "without a position, left out",
    "0/0": "with 0/0 for a position, as cameras without a fix write it, left out",
    "reference": "with a position but no valid N or S, E or W, which is not guessed, left out",
    "malformed": "with a position that cannot be, its numbers being out of range, left out",
    "zero": "at (0, 0), which stands for no position, left out",
    "wrapped": "with a longitude above 180, of which 360 was taken",
    "unreadable": "that cannot be read, left out",
    "missing": "listed but not there, left out",
    "no day": "with a date of which no day can be read, each drawn on its own",
}


class LeftOut:
    """What was survived: how often each of a few known things occurred, and where first."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(_LEFT_OUT, 0)
        self._first: dict[str, str] = {}

    def note(self, what: str, count: int, first: Callable[[], str]) -> None:
        """Count one kind; `first` gives the line or the file that it was first seen in, and is called once."""
        self.counts[what] += count
        if what not in self._first:
            self._first[what] = first()

    def lines(self, thing: str, source: str | Path) -> list[str]:
        """A line for each kind that occurred, as "a.csv: 3 rows without a position, left out (first: line 6)"."""
        return [
            f"{source}: {count:,} {thing}{'s' * (count > 1)} {_LEFT_OUT[what]} (first: {self._first[what]})"
            for what, count in self.counts.items()
            if count
        ]


def clean(
    latlng: np.ndarray,
    source: str | Path,
    where: Callable[[int], str],
    left_out: LeftOut,
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
        left_out.note("wrapped", int(high.sum()), lambda: where(int(np.argmax(high))))
        latlng = np.stack([latlng[:, 0], np.where(high, longitude - 360, longitude)], axis=1)
    keep = np.asarray(latlng.any(axis=1))
    if not keep.all():
        left_out.note("zero", int((~keep).sum()), lambda: where(int(np.argmin(keep))))
    return latlng, keep


# --- a CSV ------------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of a CSV that have a position: cells as UTF-8 bytes (N,), None for a column that it has not."""

    lines: np.ndarray  # int64 (N,) from 1
    latlng: np.ndarray  # float64 (N, 2)
    paths: np.ndarray  # relative to the CSV's folder, the same however they are written
    groups: np.ndarray | None
    taken: np.ndarray | None
    splits: np.ndarray | None


class _Layout(NamedTuple):
    """What the first line of a file says: positions from 0 of its columns, -1 for none, and how to parse it."""

    path: int
    latitude: int
    longitude: int
    group: int
    taken: int
    split: int
    group_name: str  # for sentences
    delimiter: str
    quote: str | None
    header: bool


def stream_coordinates(
    file: Path, columns: Columns | None = None, left_out: LeftOut | None = None
) -> Iterator[np.ndarray]:
    """All rows' latlng (N, 2) of a CSV of any size, in chunks: checked, without those that `left_out` counts.

    Nothing but the two columns is looked at. Without `columns` the header tells which preset it is. Raises InputError
    as clean() does, for a column that is missing and a cell that is no number; and in the end where no row is left.
    """
    left_out = LeftOut() if left_out is None else left_out
    layout = _layout(file, columns, paths=False)
    kept, line = 0, 1
    with _opened(file) as text, _bar(file) as bar:
        line += _skip_header(text, layout)
        while chunk := _next_numbers(file, text, line, layout, left_out):
            latlng, lines = chunk
            kept += len(latlng)
            line += lines
            bar.update(_read_so_far(text) - bar.n)
            yield latlng
    _refuse_none(file, kept, left_out)


def read_rows(file: Path, columns: Columns | None = None, left_out: LeftOut | None = None) -> Iterator[Rows]:
    """The rows of a CSV that have a position, in chunks, with all that a training needs. Raises InputError."""
    left_out = LeftOut() if left_out is None else left_out
    layout = _layout(file, columns, paths=True)
    kept = 0
    with _opened(file, newline="") as text, _bar(file) as bar:
        before = _skip_header(text, layout)
        reader = _csv_reader(text, layout)
        while chunk := _next_rows(file, reader, max(layout[:6]), before):
            lines, cells = chunk
            positions, has = _floats(file, cells[layout.latitude], cells[layout.longitude], lines, left_out)
            latlng, keep = clean(positions, file, _line_of(lines[has]), left_out)
            chosen = np.flatnonzero(has)[keep].tolist()
            lines = lines[chosen]
            kept += len(chosen)
            bar.update(_read_so_far(text) - bar.n)
            yield _chosen_rows(file, cells, layout, chosen, lines, latlng[keep])
    _refuse_none(file, kept, left_out)


def group_name(file: Path, columns: Columns | None = None) -> str | None:
    """The column that a CSV is split by, for sentences; None where there is none. Raises InputError as read_rows()."""
    return _layout(file, columns, paths=False).group_name or None


def has_places_alone(file: Path, columns: Columns | None = None) -> bool:
    """Whether a CSV has nothing by which its rows could be divided. Raises InputError as stream_coordinates()."""
    layout = _layout(file, columns, paths=False)
    return layout.split < 0 and layout.path < 0 and layout.group < 0


def _opened(file: Path, newline: str | None = None) -> io.TextIOWrapper:
    try:
        return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; give the path of a CSV of path,latitude,longitude.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); make it readable.") from error


def _bar(file: Path) -> tqdm:
    size = file.stat().st_size
    return tqdm(desc=f"reading {file.name}", total=size, unit="B", unit_scale=True, delay=2, leave=False)


def _skip_header(text: io.TextIOWrapper, layout: _Layout) -> int:
    """Read on to the first row; the lines that were read."""
    return next(count for count, line in enumerate(text, start=1) if line.strip()) if layout.header else 0


def _read_so_far(text: io.TextIOWrapper) -> int:
    buffer: Any = text.buffer  # its stub lacks tell(), and a text has none while it is iterated over
    return int(buffer.tell())


def _csv_reader(lines: Any, layout: _Layout) -> Any:
    if layout.quote is None:
        return csv.reader(lines, delimiter=layout.delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=layout.delimiter)


def _next_rows(file: Path, reader: Any, last: int, before: int) -> tuple[np.ndarray, list[tuple[str, ...]]] | None:
    """The lines, int64 (N,), and the columns of the next rows that are not blank, N up to _ROWS; None at the end.

    `last` is the last column needed and `before` the lines of the file before the reader's first. Raises InputError.
    """
    rows: list[list[str]] = []
    ends: list[int] = []
    try:
        for row in reader:
            if row:
                rows.append(row)
                ends.append(reader.line_num)
                if len(rows) == _ROWS:
                    break
    except csv.Error as error:
        line = before + reader.line_num
        raise InputError(f"{file}, line {line}: {error}; save it as a CSV in UTF-8 again.") from error
    if not rows:
        return None
    lengths = {*map(len, rows)}
    if min(lengths) <= last:
        short = next(i for i, row in enumerate(rows) if len(row) <= last)
        raise InputError(
            f"{file}, line {before + ends[short]}: it has {len(rows[short])} values, and at least {last + 1} are "
            "wanted; leave a cell empty where a value is unknown, but keep its separator."
        )
    return before + np.array(ends), list(zip(*rows, strict=len(lengths) == 1))


def _floats(
    file: Path, latitude: tuple[str, ...], longitude: tuple[str, ...], lines: np.ndarray, left_out: LeftOut
) -> tuple[np.ndarray, np.ndarray]:
    """As _parsed()."""
    try:
        numbers = [np.fromiter(map(float, column), np.float64, len(lines)) for column in (latitude, longitude)]
    except ValueError:  # an empty cell, or one that is no number: slower
        return _parsed(file, np.array([latitude, longitude]).T, lambda row: int(lines[row]), left_out)
    return np.stack(numbers, axis=1), np.ones(len(lines), dtype=bool)


def _chosen_rows(
    file: Path, cells: list[tuple[str, ...]], layout: _Layout, chosen: list[int], lines: np.ndarray, latlng: np.ndarray
) -> Rows:
    """The rows `chosen`, which are those of `lines` and `latlng`. Raises InputError for what is too long or empty."""

    def packed(at: int, refused_as: str | None = None) -> np.ndarray | None:
        """UTF-8 bytes (N,) without the spaces around; of what is not kept, and so not refused, the start."""
        if at < 0:
            return None
        start = _WORD if refused_as is None else None
        column = [cells[at][row][:start].encode(errors="surrogateescape").strip() for row in chosen]
        if refused_as and column and len(max(column, key=len)) > _LONGEST:
            row = next(i for i, cell in enumerate(column) if len(cell) > _LONGEST)
            raise InputError(
                f"{file}, line {lines[row]}: the {refused_as} has {len(column[row]):,} bytes, and {_LONGEST} are the "
                "most; shorten it, or remove the line."
            )
        return np.array(column, np.bytes_)

    paths: Any = packed(layout.path, "path")
    return Rows(
        lines,
        latlng,
        _relative(file, paths, lines),
        packed(layout.group, "group"),
        packed(layout.taken),
        packed(layout.split),
    )


def _relative(file: Path, paths: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """`paths` in the CSV's folder: the same of `./a.jpg`, `a.jpg` and its path in full. InputError for an empty one."""
    if (paths == b"").any():
        raise InputError(
            f"{file}, line {lines[np.argmin(paths != b'')]}: the path is empty; write it, or remove the line."
        )
    start = os.fsencode(file.parent)

    def written(path: bytes) -> bytes:
        if path.startswith(b"/"):
            return os.path.relpath(path, start)
        return os.path.normpath(path) if b"./" in path or b"//" in path else path

    return np.array([written(path) for path in paths.tolist()], np.bytes_)


def _layout(file: Path, columns: Columns | None, paths: bool) -> _Layout:
    """Find the columns in the first line. Raises InputError where one is missing; `paths`: the pictures' as well."""
    with _opened(file) as text:
        head = text.read(1 << 16)
    first = next((line for line in head.splitlines() if line.strip()), "")
    if not first:
        raise InputError(f"{file} is empty; give a CSV of path,latitude,longitude.")
    if first.lstrip().lower().startswith(("<!doctype", "<html", "<head", "<body", "<?xml")):
        raise InputError(f"{file} is a web page, not a list; fetch it again.")
    if "\0" in first or any(0xDC80 <= ord(character) <= 0xDCFF for character in first):  # by surrogateescape
        raise InputError(f"{file} is not text in UTF-8; unpack it, or save it as a CSV in UTF-8.")
    delimiter = max(",", "\t", ";", key=first.count)
    quote = '"' if columns is None or columns.header else None
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))] if quote else first.split("\t")
    delimiter = delimiter if quote else "\t"
    if columns is not None and not columns.header:
        return _positions(file, columns, len(cells), delimiter)
    group = columns.group if columns is not None else None
    if columns is None or columns.latitude == "":
        columns = _recognised(cells)
    if group is not None:
        columns = columns._replace(group=group)
    wanted = ("path", "latitude", "longitude") if paths else ("latitude", "longitude")
    for field in (*wanted, *(("group",) if group is not None else ())):
        name = getattr(columns, field)
        if name not in cells:
            _refuse_missing(file, field, name, cells)
        if cells.count(name) > 1:
            raise InputError(f"{file} has the column {name!r} more than once; give each a name of its own.")

    def place(name: str | int | None, known: tuple[str, ...] = ()) -> int:
        if name is not None and name in cells:
            return cells.index(str(name))
        lower = [cell.lower() for cell in cells]
        return next((lower.index(other) for other in known if other in lower), -1)

    by = place(columns.group, GROUP_NAMES)
    return _Layout(
        place(columns.path),
        place(columns.latitude),
        place(columns.longitude),
        by,
        place(columns.taken, TAKEN_NAMES),
        place(None, (SPLIT_NAME,)),
        cells[by] if by >= 0 else "",
        delimiter,
        quote,
        header=True,
    )


def _recognised(cells: list[str]) -> Columns:
    """The first preset whose columns are all there, or whose coordinates are; else the plainest, to complain about."""
    named = [columns for columns in PRESETS.values() if columns.header]
    full = [c for c in named if {c.path, c.latitude, c.longitude} <= {*cells}]
    positions = [c for c in named if {c.latitude, c.longitude} <= {*cells}]
    return (full or positions or named)[0]


def _positions(file: Path, columns: Columns, count: int, delimiter: str) -> _Layout:
    places = []
    for field in ("path", "latitude", "longitude", "group", "taken"):
        position = getattr(columns, field)
        place = -1 if position is None else position + count if position < 0 else position
        if position is not None and not 0 <= place < count:
            raise InputError(
                f"{file}, line 1: it has {count} columns separated by tabs, and the {field} should be number "
                f"{position} from 0; give the file as it was distributed, or another preset."
            )
        places.append(place)
    path, latitude, longitude, group, taken = places
    name = f"column {group}" if group >= 0 else ""
    return _Layout(path, latitude, longitude, group, taken, -1, name, delimiter, None, header=False)


def _refuse_missing(file: Path, field: str, name: str, cells: list[str]) -> NoReturn:
    lower = {cell.lower(): cell for cell in reversed(cells) if cell}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5) or list(lower)[-5:][::-1]
    numbers = all(re.fullmatch(r"[-+\d.eE]*", cell) for cell in cells)
    nearest = ", ".join(repr(lower[cell]) for cell in near)
    hint = " (a file without a header? its first line must name the columns)" if numbers else ""
    raise InputError(
        f"{file} has no column {name!r} for the {field}; the nearest are {nearest}{hint}: name the right one "
        "(or a preset)."
    )


def _next_numbers(
    file: Path, text: io.TextIOWrapper, first: int, layout: _Layout, left_out: LeftOut
) -> tuple[np.ndarray, int] | None:
    """The clean latlng of the next _CHUNK rows, and the lines they took; `first` is the next line's number."""
    lines: list[str] = []

    def following() -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    def line_of(row: int) -> int:  # for a sentence
        reader = _csv_reader(lines, layout)
        return first - 1 + next(itertools.islice((reader.line_num for cells in reader if cells), row, None))

    settings: Any = {
        "delimiter": layout.delimiter,
        "usecols": (layout.latitude, layout.longitude),
        "comments": None,
        "quotechar": layout.quote,
        "ndmin": 2,
        "max_rows": _CHUNK,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*contained no data.*")  # at the end, and on a blank line
        try:
            latlng = np.loadtxt(following(), np.float64, **settings).reshape(-1, 2)
            has = np.ones(len(latlng), dtype=bool)
        except ValueError:  # an empty cell, or one that is no number: slower
            try:
                cells = np.loadtxt(itertools.chain(lines.copy(), following()), "S40", **settings).reshape(-1, 2)
            except ValueError as error:
                reader = _csv_reader(lines, layout)
                while _next_rows(file, reader, max(layout.latitude, layout.longitude), first - 1):  # says which line
                    pass
                raise InputError(f"{file}, near line {first}: {error}; save it as a CSV in UTF-8 again.") from error
            latlng, has = _parsed(file, cells, line_of, left_out)
    if not lines:
        return None

    def where(row: int) -> str:
        return f"line {line_of(int(np.flatnonzero(has)[row]))}"

    latlng, keep = clean(latlng, file, where, left_out)
    return (latlng if keep.all() else latlng[keep]), len(lines)


def _parsed(
    file: Path, cells: np.ndarray, line_of: Callable[[int], int], left_out: LeftOut
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (M, 2) of the rows of `cells`, text (N, 2), that are not empty, and which these are, bool (N,)."""
    empty = cells == cells.dtype.type()
    if not empty.all():
        try:
            numbers = cells[~empty.any(axis=1)].astype(np.float64)
        except ValueError:
            cells = np.strings.strip(cells)  # a cell of spaces is empty too
            empty = cells == cells.dtype.type()
            numbers = _one_by_one(file, cells, ~empty.any(axis=1), line_of)
    else:
        numbers = np.zeros((0, 2))
    has = ~empty.any(axis=1)
    if not has.all():
        left_out.note("no position", int((~has).sum()), lambda: f"line {line_of(int(np.argmin(has)))}")
    return numbers, has


def _one_by_one(file: Path, cells: np.ndarray, has: np.ndarray, line_of: Callable[[int], int]) -> np.ndarray:
    numbers = np.zeros((int(has.sum()), 2))
    for at, row in enumerate(np.flatnonzero(has).tolist()):
        for column, name in enumerate(("latitude", "longitude")):
            cell = cells[row, column]
            try:
                numbers[at, column] = float(cell)
            except ValueError:
                text = cell.decode("latin-1") if isinstance(cell, bytes) else str(cell)
                comma = "; a decimal point is wanted, no comma" if re.fullmatch(r"-?\d+,\d+", text) else ""
                raise InputError(
                    f"{file}, line {line_of(row)}: the {name} is {text!r}; it must be in degrees, as 48.8583, or empty "
                    f"where it is unknown{comma}."
                ) from None
    return numbers


def _line_of(lines: np.ndarray) -> Callable[[int], str]:
    return lambda row: f"line {lines[row]}"


def _refuse_none(file: Path, kept: int, left_out: LeftOut) -> None:
    if not kept:
        why = "; ".join(left_out.lines("row", "there are")).replace("there are: ", "") or "no rows"
        raise InputError(f"{file} has no position ({why}); give a CSV of path,latitude,longitude with a row a picture.")


# --- which split a row is of ------------------------------------------------------------------------------------------


def check_drawing(val_fraction: float, test_fraction: float, seed: int, options: str = "--data.") -> None:
    """Raise InputError, which names them as `options` has them, for fractions or a seed that nothing can be drawn by.

    A fraction of 0 sets nothing aside.
    """
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise InputError(f"{options}{name} is {value:g}; it must be 0 or more, and below 1.")
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"{options}val_fraction {val_fraction:g} and {options}test_fraction {test_fraction:g} together leave "
            "nothing to train on; lower them."
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"{options}seed is {seed}; it must be from 0 to 4294967295.")


def drawn_order(names: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each name, bytes (N,), that depends on the name and `seed` alone: float64 (N,).

    So a group that is set aside by it stays there, whatever photographs are added later. The mixing is splitmix64's
    (Steele et al., 2014, https://doi.org/10.1145/2714064.2660195), eight bytes of a name at a time.
    """
    return (_hashed(names, seed) >> np.uint64(11)) * 2.0**-53


def _hashed(names: np.ndarray, seed: int) -> np.ndarray:
    """64 bits of each name, uint64 (N,)."""
    words = max(1, -(-names.dtype.itemsize // 8))
    padded = np.ascontiguousarray(names.astype(f"S{8 * words}")).view("<u8").reshape(len(names), words)
    state = np.full(len(names), seed, dtype=np.uint64)
    state = _mix(state)
    for word in padded.T:
        state = np.where(word > 0, _mix(state ^ word), state)  # the padding, which depends on the longest name, is 0
    return state


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def set_aside(drawn: np.ndarray, fractions: Sequence[float]) -> list[int]:
    """Where each part ends that is set aside of G groups in the order of their numbers `drawn`, float64 (G,).

    By the number of a group, so that it stays where it is; but each part has a group, and so has what is left.
    """
    ends: list[int] = []
    for later, below in zip(range(len(fractions), 0, -1), np.cumsum(fractions), strict=True):
        first = ends[-1] if ends else 0
        ends.append(int(np.clip((drawn < below).sum(), first + 1, len(drawn) - later)))
    return ends


def split_numbers(file: Path, rows: Rows) -> np.ndarray:
    """Of each row 0 train, 1 val, 2 test, int8 (N,), by the column `split`, and 0 without one; or InputError."""
    if rows.splits is None:
        return np.zeros(len(rows.lines), dtype=np.int8)
    names, which = np.unique(np.strings.lower(rows.splits), return_inverse=True)
    numbers = np.array([SPLIT_NUMBERS.get(name, -1) for name in names.tolist()], dtype=np.int8)[which]
    if (numbers < 0).any():
        row = int(np.argmin(numbers))
        text = rows.splits[row].decode(errors="replace")
        raise InputError(
            f"{file}, line {rows.lines[row]}: the {SPLIT_NAME} is {text!r}; it must be train, val or test."
        )
    return numbers


def groups_of(rows: Rows, left_out: LeftOut) -> tuple[np.ndarray, str]:
    """The name of the group that each row is of, bytes (N,), and what that is: "group", "day" or "picture".

    A row without a group, or without a day where dates are all there is, is a group of its own, named by its path.
    """
    if rows.groups is not None:
        return np.where(rows.groups == b"", rows.paths, rows.groups), "group"
    if rows.taken is None:
        return rows.paths, "picture"
    days = np.array([day_of(taken) for taken in rows.taken.tolist()], np.bytes_)
    undated = (days == b"") & (rows.taken != b"")
    if undated.any():
        row = int(np.argmax(undated))
        text = rows.taken[row].decode(errors="replace")
        left_out.note("no day", int(undated.sum()), lambda: f"line {rows.lines[row]}, {text!r}")
    return np.where(days == b"", rows.paths, days), "day" if (days != b"").any() else "picture"


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


def training_coordinates(
    file: Path,
    columns: Columns | None = None,
    left_out: LeftOut | None = None,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Iterator[np.ndarray]:
    """As stream_coordinates(), but of the rows that a training on `file` with the same settings is given, or more.

    By the `split` column; without the groups that are drawn for validation or testing where no row is of it. A file of
    nothing but coordinates is all taken. It cannot be known here which pictures are missing, or look like others.
    Raises InputError for a picture that is listed twice, too, and for fewer groups than are to be set aside.
    """
    if has_places_alone(file, columns):
        yield from stream_coordinates(file, columns, left_out)
        return
    left_out = LeftOut() if left_out is None else left_out
    fractions = _lacking(file, columns, {1: val_fraction, 2: test_fraction})
    first = _first_trained_on(file, columns, fractions, seed) if fractions else 0.0
    met = array("Q")
    for rows in read_rows(file, columns, left_out):
        chosen = split_numbers(file, rows) == 0
        if fractions:
            chosen &= drawn_order(groups_of(rows, left_out)[0], seed) >= first
        met.frombytes(_hashed(rows.paths, 0).view(np.uint8).data)
        yield rows.latlng[chosen]
    _refuse_repeated(file, columns, np.frombuffer(met, np.uint64))


def _lacking(file: Path, columns: Columns | None, fractions: dict[int, float]) -> list[float]:
    """The fractions above 0 of those splits that no row is of."""
    wanted = {split: fraction for split, fraction in fractions.items() if fraction > 0}
    if _layout(file, columns, paths=True).split >= 0:
        for rows in read_rows(file, columns):
            for split in np.unique(split_numbers(file, rows)).tolist():
                wanted.pop(split, None)
            if not wanted:
                break
    return list(wanted.values())


def _first_trained_on(file: Path, columns: Columns | None, fractions: list[float], seed: int) -> float:
    """The number by drawn_order() from which on groups are trained on, as set_aside() has it."""
    below = np.cumsum(fractions)
    every, parts = [], set()
    for rows in read_rows(file, columns):
        groups = groups_of(rows, LeftOut())[0][split_numbers(file, rows) == 0]
        every.append(np.unique(drawn_order(groups, seed)))
        parts.update(np.searchsorted(below, every[-1], side="right").tolist())
        if len(parts) > len(below):  # each has a group, which is soon so but in small sets
            return float(below[-1])
    drawn = np.unique(np.concatenate(every))
    if len(drawn) <= len(below):
        raise InputError(
            f"{file} has too few groups to train on ({len(drawn)}) to set one aside for each of validation and testing "
            "that no row is of; add some, or give a fraction of 0 where none is to be set aside."
        )
    return float(drawn[set_aside(drawn, fractions)[-1]])


def _refuse_repeated(file: Path, columns: Columns | None, hashed: np.ndarray) -> None:
    """Raises InputError where a picture is listed twice, by what _hashed() gave for each; rereads only if it may be."""
    ordered = np.sort(hashed)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    met: dict[bytes, int] = {}
    for rows in read_rows(file, columns) if len(again) else ():
        for row in np.flatnonzero(np.isin(_hashed(rows.paths, 0), again)).tolist():
            name, line = rows.paths[row], int(rows.lines[row])
            if name in met:
                raise InputError(
                    f"{file} lists {os.fsdecode(name)} more than once (lines {met[name]} and {line}); keep one of its "
                    "rows."
                )
            met[name] = line


# --- EXIF -------------------------------------------------------------------------------------------------------------

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
