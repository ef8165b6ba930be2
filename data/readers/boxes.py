"""What the readers of boxes share whose files are a text for each image, or a list. No torch."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.folders import progress
from data.images import ImageError, image_size
from data.readers.box_checks import odd_boxes
from data.records import SPLITS, UNSPLIT, Boxes, Records, issue_of
from data.splits import split_named

Odd = dict[str, list[str]]  # a kind of odd data, as an Issue says it, to where each is: a file, or a file and line

MISSING = b"there is no such file"
LOST = b"none of its objects can be used"  # so that it is not taken for an image without objects
_THREADS = 16  # they wait for the disk


def note_odd(odd: Odd, what: str, where: str) -> None:
    """Count one odd thing."""
    odd.setdefault(what, []).append(where)


def split_of_folder(folder: str) -> int:
    """The position in SPLITS of the last part of a path that is called after a split, as `train2017` is; UNSPLIT."""
    named = [split for part in folder.split("/") if (split := split_named(re.sub(r"[\d_-]*$", "", part)))]
    return SPLITS.index(named[-1]) if named else UNSPLIT


def sizes_from_headers(
    root: Path, names: np.ndarray, sizes: np.ndarray, problem: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`sizes`, int64 (N, 2) height and width, and `problem`, bytes (N,), with what the files' headers say.

    Only those are opened that have neither a size nor a problem yet.
    """
    sizes, problems = sizes.copy(), problem.tolist()
    wanted = np.flatnonzero((sizes[:, 0] == 0) & (problem == b"")).tolist()

    def ask(row: int) -> tuple[int, int] | bytes:
        try:
            return image_size(os.path.join(root, os.fsdecode(names[row])))  # noqa: PTH118  # 100,000s of them
        except ImageError as error:
            return os.fsencode(error.reason)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = progress(pool.map(ask, wanted), desc="reading image sizes", total=len(wanted))
        for row, answer in zip(wanted, found, strict=True):
            if isinstance(answer, bytes):
                problems[row] = answer
            else:
                sizes[row] = answer
    return sizes, np.array(problems, np.bytes_)


def pack(
    root: Path,
    names: np.ndarray,
    columns: dict[str, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    classes: Sequence[str],
    odd: Odd,
    notes: Sequence[str] = (),
    class_ids: Sequence[int] = (),
    nearest: str = "",
) -> Records:
    """Records of N images and M boxes, in any order of the boxes, with what is odd about them.

    `columns` are `split`, `sizes` and `problem`; `rows` the boxes' image, label, xywh in px (M, 4) and crowd. Class ids
    are the labels where nothing else is given; image ids count from 1. `nearest` is what match_files() says of the
    first missing image.
    """
    image, labels, xywh, crowd = rows
    order = np.argsort(image, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(names)))])
    areas = xywh[:, 2:].clip(min=0).prod(axis=1)
    boxes = Boxes(offsets, xywh[order], labels[order], crowd[order], areas[order])
    ids = np.arange(1, len(names) + 1)
    records = Records(root, names, {"image_ids": ids, **columns}, boxes, tuple(classes))
    records = replace(records, class_ids=tuple(class_ids) or tuple(range(len(classes))), notes=tuple(notes))
    issues = [
        issue for what, where in odd.items() for issue in issue_of(what, np.arange(len(where)), where.__getitem__)
    ]
    missing, lost_all = columns["problem"] == MISSING, columns["problem"] == LOST
    issues += issue_of("images of which no object can be used, left out", lost_all, lambda i: os.fsdecode(names[i]))
    issues += odd_boxes(records.take(columns["problem"] == b""))
    lost = issue_of("images of the annotations are missing", missing, lambda i: str(records.path(i)))
    issues += [replace(issue, first=nearest or issue.first) for issue in lost]
    return replace(records, issues=tuple(issues))
