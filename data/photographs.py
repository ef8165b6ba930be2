"""Whole pictures with an answer to each: the samples, the batches and the data module that three tasks share."""

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from backbone.errors import check_options
from data.bad_images import BadImages
from data.folders import Split, existing_folder, say
from data.image_list import ImageList
from data.images import ImageError, open_image
from data.loading import input_size, make_loader, sample_seed
from data.samples import built_in_sample
from data.transforms import (
    Transform,
    apply_to_image,
    build_classification_eval,
    build_classification_train,
    needed_in_evaluation,
    needed_in_training,
)

Size = tuple[int, int]  # (height, width) px
Open = Callable[[Any, int, Size | None], np.ndarray]  # of an ImageList the photograph at a position


class Photographs(Dataset):
    """Samples of one split: `[(epoch, position)]` gives a dict for `collate`, augmented as a function of both.

    `answers` are fields of `images`, of which a sample has its row. `at_least` is the size that a JPEG is decoded to or
    above. With `views` above 0 a picture has that many views, and epochs take turns; at 0 every epoch has its own.
    """

    def __init__(
        self,
        images: ImageList,
        answers: Sequence[str],
        opened: Open,
        transform: Transform,
        at_least: Size,
        seed: int,
        views: int,
    ) -> None:
        self.images = images
        self.answers = {name: getattr(images, name) for name in answers}
        self.opened = opened
        self.transform = transform
        self.at_least = at_least
        self.seed = seed
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, position = item
        answers = {name: rows[position] for name, rows in self.answers.items()}
        try:
            image = self.opened(self.images, position, self.at_least)
        except ImageError as error:
            return {"bad": (error.file, error.reason), "answers": answers}
        view = epoch % self.views if self.views else epoch
        pixels = apply_to_image(self.transform, image, sample_seed(self.seed, view, position))
        return {"image": pixels, "answers": answers, "position": position, "view": view}


def open_whole(images: ImageList, position: int, at_least: Size | None = None) -> np.ndarray:
    """The photograph at `position`, uint8 RGB (H, W, 3). Raises ImageError."""
    return open_image(images.path(position), at_least=at_least)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch of whole pictures: bad samples are left out of all but `bad`.

    images uint8 (B, 3, H, W) RGB, channels last in memory; each answer (B, ...) by its name; positions (in the split)
    and view int64 (B,); bad list of (file, reason). Where every sample is bad, B is 0.
    """
    good = ["bad" not in sample for sample in samples]
    read = [sample for sample in samples if "bad" not in sample]
    images = np.stack([sample["image"] for sample in read]) if read else np.zeros((0, 1, 1, 3), np.uint8)
    return {
        "images": torch.from_numpy(images).permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W)
        # of all, and then of the good: a batch of none has the shape and type of the others
        **{n: torch.from_numpy(np.stack([s["answers"][n] for s in samples])[good]) for n in samples[0]["answers"]},
        "positions": torch.tensor([sample["position"] for sample in read], dtype=torch.int64),
        "view": torch.tensor([sample["view"] for sample in read], dtype=torch.int64),
        "bad": [sample["bad"] for sample in samples if "bad" in sample],
    }


class _OneView(Dataset):
    """Of a data set of [(view, position)] one view of those at `positions`, int64 (N,), in that order."""

    def __init__(self, dataset: Photographs, view: int, positions: np.ndarray) -> None:
        self.dataset = dataset
        self.view = view
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        return self.dataset[self.view, int(self.positions[item[1]])]


class PhotographsDataModule(LightningDataModule):
    """What the data modules of whole pictures share: the options they check alike, loaders, and views to be kept.

    A subclass saves its options with `save_hyperparameters`, calls `prepare()`, and defines `_notes`, `_read` and
    `_said`.
    """

    answers: ClassVar[tuple[str, ...]]  # fields of its ImageList that a batch has
    sample: ClassVar[str]  # the kind of built-in sample that stands in where no root is given
    opened: ClassVar[Any] = staticmethod(open_whole)  # an Open

    def prepare(self) -> None:
        """Check the options that all have. Raises InputError."""
        asked = self.hparams
        views, augment = asked["views"], asked["augment"]
        check_options(
            "data",
            *((name, asked[name], holds(asked[name]), rule) for name, (holds, rule) in _RULES.items() if name in asked),
            ("views", views, augment or views <= 1, "0 or 1 where --data.augment is false, as all look the same"),
        )
        self.input_size = input_size(asked["image_size"], asked["resolution_mult"])  # (height, width) px
        self.bad_images = BadImages(asked["max_bad_fraction"])
        self._splits: dict[str, Any] = {}

    @property
    def evaluated_size(self) -> Size:
        """Of a picture in evaluation, where a net may look at parts of it."""
        return self.input_size

    def _root(self) -> Path:
        """The folder of the data set, or its list. Raises InputError where there is none."""
        root: str | None = self.hparams["root"]
        if root is None:
            return built_in_sample(self.sample)
        return Path(root) if Path(root).is_file() else existing_folder(root)

    def _folder(self) -> Path:
        """The folder that the files of a report are named from."""
        root = self._root()
        return root.parent if root.is_file() else root

    def _notes(self) -> Sequence[str]:
        """Sentences to print once at the start."""
        raise NotImplementedError

    def _read(self, split: str) -> ImageList:
        """The images of a split."""
        raise NotImplementedError

    def _said(self, images: Any) -> str:
        """What is to be said of them, as "30 images of 3 classes"."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Finds and checks what `stage` needs, and prints one line for each split."""
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        for split in wanted.get(stage, ()):
            if split not in self._splits:
                if not self._splits:
                    for note in self._notes():
                        say(note)
                images = self._splits[split] = self._read(split)
                say(f"{split}: {self._said(images)} in {images.folder}")
                self.bad_images.start(split, images, len(images))

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented, from where the trainer stands: its epoch, and within it after a resume."""
        return self._loader(self._training_set(), shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """In the list's order, the middle of each photograph, none twice on any number of devices."""
        return self._loader(self._photographs("val"), shuffle=False)

    def test_dataloader(self) -> DataLoader:
        """As `val_dataloader`."""
        return self._loader(self._photographs("test"), shuffle=False)

    def photograph(self, split: Split, position: int) -> np.ndarray:
        """The photograph as the data have it, uint8 RGB (H, W, 3). Raises ImageError."""
        return type(self).opened(self._splits[split], position, None)

    def file(self, split: Split, position: int) -> str:
        """Its path, relative to the data set's folder."""
        return os.path.relpath(self._splits[split].path(position), self._folder())

    def train_views(self, view: int, positions: Sequence[int]) -> DataLoader:
        """One view of the training images at `positions`, in that order, and none else on any number of devices.

        It has the pixels that training will see, so that a teacher's answers to it can be kept.
        """
        chosen = _OneView(self._training_set(), view, np.array(positions, dtype=np.int64))
        return self._loader(chosen, shuffle=False, everything=True)

    def train_keys(self) -> list[str]:
        """The files of the training set in the order of their positions, relative to the data set's folder."""
        images = self._splits["train"]
        root, folder = (f"{os.path.abspath(path)}/" for path in (self._folder(), images.folder))  # noqa: PTH100
        files = [os.path.normpath(folder + os.fsdecode(name)) for name in images.file_names.tolist()]
        # relpath() alone takes seconds for CelebA
        return [file[len(root) :] if file.startswith(root) else os.path.relpath(file, root) for file in files]

    def train_view_transform_id(self) -> str:
        """What decides the pixels of a training view but the file itself: transform, sizes, seed and versions."""
        dataset = self._training_set()
        versions = ", ".join(
            f"{name} {importlib.metadata.version(name)}"
            for name in ("albumentations", "opencv-python-headless", "numpy", "pillow")
        )
        crop = f"crop {self.hparams['crop']}; " if "crop" in self.hparams else ""
        return (
            f"{crop}{' '.join(repr(dataset.transform).split())}; decoded at {dataset.at_least} or above; "
            f"seed {dataset.seed}; views {dataset.views}; {versions}"
        )

    def pixels(self, split: Split, position: int) -> torch.Tensor:
        """The photograph as it is evaluated, uint8 (1, 3, H, W). Raises ImageError."""
        batch = collate([self._photographs(split)[0, position]])
        for file, reason in batch["bad"]:
            raise ImageError(file, reason)
        return batch["images"]

    def _training_set(self) -> Photographs:
        asked, size = self.hparams, self.input_size
        if not asked["augment"]:
            return self._photographs("train")
        transform = build_classification_train(
            size,
            asked["min_crop_area"],
            asked["random_erasing"],
            mirror=asked.get("mirror", True),
            hue=asked.get("hue", True),
        )
        at_least = needed_in_training(size, asked["min_crop_area"])
        images = self._splits["train"]
        return Photographs(images, self.answers, type(self).opened, transform, at_least, asked["seed"], asked["views"])

    def _photographs(self, split: str) -> Photographs:
        """As they are evaluated: one view of each."""
        size, fraction = self.evaluated_size, self.hparams["central_fraction"]
        transform, at_least = build_classification_eval(size, fraction), needed_in_evaluation(size, fraction)
        seed = self.hparams["seed"]
        return Photographs(self._splits[split], self.answers, type(self).opened, transform, at_least, seed, views=1)

    def _loader(self, dataset: Any, *, shuffle: bool, everything: bool = False) -> DataLoader:
        """With `everything` the whole of it on this device, and without workers where they would not pay."""
        asked = self.hparams
        return make_loader(
            dataset,
            seed=asked["seed"],
            shuffle=shuffle,
            batch_size=asked["batch_size"],
            num_workers=0 if everything and len(dataset) <= asked["batch_size"] else asked["num_workers"],
            collate=collate,
            trainer=None if everything else self.trainer,
        )


_Rule = tuple[Callable[[Any], bool], str]
_RULES: dict[str, _Rule] = {
    "views": (lambda value: value >= 0, "0 (a new one every epoch) or more"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "num_workers": (lambda value: value >= 0, "0 or more"),
    "val_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "test_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "max_bad_fraction": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "min_crop_area": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "random_erasing": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "central_fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
}
