"""What a reader gives: images with their targets as plain arrays, and what is odd about them, counted. No torch."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from backbone.errors import InputError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # in the order of CelebA's numbers 0, 1, 2
UNSPLIT = -1  # in a column `split`: no list says which split the image is of
_SINGULAR = {"are": "is", "have": "has", "repeat": "repeats"}
NAMED = 5  # of the files or lines that are odd in one way


@dataclass(frozen=True)
class Issue:
    """One kind of odd data: how often it occurred, and where first."""

    what: str  # what follows the number: "boxes over the edge clipped"
    count: int
    first: str = ""  # a line or a file
    more: tuple[str, ...] = ()  # the next few of them

    @property
    def counted(self) -> str:
        """The number and what there is so often, in the singular for one."""
        noun, _, rest = self.what.partition(" ")
        if self.count == 1 and noun.endswith("s"):
            noun = noun.removesuffix("es") if noun.endswith(("xes", "sses")) else noun.removesuffix("s")
            rest = re.sub(r"\b(are|have|repeat)\b", lambda verb: _SINGULAR[verb[0]], rest, count=1)
        return f"{self.count:,} {noun} {rest}".rstrip()

    def __str__(self) -> str:
        return self.counted + (f" (first: {self.first})" if self.first else "")


def issue_of(what: str, where: np.ndarray, place: Callable[[int], str]) -> list[Issue]:
    """An Issue of the rows `where`, bool (N,) or their positions, of which the first few are named; [] for none."""
    rows = np.flatnonzero(where) if where.dtype == bool else where
    first, *more = [place(int(row)) for row in rows[:NAMED]] or [""]
    return [Issue(what, len(rows), first, tuple(more))] if len(rows) else []


@dataclass(frozen=True)
class Boxes:
    """The objects of N images, packed: those of image i are the rows offsets[i]:offsets[i + 1]."""

    offsets: np.ndarray  # int64 (N + 1,)
    xywh: np.ndarray  # float64 (M, 4) px of the annotated size, as the file has them: sizes from corners are rounded
    labels: np.ndarray  # int64 (M,) from 0
    crowd: np.ndarray  # bool (M,): regions that are not searched
    areas: np.ndarray  # float64 (M,) px²

    @property
    def xyxy(self) -> np.ndarray:
        """The corners, float64 (M, 4) px."""
        return np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1)

    @property
    def images(self) -> np.ndarray:
        """The position of each object's image, int64 (M,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def rows(self, position: int) -> slice:
        """The rows of the image at `position`."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def take(self, positions: np.ndarray) -> "Boxes":
        """The objects of the images at `positions`, int64 (M,), in that order."""
        counts = np.diff(self.offsets)[positions]
        offsets, rows = np.concatenate([[0], np.cumsum(counts)]), rows_from(self.offsets[:-1][positions], counts)
        return Boxes(offsets, self.xywh[rows], self.labels[rows], self.crowd[rows], self.areas[rows])


@dataclass(frozen=True)
class Records:
    """The images of a data set or of a split, packed: lists of objects would be copied page by page into every worker.

    `columns` are arrays of a row for each image. Those that the project knows: `split` int8 (position in SPLITS, or
    UNSPLIT), `group` bytes (images of one group are in one split), and the targets: `labels` int64, `attributes` int8
    (N, K) (1, 0, -1 unknown), `latlng` float64 (N, 2), `identities` int64 (-1 unknown), `crop_xyxy` float32 (N, 4) px
    (NaN: the whole image), `image_ids` int64 (object where one is larger), `sizes` int64 (N, 2) (height, width the
    annotations were made on; 0 unknown). Of images in shards `member` int64 (N, 3) has the length of the shard's part
    of the file name, and the image's offset and size there; -1 of one that is a file.
    """

    folder: Path  # file_names are relative to it
    file_names: np.ndarray  # UTF-8 bytes (N,), dtype S*
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: Boxes | None = None
    classes: tuple[str, ...] = ()  # by label, or by the attributes' column
    class_ids: tuple[int, ...] = ()  # by label, where the data number their classes otherwise
    issues: tuple[Issue, ...] = ()  # odd data that could be used or left out
    notes: tuple[str, ...] = ()  # sentences for the user: what was set aside, the data's terms
    grouped_by: str = "image"  # what has a `group` of its own, for sentences: "person", "day", "creator_id"
    layout: str = ""  # what `data/layouts.py` took the data for: "Pascal VOC"
    url: str = ""  # where the shards in `folder`, which is then their cache, are fetched from

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def __contains__(self, file: object) -> bool:
        return bool((self.file_names == os.fsencode(os.path.relpath(str(file), self.folder))).any())

    def path(self, position: int) -> Path:
        """The file of the image at `position`."""
        return self.folder / os.fsdecode(self.file_names[position])  # not decode(): a name need not be valid UTF-8

    def take(self, positions: np.ndarray) -> "Records":
        """The images at `positions`, int64 (M,) or a mask of bool (N,), in that order."""
        positions = np.flatnonzero(positions) if positions.dtype == bool else positions
        columns = {name: rows[positions] for name, rows in self.columns.items()}
        boxes = None if self.boxes is None else self.boxes.take(positions)
        return replace(self, file_names=self.file_names[positions], columns=columns, boxes=boxes)

    def of_split(self, split: Split) -> "Records":
        """The images whose `split` it is."""
        return self.take(self.columns["split"] == SPLITS.index(split))

    def with_columns(self, **columns: np.ndarray) -> "Records":
        """The same images with these columns added or replaced."""
        return replace(self, columns={**self.columns, **columns})


def rows_from(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers of the rows of N images, of which each has `counts` (N,) that lie together from `starts` (N,) on."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def positions_in(listed: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted`, (N,), is in `listed`, (M,) without repetitions: int64 (N,), -1 where it is not."""
    if not len(listed):
        return np.full(len(wanted), -1)
    order = np.argsort(listed)
    at = order[np.searchsorted(listed, wanted, sorter=order).clip(max=len(listed) - 1)]
    return np.where(listed[at] == wanted, at, -1)


def joined(parts: Sequence[Records]) -> Records:
    """All parts as one, in their order, in the folder that holds all of theirs, with the columns that all have.

    The classes are the first part's; whether those of the others are the same is for the caller to check. Raises
    InputError where some are in shards far away, and others elsewhere.
    """
    if any("member" in part.columns for part in parts):
        parts = [part if "member" in part.columns else part.with_columns(member=_no_member(part)) for part in parts]
    folders = [os.path.abspath(part.folder) for part in parts]  # noqa: PTH100  # resolve() would follow links
    folder = os.path.commonpath(folders)
    starts = [b"" if own == folder else os.fsencode(f"{os.path.relpath(own, folder)}/") for own in folders]
    names = [np.char.add(start, part.file_names) for start, part in zip(starts, parts, strict=True)]
    shared = [name for name in parts[0].columns if all(name in part.columns for part in parts)]
    if len(set(folders)) > 1 and any(part.url for part in parts):
        raise InputError("shards that are fetched cannot be joined with other images; copy them to the local disk.")
    parts = [_moved(part, len(start)) for part, start in zip(parts, starts, strict=True)]
    return Records(
        parts[0].folder if len(set(folders)) == 1 else Path(folder),
        np.concatenate(names),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in shared},
        _joined_boxes([part.boxes for part in parts]),
        parts[0].classes,
        parts[0].class_ids,
        tuple(issue for part in parts for issue in part.issues),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        layout=parts[0].layout,
        url=parts[0].url,
    )


def _no_member(records: Records) -> np.ndarray:
    return np.full((len(records), 3), -1)


def _moved(records: Records, by: int) -> Records:
    """The records whose names are so many bytes longer in front."""
    if not by or "member" not in records.columns:
        return records
    member = records["member"].copy()
    member[member[:, 2] >= 0, 0] += by
    return records.with_columns(member=member)


def _joined_boxes(parts: Sequence[Boxes | None]) -> Boxes | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    counts = np.concatenate([np.diff(part.offsets) for part in known])
    rows = (np.concatenate([getattr(part, name) for part in known]) for name in ("xywh", "labels", "crowd", "areas"))
    return Boxes(np.concatenate([[0], np.cumsum(counts)]), *rows)
