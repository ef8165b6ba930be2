"""Boxes as YOLO has them: a text for each image, a line for each object: class, middle, width, height, as fractions.

Ultralytics' and Roboflow's `data.yaml`, Darknet's `obj.data` and `obj.names` (CVAT), Label Studio's `classes.txt`, or
only `images/` and `labels/` beside each other.

The text of an image lies where its path has `labels` for the last `images`, or beside it; an image without one has no
objects. Lines of a polygon (class x1 y1 x2 y2 ...) become the box around it.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.folders import Listing, are_there, existing_folder, list_folder, progress, unreadable_images
from data.matching import match_files
from data.readers.box_checks import refuse_corners_as_parts
from data.readers.boxes import LOST, MISSING, Odd, note_odd, pack, sizes_from_headers, split_of_folder
from data.readers.yolo_description import NAME_FILES, Layout, described, is_image, names_beside, place_of, places_of
from data.records import SPLITS, Records

_ROUNDING = 1e-3  # of an image's side: 1.0000005 is rounding, not an error
UNNAMED = "has no names of classes (data.yaml, classes.txt or obj.names): they are called by number"
_MOST_UNNAMED = 10_000  # classes, where no file names them
_IMAGE_FOLDERS = {"images": "labels", "jpegimages": "labels"}


def is_there(root: Path, listing: Listing) -> bool:
    """Whether `root` is described as YOLO's, or has texts where those of its images would be."""
    if described(root).splits:
        return True
    folders = [folder for folder, images in listing.images.items() if images]
    texts = {folder for folder, others in listing.others.items() if others[".txt"]}
    if any(_labels_folder(folder) in texts for folder in folders if _labels_folder(folder) != folder):
        return True
    beside = [folder for folder in folders if folder in texts]
    return any(_has_labels(root, folder, listing.images[folder]) for folder in beside)


def read(root: Path, listing: Listing | None = None) -> Records:
    """All images, with columns `split` (UNSPLIT where nothing says it), `image_ids`, `sizes` and `problem`.

    `root` may also be the description itself, of those in its folder the one that is meant. Sizes are the images' own.
    Class ids are those of the texts. Lines that cannot be used are counted with the first of their kind, and
    an image that has no others is not used. Raises
    InputError where the description cannot be read, no image is found, a split that is trained on has no text, or not
    one line can be used.
    """
    layout, odd = described(root if root.is_file() else existing_folder(root)), Odd()
    others: dict[str, Counter[str]] = {}  # what else the folders of the images hold
    root = root.parent if root.is_file() else root
    if layout.splits:
        names, split = _listed(root, layout, odd, others)
    else:
        names, split = _found(root, listing or list_folder(root), others)
    if not len(names):
        raise InputError(f"{layout.source or root}: there is no image in the folders of its splits; put them there.")
    matched = match_files(root, names, layout.source or root)
    _, first = np.unique(matched.names, return_index=True)  # two spellings may be of one file
    names, there, split = (rows[np.sort(first)] for rows in (matched.names, matched.there, split))
    texts = _texts(root, names, odd)
    names, split, there, texts, notes = _without_unlabelled(root, names, split, there, texts)
    notes += [matched.note] * bool(matched.note)
    if layout.source and layout.source.parent != root:
        notes.append(f"{root}: the data are what {layout.source} lists")
    classes = layout.names if layout.names is not None else names_beside(root, texts)
    image, numbers, lost = _lines(root, texts, classes, layout.keypoints, odd)
    refuse_corners_as_parts(numbers[:, 1:], str(layout.source or root))
    if classes is None:
        ids = sorted(set(numbers[:, 0].astype(int).tolist()))
        classes = {number: str(number) for number in range(max(ids, default=0) + 1)}
        layout = layout._replace(unnamed=True)
    notes += [f"{root} {UNNAMED}"] * layout.unnamed
    problem = np.where(there, np.where(lost, LOST, b""), MISSING)
    sizes, problem = sizes_from_headers(root, names, np.zeros((len(names), 2), np.int64), problem)
    by_id = sorted(classes)
    labels = np.searchsorted(by_id, numbers[:, 0].astype(np.int64))
    middle, side = numbers[:, 1:3], numbers[:, 3:]
    xywh = np.concatenate([middle - side / 2, side], axis=1) * np.tile(sizes[image][:, ::-1], 2)
    xywh = xywh.round(3)  # the texts have six digits: .99999 is a pixel
    columns = {"split": split, "sizes": sizes, "problem": problem}
    rows = image, labels, xywh, np.zeros(len(image), dtype=bool)
    records = pack(root, names, columns, rows, [classes[one] for one in by_id], odd, notes, by_id, matched.nearest)
    return replace(records, issues=(*records.issues, *unreadable_images(others.values())))


# --- images ---------------------------------------------------------------------------------------------------------


def _listed(root: Path, layout: Layout, odd: Odd, others: dict[str, Counter[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The images that the description lists, bytes (N,) from `root`, and their splits, int8 (N,).

    Files of their folders that are no images are put into `others`.
    """
    names: dict[bytes, int] = {}
    lost = []
    for split, written in [(one, path) for one in SPLITS for path in layout.splits.get(one, ())]:
        places = places_of(root, layout.base, written)
        if not places:
            lost.append(f"{split}: {written}")
        for image in itertools.chain.from_iterable(_images_at(root, place, others) for place in places):
            if names.setdefault(image, SPLITS.index(split)) != SPLITS.index(split):
                note_odd(odd, f"images of {split} are in another split too, and are left in that", os.fsdecode(image))
    for one in lost:
        note_odd(odd, f"paths of {layout.source} are not there, left out", one)
    if not names and lost:
        raise InputError(
            f"{layout.source}: none of its folders is there (the first is {lost[0]!r}), neither in {root} nor beside "
            "it; write them relative to the file."
        )
    return np.array(list(names), np.bytes_), np.array(list(names.values()), np.int8)


def _images_at(root: Path, place: str, others: dict[str, Counter[str]]) -> list[bytes]:
    """The images in a folder, or those that a list names, or the image itself."""
    if is_image(place):
        return [os.fsencode(place)]
    if not (root / place).is_dir():
        return _in_list(root, root / place, place)
    listing = list_folder(root / place)
    others.update({os.path.normpath(f"{place}/{folder}"): found for folder, found in listing.others.items()})
    start = b"" if place == "." else os.fsencode(place) + b"/"
    return [start + name for name in np.sort(listing.names(listing.images)).tolist()]


def _in_list(root: Path, file: Path, place: str) -> list[bytes]:
    """The paths of a text file: all are moved as the first is that is found."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); make it readable.") from None
    paths = [os.path.normpath(line.strip().replace("\\", "/")) for line in lines if line.strip()]
    base = os.path.dirname(place)  # noqa: PTH120
    before, after = "", ""
    for path in paths[:100]:
        if found := place_of(root, base, path):
            pairs = zip(reversed(path), reversed(found), strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            before, after = path[: len(path) - same], found[: len(found) - same]
            break
    return [os.fsencode(after + path[len(before) :] if path.startswith(before) else path) for path in paths]


def _found(root: Path, listing: Listing, others: dict[str, Counter[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The images of folders that have texts, bytes (N,), and the splits that their folders are called after.

    Files of these folders that are no images are put into `others`.
    """
    texts = {folder for folder, others in listing.others.items() if others[".txt"]}
    folders = [folder for folder, images in listing.images.items() if images]
    apart = [folder for folder in folders if _labels_folder(folder) != folder]
    if any(_labels_folder(folder) in texts for folder in apart):
        folders = apart
    else:
        folders = [folder for folder in folders if folder in texts]
    others.update({folder: listing.others[folder] for folder in folders})
    names, split = listing.names(sorted(folders)), []
    for folder in sorted(folders):
        split += [split_of_folder(folder)] * len(listing.images[folder])
    return names, np.array(split, np.int8)


def _labels_folder(folder: str) -> str:
    """The folder of the texts: `labels` for the last `images`; the same where no part is called so."""
    parts = folder.split("/")
    for i in reversed(range(len(parts))):
        if label := _IMAGE_FOLDERS.get(parts[i].lower()):
            return "/".join([*parts[:i], label.capitalize() if parts[i] == "Images" else label, *parts[i + 1 :]])
    return folder


def _texts(root: Path, names: np.ndarray, odd: Odd) -> list[bytes]:
    """The text of each image, from `root`; b"" where there is none."""
    folders: dict[bytes, bytes] = {}
    candidates: tuple[list[bytes], list[bytes]] = [], []
    for name in names.tolist():
        folder, slash, last = name.rpartition(b"/")
        if folder not in folders:
            folders[folder] = os.fsencode(_labels_folder(os.fsdecode(folder)))
        text = last.rpartition(b".")[0] + b".txt"
        candidates[0].append(folders[folder] + slash + text)
        candidates[1].append(folder + slash + text)
    first, second = (are_there(root, np.array(paths, np.bytes_)) for paths in candidates)
    texts = [
        labels if apart else beside if near else b""
        for labels, beside, apart, near in zip(*candidates, first.tolist(), second.tolist(), strict=True)
    ]
    for wanted in candidates:
        _find_spelt_otherwise(root, texts, wanted, odd)
    return texts


def _find_spelt_otherwise(root: Path, texts: list[bytes], wanted: list[bytes], odd: Odd) -> None:
    """Put into `texts` those that lie where they are `wanted`, but whose name is written otherwise than the image's."""
    rows: dict[bytes, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(wanted[row].rpartition(b"/")[0], []).extend([row] * (not text))
    used = set(texts)
    for folder, missing in rows.items():
        start = folder + b"/" * bool(folder)
        try:
            there = os.listdir(os.path.join(os.fsencode(root), folder)) if missing else []  # noqa: PTH118, PTH208
        except OSError:
            continue
        left = [text for text in there if text.lower().endswith(b".txt") and start + text not in used]
        if not left:
            continue
        last = np.array([wanted[row].rpartition(b"/")[2] for row in missing], np.bytes_)
        matched = match_files(root, last, root, np.array(left, np.bytes_))
        for row, text in zip(missing, np.where(matched.there, matched.names, b"").tolist(), strict=True):
            if text:
                texts[row] = start + text
                note_odd(odd, "texts have the names of their images written otherwise", os.fsdecode(texts[row]))


def _has_labels(root: Path, folder: str, images: Iterable[bytes]) -> bool:
    """Whether a text beside one of the first images is YOLO's by its first line, or empty beside a list of classes."""
    for image in list(images)[:200]:
        text = (root / folder / os.fsdecode(image)).with_suffix(".txt")
        if text.is_file():
            with text.open("rb") as file:
                words = file.readline(4096).split()
            if not words and any(next((root / folder).glob(one), None) for one in NAME_FILES):
                return True
            if len(words) >= 5 and all(_number(word) is not None for word in words):
                return True
    return False


def _without_unlabelled(
    root: Path, names: np.ndarray, split: np.ndarray, there: np.ndarray, texts: list[bytes]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes], list[str]]:
    """Without the splits that have not one text, and a note. Raises InputError where training images are these."""
    has, notes = np.array([bool(text) for text in texts]), []
    keep = np.ones(len(names), dtype=bool)
    for number in np.unique(split).tolist():
        here = split == number
        if has[here].any():
            continue
        name = SPLITS[number] if number >= 0 else "train"
        if name == "train" or not has.any():
            first = os.fsdecode(names[int(here.argmax())])
            folder = _labels_folder(os.path.dirname(first))  # noqa: PTH120
            raise InputError(
                f"{root}: none of its {here.sum():,} images of {name} has a text file with its boxes (the first, "
                f"{first}, would have it in {folder or '.'}/ or beside it); put them there."
            )
        keep &= ~here
        notes.append(f"{root}: the {here.sum():,} images of {name} have no text files, and are left out")
    kept = [text for text, stays in zip(texts, keep.tolist(), strict=True) if stays]
    return names[keep], split[keep], there[keep], kept, notes


# --- lines ----------------------------------------------------------------------------------------------------------


def _lines(
    root: Path, texts: list[bytes], classes: dict[int, str] | None, keypoints: bool, odd: Odd
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image of each line that can be used, int64 (M,), its class, middle, width and height, float64 (M, 5).

    And which images have a text, but not a line that can be used where it is not empty, bool (N,).
    """
    image: list[int] = []
    rows: list[list[float]] = []
    start, bad, lost = os.fsencode(root) + b"/", Odd(), np.zeros(len(texts), dtype=bool)
    for position, text in enumerate(progress(texts, desc="reading labels")):
        if not text:
            continue
        try:
            with open(start + text, "rb") as file:  # noqa: PTH123  # a Path cannot be bytes, and they are 100,000s
                content = file.read()
        except OSError as error:
            note_odd(odd, f"texts cannot be read ({error.strerror})", os.fsdecode(text))
            lost[position] = True
            continue
        if content.startswith(b"\xef\xbb\xbf"):
            content = content[3:]
        before, dropped = len(rows), False
        for number, line in enumerate(content.splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            row = _row(words, classes, keypoints)
            if isinstance(row, str):
                note_odd(bad, f"lines dropped: {row}", f"{os.fsdecode(text)}, line {number}")
                dropped = True
                continue
            image.append(position)
            rows.append(row)
            if len(words) > 5 and not keypoints:
                note_odd(odd, "polygons, taken as the boxes around them", f"{os.fsdecode(text)}, line {number}")
        lost[position] = dropped and len(rows) == before
    if bad and not rows:
        what, where = next(iter(bad.items()))
        raise InputError(
            f"{root}/{where[0]}: not one of the {sum(map(len, bad.values())):,} lines can be used ({what}); a line "
            "must be the class's number, and the box's middle, width and height as parts of the image, 0 to 1."
        )
    odd.update(bad)
    return np.array(image, np.int64), np.array(rows, np.float64).reshape(-1, 5), lost


def _number(word: bytes) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _row(words: list[bytes], classes: dict[int, str] | None, keypoints: bool) -> list[float] | str:
    """Class, middle, width and height; or why a line cannot be used."""
    try:
        row = [float(word) for word in words]
    except ValueError:
        return "not numbers"
    if len(row) > 5:
        if keypoints:
            row = row[:5]
        elif len(row) < 7 or len(row) % 2 == 0:
            return f"{len(row)} numbers, neither a box's 5 nor a polygon's"
    elif len(row) < 5:
        return f"{len(row)} numbers of 5"
    if not all(-_ROUNDING <= one <= 1 + _ROUNDING for one in row[1:]):  # nor is NaN
        return "outside 0 to 1"
    if row[0] not in (range(_MOST_UNNAMED) if classes is None else classes):
        return "an unknown class"
    if len(row) > 5:
        left, right, top, bottom = min(row[1::2]), max(row[1::2]), min(row[2::2]), max(row[2::2])
        return [row[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return row
