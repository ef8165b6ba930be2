"""Labelled images in one folder for each class: read_image_folder() finds the classes, the splits and the files.

ImageNet is trained from here, 1.28 million files in 1,000 folders, and has to start in seconds, on a slow disk as well.
So no file is opened, and the listing is kept outside the data (data/cache.py): a folder whose time stamps are still
those that it was listed with is not listed again.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError, check_options
from data import cache
from data.folders import Split, existing_folder
from data.image_list import ImageList
from data.images import IMAGE_ENDINGS

_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {  # in any case
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}

_WANTED = "wanted are train/<class>/, val/<class>/ and test/<class>/ with images, or <class>/ alone."


@dataclass(frozen=True)
class LabelledImages(ImageList):
    """The images of one split, of one class each."""

    labels: np.ndarray  # int64 (N,) from 0
    boxes_xyxy: np.ndarray | None = None  # float32 (N, 4) px of the upright photograph, NaN: none; None: whole pictures


@dataclass(frozen=True)
class LabelledData:
    """A data set of labelled images: its classes and its splits."""

    class_names: tuple[str, ...]  # by label, for people: "toy poodle"
    class_folders: tuple[str, ...]  # by label, the folder on disk: "n02113624-toy_poodle"
    splits: dict[Split, LabelledImages]  # "train" and "val" always; "test" where there is one
    notes: tuple[str, ...]  # sentences to print once at the start: what was set aside, dropped, counted


def stratified_part(labels: np.ndarray, names: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which to set aside, bool (N,): of each class the same part of its images, drawn by `seed` and their `names`.

    By names, bytes (N,), and not by positions: pictures that are added later leave the others where they are.

    Of n images of a class round(n * fraction), but at least one, and always one fewer than n, so that every class
    keeps an image to train on; of a class with a single image, none.
    """
    key = seed.to_bytes(8, "little")
    drawn = (int.from_bytes(hashlib.blake2b(name, digest_size=8, key=key).digest()) for name in names.tolist())
    by_class = np.lexsort((np.fromiter(drawn, np.uint64, len(names)), labels))  # by class, in random order within one
    _, first, of, counts = np.unique(labels[by_class], return_index=True, return_inverse=True, return_counts=True)
    wanted = np.minimum(np.rint(counts * fraction).clip(min=1), counts - 1)
    aside = np.zeros(len(labels), dtype=bool)
    aside[by_class] = np.arange(len(labels)) - first[of] < wanted[of]
    return aside


def read_image_folder(
    root: Path, *, val_fraction: float = 0.1, test_fraction: float = 0.1, seed: int = 0
) -> LabelledData:
    """The data set in `root`: `train/<class>/*`, `val/<class>/*` and `test/<class>/*`, or `<class>/*` alone.

    Labels count the class folders in sorted order and images come in the order of their paths, both as torchvision's
    ImageFolder has it. `val/` may be called `valid/` or `validation/`; without one, `val_fraction` of the training
    images is set aside. Where there are only class folders, `val_fraction` and `test_fraction` of all images are, by
    stratified_part() with `seed`: first the validation's, so that of two images one is for it, and none to test on.
    Class folders are searched to the bottom, links followed; hidden files are passed over, files that are no images
    counted. Raises InputError for a folder of another layout, and where a split cannot be used.
    """
    check_options(
        "data",
        ("val_fraction", val_fraction, 0 < val_fraction < 1, "above 0 and below 1"),
        ("test_fraction", test_fraction, 0 < test_fraction < 1, "above 0 and below 1"),
    )
    notes: list[str] = []
    with _Listing(existing_folder(root)) as listing:
        found = _find_splits(listing, notes)
    class_folders = _training_classes(found["train"])
    class_names = tuple(os.fsencode(name).decode(errors="replace") for name in class_folders)  # can be printed
    usable = {split: tree for split, tree in found.items() if _is_usable(split, tree, found["train"], notes)}
    splits = {split: _pack(tree, class_folders) for split, tree in usable.items()}
    if "val" not in splits:
        undivided = found["train"].folder == root
        parts = _draw(splits["train"].images, val_fraction, test_fraction if undivided else 0.0, seed)
        splits |= {split: splits["train"].take(part) for split, part in parts.items()}
        notes.append(_what_was_drawn(root, parts, undivided, seed))
    _refuse_shared_files(splits)

    others = sum((tree.others() for tree in usable.values()), Counter[str]())
    if others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
        notes.append(f"{others.total():,} files in the class folders are left out, no images by their names: {kinds}")
    for split, packed in splits.items():
        missing = np.setdiff1d(np.arange(len(class_folders)), packed.images.labels)
        if len(missing):
            first = class_names[missing[0]]
            notes.append(f"{split} has no image of {len(missing)} of the {len(class_names)} classes (first: {first})")
    if listing.reused:
        notes.append(
            f"{listing.reused:,} of {len(listing.folders):,} folders are unchanged since they were last listed; to "
            f"list them anew, delete {cache.file(_KEPT_AS, root)}"
        )
    images = {split: packed.images for split, packed in splits.items()}
    return LabelledData(class_names, class_folders, images, tuple(notes))


# --- what the folders mean ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    """What one folder holds, and the time stamps it had before it was listed."""

    stamps: tuple[int, int]  # ns: st_mtime, and st_ctime, which unpacking an archive over the folder does not set back
    subfolders: tuple[str, ...]  # sorted
    names: bytes  # of its images, sorted, "/" between them
    inodes: np.ndarray  # uint64, of its images in that order; of a link, that of the file it leads to
    others: dict[str, int]  # what else there is, by its ending, and how many


@dataclass(frozen=True)
class _Tree:
    """The class folders of one split, and all folders in them."""

    folder: Path
    classes: dict[str, dict[str, _Folder]]  # class to its folders by their paths in `folder`, all in sorted order
    loose: int  # images right in `folder`, of no class

    def count(self, name: str) -> int:
        return sum(len(folder.inodes) for folder in self.classes[name].values())

    def others(self) -> Counter[str]:
        """What else lies in the class folders, by its ending."""
        others = Counter[str]()
        for folders in self.classes.values():
            for folder in folders.values():
                others.update(folder.others)
        return others


@dataclass(frozen=True)
class _Packed:
    """The images of one split with what tells whether two are one file."""

    images: LabelledImages
    inodes: np.ndarray  # uint64 (N,)

    def take(self, part: np.ndarray) -> "_Packed":
        return _Packed(self.images.take(part), self.inodes[part])


def _find_splits(listing: "_Listing", notes: list[str]) -> dict[Split, _Tree]:
    """The class folders of every split, or of the root itself as "train" where none of its folders is a split.

    A folder called train may be a class, of the vehicle: it is the split where it has folders in it. Raises InputError
    where that cannot be told.
    """
    root = listing.root
    ((_, top, identity),) = listing.look([""])
    named = {split: [n for n in top.subfolders if n.lower() in names] for split, names in _SPLIT_FOLDERS.items()}
    parts = [name for names in named.values() for name in names]
    beside = [name for name in top.subfolders if name not in parts]
    looked = {name: (folder, identity) for name, folder, identity in listing.look(parts)}
    if not parts or (beside and not any(folder.subfolders for folder, _ in looked.values())):
        return {"train": _walk(listing, "", top, {identity})}
    for names in named.values():
        if len(names) > 1:
            raise InputError(f"{root} has both {names[0]}/ and {names[1]}/; take one away, or join them.")
    if not named["train"]:
        raise InputError(f"{root} has {parts[0]}/ but no train/; {_WANTED}")
    if beside:
        notes.append(f"beside {', '.join(parts)}, {root} has {', '.join(beside[:5])}: left out")
    return {
        split: _walk(listing, name, looked[name][0], {identity, looked[name][1]})
        for split, names in named.items()
        for name in names
    }


def _walk(listing: "_Listing", top: str, folder: _Folder, above: set[tuple[int, int]]) -> _Tree:
    """The class folders in `top`, to the bottom. A folder that links lead to twice in one class is taken once."""
    start = f"{top}/" if top else ""
    classes: dict[str, dict[str, _Folder]] = {name: {} for name in folder.subfolders}
    seen = {name: set(above) for name in classes}  # a link back to one of these is a loop
    level = list(folder.subfolders)
    while level:
        deeper = []
        for path, found, identity in listing.look([start + path for path in level]):
            path = path.removeprefix(start)
            name = path.partition("/")[0]
            if identity not in seen[name]:
                seen[name].add(identity)
                classes[name][path] = found
                deeper += [f"{path}/{subfolder}" for subfolder in found.subfolders]
        level = deeper
    classes = {name: dict(sorted(folders.items())) for name, folders in classes.items()}
    return _Tree(listing.root / top, classes, len(folder.inodes))


def _training_classes(train: _Tree) -> tuple[str, ...]:
    """The names of the class folders. Raises InputError where there are not two or more, each with images."""
    names = tuple(train.classes)
    if not names:
        held = f"{train.loose:,} images lie right in it" if train.loose else "it holds no images"
        raise InputError(f"{train.folder} has no class folders, and {held}; {_WANTED}")
    if len(names) == 1:
        deeper = any("/" in path for path in train.classes[names[0]])
        remedy = f"is {train.folder / names[0]} the data set? If not, {_WANTED}" if deeper else _WANTED
        raise InputError(f"{train.folder} has the one class folder {names[0]!r}, and there must be two; {remedy}")
    empty = [name for name in names if not train.count(name)]
    if empty:
        more = f" (nor {len(empty) - 1} others)" if len(empty) > 1 else ""
        raise InputError(
            f"{train.folder}: the class folder {empty[0]!r} holds no image{more} by its ending "
            f"({', '.join(sorted(IMAGE_ENDINGS))}); put images in it, or take it away."
        )
    return names


def _is_usable(split: Split, tree: _Tree, train: _Tree, notes: list[str]) -> bool:
    """False for a test/ without classes: that of a competition, unlabelled. Raises InputError for what is amiss."""
    holding = [name for name in tree.classes if tree.count(name)]
    unknown = [name for name in holding if name not in train.classes]
    if unknown:
        more = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise InputError(
            f"{tree.folder} has the class folder {unknown[0]!r}{more}, which {train.folder} has not (it has "
            f"{', '.join(map(repr, list(train.classes)[:3]))} ...); name them alike, or take it away."
        )
    if not holding and split == "val":
        raise InputError(
            f"{tree.folder} has {tree.loose or 'no'} images but none in a class folder; sort them into the folders of "
            "their classes, or take it away, and a part of the training images is set aside instead."
        )
    if not holding:
        notes.append(f"{tree.folder} has no images in class folders and is left out")
    elif tree.loose:
        notes.append(f"{tree.loose:,} images right in {tree.folder}, in no class folder, are left out")
    return bool(holding)


def _pack(tree: _Tree, class_folders: tuple[str, ...]) -> _Packed:
    names, labels, inodes = [], [], []
    for label, name in enumerate(class_folders):
        for path, folder in tree.classes.get(name, {}).items():
            if folder.names:
                start = os.fsencode(path) + b"/"
                names.append(np.array([start + file for file in folder.names.split(b"/")]))
                labels.append(np.full(len(folder.inodes), label))
                inodes.append(folder.inodes)
    images = LabelledImages(tree.folder, np.concatenate(names), np.concatenate(labels))
    return _Packed(images, np.concatenate(inodes))


def _draw(images: LabelledImages, val_fraction: float, test_fraction: float, seed: int) -> dict[Split, np.ndarray]:
    """Which images are in which split, bool (N,) each; "test" only where it has any."""
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"--data.val_fraction {val_fraction:g} and --data.test_fraction {test_fraction:g} together leave nothing "
            "to train on; lower them."
        )
    val = stratified_part(images.labels, images.file_names, val_fraction, seed)
    if not val.any():
        raise InputError(
            f"{images.folder} has one image of each class, and none to set aside for validation; add images."
        )
    test = np.zeros(len(images), dtype=bool)
    if test_fraction:
        rest = images.take(~val)
        test[~val] = stratified_part(rest.labels, rest.file_names, test_fraction / (1 - val_fraction), seed)
    parts: dict[Split, np.ndarray] = {"train": ~val & ~test, "val": val, "test": test}
    return {split: part for split, part in parts.items() if part.any()}


def _what_was_drawn(root: Path, parts: dict[Split, np.ndarray], undivided: bool, seed: int) -> str:
    size, val = len(parts["train"]), int(parts["val"].sum())
    if not undivided or "test" not in parts:
        return (
            f"{root} has no validation part: {val:,} of its {size:,} training images, drawn with seed {seed}, are set "
            "aside for validation (--data.val_fraction)"
        )
    return (
        f"{root} has no validation and no test part: {val:,} and {int(parts['test'].sum()):,} of its {size:,} images, "
        f"drawn with seed {seed}, are set aside for them (--data.val_fraction, --data.test_fraction)"
    )


def _refuse_shared_files(splits: dict[Split, _Packed]) -> None:
    """Raises InputError where a file that is trained on is, by a link, in another split as well."""
    train = splits["train"]
    for split, packed in splits.items():
        if packed is train:
            continue
        common, ours, theirs = np.intersect1d(train.inodes, packed.inodes, return_indices=True)
        # Numbers are of one disk, and may have changed since the listing: those that agree are only asked about.
        for number, one, other in zip(common[:100], ours, theirs, strict=False):
            first, second = train.images.path(one), packed.images.path(other)
            try:
                same = number != 0 and first.samefile(second)
            except OSError:  # gone since
                continue
            if same:
                raise InputError(
                    f"{second} of the {split} split is the same file as {first}, which is trained on; take one away."
                )


# --- the listing ----------------------------------------------------------------------------------------------------

_ENDINGS = frozenset(ending.encode() for ending in IMAGE_ENDINGS)

# Left by macOS, Windows, file servers and file systems; no more data than a name with a leading dot.
_NOT_DATA = frozenset((b"__MACOSX", b"Thumbs.db", b"desktop.ini", b"@eaDir", b"lost+found"))

# A folder that was changed less than this before it was listed may change again without new time stamps, which FAT sets
# every 2 s and a file server by a clock of its own; git's index calls such an entry racy. It is listed again next time.
_RACY = 10 * 10**9  # ns

_THREADS = 16  # they wait for the disk; where it is fast, they are no slower than one

_KEPT_AS = "listings-1"  # another number where what is kept changes


class _Listing:
    """The folders of `root`, listed by threads, or as they were kept where they have not changed.

    A context; at its end, an interrupted one included, what was listed is kept for the next time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, _Folder] = {}  # by their paths in `root`
        self.reused = 0

    def __enter__(self) -> "_Listing":
        self._start = time.monotonic()
        self._kept = _load(self.root)
        self._settled: set[str] = set()  # any later change would show in their stamps
        self._pool = ThreadPoolExecutor(_THREADS)
        self._bar = tqdm(desc="listing images", unit=" images", delay=2, leave=False)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._bar.close()
        if self.reused < len(self.folders) and time.monotonic() - self._start > cache.WORTH_KEEPING:
            earlier = self._kept if error else {}  # else without the folders that are no longer there
            _save(self.root, earlier | {path: self.folders[path] for path in self._settled})

    def look(self, paths: list[str]) -> Iterator[tuple[str, _Folder, tuple[int, int]]]:
        """Each path in `root` with its folder and the folder's identity on the disk. Raises InputError."""
        for path, (folder, identity, settled) in zip(paths, self._pool.map(self._look, paths), strict=True):
            self.folders[path] = folder
            self.reused += folder is self._kept.get(path)
            if settled:
                self._settled.add(path)
            self._bar.update(len(folder.inodes))
            yield path, folder, identity

    def _look(self, path: str) -> tuple[_Folder, tuple[int, int], bool]:
        folder = self.root / path
        try:
            now, stat = time.time_ns(), folder.stat()  # before the listing: what changes meanwhile will differ
            stamps = (stat.st_mtime_ns, stat.st_ctime_ns)
            known = self._kept.get(path)
            listed = known if known is not None and known.stamps == stamps else _list(folder, stamps)
        except OSError as error:
            raise InputError(f"{folder} cannot be listed ({error.strerror or error}); make it readable.") from error
        return listed, (stat.st_dev, stat.st_ino), listed is known or max(stamps) < now - _RACY


def _list(folder: Path, stamps: tuple[int, int]) -> _Folder:
    images, subfolders, others = [], [], Counter[str]()
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b".") or name in _NOT_DATA:
                continue
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a million Paths would take a while
            if ending in _ENDINGS and _holds(entry.is_file):
                images.append((name, entry.stat().st_ino if entry.is_symlink() else entry.inode()))
            elif _holds(entry.is_dir):
                subfolders.append(os.fsdecode(name))
            else:
                lost = entry.is_symlink() and not _holds(entry.is_file)
                others["links to nothing" if lost else os.fsdecode(ending) or "without an ending"] += 1
    images.sort()
    return _Folder(
        stamps=stamps,
        subfolders=tuple(sorted(subfolders)),
        names=b"/".join(name for name, _ in images),
        inodes=np.array([inode for _, inode in images], dtype=np.uint64),
        others=dict(others),
    )


def _holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads round to itself, or where one may not look
        return False


def _save(root: Path, folders: dict[str, _Folder]) -> None:
    lines = [[path, f.stamps, f.subfolders, len(f.names), len(f.inodes), f.others] for path, f in folders.items()]
    arrays = {
        "folders": np.frombuffer(json.dumps(lines).encode(), np.uint8),
        "names": np.frombuffer(b"".join(f.names for f in folders.values()), np.uint8),
        "inodes": np.concatenate([f.inodes for f in folders.values()] or [np.zeros(0, np.uint64)]),
    }
    cache.save(_KEPT_AS, root, arrays)


def _load(root: Path) -> dict[str, _Folder]:
    arrays = cache.load(_KEPT_AS, root)
    if not arrays:
        return {}
    names, inodes = arrays["names"].tobytes(), arrays["inodes"]
    folders, name, inode = {}, 0, 0
    for path, (mtime, ctime), subfolders, length, count, others in json.loads(arrays["folders"].tobytes()):
        folders[path] = _Folder(
            (mtime, ctime), tuple(subfolders), names[name : name + length], inodes[inode : inode + count], others
        )
        name, inode = name + length, inode + count
    return folders
