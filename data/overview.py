"""What is in a data set: counts, sizes, examples, files in two splits; for `check` and the lines of `fit`. No torch."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from backbone.names import shown
from data.copies import MOST_COMPARED, same_bytes
from data.folders import progress
from data.images import ImageError, image_size, open_image
from data.readers import shards
from data.readers.box_checks import clip_boxes
from data.records import SPLITS, UNSPLIT, Issue, Records, issue_of

_MOST_HEADERS = 20_000
_THREADS = 8
_LISTED = 6  # classes whose counts are said one by one


def memberships(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """The image and the class, int64 (M,) each, of whatever has a class: each box, image, or attribute that it has."""
    if records.boxes is not None:
        image = records.boxes.images
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


def looked_at(records: Records, *, decode: bool) -> tuple[np.ndarray, dict[int, str]]:
    """The size of each image, int64 (N, 2) (height, width) px, 0 unknown, and by position why one is unusable.

    By its header, of at most so many as are read in seconds, or with `decode` of every image by all of it.
    """
    sizes, problems = np.zeros((len(records), 2), np.int64), dict[int, str]()
    if "problem" in records.columns:
        known = np.flatnonzero(records["problem"] != b"").tolist()
        problems = {row: os.fsdecode(records["problem"][row]) for row in known}
    rows = np.setdiff1d(np.arange(len(records)), list(problems))
    if not decode and len(rows) > _MOST_HEADERS:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_HEADERS).astype(np.int64)]
    annotated = records.columns.get("sizes", sizes)

    def look(row: int) -> tuple[int, int] | str:
        path, (height, width) = records.path(row), annotated[row].tolist()
        of_labels = (height, width) if height else None
        try:
            content = shards.content_of(records, row)
            if decode:
                height, width, _ = open_image(path, annotated_size=of_labels, content=content).shape
                return height, width
            return image_size(path, of_labels, content=content)
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(look, rows.tolist())
        what = "decoding images" if decode else "reading headers"
        for row, one in zip(rows.tolist(), progress(found, desc=what, total=len(rows)), strict=True):
            if isinstance(one, str):
                problems[row] = one
            else:
                sizes[row] = one
    return sizes, problems


def shared_files(records: Records) -> list[Issue]:
    """Images of one content, byte for byte, in two splits: a score on one flatters where the other is trained on.

    [] where they are more than are compared within a minute.
    """
    if len(records) > MOST_COMPARED or "member" in records.columns:  # whose writer has compared them
        return []
    records = records.take(records["split"] != UNSPLIT)
    content, split = same_bytes(records.folder, records.file_names), records["split"].astype(np.int64)
    in_each = np.unique(np.stack([content, split]), axis=1)[0]  # each content once for each of its splits

    def files(number: int) -> str:
        rows = np.flatnonzero(content == number)
        rows = rows[np.unique(split[rows], return_index=True)[1]]  # one of each split
        return " and ".join(f"{os.fsdecode(records.file_names[i])} ({SPLITS[split[i]]})" for i in rows.tolist())

    several = np.flatnonzero(np.bincount(in_each) > 1)
    issues = issue_of("images are in more than one split, byte for byte", several, files)
    return [replace(issue, count=int(np.isin(content, several).sum())) for issue in issues]
