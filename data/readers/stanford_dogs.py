"""Stanford Dogs: 120 breeds, 12,000 training and 8,580 test images, in the layout that its three archives unpack to.

Khosla et al., 2011, http://vision.stanford.edu/aditya86/ImageNetDogs; `python -m data.stanford_dogs DIR` fetches it.
The images are ImageNet's, so a trunk pretrained on ImageNet may have seen the test images.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
from scipy.io import loadmat

from backbone.errors import InputError, check_options
from data.copies import same_bytes
from data.folders import list_folder, progress
from data.matching import match_files
from data.readers.csv_table import refuse_repeated
from data.records import SPLITS, Issue, Records


def is_stanford_dogs(root: Path) -> bool:
    """Whether `root` is laid out as Stanford Dogs, complete or not; read() then says what is missing."""
    marks = ("Annotation", "lists", "train_list.mat", "test_list.mat")
    return (root / "Images").is_dir() and any((root / mark).exists() for mark in marks)


def read(root: Path, *, crop: Literal["full", "bbox"] = "full") -> Records:
    """The data set in `root`, or a part of it: any two or more class folders, with lists that number them from 1.

    Columns `labels` and `split`: the test list is "test", whole, since its figure is what is compared; of the training
    list, images that are byte-identical to a test image, to an earlier training image, or to one of another class are
    left out and counted. With crop="bbox" `crop_xyxy` is the box of the largest object, NaN where its XML has none.
    Raises InputError where lists, folders and labels do not fit together.
    """
    check_options("data", ("crop", crop, crop in ("full", "bbox"), "full or bbox"))
    images = root / "Images"
    folders, files = _listed(images)
    train_list, train, train_labels, *notes = _read_list(root, "train_list.mat", folders, files)
    test_list, test, test_labels, *more_notes = _read_list(root, "test_list.mat", folders, files)
    if both := sorted(set(train) & set(test)):
        raise InputError(
            f"{train_list} and {test_list} both list {both[0]} ({len(both)} such images); "
            "an image is to train on or to test on: unpack lists.tar again."
        )
    same = same_bytes(images, np.array([os.fsencode(file) for file in [*train, *test]]))
    kept, issues = _without_copies(same[: len(train)], train_labels, same[len(train) :])
    issues.append(Issue(f"files in {images} are in neither list and left out", len(files) - len(train) - len(test)))
    copied = len(test) - len(np.unique(same[len(train) :]))
    issues.append(Issue("test images are copies of other test images; the official test list is kept whole", copied))
    train, train_labels = [train[i] for i in np.flatnonzero(kept)], train_labels[kept]
    per_class = np.bincount(train_labels, minlength=len(folders))
    if not per_class.all():
        raise InputError(
            f"{images / folders[int(np.argmin(per_class))]} has no image to train on in {train_list}, copies aside "
            f"({int((per_class == 0).sum())} such folders); unpack lists.tar again, or remove the folder."
        )
    columns = {
        "labels": np.concatenate([train_labels, test_labels]),
        "split": np.repeat(np.array([SPLITS.index("train"), SPLITS.index("test")], np.int8), [len(train), len(test)]),
    }
    if crop == "bbox":
        columns["crop_xyxy"], without = _boxes(root / "Annotation", [*train, *test])
        issues += without
    return Records(
        images,
        np.array([os.fsencode(file) for file in [*train, *test]]),
        columns,
        classes=tuple(re.sub(r"^n\d+-", "", folder).replace("_", " ") for folder in folders),
        issues=tuple(issue for issue in issues if issue.count),
        notes=tuple(note for note in (*notes, *more_notes) if note),
    )


def _listed(images: Path) -> tuple[tuple[str, ...], set[str]]:
    """The class folders, sorted, and every image "folder/name" in them."""
    listing = list_folder(images, depth=1)
    folders = sorted(path for path in listing.images if path and "/" not in path)
    if len(folders) < 2:
        raise InputError(
            f"{images} must hold a folder for each class, at least two; it has {folders[0] if folders else 'none'}."
        )
    if empty := [folder for folder in folders if not listing.images[folder]]:
        raise InputError(f"{images / empty[0]} holds no image; unpack images.tar again, or remove the folder.")
    return tuple(folders), {f"{folder}/{os.fsdecode(name)}" for folder in folders for name in listing.images[folder]}


def _read_list(
    root: Path, name: str, folders: Sequence[str], there: set[str]
) -> tuple[Path, list[str], np.ndarray, str]:
    """The list's own path, its files "folder/name.jpg", their labels from 0, int64 (N,), and a note or ""."""
    places = (root / "lists" / name, root / name)  # lists.tar has no folder of its own and may be unpacked into either
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"{root} has no {name}; looked for {places[0]} and {places[1]}: unpack lists.tar there.")
    again = "unpack lists.tar again."
    try:
        content = loadmat(path)
    except Exception as error:  # loadmat raises a dozen kinds: ValueError, TypeError, OSError, zlib.error ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read as a MATLAB file ({reason}); {again}") from error
    for key in ("file_list", "labels"):
        if key not in content:
            found = ", ".join(f"`{key}`" for key in content if not key.startswith("__")) or "nothing"
            raise InputError(f"{path} has no `{key}` (found {found}); {again}")
    items = [np.ravel(item) for item in np.ravel(content["file_list"])]
    numbers = np.ravel(content["labels"])
    if not items or len(items) != len(numbers):
        raise InputError(f"{path}: `file_list` has {len(items)} items and `labels` {len(numbers)}; {again}")
    if odd := [row for row, item in enumerate(items, start=1) if item.size != 1 or item.dtype.kind != "U"]:
        raise InputError(f"{path}: item {odd[0]} of `file_list` is not a string; {again}")
    if numbers.dtype.kind not in "iuf":
        raise InputError(f"{path}: `labels` must be numbers (found {numbers.dtype}); {again}")
    listed = np.array([os.fsencode(str(item[0])) for item in items])
    matched = match_files(root / "Images", listed, path, np.array(sorted(map(os.fsencode, there))))
    refuse_repeated(path, matched.names)
    files = list(map(os.fsdecode, matched.names))
    if missing := int((~matched.there).sum()):
        raise InputError(
            f"{path} lists {matched.nearest}; it is not in {root / 'Images'} ({missing} of {len(files)} images are "
            "missing); unpack images.tar again, or give lists of the images that are there."
        )
    of_folder = {folder: label for label, folder in enumerate(folders)}
    labels = np.array([of_folder[file.split("/")[0]] for file in files], np.int64)
    if (wrong := numbers != labels + 1).any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"{path}: the label of {files[at]} is {numbers[at]:g}, but in sorted order its folder is {labels[at] + 1} "
            f"of the {len(folders)} in {root / 'Images'} ({int(wrong.sum())} such labels); lists and folders must be "
            "of the same data set."
        )
    return path, files, labels, matched.note


def _without_copies(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, list[Issue]]:
    """Which training images to keep, bool (N,), and how many are left out for which reason.

    `train` and `test` are numbers of same_bytes().
    """
    in_test = np.isin(train, test)
    _, first, group = np.unique(train, return_index=True, return_inverse=True)
    ambiguous = ~in_test & np.isin(group, group[labels != labels[first[group]]])
    later = ~in_test & ~ambiguous & (first[group] != np.arange(len(train)))
    copies = "training images are left out as copies, byte for byte,"
    return ~(in_test | ambiguous | later), [
        Issue(f"{copies} of test images", int(in_test.sum())),
        Issue(f"{copies} of earlier training images", int(later.sum())),
        Issue(f"{copies} that have several labels", int(ambiguous.sum())),
    ]


def _boxes(annotation: Path, files: Sequence[str]) -> tuple[np.ndarray, list[Issue]]:
    """The box of the largest object of each file, float32 (N, 4) xyxy px, NaN where there is none; counted."""
    boxes = np.full((len(files), 4), np.nan, dtype=np.float32)
    reasons: Counter[str] = Counter()
    for row, file in enumerate(progress(files, desc="reading the boxes")):
        box = _largest_box(annotation / file.rpartition(".")[0])
        if isinstance(box, str):
            reasons[box] += 1
        else:
            boxes[row] = box
    if reasons.total() == len(files):
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        raise InputError(
            f"{annotation} has no box for any of {len(files):,} images ({counts}); unpack annotation.tar there."
        )
    return boxes, [Issue(f"images {reason} are used whole", count) for reason, count in sorted(reasons.items())]


def _largest_box(path: Path) -> tuple[float, float, float, float] | str:
    """The largest box in one XML, xyxy in px within the image, or what is wrong, for counting."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        return "without XML"
    except (OSError, SyntaxError, ValueError, LookupError):  # ParseError is a SyntaxError; LookupError: the encoding
        return "with broken XML"
    width, height = (_number(root, key) for key in ("size/width", "size/height"))
    # A size of 0, or none, says nothing of the image.
    width, height = (value if value >= 1 else math.inf for value in (width, height))
    best, best_area = None, 0.0
    for box in root.iter("bndbox"):
        x1, y1, x2, y2 = (_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        # Corners are pixels from 0, both within the box: objects that fill the image end at width - 1, none at width.
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2 + 1, width), min(y2 + 1, height)
        if x2 - x1 > 1 and y2 - y1 > 1 and (x2 - x1) * (y2 - y1) > best_area:  # false with a NaN; 1 px is no object
            best, best_area = (x1, y1, x2, y2), (x2 - x1) * (y2 - y1)
    return best or "without a box inside the image"


def _number(element: ElementTree.Element, path: str) -> float:
    """The number at `path`; NaN where there is none, or an infinite one."""
    try:
        value = float(element.findtext(path) or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
