"""Labelled images in a CSV: `path,label`, with a split where it is known, as people and Kaggle write it. No torch."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbone.errors import InputError
from data.readers.csv_table import (
    PATH_NAMES,
    CsvTable,
    located,
    packed,
    read_header,
    relative_paths,
    split_numbers,
    without_repeats,
)
from data.records import SPLITS, UNSPLIT, Issue, Records, issue_of
from data.splits import split_named

# What people call the column of the classes, in any case; the first that is there.
LABEL_NAMES = (
    *("label", "class", "category", "breed", "species", "class_name", "label_name", "category_name", "classname"),
    *("labels", "target", "class_id", "label_id", "category_id"),
)
_SPLIT_NAMES = ("split", "set", "subset")
_WHAT = "a CSV of path,label"


class _List(NamedTuple):
    """A CSV with a column of paths and one of labels, and the split that its name says."""

    table: CsvTable
    path: int
    label: int
    split: int


def lists(root: Path) -> list[Path]:
    """The CSVs right in a folder that list images with labels, sorted by name; of a file itself."""
    return [one.table.file for one in _lists(root)]


def read(root: Path) -> Records:
    """The images of a CSV, or of those in a folder, that are there, with `labels` and `split`.

    The columns are one of PATH_NAMES, from the CSV's folder and if need be without an ending, one of LABEL_NAMES and,
    if known, `split`; a CSV whose name has train, val or test in it is of that split. Labels count the sorted names, or
    the numbers by their value. Rows without a label are counted and left out. Raises InputError for what does not fit,
    and where several CSVs may be meant.
    """
    found = _lists(root)
    if not found:
        raise InputError(f"{root} has no column for the paths, or none for the labels; write path,label on top of it.")
    if len(found) > 1:
        named = [one for one in found if one.split != UNSPLIT]
        taken = [one.split for one in named]
        if len(set(taken)) < len(taken) or not named:
            files = ", ".join(one.table.file.name for one in found[:4])
            raise InputError(f"{root} has several lists of labels ({files}); give the one meant as --data.")
        found = named
    names, labels, splits, issues = [], [], [], list[Issue]()
    for one in found:
        file, empty = one.table.file, list[int]()
        column = one.table.column(*_SPLIT_NAMES)
        for lines, columns in one.table.chunks():
            words = packed(columns[one.label])
            has = words != b""
            empty += lines[~has].tolist()
            names.append(relative_paths(file, packed(columns[one.path]), lines)[has])
            labels.append(words[has])
            of = split_numbers(file, packed(columns[column]), lines) if column >= 0 else one.split
            splits.append(np.full(len(lines), of, np.int8)[has])
        issues += issue_of("rows have no label, left out", np.arange(len(empty)), _place(file, empty))
    if not sum(map(len, names)):
        raise InputError(f"{found[0].table.file} has no images with labels; each line after the first is an image.")
    source = found[0].table.file if len(found) == 1 else root
    classes, which = classes_of(np.concatenate(labels))
    records = Records(
        Path(os.path.normpath(found[0].table.file.parent)),
        np.concatenate(names),
        {"labels": which, "split": np.concatenate(splits)},
        classes=classes,
        issues=tuple(issues),
    )
    records = located(without_repeats(records, source), source)
    there = np.unique(records["labels"])  # a class of which not one image is there is none of these data
    kept = tuple(classes[label] for label in there.tolist())
    return replace(records.with_columns(labels=np.searchsorted(there, records["labels"])), classes=kept)


def _lists(root: Path) -> list[_List]:
    if root.is_file():
        one = _as_list(root)
        return [one] if one else []
    found = []
    for file in sorted(root.glob("*.[cCtT][sS][vV]")):
        if file.is_file() and not file.name.startswith("."):
            with suppress(InputError):  # what is no list of labels need not be a list of anything
                found += [one] if (one := _as_list(file)) else []
    return found


def _as_list(file: Path) -> _List | None:
    table = read_header(file, _WHAT)
    label = table.column(*LABEL_NAMES)
    path = table.column(*PATH_NAMES, "imageid")
    named = [split for word in re.findall("[A-Za-z]+", file.stem) if (split := split_named(word))]
    return _List(table, path, label, SPLITS.index(named[0]) if named else UNSPLIT) if min(path, label) >= 0 else None


def _place(file: Path, lines: list[int]) -> Callable[[int], str]:
    return lambda row: f"{file.name}, line {lines[row]}"


def classes_of(words: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes in order, and the label of each word, int64 (N,)."""
    found, which = np.unique(words, return_inverse=True)
    names = [word.decode(errors="replace") for word in found.tolist()]
    if all(re.fullmatch(r"-?\d{1,18}", name, re.ASCII) for name in names):
        order = np.argsort([int(name) for name in names], kind="stable")
        return tuple(names[i] for i in order), np.argsort(order)[which].astype(np.int64)
    return tuple(names), which.astype(np.int64)
