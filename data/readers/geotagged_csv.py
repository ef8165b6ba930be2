"""Images with the places where they were taken, from CSV lists such as OSV-5M's, MP-16's or your own. No torch."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.coordinates import IssueCounts
from data.readers.coordinates_csv import Columns, lists_places, read_rows
from data.readers.csv_table import located, without_repeats
from data.records import SPLITS, Issue, Records
from data.splits import hash_names, split_named

CSV_NAME = "images.csv"


def csv_files(root: Path) -> dict[Path, int]:
    """The CSVs of a data set, and the position in SPLITS of each, -1 where rows say it; empty where there is none.

    Either `root` itself, the `images.csv` in it, `train.csv` with `val.csv` and `test.csv`, as split_named() knows
    them, or the only one there with the columns of such a list. Raises InputError.
    """
    for file in (root, root / CSV_NAME):
        if file.is_file():
            return {file: -1}
    named: dict[int, Path] = {}
    files = sorted(file for file in root.glob("*.[cCtT][sS][vV]") if file.name[0] != ".")
    for file in files:
        split = split_named(file.stem) if file.is_file() else None
        if split and (other := named.setdefault(SPLITS.index(split), file)) != file:
            raise InputError(f"{root} has both {other.name} and {file.name}; take one away, or join them.")
    lists = [] if named else [file for file in files if lists_places(file)]
    if len(lists) == 1:
        return {lists[0]: -1}
    return {named[number]: number for number in sorted(named)}


def read(root: Path, columns: Columns = Columns()) -> Records:  # noqa: B008  # it is immutable
    """The images of csv_files() that are there, with columns `latlng`, `group` and `split`.

    A group is a photographer, sequence or place where a column says it, else a day, else the image. Raises InputError.
    """
    files = csv_files(root)
    parts, lines, kinds = [], [], list[str]()
    issues: list[Issue] = []
    for file, number in files.items():
        counts = IssueCounts("row")
        for rows in read_rows(file, columns, counts):
            group, kind = rows.group(counts)
            kinds.append(kind)
            split = rows.split() if number < 0 else np.full(len(rows.lines), number, np.int8)
            parts.append((rows.paths, rows.latlng, group, split))
            lines.append((file.name, rows.lines))
        issues += [replace(issue, first=f"{file.name}, {issue.first}") for issue in counts.issues]
    names, latlng, groups, splits = map(np.concatenate, zip(*parts, strict=True))
    source = next(iter(files)) if len(files) == 1 else root
    records = Records(
        root if root.is_dir() else root.parent,
        names,
        {"latlng": latlng, "group": groups, "split": splits},
        issues=tuple(issues),
        grouped_by=max(kinds, key=lambda kind: (kind not in ("day", "image"), kind == "day")),
    )
    _refuse_other_places(records, lines, source)
    records = without_repeats(records, source)
    return located(records, source)


def _refuse_other_places(records: Records, lines: list[tuple[str, np.ndarray]], source: Path) -> None:
    """Raise InputError, with the lines, where an image is listed for two places."""
    hashes = hash_names(records.file_names, 0)
    _, first, of = np.unique(hashes, return_index=True, return_inverse=True)
    other = (records["latlng"] != records["latlng"][first[of]]).any(axis=1)
    if other.any():
        row = int(np.argmax(other))
        name = os.fsdecode(records.file_names[row])
        places = [f"{file}, line {line}" for file, of_file in lines for line in of_file.tolist()]
        raise InputError(
            f"{source} lists {name} for two places ({places[first[of[row]]]}, and {places[row]}); keep one of its rows."
        )
