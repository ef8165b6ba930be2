"""Detection data in COCO's JSON format, from COCO's own folder layout or the one that annotation tools export.

Everything wrong with a file is found at the start and named; what can be survived is counted in one line. Inside,
labels run from 0 in the order of the sorted category ids; outside, and in `ground_truth`, the original ids stay.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from backbone.errors import InputError, check_options
from data.bad_images import BadImages
from data.coco_files import CocoFile, SplitFiles, find_split, no_annotations, read_coco
from data.folders import Split, existing_folder, say
from data.images import ImageError, image_size, open_image
from data.loading import input_size, make_loader, sample_seed
from data.samples import built_in_sample
from data.transforms import Transform, apply_with_boxes, build_detection_eval, build_detection_train


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

    def __contains__(self, file: object) -> bool:
        return bool((self.file_names == os.path.relpath(str(file), self.folder).encode()).any())

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

    if split == "train" and not (visible & ~crowd).any():  # pictures without objects are a fair test
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
        result = apply_with_boxes(
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
        self.augment = augment
        self.crop_probability = crop_probability
        self.seed = seed
        self.input_size = input_size(image_size, resolution_mult)  # (height, width) px
        check_options(
            "data",
            ("batch_size", batch_size, batch_size >= 1, "1 or more"),
            ("num_workers", num_workers, num_workers >= 0, "0 or more"),
            ("val_fraction", val_fraction, 0 < val_fraction < 1, "above 0 and below 1"),
            ("max_bad_fraction", max_bad_fraction, 0 <= max_bad_fraction <= 1, "from 0 to 1"),
            ("crop_probability", crop_probability, 0 <= crop_probability <= 1, "from 0 to 1"),
            ("seed", seed, 0 <= seed < 2**32, "from 0 to 4294967295"),
        )
        self.bad_images = BadImages(max_bad_fraction)
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
                say(index.summary())
                self.bad_images.start(split, index, index.listed, index.bad)

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented, from where the trainer stands: its epoch, and within it after a resume."""
        size = self.input_size
        transform = build_detection_train(size, self.crop_probability) if self.augment else build_detection_eval(size)
        return self._loader(CocoDetection(self._indices["train"], transform, size, self.seed), shuffle=True)

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
                    # left out where the file says nothing: 0 would be taken for the size
                    **({"height": int(coco.sizes[i, 0]), "width": int(coco.sizes[i, 1])} if coco.sizes[i, 0] else {}),
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

    def _root(self) -> Path:
        return built_in_sample("detection") if self.root is None else existing_folder(self.root)

    def _found(self) -> dict[Split, SplitFiles]:
        """The splits that the folder has, at least one."""
        root = self._root()
        splits: tuple[Split, ...] = ("train", "val", "test")
        found = {split: find_split(root, split, self.version) for split in splits}
        if not any(found.values()):
            raise no_annotations(root, splits, self.version)
        return {split: files for split, files in found.items() if files is not None}

    def _source(self, split: Split) -> tuple[SplitFiles, np.ndarray | None]:
        """The files of a split, and which images of them are its own (None: all)."""
        found = self._found()
        if split == "test" and "test" not in found:
            return self._source("val")
        if split in found and (split != "train" or "val" in found):
            return found[split], None
        if "train" not in found:
            raise no_annotations(self._root(), (split,), self.version)
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
            say(
                f"{self._root()} has no validation part: {len(part)} of its {len(coco.image_ids)} training images, "
                f"drawn with seed {self.seed}, are set aside for validation (--data.val_fraction)"
            )
        if split == "test" and "test" not in self._found():
            say(f"{self._root()} has no test part: testing on its validation images")
        return index_split(coco, split, files.image_folders, part)

    def _read(self, files: SplitFiles) -> CocoFile:
        if files.annotations not in self._files:
            self._files[files.annotations] = read_coco(files.annotations)
        return self._files[files.annotations]

    def _eval_dataloader(self, split: Split) -> DataLoader:
        dataset = CocoDetection(self._indices[split], build_detection_eval(self.input_size), self.input_size, self.seed)
        return self._loader(dataset, shuffle=False)

    def _loader(self, dataset: CocoDetection, *, shuffle: bool) -> DataLoader:
        return make_loader(
            dataset,
            seed=self.seed,
            shuffle=shuffle,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate=collate,
            trainer=self.trainer,
        )


def _same_categories(expected: dict[int, str], coco: CocoFile) -> None:
    if coco.categories == expected:
        return
    only_here = sorted(set(coco.categories.items()) - set(expected.items()))
    only_there = sorted(set(expected.items()) - set(coco.categories.items()))
    raise InputError(
        f"{coco.path}: its categories differ from those of the other splits: only here {only_here[:5]}, "
        f"only there {only_there[:5]}; give all splits the same `categories`."
    )
