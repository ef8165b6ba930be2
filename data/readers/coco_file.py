"""One file in COCO's JSON: the annotations of images, or a detector's results.

https://cocodataset.org/#format-data and #format-results. Files are checked here and nowhere else, for training and for
scoring alike. Labels run from 0 in the order of the category ids, which stay in the records' `class_ids`. No torch.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.readers.box_checks import like_corners, refuse_other_forms, with_plain_boxes
from data.readers.coco_fields import FieldList, as_ids
from data.records import Boxes, Issue, Records, issue_of

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of surrogate pairs that no file's name has


class Detections(NamedTuple):
    """The boxes that a detector found in N images, as columns."""

    images: np.ndarray  # int64 (M,), position of the box's image in the records
    labels: np.ndarray  # int64 (M,) from 0
    xywh: np.ndarray  # float64 (M, 4) px of the annotated size
    scores: np.ndarray  # float64 (M,)


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
    """COCO results as detections in the images of `truth`, and what is odd about them.

    Raises InputError as `parse_annotations`, for boxes in another form too, and for ids that `truth`, which messages
    call `truth_name`, does not have.
    """
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
    sizes = truth["sizes"][images]
    (xywh, _), scores = results.boxes(sizes), results.numbers("score")
    issues = [*results.issues, *like_corners(xywh, sizes, results.at)]
    refuse_other_forms(xywh, sizes, name)
    return Detections(images, labels, xywh, scores), tuple(issues)


def _odd_ids(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which ids are missing or repeated, bool (M,): pycocotools loses boxes of such. Many tools count from 0."""
    ids = [annotation.get("id") for annotation in annotations]
    if set(map(type, ids)) == {int} and len(set(ids)) == len(ids):
        return np.zeros(len(ids), dtype=bool)
    count = Counter(map(str, ids))
    return np.array([one is None or count[str(one)] > 1 for one in ids], dtype=bool)
