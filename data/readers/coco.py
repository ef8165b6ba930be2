"""Detection data in COCO's JSON: in COCO's own folders, or in those that annotation tools export. No torch.

What one file says is read by `coco_file`; here files and images are found, and the classes of all splits are one list.
"""

import contextlib
import json
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.folders import are_there, existing_folder, is_foreign, progress, readable, say
from data.images import ImageError, image_size
from data.matching import Matched, match_files
from data.readers.box_checks import odd_boxes, told_if_few_usable, with_plain_boxes
from data.readers.boxes import repeated_boxes
from data.readers.coco_fields import FieldList
from data.readers.coco_file import parse_annotations, read_json
from data.records import SPLITS, Boxes, Issue, Records, Split, issue_of, joined
from data.splits import NAMES, split_named

_TOOLS_FILE = "_annotations.coco.json"
# A data set that is not divided, as Label Studio, FiftyOne, CVAT and Roboflow call its file: all is to train on.
_UNDIVIDED = frozenset(("result.json", "labels.json", "annotations.json", "instances_default.json", _TOOLS_FILE))
_MOST_JUDGED = 20  # files of a folder by their content: where there are more, each is of an image


class SplitFiles(NamedTuple):
    """Where one split lies: its annotation file, and the folders its images may be in, likeliest first."""

    split: Split
    annotations: Path
    image_folders: tuple[Path, ...]


class NoAnnotations(InputError):
    """A folder without COCO's annotation files: it may be of another layout."""


def find_splits(root: Path, version: str = "") -> dict[Split, SplitFiles]:
    """The files of each split that `root` has, at least one.

    COCO's own layout: `annotations/instances_<split><version>.json`, with the images in `<split><version>/`,
    `images/<split><version>/`, `images/` or `root`. Annotation tools': `<split>/_annotations.coco.json` among its
    images, or `<split>.json` in `annotations/` or `root`. One file alone that is called otherwise, in `root` or a
    folder in it, is of a data set that is not divided: all is of train. Splits are called as split_named() knows them.
    `root` may be such a file, which is then the only one. Raises InputError where several files match, or none.
    """
    found: dict[Split, list[SplitFiles]] = {}
    file = root if root.is_file() and root.suffix.lower() == ".json" else None
    if file:
        root = file.absolute().parent
        root = root.parent if root.name.lower() == "annotations" else root
    root = existing_folder(root)
    top = _folders(root)
    images = [folder for folder in top if folder.name.lower() == "images"]
    places = [(*top, *chain.from_iterable(map(_folders, images))), images]
    if file:
        name, rest = _split_and_version(file.stem)
        of_file: Split = split_named(name) or split_named(file.parent.name) or "train"
        folders = _image_folders(root, f"{name}{rest}", of_file, *places)
        return {of_file: SplitFiles(of_file, file, (*folders, root / "data", file.parent))}
    for folder in [folder for folder in top if folder.name.lower() == "annotations"]:
        for path in sorted(folder.glob("*.json")):
            name, rest = _split_and_version(path.stem)
            if (split := split_named(name)) and version in ("", rest):
                folders = _image_folders(root, f"{name}{rest}", split, *places)
                found.setdefault(split, []).append(SplitFiles(split, path, folders))
    for folder in top:
        if split := split_named(folder.name):
            tools = folder / _TOOLS_FILE
            own = [tools] if tools.is_file() else _undivided((folder,)) if not version and split not in found else []
            if len(own) == 1:
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
    of = [[path for path in sorted(folder.glob("*.json")) if not is_foreign(path.name)] for folder in folders]
    named = [path for files in of for path in files if path.name.lower() in _UNDIVIDED]
    return named or [path for files in of if len(files) <= _MOST_JUDGED for path in files if _has_lists(path)]


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
    if root.is_file():
        return NoAnnotations(
            f"{root} is of another split than {' or '.join(splits)}; give the folder with the files of all splits, or "
            "one of this split."
        )
    tried = [f"{root}/annotations/instances_{split}{version or '*'}.json" for split in splits]
    tried += [f"{root}/{name}/{_TOOLS_FILE}" for name, split in NAMES.items() if split in splits]
    there = sorted(str(path.relative_to(root)) for path in [*root.glob("*.json"), *root.glob("annotations/*.json")])[:3]
    found = f" It has only {', '.join(there)}." if there else ""
    return NoAnnotations(
        f"{root} has no annotation file; looked for {', '.join(tried)}.{found} Put the COCO JSON there, or point "
        "--data at the folder that holds it."
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
    categories = FieldList(read_json(file) if content is None else content, "categories", str(file))
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
    for root in reversed(file.absolute().parents[:2]):
        with contextlib.suppress(InputError, OSError):
            files = [one.annotations.absolute() for one in find_splits(root).values()]
            if file.absolute() in files and len(files) > 1:
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
    records = _without_repeats(records)
    kept, bare = _without_bare_entries(records)
    records, there = replace(records.take(kept), issues=(*records.issues, *bare)), there[kept]
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
    records = told_if_few_usable(with_plain_boxes(records, str(path)), str(path))
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


def _without_bare_entries(records: Records) -> tuple[np.ndarray, list[Issue]]:
    """Which images to keep, bool (N,): not those without boxes whose file another image with boxes has too."""
    assert records.boxes is not None
    boxed = np.diff(records.boxes.offsets) > 0
    _, of = np.unique(records.file_names, return_inverse=True)
    bare = ~boxed & (np.bincount(of, weights=boxed) > 0)[of]
    what = "images without boxes whose file is listed with boxes too, left out"
    return ~bare, issue_of(what, bare, lambda i: os.fsdecode(records.file_names[i]))


def _without_repeats(records: Records) -> Records:
    """Without the boxes that repeat one of their image and class to the last digit, which are counted."""
    boxes = records.boxes
    assert boxes is not None
    image = boxes.images
    again = repeated_boxes(image, boxes.labels, boxes.xywh)
    what = "boxes that repeat another, left out"
    issues = issue_of(what, again, lambda row: os.fsdecode(records.file_names[image[row]]))
    counts = np.bincount(image[~again], minlength=len(records))
    columns = (column[~again] for column in (boxes.xywh, boxes.labels, boxes.crowd, boxes.areas))
    once = Boxes(np.concatenate([[0], np.cumsum(counts)]), *columns)
    return replace(records, boxes=once, issues=(*records.issues, *issues))


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
