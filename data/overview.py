"""What is in a data set: counts, sizes, examples, files in two splits; for `check` and the lines of `fit`. No torch."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from backbone.names import shown
from data.copies import same_bytes
from data.folders import progress
from data.images import ImageError
from data.readers.box_checks import clip_boxes
from data.records import SPLITS, Issue, Records, issue_of

_THREADS = 8
_LISTED = 6  # classes whose counts are said one by one


def memberships(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """The image and the class, int64 (M,) each, of whatever has a class: each box, image, or attribute that it has."""
    if records.boxes is not None:
        image = np.repeat(np.arange(len(records)), np.diff(records.boxes.offsets))
        shown = clip_boxes(records).usable & ~records.boxes.crowd
        return image[shown], records.boxes.labels[shown]
    if "labels" in records.columns:
        return np.arange(len(records)), records["labels"]
    if "attributes" in records.columns:
        image, attribute = np.nonzero(records["attributes"] == 1)
        return image, attribute
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


def class_counts(records: Records) -> np.ndarray:
    """How many boxes or images each class has, int64 (K,)."""
    return np.bincount(memberships(records)[1], minlength=len(records.classes))


def counts_in_words(records: Records) -> str:
    """The counts of the classes: of all where there are few ("12 cat, 15 dog"), else the smallest and the largest."""
    counts = class_counts(records)
    words = [f"{count:,} {shown(name)}" for name, count in zip(records.classes, counts.tolist(), strict=True)]
    return ", ".join(words) if len(words) <= _LISTED else f"{words[counts.argmin()]} to {words[counts.argmax()]}"


def examples(records: Records, count: int, seed: int) -> np.ndarray:
    """Positions of images that show what there is, int64 (M,): one of each class in turn, else any, no image twice."""
    rng = np.random.default_rng(seed)
    image, label = memberships(records)
    shuffled = rng.permutation(len(image))
    image, label = image[shuffled], label[shuffled]
    turn = np.zeros(len(image), np.int64)  # how many of its class come before
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    turn[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    first = image[np.argsort(turn, kind="stable")]
    chosen = list(dict.fromkeys([*first[: 50 * count].tolist(), *rng.permutation(len(records)).tolist()]))
    return np.array(chosen[:count], np.int64)


def opened(
    records: Records, open_one: Callable[[int], tuple[int, int]], what: str
) -> tuple[np.ndarray, dict[int, str]]:
    """(height, width) px of each image, int64 (N, 2), 0 where `open_one` raises ImageError; and position to reason."""
    sizes, problems = np.zeros((len(records), 2), np.int64), dict[int, str]()

    def one(row: int) -> tuple[int, int] | str:
        try:
            return open_one(row)
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(_THREADS) as pool:
        for row, found in enumerate(progress(pool.map(one, range(len(records))), desc=what, total=len(records))):
            if isinstance(found, str):
                problems[row] = found
            else:
                sizes[row] = found
    return sizes, problems


def shared_files(records: Records) -> list[Issue]:
    """Images of one content, byte for byte, in two splits: a score on one flatters where the other is trained on."""
    content, split = same_bytes(records.folder, records.file_names), records["split"].astype(np.int64)
    in_each = np.unique(np.stack([content, split]), axis=1)[0]  # each content once for each of its splits

    def files(number: int) -> str:
        rows = np.flatnonzero(content == number)
        rows = rows[np.unique(split[rows], return_index=True)[1]]  # one of each split
        return " and ".join(f"{os.fsdecode(records.file_names[i])} ({SPLITS[split[i]]})" for i in rows.tolist())

    several = np.flatnonzero(np.bincount(in_each) > 1)
    return issue_of("images are in more than one split, byte for byte", several, files)
