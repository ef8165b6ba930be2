"""Boxes as Pascal VOC has them: an XML for each image. VOC's own folders, or images and XML in one folder or two.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, and what labelImg, Roboflow and CVAT write.

VOC counts pixels from 1 and names the first and the last of a box: x = xmin - 1, width = xmax - xmin + 1. Others write
edges that count from 0: x = xmin, width = xmax - xmin. Nothing in the files says which, so that it is decided for the
whole data set: from 0 where an xmin or ymin is 0, where more than a tenth of the boxes have a corner within a pixel, or
where all corners are written with a decimal point, be they whole (CVAT), and as VOC defines it otherwise. A note says
which.
"""

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from backbone.errors import InputError
from data.folders import Listing, existing_folder, list_folder, progress, unreadable_images
from data.matching import Matched, match_files
from data.readers.boxes import LOST, MISSING, Odd, note_odd, pack, sizes_from_headers, split_of_folder
from data.records import SPLITS, UNSPLIT, Records
from data.splits import split_named

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Xml(NamedTuple):
    """What one file says."""

    file_name: str = ""
    size: tuple[int, int] = (0, 0)  # height, width; 0 where it does not say
    boxes: list[tuple[str, bool, list[float]]] = []  # noqa: RUF012  # class, difficult, corners; never changed
    decimal: bool = True  # all corners are written with a decimal point
    problem: bytes = b""


class _Plain(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE, which alone can define entities, before any is expanded."""

    def doctype(self, *_: object) -> None:
        raise InputError("a DOCTYPE")


def is_there(root: Path, listing: Listing) -> bool:
    """Whether an XML in `root` is an annotation of VOC's."""
    for folder in sorted(folder for folder, others in listing.others.items() if others[".xml"]):
        for name in _xml_names(root, folder)[:3]:
            with (root / folder / os.fsdecode(name)).open("rb") as file:
                if re.search(rb"<annotation[\s/>]", file.read(4096).replace(b"\0", b"")):  # also in UTF-16
                    return True
    return False


def read(root: Path, listing: Listing | None = None) -> Records:
    """All images that have an XML, with columns `split` (UNSPLIT where nothing says it), `sizes` and `problem`.

    Labels are the sorted names. `difficult` objects are regions that are not searched. Sizes are the XML's, or else the
    image's own. What cannot be used of a file is counted; an XML that cannot be read, or whose objects are all dropped,
    is a problem of its image. Raises InputError for an XML with a DOCTYPE, and where there is no XML or no object.
    """
    listing, odd = listing or list_folder(existing_folder(root)), Odd()
    files = [
        f"{folder}/{name}" if folder else name
        for folder in sorted(folder for folder, others in listing.others.items() if others[".xml"])
        for name in map(os.fsdecode, _xml_names(root, folder))
    ]
    content = [_parse(root, file, odd) for file in progress(files, desc="reading XML")]
    kept = [i for i, one in enumerate(content) if one is not None]
    files, content = [files[i] for i in kept], [content[i] for i in kept]
    if not content:
        raise InputError(f"{root} has no XML of Pascal VOC (<annotation>); put them there.")
    found = [one for one in content if one is not None]
    notes: list[str] = []
    images, names = _Images(root, listing, files, [one.file_name for one in found], notes), []
    problem = [one.problem for one in found]
    for row, (file, one) in enumerate(zip(files, found, strict=True)):
        image, other = images.of(file, one.file_name)
        if other:
            note_odd(odd, "XML files name another image than the one called as they are, which is taken", file)
        names.append(os.fsencode(image or one.file_name or file))
        if image is None:
            problem[row] = MISSING
    split, listed = _splits(root, listing, files, odd, notes)
    unlabelled = sorted(set(images.all) - {os.fsdecode(name) for name in names})
    for image in unlabelled:
        note_odd(odd, "images without an XML, left out", image)
    _without_repeated(files, names, listed, odd)
    rows = _rows(found, notes, str(root))
    keep = np.flatnonzero(listed)
    place = np.full(len(found), -1)
    place[keep] = np.arange(len(keep))
    image, chosen = place[rows.image], listed[rows.image]
    sizes = np.array([one.size for one in found], np.int64)[keep]
    packed = np.array(names, np.bytes_)[keep]
    sizes, bad = sizes_from_headers(root, packed, sizes, np.array(problem, np.bytes_)[keep])
    columns = {"split": split[keep], "sizes": sizes, "problem": bad}
    boxes = image[chosen], rows.labels[chosen], rows.xywh[chosen], rows.difficult[chosen]
    records = pack(root, packed, columns, boxes, rows.classes, odd, notes, nearest=images.nearest(packed, bad))
    return replace(records, issues=(*records.issues, *unreadable_images(listing.others.values())))


def _xml_names(root: Path, folder: str) -> list[bytes]:
    with os.scandir(os.fsencode(root / folder)) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(b".xml") and not e.name.startswith(b"."))


# --- one file -------------------------------------------------------------------------------------------------------


def _parse(root: Path, file: str, odd: Odd) -> _Xml | None:
    """What a file says, None where it is no annotation. Raises InputError where it has a DOCTYPE."""
    try:
        content = (root / file).read_bytes()
        tree = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Plain()))
    except InputError:
        raise InputError(
            f"{root / file} has a DOCTYPE, by which a file of a few bytes may grow without end; take that line out."
        ) from None
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        reason = f"its XML cannot be read ({error})"
        return _Xml(problem=os.fsencode(reason))
    if tree.tag != "annotation":
        note_odd(odd, "XML files that are no annotations, left out", file)
        return None
    boxes, decimal, number = [], True, 0
    for number, thing in enumerate(tree.iterfind("object"), start=1):
        name, texts = _text(thing, "name"), [_text(thing, f"bndbox/{key}") for key in _CORNERS]
        corners = [_float(text) for text in texts]
        if not name or not np.isfinite(corners).all():
            what = "no name" if np.isfinite(corners).all() else "no bndbox of four numbers"
            note_odd(odd, f"objects dropped: {what}", f"{file}, object {number}")
            continue
        decimal &= all("." in text for text in texts)
        boxes.append((name, _text(thing, "difficult").lower() in ("1", "true"), corners))
    sides = [_float(_text(tree, f"size/{key}")) for key in ("height", "width")]
    known = all(1 <= side < 2**31 and side == int(side) for side in sides)
    size = (int(sides[0]), int(sides[1])) if known else (0, 0)
    problem = LOST if number and not boxes else b""
    return _Xml(_text(tree, "filename").replace("\\", "/"), size, boxes, decimal, problem)


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


class _Rows(NamedTuple):
    image: np.ndarray
    labels: np.ndarray
    xywh: np.ndarray
    difficult: np.ndarray
    classes: list[str]


def _rows(content: list[_Xml], notes: list[str], name: str) -> _Rows:
    """The objects of all files as columns; a note says where their corners count from. Raises InputError for none."""
    boxes = [box for one in content for box in one.boxes]
    if not boxes:
        raise InputError(f"{name}: none of its {len(content):,} XML files has an object that can be used.")
    image = np.repeat(np.arange(len(content)), [len(one.boxes) for one in content])
    corners = np.array([corners for *_, corners in boxes], np.float64)
    zeros, within = (corners[:, :2] == 0).any(axis=1), (corners != np.round(corners)).any(axis=1)
    decimal = all(one.decimal for one in content)
    from_0 = bool(zeros.any() or within.mean() > 0.1 or decimal)
    if from_0:
        why = f"{zeros.sum():,} boxes begin at 0" if zeros.any() else f"{within.sum():,} boxes have parts of pixels"
        why = "all are written with a decimal point, as CVAT does" if decimal and not zeros.any() else why
        notes.append(f"{name}: corners are taken as edges counted from 0, as {why}")
    else:
        notes.append(f"{name}: corners are taken as pixels counted from 1, as VOC defines them; no box begins at 0")
    low, high = corners[:, :2] - (not from_0), corners[:, 2:]
    classes, labels = np.unique([box[0] for box in boxes], return_inverse=True)
    difficult = np.array([box[1] for box in boxes])
    return _Rows(image, labels.astype(np.int64), np.concatenate([low, high - low], axis=1), difficult, classes.tolist())


# --- images and splits ----------------------------------------------------------------------------------------------


class _Images:
    """The images of a folder by their last name without ending, however the XML files `files` spell it."""

    def __init__(self, root: Path, listing: Listing, files: list[str], file_names: list[str], notes: list[str]) -> None:
        self.all = [
            f"{folder}/{name}" if folder else name
            for folder, images in listing.images.items()
            if "segmentation" not in folder.lower()  # VOC's SegmentationClass/ has masks of the same names
            for name in map(os.fsdecode, images)
        ]
        self._by_stem: dict[str, list[str]] = {}
        for image in self.all:
            self._by_stem.setdefault(_stem(image), []).append(image)
        wanted = [{_stem(file), _stem(name)} for file, name in zip(files, file_names, strict=True)]
        lost = {stem for both in wanted if not both & self._by_stem.keys() for stem in both if stem}
        known = {stem for both in wanted for stem in both & self._by_stem.keys()}
        matched = _spelt(root, lost | known, self._by_stem, f"the XML files in {root}", notes)
        for stem, called in zip(sorted(lost | known), matched.names.tolist(), strict=True):
            if found := self._by_stem.get(os.fsdecode(called)):
                self._by_stem[stem] = found

    def nearest(self, names: np.ndarray, problem: np.ndarray) -> str:
        """The first of `names` that is missing, bytes (N,), with what is there and most like it; "" for none."""
        missing = [_stem(os.fsdecode(name)) for name in names[problem == MISSING][:1].tolist()]
        return _spelt(Path(), set(missing), self._by_stem, "", []).nearest

    def of(self, file: str, file_name: str) -> tuple[str | None, bool]:
        """The image of an XML, and whether the XML names another one that is there.

        It is called as the XML, or else as its `filename` says. Of several it is the one with the ending that this
        has, as masks may have another, and then the one whose folders are most alike.
        """
        own, named = (self._by_stem.get(_stem(one), []) for one in (file, file_name))
        if not own and not named:
            return None, False
        parts, last = _parts(file), file_name.rpartition("/")[2]
        likeness = {one: (one.rpartition("/")[2] == last, len(parts & _parts(one))) for one in own or named}
        image = max(likeness, key=lambda one: (*likeness[one], -len(_parts(one))))
        return image, bool(own and named and image not in named)


def _parts(path: str) -> set[str]:
    return set(path.split("/")[:-1])


def _stem(path: str) -> str:
    last = path.rpartition("/")[2]
    return last.rpartition(".")[0] or last


def _spelt(root: Path, names: set[str], known: Collection[str], source: str, notes: list[str]) -> Matched:
    """Find `names` among `known`, both without endings, and note how they are written otherwise."""
    wanted, files = (np.array([os.fsencode(one) for one in sorted(some)], np.bytes_) for some in (names, known))
    matched = match_files(root, wanted, source, files)
    notes += [matched.note] * bool(matched.note)
    return matched


def _splits(
    root: Path, listing: Listing, files: list[str], odd: Odd, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The split of each XML, int8 (N,), and which are listed, bool (N,).

    By ImageSets/Main/train.txt, val.txt, test.txt and trainval.txt: what only the last has is of the part that has no
    list. An image of two lists is trained on. Without such lists, by folders that are called after splits.
    """
    split = np.array([split_of_folder(os.path.dirname(file)) for file in files], np.int8)  # noqa: PTH120
    stems = [_stem(file) for file in files]
    lists = dict[str, set[str]]()
    for path in _lists(root, listing):
        key: str | None = "trainval" if path.stem.lower() == "trainval" else split_named(path.stem)
        if key:
            lists.setdefault(key, set()).update(_listed(root, path, set(stems), odd, notes))
    if not lists:
        return split, np.ones(len(files), dtype=bool)
    of = {key: np.array([stem in names for stem in stems]) for key, names in lists.items()}
    parts = lists.keys() & {"train", "val"}
    rest = UNSPLIT if not parts else SPLITS.index("val") if parts == {"train"} else SPLITS.index("train")
    for key, number in (("test", 2), ("trainval", rest), ("val", 1), ("train", 0)):
        if key in of:
            split[of[key]] = number
    listed = np.any(list(of.values()), axis=0)
    if not listed.any():
        raise InputError(f"{root}: none of its {len(files):,} XML files is in the lists of ImageSets/Main; mend these.")
    none = np.zeros(len(files), dtype=bool)
    train, val, both, test = (of.get(key, none) for key in ("train", "val", "trainval", "test"))
    for row in np.flatnonzero((train & val) | (test & (train | val | both))).tolist():
        note_odd(odd, "images are in the lists of two splits, and not in the later one", files[row])
    if left := int((~listed).sum()):
        notes.append(f"{root}: {left:,} XML files are in no list of ImageSets/Main, and left out")
    return split, listed


def _lists(root: Path, listing: Listing) -> list[Path]:
    folders = [one for one in listing.others if one.lower().split("/")[-2:] == ["imagesets", "main"]]
    return sorted(path for folder in folders for path in (root / folder).glob("*.txt"))


def _listed(root: Path, path: Path, stems: set[str], odd: Odd, notes: list[str]) -> set[str]:
    """Those of `stems` that a list names, with or without folders and endings; CVAT puts spaces into quotes."""
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    names = {line.strip().strip('"').rpartition("/")[2] for line in lines} - {""}
    matched = _spelt(root, {one if one in stems else _stem(one) for one in names}, stems, str(path), notes)
    lost = [os.fsdecode(name) for name in matched.names[~matched.there].tolist()]
    for name in (matched.nearest, *lost[1:]) if lost else ():
        note_odd(odd, "names in ImageSets/Main have no XML", f"{path.name}: {name}")
    return {os.fsdecode(name) for name in matched.names[matched.there].tolist()}


def _without_repeated(files: list[str], names: list[bytes], listed: np.ndarray, odd: Odd) -> None:
    """Take out of `listed` the files of an image that has another already."""
    seen = set[bytes]()
    for row, name in enumerate(names):
        if listed[row] and name in seen:
            listed[row] = False
            note_odd(odd, "XML files of an image that has another, left out", files[row])
        elif listed[row]:
            seen.add(name)
