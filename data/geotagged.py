"""Photographs with the place where each was taken: a CSV, or a folder whose pictures have it in their EXIF.

A place is told by more than the view: one walk, one camera, one hour's light. So no photographer, sequence or place is
in two splits where a column says whose a picture is; elsewhere no day, and what looks like a picture that is scored is
not trained on.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from backbone.errors import InputError
from data.coordinates import LeftOut, clean
from data.coordinates_columns import Columns, choose_columns, group_name
from data.coordinates_csv import read_rows
from data.exif_positions import exif_taken
from data.folders import SPLITS, Split, say
from data.geotagged_splits import SPLIT_NUMBERS, check_drawing, drawn_order, groups_of, set_aside, split_numbers
from data.image_list import ImageList, are_there, list_pictures
from data.images import IMAGE_ENDINGS
from data.photographs import PhotographsDataModule

if TYPE_CHECKING:
    from data.geotagged_shards import Shards

CSV_NAME = "photographs.csv"

_THREADS = 16  # they wait for the disk
_BLOCK = 64  # pictures that a thread takes at a time


@dataclass(frozen=True)
class GeotaggedImages(ImageList):
    """Photographs and where they were taken."""

    latlng: np.ndarray  # float64 (N, 2): degrees, latitude first, longitude in [-180, 180]
    groups: np.ndarray | None = None  # int64 (N,): the photographer, day or whatever the splits were made by


@dataclass(frozen=True)
class GeotaggedData:
    """A data set of photographs with places: its splits."""

    splits: dict[Split, GeotaggedImages]  # "train", "val" and "test"
    notes: tuple[str, ...]  # sentences to print once at the start: what was set aside, left out, counted


@dataclass(frozen=True)
class Undivided(ImageList):
    """The pictures of a data set before they are divided."""

    latlng: np.ndarray  # float64 (N, 2)
    group_names: np.ndarray  # bytes (N,)
    part: np.ndarray  # int8 (N,) as SPLITS counts them, 0 where nothing says
    by: str  # what a group is, for sentences: "author", "day", "picture"
    source: str
    notes: tuple[str, ...]  # as GeotaggedData's
    notes_if_drawn: tuple[str, ...] = ()  # those that matter only then

    @property
    def images(self) -> GeotaggedImages:
        """All of them, in the order of the list or of the folder."""
        groups = np.unique(self.group_names, return_inverse=True)[1]
        return GeotaggedImages(self.folder, self.file_names, self.latlng, groups)


def read_geotagged(
    root: Path,
    columns: Columns | None = None,
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> GeotaggedData:
    """The data set in `root`, as find_geotagged() does, and its splits as divide() does."""
    check_drawing(val_fraction, test_fraction, seed)
    found = find_geotagged(root, columns)
    data = divide(found, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    return replace(data, notes=(*found.notes, *data.notes))


def find_geotagged(root: Path, columns: Columns | None = None) -> Undivided:
    """The data set in `root`: a CSV, a folder with one, or a folder of pictures with positions in their EXIF.

    In a folder, `photographs.csv` is read, or `train.csv` with `val.csv` and `test.csv`; else every picture to the
    bottom, of which those in `train/`, `val/` and `test/`, where there are such folders, are of that split. Raises
    InputError for what does not fit.
    """
    files = _csv_files(root)
    return _read_csv(root, files, columns) if files else _read_exif(root)


# --- a CSV ----------------------------------------------------------------------------------------------------------


def _csv_files(root: Path) -> dict[Path, int]:
    """The CSVs of a data set and the number of the split that each is of, -1 for all; none where EXIF is meant."""
    if root.is_file():
        return {root: -1}
    if (root / CSV_NAME).is_file():
        return {root / CSV_NAME: -1}
    named = {root / f"{split}.csv": number for number, split in enumerate(SPLITS)}
    named = {file: number for file, number in named.items() if file.is_file()}
    if named and root / "train.csv" not in named:
        raise InputError(f"{root} has {next(iter(named)).name} but no train.csv; give the file itself.")
    return named


def _read_csv(root: Path, files: dict[Path, int], columns: Columns | None) -> Undivided:
    names, latlng, groups, parts = [], [], [], []
    kinds: set[str] = set()
    notes: list[str] = []
    undated: list[str] = []
    for file, split in files.items():
        left_out, dates = LeftOut(), LeftOut()
        for rows in read_rows(file, columns, left_out):
            named, kind = groups_of(rows, dates)
            kinds.add(kind)
            names.append(rows.paths)
            latlng.append(rows.latlng)
            groups.append(named)
            parts.append(split_numbers(file, rows) if split < 0 else np.full(len(rows.lines), split))
        notes += left_out.lines("row", file)
        undated += dates.lines("row", file)
    source = str(next(iter(files)) if len(files) == 1 else root)
    packed = np.concatenate(names)
    _refuse_repeated(source, packed)
    by = (
        (group_name(next(iter(files)), columns) or "group")
        if "group" in kinds
        else "day"
        if "day" in kinds
        else "picture"
    )
    return _only_present(
        Undivided(
            root if root.is_dir() else root.parent,
            packed,
            np.concatenate(latlng),
            np.concatenate(groups),
            np.concatenate(parts),
            by,
            source,
            tuple(notes),
            tuple(undated),
        )
    )


def _refuse_repeated(source: str, names: np.ndarray) -> None:
    """Raises InputError where a picture is listed twice."""
    order = np.argsort(drawn_order(names, 0), kind="stable")  # several times faster than sorting the names
    again = np.flatnonzero(names[order][1:] == names[order][:-1])
    if len(again):
        first = os.fsdecode(names[order[again].min()])
        raise InputError(f"{source} lists {first} more than once ({len(again):,} such rows); keep one of its rows.")


def _only_present(found: Undivided) -> Undivided:
    """Those whose file is there: by its path, or, where none is there, by its name anywhere in the folder.

    The lists of OSV-5M, YFCC100M and MP-16 have an id, and what has become of it as a file differs. Raises InputError
    where there is none, or where two files have one name.
    """
    there = are_there(found.folder, found.file_names)
    if not there.any():
        try:
            files = list_pictures(found.folder)
        except InputError:  # not one picture
            files = found.file_names[:0]
        place = _by_name(found, files)
        there = place >= 0
        if there.any():
            names = np.where(there, files[place], found.file_names) if len(files) else found.file_names
            found = replace(found, file_names=names)
    if not there.any():
        first = os.fsdecode(found.file_names[0])
        raise InputError(
            f"{found.source}: none of its {len(there):,} pictures is there, the first being {found.folder / first}; "
            "paths must be relative to the CSV's folder."
        )
    if not there.all():
        left_out = LeftOut()
        left_out.note("missing", int((~there).sum()), lambda: os.fsdecode(found.file_names[np.argmin(there)]))
        found = replace(found, notes=(*found.notes, *left_out.lines("picture", found.source)))
    return found.take(there)


def _by_name(found: Undivided, files: np.ndarray) -> np.ndarray:
    """The place in `files` of each picture by its name alone, its ending left out; -1 where there is none."""
    if not len(files):
        return np.full(len(found), -1)
    listed, wanted = last_parts(without_endings(files)), last_parts(without_endings(found.file_names))
    order = np.argsort(listed, kind="stable")
    at = np.searchsorted(listed, wanted, sorter=order).clip(max=len(listed) - 1)
    place = np.where(listed[order[at]] == wanted, order[at], -1)
    after = order[np.minimum(at + 1, len(listed) - 1)]
    twice = (place >= 0) & (after != place) & (listed[after] == wanted)
    if twice.any():
        row = int(np.argmax(twice))
        one, other = (os.fsdecode(files[i]) for i in (place[row], after[row]))
        raise InputError(
            f"{found.source}: {os.fsdecode(found.file_names[row])} may be {one} or {other} in {found.folder}; write "
            "their paths in the list, or take one away."
        )
    return place


def without_endings(names: np.ndarray) -> np.ndarray:
    """Paths, bytes (N,), without a picture's ending."""
    endings = tuple(ending.encode() for ending in IMAGE_ENDINGS)

    def bare(name: bytes) -> bytes:
        return name.rpartition(b".")[0] if name.lower().endswith(endings) else name

    return np.array([bare(name) for name in names.tolist()], np.bytes_)


def last_parts(names: np.ndarray) -> np.ndarray:
    """The last parts of paths, bytes (N,)."""
    return np.array([name.rpartition(b"/")[2] for name in names.tolist()], np.bytes_)


# --- a folder of pictures with EXIF ---------------------------------------------------------------------------------


def _read_exif(root: Path) -> Undivided:
    notes: list[str] = []
    names = list_pictures(root)
    top = np.array([SPLIT_NUMBERS.get(name.partition(b"/")[0].lower(), -1) for name in names.tolist()])
    beside = top < 0
    if (top == 0).any():  # else val/ and test/ are names like others
        if beside.any():
            first = os.fsdecode(names[np.argmax(beside)])
            notes.append(
                f"{beside.sum():,} pictures of {root} are in none of train/, val/ and test/: left out ({first})"
            )
        names, top = names[~beside], top[~beside]
    else:
        top = np.zeros(len(names), dtype=np.int64)

    latlng = np.full((len(names), 2), np.nan)
    days = np.zeros(len(names), dtype="S10")
    reasons: list[tuple[int, str]] = []

    def work(start: int) -> int:
        block = range(start, min(start + _BLOCK, len(names)))
        for i in block:
            taken = exif_taken(root / os.fsdecode(names[i]))
            days[i] = taken.day.encode()
            if isinstance(taken.position, str):
                reasons.append((i, taken.position))
            else:
                latlng[i] = taken.position
        return len(block)

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with tqdm(total=len(names), desc="reading EXIF positions", unit=" pictures", delay=2, leave=False) as bar:
            for done in pool.map(work, range(0, len(names), _BLOCK)):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)

    left_out = LeftOut()
    for i, reason in sorted(reasons):
        left_out.note(reason, 1, lambda name=names[i]: os.fsdecode(name))  # type: ignore[misc]  # of a lambda's default
    has = np.flatnonzero(~np.isnan(latlng[:, 0]))
    positions, keep = clean(latlng[has], root, lambda row: os.fsdecode(names[has[row]]), left_out)
    if not keep.any():
        other = next((file for file in sorted(root.iterdir()) if file.suffix.lower() in (".csv", ".tsv")), None)
        remedy = (
            f"is {other} meant?" if other else f"give photographs with GPS, or a {CSV_NAME} of path,latitude,longitude."
        )
        raise InputError(
            f"{root} has no picture with a GPS position ({'; '.join(left_out.lines('picture', root.name))}); {remedy}"
        )
    notes += left_out.lines("picture", root)
    kept = has[keep]
    groups = np.where(days[kept] == b"", names[kept], days[kept])
    by = "day" if (days[kept] != b"").any() else "picture"
    part = top[kept].astype(np.int8)
    return Undivided(root, names[kept], positions[keep], groups, part, by, str(root), tuple(notes))


# --- splits ---------------------------------------------------------------------------------------------------------


def divide(found: Undivided, *, val_fraction: float, test_fraction: float, seed: int) -> GeotaggedData:
    """The splits of a data set, and what is to be said of dividing it.

    A split that no picture is of is drawn from the training pictures, but for a fraction of 0: whole groups, by their
    names and `seed`, so that pictures added later leave the others where they are. The fractions and the seed are as
    check_drawing() wants them. Raises InputError where there is too little to draw from.
    """
    fractions: dict[Split, float] = {"val": val_fraction, "test": test_fraction}
    notes: list[str] = []
    names, groups = np.unique(found.group_names, return_inverse=True)
    part = found.part.copy()
    train = np.flatnonzero(part == 0)
    if not len(train):
        raise InputError(f"{found.source} has no picture to train on among those that are there; add some.")
    lacking: dict[Split, float] = {
        split: fraction
        for split, fraction in fractions.items()
        if fraction > 0 and not (part == SPLITS.index(split)).any()
    }
    if lacking:
        notes += found.notes_if_drawn
        part[train] = _draw(found, names, groups[train], lacking, seed)
        counts = " and ".join(f"{(part == SPLITS.index(split)).sum():,}" for split in lacking)
        named = {"val": "validation", "test": "testing"}
        notes.append(
            f"{found.source} leaves no picture for {' and '.join(named[split] for split in lacking)}: {counts} of its "
            f"{len(train):,} training pictures, drawn by {found.by} with seed {seed}, are set aside "
            f"({', '.join(f'--data.{split}_fraction' for split in lacking)})"
        )
    pairs = np.unique(np.stack([groups, part]), axis=1)  # each group once in each split
    if found.by not in ("day", "picture") and (shared := int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())):
        notes.append(
            f"{shared:,} of the {len(names):,} groups of {found.source} (by {found.by}) have pictures in more than one "
            "split, so that its scores flatter"
        )
    images = found.images
    splits = {split: images.take(part == number) for number, split in enumerate(SPLITS)}
    if lacking and found.by in ("day", "picture"):
        splits["train"] = _without_near_duplicates(splits, found.source, notes)
    return GeotaggedData(splits, tuple(notes))


def _draw(
    found: Undivided, names: np.ndarray, groups: np.ndarray, lacking: dict[Split, float], seed: int
) -> np.ndarray:
    """The split of each training picture, int8 (M,): those groups whose number by drawn_order() is low are set aside.

    Each split has at least one group, and so has the training. Raises InputError where there are too few.
    """
    here = np.unique(groups)
    if len(here) <= len(lacking):
        what = f"{len(here)} {found.by}{'s' * (len(here) > 1)}"
        raise InputError(
            f"{found.source} has pictures of {what} to train on, too few to set some aside for {' and '.join(lacking)} "
            "without one in two splits; add some, or say by a column `split` which picture is of which."
        )
    drawn = drawn_order(names[here], seed)
    order = np.argsort(drawn)
    part = np.zeros(len(names), dtype=np.int8)
    start = 0
    for split, end in zip(lacking, set_aside(drawn, list(lacking.values())), strict=True):
        part[here[order[start:end]]] = SPLITS.index(split)
        start = end
    return part[groups]


def _without_near_duplicates(splits: dict[Split, GeotaggedImages], source: str, notes: list[str]) -> GeotaggedImages:
    """The training pictures without those that look like one that is scored: a burst may go on past midnight."""
    from data.near_duplicates import without_near_duplicates  # hashing is needed where splits are drawn

    train = splits["train"]
    kept, removed = without_near_duplicates(train, GeotaggedImages.joined([splits["val"], splits["test"]]))
    if not len(kept):
        raise InputError(
            f"every picture of {source} to train on looks like one that is set aside; give other pictures, or say by a "
            "column `split` which is of which."
        )
    if removed:
        notes.append(
            f"{removed:,} of {len(train):,} training pictures look like one that is set aside and are left out"
        )
    return kept


# --- loading --------------------------------------------------------------------------------------------------------


class GeotaggedDataModule(PhotographsDataModule):
    """Photographs with places: a CSV `path,latitude,longitude`, or a folder of pictures with positions in their EXIF.

    Args:
        root: Folder of the data set, or a CSV; without one, the built-in sample, which is drawn once.
        preset: Whose columns the CSV has: path_lat_lon, yfcc100m, osv5m, mp16, im2gps, geo_clip; else the header tells.
        path_column: Its column of the pictures' paths, where that is another; a position from 0 where it has no header.
        latitude_column: The same of the latitude, in degrees.
        longitude_column: The same of the longitude.
        group: The same of the photographer, the sequence or the place: no two splits have one. Without it a column of
            such a name; without that pictures of one day stay together, and what looks like a scored one is not used.
        shards: WebDataset shards to train on, as DIR/train-{000000..000123}.tar: a `key.jpg` and a `key.json` with
            latitude and longitude for each picture. `root` is then for validation, but for its test part.
        shards_csv: A list with the positions of the pictures in the shards by their keys, where those have no JSON.
        image_size: Side of the square input in px, or [height, width].
        resolution_mult: The paper's resolution multiplier; 1 keeps `image_size` as it is.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load and augment.
        views: Augmented views of each training image, which take turns by the epoch, so that a teacher's answers to
            them can be kept; at 0 every epoch has a new one.
        val_fraction: Part of the training images set aside where there is no validation part.
        test_fraction: The same for testing.
        test_split: Which images `test` scores; "all" are those of the data set, none left out for looking like another.
        max_bad_fraction: A run stops when more than this part of a split's images cannot be read.
        augment: Crop, colour and erase the training images.
        mirror: Mirror half of them; writing and the side of the road that one drives on are then lost.
        hue: Shift the hue of half of them; soil, leaves and roofs then tell less.
        min_crop_area: Smallest part of a photograph's area in a training crop.
        random_erasing: Part of the training images that lose a random rectangle.
        central_fraction: Part of the photograph's side that is looked at in evaluation, in its middle.
        crops: In evaluation that part as one, or as five of 7/8 its side, its corners and centre.
        seed: Of the order, the augmentation and the split.

    """

    answers = ("latlng",)
    sample = "places"
    categories: dict[int, str] = {}  # noqa: RUF012  # there are none: what a place is, the partition says

    def __init__(
        self,
        root: str | None = None,
        preset: str | None = None,
        path_column: str | None = None,
        latitude_column: str | None = None,
        longitude_column: str | None = None,
        group: str | None = None,
        shards: str | None = None,
        shards_csv: str | None = None,
        image_size: int | list[int] = 224,
        resolution_mult: float = 1.0,
        batch_size: int = 32,
        num_workers: int = 2,
        views: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        test_split: Literal["test", "val", "train", "all"] = "test",
        max_bad_fraction: float = 0.01,
        augment: bool = True,
        mirror: bool = False,
        hue: bool = False,
        min_crop_area: float = 0.25,
        random_erasing: float = 0.0,
        central_fraction: float = 0.875,
        crops: Literal[1, 5] = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.prepare()
        check_drawing(val_fraction, test_fraction, seed)
        self._columns = choose_columns(preset, path_column, latitude_column, longitude_column, group)
        self._found: Undivided | None = None
        self._divided: GeotaggedData | None = None
        self._shards: Shards | None = None
        if shards is not None and root is None:
            raise InputError(
                "--data.shards is given without --data.root, which validation and testing need; give both."
            )
        if shards_csv is not None and shards is None:
            raise InputError("--data.shards_csv is given without --data.shards; give both, or leave it out.")

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented, from where the trainer stands; of shards, each worker streams its own."""
        if self._shards is None:
            return super().train_dataloader()
        from data.geotagged_shards import make_shard_loader

        asked = self.hparams
        return make_shard_loader(
            self._shards, self._training_set(), asked["batch_size"], asked["num_workers"], self.trainer
        )

    def train_views(self, view: int, positions: Sequence[int]) -> DataLoader:
        """As PhotographsDataModule's; InputError for shards, which are not read at random."""
        if self._shards is not None:
            raise InputError(
                "--data.shards are streamed, so that a teacher's answers to them cannot be kept; leave its cache out, "
                "or unpack them."
            )
        return super().train_views(view, positions)

    @property
    def evaluated_size(self) -> tuple[int, int]:
        """(height, width) px of what five crops of the input's size are cut from, or of the input."""
        return size_for_crops(self.input_size) if self.hparams["crops"] == 5 else self.input_size

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """Leaves the places where they are looked up; Apple's GPU has no float64."""
        rest = {name: value for name, value in batch.items() if name != "latlng"}
        return {**super().transfer_batch_to_device(rest, device, dataloader_idx), "latlng": batch["latlng"]}

    def train_latlng(self) -> np.ndarray:
        """Where the training photographs were taken, float64 (N, 2): what a partition is built from."""
        return (self._data().splits["train"] if self.hparams["shards"] is None else self._streamed().images).latlng

    def latlng(self, split: Split, positions: list[int]) -> np.ndarray:
        """Where the photographs at `positions` were taken, float64 (N, 2)."""
        return self._splits[split].latlng[positions]

    def _undivided(self) -> Undivided:
        if self._found is None:
            self._found = find_geotagged(self._root(), self._columns)
        return self._found

    def _data(self) -> GeotaggedData:
        if self._divided is None:
            asked = self.hparams
            fractions = {name: asked[name] for name in ("val_fraction", "test_fraction")}
            self._divided = divide(self._undivided(), **fractions, seed=asked["seed"])
            for note in self._divided.notes:
                say(note)
        return self._divided

    def _notes(self) -> tuple[str, ...]:
        return self._undivided().notes

    def _streamed(self) -> "Shards":
        if self._shards is None:
            from data.geotagged_shards import read_shards  # it needs a library that is an extra

            listed = self.hparams["shards_csv"]
            self._shards = read_shards(self.hparams["shards"], None if listed is None else Path(listed), self._columns)
            for note in (*self._shards.notes, *self._shards.overlap_with(self._undivided())):
                say(note)
        return self._shards

    def _read(self, split: str) -> GeotaggedImages:
        if split == "train" and self.hparams["shards"] is not None:
            return self._streamed().images
        if split == "test" and self.hparams["test_split"] == "all":
            return self._undivided().images  # of one day or one author too, of which no split can be drawn
        splits = self._data().splits
        if split == "val" and self.hparams["shards"] is not None:
            return GeotaggedImages.joined([splits["train"], splits["val"]])
        asked: Any = self.hparams["test_split"] if split == "test" else split
        return splits[asked]

    def _said(self, images: GeotaggedImages) -> str:
        places = len(np.unique(np.round(images.latlng), axis=0))
        return f"{len(images):,} images in {places:,} squares of one degree,"


def size_for_crops(size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) px that five crops of `size` are cut from."""
    return round(size[0] * 8 / 7), round(size[1] * 8 / 7)
