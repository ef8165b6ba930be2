"""Stanford Dogs: 120 breeds, 12,000 training and 8,580 test images, in the layout that its three archives unpack to.

Khosla et al., 2011, http://vision.stanford.edu/aditya86/ImageNetDogs; `python -m data.stanford_dogs DIR` fetches it.
The images are ImageNet's, so a trunk pretrained on ImageNet may have seen the test images.
"""

import hashlib
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from backbone.errors import Arguments, InputError, check_options
from data.archives import download, extract
from data.image_folder import LabelledData, LabelledImages, stratified_part

_MAX_XML_BYTES = 100_000  # the data set's own have about a thousand


class Archive(NamedTuple):
    """One of the archives that the data set is published in."""

    url: str
    size: int  # bytes
    sha256: str
    folder: str  # what it unpacks to


# Sizes and digests as TensorFlow Datasets records them: tensorflow_datasets/url_checksums/stanford_dogs.txt.
ARCHIVES = (
    Archive(
        "http://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
        793_579_520,
        "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        "Images",
    ),
    Archive(
        "http://vision.stanford.edu/aditya86/ImageNetDogs/annotation.tar",
        21_852_160,
        "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
        "Annotation",
    ),
    Archive(
        "http://vision.stanford.edu/aditya86/ImageNetDogs/lists.tar",
        481_280,
        "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        "lists",
    ),
)


def is_stanford_dogs(root: Path) -> bool:
    """Whether `root` is laid out as Stanford Dogs, complete or not; read_stanford_dogs() then says what is missing."""
    marks = ("Annotation", "lists", "train_list.mat", "test_list.mat")
    return (root / "Images").is_dir() and any((root / mark).exists() for mark in marks)


def read_stanford_dogs(
    root: Path, *, val_fraction: float = 0.1, seed: int = 0, crop: Literal["full", "bbox"] = "full"
) -> LabelledData:
    """The data set in `root`, or a part of it: any two or more class folders, with lists that number them from 1.

    The test list is "test", whole, since its figure is what is compared. Of the training list, images that are
    byte-identical to a test image, to an earlier training image, or to one of another class are left out; then each
    class gives `val_fraction` of its images, drawn by `seed`, to "val". With crop="bbox" every image has the box of its
    largest object, NaN where its XML has none. Everything left out is counted in `notes`.
    Raises InputError where lists, folders and labels do not fit together.
    """
    check_options(
        "data",
        ("val_fraction", val_fraction, 0 < val_fraction < 1, "above 0 and below 1"),
        ("crop", crop, crop in ("full", "bbox"), "full or bbox"),
    )
    images = root / "Images"
    folders, sizes = _scan(images)
    train_list, train, train_labels = _read_list(root, "train_list.mat", folders, sizes)
    test_list, test, test_labels = _read_list(root, "test_list.mat", folders, sizes)
    if both := sorted(set(train) & set(test)):
        raise InputError(
            f"{train_list} and {test_list} both list {both[0]} ({len(both)} such images); "
            "an image is to train on or to test on: unpack lists.tar again."
        )

    notes = []
    if unlisted := len(sizes) - len(train) - len(test):
        notes.append(f"{unlisted:,} files in {images} are in neither list and left out")
    same = _same_bytes(images, [*train, *test], sizes)
    kept, left_out = _without_copies(same[: len(train)], train_labels, same[len(train) :])
    if copies := {what: count for what, count in left_out.items() if count}:
        counts = ", ".join(f"{count:,} {what}" for what, count in copies.items())
        notes.append(f"{sum(copies.values()):,} training images are left out as copies, byte for byte: {counts}")
    if copied := len(test) - len(np.unique(same[len(train) :])):
        notes.append(f"{copied:,} test images are copies of other test images; the official test list is kept whole")
    train, train_labels = [train[i] for i in np.flatnonzero(kept)], train_labels[kept]
    per_class = np.bincount(train_labels, minlength=len(folders))
    if not per_class.all():
        raise InputError(
            f"{images / folders[int(np.argmin(per_class))]} has no image to train on in {train_list}, copies aside "
            f"({int((per_class == 0).sum())} such folders); unpack lists.tar again, or remove the folder."
        )

    boxes = None
    if crop == "bbox":
        boxes, note = _boxes(root / "Annotation", [*train, *test])
        notes += note
    everything = LabelledImages(
        folder=images,
        file_names=np.array([os.fsencode(file) for file in [*train, *test]]),
        labels=np.concatenate([train_labels, test_labels]),
        boxes_xyxy=boxes,
    )
    position = np.arange(len(everything))
    aside = stratified_part(train_labels, everything.file_names[: len(train)], val_fraction, seed)
    if not aside.any():
        raise InputError(f"{train_list} has one image of each class, and none to set aside for validation; add images.")
    notes.append(
        f"{root} has no validation part: {int(aside.sum()):,} of its {len(train):,} training images, drawn with seed "
        f"{seed}, are set aside for validation (--data.val_fraction)"
    )
    return LabelledData(
        class_names=tuple(re.sub(r"^n\d+-", "", folder).replace("_", " ") for folder in folders),
        class_folders=folders,
        splits={
            "train": everything.take(position[: len(train)][~aside]),
            "val": everything.take(position[: len(train)][aside]),
            "test": everything.take(position[len(train) :]),
        },
        notes=tuple(notes),
    )


def _scan(images: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class folders, sorted, and the size in bytes of every file "folder/name" in them.

    Each folder is listed once; asking for 20,580 files by name takes minutes on a network drive.
    """
    sizes: dict[str, int] = {}
    try:
        with os.scandir(images) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        for folder in tqdm(folders, desc="listing the images", delay=2, leave=False):
            before = len(sizes)
            with os.scandir(images / folder) as entries:
                for entry in entries:
                    if entry.is_file() and not entry.name.startswith("."):
                        sizes[f"{folder}/{entry.name}"] = entry.stat().st_size
            if len(sizes) == before:
                raise InputError(f"{images / folder} holds no image; unpack images.tar again, or remove the folder.")
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be listed ({error.strerror}); check the path and its permissions."
        ) from error
    if len(folders) < 2:
        found = f"only {folders[0]}" if folders else "none"
        raise InputError(f"{images} must hold a folder for each class, at least two; it has {found}.")
    return tuple(folders), sizes


def _read_list(
    root: Path, name: str, folders: Sequence[str], sizes: dict[str, int]
) -> tuple[Path, list[str], np.ndarray]:
    """The list's own path, its files "folder/name.jpg", and their labels from 0, int64 (N,)."""
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
    files = [_text(path, row, item) for row, item in enumerate(np.ravel(content["file_list"]), start=1)]
    numbers = np.ravel(content["labels"])
    if not files or len(files) != len(numbers):
        raise InputError(f"{path}: `file_list` has {len(files)} items and `labels` {len(numbers)}; {again}")
    if numbers.dtype.kind not in "iuf" or not (numbers == np.rint(numbers)).all():
        raise InputError(f"{path}: `labels` must be whole numbers from 1 (found {numbers.dtype}); {again}")

    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise InputError(f"{path} lists {twice[0]} more than once ({len(twice)} such images); {again}")
    if missing := [file for file in files if file not in sizes]:
        raise InputError(
            f"{path} lists {missing[0]}, which is not in {root / 'Images'} ({len(missing)} of {len(files)} images are "
            "missing); unpack images.tar again, or give lists of the images that are there."
        )
    outside = (numbers < 1) | (numbers > len(folders))
    if outside.any():
        at = int(np.argmax(outside))
        raise InputError(
            f"{path}: the label of {files[at]} is {numbers[at]:g}, not from 1 to {len(folders)}, the number of folders "
            f"in {root / 'Images'} ({int(outside.sum())} such labels); lists and folders must be of the same data set."
        )
    labels = numbers.astype(np.int64) - 1
    of_folder = {folder: label for label, folder in enumerate(folders)}
    wrong = labels != [of_folder[file.split("/")[0]] for file in files]
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"{path}: the label of {files[at]} is {labels[at] + 1}, but folder {labels[at] + 1} is "
            f"{folders[labels[at]]} in the sorted order of {root / 'Images'} ({int(wrong.sum())} such labels); "
            "lists and folders must be of the same data set."
        )
    return path, files, labels


def _text(path: Path, row: int, item: Any) -> str:
    """One item of a MATLAB cell array of texts; refused where it is no "folder/name" below Images/."""
    text = np.ravel(item)
    if text.size != 1 or text.dtype.kind != "U":
        raise InputError(f"{path}: item {row} of `file_list` is not a text; unpack lists.tar again.")
    parts = str(text[0]).split("/")
    if len(parts) != 2 or not all(parts) or ".." in parts:
        raise InputError(
            f"{path}: item {row} of `file_list` is {str(text[0])[:100]!r}; "
            "it must be a class folder in Images/ and a file in it, as in n02088364-beagle/n02088364_10108.jpg."
        )
    return str(text[0])


def _same_bytes(images: Path, files: Sequence[str], sizes: dict[str, int]) -> np.ndarray:
    """A number for each file, int64 (N,), the same where two files hold the same bytes.

    Only files of one size are read. Empty and unreadable ones count as different: opening them will say more.
    """
    of_size = Counter(sizes[file] for file in files)
    alike = [file for file in files if sizes[file] and of_size[sizes[file]] > 1]
    content: dict[str, Any] = {}
    for file in tqdm(alike, desc="comparing images of equal size", delay=2, leave=False):
        try:
            with (images / file).open("rb") as opened:
                content[file] = hashlib.file_digest(opened, "sha256").digest()
        except OSError:
            continue
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(content.get(file, file), len(numbers)) for file in files], dtype=np.int64)


def _without_copies(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Which training images to keep, bool (N,), and how many are left out for which reason.

    `train` and `test` are numbers of _same_bytes().
    """
    in_test = np.isin(train, test)
    _, first, group = np.unique(train, return_index=True, return_inverse=True)
    ambiguous = ~in_test & np.isin(group, group[labels != labels[first[group]]])
    later = ~in_test & ~ambiguous & (first[group] != np.arange(len(train)))
    return ~(in_test | ambiguous | later), {
        "of test images": int(in_test.sum()),
        "of earlier training images": int(later.sum()),
        "that have several labels": int(ambiguous.sum()),
    }


def _boxes(annotation: Path, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The box of the largest object of each file, float32 (N, 4) xyxy px, NaN where there is none; a note on those."""
    boxes = np.full((len(files), 4), np.nan, dtype=np.float32)
    reasons: Counter[str] = Counter()
    for row, file in enumerate(tqdm(files, desc="reading the boxes", delay=2, leave=False)):
        box = _largest_box(annotation / file.rpartition(".")[0])
        if isinstance(box, str):
            reasons[box] += 1
        else:
            boxes[row] = box
    without = reasons.total()
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    if without == len(files):
        raise InputError(
            f"{annotation} has no box for any of {without:,} images ({counts}); unpack annotation.tar there."
        )
    return boxes, [f"{without:,} of {len(files):,} images have no box and are used whole: {counts}"] if without else []


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, and with it entities: ten nested ones expand a 1 kB file to gigabytes."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Called by the parser at a document type."""
        raise ValueError("it has a document type")


def _largest_box(path: Path) -> tuple[float, float, float, float] | str:
    """The largest box in one XML, xyxy in px within the image, or what is wrong, for counting."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_XML_BYTES + 1)
        if len(content) > _MAX_XML_BYTES:
            return "with broken XML"
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
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


def main(arguments: list[str] | None = None) -> int:
    """Fetches and unpacks the data set; exit code 2 and one sentence where it cannot, 130 where it was stopped."""
    total = sum(archive.size for archive in ARCHIVES)
    cost = f"{total / 1e6:,.0f} MB to fetch, {2 * total / 1e9:.1f} GB on disk"
    parser = Arguments(
        prog="python -m data.stanford_dogs",
        description=f"Fetch Stanford Dogs from Stanford's server and unpack it ({cost}). "
        "A download that was stopped goes on where it was.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to make, or one that an earlier call began")
    folder: Path = parser.parse_args(arguments).folder
    try:
        _check_target(folder)
        print(f"Stanford Dogs: {cost}.")
        print("For non-commercial research only: its images are ImageNet's, whose terms of access hold for them too.")
        for archive in ARCHIVES:
            _fetch(archive, folder)
        data = read_stanford_dogs(folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    for note in data.notes:
        print(note)
    train, val, test = (len(data.splits[split]) for split in ("train", "val", "test"))
    print(f"{len(data.class_names)} breeds, {train + val:,} images to train on and {test:,} to test on.")
    print("The .tar files are not needed any more.")
    print(folder)
    return 0


def _check_target(folder: Path) -> None:
    """Raises InputError where `folder` holds anything that this command did not put there."""
    names = [Path(archive.url).name for archive in ARCHIVES]
    ours = {*names, *(f"{name}.part" for name in names), *(archive.folder for archive in ARCHIVES)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        other = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours and entry.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); give another folder.") from error
    if other:
        raise InputError(f"{folder} holds {other[0]}, which is not of Stanford Dogs; give a new or an empty folder.")


def _fetch(archive: Archive, folder: Path) -> None:
    target = folder / archive.folder
    if target.is_dir():  # complete: extract() leaves nothing else
        return
    path = folder / Path(archive.url).name
    download(archive.url, path, archive.sha256, archive.size)
    # 20,580 images in 120 folders; a plain tar holds less than it is large.
    extract(path, target, max_bytes=archive.size, max_files=25_000)


if __name__ == "__main__":
    sys.exit(main())
