"""Where a CSV of photographs has what: as known data sets have it, as its header tells, or as it is named. No torch."""

import csv
import difflib
import io
import re
from pathlib import Path
from typing import NamedTuple, NoReturn

from backbone.errors import InputError


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


class Layout(NamedTuple):
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


def find_columns(file: Path, columns: Columns | None, paths: bool) -> Layout:
    """Find the columns in the first line. Raises InputError where one is missing; `paths`: the pictures' as well."""
    with open_csv(file) as text:
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
    return Layout(
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


def group_name(file: Path, columns: Columns | None = None) -> str | None:
    """The column that a CSV is split by, for sentences; None where there is none. Raises InputError as read_rows()."""
    return find_columns(file, columns, paths=False).group_name or None


def has_places_alone(file: Path, columns: Columns | None = None) -> bool:
    """Whether a CSV has nothing by which its rows could be divided. Raises InputError as stream_coordinates()."""
    layout = find_columns(file, columns, paths=False)
    return layout.split < 0 and layout.path < 0 and layout.group < 0


def open_csv(file: Path, newline: str | None = None) -> io.TextIOWrapper:
    """Its text, whatever its bytes are. Raises InputError where it cannot be read."""
    try:
        return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; give the path of a CSV of path,latitude,longitude.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); make it readable.") from error


def _recognised(cells: list[str]) -> Columns:
    """The first preset whose columns are all there, or whose coordinates are; else the plainest, to complain about."""
    named = [columns for columns in PRESETS.values() if columns.header]
    full = [c for c in named if {c.path, c.latitude, c.longitude} <= {*cells}]
    positions = [c for c in named if {c.latitude, c.longitude} <= {*cells}]
    return (full or positions or named)[0]


def _positions(file: Path, columns: Columns, count: int, delimiter: str) -> Layout:
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
    return Layout(path, latitude, longitude, group, taken, -1, name, delimiter, None, header=False)


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
