"""CelebA: 202,599 aligned faces of 10,177 people with 40 attributes, as it is distributed. No torch.

Liu et al., 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html. It is never fetched from here: its terms are to be
agreed to, and Google Drive, where it lies, answers with a web page whenever its quota is used up.
Its boxes (list_bbox_celeba.txt) are of the images before alignment, and of no use for these.
"""

import os
import re
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.folders import list_folder
from data.matching import match_files
from data.readers.csv_table import identity_columns, open_csv, read_header, refuse_repeated
from data.records import Records, issue_of, positions_in

LICENCE = (
    "CelebA is for non-commercial research only: its terms forbid any commercial use of the images and of what is "
    "derived from them, and so of a model trained on them."
)

_ATTRIBUTES, _PARTITION, _IDENTITIES = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
_IMAGES = "img_align_celeba"
# All in one folder, or in three, as they are distributed; right there, or as torchvision's `celeba/`.
_PLACES = tuple(Path(above, place) for above in ("", "celeba", "CelebA") for place in ("", "Anno", "Eval", "Img"))


def is_celeba(root: Path) -> bool:
    """Whether `root` is laid out as CelebA, complete or not; read() then says what is missing."""
    return any(_find(root, name) for name in (_ATTRIBUTES, _IMAGES))


def read(root: Path) -> Records:
    """The data set in `root`, or a part of it: `img_align_celeba/`, `list_attr_celeba.txt`, `list_eval_partition.txt`.

    The lists may be Kaggle's, .csv, and the images in a folder of `img_align_celeba/`, as they unpack there. Columns
    `attributes` (-1 of the list is 0), `split` where there is a partition, and of `identity_CelebA.txt` `identities`
    and `group`. Rows without an image are left out and counted. Raises InputError where the lists do not fit together,
    or are web pages.
    """
    path, images = _find(root, _ATTRIBUTES), _find(root, _IMAGES)
    if path is None:
        raise InputError(f"{root} has no {_ATTRIBUTES} (nor .csv); put it there, as CelebA is distributed.")
    if images is None:
        raise InputError(f"{root} has no {_IMAGES}/; unpack {_IMAGES}.zip there.")
    classes, names, values = _read_attributes(path)
    listing = list_folder(images)
    most = max(listing.images, key=lambda folder: len(listing.images[folder]))
    images, there = images / most, np.array(listing.images[most], np.bytes_)
    matched = match_files(images, names, path, there)
    present = matched.there
    if not present.any():
        raise InputError(
            f"{images} holds none of the {len(names):,} images of {path}, such as {matched.nearest}; unpack "
            f"{_IMAGES}.zip, so that they lie right in it."
        )
    issues = [
        replace(issue, first=matched.nearest)
        for issue in issue_of(f"images of {path.name} are not there and left out", ~present, partial(_name, names))
    ]
    unlisted = ~np.isin(there, matched.names)
    issues += issue_of(f"files in {images} are not in {path.name} and left out", unlisted, partial(_name, there))
    columns = {"attributes": (values == 1).astype(np.int8)}
    if (partition := _find(root, _PARTITION)) is not None:
        columns["split"] = _partition(partition, names)
    if (list_of_people := _find(root, _IDENTITIES)) is not None:
        columns |= identity_columns(_column(list_of_people, names), names)
        what, unknown = f"images are not in {list_of_people.name}: who is on them is unknown", columns["identities"] < 0
        issues += issue_of(what, unknown, partial(_name, names))
    records = Records(
        images,
        matched.names,
        columns,
        classes=classes,
        issues=tuple(issues),
        notes=(LICENCE, *([matched.note] if matched.note else [])),
        grouped_by="person" if "group" in columns else "image",
    )
    return records.take(present)


def without_terms(records: Records) -> Records:
    """The built-in sample, which is drawn in CelebA's layout, but of nobody: its terms do not bind."""
    return replace(records, notes=tuple(note for note in records.notes if note != LICENCE))


def _find(root: Path, name: str) -> Path | None:
    """Where a list, or Kaggle's .csv of it, or the folder of the images is."""
    names = (name, f"{Path(name).stem}.csv") if name.endswith(".txt") else (name,)
    paths = (root / place / name for place in _PLACES for name in names)
    return next((path for path in paths if path.exists()), None)


def _name(names: np.ndarray, row: int) -> str:
    return os.fsdecode(names[row])


def _first(names: np.ndarray, which: np.ndarray) -> str:
    return os.fsdecode(names[np.argmax(which)]) if which.any() else ""


def _read_attributes(path: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The K names of the attributes, the files' names, bytes (N,), and their values 1 or -1, int8 (N, K)."""
    if is_csv := path.suffix == ".csv":
        count, header = "", list(read_header(path, f"CelebA's {path.name}").cells[1:])
    else:
        with open_csv(path) as text:
            count, header = text.readline().strip(), text.readline().split()
    line = 1 if is_csv else 2
    if not is_csv and not count.isdigit():
        raise InputError(f"{path}: line 1 is {count[:40]!r}, not the number of images; fetch it again.")
    if not header:
        raise InputError(f"{path}: line {line} names no attribute; fetch it again.")
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise InputError(f"{path}: line {line} names {twice[0]} more than once; fetch it again.")
    names, values = _table(path, len(header), first_line=line + 1)
    if not is_csv and len(names) != int(count):
        raise InputError(f"{path} has {len(names):,} rows, but line 1 says {int(count):,}; fetch it again.")
    if (odd := np.abs(values) != 1).any():
        row, k = np.argwhere(odd)[0]
        raise InputError(
            f"{path}: {header[k]} of {os.fsdecode(names[row])} is {values[row, k]}; it must be 1 or -1 ({odd.sum():,} "
            "such values): fetch it again."
        )
    return tuple(header), names, values


def _partition(path: Path, names: np.ndarray) -> np.ndarray:
    """The position in SPLITS of each of `names`, int8 (N,); every one must be there."""
    parts = _column(path, names)
    if (parts < 0).any():
        raise InputError(
            f"{path} has no row for {_first(names, parts < 0)} ({(parts < 0).sum():,} of the {len(names):,} images of "
            f"{_ATTRIBUTES}); fetch it again, or take it away, and a partition is drawn."
        )
    if (parts > 2).any():
        row = int(np.argmax(parts))
        raise InputError(
            f"{path}: the part of {os.fsdecode(names[row])} is {parts[row]}; it must be 0 (train), 1 (val) or 2 (test)."
        )
    return parts.astype(np.int8)


def _column(path: Path, names: np.ndarray) -> np.ndarray:
    """The number that a list of two columns gives each of `names`, int64 (N,); -1 for none."""
    listed, values = _table(path, 1, first_line=2 if path.suffix == ".csv" else 1)
    at = positions_in(listed, names)
    return np.where(at >= 0, values[at, 0].astype(np.int64), -1)


def _table(path: Path, columns: int, first_line: int) -> tuple[np.ndarray, np.ndarray]:
    """The names, bytes (N,), and the whole numbers after each, int32 (N, columns), of the rows from `first_line` on."""
    delimiter = read_header(path, f"CelebA's {path.name}").delimiter if path.suffix == ".csv" else None
    dtype: list = [("name", object), ("values", np.int32, (columns,))]
    try:
        with open_csv(path) as text, warnings.catch_warnings(action="ignore"):  # of a list without rows
            table = np.loadtxt(
                text, dtype, comments=None, skiprows=first_line - 1, ndmin=1, delimiter=delimiter, quotechar='"'
            )
    except ValueError as error:
        # counted from 0 where a column is named, else from 1
        place = re.search(r" at row (\d+)(, column)?", str(error))
        line = f", line {first_line + int(place[1]) - (not place[2])}" if place else ""
        raise InputError(
            f"{path}{line}: it must be a name and {columns} whole numbers ({error}); fetch it again."
        ) from error
    if not len(table):
        raise InputError(f"{path} has no rows; fetch it again.")
    names = np.array([name.encode(errors="surrogateescape") for name in table["name"].tolist()], np.bytes_)
    refuse_repeated(path, names)
    return names, table["values"]
