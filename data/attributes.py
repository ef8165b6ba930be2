"""Photographs with attributes, each of which a picture has, has not, or nobody said: CelebA, a CSV, unlabelled folders.

CelebA itself is read by data/celeba.py. A label is 1, 0 or UNKNOWN; CelebA's -1, "has not", is 0 here.
"""

import csv
import difflib
import io
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError, check_options
from data.folders import SPLITS, Split, say
from data.image_list import ImageList, are_there, list_pictures, without_used
from data.photographs import PhotographsDataModule

UNKNOWN = -1  # a target that nobody gave: neither loss nor metrics look at it
CSV_NAME = "attributes.csv"

# As people and pandas write them; its integers turn into 1.0 and 0.0 where a column has an empty cell.
_CSV_VALUES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "": UNKNOWN}
_NO_VALUE = -2  # anything else


@dataclass(frozen=True)
class AttributeImages(ImageList):
    """The images of one split, with what is known of K attributes of each."""

    targets: np.ndarray  # int8 (N, K): 1 has it, 0 has not, UNKNOWN
    identities: np.ndarray | None = None  # int64 (N,): the person, -1 unknown


@dataclass(frozen=True)
class AttributeData:
    """A data set of images with attributes: their names and its splits."""

    attributes: tuple[str, ...]  # K names, in the order of the targets' columns
    splits: dict[Split, AttributeImages]  # "train", "val" and "test"
    notes: tuple[str, ...]  # sentences to print once at the start: what was set aside, dropped, counted
    licence: str = ""  # one sentence for the model card, where the data's terms bind what is trained on them


def read_attributes(
    root: Path, *, val_fraction: float = 0.1, test_fraction: float = 0.1, seed: int = 0
) -> AttributeData:
    """Read `root` in whichever form it has: a CSV, a folder with one, or CelebA's. Raises InputError for another."""
    from data.celeba import is_celeba, read_celeba  # not above: it imports this file

    if root.is_file() or (root / CSV_NAME).exists():
        return read_attribute_csv(root, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    if is_celeba(root):
        return read_celeba(root, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    inside = next((folder for folder in sorted(root.iterdir()) if folder.is_dir() and is_celeba(folder)), None)
    remedy = f"is {inside} meant?" if inside else "give the folder of one of the two, or a CSV of that form."
    raise InputError(
        f"{root} has neither {CSV_NAME}, with a row `path,attribute,...` for each picture, nor CelebA's "
        f"list_attr_celeba.txt; {remedy}"
    )


# --- a CSV ----------------------------------------------------------------------------------------------------------


def read_attribute_csv(
    file: Path, *, val_fraction: float = 0.1, test_fraction: float = 0.1, seed: int = 0
) -> AttributeData:
    """The pictures of a CSV, or of the `attributes.csv` in a folder, whose first line names its columns.

    `path` is relative to the CSV, `split` (train, val, test) and `identity` (any text) may be left out, and every other
    column is an attribute: 1 or true, 0 or false, empty where it is unknown. -1 is refused, as in such files it means
    now "has not" and now "unknown". Pictures that are not there are left out and counted; a part that no row has is
    drawn as divide() does. Raises InputError for what does not fit.
    """
    file = file / CSV_NAME if file.is_dir() else file
    header, rows, lines = _csv_rows(file)
    columns = {name: place for place, name in enumerate(header)}
    attributes = tuple(name for name in header if name not in ("path", "split", "identity"))
    wanted = "its first line must be as path,Smiling,Eyeglasses."
    found = ", ".join(map(repr, header[:5]))
    if "path" not in columns:
        semicolons = " (are they separated by semicolons? commas are wanted)" if ";" in header[0] else ""
        raise InputError(f"{file} has no column `path`, but {found}{semicolons}; {wanted}")
    if not attributes:
        raise InputError(f"{file} has no attribute column, but {found}; {wanted}")
    names = [_relative(row[columns["path"]], file.parent) for row in rows]
    if "" in names:
        raise InputError(f"{file}, line {lines[names.index('')]}: the path is empty; write it, or remove the line.")
    file_names = np.array([os.fsencode(name) for name in names])
    first, count = repeated(file_names)
    if count:
        raise InputError(f"{file} lists {names[first]} more than once ({count:,} such rows); keep one of its rows.")

    targets = _csv_targets(file, rows, lines, {name: columns[name] for name in attributes})
    part = np.zeros(len(rows), dtype=np.int8)
    if "split" in columns:
        splits = [row[columns["split"]].strip().lower() for row in rows]
        wrong = next((i for i, split in enumerate(splits) if split not in SPLITS), None)
        if wrong is not None:
            raise InputError(
                f"{file}, line {lines[wrong]}: the split is {rows[wrong][columns['split']]!r}; it must be train, val "
                "or test."
            )
        part = np.array([SPLITS.index(split) for split in splits], dtype=np.int8)
    identities = None
    if "identity" in columns:
        people = np.array([row[columns["identity"]].strip() for row in rows])
        identities = np.where(people == "", -1, np.unique(people, return_inverse=True)[1])

    there = are_there(file.parent, file_names)
    if not there.any():
        raise InputError(
            f"{file}: none of its {len(names):,} pictures is there, the first being {file.parent / names[0]}; paths "
            "must be relative to the CSV's folder."
        )
    notes = []
    if missing := int((~there).sum()):
        lost = names[int(np.argmin(there))]
        notes.append(f"{missing:,} of {len(names):,} pictures of {file} are not there and left out (first: {lost})")
    images = AttributeImages(file.parent, file_names, targets, identities).take(there)
    parts, drawn = divide(images, part[there], val_fraction, test_fraction, seed, str(file))
    return AttributeData(attributes, parts, (*notes, *drawn))


def _csv_rows(file: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The names of the columns, the rows that are not blank, all of one length, and the line that each ends on."""
    content = read_list(file)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not in UTF-8 ({error}); save it as a CSV in UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    rows, lines = [], []
    try:
        for row in tqdm(reader, desc=f"reading {file.name}", unit=" rows", delay=2, leave=False):
            if any(row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}; save it as a CSV again.") from error
    if len(rows) < 2:
        raise InputError(
            f"{file} has no pictures; its first line names the columns, and each further one is a picture."
        )
    header = [name.strip() for name in rows[0]]
    odd = [name for name, count in Counter(header).items() if not name or count > 1]
    if odd:
        problem = f"has the column {odd[0]!r} more than once" if odd[0] else "has a column without a name"
        raise InputError(f"{file} {problem}; every column must have a name of its own.")
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{file}, line {line}: it has {len(row)} values, but line 1 names {len(header)} columns; "
                "leave a cell empty where a value is unknown, but keep its comma."
            )
    return header, rows[1:], lines[1:]


class _CsvValues(dict[str, int]):
    """A cell's text to its value; each way of writing one is looked at once."""

    def __missing__(self, text: str) -> int:
        self[text] = value = _CSV_VALUES.get(text.strip().lower(), _NO_VALUE)
        return value


def _csv_targets(file: Path, rows: list[list[str]], lines: list[int], columns: dict[str, int]) -> np.ndarray:
    """The targets, int8 (N, K), of the attributes in `columns`. Raises InputError for the first value that is none."""
    values = _CsvValues()
    targets = np.empty((len(rows), len(columns)), dtype=np.int8)
    for k, (name, column) in enumerate(columns.items()):
        targets[:, k] = [values[row[column]] for row in rows]
        if (targets[:, k] == _NO_VALUE).any():
            at = int(np.argmax(targets[:, k] == _NO_VALUE))
            text = rows[at][column].strip()
            hint = "; -1 is CelebA's, for its own lists alone" if text == "-1" else ""
            raise InputError(
                f"{file}, line {lines[at]}: {name} is {text!r}; it must be 1 or true, 0 or false, or empty where it is "
                f"unknown{hint}."
            )
    return targets


def _relative(path: str, folder: Path) -> str:
    """`path` of a CSV in `folder`, the same however it is written: `./a.jpg`, `a.jpg`, or in full."""
    path = path.strip()
    return os.path.relpath(path, folder) if os.path.isabs(path) else path and os.path.normpath(path)  # noqa: PTH117


# --- what CelebA's reader needs as well -----------------------------------------------------------------------------


def read_list(path: Path) -> bytes:
    """A list as it was distributed, without a byte order mark. Raises InputError for none, and for a web page."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it readable.") from error
    if content[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")):
        raise InputError(
            f"{path} is a web page, not a list: Google Drive sends one where its download quota is used up; fetch it "
            "again tomorrow, or elsewhere."
        )
    return content


def repeated(names: np.ndarray) -> tuple[int, int]:
    """The place of the first of `names` that occurs again, and how many are repetitions."""
    _, first, counts = np.unique(names, return_index=True, return_counts=True)
    again = first[counts > 1]
    return (int(again.min()) if len(again) else 0), len(names) - len(first)


def divide(
    images: AttributeImages, part: np.ndarray, val_fraction: float, test_fraction: float, seed: int, source: str
) -> tuple[dict[Split, AttributeImages], list[str]]:
    """The splits by `part`, int8 (N,) as SPLITS counts them, and notes; `source` is what the images were listed in.

    Where no image is "val" or "test", a part of the "train" ones is drawn with `seed`: by person where identities
    are known, so that nobody is in two splits, and else by picture. Raises InputError where that leaves a split empty.
    """
    check_options(
        "data",
        ("val_fraction", val_fraction, 0 < val_fraction < 1, "above 0 and below 1"),
        ("test_fraction", test_fraction, 0 < test_fraction < 1, "above 0 and below 1"),
    )
    wanted = {"val": val_fraction, "test": test_fraction}
    lacking = {split: wanted[split] for split in ("val", "test") if not (part == SPLITS.index(split)).any()}
    if sum(lacking.values()) >= 1:
        raise InputError(
            f"--data.val_fraction {val_fraction:g} and --data.test_fraction {test_fraction:g} together leave nothing "
            "to train on; lower them."
        )
    train = np.flatnonzero(part == 0)
    if not len(train):
        raise InputError(f"{source} has no picture to train on among those that are there; add some.")
    people = np.full(len(images), -1) if images.identities is None else images.identities
    by_person = bool((people[train] >= 0).any())
    notes = []
    if lacking:
        everyone = np.arange(len(train))
        groups = np.where(people[train] >= 0, people[train], -1 - everyone) if by_person else everyone
        drawn = _draw(groups, list(lacking.values()), seed)
        what = "people" if by_person else "pictures"
        if drawn is None:
            raise InputError(
                f"{source} has too few {what} to train on to set some of them aside for {' and '.join(lacking)}; "
                "add some."
            )
        part = part.copy()
        for split, mask in zip(lacking, drawn, strict=True):
            part[train[mask]] = SPLITS.index(split)
        counts = " and ".join(f"{mask.sum():,}" for mask in drawn)
        how = "by person" if by_person else "by picture (it is not known who is on which)"
        named = {"val": "validation", "test": "testing"}
        notes.append(
            f"{source} leaves no picture for {' and '.join(named[split] for split in lacking)}: {counts} of its "
            f"{len(train):,} training pictures, drawn {how} with seed {seed}, are set aside "
            f"({', '.join(f'--data.{split}_fraction' for split in lacking)})"
        )
    known = np.unique(np.stack([people, part])[:, people >= 0], axis=1)  # each person once in each split
    if shared := int((np.unique(known[0], return_counts=True)[1] > 1).sum()):
        notes.append(f"{shared:,} of the people in {source} are in more than one split, so that its scores flatter")
    return {split: images.take(part == number) for number, split in enumerate(SPLITS)}, notes


def _draw(groups: np.ndarray, fractions: list[float], seed: int) -> list[np.ndarray] | None:
    """Masks (N,), one for each fraction: whole groups in random order until it is reached, or None for too few.

    Each has at least one group and leaves one to every later fraction and one to train on.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) <= len(fractions):
        return None
    order = np.random.default_rng(seed).permutation(len(sizes))
    rank = np.argsort(order)[group]  # (N,) the place of each one's group in that order
    ends = np.cumsum(sizes[order])
    masks, start = [], 0
    for later, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
        goal = (ends[start - 1] if start else 0) + round(fraction * len(groups))
        stop = int(np.clip(np.searchsorted(ends, goal) + 1, start + 1, len(sizes) - later))
        masks.append((rank >= start) & (rank < stop))
        start = stop
    return masks


# --- loading --------------------------------------------------------------------------------------------------------


class AttributesDataModule(PhotographsDataModule):
    """Photographs with attributes: CelebA, or a CSV `path,attribute,...`; and any folder of pictures without labels.

    Args:
        root: Folder of the data set, or a CSV; without one, the built-in sample, which is drawn once.
        attributes: Names of those to learn, in that order; without them all that the data have.
        subgroups: Names of those by which the model card divides the scored pictures, learned or not.
        unlabelled: A folder of pictures without labels, which are added to the training set.
        labelled_fraction: Part of the labelled training images that is used; a smaller part is within a larger one.
        unlabelled_fraction: The same of the unlabelled ones.
        views: Augmented views of each training image, which take turns by the epoch, so that a teacher's answers to
            them can be kept; at 0 every epoch has a new one.
        shuffle_labels: Deal the training images' labels out anew, at random: what does not change does not use them.
        image_size: Side of the square input in px, or [height, width].
        resolution_mult: The paper's resolution multiplier; 1 keeps `image_size` as it is.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load and augment.
        val_fraction: Part of the training images set aside where there is no validation part.
        test_fraction: The same for testing.
        test_split: Which images `test` scores.
        max_bad_fraction: A run stops when more than this part of a split's images cannot be read.
        augment: Crop, flip, colour and erase the training images.
        min_crop_area: Smallest part of a photograph's area in a training crop; a hat that is cut off is still labelled.
        random_erasing: Part of the training images that lose a random rectangle.
        central_fraction: Part of the photograph's side that is looked at in evaluation, in its middle.
        seed: Of the order, the augmentation, the split, the fractions and the shuffled labels.

    """

    answers = ("targets",)
    sample = "faces"

    def __init__(
        self,
        root: str | None = None,
        attributes: list[str] | None = None,
        subgroups: list[str] | None = None,
        unlabelled: str | None = None,
        labelled_fraction: float = 1.0,
        unlabelled_fraction: float = 1.0,
        views: int = 0,
        shuffle_labels: bool = False,
        image_size: int | list[int] = 224,
        resolution_mult: float = 1.0,
        batch_size: int = 32,
        num_workers: int = 2,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        test_split: Literal["test", "val", "train", "all"] = "test",
        max_bad_fraction: float = 0.01,
        augment: bool = True,
        min_crop_area: float = 0.5,
        random_erasing: float = 0.0,
        central_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_options(
            "data",
            ("attributes", attributes, attributes is None or len(attributes) > 0, "one name or more, or left out"),
            ("labelled_fraction", labelled_fraction, 0 <= labelled_fraction <= 1, "from 0 to 1"),
            (
                "labelled_fraction",
                labelled_fraction,
                labelled_fraction > 0 or unlabelled is not None,
                "above 0 where there is no --data.unlabelled",
            ),
            ("unlabelled_fraction", unlabelled_fraction, 0 <= unlabelled_fraction <= 1, "from 0 to 1"),
        )
        self.prepare()
        self._found: AttributeData | None = None
        self._dividing: AttributeData | None = None  # the same pictures with the attributes of `subgroups`

    @property
    def categories(self) -> dict[int, str]:
        """The targets' columns to their attributes' names."""
        return dict(enumerate(self._data().attributes))

    @property
    def licence(self) -> str:
        """One sentence for the model card; empty where the data's terms are not known."""
        return self._data().licence

    def need_labels(self, why: str) -> None:
        """Raises InputError, with `why` they are needed, where no training image has a label."""
        targets = self._splits["train"].targets
        if not (targets != UNKNOWN).any():
            raise InputError(
                f"none of the {len(targets):,} training images has a label, and some are needed {why}; raise "
                "--data.labelled_fraction, or give data that have them."
            )

    def targets(self, split: Split, positions: list[int]) -> np.ndarray:
        """The targets, int8 (N, K), of the photographs at `positions`."""
        return self._splits[split].targets[positions]

    def subgroups(self, split: Split, positions: list[int]) -> dict[str, np.ndarray]:
        """By each attribute of `--data.subgroups` the targets, int8 (N,), of scored photographs at `positions`."""
        self._data()
        assert self._dividing is not None
        targets = self._scored(self._dividing, split).targets[positions]
        return dict(zip(self._dividing.attributes, targets.T, strict=True))

    def _data(self) -> AttributeData:
        if self._found is None:
            asked = self.hparams
            found = read_attributes(
                self._root(),
                val_fraction=asked["val_fraction"],
                test_fraction=asked["test_fraction"],
                seed=asked["seed"],
            )
            if asked["root"] is None:
                found = replace(found, licence="")  # drawn in CelebA's layout, but nobody's photographs
            self._dividing = _only(found, asked["subgroups"] or [], "subgroups")
            self._found = found if asked["attributes"] is None else _only(found, asked["attributes"], "attributes")
        return self._found

    def _notes(self) -> tuple[str, ...]:
        return self._data().notes

    def _read(self, split: str) -> AttributeImages:
        return self._train() if split == "train" else self._scored(self._data(), split)

    def _said(self, images: AttributeImages) -> str:
        labelled = int((images.targets != UNKNOWN).any(1).sum())
        without = f", {len(images) - labelled:,} of them without labels" if labelled < len(images) else ""
        return f"{len(images):,} images{without}, {len(self._data().attributes)} attributes,"

    def _train(self) -> AttributeImages:
        asked, splits = self.hparams, self._data().splits
        images = splits["train"]
        if asked["labelled_fraction"] < 1:
            images = images.take(_part(len(images), asked["labelled_fraction"], asked["seed"]))
        if asked["shuffle_labels"]:
            # A seed that is not the split's and the fractions': what they draw should say nothing of this.
            order = np.random.default_rng((asked["seed"], 1)).permutation(len(images))
            images = replace(images, targets=images.targets[order])
            say("train: the labels are shuffled (--data.shuffle_labels)")
        if asked["unlabelled"] is None:
            return images
        folder = Path(asked["unlabelled"])
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise InputError(f"--data.unlabelled {folder} {problem}; give a folder of pictures, or leave it out.")
        names = list_pictures(folder)
        unknown = np.full((len(names), images.targets.shape[1]), UNKNOWN, dtype=np.int8)
        pool = AttributeImages(folder, names, unknown)
        # Not those trained on with labels, nor those scored: the folder may be the data set's own.
        pool = without_used(pool, [images, splits["val"], splits["test"]])
        if asked["unlabelled_fraction"] < 1:
            pool = pool.take(_part(len(pool), asked["unlabelled_fraction"], asked["seed"]))
        if not len(images) + len(pool):
            raise InputError(
                f"--data.labelled_fraction {asked['labelled_fraction']:g} and --data.unlabelled_fraction "
                f"{asked['unlabelled_fraction']:g} of {folder} leave nothing to train on; raise one of them."
            )
        return AttributeImages.joined([images, pool])

    def _scored(self, data: AttributeData, split: str) -> AttributeImages:
        splits = data.splits
        asked: Any = self.hparams["test_split"] if split == "test" else split
        return AttributeImages.joined([splits[name] for name in SPLITS]) if asked == "all" else splits[asked]


def _only(data: AttributeData, names: list[str], option: str) -> AttributeData:
    """`data` with these attributes in this order. Raises InputError for one that it has not, or that comes twice."""
    lower = {name.lower(): name for name in data.attributes}
    for name in names:
        if name not in data.attributes:
            near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0)
            raise InputError(
                f"--data.{option} has {name!r}, which is not among the data's {len(data.attributes)} attributes; "
                f"the nearest is {lower[near[0]]!r}."
            )
        if names.count(name) > 1:
            raise InputError(f"--data.{option} has {name!r} more than once; name it once.")
    columns = [data.attributes.index(name) for name in names]
    splits = {split: replace(images, targets=images.targets[:, columns]) for split, images in data.splits.items()}
    return replace(data, attributes=tuple(names), splits=splits)


def _part(size: int, fraction: float, seed: int) -> np.ndarray:
    """The sorted places of a random part of `size`, at least one above 0; with one seed, larger parts hold smaller."""
    count = max(round(fraction * size), 1 if fraction and size else 0)
    return np.sort(np.random.default_rng((seed, 2)).permutation(size)[:count])
