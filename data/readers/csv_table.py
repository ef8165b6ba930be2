"""Lists of images, however people and programs write them: the one place that reads a CSV; what lists share. No torch.

Commas, semicolons, tabs or bars separate, or what a line `sep=;` says; a byte order mark is passed over, or is that of
UTF-16; a column's name counts in any case; a decimal comma is a point.
"""

import codecs
import csv
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import InputError
from backbone.web_pages import is_web_page
from data.folders import list_readable, progress, readable
from data.images import IMAGE_ENDINGS
from data.matching import Matched, match_files
from data.records import Records, issue_of, positions_in
from data.splits import hash_names, splits_named

# What people and programs call the column of the images' files, in any case; the first that is there.
PATH_NAMES = (
    *("path", "filename", "file_name", "img_file", "img_id", "file", "filepath", "file_path", "image", "image_path"),
    *("image_name", "image_id", "img", "img_path", "photo", "id"),
)

_CHUNK = 4_000  # rows read at a time: more lists at once would keep the garbage collector busy


@dataclass(frozen=True)
class CsvTable:
    """What the first line of a CSV says of it."""

    file: Path
    cells: tuple[str, ...]  # of the first line, without the spaces around: the columns' names, if it is a header
    delimiter: str
    header: bool = True
    skipped: int = 1  # lines that are not blank before the rows, if there is a header

    def column(self, *names: str) -> int:
        """The position of the first of these columns that is there, as written or else in any case; -1 for none."""
        lower = [cell.lower() for cell in self.cells]
        for name in names:
            if name in self.cells or name.lower() in lower:
                return self.cells.index(name) if name in self.cells else lower.index(name.lower())
        return -1

    def chunks(
        self, least: int | None = None, dropped: list[int] | None = None
    ) -> Iterator[tuple[np.ndarray, list[tuple[str, ...]]]]:
        """The rows that are not blank: (the line that each ends on, int64 (N,) from 1; their columns).

        Raises InputError for a row of fewer than `least` cells, or, without it, of another number than the header's;
        a list `dropped` is given the lines of such rows instead.
        """
        wanted, size = least or len(self.cells), self.file.stat().st_size
        quoting: Any = csv.QUOTE_MINIMAL if self.header else csv.QUOTE_NONE  # quotes are then in a title
        with (
            open_csv(self.file, newline="") as text,
            progress(desc=f"reading {self.file.name}", total=size, unit="B", unit_scale=True) as bar,
        ):
            full = (count for count, line in enumerate(text, start=1) if line.strip())
            before = max(itertools.islice(full, self.skipped)) if self.header else 0
            reader = csv.reader(text, delimiter=self.delimiter, quoting=quoting)
            numbered = ((before + reader.line_num, row) for row in reader if any(row))
            buffer: Any = text.buffer  # its stub lacks tell(), and a text has none while it is iterated over
            try:
                while chunk := list(itertools.islice(numbered, _CHUNK)):
                    if dropped is not None:
                        fits = [len(row) >= wanted and not any(row[len(self.cells) :]) for _, row in chunk]
                        dropped += [line for (line, _), fit in zip(chunk, fits, strict=True) if not fit]
                        if not (chunk := list(itertools.compress(chunk, fits))):
                            continue
                    for line, row in chunk:
                        if len(row) > len(self.cells) and self.header and any(row[len(self.cells) :]):
                            raise InputError(
                                f"{self.file}, line {line}: it has {len(row)} values, but the first line names "
                                f"{len(self.cells)}; put a value with a {self.delimiter!r} in it into quotes, or, of "
                                "decimal commas, separate the values by semicolons."
                            )
                        if len(row) < wanted or (least is None and len(row) > wanted):
                            raise InputError(
                                f"{self.file}, line {line}: it has {len(row)} values, but "
                                f"{wanted}{' or more' * (least is not None)} are needed; leave a cell empty where a "
                                "value is unknown, but keep its separator."
                            )
                    lines, rows = zip(*chunk, strict=True)
                    bar.update(buffer.tell() - bar.n)
                    yield np.array(lines), list(zip(*rows, strict=False))
            except csv.Error as error:
                line = before + reader.line_num
                raise InputError(f"{self.file}, line {line}: {error}; save it as a CSV in UTF-8 again.") from error


def read_header(file: Path, what: str, *, header: bool = True) -> CsvTable:
    """What the first line says; without a `header`, cells are separated by tabs.

    Raises InputError where it is empty (`what` it should be), a web page, or not text in UTF-8.
    """
    with open_csv(file) as text:
        start = text.read(1 << 16)
    lines = [line for line in start.splitlines() if line.strip()][:2]
    said = re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\r\n")) if lines and header else None  # Excel's own line
    first = "".join(lines[1:] if said else lines[:1])
    if not first:
        raise InputError(f"{file} is empty; give {what}.")
    if "\0" in first or any(0xDC80 <= ord(character) <= 0xDCFF for character in first):  # by surrogateescape
        raise InputError(f"{file} is not text in UTF-8; unpack it, or save it as a CSV in UTF-8.")
    delimiter = said[1] if said else max(",", "\t", ";", "|", key=first.count) if header else "\t"
    cells = next(csv.reader([first], delimiter=delimiter)) if header else first.split("\t")
    return CsvTable(file, tuple(cell.strip() for cell in cells), delimiter, header, 2 if said else 1)


def open_csv(file: Path, newline: str | None = None) -> io.TextIOWrapper:
    """Its text in UTF-8, or in UTF-16 as its mark says; other bytes, as in the paths of some disks, by surrogateescape.

    Raises InputError where it cannot be read, or is a web page.
    """
    try:
        buffer: Any = file.open("rb")  # its stub lacks peek()
        start = buffer.peek(512)
        wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
        encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
        text = io.TextIOWrapper(buffer, encoding, errors, newline)
        web_page = is_web_page(start)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; give the path of a CSV.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); make it readable.") from error
    if web_page:
        text.close()
        raise InputError(
            f"{file} is a web page, not a list (Google Drive sends one where its quota is used up); fetch it again."
        )
    return text


_DEGREES = re.compile(r"([-+]?\d{1,3})(?:[.,](\d*))?\s*°?\s*([NSEW]?)", re.IGNORECASE)


def degrees_of(cell: str, letters: str) -> float | None:
    """The number of a cell such as 48,8583 or 48.8583°N with one of the two `letters`, "NS"; None of another cell."""
    try:
        return float(cell)
    except ValueError:
        found = _DEGREES.fullmatch(cell)
    if not found or (found[3] and (found[3].upper() not in letters or found[1][0] in "-+")):
        return None
    number = float(f"{found[1]}.{found[2] or 0}")
    return -number if found[3] and found[3].upper() == letters[1] else number


def packed(cells: Iterable[str]) -> np.ndarray:
    """UTF-8 bytes (N,) of cells, without the spaces around."""
    return np.array([cell.encode(errors="surrogateescape").strip() for cell in cells], np.bytes_)


def relative_paths(file: Path, paths: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """`paths`, bytes (N,), from the CSV's folder: the same of `./a.jpg`, `a.jpg` and its path in full.

    Raises InputError, with its line, for an empty one.
    """
    if (paths == b"").any():
        line = lines[np.argmin(paths != b"")]
        raise InputError(f"{file}, line {line}: the path is empty; write it, or remove the line.")
    start = os.fsencode(file.parent)

    def written(path: bytes) -> bytes:
        if path.startswith(b"/"):
            return os.path.relpath(path, start)
        return os.path.normpath(path) if b"./" in path or b"//" in path else path

    return np.array([written(path) for path in paths.tolist()], np.bytes_)


def split_numbers(file: Path, cells: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """The positions in SPLITS, int8 (N,), that the `cells` of a column name, bytes (N,). Raises InputError."""
    numbers = splits_named(cells)
    if (numbers < 0).any():
        row = int(np.argmin(numbers))
        text = cells[row].decode(errors="replace")
        raise InputError(f"{file}, line {lines[row]}: the split is {text!r}; it must be train, val or test.")
    return numbers


def refuse_repeated(source: str | Path, names: np.ndarray) -> None:
    """Raises InputError where one of `names`, bytes (N,), is there twice."""
    order = np.argsort(hash_names(names, 0), kind="stable")  # several times faster than sorting the names
    again = np.flatnonzero(names[order][1:] == names[order][:-1])
    if len(again):
        first = os.fsdecode(names[order[again].min()])
        raise InputError(f"{source} lists {first} more than once ({len(again):,} such rows); keep one of its rows.")


def without_repeats(records: Records, source: str | Path) -> Records:
    """Each image once, and an issue that counts rows that say the same again. Raises InputError where they differ."""
    # by their hashes, several times faster than by the names
    hashes, first, of = np.unique(hash_names(records.file_names, 0), return_index=True, return_inverse=True)
    if len(hashes) == len(records):
        return records
    same = [np.asarray(rows == rows[first[of]]) for rows in records.columns.values()]
    equal = np.all([rows.reshape(len(records), -1).all(axis=1) for rows in same], axis=0)
    if not equal.all():
        refuse_repeated(source, records.file_names[np.isin(of, of[~equal])])
    again = np.flatnonzero(first[of] != np.arange(len(records)))
    issues = issue_of("rows repeat an earlier one, left out", again, lambda i: os.fsdecode(records.file_names[i]))
    return replace(records.take(np.sort(first)), issues=(*records.issues, *issues))


def identity_columns(identities: np.ndarray, names: np.ndarray) -> dict[str, np.ndarray]:
    """`identities`, int64 (N,), -1 unknown, and `group`: the person, or the image where nobody is known to be on it."""
    people = np.char.add(b"person ", identities.astype(np.bytes_))
    return {"identities": identities, "group": np.where(identities >= 0, people, names)}


def without_missing(records: Records, source: str | Path, matched: Matched | None = None) -> Records:
    """The images whose file is there, by match_files() or as `matched`, and an issue that counts the others.

    Raises InputError where none is there, or where two rows are of one file.
    """
    matched = matched or match_files(records.folder, records.file_names, source)
    there = matched.there
    if matched.note:
        records = replace(records, file_names=matched.names, notes=(*records.notes, matched.note))
        refuse_repeated(source, matched.names[there])
    usable, unreadable = readable(records.file_names, there, source)
    records, there = replace(records.take(usable), issues=(*records.issues, *unreadable)), there[usable]
    if there.all():
        return records
    if not there.any():
        raise InputError(
            f"{source}: none of its {len(there):,} images is there, the first being {records.folder}/{matched.nearest}"
            "; paths must be relative to the CSV's folder."
        )
    what = f"listed image{'' if (~there).sum() == 1 else 's'} not there, left out"
    issues = issue_of(what, ~there, lambda i: os.fsdecode(records.file_names[i]))
    issues = [replace(issue, first=matched.nearest) for issue in issues]
    return replace(records.take(there), issues=(*records.issues, *issues))


def located(records: Records, source: str | Path) -> Records:
    """The images whose file is there, as without_missing(); where none is, by their names without folder and ending."""
    matched = match_files(records.folder, records.file_names, source)
    if not matched.there.any():
        return without_missing(_found_by_stem(records, source), source)
    return without_missing(records, source, matched)


def _found_by_stem(records: Records, source: str | Path) -> Records:
    """With the paths of those files whose names, without folders and endings, are the listed ones'.

    The lists of OSV-5M, YFCC100M and MP-16 have ids, and where their files are differs. Raises InputError for an id
    of two files.
    """
    try:
        files, _ = list_readable(records.folder)
    except InputError:  # not one image
        return records
    listed, wanted = _stems(files), _stems(records.file_names)
    found, counts = np.unique(listed, return_counts=True)
    of_two = np.isin(wanted, found[counts > 1])
    if of_two.any():
        row = int(np.argmax(of_two))
        one, other = map(os.fsdecode, files[listed == wanted[row]][:2])
        raise InputError(
            f"{source}: {os.fsdecode(records.file_names[row])} may be {one} or {other} in {records.folder}; write "
            "their paths in the list, or take one away."
        )
    at = positions_in(listed, wanted)
    return replace(records, file_names=np.where(at >= 0, files[at], records.file_names))


def _stems(paths: np.ndarray) -> np.ndarray:
    """The last parts of paths, bytes (N,), without an image's ending."""
    endings = tuple(ending.encode() for ending in IMAGE_ENDINGS)
    last = [path.rpartition(b"/")[2] for path in paths.tolist()]
    return np.array([n.rpartition(b".")[0] if n.lower().endswith(endings) else n for n in last], np.bytes_)
