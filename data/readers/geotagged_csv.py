"""Images with the places where they were taken, from CSV lists such as OSV-5M's, MP-16's or your own. No torch."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.coordinates import IssueCounts
from data.folders import list_images
from data.images import IMAGE_ENDINGS
from data.matching import match_files
from data.readers.coordinates_csv import Columns, read_rows
from data.readers.csv_table import refuse_repeated, without_missing
from data.records import SPLITS, Issue, Records, positions_in
from data.splits import split_named

CSV_NAME = "images.csv"


def csv_files(root: Path) -> dict[Path, int]:
    """The CSVs of a data set, and the position in SPLITS of each, -1 where rows say it; empty where there is none.

    Either `root` itself, the `images.csv` in it, or `train.csv` with `val.csv` and `test.csv`, as split_named() knows
    them. Raises InputError.
    """
    for file in (root, root / CSV_NAME):
        if file.is_file():
            return {file: -1}
    named: dict[int, Path] = {}
    for file in sorted(root.glob("*.[cCtT][sS][vV]")):
        split = split_named(file.stem) if file.is_file() else None
        if split and (other := named.setdefault(SPLITS.index(split), file)) != file:
            raise InputError(f"{root} has both {other.name} and {file.name}; take one away, or join them.")
    return {named[number]: number for number in sorted(named)}


def read(root: Path, columns: Columns = Columns()) -> Records:  # noqa: B008  # it is immutable
    """The images of csv_files() that are there, with columns `latlng`, `group` and `split`.

    A group is a photographer, sequence or place where a column says it, else a day, else the image. Raises InputError.
    """
    files = csv_files(root)
    parts, kinds = [], list[str]()
    issues: list[Issue] = []
    for file, number in files.items():
        counts = IssueCounts("row")
        for rows in read_rows(file, columns, counts):
            group, kind = rows.group(counts)
            kinds.append(kind)
            split = rows.split() if number < 0 else np.full(len(rows.lines), number, np.int8)
            parts.append((rows.paths, rows.latlng, group, split))
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
    refuse_repeated(source, records.file_names)
    matched = match_files(records.folder, records.file_names, source)
    if not matched.there.any():
        return without_missing(_found_by_name(records, source), source)
    return without_missing(records, source, matched)


def _found_by_name(records: Records, source: Path) -> Records:
    """With the paths of those files whose names, without folders and endings, are the listed ones'.

    The lists of OSV-5M, YFCC100M and MP-16 have ids, and where their files are differs. Raises InputError for an id
    of two files.
    """
    try:
        files = list_images(records.folder)
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
