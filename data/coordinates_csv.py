"""Places of photographs from a CSV of any size, checked: alone, or with all that a training needs. No torch."""

import csv
import io
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from data.coordinates import LeftOut, clean
from data.coordinates_columns import Columns, Layout, find_columns, open_csv

_CHUNK = 100_000  # rows of a CSV read at a time, where only its coordinates are wanted
_ROWS = 10_000  # the same where all is wanted; more lists at once would keep the garbage collector busy
_LONGEST = 400  # bytes of a path or a group: arrays are as wide as their longest, so that one would cost all
_WORD = 64  # bytes of a date or a split that are looked at


class Rows(NamedTuple):
    """Rows of a CSV that have a position: cells as UTF-8 bytes (N,), None for a column that it has not."""

    lines: np.ndarray  # int64 (N,) from 1
    latlng: np.ndarray  # float64 (N, 2)
    paths: np.ndarray  # relative to the CSV's folder, the same however they are written
    groups: np.ndarray | None
    taken: np.ndarray | None
    splits: np.ndarray | None


def stream_coordinates(
    file: Path, columns: Columns | None = None, left_out: LeftOut | None = None
) -> Iterator[np.ndarray]:
    """All rows' latlng (N, 2) of a CSV of any size, in chunks: checked, without those that `left_out` counts.

    Nothing but the two columns is looked at. Without `columns` the header tells which preset it is. Raises InputError
    as clean() does, for a column that is missing and a cell that is no number; and in the end where no row is left.
    """
    left_out = LeftOut() if left_out is None else left_out
    layout = find_columns(file, columns, paths=False)
    kept, line = 0, 1
    with open_csv(file) as text, _bar(file) as bar:
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
    layout = find_columns(file, columns, paths=True)
    kept = 0
    with open_csv(file, newline="") as text, _bar(file) as bar:
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


def _bar(file: Path) -> tqdm:
    size = file.stat().st_size
    return tqdm(desc=f"reading {file.name}", total=size, unit="B", unit_scale=True, delay=2, leave=False)


def _skip_header(text: io.TextIOWrapper, layout: Layout) -> int:
    """Read on to the first row; the lines that were read."""
    return next(count for count, line in enumerate(text, start=1) if line.strip()) if layout.header else 0


def _read_so_far(text: io.TextIOWrapper) -> int:
    buffer: Any = text.buffer  # its stub lacks tell(), and a text has none while it is iterated over
    return int(buffer.tell())


def _csv_reader(lines: Any, layout: Layout) -> Any:
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
    file: Path, cells: list[tuple[str, ...]], layout: Layout, chosen: list[int], lines: np.ndarray, latlng: np.ndarray
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


def _next_numbers(
    file: Path, text: io.TextIOWrapper, first: int, layout: Layout, left_out: LeftOut
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
