"""Labelled photographs for a classifier: Stanford Dogs in its official layout, or any folder with a folder a class."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from backbone.errors import InputError
from data import imagenet
from data.folders import Split, existing_folder, say
from data.image_folder import LabelledData, LabelledImages, read_image_folder
from data.images import image_size, open_image
from data.photographs import PhotographsDataModule
from data.samples import built_in_sample
from data.stanford_dogs import is_stanford_dogs, read_stanford_dogs


def open_labelled(images: LabelledImages, position: int, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """The photograph at `position`, uint8 RGB (H, W, 3), cut to its box where it has one. Raises ImageError."""
    path = images.path(position)
    box = None if images.boxes_xyxy is None else images.boxes_xyxy[position]
    if box is None or np.isnan(box).any():
        return open_image(path, at_least=at_least)
    height, width = image_size(path)
    x1, y1 = np.floor(np.clip(box[:2], 0, (width - 1, height - 1)))
    x2, y2 = np.ceil(np.clip(box[2:], (x1 + 1, y1 + 1), (width, height)))
    if at_least is not None:  # what must be so large is the box, not the photograph
        at_least = (
            min(height, int(at_least[0] * height / (y2 - y1))),
            min(width, int(at_least[1] * width / (x2 - x1))),
        )
    image = open_image(path, at_least=at_least)
    across, down = image.shape[1] / width, image.shape[0] / height  # below 1 where decoded smaller
    rows = slice(int(y1 * down), max(int(y1 * down) + 1, round(y2 * down)))
    return image[rows, int(x1 * across) : max(int(x1 * across) + 1, round(x2 * across))]


class ClassificationDataModule(PhotographsDataModule):
    """Labelled photographs: Stanford Dogs in its official layout, or a folder with a folder for each class.

    Args:
        root: Folder of the data set; without one, the built-in sample, which is drawn once.
        image_size: Side of the square input in px, or [height, width].
        resolution_mult: The paper's resolution multiplier; 1 keeps `image_size` as it is.
        crop: The whole photograph, or Stanford Dogs' box of the dog.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load and augment.
        val_fraction: Part of the training images of each class set aside where there is no validation part.
        test_fraction: The same for testing, where the folder has neither train, val nor test folders.
        test_split: Which images `test` scores.
        without_near_duplicates_of: Another data set's folder; training images that look like its test images are left
            out. For web pictures, before a fine-tuning on that data set.
        views: Augmented views of each training image, which take turns by the epoch, so that a teacher's answers to
            them can be kept; at 0 every epoch has a new one.
        max_bad_fraction: A run stops when more than this part of a split's images cannot be read.
        augment: Crop, flip, colour and erase the training images.
        min_crop_area: Smallest part of a photograph's area in a training crop.
        random_erasing: Part of the training images that lose a random rectangle.
        central_fraction: Part of the photograph's side that is looked at in evaluation, in its middle.
        seed: Of the order, the augmentation and the split.

    """

    answers = ("labels",)
    opened = staticmethod(open_labelled)

    def __init__(
        self,
        root: str | None = None,
        image_size: int | list[int] = 224,
        resolution_mult: float = 1.0,
        crop: Literal["full", "bbox"] = "full",
        batch_size: int = 32,
        num_workers: int = 2,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        test_split: Literal["test", "val", "train", "all"] = "test",
        without_near_duplicates_of: str | None = None,
        views: int = 0,
        max_bad_fraction: float = 0.01,
        augment: bool = True,
        min_crop_area: float = 0.25,
        random_erasing: float = 0.0,
        central_fraction: float = 0.875,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.prepare()
        self._found: LabelledData | None = None
        self._no_test = False

    @property
    def categories(self) -> dict[int, str]:
        """Label to name, in the order of the class folders."""
        return dict(enumerate(self._data().class_names))

    @property
    def tests_on_validation(self) -> bool:
        """Whether validation images are among those that `test` scores."""
        return "test" in self._splits and (self.hparams["test_split"] in ("val", "all") or self._no_test)

    def labels(self, split: Split, positions: list[int]) -> np.ndarray:
        """The labels, int64 (N,), of the photographs at `positions`."""
        return self._splits[split].labels[positions]

    def imagenet_overlap(self, split: Split) -> float:
        """The part of a split's images whose class folder has an id of ImageNet, such as all of Stanford Dogs'.

        They are ImageNet's own images, so that weights pretrained on it may have seen them.
        """
        known = np.array([imagenet.is_imagenet_id(folder) for folder in self._data().class_folders])
        return float(known[self._splits[split].labels].mean())

    def _folder(self) -> Path:
        root: str | None = self.hparams["root"]
        return built_in_sample("dogs") if root is None else existing_folder(root)

    def _data(self) -> LabelledData:
        if self._found is None:
            asked = self.hparams
            found = read_labelled(
                self._folder(), asked["crop"], asked["val_fraction"], asked["test_fraction"], asked["seed"]
            )
            if len(found.class_folders) == 1000 and all(map(imagenet.is_imagenet_id, found.class_folders)):
                found = replace(found, class_names=imagenet.class_names())  # ids in order are the labels in order
            self._found = found
        return self._found

    def _notes(self) -> tuple[str, ...]:
        return self._data().notes

    def _said(self, images: LabelledImages) -> str:
        return f"{len(images):,} images of {len(np.unique(images.labels)):,} of {len(self.categories):,} classes"

    def _read(self, split: str) -> LabelledImages:
        splits = self._data().splits
        if split == "test":
            asked = self.hparams["test_split"]
            if asked == "all":
                return LabelledImages.joined(list(splits.values()))
            if asked == "test" and "test" not in splits:
                say(f"{self._folder()} has no test part: testing on its validation images")
                asked, self._no_test = "val", True
            return splits[asked]
        images = splits["train" if split == "train" else "val"]
        other: str | None = self.hparams["without_near_duplicates_of"]
        if other is None:
            return images
        from data.near_duplicates import without_near_duplicates  # hashing is needed this once

        option = "--data.without_near_duplicates_of"
        tested = read_labelled(existing_folder(other, option), "full", 0.1, 0.1, self.hparams["seed"]).splits
        kept, removed = without_near_duplicates(images, tested.get("test", tested["val"]))
        say(f"{split}: {removed:,} of {len(images):,} images left out as near-duplicates of test images in {other}")
        if len(gone := np.setdiff1d(images.labels, kept.labels)) and (split == "train" or not len(kept)):
            raise InputError(
                f"every {split} image of {len(gone)} classes (first: {self.categories[int(gone[0])]}) looks like "
                f"a test image in {other}; give other pictures, or leave out {option}."
            )
        return kept


def read_labelled(
    root: Path, crop: Literal["full", "bbox"], val_fraction: float, test_fraction: float, seed: int
) -> LabelledData:
    """Read a folder in whichever layout it has. Raises InputError where it has none."""
    if is_stanford_dogs(root):
        return read_stanford_dogs(root, val_fraction=val_fraction, seed=seed, crop=crop)
    if root.name == "Images" and is_stanford_dogs(root.absolute().parent):
        raise InputError(
            f"{root} is the picture folder of Stanford Dogs, whose split and names lie beside it; give "
            f"{root.absolute().parent}."
        )
    if crop == "bbox":
        raise InputError(f"--data.crop is bbox, but {root} has no boxes, as Stanford Dogs' layout has; leave it out.")
    return read_image_folder(root, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
