"""Labelled images in a folder for each class: `train/<class>/*`, `val/<class>/*` and `test/<class>/*`, or `<class>/*`.

No file is opened, as ImageNet's 1.28 million have to be found in seconds.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.folders import (
    UNREADABLE_ENDINGS,
    Listing,
    count_of,
    existing_folder,
    list_folder,
    no_image,
    unreadable_images,
)
from data.records import SPLITS, UNSPLIT, Issue, Records, Split
from data.splits import split_named

_WANTED = "wanted are train/<class>/, val/<class>/ and test/<class>/ with images, or <class>/ alone."

_Tree = dict[str, list[str]]  # class to its folders, to the bottom, by their paths in the root; both sorted


def read(root: Path) -> Records:
    """Records with `labels`, `split` (UNSPLIT where there are only class folders) and the class folders as `classes`.

    Labels count the class folders in sorted order, those of train before what others have besides, and a split's images
    come in the order of their paths, as torchvision's ImageFolder has it; a split's folder may be called as
    `split_named` knows it. Class folders are searched to the bottom, links followed; names of one file are of one
    `group`. Where a folder holds nothing but another, that one is read. Raises InputError for a folder of another
    layout, and where a file that is trained on is in another split as well. What is missing to train is not asked for.
    """
    listing = list_folder(existing_folder(root), depth=2)  # a folder of two classes counts for both
    if inner := _wrapped(listing):
        records = read(root / inner)
        return replace(records, notes=(f"{root} holds one folder, and {root / inner} is read", *records.notes))
    folders, trees, notes = _parts(root, listing)
    trained = trees.get("train", {})
    names_of_classes = [*trained, *sorted({name for tree in trees.values() for name in tree} - set(trained))]
    _check_folders(root, folders, trees, listing)
    empty = [name for name in names_of_classes if _is_empty(listing, [tree.get(name, []) for tree in trees.values()])]
    if empty and len(names_of_classes) - len(empty) > 1:  # of one class alone they are what is missing
        names_of_classes = [name for name in names_of_classes if name not in empty]
        named = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        notes.append(f"{count_of(len(empty), 'folder')} of {root} without an image: no class, and left out ({named})")
    usable: list[Split] = []
    for split, folder in folders.items():
        loose, holds = len(listing.images[folder]), any(_count(listing, paths) for paths in trees[split].values())
        usable += [split] * holds
        if not holds:
            notes.append(f"{root / folder} has no images in class folders and is left out")
        elif loose:
            notes.append(f"{loose:,} images right in {root / folder}, in no class folder, are left out")
    paths: list[str] = []
    rows: list[tuple[int, int]] = []  # (label, split) of the images in each of the paths
    unsplit = list(folders.items()) == [("train", "")]
    for split in usable:
        for label, name in enumerate(names_of_classes):
            paths += (inside := trees[split].get(name, []))
            rows += [(label, UNSPLIT if unsplit else SPLITS.index(split))] * len(inside)
    sizes = [len(listing.images[path]) for path in paths]
    labels, splits = np.repeat(np.array(rows), sizes, axis=0).T
    names = listing.names(paths)
    inodes = np.array([inode for path in paths for inode in listing.inodes[path]], np.uint64)
    _refuse_shared_files(root, names, inodes, splits)
    classes = tuple(os.fsencode(name).decode(errors="replace") for name in names_of_classes)  # can be printed
    others = sum((listing.others[path] for path in paths), Counter[str]())
    issues = [*unreadable_images([others])]
    issues += [
        Issue(f"files ({ending}) in the class folders are left out, by their names no images", count)
        for ending, count in others.most_common(5)
        if ending not in UNREADABLE_ENDINGS
    ]
    for split in usable:
        missing = [label for label, name in enumerate(names_of_classes) if not _count(listing, trees[split].get(name))]
        if missing:
            what = f"of the {len(classes)} classes have no image in {split}"
            issues.append(Issue(what, len(missing), classes[missing[0]]))
    columns = {"labels": labels.astype(np.int64), "split": splits.astype(np.int8)}
    _, first, file = np.unique(inodes, return_index=True, return_inverse=True)
    if len(first) < len(names):  # links: no split that is drawn shall have the file of another
        columns["group"] = np.where(inodes > 0, names[first][file], names)
    notes = list(dict.fromkeys(notes))
    return Records(root, names, columns, classes=classes, issues=tuple(issues), notes=tuple(notes))


def has_classes(root: Path) -> bool:
    """Whether there are two class folders with images or more, in the root or in the folder of a split."""
    listing = list_folder(existing_folder(root), depth=2)
    try:
        _, trees, _ = _parts(root, listing)
    except InputError:  # folders that may be either
        return True
    return any(sum(_count(listing, paths) > 0 for paths in tree.values()) > 1 for tree in trees.values())


def _wrapped(listing: Listing) -> str:
    """The folder, "" for the root, that only folders lead to, where it has splits or two classes: archives unpack so.

    A folder of one class may have folders in it too: this is none, as it holds no image but in several of them.
    """
    inside: dict[str, list[str]] = {}
    for path in listing.images:
        if path:
            inside.setdefault(path.rpartition("/")[0], []).append(path)
    path, names = "", inside.get("", [])
    while len(names) == 1 and not listing.images[path] and not (_is_split(names[0]) and names[0] in inside):
        path, names = names[0], inside.get(names[0], [])
    full = {name.removeprefix(f"{path}/").split("/")[0] for name, images in listing.images.items() if images}
    classes = [name for name in names if name.rpartition("/")[2] in full and not _is_split(name)]
    splits = [name for name in names if name in inside and _is_split(name)]
    return path if splits or (len(classes) > 1 and not listing.images[path]) else ""


def _is_split(path: str) -> bool:
    return split_named(path.rpartition("/")[2]) is not None


def _parts(root: Path, listing: Listing) -> tuple[dict[Split, str], dict[Split, _Tree], list[str]]:
    """The folder of each split as `_split_folders` has it, the classes in it, and notes."""
    if inside := _splits_inside(listing):
        names = ", ".join(sorted({path.rpartition("/")[2] for tree in inside.values() for [path] in tree.values()}))
        return dict.fromkeys(inside, ""), inside, [f"the class folders of {root} hold its splits ({names})"]
    folders, notes = _split_folders(root, listing)
    return folders, {split: _tree(listing, folder) for split, folder in folders.items()}, notes


def _splits_inside(listing: Listing) -> dict[Split, _Tree]:
    """The classes of each split where all images lie in <class>/train/, <class>/val/ or <class>/test/; else {}."""
    found: dict[Split, _Tree] = {split: {} for split in SPLITS}
    for path, images in sorted(listing.images.items()):
        name, _, part = path.partition("/")
        split = split_named(part)
        if images and path:
            if split is None or split_named(name) or name in found[split]:
                return {}
            found[split][name] = [path]
    found = {split: tree for split, tree in found.items() if tree}
    classes = {name for tree in found.values() for name in tree}
    return found if (len(found) > 1 or "train" in found) and len(classes) > 1 else {}


def _split_folders(root: Path, listing: Listing) -> tuple[dict[Split, str], list[str]]:
    """The folder of each split, {"train": ""} where the root's folders are classes, and notes.

    A folder called train may be a class, of the vehicle: it is the split where it has folders in it. Raises InputError
    where that cannot be told.
    """
    top = sorted(path for path in listing.images if path and "/" not in path)
    named: dict[Split, list[str]] = {split: [name for name in top if split_named(name) == split] for split in SPLITS}
    parts = [name for names in named.values() for name in names]
    beside = [name for name in top if name not in parts]
    deep = any(path.split("/")[0] in parts and "/" in path for path in listing.images)
    if not parts or (beside and not deep):
        _refuse_unknown_splits(root, top, listing)
        return {"train": ""}, []
    for names in named.values():
        if len(names) > 1:
            raise InputError(f"{root} has both {names[0]}/ and {names[1]}/; take one away, or join them.")
    if not named["train"] and beside:
        raise InputError(f"{root} has {parts[0]}/ but no train/; {_WANTED}")
    notes = [f"beside {', '.join(parts)}, {root} has {', '.join(beside[:5])}: left out"] if beside else []
    return {split: names[0] for split, names in named.items() if names}, notes


def _refuse_unknown_splits(root: Path, top: list[str], listing: Listing) -> None:
    """Raise InputError where folders that hold no images themselves are parts of the data by all appearances.

    They hold the same folders, which are then the classes; or one is called after training and one after testing, as
    seg_train/ and seg_test/.
    """
    inside: dict[str, set[str]] = {path: set() for path in top}
    for path in listing.images:
        above, _, name = path.rpartition("/")
        if above in inside:
            inside[above].add(name)
    if len(top) < 2 or not all(inside.values()) or any(listing.images[path] for path in top):
        return
    first = inside[top[0]]
    if len(first) > 1 and all(map(split_named, first)) and all(names == first for names in inside.values()):
        raise InputError(
            f"{root}: {', '.join(f'{name}/' for name in top[:3])} hold {', '.join(sorted(first))}, and these "
            f"more folders; put a class's images right into {top[0]}/{min(first)}/, or into {min(first)}/{top[0]}/."
        )
    words = [{word for word in ("train", "val", "test") if word in path.lower()} for path in top]
    if (len(first) > 1 and all(names == first for names in inside.values())) or (
        {"train"} in words and ({"val"} in words or {"test"} in words)
    ):
        raise InputError(
            f"{root}: {', '.join(f'{name}/' for name in top[:3])} hold folders alone "
            f"({', '.join(sorted(first)[:3])} ...), so that these may be the classes and those parts of the data; call "
            "those train, val and test, or, if they are the classes, put their images right into them."
        )


def _tree(listing: Listing, folder: str) -> _Tree:
    start = f"{folder}/" if folder else ""
    tree: _Tree = {}
    for path in sorted(listing.images):
        if path.startswith(start) and path != folder:
            tree.setdefault(path.removeprefix(start).split("/")[0], []).append(path)
    return dict(sorted(tree.items()))


def _count(listing: Listing, paths: list[str] | None) -> int:
    return sum(len(listing.images[path]) for path in paths or ())


def _is_empty(listing: Listing, trees: Iterable[list[str]]) -> bool:
    """Whether folders hold no image, nor what is meant for one: one that cannot be read, a link to nothing."""
    meant = {*UNREADABLE_ENDINGS, "links to nothing"}
    return not any(listing.images[path] or meant & listing.others[path].keys() for paths in trees for path in paths)


def _check_folders(root: Path, folders: dict[Split, str], trees: dict[Split, _Tree], listing: Listing) -> None:
    """Raise InputError where there is no class folder, none with images, or one alone that may hold the data set."""
    split = next(iter(folders))
    path, tree = folders[split], trees[split]
    folder, names = root / path, list(tree)
    if not names and not any(trees.values()):
        loose = len(listing.images[path])
        also = "".join(f", but {issue}" for issue in unreadable_images([listing.others[path]]))
        held = f"{loose:,} images lie right in it" if loose else f"it holds no images{also}"
        raise InputError(f"{folder} has no class folders, and {held}; {_WANTED}")
    if len(names) == 1 and len(tree[names[0]]) > 1 and split == "train":
        raise InputError(
            f"{folder} has the one class folder {names[0]!r}, and there must be two; is {folder / names[0]} the data "
            f"set? If not, {_WANTED}"
        )
    paths = [path for tree in trees.values() for inside in tree.values() for path in inside]
    if not any(listing.images[path] for path in paths):
        beside = unreadable_images(listing.others[path] for path in paths)
        raise InputError(f"{folder}: the class folder {names[0]!r} {no_image(beside)}; put images in it.")


def _refuse_shared_files(root: Path, names: np.ndarray, inodes: np.ndarray, splits: np.ndarray) -> None:
    """Raise InputError where a file that is trained on is, by a link, in another split as well."""
    train, others = np.flatnonzero((splits == 0) & (inodes > 0)), np.flatnonzero(splits > 0)  # 0: none is known
    train, others = train[np.isin(inodes[train], inodes[others])], others[np.isin(inodes[others], inodes[train])]
    trained = dict(zip(inodes[train].tolist(), names[train].tolist(), strict=True))
    for inode, name in zip(inodes[others].tolist(), names[others].tolist(), strict=True):
        one, other = (root / os.fsdecode(path) for path in (trained[inode], name))
        if one.samefile(other):  # not only of the same number on another disk
            raise InputError(f"{other} is the same file as {one}, which is trained on; take one away.")
