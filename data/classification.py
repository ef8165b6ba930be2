"""Labelled images for a classifier: a folder for each class, a CSV of labels, Stanford Dogs, ImageNet as published."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbone.errors import InputError, check_options
from data import imagenet
from data.folders import count_of, existing_folder, say
from data.images import image_size, open_image
from data.layouts import cropped, read_classes
from data.module import WholeImageDataModule
from data.readers import shards
from data.records import SPLITS, UNSPLIT, Records, Split
from data.splits import assign_splits


def open_cropped(records: Records, position: int, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """The image at `position`, uint8 RGB (H, W, 3), cut to its box where it has one. Raises ImageError."""
    path, content = records.path(position), shards.content_of(records, position)
    box = records.columns["crop_xyxy"][position] if "crop_xyxy" in records.columns else None
    if box is None or np.isnan(box).any():
        return open_image(path, at_least=at_least, content=content)
    height, width = image_size(path, content=content)
    x1, y1 = np.floor(np.clip(box[:2], 0, (width - 1, height - 1)))
    x2, y2 = np.ceil(np.clip(box[2:], (x1 + 1, y1 + 1), (width, height)))
    if at_least is not None:  # what must be so large is the box, not the image
        at_least = (
            min(height, int(at_least[0] * height / (y2 - y1))),
            min(width, int(at_least[1] * width / (x2 - x1))),
        )
    image = open_image(path, at_least=at_least, content=content)
    across, down = image.shape[1] / width, image.shape[0] / height  # below 1 where decoded smaller
    rows = slice(int(y1 * down), max(int(y1 * down) + 1, round(y2 * down)))
    return image[rows, int(x1 * across) : max(int(x1 * across) + 1, round(x2 * across))]


class ClassificationDataModule(WholeImageDataModule):
    """Labelled images: a folder for each class, a CSV `path,label`, Stanford Dogs or ImageNet as they are published.

    Args:
        crop: The whole image, or Stanford Dogs' box of the dog.
        classes: Label to name; without them those of the training images. A checkpoint keeps them, so that data of some
            of its classes can be scored.
        balanced: Train on images of each class equally often: those of rare classes several times an epoch, others not
            in all epochs. An epoch has as many images as before.
        without_near_duplicates_of: Another data set's folder; training images that look like its test images are left
            out. For web images, before a fine-tuning on that data set.

    """

    sample = "dogs"
    targets = ("labels",)
    opened = staticmethod(open_cropped)

    def __init__(
        self,
        *,
        crop: Literal["full", "bbox"] = "full",
        classes: dict[int, str] | None = None,
        balanced: bool = False,
        without_near_duplicates_of: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._said = False  # that classes are called otherwise than the model's
        check_options("data", ("classes", classes, _counted(classes), "names by their labels, 0, 1 and so on"))

    @property
    def categories(self) -> dict[int, str]:
        """Label to name of the classes: those given, or else all that the data have, but for those of test alone."""
        if self.hparams["classes"] is None:
            records = self.all_records
            size = len(records.classes)
            tested = records["split"] == SPLITS.index("test")
            of_test, others = (np.bincount(records["labels"][of], minlength=size) for of in (tested, ~tested))
            own = np.flatnonzero((of_test == 0) | (others > 0) | tested.all()).tolist()
            # a checkpoint keeps them with the other options
            self.hparams["classes"] = dict(enumerate(records.classes[label] for label in own))
        return self.hparams["classes"]

    def relabelled(self, records: Records) -> Records:
        """The records with labels as `categories` count them. InputError for an image of another class."""
        known = tuple(self.categories.values())
        if records.classes == known:
            return records
        if known == imagenet.class_names():
            labels = imagenet.find_classes(records.classes)
        else:
            labels = _find_classes(known, records.classes)
            pairs = [
                (name, known[label]) for name, label in zip(records.classes, labels, strict=True) if label is not None
            ]
            other = [f"{name} is {own}" for name, own in pairs if name != own]
            if other and not self._said:
                say(f"{self.root}: {count_of(len(other), 'class')} called otherwise than the model's ({other[0]})")
                self._said = True
        table = np.array([-1 if label is None else label for label in labels])
        new = table[records["labels"]]
        if (new < 0).any():
            unknown = sorted(records.classes[label] for label in np.unique(records["labels"][new < 0]).tolist())
            images = count_of(int((new < 0).sum()), "image")
            more = ", ..." if len(known) > 8 else ""
            raise InputError(
                f"{self.root} has {images} of {', '.join(map(repr, unknown[:5]))}, and the model is trained for "
                f"{count_of(len(known), 'class')} ({', '.join(known[:8])}{more}); take them away, name the classes "
                "alike, or start from the trunk of a checkpoint alone with --weights."
            )
        return replace(records.with_columns(labels=new), classes=known)

    def imagenet_overlap(self, split: Split) -> float:
        """The part of a split's images whose folder has an id of ImageNet, as all of Stanford Dogs', or whose name has.

        They are ImageNet's own images, so that weights pretrained on it may have seen them.
        """
        records = self.records(split)
        parts = [name.rpartition(b"/") for name in records.file_names.tolist()]
        validation = np.array([part[2].startswith(b"ILSVRC2012_") for part in parts])  # these lie in one folder
        names, of = np.unique(np.array([part[0] for part in parts], np.bytes_), return_inverse=True)
        known = [any(map(imagenet.is_imagenet_id, name.decode(errors="replace").split("/"))) for name in names.tolist()]
        return float((np.array(known)[of] | validation).mean())

    def read(self) -> Records:
        """Read the folder in whichever layout it has; what it leaves open of splits is drawn by class."""
        records = self.from_shards("classes")
        if records is None:
            return _read(self.root, self.hparams["crop"], self.split_options)
        return _assigned(cropped(records, self.hparams["crop"], self.root), self.split_options, self.root)

    def describe(self, records: Records) -> str:
        """How many images of how many classes."""
        images, classes = count_of(len(records), "image"), count_of(len(records.classes), "class")
        return f"{images} of {len(np.unique(records['labels'])):,} of {classes}"

    def select(self, split: Split) -> Records:
        """The records of a split; of training and validation without what looks like another set's test images."""
        records = self.relabelled(super().select(split))
        if split == "train":
            _check_training(records, self.root)
        other: str | None = self.hparams["without_near_duplicates_of"]
        if other is None or split == "test":
            return records
        from data.near_duplicates import without_near_duplicates  # hashing is needed this once

        option = "--data.without_near_duplicates_of"
        options = {"val_fraction": 0.1, "test_fraction": 0.1, "seed": 0}
        tested = _read(existing_folder(other, option), "full", options)
        kept, removed = without_near_duplicates(records, tested.of_split("test"))
        images = count_of(len(records), "image")
        say(f"{split}: {removed:,} of {images} left out as near-duplicates of test images in {other}")
        if len(gone := np.setdiff1d(records["labels"], kept["labels"])) and (split == "train" or not len(kept)):
            raise InputError(
                f"every {split} image of {count_of(len(gone), 'class')} (first: {self.categories[int(gone[0])]}) looks "
                f"like a test image in {other}; give other images, or leave out {option}."
            )
        return kept


def _counted(classes: dict[int, str] | None) -> bool:
    return classes is None or list(classes) == list(range(len(classes)))


def _find_classes(known: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """The label of each class among the `known`: by its name, its id in WordNet, or its words in any case and spelling.

    None where there is none, or where two may be meant: never are two classes one.
    """
    of_name = {name: label for label, name in enumerate(known)}
    labels = [of_name.get(name) for name in names]
    for key in (_wordnet_id, _words):
        theirs, ours = list(map(key, known)), list(map(key, names))
        counts, label_of, taken = (
            (Counter(theirs), Counter(ours)),
            {word: label for label, word in enumerate(theirs)},
            set(labels),
        )
        for i, one in enumerate(ours):
            if labels[i] is None and one and counts[0][one] == counts[1][one] == 1 and label_of[one] not in taken:
                ids = {_wordnet_id(names[i]), _wordnet_id(known[label_of[one]])} - {""}
                labels[i] = label_of[one] if len(ids) < 2 else None
    return labels


def _wordnet_id(name: str) -> str:
    found = re.match(r"n\d{8}(?!\d)", name)
    return found[0] if found else ""


def _words(name: str) -> str:
    """What is left of n02086240-Shih-Tzu, "shih tzu"; signs other than - and _ are kept, as A+ is not A."""
    words = re.sub(r"[\s_-]+", " ", re.sub(r"^n\d{8}[-_ ]+", "", name))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", words).casefold())


def _check_training(records: Records, root: Path) -> None:
    """Raise InputError where there are not two classes or more, each with images to train on."""
    if not len(records):
        return  # which is said for every task
    lacking = np.flatnonzero(np.bincount(records["labels"], minlength=len(records.classes)) == 0).tolist()
    if len(records.classes) == 1:
        raise InputError(
            f"{root} has the one class {records.classes[0]!r}, and there must be two to train on; wanted are "
            "train/<class>/, val/<class>/ and test/<class>/ with images, or <class>/ alone."
        )
    if lacking:
        more = f" (as {len(lacking) - 1} others)" if len(lacking) > 1 else ""
        odd = "".join(f"; {issue}" for issue in records.issues)
        raise InputError(
            f"{root}: the class {records.classes[lacking[0]]!r}{more} has no image to train on{odd}; add some, name "
            "it as the training images do, or take it away."
        )


def _read(root: Path, crop: Literal["full", "bbox"], split_options: dict[str, Any]) -> Records:
    return _assigned(read_classes(root, crop), split_options, root)


def _assigned(records: Records, split_options: dict[str, Any], root: Path) -> Records:
    if (records.columns.get("split", np.array([UNSPLIT])) != UNSPLIT).any():
        # a data set with splits of its own has a test split, or is tested on its validation images
        split_options = {**split_options, "test_fraction": 0.0}
    return assign_splits(records, **split_options, source=root, strata=records["labels"])
