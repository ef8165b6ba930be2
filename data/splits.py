"""Who is in train, val and test: one rule for every reader. No torch.

A list or a folder of the data set says it where it can. What it leaves open is drawn by a hash of the seed and the
image's name, or that of its group (a person, a place, a photographer, a day): so an image stays where it is whatever
images are added or taken away later, and a group is never on two sides.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbone.errors import InputError, check_options
from data.copies import MOST_COMPARED, same_bytes
from data.folders import count_of
from data.records import SPLITS, UNSPLIT, Records, Split

NAMES: dict[str, Split] = {  # what a split's folder, file or cell of a column is called, in lower case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_PURPOSE = {"val": "validation", "test": "testing"}


def split_named(name: str) -> Split | None:
    """The split that a folder, a file or a cell of this name is; None for another word. The case does not matter."""
    return NAMES.get(name.strip().lower())


def splits_named(names: np.ndarray) -> np.ndarray:
    """The positions in SPLITS of the splits that `names`, bytes (N,), are; UNSPLIT for another word: int8 (N,)."""
    words, which = np.unique(names, return_inverse=True)
    found = [split_named(word.decode(errors="replace")) for word in words.tolist()]
    return np.array([UNSPLIT if split is None else SPLITS.index(split) for split in found], np.int8)[which]


def draw_numbers(names: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each name, bytes (N,), that depends on the name and `seed` alone: float64 (N,)."""
    return (hash_names(names, seed) >> np.uint64(11)) * 2.0**-53


def hash_names(names: np.ndarray, seed: int) -> np.ndarray:
    """64 bits of each name, bytes (N,): uint64 (N,), by splitmix64, eight bytes of a name at a time.

    Steele et al. (2014), https://doi.org/10.1145/2714064.2660195; 100 million names take seconds.
    """
    words = max(1, -(-names.dtype.itemsize // 8))
    padded = np.ascontiguousarray(names.astype(f"S{8 * words}")).view("<u8").reshape(len(names), words)
    state = _mix(np.full(len(names), seed, dtype=np.uint64))
    for word in padded.T:
        state = np.where(word > 0, _mix(state ^ word), state)  # the padding, which depends on the longest name, is 0
    return state


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def set_aside(numbers: np.ndarray, fractions: Sequence[float]) -> list[int]:
    """Where each part ends that is set aside of G groups in the order of their `numbers`, float64 (G,).

    By the number of a group, so that it stays where it is; but each part has a group, and so has what is left, as far
    as there are enough: the first part comes before the second, and the rest before both.
    """
    ends: list[int] = []
    for later, below in zip(range(len(fractions), 0, -1), np.cumsum(fractions), strict=True):
        first = ends[-1] if ends else 0
        least, most = first + 1, len(numbers) - later
        ends.append(max(first, min(int(np.clip((numbers < below).sum(), least, max(least, most))), len(numbers) - 1)))
    return ends


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise InputError for fractions that nothing can be drawn by; one of 0 sets nothing aside."""
    check_options(
        "data",
        ("val_fraction", val_fraction, 0 <= val_fraction < 1, "from 0 to below 1"),
        ("test_fraction", test_fraction, 0 <= test_fraction < 1, "from 0 to below 1"),
    )
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"--data.val_fraction {val_fraction:g} and --data.test_fraction {test_fraction:g} together leave nothing "
            "to train on; lower them."
        )


def assign_splits(
    records: Records,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    source: str | Path,
    by: str | None = None,
    strata: np.ndarray | None = None,
    find_copies: bool = True,
) -> Records:
    """The records with a split for every image, and a note of what was drawn.

    The column `split` says what is known; images of no split count as training images. Of these a part is drawn for
    each of "val" and "test" that no image is of, unless its fraction is 0: whole groups where there is a column `group`
    (`by` says of what, if not `grouped_by`), else single files; with `find_copies` files of the same bytes are drawn
    together, as far as enough is left to draw from. Those under two `labels` are counted in a note. With `strata`,
    int64 (N,), every class has its part: at least one image of two or more. A part for which there are too few stays
    empty: who needs it must ask. Where not one could be drawn, images of no split are left so. Images in shards that
    say their splits are as they are: nothing more is drawn of them.
    """
    check_fractions(val_fraction, test_fraction)
    in_shards = "member" in records.columns
    if in_shards and "split" in records.columns:  # decided when they were written
        return records
    by = by or records.grouped_by
    split = records.columns.get("split", np.full(len(records), UNSPLIT, np.int8)).copy()
    unsplit = split == UNSPLIT
    split[unsplit] = 0
    train = np.flatnonzero(split == 0)
    wanted: dict[Split, float] = {"val": val_fraction, "test": test_fraction}
    lacking = {s: f for s, f in wanted.items() if f > 0 and not (split == SPLITS.index(s)).any()}
    notes = list(records.notes)
    files = records.file_names[train]
    compared = (
        find_copies and not in_shards and len(files) <= MOST_COMPARED and (lacking or "labels" in records.columns)
    )
    same = same_bytes(records.folder, files) if compared else np.unique(files, return_inverse=True)[1]
    copies = (
        f"{(count := len(np.unique(files)) - len(np.unique(same))):,} of the files of {source} are copies of others"
    )
    if lacking and len(train):
        of_train = None if strata is None else strata[train]
        groups = _together(
            records.columns.get("group", records.file_names)[train], np.unique(files, return_inverse=True)[1]
        )
        split[train] = _draw(groups, of_train, lacking, seed)
        if count:
            whole = _draw(_together(groups, same), of_train, lacking, seed)
            enough = len(np.unique(whole)) == len(np.unique(split[train]))
            split[train] = whole if enough else split[train]
            notes.append(
                f"{copies}, byte for byte: "
                + ("copies of one image are in one split" if enough else "too many to draw without, so scores flatter")
            )
        if drawn := [s for s in lacking if (split == SPLITS.index(s)).any()]:
            counts = " and ".join(f"{(split == SPLITS.index(s)).sum():,}" for s in drawn)
            notes.append(
                f"{source} has no images for {' and '.join(_PURPOSE[s] for s in drawn)}: {counts} of its "
                f"{count_of(len(train), 'training image')}, drawn by {by} with seed {seed}, are set aside "
                f"({', '.join(f'--data.{s}_fraction' for s in drawn)})"
            )
        elif "val" in lacking:
            split[unsplit] = UNSPLIT
    elif count:
        notes.append(f"{copies} of the training split, byte for byte")
    if count and "labels" in records.columns:
        notes += _contradictions(records.take(train), same, source)
    if "group" in records.columns and by not in ("image", "day"):
        names, group = np.unique(records["group"], return_inverse=True)
        count = len(SPLITS) + 1
        in_each = np.unique(count * group + split - UNSPLIT) // count  # each group once for each of its splits
        if shared := int((np.bincount(in_each) > 1).sum()):
            notes.append(
                f"{shared:,} of the {len(names):,} groups of {source} (by {by}) have images in more than one split, so "
                "that its scores flatter"
            )
    return replace(records.with_columns(split=split), notes=tuple(notes))


def _contradictions(records: Records, same: np.ndarray, source: str | Path) -> list[str]:
    """A note of the images that share a number of `same`, int64 (N,), but not the label, where there are any."""
    labels, (_, content) = records["labels"], np.unique(same, return_inverse=True)
    of_each = np.unique(np.stack([content, labels]), axis=1)[0]  # each content once for each of its labels
    odd = np.flatnonzero((np.bincount(of_each) > 1)[content])
    if not len(odd):
        return []
    other = next(row for row in odd if content[row] == content[odd[0]] and labels[row] != labels[odd[0]])
    named = " and ".join(
        f"{os.fsdecode(records.file_names[row])} ({records.classes[labels[row]] if records.classes else labels[row]})"
        for row in (odd[0], other)
    )
    return [
        f"{len(odd):,} of the files of {source} have copies, byte for byte, under another label (first: {named}); "
        "all are used: take away those whose label is wrong"
    ]


def _together(groups: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The groups, bytes (M,), of which those that share a number of `same`, int64 (M,), are joined as their first."""
    names, group = np.unique(groups, return_inverse=True)
    _, same = np.unique(same, return_inverse=True)
    if len(np.unique(same * len(names) + group)) == same.max() + 1:  # each number is of one group
        return groups
    from scipy.sparse import coo_array  # needed where images are repeated
    from scipy.sparse.csgraph import connected_components

    size = len(names) + same.max() + 1
    graph = coo_array((np.ones(len(group)), (group, len(names) + same)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(names)]
    _, first, of = np.unique(component, return_index=True, return_inverse=True)
    return names[first][of][group]


def _draw(groups: np.ndarray, strata: np.ndarray | None, lacking: dict[Split, float], seed: int) -> np.ndarray:
    """The split, int8 (M,), of images of these `groups`, bytes (M,)."""
    names, group = np.unique(groups, return_inverse=True)
    numbers = draw_numbers(names, seed)
    stratum = np.zeros(len(names), np.int64)
    if strata is not None:
        stratum[group] = strata  # a group is of one stratum
    order = np.lexsort((numbers, stratum))
    starts = np.flatnonzero(np.diff(stratum[order], prepend=stratum[order[:1]] - 1))
    split = np.zeros(len(names), np.int8)
    for members in np.split(order, starts[1:]):
        start = 0
        for name, end in zip(lacking, set_aside(numbers[members], list(lacking.values())), strict=True):
            split[members[start:end]] = SPLITS.index(name)
            start = end
    return split[group]
