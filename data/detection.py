"""Images with boxes for a detector, from COCO's JSON, YOLO's texts, Pascal VOC's XML or a CSV."""

import functools
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from backbone.errors import InputError
from backbone.names import shown
from data.folders import count_of, say
from data.images import ImageError, open_image
from data.layouts import boxes_reader
from data.loading import sample_seed
from data.module import DataModule, collate_images
from data.readers import shards
from data.readers.box_checks import clip_boxes
from data.readers.boxes import LOST
from data.readers.coco import SplitFiles, classes_of, find_splits, read, with_classes
from data.readers.yolo import UNNAMED
from data.records import Records, Split, joined
from data.splits import assign_splits
from data.transforms import Transform, apply_with_boxes, build_detection_eval, build_detection_train


def open_annotated(records: Records, position: int, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """The image at a position, uint8 RGB (H, W, 3), on the pixels that its annotations count. Raises ImageError."""
    height, width = records["sizes"][position].tolist()
    return open_image(
        records.path(position),
        annotated_size=(height, width) if height else None,
        at_least=at_least,
        content=shards.content_of(records, position),
    )


def _without_shared(train: Records, val: Records, files: SplitFiles) -> Records:
    """The training images whose file the validation images have not; a line says how many were left out."""
    ours, theirs = (
        np.char.add(os.fsencode(f"{part.folder.resolve()}/"), part.file_names) if len(part) else part.file_names
        for part in (train, val)
    )
    shared = np.isin(ours, theirs)
    if shared.any():
        count = f"{count_of(int(shared.sum()), 'training image')} {'is' if shared.sum() == 1 else 'are'}"
        left = "left out" if not shared.all() else "trained on all the same, as there are no others: the scores flatter"
        say(f"{files.annotations}: {count} of a file that it lists for validation, and {left}")
    return train if shared.all() else train.take(~shared)


class DetectionImages(Dataset):
    """Samples of one split: `[(epoch, position)]` gives a dict for `collate`, augmented as a function of both."""

    def __init__(self, records: Records, transform: Transform, input_size: tuple[int, int], seed: int) -> None:
        assert records.boxes is not None
        clipped, image = clip_boxes(records), records.boxes.images
        usable = clipped.usable
        self.records = records
        self.offsets = np.concatenate([[0], np.cumsum(np.bincount(image[usable], minlength=len(records)))])
        self.boxes_xyxy = clipped.xyxy[usable].astype(np.float32)
        self.labels, self.crowd = records.boxes.labels[usable], records.boxes.crowd[usable]
        self.transform = transform
        # Twice the input: a crop of a tenth of the area still has a third of the side, and twelve-megapixel JPEGs
        # decode at 1/4 or 1/8.
        self.at_least = (2 * input_size[0], 2 * input_size[1])
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, position = item
        try:
            image = open_annotated(self.records, position, self.at_least)
        except ImageError as error:
            return {"bad": (error.file, error.reason)}
        height, width = self.records["sizes"][position].tolist()
        rows = slice(self.offsets[position], self.offsets[position + 1])
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2)  # below 1 where decoded smaller
        boxes, crowd = self.boxes_xyxy[rows] * scale, self.crowd[rows]
        transformed = apply_with_boxes(
            self.transform,
            image,
            boxes[~crowd],
            self.labels[rows][~crowd],
            boxes[crowd],
            sample_seed(self.seed, epoch, position),
        )
        return {**transformed._asdict(), "position": position, "size": (height, width)}


_LISTS, _TENSORS = ("boxes_xyxy", "labels", "crowd_xyxy"), ("positions", "sizes")


class _Batch(dict):
    """A batch that crosses from a worker with its small tensors as plain bytes; a plain dict on the other side.

    Three tensors for every image, each through shared memory, would cost a file descriptor and about 0.1 ms apiece.
    """

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        small = {key: [tensor.numpy() for tensor in self[key]] for key in _LISTS}
        return _unpack, ({**self, **small, **{key: self[key].numpy() for key in _TENSORS}},)


def _unpack(batch: dict[str, Any]) -> dict[str, Any]:
    batch.update({key: [torch.from_numpy(array) for array in batch[key]] for key in _LISTS})
    batch.update({key: torch.from_numpy(batch[key]) for key in _TENSORS})
    return batch


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch of a detector: what `collate_images` gives, and the boxes.

    boxes_xyxy list of float32 (N, 4) in px of `images`; labels list of int64 (N,) from 0; crowd_xyxy list of float32
    (M, 4); sizes int64 (B, 2) annotated height, width.
    """
    batch, good = collate_images(samples)
    lists = {key: [torch.from_numpy(sample[key]) for sample in good] for key in _LISTS}
    sizes = torch.tensor([sample["size"] for sample in good], dtype=torch.int64).reshape(-1, 2)
    return _Batch(**batch, **lists, sizes=sizes)


_IDS_DIFFER = "its classes have other ids than those trained for, and are known by their names"


def _by_name(own: dict[int, str], given: dict[int, str]) -> bool:
    """Whether classes, id to name, are certainly among those `given` by their names, but not by their ids."""
    names = list(given.values())
    unique = len({*names}) == len(names) and len({*own.values()}) == len(own)
    return unique and {*own.values()} <= {*names} and not own.items() <= given.items()


def _in_order(own: dict[int, str], given: dict[int, str]) -> dict[int, str]:
    """All classes `given` in their order, id to name, by the ids of `own`; the others get ids that are free."""
    ids, free = {name: number for number, name in own.items()}, (one for one in itertools.count(1) if one not in own)
    return {ids[name] if name in ids else next(free): name for name in given.values()}


def _numbered(records: Records, given: dict[int, str]) -> Records:
    """The records with the ids of the classes `given`, where their names are among these.

    Classes without names (YOLO's) are the first of those given, in their order.
    """
    own, names = dict(zip(records.class_ids, records.classes, strict=True)), list(given.values())
    if any(note.endswith(UNNAMED) for note in records.notes) and not {*own.values()} <= {*names}:
        if max(own) >= len(names):
            return records
        note = f"{records.folder}: classes 0 to {max(own)} are taken as {', '.join(map(shown, names[: max(own) + 1]))}"
        records = replace(records, classes=tuple(names[number] for number in own), notes=(*records.notes, note))
        return replace(records, class_ids=tuple(list(given)[number] for number in own))
    if not _by_name(own, given):
        return records
    numbers = {name: number for number, name in given.items()}
    notes = (f"{records.folder}: {_IDS_DIFFER}",) * (records.layout == "YOLO")  # the others have no ids of their own
    class_ids = tuple(numbers[name] for name in records.classes)
    return replace(records, class_ids=class_ids, notes=(*records.notes, *notes))


class DetectionDataModule(DataModule):
    """Images with boxes in any layout that `boxes_reader` knows; COCO's files are read one by one, as splits need them.

    Args:
        version: What follows the split in COCO's own file names, such as 2017; needed where a folder has several.
        test_fraction: Part of the training images set aside for testing where the data have no test split; with 0 the
            validation images are tested on.
        crop_probability: Part of the training images that get SSD's random crop, which zooms in by up to three; less
            than SSD's 0.85 is better where all images show their objects at one scale.
        classes: Id to name of the classes, where the data list only some of them, or number them otherwise; a
            checkpoint has those it was trained for.
        balanced: Train more often on images that show rare classes, by LVIS's repeat factors, and less often on the
            others. An epoch has as many images as before.

    """

    sample = "detection"
    opened = staticmethod(open_annotated)
    collate: ClassVar[Any] = staticmethod(collate)

    def __init__(
        self,
        *,
        version: str = "",
        image_size: int | list[int] = 300,
        batch_size: int = 16,
        test_fraction: float = 0.0,
        crop_probability: float = 0.85,
        classes: dict[int, str] | None = None,
        balanced: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, test_fraction=test_fraction, **options)
        self._classes: dict[int, str] | None = None
        self._own: dict[int, str] = {}  # those of COCO's files where only the names are the same, in the same order
        self._unlisted: dict[int, str] = {}  # what the data have besides the `classes` given
        self._read: dict[Split, Records] = {}  # by the split whose file they are from
        self._unusable: dict[Split, tuple[int, dict[str, str]]] = {}  # images listed, and file to reason

    @property
    def categories(self) -> dict[int, str]:
        """Original id to name of the classes, by label: those that any split lists, or `classes` if these hold all."""
        if self._classes is None:
            own, given = self._own_classes(), self.hparams["classes"]
            if given is not None and not self._reader and _by_name(own, given):
                self._own, own = _in_order(own, given), given
                say(f"{self.root}: {_IDS_DIFFER}")
            self._unlisted = {} if given is None else dict(own.items() - given.items())
            self._classes = own if given is None or self._unlisted else dict(given)
            self.hparams["classes"] = self._classes  # a checkpoint keeps them with the other options
        return self._classes

    def read(self) -> Records:
        """All images of all annotation files."""
        return joined([self._of_file(split) for split in self._files()])

    def select(self, split: Split) -> Records:
        """The images of a split that can be used; only the annotation file that has them is read."""
        if self.categories and self._unlisted:
            raise InputError(f"{self.root} has classes that --data.classes has not: {self._unlisted}; add them to it.")
        files, chosen = self._files(), self.hparams["test_split"] if split == "test" else split
        has_test = "test" in files or (self._reader and len(self._of_file("train").of_split("test")))
        if chosen == "test" and not has_test and self.hparams["test_fraction"] == 0:
            say(f"{self.root} has no test images: testing on its validation images")
            chosen = "val"
        source = chosen if chosen in files or "train" not in files else "train"
        for name in files if chosen == "all" else [source]:
            records = self._of_file(name)
            for line in (*records.notes, *(f"{files[name].annotations}: {issue}" for issue in records.issues)):
                say(line)
            self._read[name] = replace(records, notes=(), issues=())  # said once
        records = self.read() if chosen == "all" else self._of_file(source).of_split(chosen)
        if split == "train" and {"train", "val"} <= files.keys():
            records = _without_shared(records, self._of_file("val"), files["val"])
        records = records.take(records["problem"] != LOST)  # told already, and no fault of the images
        problems = {i: os.fsdecode(records["problem"][i]) for i in np.flatnonzero(records["problem"] != b"").tolist()}
        self._unusable[split] = len(records), {str(records.path(i)): reason for i, reason in problems.items()}
        records = records.take(records["problem"] == b"")
        boxes, clipped = records.boxes, clip_boxes(records)
        assert boxes is not None
        if split == "train" and not (clipped.usable & ~boxes.crowd).any():  # images without objects are a fair test
            count = f"{count_of(len(boxes.crowd), 'annotation')} in {count_of(len(records), 'image')}"
            if len(boxes.crowd) and boxes.crowd.all():
                problem = f"only crowd regions ({count}), which are not trained on; give single objects `iscrowd` 0."
            else:
                of = f"{clipped.empty.sum()} of them with zero or negative size, {boxes.crowd.sum()} crowd regions"
                remedy = "label its objects" if self._reader else "`bbox` must be [x, y, width, height] in px"
                problem = f"no usable box ({count}, {of}); {remedy}."
            raise InputError(f"{files[source].annotations}: the train split has {problem}")
        return records

    def describe(self, records: Records) -> str:
        """Its images, objects and classes."""
        assert records.boxes is not None
        objects = (clip_boxes(records).usable & ~records.boxes.crowd).sum()
        images, classes = count_of(len(records), "image"), count_of(len(records.classes), "class")
        return f"{images}, {count_of(int(objects), 'box')} of {classes}"

    def setup(self, stage: str) -> None:
        """Also count the images that are known to be unusable from the start."""
        super().setup(stage)
        for split, (listed, reasons) in self._unusable.items():
            self.bad_images.start(split, self._splits[split], listed, reasons)
        self._unusable.clear()

    def dataset(self, split: Split, *, train: bool) -> DetectionImages:
        """The samples of a split: randomly cropped, flipped and coloured to `train` on, or only resized."""
        size, options = self.input_size, self.hparams
        transform = build_detection_train(size, options["crop_probability"]) if train else build_detection_eval(size)
        return DetectionImages(self._splits[split], transform, size, options["seed"])

    @functools.cached_property
    def _reader(self) -> Callable[[], Records] | None:
        if self.hparams["root"] is None and self.hparams["shards"]:
            return lambda: shards.read(self.hparams["shards"], "boxes")
        return boxes_reader(self.root, str(self.hparams["version"]))

    @functools.cached_property
    def _whole(self) -> Records:
        """All images of a layout other than COCO's, with a part drawn for each split that it does not name."""
        assert self._reader
        records = self._reader()
        if self.hparams["classes"]:
            records = _numbered(records, self.hparams["classes"])
        if (records["split"] <= 0).any():  # else there is nothing to draw from, nor to train on
            records = assign_splits(records, **self.split_options, source=self.root)
        return records

    def _own_classes(self) -> dict[int, str]:
        if self._reader:
            return dict(zip(self._whole.class_ids, self._whole.classes, strict=True))
        return classes_of([files.annotations for files in self._files().values()])

    def _files(self) -> dict[Split, SplitFiles]:
        """Of a layout other than COCO's, all is as one file, of which any split is drawn that it does not name."""
        if self._reader:
            return {"train": SplitFiles("train", self.root, (self.root,))}
        return find_splits(self.root, str(self.hparams["version"]))

    def _of_file(self, split: Split) -> Records:
        """The images of one annotation file; those of train with a part drawn for each split that has no file."""
        if split not in self._read and self._reader:
            self._read[split] = with_classes(self._whole, self.categories)
        elif split not in self._read:
            files, classes = self._files(), self.categories
            records = read(self.root, str(self.hparams["version"]), (split,), self._own or classes)
            if split == "train":
                given = {f"{name}_fraction": 0.0 for name in files if name != "train"}
                records = assign_splits(records, **{**self.split_options, **given}, source=self.root)
            self._read[split] = replace(records, layout="COCO")
        return self._read[split]
