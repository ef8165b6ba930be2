"""CelebA: 202,599 aligned faces of 10,177 people with 40 attributes, in the layout it is distributed in.

Liu et al., 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html. It is never fetched from here: its terms are to be
agreed to, and Google Drive, where it lies, answers with a web page whenever its quota is used up.
Its boxes (list_bbox_celeba.txt) are of the photographs before alignment, and of no use for these.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from data.attributes import AttributeData, AttributeImages, divide, read_list, repeated

LICENCE = (
    "CelebA is for non-commercial research only: its terms forbid any commercial use of the images and of what is "
    "derived from them, and so of a model trained on them."
)

_ATTRIBUTES, _PARTITION, _IDENTITIES = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
_PICTURES = "img_align_celeba"
_PLACES = ("", "Anno", "Eval", "Img")  # all in one folder, or in three, as they are distributed
_LONGEST_NAME = 255  # bytes; file systems have no longer ones
_AGAIN = "fetch it again."


def is_celeba(root: Path) -> bool:
    """Whether `root` is laid out as CelebA, complete or not; read_celeba() then says what is missing."""
    return any((root / place / name).exists() for place in _PLACES for name in (_ATTRIBUTES, _PICTURES))


def read_celeba(root: Path, *, val_fraction: float = 0.1, test_fraction: float = 0.1, seed: int = 0) -> AttributeData:
    """The data set in `root`, or a part of it: `img_align_celeba/`, `list_attr_celeba.txt`, `list_eval_partition.txt`.

    Rows without a picture are left out and counted. Where there is no partition, or no picture of one of its parts,
    divide() draws one: by person where `identity_CelebA.txt` is there. -1 of the list is 0 in the targets. Raises
    InputError where the lists do not fit together, or are no lists but web pages.
    """
    path, pictures = _find(root, _ATTRIBUTES), _find(root, _PICTURES)
    if path is None:
        raise InputError(f"{root} has no {_ATTRIBUTES}; put it there, as CelebA is distributed.")
    if pictures is None:
        raise InputError(f"{root} has no {_PICTURES}/; unpack {_PICTURES}.zip there.")
    attributes, names, targets = _read_attributes(path)
    there = _listed(pictures)
    present = np.isin(names, there)
    if not present.any():
        raise InputError(
            f"{pictures} holds none of the {len(names):,} pictures of {path}, such as {_text(names[0])}; unpack "
            f"{_PICTURES}.zip, so that they lie right in it."
        )
    notes = []
    if missing := int((~present).sum()):
        lost = _text(names[np.argmin(present)])
        notes.append(f"{missing:,} of the {len(names):,} pictures of {path} are not there and left out (first: {lost})")
    if others := int((~np.isin(there, names)).sum()):
        notes.append(f"{others:,} files in {pictures} are not in {path} and left out")

    part, source = _partition(root, names)
    people = _people(root, names, notes)
    images = AttributeImages(pictures, names, targets, people).take(present)
    splits, drawn = divide(images, part[present], val_fraction, test_fraction, seed, str(source))
    return AttributeData(attributes, splits, (*notes, *drawn), LICENCE)


def _find(root: Path, name: str) -> Path | None:
    return next((root / place / name for place in _PLACES if (root / place / name).exists()), None)


def _listed(folder: Path) -> np.ndarray:
    """The names of the files in `folder`, bytes (N,), hidden ones left out. One listing: 202,599 questions are slow."""
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            names = [
                entry.name
                for entry in tqdm(entries, desc="listing the pictures", delay=2, leave=False)
                if not entry.name.startswith(b".") and entry.is_file()
            ]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror or error}); make it readable.") from error
    return np.array(names, dtype=np.bytes_)


def _read_attributes(path: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The K names of the attributes, the files' names, bytes (N,), and their targets, int8 (N, K)."""
    head, _, rest = read_list(path).partition(b"\n")
    header, _, body = rest.partition(b"\n")
    if not head.strip().isdigit() or len(head) > 20:
        raise InputError(f"{path}: line 1 is {_text(head.strip()[:40])!r}, not the number of pictures; {_AGAIN}")
    attributes = tuple(map(_text, header.split()))
    if not attributes:
        raise InputError(f"{path}: line 2 names no attribute; {_AGAIN}")
    if twice := [name for name, count in Counter(attributes).items() if count > 1]:
        raise InputError(f"{path}: line 2 names {twice[0]} more than once; {_AGAIN}")
    table = _table(path, body, 1 + len(attributes), 3, f"line 2 names {len(attributes)} attributes")
    if len(table.starts) != int(head):
        raise InputError(f"{path} has {len(table.starts):,} rows, but line 1 says {int(head):,}; {_AGAIN}")

    starts, lengths = table.starts[:, 1:], table.lengths[:, 1:]
    first = table.content[starts]
    has = (lengths == 1) & (first == ord("1"))
    second = table.content[np.minimum(starts + 1, len(table.content) - 1)]
    neither = ~has & ~((lengths == 2) & (first == ord("-")) & (second == ord("1")))
    if neither.any():
        row, k = np.argwhere(neither)[0]
        raise InputError(
            f"{path}, line {table.lines[row]}: {attributes[k]} is {table.word(row, k + 1)!r}; it must be 1 or -1 "
            f"({neither.sum():,} such values): {_AGAIN}"
        )
    return attributes, table.names(), has.astype(np.int8)


def _partition(root: Path, names: np.ndarray) -> tuple[np.ndarray, Path]:
    """The part of each picture, int8 (N,) 0 to 2, and where that was found; all 0, and `root`, where there is none."""
    path = _find(root, _PARTITION)
    if path is None:
        return np.zeros(len(names), dtype=np.int8), root
    table = _table(path, read_list(path), 2, 1, "a picture and 0, 1 or 2 are wanted")
    listed, parts = table.names(), table.column(1)
    known = np.isin(parts, [b"0", b"1", b"2"])
    if not known.all():
        row = int(np.argmin(known))
        raise InputError(
            f"{path}, line {table.lines[row]}: the part of {_text(listed[row])} is {_text(parts[row])!r}; it must be 0 "
            f"(train), 1 (val) or 2 (test) ({(~known).sum():,} such values): {_AGAIN}"
        )
    place = _places(names, listed)
    if (place < 0).any():
        raise InputError(
            f"{path} has no row for {_text(names[np.argmin(place)])} ({(place < 0).sum():,} of the {len(names):,} "
            f"pictures of {_ATTRIBUTES} are missing); fetch it again, or take it away, and a partition is drawn."
        )
    return parts[place].astype(np.int8), path


def _people(root: Path, names: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Who is on each picture, int64 (N,), -1 where there is no row for it; None where there is no such list."""
    path = _find(root, _IDENTITIES)
    if path is None:
        return None
    table = _table(path, read_list(path), 2, 1, "a picture and a person's number are wanted")
    numbers = table.column(1)
    known = np.char.isdigit(numbers) & (np.char.str_len(numbers) < 19)  # int64
    if not known.all():
        row = int(np.argmin(known))
        raise InputError(
            f"{path}, line {table.lines[row]}: the person is {_text(numbers[row])!r}, not a number; {_AGAIN}"
        )
    place = _places(names, table.names())
    if unknown := int((place < 0).sum()):
        notes.append(f"{unknown:,} of {len(names):,} pictures are not in {path}: who is on them is unknown")
    return np.where(place < 0, -1, numbers.astype(np.int64)[place])


def _places(names: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """The place of each of `names` in `listed`, int64 (N,); -1 where it is not there."""
    order = np.argsort(listed)
    place = order[np.searchsorted(listed, names, sorter=order).clip(max=len(listed) - 1)]
    return np.where(listed[place] == names, place, -1)


def _text(name: bytes) -> str:
    return bytes(name).decode(errors="replace")


@dataclass(frozen=True)
class _Table:
    """Words of a text in rows and columns, by their places in it: 8 million Python objects would take too long."""

    content: np.ndarray  # uint8, the text
    starts: np.ndarray  # int64 (N, C)
    lengths: np.ndarray  # int64 (N, C)
    lines: np.ndarray  # int64 (N,) from 1, as an editor shows them

    def word(self, row: int, column: int) -> str:
        start = self.starts[row, column]
        return _text(self.content[start : start + min(self.lengths[row, column], 40)].tobytes())

    def column(self, column: int) -> np.ndarray:
        """Its words, bytes (N,), those over _LONGEST_NAME cut."""
        starts, lengths = self.starts[:, column, None], self.lengths[:, column, None]
        width = np.arange(min(int(lengths.max()), _LONGEST_NAME))
        letters = self.content[np.minimum(starts + width, len(self.content) - 1)]  # (N, W)
        letters[width >= lengths] = 0
        return letters.view(f"S{len(width)}")[:, 0]

    def names(self) -> np.ndarray:
        return self.column(0)


def _table(path: Path, text: bytes, columns: int, first_line: int, wanted: str) -> _Table:
    """The rows of `text`, which begins on `first_line`; blank ones are passed over, and so are CR and padding.

    Raises InputError where a row has not `columns` words, where there is none, and where two begin with one name.
    """
    content = np.frombuffer(text, np.uint8)
    blank = np.concatenate([[True], content <= ord(" "), [True]])
    starts = np.flatnonzero(blank[:-1] & ~blank[1:])
    lengths = np.flatnonzero(~blank[:-1] & blank[1:]) - starts
    rows = np.searchsorted(starts, np.flatnonzero(content == ord("\n")))  # words before the end of each line
    counts = np.diff(np.concatenate([[0], rows, [len(starts)]]))
    lines = first_line + np.flatnonzero(counts)
    counts = counts[counts > 0]
    if not len(counts):
        raise InputError(f"{path} has no rows; {_AGAIN}")
    if (counts != columns).any():
        row = int(np.argmax(counts != columns))
        raise InputError(
            f"{path}, line {lines[row]}: {counts[row] - 1} values after the picture's name, but {wanted}; {_AGAIN}"
        )
    table = _Table(content, starts.reshape(-1, columns), lengths.reshape(-1, columns), lines)
    if (table.lengths[:, 0] > _LONGEST_NAME).any():
        row = int(np.argmax(table.lengths[:, 0]))
        raise InputError(f"{path}, line {lines[row]}: {table.word(row, 0)!r}... is too long for a name; {_AGAIN}")
    names = table.names()
    first, count = repeated(names)
    if count:
        raise InputError(f"{path} lists {_text(names[first])} more than once ({count:,} such rows); {_AGAIN}")
    return table
