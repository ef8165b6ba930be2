"""Labelled images in a folder for each class: `train/<class>/*`, `val/<class>/*` and `test/<class>/*`, or `<class>/*`.

No file is opened, as ImageNet's 1.28 million have to be found in seconds.
"""

import os
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.folders import Listing, existing_folder, list_folder
from data.images import IMAGE_ENDINGS
from data.records import SPLITS, UNSPLIT, Issue, Records, Split
from data.splits import split_named

_WANTED = "wanted are train/<class>/, val/<class>/ and test/<class>/ with images, or <class>/ alone."


def read(root: Path) -> Records:
    """Records with `labels`, `split` (UNSPLIT where there are only class folders) and the class folders as `classes`.

    Labels count the class folders in sorted order and images come in the order of their paths, both as torchvision's
    ImageFolder has it; a split's folder may be called as `split_named` knows it. Class folders are searched to the
    bottom, links followed. Raises InputError for a folder of another layout, and for classes that do not fit.
    """
    listing = list_folder(existing_folder(root))
    top = [path for path in listing.images if path and "/" not in path]
    folders, notes = _split_folders(root, listing, top)
    start = f"{folders['train']}/" if folders else ""
    classes = _classes(root / start, listing, start)
    labels: dict[str, int] = {name: label for label, name in enumerate(classes)}
    images: dict[str, list[bytes]] = {}
    for split, folder in (folders or {"train": ""}).items():
        start = f"{folder}/" if folder else ""
        mine = {path: names for path, names in listing.images.items() if names and path.startswith(start) and path}
        if folder and (loose := len(listing.images[folder])):
            notes.append(f"{loose:,} images right in {root / folder}, in no class folder, are left out")
            mine.pop(folder, None)
        _check_classes(root / folder, split, mine, start, labels)
        images |= mine
        if folder and not mine:
            notes.append(f"{root / folder} has no images in class folders and is left out")

    names = Listing(images).names()
    parts = [name.split(b"/") for name in names.tolist()]
    if folders:
        of_folder = {os.fsencode(folder): SPLITS.index(split) for split, folder in folders.items()}
        split_column = np.array([of_folder[part[0]] for part in parts], np.int8)
    else:
        split_column = np.full(len(names), UNSPLIT, np.int8)
    of_class = {os.fsencode(name): label for name, label in labels.items()}
    columns: dict[str, np.ndarray] = {
        "labels": np.array([of_class[part[1 if folders else 0]] for part in parts], np.int64),
        "split": split_column,
    }
    issues = [
        Issue(f"files ({ending}) are left out, as they are not images by their names", count)
        for ending, count in listing.others.most_common(5)
    ]
    for split in folders:
        present = np.unique(columns["labels"][split_column == SPLITS.index(split)])
        missing = np.setdiff1d(np.arange(len(classes)), present)
        if len(present) and len(missing):
            issues.append(
                Issue(f"of the {len(classes)} classes have no image in {split}", len(missing), classes[missing[0]])
            )
    return Records(root, names, columns, classes=classes, issues=tuple(issues), notes=tuple(notes))


def _split_folders(root: Path, listing: Listing, top: list[str]) -> tuple[dict[Split, str], list[str]]:
    """The folder of each split, none where the root's folders are classes, and notes.

    A folder called train may be a class, of the vehicle: it is the split where it has folders in it. Raises InputError
    where that cannot be told.
    """
    named: dict[Split, list[str]] = {split: [name for name in top if split_named(name) == split] for split in SPLITS}
    parts = [name for names in named.values() for name in names]
    beside = [name for name in top if name not in parts]
    deep = any(path.split("/")[0] in parts and "/" in path for path in listing.images)
    if not parts or (beside and not deep):
        return {}, []
    for names in named.values():
        if len(names) > 1:
            raise InputError(f"{root} has both {names[0]}/ and {names[1]}/; take one away, or join them.")
    if not named["train"]:
        raise InputError(f"{root} has {parts[0]}/ but no train/; {_WANTED}")
    notes = [f"beside {', '.join(parts)}, {root} has {', '.join(sorted(beside)[:5])}: left out"] if beside else []
    return {split: names[0] for split, names in named.items() if names}, notes


def _classes(folder: Path, listing: Listing, start: str) -> tuple[str, ...]:
    """The names of the class folders. Raises InputError where there are not two or more, each with images."""
    inside = [path.removeprefix(start) for path in listing.images if path.startswith(start) and path != start]
    names = tuple(sorted(name for name in inside if name and "/" not in name))
    if not names:
        loose = len(listing.images.get(start.rstrip("/"), ()))
        held = f"{loose:,} images lie right in it" if loose else "it holds no images"
        raise InputError(f"{folder} has no class folders, and {held}; {_WANTED}")
    if len(names) == 1:
        hint = f"is {folder / names[0]} the data set? If not, " if any("/" in name for name in inside) else ""
        raise InputError(f"{folder} has the one class folder {names[0]!r}, and there must be two; {hint}{_WANTED}")
    full = {path.removeprefix(start).split("/")[0] for path, images in listing.images.items() if images}
    if empty := [name for name in names if name not in full]:
        more = f" (nor {len(empty) - 1} others)" if len(empty) > 1 else ""
        raise InputError(
            f"{folder}: the class folder {empty[0]!r} holds no image{more} by its ending "
            f"({', '.join(sorted(IMAGE_ENDINGS))}); put images in it, or take it away."
        )
    return names


def _check_classes(
    folder: Path, split: Split, images: dict[str, list[bytes]], start: str, labels: dict[str, int]
) -> None:
    """Raise InputError where a split has a class that training lacks, or validation no class at all."""
    names = dict.fromkeys(path.removeprefix(start).split("/")[0] for path in images)
    if unknown := [name for name in names if name not in labels]:
        more = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise InputError(
            f"{folder} has the class folder {unknown[0]!r}{more}, which the training images lack (they have "
            f"{', '.join(map(repr, list(labels)[:3]))} ...); name them alike, or take it away."
        )
    if split == "val" and not names:
        raise InputError(
            f"{folder} has no image in a class folder; sort its images into the folders of their classes, or take it "
            "away, and a part of the training images is set aside instead."
        )
