"""Detection data in COCO's JSON, from COCO's own folder layout or the one that annotation tools export; COCO's results.

https://cocodataset.org/#format-data and #format-results. Files are checked here and nowhere else, for training and for
scoring alike. Labels run from 0 in the order of the category ids, which stay in the records' `class_ids`.
"""

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.folders import are_there, existing_folder, is_foreign, progress, readable, say
from data.images import ImageError, image_size
from data.matching import Matched, match_files
from data.records import SPLITS, Boxes, Issue, Records, Split, joined
from data.splits import NAMES, split_named

_TOOLS_FILE = "_annotations.coco.json"
# A data set that is not divided, as Label Studio, FiftyOne, CVAT and Roboflow call its file: all is to train on.
_UNDIVIDED = frozenset(("result.json", "labels.json", "annotations.json", "instances_default.json", _TOOLS_FILE))
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of surrogate pairs that no file's name has
_REMEDY = "give a COCO annotation file, with `images`, `annotations` and `categories`."


class SplitFiles(NamedTuple):
    """Where one split lies: its annotation file, and the folders its images may be in, likeliest first."""

    split: Split
    annotations: Path
    image_folders: tuple[Path, ...]


class Detections(NamedTuple):
    """The boxes that a detector found in N images, as columns."""

    images: np.ndarray  # int64 (M,), position of the box's image in the records
    labels: np.ndarray  # int64 (M,) from 0
    xywh: np.ndarray  # float64 (M, 4) px of the annotated size
    scores: np.ndarray  # float64 (M,)


# --- a data set's folder --------------------------------------------------------------------------------------------


def find_splits(root: Path, version: str = "") -> dict[Split, SplitFiles]:
    """The files of each split that `root` has, at least one.

    COCO's own layout: `annotations/instances_<split><version>.json`, with the images in `<split><version>/`,
    `images/<split><version>/`, `images/` or `root`. Annotation tools': `<split>/_annotations.coco.json` among its
    images, or `<split>.json` in `annotations/` or `root`. One file that none is named for, as
    `result.json`, is of train. Splits are called as split_named() knows them. Raises
    InputError where several files match, or none.
    """
    found: dict[Split, list[SplitFiles]] = {}
    root = existing_folder(root)
    top = _folders(root)
    images = [folder for folder in top if folder.name.lower() == "images"]
    places = [(*top, *chain.from_iterable(map(_folders, images))), images]
    for folder in [folder for folder in top if folder.name.lower() == "annotations"]:
        for path in sorted(folder.glob("*.json")):
            name, rest = _split_and_version(path.stem)
            if (split := split_named(name)) and version in ("", rest):
                folders = _image_folders(root, f"{name}{rest}", split, *places)
                found.setdefault(split, []).append(SplitFiles(split, path, folders))
    for folder in top:
        if (split := split_named(folder.name)) and (path := folder / _TOOLS_FILE).is_file():
            found.setdefault(split, []).append(SplitFiles(split, path, (folder,)))
    for path in sorted(root.glob("*.json")) if not found else ():
        name, rest = _split_and_version(path.stem)
        if (split := split_named(name)) and version in ("", rest):
            folders = _image_folders(root, f"{name}{rest}", split, *places)
            found.setdefault(split, []).append(SplitFiles(split, path, folders))
    whole = [
        path for folder in (root, *top) for path in sorted(folder.glob("*.json")) if path.name.lower() in _UNDIVIDED
    ]
    if not found and not version and len(whole) == 1:
        folders = (*_image_folders(root, "default", "train", *places), root / "data", whole[0].parent)
        found["train"] = [SplitFiles("train", whole[0], folders)]
    for split, files in found.items():
        if len(files) > 1:
            names = ", ".join(str(one.annotations) for one in files)
            rest = _split_and_version(files[0].annotations.stem)[1]
            raise InputError(
                f"{root} has several annotation files for the {split} split ({names}): name one, as in --data.version "
                f"{rest if rest and rest[0] != '_' else '2017'}, or move the others away."
            )
    if not found:
        raise no_annotations(root, SPLITS, version)
    return {split: found[split][0] for split in SPLITS if split in found}


def _split_and_version(stem: str) -> tuple[str, str]:
    """The word for the split and what follows it of `instances_val2017` or `val2017`; of another name none."""
    match = re.fullmatch(r"instances_([A-Za-z]*)(.*)|([A-Za-z]+)(\d*)", stem, re.IGNORECASE)
    return (match[1] or match[3] or "", match[2] or match[4] or "") if match else ("", "")


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if not is_foreign(entry.name) and entry.is_dir())


def _image_folders(
    root: Path, name: str, split: Split, folders: Sequence[Path], images: Sequence[Path]
) -> tuple[Path, ...]:
    """Where the images of a split may be, likeliest first: a folder of its file's name, of the split's, or of all."""
    exact = [root / name, root / "images" / name]
    alike = [folder for folder in folders if split_named(folder.name) == split]
    return tuple(dict.fromkeys((*exact, *alike, *images, root / "images", root)))


def no_annotations(root: Path, splits: Sequence[Split], version: str) -> InputError:
    """The error that names the files looked for, and those that are there."""
    tried = [f"{root}/annotations/instances_{split}{version or '*'}.json" for split in splits]
    tried += [f"{root}/{name}/{_TOOLS_FILE}" for name, split in NAMES.items() if split in splits]
    there = sorted(str(path.relative_to(root)) for path in [*root.glob("*.json"), *root.glob("annotations/*.json")])[:3]
    found = f" It has only {', '.join(there)}." if there else ""
    return InputError(
        f"{root} has no annotation file; looked for {', '.join(tried)}.{found} Put the COCO JSON there, or point "
        "--data.root at the folder that holds it."
    )


def read(root: Path, version: str = "", splits: Sequence[Split] = ()) -> Records:
    """The images of these splits, or of all that `root` has, with their boxes as the files have them.

    Columns: `split`, `image_ids`, `sizes` (read from the image where the file says nothing), and `problem` bytes: why
    an image cannot be used, b"" for most. Raises InputError where a file cannot be used, all images of one are missing,
    or the categories of two differ.
    """
    found = find_splits(root, version)
    for split in splits:
        if split not in found:
            raise no_annotations(root, (split,), version)
    parts = [_read_split(found[split]) for split in splits or found]
    for split, part in zip(splits or found, parts, strict=True):
        check_classes(part, parts[0], found[split].annotations)
    return joined(parts)


def check_classes(records: Records, others: Records, file: Path) -> None:
    """Raise InputError where the categories of `file`, which the records are from, are not those of another split."""
    ours, theirs = (set(zip(part.class_ids, part.classes, strict=True)) for part in (records, others))
    if ours != theirs:
        raise InputError(
            f"{file}: its categories differ from those of the other splits: only here {sorted(ours - theirs)[:5]}, "
            f"only there {sorted(theirs - ours)[:5]}; give all splits the same `categories`."
        )


def _read_split(files: SplitFiles) -> Records:
    path = files.annotations
    if path.stat().st_size > 50e6:
        say(f"reading {path} ({path.stat().st_size / 1e6:,.0f} MB)")
    content = read_json(path)
    records = parse_annotations(content, str(path))
    for key in ("categories", "images"):
        if not content[key]:
            raise InputError(f"{path}: `{key}` is empty; list at least one.")
    records = _without_placeholder(records, content["categories"])
    folder, matched = _locate(records.file_names, files)
    notes = (matched.note,) if matched.note else ()
    records = replace(records, file_names=matched.names, notes=(*records.notes, *notes))
    usable, unreadable = readable(records.file_names, matched.there, path)
    records, there = replace(records.take(usable), issues=(*records.issues, *unreadable)), matched.there[usable]
    sizes = records["sizes"].copy()
    problems = [b"" if file else b"there is no such file" for file in there]
    for i in progress(np.flatnonzero(there & (sizes[:, 0] == 0)), desc="reading image sizes"):
        try:
            sizes[i] = image_size(folder / os.fsdecode(records.file_names[i]))
        except ImageError as error:
            problems[i] = os.fsencode(error.reason)
    split = np.full(len(records), SPLITS.index(files.split), np.int8)
    records = replace(records, folder=folder).with_columns(split=split, sizes=sizes, problem=np.array(problems))
    _, first = np.unique(records.file_names, return_index=True)
    again = ~np.isin(np.arange(len(records)), first)
    twice = _issue("images are of a file that is listed before", again, lambda i: os.fsdecode(records.file_names[i]))
    missing = _issue("images of the annotations are missing", ~there, lambda _: f"{folder}/{matched.nearest}")
    return replace(records, issues=(*records.issues, *_odd_boxes(records.take(there)), *twice, *missing))


def _without_placeholder(records: Records, categories: list[dict[str, Any]]) -> Records:
    """Without a category that only heads the others, as Roboflow writes it.

    It is the supercategory of all others, without a supercategory of its own or an annotation.
    """
    by_id = sorted(categories, key=lambda category: category["id"])
    assert records.boxes is not None
    for label, category in enumerate(by_id):
        others = by_id[:label] + by_id[label + 1 :]
        heads_all = bool(others) and all(other.get("supercategory") == category["name"] for other in others)
        used = (records.boxes.labels == label).any()
        if heads_all and category.get("supercategory") in (None, "", "none") and not used:
            return replace(
                records,
                boxes=replace(records.boxes, labels=records.boxes.labels - (records.boxes.labels > label)),
                classes=records.classes[:label] + records.classes[label + 1 :],
                class_ids=records.class_ids[:label] + records.class_ids[label + 1 :],
                issues=(*records.issues, Issue(f"placeholder category left out: `{category['name']}`", 1)),
            )
    return records


def _locate(names: np.ndarray, files: SplitFiles) -> tuple[Path, Matched]:
    """The first folder with most of the images, and where they are in it. Raises InputError where none has any."""
    path, folders = files.annotations, files.image_folders
    there = [are_there(folder, names) for folder in folders]
    best = int(np.argmax([found.sum() for found in there]))
    if there[best].all():
        return folders[best], Matched(names, there[best])

    def of_this_split(file: bytes) -> bool:
        parts = os.fsdecode(file).split("/")[:-1]
        return all(split_named(_split_and_version(part)[0]) in (None, files.split) for part in parts)

    present = [(i, folder) for i, folder in enumerate(folders) if folder.is_dir()]
    matched = {i: match_files(folder, names, path, usable=of_this_split) for i, folder in present}
    best = max(matched, key=lambda i: (matched[i].there.sum(), there[i].sum(), -matched[i].looseness), default=0)
    if best not in matched or not matched[best].there.any():
        first = matched[best].nearest if best in matched else os.fsdecode(names[0])
        raise InputError(
            f"{path}: none of its {len(names)} images is there (the first is {first}); looked in "
            f"{', '.join(map(str, folders))}: put the images in one of these."
        )
    return folders[best], matched[best]


class ClippedBoxes(NamedTuple):
    """The boxes of records within their images: (M,) rows as the records have them."""

    xyxy: np.ndarray  # float64 (M, 4) px
    usable: np.ndarray  # bool (M,): neither empty nor inverted, and at least 1 px within the image each way
    over: np.ndarray  # bool (M,): was over the edge
    empty: np.ndarray  # bool (M,): of zero or negative size


def clip_boxes(records: Records) -> ClippedBoxes:
    """Clip the boxes to their images, where the size is known."""
    boxes = records.boxes
    assert boxes is not None
    empty: np.ndarray = np.any(boxes.xywh[:, 2:] <= 0, axis=1)
    xyxy = boxes.xyxy
    limits = np.where(records["sizes"][:, ::-1] > 0, records["sizes"][:, ::-1], np.inf)  # (N, 2) width, height
    clipped = np.clip(xyxy, 0, np.tile(np.repeat(limits, np.diff(boxes.offsets), axis=0), 2))
    over: np.ndarray = ~empty & (np.abs(clipped - xyxy) > 1e-3).any(
        axis=1
    )  # 639.9999 + .0002 is rounding, not an error
    usable: np.ndarray = ~empty & (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
    return ClippedBoxes(clipped, usable, over, empty)


def _odd_boxes(records: Records) -> list[Issue]:
    clipped, boxes = clip_boxes(records), records.boxes
    assert boxes is not None
    image = np.repeat(np.arange(len(records)), np.diff(boxes.offsets))

    def file(row: int) -> str:
        return os.fsdecode(records.file_names[image[row]])

    return [
        *_issue("crowd regions, which are not searched for objects", boxes.crowd & clipped.usable, file),
        *_issue(
            "images without annotations", np.diff(boxes.offsets) == 0, lambda i: os.fsdecode(records.file_names[i])
        ),
        *_issue("boxes of zero or negative size, not trained on", clipped.empty, file),
        *_issue("boxes over the edge, clipped", clipped.over & clipped.usable, file),
        *_issue("boxes under 1 px within the image, not trained on", ~clipped.empty & ~clipped.usable, file),
    ]


def _issue(what: str, mask: np.ndarray, first: Callable[[int], str]) -> list[Issue]:
    return [Issue(what, int(mask.sum()), first(int(mask.argmax())))] if mask.any() else []


# --- one file -------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a COCO JSON file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check its path and rights.") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"{path} is not valid JSON ({error}); give a COCO JSON file.") from None


def parse_annotations(content: Any, name: str, *, for_scoring: bool = False) -> Records:
    """COCO annotations as records without a folder, in the file's order; `name` is how messages call the file.

    Columns `image_ids` and `sizes`; boxes with the file's own coordinates, and its areas (where it has none, width
    times height). For scoring, what only training needs may be missing: file names, category names, sizes, ids of
    annotations. Raises InputError for a field that is missing or of the wrong type, ids that are unknown or repeated,
    and numbers that are not finite.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{name} is not COCO: its top level is of type {type(content).__name__}; {_REMEDY}")
    images, annotations, categories = (_List(content, key, name) for key in ("images", "annotations", "categories"))
    image_ids, class_ids = images.ids(), categories.ids()
    image_of = annotations.positions("image_id", image_ids, "`images`")
    labels = annotations.positions("category_id", np.sort(class_ids), "`categories`")
    xywh = annotations.boxes()
    areas, crowd = (annotations.numbers(key, optional=True) for key in ("area", "iscrowd"))
    odd_ids = _odd_ids(annotations.items) if for_scoring else annotations.ids() == 0
    issues = [
        *_issue("annotations without area (taken as width x height)", np.isnan(areas), annotations.at),
        *_issue("annotations without iscrowd (taken as 0)", np.isnan(crowd), annotations.at),
        *_issue("annotations with an id that is 0, missing or repeated (numbered anew)", odd_ids, annotations.at),
    ]
    order = np.argsort(image_of, kind="stable")  # by image, in the file's order within one
    boxes = Boxes(
        np.concatenate([[0], np.cumsum(np.bincount(image_of, minlength=len(image_ids)))]),
        xywh[order],
        labels[order],
        np.nan_to_num(crowd[order]) != 0,
        np.where(np.isnan(areas), xywh[:, 2:].clip(min=0).prod(axis=1), areas)[order],
    )
    files = images.strings("file_name", "" if for_scoring else None)
    classes = categories.strings("name", "category {}" if for_scoring else None)
    by_id = np.argsort(class_ids).tolist()
    return Records(
        Path(),
        np.array([os.fsencode(PurePath(_NO_BYTE.sub("?", file))) if file else b"" for file in files], dtype=np.bytes_),
        {"image_ids": image_ids, "sizes": images.sizes(strict=not for_scoring)},
        boxes,
        tuple(classes[i] for i in by_id),
        tuple(class_ids[by_id].tolist()),
        tuple(issues),
    )


def parse_results(content: Any, truth: Records, name: str, truth_name: str) -> tuple[Detections, tuple[Issue, ...]]:
    """COCO results as detections in the images of `truth`, and what is odd about them.

    Raises InputError as `parse_annotations`, and for ids that `truth`, which messages call `truth_name`, does not have.
    """
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise InputError(
            f"{name} is not COCO results: its top level is of type {type(content).__name__}; give a list of objects "
            "with image_id, category_id, bbox (x, y, width, height) and score."
        )
    results, ids = _List({"results": content}, "results", name), truth.class_ids
    few = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    images = results.positions("image_id", truth["image_ids"], f"the {len(truth)} images of {truth_name}")
    among = f"the {len(ids)} categories of {truth_name} ({few})"
    labels = results.positions("category_id", np.array(ids, dtype=np.int64), among)
    xywh, scores = results.boxes(), results.numbers("score")

    sizes = truth["sizes"][images][:, ::-1]  # (M, 2) width, height
    known = (sizes > 0).all(axis=1)
    # Read as corners such boxes are in order, read as COCO's they leave the image; one pixel for rounding.
    like_xyxy = known & (xywh[:, 2:] >= xywh[:, :2]).all(axis=1) & (xywh[:, :2] + xywh[:, 2:] > sizes + 1).any(axis=1)
    what = f"of {known.sum():,} boxes leave their image: they look like (x1, y1, x2, y2), not (x, y, width, height)"
    issues = _issue(what, like_xyxy, results.at) if like_xyxy.sum() * 2 > known.sum() else []
    return Detections(images, labels, xywh, scores), tuple(issues)


class _List:
    """One list of objects in a COCO file; its fields as columns. InputError names the first item at fault."""

    def __init__(self, content: Mapping[str, Any], key: str, name: str) -> None:
        items = content.get(key)
        if not isinstance(items, Sequence) or isinstance(items, str):
            found = ", ".join(f"`{one}`" for one in list(content)[:6]) or "nothing"
            raise InputError(f"{name} is not COCO: it has no list `{key}` (it has {found}); {_REMEDY}")
        if not all(issubclass(kind, Mapping) for kind in set(map(type, items))):
            at = next(i for i, item in enumerate(items) if not isinstance(item, Mapping))
            raise InputError(f"{name} is not COCO: {key}[{at}] is {_short(items[at])}; it must be an object.")
        self.name, self.key = name, key
        self.items: Sequence[Mapping[str, Any]] = items

    def at(self, row: int) -> str:
        """How messages call an item."""
        return f"{self.key}[{row}]" + (f" (id {_short(self.items[row]['id'])})" if "id" in self.items[row] else "")

    def refused(self, row: int, field: str, wanted: str, count: int = 1) -> InputError:
        problem = f"is {_short(self.items[row][field])}" if field in self.items[row] else "is missing"
        others = f" ({count} of {len(self.items)} are like this)" if count > 1 else ""
        return InputError(f"{self.name}: {self.at(row)}: `{field}` {problem}{others}; it must be {wanted}.")

    def numbers(self, field: str, *, optional: bool = False, wanted: str = "a finite number") -> np.ndarray:
        """A field, float64 (M,); NaN where it may be missing and is. An optional one may be true or false too."""
        values = [item.get(field) for item in self.items]
        also = (type(None), bool) if optional else ()
        self._check(_are_numbers(values, also), field, wanted)
        column = np.array(values, dtype=np.float64)  # None is NaN
        self._check(np.isfinite(column) | np.array([value is None for value in values], dtype=bool), field, wanted)
        return column

    def integers(self, field: str) -> np.ndarray:
        """A field, int64 (M,); 7.0 is 7."""
        values = [item.get(field) for item in self.items]
        if all(issubclass(kind, Integral) and kind is not bool for kind in set(map(type, values))):
            with contextlib.suppress(OverflowError):
                return np.array(values, dtype=np.int64)
        column = self.numbers(field, wanted="an integer")
        self._check((column == np.round(column)) & (np.abs(column) < 2**53), field, "an integer")
        return column.astype(np.int64)

    def ids(self) -> np.ndarray:
        """The ids of the items, int64 (M,), each its own."""
        ids = self.integers("id")
        values, counts = np.unique(ids, return_counts=True)
        if len(values) < len(ids):
            most = counts.argmax()
            raise InputError(
                f"{self.name}: {self.key}: `id` {values[most]} occurs {counts[most]} times; give each an id of its own."
            )
        return ids

    def positions(self, field: str, ids: np.ndarray, among: str) -> np.ndarray:
        """Where the ids of a field stand in `ids`, int64 (M,)."""
        wanted = self.integers(field)
        unknown = np.isin(wanted, ids, invert=True)
        if unknown.any():
            row = int(unknown.argmax())
            raise InputError(
                f"{self.name}: {self.at(row)}: `{field}` {wanted[row]} is not among {among} ({unknown.sum()} of "
                f"{len(wanted)} are like this); add it there, or remove what refers to it."
            )
        order = np.argsort(ids)
        return order[np.searchsorted(ids, wanted, sorter=order)]

    def boxes(self) -> np.ndarray:
        """Field `bbox`, float64 (M, 4)."""
        wanted = "[x, y, width, height] in px, four finite numbers"
        boxes: list[Any] = [item.get("bbox") for item in self.items]
        self._check([isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 for box in boxes], "bbox", wanted)
        sides = list(chain.from_iterable(boxes))
        self._check(np.reshape(_are_numbers(sides), (-1, 4)).all(axis=1), "bbox", wanted)
        xywh = np.array(sides, dtype=np.float64).reshape(-1, 4)
        self._check(np.isfinite(xywh).all(axis=1), "bbox", wanted)
        return xywh

    def sizes(self, *, strict: bool) -> np.ndarray:
        """Fields `height` and `width`, int64 (N, 2); 0 where not both are given, or sensible if not `strict`."""
        sizes = np.zeros((len(self.items), 2), dtype=np.int64)
        for row, item in enumerate(self.items):
            for column, field in enumerate(("height", "width")):
                side = item.get(field)
                if isinstance(side, int | float) and 1 <= side < 2**31 and side == int(side):
                    sizes[row, column] = side
                elif side is not None and strict:
                    raise self.refused(row, field, "a number of px, or be left out")
        sizes[(sizes == 0).any(axis=1)] = 0
        return sizes

    def strings(self, field: str, default: str | None) -> list[str]:
        """A field; without a `default`, which is given the item's id, each must have it."""
        values: list[Any] = [item.get(field) for item in self.items]
        for row, value in enumerate(values):
            if not isinstance(value, str) or not value:
                if default is None:
                    raise self.refused(row, field, "a string")
                values[row] = default.format(self.items[row]["id"]) if value is None else str(value)
        return values

    def _check(self, fine: Any, field: str, wanted: str) -> None:
        if not np.all(fine):
            raise self.refused(int(np.argmin(fine)), field, wanted, len(fine) - int(np.sum(fine)))


def _are_numbers(values: Sequence[Any], also: tuple[type, ...] = ()) -> np.ndarray:
    """Which are numbers, or of the types `also`, bool (N,)."""
    kinds = set(map(type, values))  # few, so that 200,000 boxes take a tenth of a second
    odd = {kind for kind in kinds - set(also) if kind is bool or not issubclass(kind, Real)}
    return np.array([type(value) not in odd for value in values]) if odd else np.ones(len(values), dtype=bool)


def _odd_ids(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which ids are 0, missing or repeated, bool (M,): pycocotools errs with such, or loses boxes."""
    ids = [annotation.get("id") for annotation in annotations]
    count = Counter(map(str, ids))
    return np.array([one is None or one == 0 or count[str(one)] > 1 for one in ids], dtype=bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
