"""Detection data in COCO's JSON, from COCO's own folder layout or the one that annotation tools export; COCO's results.

https://cocodataset.org/#format-data and #format-results. Files are checked here and nowhere else, for training and for
scoring alike. Labels run from 0 in the order of the category ids, which stay in the records' `class_ids`.
"""

import contextlib
import json
import math
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from numbers import Integral, Real
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.folders import are_there, existing_folder, is_foreign, progress, readable, say
from data.images import ImageError, image_size
from data.matching import Matched, match_files
from data.records import SPLITS, Boxes, Issue, Records, Split, issue_of, joined
from data.splits import NAMES, split_named

_TOOLS_FILE = "_annotations.coco.json"
# A data set that is not divided, as Label Studio, FiftyOne, CVAT and Roboflow call its file: all is to train on.
_UNDIVIDED = frozenset(("result.json", "labels.json", "annotations.json", "instances_default.json", _TOOLS_FILE))
_MOST_JUDGED = 20  # files by their content: where there are more, each is of an image
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of surrogate pairs that no file's name has
_NUMBER = re.compile(r"\s*[+-]?([0-9]{1,99}\.?[0-9]{0,99}|\.[0-9]{1,99})(e[+-]?[0-9]{1,2})?\s*", re.IGNORECASE)
_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,1000}\s*")
_REMEDY = "give a COCO annotation file, with `images`, `annotations` and `categories`."


class SplitFiles(NamedTuple):
    """Where one split lies: its annotation file, and the folders its images may be in, likeliest first."""

    split: Split
    annotations: Path
    image_folders: tuple[Path, ...]


class NoAnnotations(InputError):
    """A folder without COCO's annotation files: it may be of another layout."""


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
    images, or `<split>.json` in `annotations/` or `root`. One file alone that is called otherwise, in `root` or a
    folder in it, is of a data set that is not divided: all is of train. Splits are called as split_named() knows them.
    Raises InputError where several files match, or none.
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
        if (split := split_named(folder.name)) and len(own := _undivided((folder,))) == 1:
            among = (folder, folder / "data", folder / "images")
            found.setdefault(split, []).append(SplitFiles(split, own[0], among))
    for path in sorted(root.glob("*.json")) if not found else ():
        name, rest = _split_and_version(path.stem)
        if (split := split_named(name)) and version in ("", rest):
            folders = _image_folders(root, f"{name}{rest}", split, *places)
            found.setdefault(split, []).append(SplitFiles(split, path, folders))
    whole = _undivided((root, *top)) if not found and not version else []
    if len(whole) == 1:
        folders = (*_image_folders(root, "default", "train", *places), root / "data", whole[0].parent)
        found["train"] = [SplitFiles("train", whole[0], folders)]
    if len(whole) > 1:
        names = ", ".join(map(str, whole[:5]))
        raise NoAnnotations(
            f"{root} has several annotation files that are called after no split ({names}): call them train.json, "
            "val.json and test.json, or take the others away."
        )
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


def _undivided(folders: Sequence[Path]) -> list[Path]:
    """The files right in `folders` that are called as tools call one of all images, else those with COCO's lists."""
    files = [path for folder in folders for path in sorted(folder.glob("*.json")) if not is_foreign(path.name)]
    named = [path for path in files if path.name.lower() in _UNDIVIDED]
    return named or [path for path in files if len(files) <= _MOST_JUDGED and _has_lists(path)]


def _has_lists(path: Path) -> bool:
    """Whether a JSON has COCO's three lists; it is not parsed."""
    with (
        contextlib.suppress(OSError, ValueError),  # ValueError: it is empty
        path.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return all(re.search(rb'"%s"\s*:\s*\[' % key, data) for key in (b"categories", b"images", b"annotations"))
    return False


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
    return NoAnnotations(
        f"{root} has no annotation file; looked for {', '.join(tried)}.{found} Put the COCO JSON there, or point "
        "--data.root at the folder that holds it."
    )


def read(
    root: Path, version: str = "", splits: Sequence[Split] = (), classes: Mapping[int, str] | None = None
) -> Records:
    """The images of these splits, or of all that `root` has, with their boxes as the files have them.

    Columns: `split`, `image_ids`, `sizes` (read from the image where the file says nothing), and `problem` bytes: why
    an image cannot be used, b"" for most. `classes`, id to name, are those of `classes_of` where not given. Raises
    InputError where a file cannot be used, all images of one are missing, or the categories of two contradict.
    """
    found = find_splits(root, version)
    for split in splits:
        if split not in found:
            raise no_annotations(root, (split,), version)
    listed = classes_of([one.annotations for one in found.values()])
    parts = [_read_split(found[split], listed) for split in splits or found]
    return joined([with_classes(part, listed if classes is None else classes) for part in parts])


def classes_of(files: Sequence[Path]) -> dict[int, str]:
    """Id to name of the classes that any of these annotation files lists, by id; of a file little is read.

    A category that only heads the others, as Roboflow writes it, is left out: it is the supercategory of all others,
    without a supercategory of its own or an annotation. A file that cannot be used has no say, unless all are so.
    Raises InputError where two files give an id to two names, or a name to two ids.
    """
    listed: dict[Path, dict[int, tuple[str, Any]]] = {}
    for file in files:
        try:
            listed[file] = _categories(file)
        except InputError:
            if file == files[-1] and not listed:
                raise
    for file, other in combinations(listed, 2):
        _check_same(file, listed[file], other, listed[other])
    union = {number: both for categories in listed.values() for number, both in categories.items()}
    for number, (name, above) in union.items():
        others = [heads for one, (_, heads) in union.items() if one != number]
        if others and above in (None, "", "none") and all(heads == name for heads in others):
            used = re.compile(rb'"category_id"\s*:\s*"?%d\b' % number)
            if not any(used.search(file.read_bytes()) for file in listed):
                del union[number]
                break
    return {number: union[number][0] for number in sorted(union)}


def _categories(file: Path) -> dict[int, tuple[str, Any]]:
    """Id to name and supercategory of what an annotation file lists; the rest of it is not parsed."""
    content = None
    with (
        contextlib.suppress(OSError, ValueError),  # ValueError: it is empty
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        starts = [found.end() for found in re.finditer(rb'"categories"\s*:\s*(?=\[)', data)]
        size = 2**16
        while len(starts) == 1 and content is None and size < 8 * len(data):  # of several one may be within another
            with contextlib.suppress(ValueError):
                text = data[starts[0] : starts[0] + size].decode(errors="replace")
                content = {"categories": json.JSONDecoder().raw_decode(text)[0]}
            size *= 8
    categories = _List(read_json(file) if content is None else content, "categories", str(file))
    numbers, names = categories.ids("name").tolist(), categories.strings("name", None)
    above = [item.get("supercategory") for item in categories.items]
    return dict(zip(numbers, zip(names, above, strict=True), strict=True))


def _check_same(
    file: Path, ours: Mapping[int, tuple[str, Any]], other: Path, theirs: Mapping[int, tuple[str, Any]]
) -> None:
    def ids(categories: Mapping[int, tuple[str, Any]], name: str) -> set[int]:
        return {number for number, (own, _) in categories.items() if own == name}

    for number in ours.keys() & theirs.keys():
        names = ours[number][0], theirs[number][0]
        if names[0] != names[1]:
            raise InputError(
                f"{file} and {other} contradict: category {number} is {names[0]!r} in the first and {names[1]!r} in "
                "the second; give all splits the same `categories`."
            )
    for name in {name for name, _ in ours.values()} & {name for name, _ in theirs.values()}:
        here, there = ids(ours, name), ids(theirs, name)
        if not (here <= there or there <= here):
            raise InputError(
                f"{file} and {other} contradict: {name!r} has the id {min(here - there)} in the first and "
                f"{min(there - here)} in the second; give all splits the same `categories`."
            )


def with_classes(records: Records, classes: Mapping[int, str]) -> Records:
    """The records with their labels counted in these `classes`, id to name, which have all that are used."""
    boxes, label = records.boxes, {number: label for label, number in enumerate(classes)}
    assert boxes is not None
    to = np.array([label.get(number, -1) for number in records.class_ids], dtype=np.int64)
    gone = [name for number, name in zip(records.class_ids, records.classes, strict=True) if number not in label]
    return replace(
        records,
        boxes=replace(boxes, labels=to[boxes.labels]),
        classes=tuple(classes.values()),
        class_ids=tuple(classes),
        issues=(*records.issues, *(Issue(f"placeholder category left out: `{name}`", 1) for name in gone)),
    )


def classes_beside(file: Path) -> dict[int, str]:
    """Id to name of the classes of the data set in whose folder an annotation file lies; none where it lies in none.

    A detector of all splits' classes finds such as the split at hand does not list.
    """
    for root in file.absolute().parents[:2]:
        with contextlib.suppress(InputError):
            files = [one.annotations.absolute() for one in find_splits(root).values()]
            if file.absolute() in files:
                return classes_of(files)
    return {}


def _read_split(files: SplitFiles, classes: Mapping[int, str]) -> Records:
    path = files.annotations
    if path.stat().st_size > 50e6:
        say(f"reading {path} ({path.stat().st_size / 1e6:,.0f} MB)")
    content = read_json(path)
    records = parse_annotations(content, str(path), classes)
    for key in ("categories", "images"):
        if not content[key]:
            raise InputError(f"{path}: `{key}` is empty; list at least one.")
    folder, matched = _locate(records.file_names, files)
    notes = (matched.note,) if matched.note else ()
    records = replace(records, file_names=matched.names, notes=(*records.notes, *notes))
    usable, unreadable = readable(records.file_names, matched.there, path)
    records, there = replace(records.take(usable), issues=(*records.issues, *unreadable)), matched.there[usable]
    sizes = records["sizes"].copy()
    problems = [b"" if file else b"there is no such file" for file in there]
    unsized = there & (sizes[:, 0] == 0)
    for i in progress(np.flatnonzero(unsized), desc="reading image sizes"):
        try:
            sizes[i] = image_size(folder / os.fsdecode(records.file_names[i]))
        except ImageError as error:
            problems[i] = os.fsencode(error.reason)
    split = np.full(len(records), SPLITS.index(files.split), np.int8)
    records = replace(records, folder=folder).with_columns(split=split, sizes=sizes, problem=np.array(problems))
    records = with_plain_boxes(records, str(path))
    _, first = np.unique(records.file_names, return_index=True)
    again = ~np.isin(np.arange(len(records)), first)

    def file(i: int) -> str:
        return str(records.path(i))

    odd = [*odd_boxes(records.take(there))]
    odd += issue_of("images are of a file that is listed before", again, lambda i: os.fsdecode(records.file_names[i]))
    lost = issue_of("images of the annotations are missing", ~there, file)
    odd += [replace(issue, first=f"{folder}/{matched.nearest}") for issue in lost]
    odd += issue_of("images without width and height (read from their files)", unsized, file)
    return replace(records, issues=(*records.issues, *odd))


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


def odd_boxes(records: Records) -> list[Issue]:
    """What is odd about the boxes of images, which are used as `clip_boxes` says."""
    clipped, boxes = clip_boxes(records), records.boxes
    assert boxes is not None
    image = np.repeat(np.arange(len(records)), np.diff(boxes.offsets))

    def file(row: int) -> str:
        return os.fsdecode(records.file_names[image[row]])

    return [
        *issue_of("crowd regions, which are not searched for objects", boxes.crowd & clipped.usable, file),
        *issue_of(
            "images without annotations", np.diff(boxes.offsets) == 0, lambda i: os.fsdecode(records.file_names[i])
        ),
        *issue_of("boxes of zero or negative size, not trained on", clipped.empty, file),
        *issue_of("boxes over the edge, clipped", clipped.over & clipped.usable, file),
        *issue_of("boxes under 1 px within the image, not trained on", ~clipped.empty & ~clipped.usable, file),
    ]


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
        broken = isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)
        problem = "is not valid JSON" if broken else "has a number too long to read"
        raise InputError(f"{path} {problem} ({error}); give a COCO JSON file.") from None


def parse_annotations(
    content: Any, name: str, others: Mapping[int, str] = MappingProxyType({}), *, for_scoring: bool = False
) -> Records:
    """COCO annotations as records without a folder, in the file's order; `name` is how messages call the file.

    Columns `image_ids` and `sizes`; boxes with the file's own coordinates, or around its masks where it has none, and
    its areas (where it has none, width times height). `others`, id to name, are classes that other splits list, and
    which this file may use. For scoring, what only training needs may be missing: file names,
    category names. Raises InputError for a field that is missing or of the wrong type, ids that are unknown or
    stand for two things, numbers that are not finite, and boxes that are not in COCO's form.
    """
    images, annotations, categories = (_List(content, key, name) for key in ("images", "annotations", "categories"))
    image_ids, own = images.ids("file_name", "width", "height"), dict.fromkeys(categories.ids("name").tolist())
    sizes = images.sizes(strict=not for_scoring)
    image_of = annotations.positions("image_id", image_ids, "`images`")
    classes = {
        **others,
        **dict(zip(own, categories.strings("name", "category {}" if for_scoring else None), strict=True)),
    }
    labels = annotations.positions("category_id", as_ids(sorted(classes)), "`categories`")
    listed = np.isin(range(len(classes)), [label for label, number in enumerate(sorted(classes)) if number in own])
    xywh, found = annotations.boxes(sizes[image_of])
    areas, crowd = (annotations.numbers(key, optional=True) for key in ("area", "iscrowd"))
    issues = [
        *(issue for part in (images, annotations, categories) for issue in part.issues),
        *issue_of("annotations of a class that only another split's file lists", ~listed[labels], annotations.at),
        *issue_of("annotations without area (taken as width x height)", np.isnan(areas) & found, annotations.at),
        *issue_of("annotations without iscrowd (taken as 0)", np.isnan(crowd), annotations.at),
        *issue_of(
            "annotations with an id that is 0, missing or repeated (numbered anew)",
            _odd_ids(annotations.items),
            annotations.at,
        ),
        *issue_of("objects without a box, left out: their masks have no area", ~found, annotations.at),
    ]
    image_of = image_of[found]
    order = np.flatnonzero(found)[np.argsort(image_of, kind="stable")]  # by image, in the file's order within one
    boxes = Boxes(
        np.concatenate([[0], np.cumsum(np.bincount(image_of, minlength=len(image_ids)))]),
        xywh[order],
        labels[order],
        np.nan_to_num(crowd[order]) != 0,
        np.where(np.isnan(areas), xywh[:, 2:].clip(min=0).prod(axis=1), areas)[order],
    )
    files = images.strings("file_name", "" if for_scoring else None)
    records = Records(
        Path(),
        np.array([os.fsencode(PurePath(_NO_BYTE.sub("?", file))) if file else b"" for file in files], dtype=np.bytes_),
        {"image_ids": image_ids, "sizes": sizes},
        boxes,
        tuple(classes[number] for number in sorted(classes)),
        tuple(sorted(classes)),
        tuple(issues),
    )
    return with_plain_boxes(records, name) if for_scoring else records


def parse_results(content: Any, truth: Records, name: str, truth_name: str) -> tuple[Detections, tuple[Issue, ...]]:
    """COCO results as detections in the images of `truth`, and what is odd about them.

    Raises InputError as `parse_annotations`, for boxes in another form too, and for ids that `truth`, which messages
    call `truth_name`, does not have.
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
    labels = results.positions("category_id", as_ids(ids), among)
    sizes = truth["sizes"][images]
    (xywh, _), scores = results.boxes(sizes), results.numbers("score")
    issues = [*results.issues, *_like_corners(xywh, sizes, results.at)]
    _refuse_other_forms(xywh, sizes, name)
    return Detections(images, labels, xywh, scores), tuple(issues)


# --- boxes in another form ------------------------------------------------------------------------------------------


def with_plain_boxes(records: Records, file: str) -> Records:
    """Raise InputError where the boxes of `file` are certainly not (x, y, width, height) in px; count what looks so."""
    boxes = records.boxes
    assert boxes is not None
    image = np.repeat(np.arange(len(records)), np.diff(boxes.offsets))
    sizes: np.ndarray = records["sizes"][image]
    _refuse_other_forms(boxes.xywh, sizes, file)
    issues = _like_corners(boxes.xywh, sizes, lambda row: f"image {records['image_ids'][image[row]]}")
    return replace(records, issues=(*records.issues, *issues))


def _refuse_other_forms(xywh: np.ndarray, sizes: np.ndarray, file: str) -> None:
    """Raise InputError where boxes, (M, 4), in images of `sizes`, (M, 2), are certainly parts of these, or corners."""
    if _are_parts(xywh, sizes):
        raise InputError(
            f"{file}: its boxes are parts of the image, 0 to 1 (the first is {_short(xywh[0].tolist())}); `bbox` must "
            "be [x, y, width, height] in px: multiply x and width by the image's width, y and height by its height."
        )
    known = np.asarray((sizes > 0).all(axis=1))
    # Certain: every box is in order and within its image as corners, which COCO's boxes are not, and many leave it far
    # as sizes do; of few boxes more than half, as one may be drawn over the edge.
    leaving, far = _leave_as_sizes(xywh, sizes), _leave_as_sizes(xywh, sizes, by=0.1).sum()
    corners = (
        (xywh[:, 2:] > xywh[:, :2]) & (xywh[:, :2] >= -1) & (~known[:, None] | (xywh[:, 2:] <= sizes[:, ::-1] + 1))
    )
    count, of = int(leaving.sum()), int(known.sum())
    if corners.all() and (2 * far > of or (of >= 10 and 5 * far > of)):
        row = int(leaving.argmax())
        first = f"{_short(xywh[row].tolist())} in an image of {sizes[row, 1]} x {sizes[row, 0]} px"
        raise InputError(
            f"{file}: its boxes are corners, (x1, y1, x2, y2), not (x, y, width, height): as sizes {count:,} of "
            f"{of:,} leave their image (the first is {first}), as corners none does; write `bbox` as [x1, y1, x2 - x1, "
            "y2 - y1]."
        )


def _are_parts(xywh: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether all boxes, (M, 4), by size or by corners, are within 0 to 1 in images of `sizes` (M, 2) above that."""
    within, start, end = bool(len(xywh)) and bool((np.abs(xywh - 0.5) <= 0.51).all()), xywh[:, :2], xywh[:, 2:]
    return within and bool(
        (end > 0).any() and (sizes != 1).all() and ((start + end <= 1.01).all() or (end > start).all())
    )


def _leave_as_sizes(xywh: np.ndarray, sizes: np.ndarray, by: float = 0.0) -> np.ndarray:
    """Which boxes, (M, 4), are in order as corners and leave their image as COCO's, by more than a part of its side."""
    known = (sizes > 0).all(axis=1)
    over = (xywh[:, :2] + xywh[:, 2:] > sizes[:, ::-1] * (1 + by) + 1).any(axis=1)  # 1: rounding
    return np.asarray(known & (xywh[:, 2:] >= xywh[:, :2]).all(axis=1) & over)


def _like_corners(xywh: np.ndarray, sizes: np.ndarray, first: Callable[[int], str]) -> list[Issue]:
    leaving, known = _leave_as_sizes(xywh, sizes), (sizes > 0).all(axis=1).sum()
    what = f"of {known:,} boxes leave their image: they look like (x1, y1, x2, y2), not (x, y, width, height)"
    return issue_of(what, leaving, first) if leaving.sum() * 2 > known else []


# --- boxes around masks ---------------------------------------------------------------------------------------------


def _around_mask(mask: Any, size: tuple[int, int]) -> list[float]:
    """The box around a `segmentation`, [x, y, width, height] px; [0, 0, 0, 0] where it has no area.

    It is a list of polygons, or run-length encoded, where `size` (height, width) must be the image's if that is known.
    Raises ValueError and the like where it is neither.
    """
    if isinstance(mask, Mapping):
        return _around_runs(mask, size)
    if mask and isinstance(mask[0], Mapping):
        xywh = np.array([_around_runs(part, size) for part in mask])
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[xywh[:, 2] > 0]
    else:
        pairs = bool(mask) and all(isinstance(part, Sequence) and len(part) == 2 for part in mask)
        parts = [mask] if pairs or (mask and isinstance(mask[0], Real)) else mask  # one polygon, by points or numbers
        polygons = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts]
        if not all(np.isfinite(points).all() for points in polygons):
            raise ValueError("not finite")
        wide = [one for one in polygons if len(one) > 2 and np.linalg.matrix_rank(one - one[0]) == 2]  # not on one line
        corners = np.array([[*points.min(axis=0), *points.max(axis=0)] for points in wide])
    if not len(corners):
        return [0.0] * 4
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _around_runs(mask: Mapping[str, Any], size: tuple[int, int]) -> list[float]:
    from pycocotools import mask as masks  # it is compiled, and few files need it

    height, width = map(int, mask["size"])
    if min(height, width) < 1 or (all(size) and (height, width) != size):
        raise ValueError("another size")
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        counts = counts.encode() if isinstance(counts, str) else counts
        if not counts or min(counts) < 48 or max(counts) >= 112 or (counts[-1] - 48) & 32:
            raise ValueError("not COCO's letters, or cut off")
        packed = {"size": [height, width], "counts": counts}
    else:
        runs = np.array(counts, dtype=np.int64)
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError("not the runs of all pixels")
        packed = masks.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    if not masks.area(packed):
        return [0.0] * 4
    box: list[float] = masks.toBbox(packed).tolist()
    if box[0] + box[2] > width or box[1] + box[3] > height:
        raise ValueError("more pixels than the size has")
    return box


# --- lists in a file ------------------------------------------------------------------------------------------------


class _List:
    """One list of objects in a COCO file; its fields as columns. InputError names the first item at fault."""

    def __init__(self, content: Any, key: str, name: str) -> None:
        if not isinstance(content, Mapping):
            raise InputError(f"{name} is not COCO: its top level is of type {type(content).__name__}; {_REMEDY}")
        items = content.get(key)
        if not isinstance(items, Sequence) or isinstance(items, str):
            found = ", ".join(f"`{one}`" for one in list(content)[:6]) or "nothing"
            raise InputError(f"{name} is not COCO: it has no list `{key}` (it has {found}); {_REMEDY}")
        if not all(issubclass(kind, Mapping) for kind in set(map(type, items))):
            at = next(i for i, item in enumerate(items) if not isinstance(item, Mapping))
            raise InputError(f"{name} is not COCO: {key}[{at}] is {_short(items[at])}; it must be an object.")
        self.name, self.key = name, key
        self.items: Sequence[Mapping[str, Any]] = items
        self.issues: list[Issue] = []  # what was odd in the fields asked for

    def at(self, row: int) -> str:
        """How messages call an item."""
        return f"{self.key}[{row}]" + (f" (id {_short(self.items[row]['id'])})" if "id" in self.items[row] else "")

    def refused(self, row: int, field: str, wanted: str, count: int = 1) -> InputError:
        problem = f"is {_short(self.items[row][field])}" if field in self.items[row] else "is missing"
        others = f" ({count} of {len(self.items)} are like this)" if count > 1 else ""
        return InputError(f"{self.name}: {self.at(row)}: `{field}` {problem}{others}; it must be {wanted}.")

    def numbers(self, field: str, *, optional: bool = False, wanted: str = "a finite number") -> np.ndarray:
        """A field, float64 (M,); NaN where it may be missing and is. An optional one may be true or false too."""
        values, text = _from_text([item.get(field) for item in self.items])
        self.issues += issue_of(f"`{field}` given as text (taken as numbers)", text, self.at)
        also = (type(None), bool) if optional else ()
        self._check(_are_numbers(values, also), field, wanted)
        column = _as_floats(values)  # None is NaN
        self._check(np.isfinite(column) | np.array([value is None for value in values], dtype=bool), field, wanted)
        return column

    def integers(self, field: str) -> np.ndarray:
        """A field, as `as_ids` has it; 7.0 and "7" are 7."""
        values = [item.get(field) for item in self.items]
        if set(map(type, values)) <= {int}:
            return as_ids(values)
        numbers = [_integer(value) for value in values]
        fine = np.array([number is not None for number in numbers])
        wanted = "an integer"
        if not fine.all() and isinstance(values[int(fine.argmin())], float):
            wanted += " (one of 2**53 or more without point or exponent: as a float it has lost its last digits)"
        self._check(fine, field, wanted)
        text = np.array([isinstance(value, str) for value in values])
        self.issues += issue_of(f"`{field}` given as text (taken as integers)", text, self.at)
        return as_ids(numbers)

    def ids(self, *same: str) -> np.ndarray:
        """The ids of the items, each its own; an item that repeats another's, and its fields `same`, is left out."""
        ids = self.integers("id")
        first: dict[int, int] = {}
        repeated = np.array(
            [first.setdefault(number, row) != row for row, number in enumerate(ids.tolist())], dtype=bool
        )
        for row in np.flatnonzero(repeated).tolist():
            other = first[ids[row]]
            if any(self.items[row].get(field) != self.items[other].get(field) for field in same):
                raise InputError(
                    f"{self.name}: {self.key}: `id` {ids[row]} occurs {(ids == ids[row]).sum()} times, as {self.key}["
                    f"{other}] and [{row}], which differ; give each an id of its own."
                )
        self.issues += issue_of(f"repeated entries of `{self.key}`, left out", repeated, self.at)
        self.items = [item for item, again in zip(self.items, repeated.tolist(), strict=True) if not again]
        return ids[~repeated]

    def positions(self, field: str, ids: np.ndarray, among: str) -> np.ndarray:
        """Where the ids of a field stand in `ids`, int64 (M,)."""
        wanted, where = self.integers(field).tolist(), {one: i for i, one in enumerate(ids.tolist())}
        positions = np.array([where.get(one, -1) for one in wanted], dtype=np.int64)
        unknown = positions < 0
        if unknown.any():
            row = int(unknown.argmax())
            raise InputError(
                f"{self.name}: {self.at(row)}: `{field}` {wanted[row]} is not among {among} ({unknown.sum()} of "
                f"{len(wanted)} are like this); add it there, or remove what refers to it."
            )
        return positions

    def boxes(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field `bbox`, float64 (M, 4), or the box around `segmentation` where there is none; and which rows have one.

        `sizes` (M, 2) are (height, width) of the images, 0 where unknown. A mask without area has none: [0, 0, 0, 0].
        """
        wanted = "[x, y, width, height] in px, four finite numbers"
        boxes: list[Any] = [item.get("bbox") for item in self.items]
        masked = np.zeros(len(boxes), dtype=bool)
        for row, box in enumerate(boxes):
            if box is None or (isinstance(box, list) and not box):
                masked[row] = self.items[row].get("segmentation") is not None
        for row in np.flatnonzero(masked).tolist():
            height, width = sizes[row].tolist()
            try:
                boxes[row] = _around_mask(self.items[row]["segmentation"], (height, width))
            except (ValueError, TypeError, LookupError, OverflowError):
                size = f" of the image's size {[height, width]}" if height else ""
                known = (
                    f"polygons [[x1, y1, x2, y2, x3, y3, ...]] in px, or {{counts, size}}{size}, as `bbox` is missing"
                )
                raise self.refused(row, "segmentation", known) from None
        self._check([isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 for box in boxes], "bbox", wanted)
        sides, text = _from_text(list(chain.from_iterable(boxes)))
        rows = np.unique(np.flatnonzero(text) // 4)
        self.issues += issue_of("`bbox` given as text (taken as numbers)", rows, self.at)
        self._check(np.reshape(_are_numbers(sides), (-1, 4)).all(axis=1), "bbox", wanted)
        xywh = _as_floats(sides).reshape(-1, 4)
        self._check(np.isfinite(xywh).all(axis=1), "bbox", wanted)
        found: np.ndarray = ~masked | (xywh[:, 2] > 0)
        self.issues += issue_of("objects without `bbox` (taken from their masks)", masked & found, self.at)
        return xywh, found

    def sizes(self, *, strict: bool) -> np.ndarray:
        """Fields `height` and `width`, int64 (N, 2); 0 where not both are given, or sensible if not `strict`."""
        sizes = np.zeros((len(self.items), 2), dtype=np.int64)
        for column, field in enumerate(("height", "width")):
            sides, text = _from_text([item.get(field) for item in self.items])
            self.issues += issue_of(f"`{field}` given as text (taken as numbers)", text, self.at)
            for row, side in enumerate(sides):
                if isinstance(side, int | float) and 1 <= side < 2**31 and side == int(side):
                    sizes[row, column] = side
                elif (
                    strict
                    and side not in (None, "")
                    and not (isinstance(side, int | float) and (side <= 0 or side != side))
                ):
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


def _from_text(values: list[Any]) -> tuple[list[Any], np.ndarray]:
    """The values with numbers for those that are texts of one, and which these are, bool (M,)."""
    if str not in set(map(type, values)):
        return values, np.zeros(len(values), dtype=bool)
    text = np.array([isinstance(value, str) and bool(_NUMBER.fullmatch(value)) for value in values], dtype=bool)
    return [float(value) if is_text else value for value, is_text in zip(values, text.tolist(), strict=True)], text


def _are_numbers(values: Sequence[Any], also: tuple[type, ...] = ()) -> np.ndarray:
    """Which are numbers, or of the types `also`, bool (N,)."""
    kinds = set(map(type, values))  # few, so that 200,000 boxes take a tenth of a second
    odd = {kind for kind in kinds - set(also) if kind is bool or not issubclass(kind, Real)}
    return np.array([type(value) not in odd for value in values]) if odd else np.ones(len(values), dtype=bool)


def _as_floats(values: Sequence[Any]) -> np.ndarray:
    """Numbers and None, float64 (M,); an integer that no float holds is infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        large = sys.float_info.max
        return np.array([math.inf if isinstance(v, int) and abs(v) > large else v for v in values], dtype=np.float64)


def as_ids(numbers: Sequence[Any]) -> np.ndarray:
    """Integers as int64 (M,), or as Python's own, dtype object, where one of them is larger."""
    try:
        return np.array(numbers, dtype=np.int64)
    except OverflowError:
        return np.array(numbers, dtype=object)


def _integer(value: object) -> int | None:
    """The integer that a number or a text of digits is, or None; a float above 2**53 may have been another."""
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return int(number) if abs(number) < 2**53 and number.is_integer() else None


def _odd_ids(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which ids are 0, missing or repeated, bool (M,): pycocotools errs with such, or loses boxes."""
    ids = [annotation.get("id") for annotation in annotations]
    if set(map(type, ids)) == {int} and 0 not in (each := set(ids)) and len(each) == len(ids):
        return np.zeros(len(ids), dtype=bool)
    count = Counter(map(str, ids))
    return np.array([one is None or one == 0 or count[str(one)] > 1 for one in ids], dtype=bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
