"""Finding and reading files in COCO's JSON format; what is wrong with one is named here, before anything is trained."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from backbone.errors import InputError
from data.folders import Split, say

# Annotation tools name the validation folder either way.
_TOOL_FOLDERS: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class SplitFiles:
    """Where one split lies: its annotation file, and the folders its images may be in, likeliest first."""

    annotations: Path
    image_folders: tuple[Path, ...]


def find_split(root: Path, split: Split, version: str = "") -> SplitFiles | None:
    """The files of one split, or None where `root` has none.

    COCO's own layout: `annotations/instances_<split><version>.json`, with the images in `<split><version>/`,
    `images/<split><version>/`, `images/` or `root`. Annotation tools': `<split>/_annotations.coco.json` among its
    images. Raises InputError where several files match.
    """
    prefix = f"instances_{split}"
    found: dict[Path, tuple[Path, ...]] = {}
    for annotations in sorted((root / "annotations").glob(f"{prefix}{version or '*'}.json")):
        folder = split + annotations.stem.removeprefix(prefix)
        found[annotations] = (root / folder, root / "images" / folder, root / "images", root)
    for name in _TOOL_FOLDERS[split]:
        annotations = root / name / "_annotations.coco.json"
        if annotations.is_file():
            found[annotations] = (root / name,)
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        suffix = next(iter(found)).stem.removeprefix(prefix)
        example = suffix if suffix and suffix[0] != "_" else "2017"
        raise InputError(
            f"{root} has several annotation files for the {split} split ({names}): "
            f"name one, as in --data.version {example}, or move the others away."
        )
    return next((SplitFiles(path, folders) for path, folders in found.items()), None)


def no_annotations(root: Path, splits: Sequence[Split], version: str) -> InputError:
    """The error that names every path tried."""
    tried = [f"{root}/annotations/instances_{split}{version or '*'}.json" for split in splits]
    tried += [f"{root}/{name}/_annotations.coco.json" for split in splits for name in _TOOL_FOLDERS[split]]
    there = sorted(str(p.relative_to(root)) for p in [*root.glob("*.json"), *root.glob("annotations/*.json")])[:3]
    found = f"; found only {', '.join(there)}" if there else ""
    return InputError(
        f"{root} has no annotation file; tried {', '.join(tried)}{found}: "
        "put the COCO JSON there, or point --data.root at the folder that holds it."
    )


@dataclass(frozen=True)
class CocoFile:
    """One COCO JSON, checked, as columns. N images, M annotations, in the file's order; boxes as in the file."""

    path: Path
    categories: dict[int, str]  # original id to name, sorted by id: the order of the labels
    image_ids: np.ndarray  # int64 (N,)
    file_names: list[str]
    sizes: np.ndarray  # int64 (N, 2) height, width in px; 0 where the file says nothing
    annotation_ids: np.ndarray  # int64 (M,)
    image_of: np.ndarray  # int64 (M,), position of the annotation's image
    category_ids: np.ndarray  # int64 (M,)
    boxes_xywh: np.ndarray  # float64 (M, 4) px
    areas: np.ndarray  # float64 (M,) px²; NaN where missing
    crowd: np.ndarray  # bool (M,)
    crowd_given: np.ndarray  # bool (M,), whether the file has `iscrowd`; where not, it counts as 0
    placeholder: str  # name of the category that was dropped, or ""


def read_coco(path: Path) -> CocoFile:
    """Reads and checks one annotation file. Raises InputError naming file, id, field, value and remedy.

    Refused: not JSON, not COCO, a missing field, duplicate ids, unknown category or image ids, NaN or infinite numbers,
    no categories. A placeholder category, as Roboflow writes it (the supercategory of all others, without a
    supercategory of its own or an annotation), is left out.
    """
    content = _parse(path)
    images, annotations, categories = content["images"], content["annotations"], content["categories"]
    if not categories:
        raise InputError(f"{path}: `categories` is empty; list at least one class.")
    if not images:
        raise InputError(f"{path}: `images` is empty; list at least one image.")

    category_ids = _integers(path, "category", categories, "id")
    _unique(path, "category", category_ids)
    names = [_text(path, "category", category, "name") for category in categories]
    image_ids = _integers(path, "image", images, "id")
    _unique(path, "image", image_ids)
    annotation_ids = _integers(path, "annotation", annotations, "id")
    _unique(path, "annotation", annotation_ids)

    annotated_image = _integers(path, "annotation", annotations, "image_id")
    image_of = _positions(image_ids, annotated_image)
    _known(path, annotation_ids, "image_id", annotated_image, image_of >= 0, "images")
    annotated_category = _integers(path, "annotation", annotations, "category_id")
    known_category = np.isin(annotated_category, category_ids)
    _known(path, annotation_ids, "category_id", annotated_category, known_category, "categories")

    placeholder = _placeholder(categories, category_ids, names, annotated_category)
    by_id = sorted(zip(category_ids.tolist(), names, strict=True))
    return CocoFile(
        path=path,
        categories={i: name for i, name in by_id if i != placeholder},
        image_ids=image_ids,
        file_names=[str(PurePath(_text(path, "image", image, "file_name"))) for image in images],
        sizes=_sizes(path, images),
        annotation_ids=annotation_ids,
        image_of=image_of,
        category_ids=annotated_category,
        boxes_xywh=_boxes(path, annotations, annotation_ids),
        areas=_areas(path, annotations),
        crowd=np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool),
        crowd_given=np.array([a.get("iscrowd") is not None for a in annotations], dtype=bool),
        placeholder=dict(by_id)[placeholder] if placeholder is not None else "",
    )


def _parse(path: Path) -> dict[str, list[dict[str, Any]]]:
    size_mb = path.stat().st_size / 1e6
    if size_mb > 50:
        say(f"reading {path} ({size_mb:,.0f} MB)")
    remedy = "give a COCO annotation file, with `images`, `annotations` and `categories`."
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file's permissions.") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"{path} is not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not COCO: its top level is a {type(content).__name__}, not an object; {remedy}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = ", ".join(f"`{name}`" for name in list(content)[:6]) or "nothing"
            raise InputError(f"{path} is not COCO: it has no list `{key}` (found {found}); {remedy}")
        wrong = next((item for item in content[key] if not isinstance(item, dict)), None)
        if wrong is not None:
            raise InputError(f"{path} is not COCO: `{key}` holds {wrong!r}, which is not an object; {remedy}")
    return content


def _name(kind: str, item: dict[str, Any]) -> str:
    return f"{kind} {item['id']!r}" if "id" in item else f"a{'n' if kind[0] in 'ai' else ''} {kind} without `id`"


def _integers(path: Path, kind: str, items: list[dict[str, Any]], key: str) -> np.ndarray:
    """Column `key` as int64 (len(items),)."""
    values = [item.get(key) for item in items]
    for value, item in zip(values, items, strict=True):
        if type(value) is not int or abs(value) >= 2**63:  # type(), because True is an int too
            problem = f"is {value!r}" if key in item else "is missing"
            raise InputError(f"{path}: {_name(kind, item)}: `{key}` {problem}; it must be an integer.")
    return np.array(values, dtype=np.int64)


def _text(path: Path, kind: str, item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        problem = f"is {value!r}" if key in item else "is missing"
        raise InputError(f"{path}: {_name(kind, item)}: `{key}` {problem}; it must be a text.")
    return value


def _unique(path: Path, kind: str, ids: np.ndarray) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        value, count = values[counts > 1][0], counts[counts > 1][0]
        raise InputError(f"{path}: {kind} id {value} occurs {count} times; give every {kind} an id of its own.")


def _known(path: Path, ids: np.ndarray, key: str, values: np.ndarray, known: np.ndarray, listed_in: str) -> None:
    if not known.all():
        at = int(np.argmin(known))
        raise InputError(
            f"{path}: annotation {ids[at]}: `{key}` {values[at]} is not among `{listed_in}` "
            f"({int((~known).sum())} such annotations); add it there or remove the annotations."
        )


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted id stands in `ids`, int64 (len(wanted),); -1 where it does not."""
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[at] == wanted, at, -1)


def _placeholder(categories: list[dict[str, Any]], ids: np.ndarray, names: list[str], used: np.ndarray) -> int | None:
    """Id of the category that only heads the others, or None."""
    for i, name, category in zip(ids.tolist(), names, categories, strict=True):
        others = [other for other in categories if other is not category]
        heads_all = bool(others) and all(other.get("supercategory") == name for other in others)
        if heads_all and category.get("supercategory") in (None, "", "none") and i not in used:
            return i
    return None


def _sizes(path: Path, images: list[dict[str, Any]]) -> np.ndarray:
    sizes = np.zeros((len(images), 2), dtype=np.int64)
    for row, image in enumerate(images):
        for column, key in enumerate(("height", "width")):
            value = image.get(key)
            if value is None:
                continue
            if not isinstance(value, int | float) or value != value or not 1 <= value < 2**31 or value != int(value):
                raise InputError(
                    f"{path}: image {image['id']}: `{key}` is {value!r}; give the size in px, or leave it out."
                )
            sizes[row, column] = value
    sizes[(sizes == 0).any(axis=1)] = 0
    return sizes


def _boxes(path: Path, annotations: list[dict[str, Any]], ids: np.ndarray) -> np.ndarray:
    for annotation in annotations:
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)):
            problem = f"is {box!r}" if "bbox" in annotation else "is missing"
            raise InputError(
                f"{path}: annotation {annotation['id']}: `bbox` {problem}; it must be [x, y, width, height] in px."
            )
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    bad = ~np.isfinite(boxes).all(axis=1)
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(
            f"{path}: annotation {ids[at]}: `bbox` is {annotations[at]['bbox']} ({int(bad.sum())} such annotations); "
            "correct the coordinates or remove the annotations."
        )
    return boxes


def _areas(path: Path, annotations: list[dict[str, Any]]) -> np.ndarray:
    areas = np.full(len(annotations), np.nan)
    for row, annotation in enumerate(annotations):
        value = annotation.get("area")
        if value is None:
            continue
        if type(value) not in (int, float) or not np.isfinite(value):
            raise InputError(
                f"{path}: annotation {annotation['id']}: `area` is {value!r}; give a number of px², or leave it out."
            )
        areas[row] = value
    return areas
