"""Boxes from CSV lists: a row for each box, with its image, corners and class, in any order of the columns.

Known are RetinaNet's (path,x1,y1,x2,y2,class without a header; empty boxes for images without objects), TensorFlow's
(filename,width,height,class,xmin,ymin,xmax,ymax; Roboflow), OpenImages' (ImageID, LabelName, XMin ... as parts of the
image; IsGroupOf for regions that are not searched), VGG Image Annotator's (a shape as JSON), Makesense's
(class,x,y,width,height,image,width,height without a header), and Kaggle's, with x, y, width, height in columns or as
"[x, y, width, height]" in one. Corners are edges that count from 0. Without a column for it, all boxes are of one
class, `object`.
"""

import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.folders import Listing, existing_folder, list_folder
from data.images import IMAGE_ENDINGS
from data.matching import Matched, match_files
from data.readers.box_checks import clip_boxes, told_if_few_usable, with_plain_boxes
from data.readers.boxes import (
    LOST,
    MISSING,
    Odd,
    note_odd,
    pack,
    repeated_boxes,
    sizes_from_headers,
    split_of_folder,
)
from data.readers.csv_table import CsvTable, packed, read_header
from data.records import SPLITS, UNSPLIT, Records
from data.splits import split_named, splits_named

# fmt: off
_NAMES: dict[str, tuple[str, ...]] = {  # what a header calls a column, in any case; the first that is there
    "image": (
        "image", "filename", "file_name", "#filename", "image_path", "img_path", "path", "file", "image_name", "img",
        "imageid", "image_id",
    ),
    "class": ("class", "labelname", "label_name", "label", "class_name", "classname", "category", "name", "class_id"),
    "xmin": ("xmin", "x_min", "x1", "left", "bbox_xmin"),
    "ymin": ("ymin", "y_min", "y1", "top", "bbox_ymin"),
    "xmax": ("xmax", "x_max", "x2", "right", "bbox_xmax"),
    "ymax": ("ymax", "y_max", "y2", "bottom", "bbox_ymax"),
    "x": ("x", "x_1", "bbox_x", "box_x"),
    "y": ("y", "y_1", "bbox_y", "box_y"),
    "box_width": ("w", "bbox_width", "box_width", "bbox_w", "box_w"),
    "box_height": ("h", "bbox_height", "box_height", "bbox_h", "box_h"),
    "box": ("bbox", "box", "bounding_box"),
    "shape": ("region_shape_attributes",),
    "attributes": ("region_attributes",),
    "crowd": ("isgroupof", "iscrowd", "difficult"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "split": ("split", "set", "subset"),
}
# fmt: on
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MAKESENSE = ("class", *_CORNERS, "image", "width", "height")
_ONLY_CLASS = "object"
_UNUSABLE = "rows without a usable box"
_ROUNDING = 1e-3
_LARGEST = 5_000_000  # bytes of a list of classes; what is larger is a list of something else
_NUMBER = re.compile(r"\s*-?\d+(\.\d*)?\s*")


class _List(NamedTuple):
    """A CSV that has boxes: its columns' positions, -1 for none, and the split that its name says."""

    table: CsvTable
    at: dict[str, int]
    split: int
    sizes: bool = False  # the columns of xmax and ymax, or the last two numbers of `box`, are width and height


class _Rows(NamedTuple):
    """Rows of all lists; a box of NaN is none, as its row only names an image, and one of infinity cannot be used."""

    images: np.ndarray  # bytes (M,)
    classes: np.ndarray  # bytes (M,)
    corners: np.ndarray  # float64 (M, 4)
    crowd: np.ndarray  # bool (M,)
    sizes: np.ndarray  # float64 (M, 2) height, width; NaN unknown
    split: np.ndarray  # int8 (M,)


def is_there(root: Path, listing: Listing) -> bool:
    """Whether a CSV in `root` has columns of boxes."""
    return bool(_lists(root, listing))


def read(root: Path, listing: Listing | None = None) -> Records:
    """All images that the lists name, with columns `split` (UNSPLIT where nothing says it), `sizes` and `problem`.

    `root` is a folder with lists, or one list itself.
    Labels are in the order of a list of classes (name,0 ...), else of the sorted names. Rows that cannot be used are
    counted with file and line; an image of which none can be used has a problem. Sizes are the list's, or else the
    image's own. Raises InputError where several lists may be meant, none has a box, or none of the images is there.
    """
    file = root if root.is_file() else None
    root = root.parent if file else existing_folder(root)
    listing, odd, notes = listing or list_folder(root), Odd(), list[str]()
    lists = [one for one in _lists(root, listing) if file is None or one.table.file == file]
    if file and not lists:
        raise InputError(f"{lacking(root, [file])}; give another list, or the folder of the data set.")
    if not lists:
        raise InputError(f"{root} has no CSV with columns for image, xmin, ymin, xmax, ymax and class; put it there.")
    files, parts, nearest = listing.names(sorted(listing.images)), [], ""
    meant = _meant(root, lists, notes)
    for one in meant:
        if one.at["class"] < 0 and one.at["shape"] < 0:
            notes.append(f"{one.table.file} has no column for the class: all boxes are of one, `{_ONLY_CLASS}`")
        rows = _chosen(one, odd)
        written, which = np.unique(rows.images, return_inverse=True)
        matched = _located(root, one, files, written)
        notes += [matched.note] * bool(matched.note)
        nearest = nearest or matched.nearest
        parts.append(rows._replace(images=matched.names[which]))
    rows = _Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    if not np.isfinite(rows.corners).all(axis=1).any():
        raise InputError(f"{lists[0].table.file}: not one of its {len(rows.images):,} rows has a box that can be used.")
    names, image = np.unique(rows.images, return_inverse=True)
    there = np.isin(names, files)
    if not there.any():
        raise InputError(
            f"{lists[0].table.file}: none of its {len(names):,} images is there (the first is {nearest}); "
            f"put them in {root}."
        )
    split = np.full(len(names), UNSPLIT, np.int8)
    for number in reversed(range(len(SPLITS))):  # an image of two lists is trained on
        split[image[rows.split == number]] = number
    other = (rows.split != UNSPLIT) & (rows.split != split[image])
    for name in names[np.unique(image[other])].tolist():
        note_odd(odd, "images are listed for another split too, and are left in one with its boxes", _printable(name))
    if unlisted := files[~np.isin(files, names)].tolist():
        odd["images that the list does not name, left out"] = [_printable(name) for name in unlisted]
    box = np.isfinite(rows.corners).all(axis=1) & ~other
    lost = np.isin(range(len(names)), image[np.isinf(rows.corners[:, 0])]) & ~np.isin(range(len(names)), image[box])
    sizes, problem = _sizes(root, names, np.where(there, np.where(lost, LOST, b""), MISSING), image, rows)
    corners, image, crowd, classes = rows.corners[box], image[box], rows.crowd[box], rows.classes[box]
    if corners.max() <= 1 + _ROUNDING and corners.min() >= -_ROUNDING:
        notes.append(f"{root}: corners are taken as parts of the image, as none is above 1")
        corners = (corners * np.tile(sizes[image][:, ::-1], 2)).round(3)  # of six digits: .99999 is a pixel
    if not any(one.sizes for one in meant):
        corners, swapped = _in_order(corners, sizes[image], meant[0].table.file)
        for row in np.flatnonzero(swapped).tolist():
            note_odd(odd, "boxes whose corners were swapped, put in order", _printable(names[image[row]]))
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    labels, known = _labels(root, listing, classes)
    again = repeated_boxes(image, labels, xywh)
    for row in np.flatnonzero(again).tolist():
        note_odd(odd, "boxes that repeat another, left out", _printable(names[image[row]]))
    image, labels, xywh, crowd = (column[~again] for column in (image, labels, xywh, crowd))
    columns = {"split": split, "sizes": sizes, "problem": problem}
    records = pack(root, names, columns, (image, labels, xywh, crowd), known, odd, notes, nearest=nearest)
    records = with_plain_boxes(records, str(meant[0].table.file)) if all(one.sizes for one in meant) else records
    if not clip_boxes(records).usable.any():
        raise InputError(
            f"{meant[0].table.file}: not one of its {len(box):,} rows has a box within its image; give the corners in "
            "px, or as parts of the image, from 0 to 1."
        )
    unread = sum(len(where) for what, where in odd.items() if what.startswith(_UNUSABLE))
    return told_if_few_usable(records, str(meant[0].table.file), unread)


# --- which lists ----------------------------------------------------------------------------------------------------


def _lists(root: Path, listing: Listing) -> list[_List]:
    """The CSVs that have boxes, in `root` and the folders in it."""
    found = []
    for folder in sorted(folder for folder, others in listing.others.items() if others[".csv"]):
        for file in sorted((root / folder).glob("*.[cC][sS][vV]")):
            if not file.name.startswith("."):
                with suppress(InputError):  # what is no list of boxes need not be a list of anything
                    table = read_header(file, "a CSV of image,xmin,ymin,xmax,ymax,class")
                    found += [one] if (one := _as_list(table, folder)) else []
    return found


def _as_list(table: CsvTable, folder: str) -> _List | None:
    at = {key: table.column(*names) for key, names in _NAMES.items()}
    words = re.findall(r"[A-Za-z]+", table.file.stem)
    named = [known for word in words if (known := split_named(word))]
    split = SPLITS.index(named[0]) if named else split_of_folder(folder)
    if at["image"] >= 0 and (at["shape"] >= 0 or min(at[key] for key in _CORNERS) >= 0):
        return _List(table, at, split)
    sized = _with_sizes(table, at)
    if at["image"] >= 0 and (sized["box"] >= 0 or min(sized[key] for key in _CORNERS) >= 0):
        return _List(table, sized, split, sizes=True)
    cells = table.cells
    if (
        len(cells) == len(_MAKESENSE)
        and cells[5].lower().endswith(tuple(IMAGE_ENDINGS))
        and all(_NUMBER.fullmatch(one) for one in cells[1:5])
        and all(one.isdecimal() for one in cells[6:])
    ):
        at = dict.fromkeys(_NAMES, -1) | {key: i for i, key in enumerate(_MAKESENSE)}
        return _List(replace(table, header=False), at, split, sizes=True)
    empty = len(cells) == 6 and not any(cells[1:])
    if len(cells) == 6 and cells[0] and (empty or (cells[5] and all(_NUMBER.fullmatch(one) for one in cells[1:5]))):
        at = dict.fromkeys(_NAMES, -1) | {key: i for i, key in enumerate(("image", *_CORNERS, "class"))}
        return _List(replace(table, header=False), at, split)
    return None


def lacking(root: Path, files: Sequence[Path]) -> str:
    """What the first of CSVs in `root` that are no lists of boxes lacks, for a sentence; "" for none that is read."""
    for file in files:
        with suppress(InputError):
            table = read_header(file, "a CSV of image,xmin,ymin,xmax,ymax,class")
            at = {key: table.column(*names) for key, names in _NAMES.items()}
            missing = ", ".join(key for key in ("image", *_CORNERS) if at[key] < 0)
            there = ", ".join(table.cells[:10])
            return f"{file} has no columns for {missing} (its first line is {there!r})"
    return ""


def _with_sizes(table: CsvTable, at: dict[str, int]) -> dict[str, int]:
    """The columns where a box's width and height stand in place of xmax and ymax; `width` may be the image's or its."""
    found = dict(at)
    for low, high, start, side, of_image in (
        ("xmin", "xmax", "x", "box_width", "width"),
        ("ymin", "ymax", "y", "box_height", "height"),
    ):
        found[low] = at[start] if at[start] >= 0 else at[low]
        found[high] = at[side]
        if at[side] < 0 and at["box"] < 0:
            found[high] = table.column(of_image)
            found[of_image] = table.column(*_NAMES[of_image][1:])
    return found


def _meant(root: Path, lists: list[_List], notes: list[str]) -> list[_List]:
    """Those that are of splits, or else the only one. Raises InputError where that cannot be told."""
    of_splits = [one for one in lists if one.split != UNSPLIT]
    if of_splits and len(of_splits) < len(lists):
        others = ", ".join(str(one.table.file.relative_to(root)) for one in lists if one.split == UNSPLIT)
        notes.append(f"{root}: {others} is left out, as other lists are called after splits")
    if not of_splits and len(lists) > 1:
        names = ", ".join(str(one.table.file.relative_to(root)) for one in lists)
        raise InputError(
            f"{root} has several lists of boxes ({names}); call them train.csv, val.csv and test.csv, or take the "
            "others away."
        )
    return of_splits or lists


# --- rows -----------------------------------------------------------------------------------------------------------


def _chosen(one: _List, odd: Odd) -> _Rows:
    """The rows of one list."""
    parts, dropped, used = [], list[int](), 0
    last = max(one.at.values()) + 1
    for lines, columns in one.table.chunks(least=last, dropped=dropped):
        count = len(lines)
        used += count
        images = packed(columns[one.at["image"]])
        if one.at["shape"] >= 0:
            corners, classes = _shapes(one, columns)
        else:
            corners = _four_numbers(one, columns)
            classes = packed(columns[at] if (at := one.at["class"]) >= 0 else [_ONLY_CLASS] * count)
        if (cut := (np.char.find(images, b"\n") >= 0) | (np.char.find(classes, b"\n") >= 0)).any():
            raise InputError(
                f"{one.table.file}, line {lines[cut.argmax()]}: a value goes on over several lines up to here, as of a "
                'quote " that is not closed; close it, or take it away.'
            )
        empty = _are_empty(one, columns)
        usable = np.isfinite(corners).all(axis=1) & (classes != b"") & ~empty
        for row in np.flatnonzero(~usable & ~empty).tolist():
            what = "no class" if np.isfinite(corners[row]).all() else "no four numbers"
            note_odd(odd, f"{_UNUSABLE}: {what}", f"{one.table.file.name}, line {lines[row]}")
        corners[~usable] = np.where(empty, np.nan, np.inf)[~usable, None]
        crowd = _numbers(columns[one.at["crowd"]]) == 1 if one.at["crowd"] >= 0 else np.zeros(count, dtype=bool)
        sides = [
            _numbers(columns[at]) if (at := one.at[key]) >= 0 else np.full(count, np.nan) for key in ("height", "width")
        ]
        split = splits_named(packed(columns[one.at["split"]])) if one.at["split"] >= 0 else np.full(count, one.split)
        named = images != b""
        for line in lines[~named].tolist():
            note_odd(odd, "rows without an image, dropped", f"{one.table.file.name}, line {line}")
        whole = _Rows(images, classes, corners, crowd, np.stack(sides, axis=1), split.astype(np.int8))
        parts.append(_Rows(*(column[named] for column in whole)))
    if len(dropped) > used:  # not a slip, but another form: the first is refused
        list(one.table.chunks(least=last))
    for line in dropped:
        note_odd(odd, "rows of too few or too many values, dropped", f"{one.table.file.name}, line {line}")
    if not parts:
        return _Rows(
            *(np.zeros(0, "S1"),) * 2, np.zeros((0, 4)), np.zeros(0, bool), np.zeros((0, 2)), np.zeros(0, np.int8)
        )
    return _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _are_empty(one: _List, columns: list[tuple[str, ...]]) -> np.ndarray:
    """Which rows only name an image without objects: those with no corner, or with VIA's shape {}."""
    keys = next(([key] for key in ("shape", "box") if one.at[key] >= 0), _CORNERS)
    cells = zip(*(columns[one.at[key]] for key in keys), strict=True)
    return np.array([all(cell.strip() in ("", "{}", "[]") for cell in row) for row in cells], dtype=bool)


def _four_numbers(one: _List, columns: list[tuple[str, ...]]) -> np.ndarray:
    """The corners, float64 (N, 4); NaN for a box that is not four numbers."""
    if one.at["box"] >= 0:
        texts = [re.findall(r"[^\s,;()\[\]]+", cell) for cell in columns[one.at["box"]]]
        four = np.array([_numbers(text) if len(text) == 4 else [math.nan] * 4 for text in texts]).reshape(-1, 4)
    else:
        four = np.stack([_numbers(columns[one.at[key]]) for key in _CORNERS], axis=1)
    return np.concatenate([four[:, :2], four[:, :2] + four[:, 2:]], axis=1) if one.sizes else four


def _numbers(cells: Iterable[str]) -> np.ndarray:
    """float64 (N,), NaN for what is no finite number; the comma of some spreadsheets is a point."""
    try:
        found = np.array(cells, np.str_).astype(np.float64)
    except ValueError:
        found = np.array([_number(cell) for cell in cells], np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _number(cell: str) -> float:
    with suppress(ValueError):
        return float(cell.replace(",", "."))
    return {"true": 1.0, "false": 0.0}.get(cell.strip().lower(), math.nan)


def _shapes(one: _List, columns: list[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """The corners and classes of VIA's rows; NaN and b"" where they are not said."""
    attributes = columns[one.at["attributes"]] if one.at["attributes"] >= 0 else [""] * len(columns[0])
    corners = np.array([_around(_json(cell)) for cell in columns[one.at["shape"]]], np.float64).reshape(-1, 4)
    return corners, packed(_class_of(_json(cell)) for cell in attributes)


def _json(cell: str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        content = json.loads(cell)
        return content if isinstance(content, dict) else {}
    return {}


def _around(shape: dict[str, Any]) -> list[float]:
    """The box around a rectangle, circle, ellipse or polygon."""
    with suppress(KeyError, TypeError, ValueError):
        kind = shape["name"]
        if kind == "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return [x, y, x + width, y + height]
        if kind in ("circle", "ellipse"):
            x, y = float(shape["cx"]), float(shape["cy"])
            wide, high = (float(shape[key]) for key in (("r", "r") if kind == "circle" else ("rx", "ry")))
            return [x - wide, y - high, x + wide, y + high]
        if kind in ("polygon", "polyline"):
            across, down = ([float(one) for one in shape[key]] for key in ("all_points_x", "all_points_y"))
            return [min(across), min(down), max(across), max(down)]
    return [math.nan] * 4


def _class_of(attributes: dict[str, Any]) -> str:
    """The only attribute of a region, or the one that is called class, label, name, type or category."""
    lower = {key.strip().lower(): value for key, value in attributes.items()}
    for key in ("class", "label", "name", "type", "category", *(lower if len(lower) == 1 else ())):
        value = lower.get(key)
        if isinstance(value, dict):  # of checkboxes, {"cat": true}
            chosen = [name for name, on in value.items() if on]
            return chosen[0] if len(chosen) == 1 else ""
        if isinstance(value, str | int) and str(value).strip():
            return str(value)
    return ""


def _in_order(corners: np.ndarray, sizes: np.ndarray, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The corners, (M, 4), the lower before the higher, and which were not so, bool (M,).

    Raises InputError where they may be (x, y, width, height): a tenth or more, and of few most, are not in order, and
    as sizes nearly all are within their images, (M, 2), which corners hardly ever are.
    """
    start, end = corners[:, :2], corners[:, 2:]
    swapped = np.asarray((end < start).any(axis=1))
    known = (sizes > 0).all(axis=1)
    within = ((start >= -1) & (end > 0) & (start + end <= sizes[:, ::-1] + 1)).all(axis=1)[known]
    share = swapped[known].sum() / max(len(within), 1)
    if (share > 0.5 or (share > 0.1 and len(within) >= 10)) and within.mean() > 0.9:
        first = corners[int(swapped.argmax())].tolist()
        raise InputError(
            f"{file}: its columns xmin, ymin, xmax, ymax seem to hold x, y, width, height: in {swapped.sum():,} of "
            f"{len(corners):,} boxes xmax < xmin or ymax < ymin (the first is {first}), and as sizes they are within "
            "their images; call the columns x, y, width, height, or write the corners."
        )
    return np.concatenate([np.minimum(start, end), np.maximum(start, end)], axis=1), swapped


# --- images and classes ---------------------------------------------------------------------------------------------


def _located(root: Path, one: _List, files: np.ndarray, written: np.ndarray) -> Matched:
    """Find the images that a list writes so, bytes (N,), among the `files` of `root`.

    Paths count from the folder of the list or from `root`, else match_files() finds them: first in folders that are
    not called after another split than the list. A name without an ending, as OpenImages has ids, is of any ending.
    """
    folder, start = os.fsencode(one.table.file.parent.relative_to(root)), os.fsencode(root) + b"/"
    plain = np.array([os.path.normpath(path.removeprefix(start)) for path in written.tolist()], np.bytes_)
    beside = np.array([os.path.normpath(os.path.join(folder, path)) for path in plain.tolist()], np.bytes_)  # noqa: PTH118
    names = np.where(np.isin(beside, files) | ~np.isin(plain, files), beside, plain)

    def of_this_split(file: bytes) -> bool:
        return one.split == UNSPLIT or split_of_folder(os.path.dirname(os.fsdecode(file))) in (UNSPLIT, one.split)  # noqa: PTH120

    stem_of = [file.rpartition(b".")[0] for file in files.tolist()]
    several = Counter(stem_of)
    whole = {stem: file for stem, file in zip(stem_of, files.tolist(), strict=True) if several[stem] == 1}
    stems = np.array(list(whole), np.bytes_)
    nearest = ""  # by names with their endings
    for among, usable in itertools.product((files, stems), (of_this_split, None)):
        matched = match_files(root, names, one.table.file, among, usable)
        nearest = nearest or matched.nearest
        if matched.there.any():
            break
    found = [whole.get(name, name) if among is stems else name for name in matched.names.tolist()]
    return matched._replace(names=np.array(found, np.bytes_), nearest=nearest)


def _sizes(
    root: Path, names: np.ndarray, problem: np.ndarray, image: np.ndarray, rows: _Rows
) -> tuple[np.ndarray, np.ndarray]:
    """The sizes, int64 (N, 2), and problems, bytes (N,), of the images, of which some have a `problem` already."""
    sizes = np.zeros((len(names), 2), np.int64)
    said = (rows.sizes >= 1).all(axis=1) & (rows.sizes == np.round(rows.sizes)).all(axis=1)
    sizes[image[said]] = rows.sizes[said].astype(np.int64)
    return sizes_from_headers(root, names, sizes, problem)


def _labels(root: Path, listing: Listing, classes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The label of each box, int64 (M,), and the classes' names, by a CSV of two columns where there is one.

    RetinaNet's has name,number; OpenImages' has id,name.
    """
    found = sorted(set(classes.tolist()))
    names = [_printable(name) for name in found]
    for folder in sorted(folder for folder, others in listing.others.items() if others[".csv"]):
        for file in sorted((root / folder).glob("*.csv")):
            pairs = _pairs(file)
            if pairs and set(names) <= pairs.keys():
                numbered = all(re.fullmatch(r"\d{1,9}", other) for other in pairs.values())
                order = (
                    sorted(pairs, key=lambda name: int(pairs[name]))
                    if numbered
                    else sorted(names, key=lambda name: pairs[name])
                )
                label = {name: i for i, name in enumerate(order)}
                shown = order if numbered else [pairs[name] for name in order]
                return np.array([label[_printable(one)] for one in classes.tolist()], np.int64), shown
    return np.searchsorted(found, classes).astype(np.int64), names


def _pairs(file: Path) -> dict[str, str]:
    """The rows of a CSV of two columns without a header, the first by the second; {} where it is none."""
    with suppress(InputError):
        table = read_header(file, "a list of classes")
        if len(table.cells) == 2 and table.delimiter == "," and file.stat().st_size < _LARGEST:
            rows = [row for _, columns in replace(table, header=False).chunks() for row in zip(*columns, strict=True)]
            if len(rows) > 1 and rows[1][1].isdecimal() and not rows[0][1].isdecimal():
                rows = rows[1:]  # a header
            return {name.strip(): other.strip() for name, other in rows}
    return {}


def _printable(name: bytes) -> str:
    return name.decode(errors="replace")
