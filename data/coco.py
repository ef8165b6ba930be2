"""Detection data in COCO's JSON format, from COCO's own folder layout or the one that annotation tools export.

Everything wrong with a file is found at the start and named; what can be survived is counted in one line. Inside,
labels run from 0 in the order of the sorted category ids; outside, and in `ground_truth`, the original ids stay.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from backbone import scaled_image_size
from backbone.errors import InputError
from data.images import ImageError, image_size, open_image
from data.loading import EpochSampler, make_loader, sample_seed
from data.transforms import Transform, apply, build_eval_transform, build_train_transform

Split = Literal["train", "val", "test"]

SAMPLE_FOLDER = Path("datasets/sample_detection")

# Annotation tools name the validation folder either way.
_TOOL_FOLDERS: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


# --- finding the files ------------------------------------------------------------------------------------------------


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


def _no_annotations(root: Path, splits: Sequence[Split], version: str) -> InputError:
    tried = [f"{root}/annotations/instances_{split}{version or '*'}.json" for split in splits]
    tried += [f"{root}/{name}/_annotations.coco.json" for split in splits for name in _TOOL_FOLDERS[split]]
    there = sorted(str(p.relative_to(root)) for p in [*root.glob("*.json"), *root.glob("annotations/*.json")])[:3]
    found = f"; found only {', '.join(there)}" if there else ""
    return InputError(
        f"{root} has no annotation file; tried {', '.join(tried)}{found}: "
        "put the COCO JSON there, or point --data.root at the folder that holds it."
    )


# --- reading the JSON -------------------------------------------------------------------------------------------------


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
        _say(f"reading {path} ({size_mb:,.0f} MB)")
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


# --- the index --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoIndex:
    """One split, ready to be drawn from: packed arrays, not lists of dicts.

    Reading a Python object changes its reference count, so lists of dicts would be copied page by page into every
    worker; 118,000 images with 860,000 boxes are 27 MB here, shared by all.
    """

    split: Split
    folder: Path
    categories: dict[int, str]
    image_ids: np.ndarray  # int64 (N,) original ids
    file_names: np.ndarray  # UTF-8 bytes (N,)
    sizes: np.ndarray  # int64 (N, 2) height, width the annotations were made on; 0 where the header cannot be read
    offsets: np.ndarray  # int64 (N + 1,): image i has annotations offsets[i]:offsets[i + 1]
    boxes_xyxy: np.ndarray  # float32 (M, 4) px, clipped to the image, at least 1 px in each direction
    labels: np.ndarray  # int64 (M,) from 0
    crowd: np.ndarray  # bool (M,)
    listed: int  # images that the annotation file lists for this split, missing ones included
    counts: dict[str, int] = field(default_factory=dict)  # what was survived, and how often
    bad: dict[str, str] = field(default_factory=dict)  # file to reason, found while indexing

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, position: int) -> Path:
        """The file of the image at `position`."""
        return self.folder / self.file_names[position].decode()

    def __contains__(self, file: str) -> bool:
        return bool((self.file_names == os.path.relpath(file, self.folder).encode()).any())

    def summary(self) -> str:
        """One line: how many images, boxes and classes, and everything that was dropped, clipped or filled in."""
        boxes = f"{len(self.boxes_xyxy) - int(self.crowd.sum()):,} boxes"
        notes = [f"{count:,} {what}" for what, count in self.counts.items() if count]
        line = f"{self.split}: {len(self):,} images, {boxes} of {len(self.categories)} classes in {self.folder}"
        return line + (f" ({'; '.join(notes)})" if notes else "")


def index_split(coco: CocoFile, split: Split, folders: Sequence[Path], part: np.ndarray | None = None) -> CocoIndex:
    """Index of the images of `coco` at the positions `part`, ascending; all by default.

    Zero and inverted boxes are dropped, boxes over the edge clipped, what is then under 1 px dropped, images whose file
    is missing left out: all of it counted. Raises InputError where every image is missing or no box is left.
    """
    part = np.arange(len(coco.image_ids)) if part is None else part
    folder, there = _locate(coco, part, folders)
    kept = part[there]
    bad = {str(folder / coco.file_names[i]): "there is no such file" for i in part[~there]}
    sizes = coco.sizes[kept].copy()
    for row in tqdm(np.flatnonzero(sizes[:, 0] == 0), desc="reading image sizes", delay=2, leave=False):
        try:
            sizes[row] = image_size(folder / coco.file_names[kept[row]])
        except ImageError as error:
            bad[error.file] = error.reason

    row_of = np.full(len(coco.image_ids), -1)
    row_of[kept] = np.arange(len(kept))
    mine = np.flatnonzero(row_of[coco.image_of] >= 0)
    mine = mine[np.argsort(row_of[coco.image_of[mine]], kind="stable")]  # by image, in the file's order within one
    row = row_of[coco.image_of[mine]]
    xywh, crowd = coco.boxes_xywh[mine], coco.crowd[mine]
    valid = (xywh[:, 2:] > 0).all(axis=1)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)  # (M, 4)
    limits = np.where(sizes[:, 1::-1] > 0, sizes[:, 1::-1], np.inf)[row]  # (M, 2) width, height of the box's image
    clipped = np.clip(xyxy, 0, np.tile(limits, 2))
    over = valid & (np.abs(clipped - xyxy) > 1e-3).any(axis=1)  # 639.9999 + .0002 is rounding, not an error
    visible = valid & (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)

    if not (visible & ~crowd).any():
        raise InputError(
            f"{coco.path}: the {split} split has no usable box ({len(mine)} annotations in {len(kept)} images, "
            f"{int((~valid).sum())} of them with zero or negative size); `bbox` must be [x, y, width, height] in px."
        )
    ids = np.array(list(coco.categories))
    per_image = np.bincount(row[visible], minlength=len(kept))
    return CocoIndex(
        split=split,
        folder=folder,
        categories=coco.categories,
        image_ids=coco.image_ids[kept],
        file_names=np.array([coco.file_names[i].encode() for i in kept]),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(per_image)]),
        boxes_xyxy=clipped[visible].astype(np.float32),
        labels=np.searchsorted(ids, coco.category_ids[mine][visible]),
        crowd=crowd[visible],
        listed=len(part),
        counts={
            "crowd regions": int(crowd[visible].sum()),
            "images without annotations": int((np.bincount(row, minlength=len(kept)) == 0).sum()),
            "boxes of zero or negative size dropped": int((~valid).sum()),
            "boxes over the edge clipped": int((over & visible).sum()),
            "boxes under 1 px inside the image dropped": int((valid & ~visible).sum()),
            "annotations without area": int(np.isnan(coco.areas[mine]).sum()),
            "annotations without iscrowd": int((~coco.crowd_given[mine]).sum()),
            "annotations with id 0": int((coco.annotation_ids[mine] == 0).sum()),
            f"placeholder category `{coco.placeholder}` left out": int(bool(coco.placeholder)),
            "missing image files": int((~there).sum()),
        },
        bad=bad,
    )


def _locate(coco: CocoFile, part: np.ndarray, folders: Sequence[Path]) -> tuple[Path, np.ndarray]:
    """The folder that has most of the images, and which, bool (len(part),). Raises InputError where none has any.

    Folders are listed once instead of asked file by file, which takes minutes on a network drive.
    """
    names = [coco.file_names[i] for i in part]
    best, there = folders[0], np.zeros(len(part), dtype=bool)
    for folder in folders:
        listings = {parent: _files(folder / parent) for parent in {os.path.dirname(name) for name in names}}  # noqa: PTH120
        found = np.array([os.path.basename(n) in listings[os.path.dirname(n)] for n in names])  # noqa: PTH119, PTH120
        if found.sum() > there.sum():
            best, there = folder, found
    if not there.any():
        looked = ", ".join(str(folder) for folder in folders)
        raise InputError(
            f"{coco.path}: none of its {len(part)} images is there (the first: {names[0]}); "
            f"looked in {looked}: put the images in one of these."
        )
    return best, there


def _files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


# --- samples and batches ----------------------------------------------------------------------------------------------


class CocoDetection(Dataset):
    """Samples of one split: `[(epoch, position)]` gives a dict for `collate`, augmented as a function of both."""

    def __init__(self, index: CocoIndex, transform: Transform, image_size: tuple[int, int], seed: int) -> None:
        self.index = index
        self.transform = transform
        # Twice the input: a crop of a tenth of the area still has a third of the side, and twelve-megapixel JPEGs
        # decode at 1/4 or 1/8.
        self.at_least = (2 * image_size[0], 2 * image_size[1])
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, position = item
        index = self.index
        height, width = index.sizes[position].tolist()
        try:
            image = open_image(
                index.path(position), annotated_size=(height, width) if height else None, at_least=self.at_least
            )
        except ImageError as error:
            return {"bad": (error.file, error.reason)}
        if not height:  # its header could not be read at the start
            height, width = image.shape[:2]
        rows = slice(index.offsets[position], index.offsets[position + 1])
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2)  # below 1 where decoded smaller
        boxes, crowd = index.boxes_xyxy[rows] * scale, index.crowd[rows]
        result = apply(
            self.transform,
            image,
            boxes[~crowd],
            index.labels[rows][~crowd],
            boxes[crowd],
            sample_seed(self.seed, epoch, position),
        )
        return {
            **result._asdict(),
            "image_id": int(index.image_ids[position]),
            "size": (height, width),
        }


class _Batch(dict):
    """A batch that crosses from a worker with its small tensors as plain bytes; a plain dict on the other side.

    Three tensors for every image, each through shared memory, would cost a file descriptor and about 0.1 ms apiece.
    """

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        lists = {key: [t.numpy() for t in self[key]] for key in ("boxes_xyxy", "labels", "crowd_xyxy")}
        return _unpack, ({**self, **lists, "sizes": self["sizes"].numpy()},)


def _unpack(batch: dict[str, Any]) -> dict[str, Any]:
    for key in ("boxes_xyxy", "labels", "crowd_xyxy"):
        batch[key] = [torch.from_numpy(array) for array in batch[key]]
    batch["sizes"] = torch.from_numpy(batch["sizes"])
    return batch


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch of a detector: bad samples are left out of all but `bad`.

    images uint8 (B, 3, H, W) RGB, channels last in memory; boxes_xyxy list of float32 (N, 4) in px of `images`; labels
    list of int64 (N,) from 0; crowd_xyxy list of float32 (M, 4); image_ids list of the original ids; sizes int64 (B, 2)
    original height, width; bad list of (file, reason). Where every sample is bad, B is 0.
    """
    good = [sample for sample in samples if "bad" not in sample]
    images = np.stack([sample["image"] for sample in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    return _Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W)
        boxes_xyxy=[torch.from_numpy(sample["boxes_xyxy"]) for sample in good],
        labels=[torch.from_numpy(sample["labels"]) for sample in good],
        crowd_xyxy=[torch.from_numpy(sample["crowd_xyxy"]) for sample in good],
        image_ids=[sample["image_id"] for sample in good],
        sizes=torch.tensor([sample["size"] for sample in good], dtype=torch.int64).reshape(-1, 2),
        bad=[sample["bad"] for sample in samples if "bad" in sample],
    )


# --- the data module --------------------------------------------------------------------------------------------------


class CocoDataModule(LightningDataModule):
    """Detection data in COCO format.

    Args:
        root: Folder of the data set; without one, the built-in sample, which is drawn once.
        image_size: Side of the square input in px, or [height, width].
        resolution_mult: The paper's resolution multiplier; 1 keeps `image_size` as it is.
        version: What follows the split in COCO's own file names, such as 2017; needed where a folder has several.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load and augment.
        val_fraction: Part of the training images set aside where the data set has no validation part.
        max_bad_fraction: A run stops when more than this part of a split's images cannot be read.
        augment: Crop, flip and colour the training images.
        crop_probability: Part of the training images that get SSD's random crop, which zooms in by up to three; less
            than SSD's 0.85 is better where all pictures show their objects at one scale.
        seed: Of the order, the augmentation and the validation split.

    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int | list[int] = 300,
        resolution_mult: float = 1.0,
        version: str = "",
        batch_size: int = 16,
        num_workers: int = 2,
        val_fraction: float = 0.1,
        max_bad_fraction: float = 0.01,
        augment: bool = True,
        crop_probability: float = 0.85,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.root = root
        self.version = str(version)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.max_bad_fraction = max_bad_fraction
        self.augment = augment
        self.crop_probability = crop_probability
        self.seed = seed
        self.input_size = _input_size(image_size, resolution_mult)  # (height, width) px
        for name, value, good in (
            ("batch_size", batch_size, batch_size >= 1),
            ("num_workers", num_workers, num_workers >= 0),
            ("val_fraction", val_fraction, 0 < val_fraction < 1),
            ("max_bad_fraction", max_bad_fraction, 0 <= max_bad_fraction <= 1),
            ("crop_probability", crop_probability, 0 <= crop_probability <= 1),
            ("seed", seed, 0 <= seed < 2**32),
        ):
            if not good:
                wanted = {
                    "batch_size": "1 or more",
                    "num_workers": "0 or more",
                    "val_fraction": "above 0 and below 1",
                    "max_bad_fraction": "from 0 to 1",
                    "crop_probability": "from 0 to 1",
                    "seed": "from 0 to 4294967295",
                }[name]
                raise InputError(f"--data.{name} is {value}; it must be {wanted}.")
        self._bad: dict[Split, dict[str, str]] = {}  # file to reason
        self._files: dict[Path, CocoFile] = {}
        self._indices: dict[Split, CocoIndex] = {}

    @property
    def categories(self) -> dict[int, str]:
        """Original category id to name, in the order of the labels. Reads one annotation file, the smallest."""
        return self._read(min(self._found().values(), key=lambda files: files.annotations.stat().st_size)).categories

    def setup(self, stage: str) -> None:
        """Reads and checks what `stage` needs, and prints one line for each split."""
        wanted: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        for split in wanted.get(stage, ()):
            if split not in self._indices:
                self._indices[split] = index = self._index(split)
                _say(index.summary())
                self._bad[split] = dict(index.bad)
                self._stop_if_too_many_bad(split)

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented, from where the trainer stands: its epoch, and within it after a resume."""
        size = self.input_size
        transform = build_train_transform(size, self.crop_probability) if self.augment else build_eval_transform(size)
        epoch, start = self._position()
        dataset = CocoDetection(self._indices["train"], transform, size, self.seed)
        return self._loader(dataset, shuffle=True, epoch=epoch, start=start)

    def val_dataloader(self) -> DataLoader:
        """In the file's order, only resized, no image twice on any number of devices."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader:
        """As `val_dataloader`."""
        return self._eval_dataloader("test")

    def ground_truth(self, split: Split) -> dict[str, list[dict[str, Any]]]:
        """The split as pycocotools wants it: every image and box as in the file, missing files and odd boxes included.

        Repaired is only what would make pycocotools fail or err: a missing `area` is width times height, a missing
        `iscrowd` 0, and where an annotation has the id 0, which it takes for "not matched", all are numbered from 1.
        """
        files, part = self._source(split)
        coco = self._read(files)
        part = np.arange(len(coco.image_ids)) if part is None else part
        mine = np.flatnonzero(np.isin(coco.image_of, part))
        areas = np.where(np.isnan(coco.areas), coco.boxes_xywh[:, 2:].clip(min=0).prod(axis=1), coco.areas)
        ids = np.arange(1, len(coco.image_of) + 1) if (coco.annotation_ids == 0).any() else coco.annotation_ids
        return {
            "images": [
                {
                    "id": int(coco.image_ids[i]),
                    "file_name": coco.file_names[i],
                    "height": int(coco.sizes[i, 0]),
                    "width": int(coco.sizes[i, 1]),
                }
                for i in part
            ],
            "annotations": [
                {
                    "id": int(ids[i]),
                    "image_id": int(coco.image_ids[coco.image_of[i]]),
                    "category_id": int(coco.category_ids[i]),
                    "bbox": coco.boxes_xywh[i].tolist(),
                    "area": float(areas[i]),
                    "iscrowd": int(coco.crowd[i]),
                }
                for i in mine
            ],
            "categories": [{"id": i, "name": name} for i, name in coco.categories.items()],
        }

    def photograph(self, split: Split, image_id: int) -> np.ndarray:
        """The whole photograph, uint8 RGB (H, W, 3), on the pixels that its annotations count. Raises ImageError."""
        index = self._indices[split]
        position = int(np.flatnonzero(index.image_ids == image_id)[0])
        height, width = index.sizes[position].tolist()
        return open_image(index.path(position), annotated_size=(height, width) if height else None)

    @property
    def bad_images(self) -> dict[str, str]:
        """File to reason, of every image found bad so far in any split."""
        return {file: reason for bad in self._bad.values() for file, reason in bad.items()}

    def note_bad(self, bad: Iterable[tuple[str, str]]) -> None:
        """Notes a batch's `bad` images. Raises InputError when too many of a split cannot be used."""
        for file, reason in bad:
            for split, index in self._indices.items():
                if file not in self._bad[split] and file in index:
                    self._bad[split][file] = reason
                    self._stop_if_too_many_bad(split)

    def _stop_if_too_many_bad(self, split: Split) -> None:
        bad, listed = self._bad[split], self._indices[split].listed
        if len(bad) > self.max_bad_fraction * listed:
            file, reason = next(iter(bad.items()))
            raise InputError(
                f"{len(bad)} of the {listed} images of the {split} split cannot be used, more than "
                f"max_bad_fraction {self.max_bad_fraction:g} allows; the first is {file}: {reason}; "
                "repair them, or raise --data.max_bad_fraction."
            )

    def _root(self) -> Path:
        if self.root is None:
            return built_in_sample()
        root = Path(self.root)
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise InputError(f"--data.root {root} {problem}; give the folder that holds the data set.")
        return root

    def _found(self) -> dict[Split, SplitFiles]:
        """The splits that the folder has, at least one."""
        root = self._root()
        splits: tuple[Split, ...] = ("train", "val", "test")
        found = {split: find_split(root, split, self.version) for split in splits}
        if not any(found.values()):
            raise _no_annotations(root, splits, self.version)
        return {split: files for split, files in found.items() if files is not None}

    def _source(self, split: Split) -> tuple[SplitFiles, np.ndarray | None]:
        """The files of a split, and which images of them are its own (None: all)."""
        found = self._found()
        if split == "test" and "test" not in found:
            return self._source("val")
        if split in found and (split != "train" or "val" in found):
            return found[split], None
        if "train" not in found:
            raise _no_annotations(self._root(), (split,), self.version)
        return found["train"], self._part(len(self._read(found["train"]).image_ids), split)

    def _part(self, size: int, split: Split) -> np.ndarray:
        """Positions of the images of the seeded training or validation part, ascending."""
        held_out = max(1, round(size * self.val_fraction))
        if held_out >= size:
            raise InputError(
                f"--data.val_fraction {self.val_fraction:g} of {size} images leaves none to train on; "
                "lower it, or give the data set a validation part."
            )
        order = np.random.default_rng(self.seed).permutation(size)
        return np.sort(order[:held_out] if split == "val" else order[held_out:])

    def _index(self, split: Split) -> CocoIndex:
        files, part = self._source(split)
        coco = self._read(files)
        _same_categories(self.categories, coco)
        if split == "val" and part is not None:
            _say(
                f"{self._root()} has no validation part: {len(part)} of its {len(coco.image_ids)} training images, "
                f"drawn with seed {self.seed}, are set aside for validation (--data.val_fraction)"
            )
        if split == "test" and "test" not in self._found():
            _say(f"{self._root()} has no test part: testing on its validation images")
        return index_split(coco, split, files.image_folders, part)

    def _read(self, files: SplitFiles) -> CocoFile:
        if files.annotations not in self._files:
            self._files[files.annotations] = read_coco(files.annotations)
        return self._files[files.annotations]

    def _position(self) -> tuple[int, int]:
        """The epoch to train next, and how many samples of it this rank has had: not 0 only after a mid-epoch resume.

        `fit_loop` has its counters back by the time it asks for the loader. A checkpoint saved by a validation at the
        end of an epoch says that the epoch is still running with its last batch done; that is the next one's start.
        """
        if self.trainer is None:
            return 0, 0
        epochs: Any = self.trainer.fit_loop.epoch_progress.current  # Any: Lightning annotates a class too general
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        done: int = batches.current.processed
        # Not trainer.current_epoch: that counts completed epochs, one less in a checkpoint saved on_train_epoch_end,
        # and workers draw ahead from the order of the epoch they are given before Lightning corrects it.
        epoch: int = epochs.processed
        if epochs.ready == epochs.processed:  # between two epochs
            return epoch, 0
        if batches.is_last_batch and done == batches.current.ready:
            return epoch + 1, 0
        return epoch, done * self.batch_size

    def _eval_dataloader(self, split: Split) -> DataLoader:
        dataset = CocoDetection(self._indices[split], build_eval_transform(self.input_size), self.input_size, self.seed)
        return self._loader(dataset, shuffle=False)

    def _loader(self, dataset: CocoDetection, *, shuffle: bool, epoch: int = 0, start: int = 0) -> DataLoader:
        sampler = EpochSampler(
            len(dataset),
            seed=self.seed,
            shuffle=shuffle,
            epoch=epoch,
            rank=self.trainer.global_rank if self.trainer else 0,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            start=start,
        )
        return make_loader(
            dataset,
            sampler,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate=collate,
            drop_last=shuffle,
        )


def _input_size(image_size: int | list[int], resolution_mult: float) -> tuple[int, int]:
    sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2:
        raise InputError(f"--data.image_size is {image_size}; give one side in px, or [height, width].")
    return scaled_image_size(sides[0], resolution_mult), scaled_image_size(sides[1], resolution_mult)


def _same_categories(expected: dict[int, str], coco: CocoFile) -> None:
    if coco.categories == expected:
        return
    only_here = sorted(set(coco.categories.items()) - set(expected.items()))
    only_there = sorted(set(expected.items()) - set(coco.categories.items()))
    raise InputError(
        f"{coco.path}: its categories differ from those of the other splits: only here {only_here[:5]}, "
        f"only there {only_there[:5]}; give all splits the same `categories`."
    )


def built_in_sample() -> Path:
    """The folder of the detection sample, which is drawn on first use."""
    if not SAMPLE_FOLDER.is_dir():
        from data.samples.detection import write_detection_sample  # drawing code is needed this once

        _say(f"no --data.root given: drawing the built-in sample into {SAMPLE_FOLDER}")
        write_detection_sample(SAMPLE_FOLDER)
    return SAMPLE_FOLDER


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
