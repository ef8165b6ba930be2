"""Images with attributes in a CSV: `path,Smiling,Eyeglasses,...`, with a split and a person where they are known."""

import functools
import os
from collections import Counter
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.readers.csv_table import (
    PATH_NAMES,
    identity_columns,
    packed,
    read_header,
    relative_paths,
    split_numbers,
    without_missing,
    without_repeats,
)
from data.records import Records

CSV_NAME = "attributes.csv"
UNKNOWN = -1  # a target that nobody gave: neither loss nor metrics look at it

# As people and pandas write them; its integers turn into 1.0 and 0.0 where a column has an empty cell.
_VALUES = {
    **dict.fromkeys(("1", "1.0", "1,0", "true", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "0,0", "false", "no"), 0),
    "": UNKNOWN,
}
_NOT_A_VALUE = -2


@functools.cache  # of the few ways to write a value
def _value(cell: str) -> int:
    return _VALUES.get(cell.strip().lower(), _NOT_A_VALUE)


def read(root: Path) -> Records:
    """The images of a CSV, or of the `attributes.csv` in a folder, whose first line names its columns.

    `path` (or another of PATH_NAMES) is relative to the CSV; `split` and `identity` (any text) may be left out; every
    other column is an attribute: 1, true or yes, 0, false or no, empty where it is unknown. -1 is refused, as in such
    files it means now "has not" and now "unknown". Images that are not there are left out and counted. Raises
    InputError for what does not fit.
    """
    file = root / CSV_NAME if root.is_dir() else root
    table = read_header(file, "a CSV of path,Smiling,Eyeglasses,...")
    if odd := [name for name, count in Counter(table.cells).items() if not name or count > 1]:
        problem = f"has the column {odd[0]!r} more than once" if odd[0] else "has a column without a name"
        raise InputError(f"{file} {problem}; every column must have a name of its own.")
    path, split, identity = (table.column(*names) for names in (PATH_NAMES, ("split",), ("identity",)))
    attributes = [k for k in range(len(table.cells)) if k not in (path, split, identity)]
    shown = ", ".join(map(repr, table.cells[:5]))
    for lacking, what in ((path < 0, "column `path`"), (not attributes, "attribute column")):
        if lacking:
            raise InputError(f"{file} has no {what}, but {shown}; its first line must be as path,Smiling,Eyeglasses.")
    names, splits, people, targets = [], [], [], []
    for lines, columns in table.chunks():
        names.append(relative_paths(file, packed(columns[path]), lines))
        if split >= 0:
            splits.append(split_numbers(file, packed(columns[split]), lines))
        if identity >= 0:
            people.append(packed(columns[identity]))
        block = np.array([list(map(_value, columns[k])) for k in attributes], np.int8).T  # (N, K)
        if (block == _NOT_A_VALUE).any():
            row, k = np.argwhere(block == _NOT_A_VALUE)[0]
            cell = columns[attributes[k]][row].strip()
            hint = "; -1 is CelebA's, for its own lists alone" if cell == "-1" else ""
            raise InputError(
                f"{file}, line {lines[row]}: {table.cells[attributes[k]]} is {cell!r}; it must be 1 or true, 0 or "
                f"false, or empty where it is unknown{hint}."
            )
        targets.append(block)
    if not names:
        raise InputError(f"{file} has no images; each line after the first is an image.")
    file_names = np.concatenate(names)
    found = {"attributes": np.concatenate(targets)}
    if splits:
        found["split"] = np.concatenate(splits)
    if people:
        texts = np.concatenate(people)
        identities = np.where(texts == b"", -1, np.unique(texts, return_inverse=True)[1])
        found |= identity_columns(identities, file_names)
    records = Records(
        Path(os.path.normpath(file.parent)),
        file_names,
        found,
        classes=tuple(table.cells[k] for k in attributes),
        grouped_by="person" if people else "image",
    )
    return without_missing(without_repeats(records, file), file)
