"""One file in COCO's JSON: the annotations of images, or a detector's results.

https://cocodataset.org/#format-data and #format-results. Files are checked here and nowhere else, for training and for
scoring alike. Labels run from 0 in the order of the category ids, which stay in the records' `class_ids`. No torch.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.readers.box_checks import like_corners, refuse_other_forms, with_plain_boxes
from data.readers.coco_fields import FieldList, as_ids
from data.records import Boxes, Issue, Records, issue_of, positions_in

_PIECE = 1 << 17  # bytes of a results file that are Python's objects at once: more of them, and every step is slower
_BETWEEN = re.compile(rb"}\s*,\s*{")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of surrogate pairs that no file's name has


class Detections(NamedTuple):
    """The boxes that a detector found in N images, as columns."""

    images: np.ndarray  # int64 (M,), position of the box's image in the records
    labels: np.ndarray  # int64 (M,) from 0
    xywh: np.ndarray  # float64 (M, 4) px of the annotated size
    scores: np.ndarray  # float64 (M,)


class ResultColumns(NamedTuple):
    """A results file whose objects have the four fields and no other, in plain numbers; equal to `as_json`."""

    image_ids: np.ndarray  # int64 (M,)
    category_ids: np.ndarray  # int64 (M,)
    xywh: np.ndarray  # float64 (M, 4)
    scores: np.ndarray  # float64 (M,)

    def as_json(self) -> list[dict[str, Any]]:
        """The same as COCO results."""
        columns = zip(*(column.tolist() for column in self), strict=True)
        return [dict(zip(_RESULT, row, strict=True)) for row in columns]


_RESULT = ("image_id", "category_id", "bbox", "score")


def read_results(path: Path) -> Any:
    """The content of a results file for `parse_results`, as columns where it is plain; else, and errors, `read_json`.

    It is read in pieces: five million results as Python's objects are 4 GB, and take three times as long.
    """
    try:
        pieces = [_columns(piece) for piece in _pieces(path)]
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):  # whatever it is instead
        return read_json(path)
    return ResultColumns(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _pieces(path: Path) -> Iterator[bytes]:
    """The list in a file as shorter lists of its objects; ValueError where it is none.

    A cut that is not between two objects of the list itself, but in a text or deeper, leaves a piece that is no JSON.
    """
    with path.open("rb") as file:
        text = file.read(_PIECE).lstrip()
        if not text.startswith(b"["):
            raise ValueError("no list")
        while block := file.read(_PIECE):
            text += block
            if between := _BETWEEN.search(text, len(text) - _PIECE):
                yield text[: between.start() + 1] + b"]"
                text = b"[" + text[between.end() - 1 :]
            elif len(text) > 4 * _PIECE:
                raise ValueError("objects too large")
        yield text


def _columns(piece: bytes) -> ResultColumns:
    """The columns of a list of results; ValueError and others where one is not plain."""
    rows = json.loads(piece)
    image_ids, category_ids, boxes, scores = ([row[field] for row in rows] for field in _RESULT)
    sides = list(chain.from_iterable(boxes))
    kinds = {type(one) for one in boxes} - {list} | set(map(type, chain(image_ids, category_ids))) - {int}
    kinds |= set(map(type, chain(sides, scores))) - {int, float}
    if kinds or set(map(len, rows)) - {len(_RESULT)} or set(map(len, boxes)) - {4}:
        raise ValueError("other fields, or types")
    columns = ResultColumns(
        np.array(image_ids, np.int64),
        np.array(category_ids, np.int64),
        np.array(sides, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
    )
    if not (np.isfinite(columns.xywh).all() and np.isfinite(columns.scores).all()):
        raise ValueError("not finite")
    return columns


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a COCO JSON file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check its path and rights.") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        broken = isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)
        problem = "is not valid JSON" if broken else "has a number too long to read"
        raise InputError(f"{path} {problem} ({error}); give a COCO JSON file.") from None


def parse_annotations(
    content: Any, name: str, others: Mapping[int, str] = MappingProxyType({}), *, for_scoring: bool = False
) -> Records:
    """COCO annotations as records without a folder, in the file's order; `name` is how messages call the file.

    Columns `image_ids` and `sizes`; boxes with the file's own coordinates, or around its masks where it has none, and
    its areas (where it has none, width times height). `others`, id to name, are classes that other splits list, and
    which this file may use. For scoring, what only training needs may be missing: file names,
    category names. Raises InputError for a field that is missing or of the wrong type, ids that are unknown or
    stand for two things, numbers that are not finite, and boxes that are not in COCO's form.
    """
    images, annotations, categories = (FieldList(content, key, name) for key in ("images", "annotations", "categories"))
    image_ids, own = images.ids("file_name", "width", "height"), dict.fromkeys(categories.ids("name").tolist())
    sizes = images.sizes(strict=not for_scoring)
    image_of = annotations.positions("image_id", image_ids, "`images`")
    classes = {
        **others,
        **dict(zip(own, categories.strings("name", "category {}" if for_scoring else None), strict=True)),
    }
    labels = annotations.positions("category_id", as_ids(sorted(classes)), "`categories`")
    listed = np.isin(range(len(classes)), [label for label, number in enumerate(sorted(classes)) if number in own])
    xywh, found = annotations.boxes(sizes[image_of])
    areas, crowd = (annotations.numbers(key, optional=True) for key in ("area", "iscrowd"))
    issues = [
        *(issue for part in (images, annotations, categories) for issue in part.issues),
        *issue_of("annotations of a class that only another split's file lists", ~listed[labels], annotations.at),
        *issue_of("annotations without area (taken as width x height)", np.isnan(areas) & found, annotations.at),
        *issue_of("annotations without iscrowd (taken as 0)", np.isnan(crowd), annotations.at),
        *issue_of(
            "annotations with an id that is missing or repeated (numbered anew)",
            _odd_ids(annotations.items),
            lambda row: f"{PurePath(name).name}: {annotations.at(row)}",
        ),
        *issue_of("objects without a box, left out: their masks have no area", ~found, annotations.at),
    ]
    image_of = image_of[found]
    order = np.flatnonzero(found)[np.argsort(image_of, kind="stable")]  # by image, in the file's order within one
    boxes = Boxes(
        np.concatenate([[0], np.cumsum(np.bincount(image_of, minlength=len(image_ids)))]),
        xywh[order],
        labels[order],
        np.nan_to_num(crowd[order]) != 0,
        np.where(np.isnan(areas), xywh[:, 2:].clip(min=0).prod(axis=1), areas)[order],
    )
    files = images.strings("file_name", "" if for_scoring else None)
    records = Records(
        Path(),
        np.array([os.fsencode(PurePath(_NO_BYTE.sub("?", file))) if file else b"" for file in files], dtype=np.bytes_),
        {"image_ids": image_ids, "sizes": sizes},
        boxes,
        tuple(classes[number] for number in sorted(classes)),
        tuple(sorted(classes)),
        tuple(issues),
    )
    return with_plain_boxes(records, name) if for_scoring else records


def parse_results(content: Any, truth: Records, name: str, truth_name: str) -> tuple[Detections, tuple[Issue, ...]]:
    """COCO results, as JSON or `ResultColumns`, as detections in the images of `truth`, and what is odd about them.

    Raises InputError as `parse_annotations`, for boxes in another form too, and for ids that `truth`, which messages
    call `truth_name`, does not have.
    """
    if isinstance(content, ResultColumns):
        images = positions_in(truth["image_ids"], content.image_ids)
        labels = positions_in(as_ids(truth.class_ids), content.category_ids)
        if (images >= 0).all() and (labels >= 0).all():
            return _checked(Detections(images, labels, *content[2:]), truth, name, "results[{}]".format, ())
        content = content.as_json()  # to say which is unknown
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise InputError(
            f"{name} is not COCO results: its top level is of type {type(content).__name__}; give a list of objects "
            "with image_id, category_id, bbox (x, y, width, height) and score."
        )
    results, ids = FieldList({"results": content}, "results", name), truth.class_ids
    few = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    images = results.positions("image_id", truth["image_ids"], f"the {len(truth)} images of {truth_name}")
    among = f"the {len(ids)} categories of {truth_name} ({few})"
    labels = results.positions("category_id", as_ids(ids), among)
    (xywh, _), scores = results.boxes(truth["sizes"][images]), results.numbers("score")
    return _checked(Detections(images, labels, xywh, scores), truth, name, results.at, results.issues)


def _checked(
    found: Detections, truth: Records, name: str, at: Callable[[int], str], issues: Sequence[Issue]
) -> tuple[Detections, tuple[Issue, ...]]:
    """The detections, with what is odd about their boxes after the other issues; InputError for another form."""
    sizes = truth["sizes"][found.images]
    odd = like_corners(found.xywh, sizes, at)
    refuse_other_forms(found.xywh, sizes, name)
    return found, (*issues, *odd)


def _odd_ids(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which ids are missing or repeated, bool (M,): pycocotools loses boxes of such. Many tools count from 0."""
    ids = [annotation.get("id") for annotation in annotations]
    if set(map(type, ids)) == {int} and len(set(ids)) == len(ids):
        return np.zeros(len(ids), dtype=bool)
    count = Counter(map(str, ids))
    return np.array([one is None or count[str(one)] > 1 for one in ids], dtype=bool)
