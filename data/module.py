"""The LightningDataModule of every task: records of a reader in, batches out, of whole images or of images with boxes.

The data of a task are a thin subclass: which reader, which of its records are in a split, and the options of the two.
"""

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from backbone.errors import InputError, check_options
from data import shard_cache
from data.bad_images import BadImages
from data.balance import balanced_draws
from data.folders import count_of, existing_folder, say
from data.images import ImageError, memory_limit, open_image, take_cut_short
from data.loading import fitting_workers, input_size, make_loader, sample_seed, worker_count
from data.overview import counts_in_words
from data.readers import shards
from data.records import SPLITS, UNSPLIT, Records, Split, joined
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
Open = Callable[[Records, int, Size | None], np.ndarray]  # the image at a position, decoded to that size or above


def open_whole(records: Records, position: int, at_least: Size | None = None) -> np.ndarray:
    """The image at `position`, in a shard or a file, uint8 RGB (H, W, 3). Raises ImageError."""
    return open_image(records.path(position), at_least=at_least, content=shards.content_of(records, position))


@dataclass(eq=False)
class WholeImages(Dataset):
    """Samples of whole images: `[(epoch, position)]` gives a dict for `collate`, augmented as a function of both.

    `targets` are the columns of the records of which a sample has its row. With `views` above 0 an image has that many
    views, which take turns by the epoch; at 0 every epoch has a new one.
    """

    records: Records
    targets: Sequence[str]
    opened: Open
    transform: Transform
    at_least: Size
    seed: int
    views: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, position = item
        targets = {name: self.records[name][position] for name in self.targets}
        try:
            image = self.opened(self.records, position, self.at_least)
        except ImageError as error:
            return {"bad": (error.file, error.reason), "targets": targets}
        view = epoch % self.views if self.views else epoch
        pixels = apply_to_image(self.transform, image, sample_seed(self.seed, view, position))
        return {"image": pixels, "targets": targets, "position": position, "view": view}


def collate_images(samples: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What every batch has, and the samples that are in it: bad ones are left out of all but `bad`.

    images uint8 (B, 3, H, W) RGB, channels last in memory; positions (in the split) int64 (B,); bad list of
    (file, reason); cut_short list of (file, how far it goes), of images that are used. Where all are bad, B is 0.
    """
    good = [sample for sample in samples if "bad" not in sample]
    images = np.stack([sample["image"] for sample in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    batch = {
        "images": torch.from_numpy(images).permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W)
        "positions": torch.tensor([sample["position"] for sample in good], dtype=torch.int64),
        "bad": [sample["bad"] for sample in samples if "bad" in sample],
        "cut_short": take_cut_short(),  # in the process that opened them
    }
    return batch, good


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch of whole images: besides `collate_images` each target (B, ...) by its name, and view int64 (B,)."""
    batch, good = collate_images(samples)
    batch["view"] = torch.tensor([sample["view"] for sample in good], dtype=torch.int64)
    read = ["bad" not in sample for sample in samples]
    # of all, and then of the good: a batch of none has the shape and type of the others
    targets = {n: np.stack([sample["targets"][n] for sample in samples])[read] for n in samples[0]["targets"]}
    return batch | {name: torch.from_numpy(rows) for name, rows in targets.items()}


class DataModule(LightningDataModule):
    """Records, and loaders of their batches.

    Args:
        root: Folder of the data set, or its list; without one, the built-in sample, which is drawn once.
        shards: Tar shards that `python -m data.shard` has written, in the place of `root` and with their own splits:
            their folder or URL (s3://, gs://, https://), or some of them as DIR/train-{000000..000123}.tar.
        shard_cache_gb: GB of shards that this machine keeps of those it has fetched; the longest unused go first.
        image_size: Side of the square input in px, or [height, width].
        resolution_mult: The paper's resolution multiplier; 1 keeps `image_size` as it is.
        batch_size: Images in a batch, of all devices together: rate and steps are the same on any number of them.
        num_workers: Processes that load and augment; auto takes what the machine has.
        val_fraction: Part of the training images set aside where the data have no validation split.
        test_fraction: The same for testing.
        test_split: Which images `test` scores.
        max_bad_fraction: A run stops when more than this part of a split's images, and more than 3, cannot be read; at
            0 when any cannot.
        augment: Vary the training images at random.
        seed: Of the order, the augmentation and the splits.

    """

    sample: ClassVar[str]  # the kind of built-in sample that stands in where no root is given
    targets: ClassVar[tuple[str, ...]] = ()  # columns of the records that a batch has
    opened: ClassVar[Any] = staticmethod(open_whole)  # an Open
    beside_root: ClassVar[bool] = False  # whether shards may be trained on while a root is scored
    collate: ClassVar[Any] = staticmethod(collate)

    def __init__(
        self,
        *,
        root: str | None = None,
        shards: str | None = None,
        shard_cache_gb: float = shard_cache.LIMIT_GB,
        image_size: int | list[int] = 224,
        resolution_mult: float = 1.0,
        batch_size: int = 32,
        num_workers: int | Literal["auto"] = "auto",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        test_split: Literal["test", "val", "train", "all"] = "test",
        max_bad_fraction: float = 0.01,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        values, rules = self.hparams, {name: rule for name, rule in _RULES.items() if name in self.hparams}
        check_options("data", *((name, values[name], test(values[name]), rule) for name, (test, rule) in rules.items()))
        self.input_size = input_size(image_size, resolution_mult)  # (height, width) px
        self.num_workers = worker_count(num_workers)
        self.bad_images = BadImages(max_bad_fraction)
        if shards is not None and root is not None and not self.beside_root:
            raise InputError(
                f"--data.shards {shard_cache.shown(shards)} has validation and test images of its own, and there is "
                f"--data.root {root}; give one of the two, and --data.root null for a config's."
            )
        shard_cache.set_limit(shard_cache_gb)
        self._all: Records | None = None
        self._splits: dict[str, Records] = {}

    # --- what a subclass says of its data ---------------------------------------------------------------------------

    def read(self) -> Records:
        """All records of the data set, with a column `split`. Raises InputError."""
        raise NotImplementedError

    def select(self, split: Split) -> Records:
        """The records of a split as a fit or an evaluation takes them: those that the column `split` says."""
        chosen: str = self.hparams["test_split"] if split == "test" else split
        if chosen == "all":
            return self.all_records
        if chosen == "test" and self.tests_on_validation:
            say(f"{self.root} has no test images: testing on its validation images")
            chosen = "val"
        return self.all_records.of_split(chosen)  # type: ignore[arg-type]  # a Split, as "all" is done

    def relabelled(self, records: Records) -> Records:
        """The records with labels as the model counts its classes: those of the data, unless a subclass says."""
        return records

    def describe(self, records: Records) -> str:
        """What to say of a split's records, as "30 images of 3 classes"."""
        return count_of(len(records), "image")

    def dataset(self, split: Split, *, train: bool) -> Any:
        """The samples of a split by (epoch, position), augmented to `train` on."""
        raise NotImplementedError

    @property
    def evaluated_size(self) -> Size:
        """(height, width) px of an image in evaluation, where a net may look at parts of it."""
        return self.input_size

    # --- what every task asks ---------------------------------------------------------------------------------------

    @property
    def split_options(self) -> dict[str, Any]:
        """How splits are drawn where the data say nothing of them, as `assign_splits` takes it."""
        return {name: self.hparams[name] for name in ("val_fraction", "test_fraction", "seed")}

    @property
    def root(self) -> Path:
        """The folder of the data set, or its list. Raises InputError where there is none."""
        root: str | None = self.hparams["root"]
        if root is None and self.hparams["shards"] is not None:
            return Path(shard_cache.shown(self.hparams["shards"]))  # for sentences
        if root is None:
            return built_in_sample(self.sample)
        return Path(root) if Path(root).is_file() else existing_folder(root)

    @property
    def source(self) -> str | None:
        """What the user gave as data; None for the built-in sample."""
        return self.hparams["root"] or self.hparams["shards"]

    def from_shards(self, targets: str) -> Records | None:
        """All images of `--data.shards` with these targets; None where the data are those of the root."""
        return (
            None if self.hparams["root"] or not self.hparams["shards"] else shards.read(self.hparams["shards"], targets)
        )

    @property
    def folder(self) -> Path:
        """The folder that reports name the images from."""
        if self.hparams["root"] is None and self.hparams["shards"] is not None:
            return self.all_records.folder
        return self.root.parent if self.root.is_file() else self.root

    @property
    def all_records(self) -> Records:
        """All records of the data set, read once."""
        if self._all is None:
            self._all = self.read()
        return self._all

    @property
    def _devices(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def device_batch(self) -> int:
        """Images in a batch on each of several devices."""
        return -(-int(self.hparams["batch_size"]) // self._devices)

    @property
    def categories(self) -> dict[int, str]:
        """Number to name of the classes, in the order of the labels."""
        return dict(enumerate(self.all_records.classes))

    @property
    def tests_on_validation(self) -> bool:
        """Whether validation images are among those that `test` scores."""
        chosen = self.hparams["test_split"]
        if chosen == "test":
            return not (self.all_records["split"] == SPLITS.index("test")).any()
        return chosen in ("val", "all")

    def records(self, split: Split) -> Records:
        """The records of a split, after `setup`; positions in batches count these."""
        return self._splits[split]

    def setup(self, stage: str) -> None:
        """Find and check what `stage` needs; print what was found, a line for each split."""
        wanted: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        first = not self._splits
        devices = self._devices
        if stage == "fit" and (batch := self.hparams["batch_size"]) % devices:
            near = max(batch // devices, 1) * devices
            raise InputError(
                f"--data.batch_size {batch} is of all devices together, and {devices} cannot share it evenly; give "
                f"{near} or {near + devices}."
            )
        memory_limit()  # a mistake in it is told before the start
        for split in wanted.get(stage, ()):
            if split in self._splits:
                continue
            records = self.select(split)
            if not len(records):
                records = self._of_no_split(split, stage)
            if not self._splits:
                for line in (*records.notes, *(f"{self.root}: {issue}" for issue in records.issues)):
                    say(line)
            self._splits[split] = records
            counts = f" ({counts_in_words(records)})" if split == "train" and records.classes else ""
            layout = f", read as {records.layout}" if records.layout else ""
            where = shard_cache.shown(records.url) if records.url else records.folder
            say(f"{split}: {self.describe(records)}{counts} in {where}{layout}")
            self.bad_images.start(split, records, len(records))
        if first:  # and not in the validation after a fit, whose loaders have what room there was
            self.num_workers = fitting_workers(
                self.hparams["num_workers"],
                batch_size=self.device_batch,
                image_size=max(self.input_size, self.evaluated_size),
                sizes=[len(records) for records in self._splits.values()],
                processes=self.trainer.num_devices if self.trainer else 1,
            )

    def _of_no_split(self, split: Split, stage: str) -> Records:
        """Where a split is empty, the images of no split, which are too few to be trained on. Raises InputError."""
        everything = self.all_records
        unsplit = everything["split"] == UNSPLIT
        few = f"{self.root} has too few images (by {everything.grouped_by}) to set some aside for validation"
        chosen = self.hparams["test_split"] if split == "test" else split
        if stage != "fit" and unsplit.any() and chosen in ("val", "test"):
            say(f"{few}, so that a fit would be refused: all of them are scored")
            return self.relabelled(everything.take(unsplit))
        if stage == "fit" and (unsplit.any() or split == "val"):
            raise InputError(f"{few} and keep some to train on; add some, or say which image is of which split.")
        if stage == "fit":
            raise InputError(f"{self.root} has no image to train on among those that are there; add some.")
        raise InputError(f"{self.root} has no image in the {split} split; add some, or choose another split.")

    def file(self, split: Split, position: int) -> str:
        """The path of an image, relative to the data set's folder."""
        return os.path.relpath(self._splits[split].path(position), self.folder)

    def image(self, split: Split, position: int) -> np.ndarray:
        """The image as the data have it, uint8 RGB (H, W, 3). Raises ImageError."""
        return type(self).opened(self._splits[split], position, None)

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented, from where the trainer stands: its epoch, and within it after a resume.

        Of images in shards, those that lie together are read together.
        """
        records = self._splits["train"]
        given: dict[str, Any] = {"draws": balanced_draws(records)} if self.hparams.get("balanced") else {}
        if "member" in records.columns and (records["member"][:, 2] >= 0).all():  # else some are files
            given["runs"] = shards.shard_sizes(records)
        loader = self.loader(self.dataset("train", train=self.hparams["augment"]), shuffle=True, **given)
        if records.url:
            sampler: Any = loader.sampler
            sizes = records["member"][np.cumsum(given["runs"]) - 1, 1:].sum(axis=1)  # bytes: where the last image ends
            sampler.ahead = shard_cache.fetcher(
                records.url,
                shards.shard_names(records),
                largest=max(int(sizes[group[:, 0]].sum()) for group in sampler.groups()),
                processes=self.trainer.num_devices if self.trainer else 1,
            )
        return loader

    def val_dataloader(self) -> DataLoader:
        """In the records' order, not augmented; on several devices each once, as `EpochSampler` deals them out."""
        return self.loader(self.dataset("val", train=False), shuffle=False)

    def test_dataloader(self) -> DataLoader:
        """As `val_dataloader`."""
        return self.loader(self.dataset("test", train=False), shuffle=False)

    def loader(self, dataset: Any, *, shuffle: bool, **given: Any) -> DataLoader:
        """The loader of a dataset; `given` as `make_loader` takes it."""
        remote = any(records.url for records in self._splits.values())
        return make_loader(
            dataset,
            seed=self.hparams["seed"],
            shuffle=shuffle,
            batch_size=self.device_batch,
            collate=type(self).collate,
            trainer=self.trainer,
            **{"num_workers": self.num_workers, "timeout": shard_cache.PATIENCE_S if remote else None, **given},
        )


class WholeImageDataModule(DataModule):
    """Records of which a batch has whole images.

    Args:
        views: Augmented views of each training image, which take turns by the epoch, so that a teacher's logits for
            them can be cached; at 0 every epoch has a new one.
        min_crop_area: Smallest part of an image's area in a training crop.
        random_erasing: Part of the training images that lose a random rectangle.
        central_fraction: Part of the image's side that is looked at in evaluation, in its middle.
        interpolation: With which images are resized in evaluation.

    """

    def __init__(
        self,
        *,
        views: int = 0,
        min_crop_area: float = 0.25,
        random_erasing: float = 0.0,
        central_fraction: float = 0.875,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        rule = "0 or 1 where --data.augment is false, as all look the same"
        check_options("data", ("views", views, self.hparams["augment"] or views <= 1, rule))

    def dataset(self, split: Split, *, train: bool) -> WholeImages:
        """The samples of a split: random crops to train on, or the middle of each image."""
        options, views = self.hparams, 1
        if train:
            size, area, views = self.input_size, options["min_crop_area"], options["views"]
            varied = {name: options[name] for name in ("mirror", "hue") if name in options}
            transform = build_classification_train(size, area, options["random_erasing"], **varied)
            at_least = needed_in_training(size, area)
        else:
            size, fraction = self.evaluated_size, options["central_fraction"]
            transform = build_classification_eval(size, fraction, options["interpolation"])
            at_least = needed_in_evaluation(size, fraction)
        opened = type(self).opened
        return WholeImages(self._splits[split], self.targets, opened, transform, at_least, options["seed"], views)

    def pixels(self, split: Split, position: int) -> torch.Tensor:
        """The image as it is evaluated, uint8 (1, 3, H, W). Raises ImageError."""
        batch = collate([self.dataset(split, train=False)[0, position]])
        for file, reason in batch["bad"]:
            raise ImageError(file, reason)
        return batch["images"]

    # --- fixed views, for a teacher whose logits are cached ---------------------------------------------------------

    def train_views(self, view: int, positions: Sequence[int]) -> DataLoader:
        """One view of the training images at `positions`, in that order, and none else on any number of devices.

        It has the pixels that training will see, so that a teacher's logits for it can be cached.
        """
        dataset = self.dataset("train", train=self.hparams["augment"])
        samples = [(view, int(position)) for position in positions]
        few = {"num_workers": 0} if len(samples) <= self.device_batch else {}  # workers would not pay
        return self.loader(dataset, shuffle=False, samples=samples, **few)

    def train_keys(self) -> list[str]:
        """The files of the training set in the order of their positions, relative to the data set's folder."""
        records = self._splits["train"]
        root, folder = (f"{os.path.abspath(path)}/" for path in (self.folder, records.folder))  # noqa: PTH100
        files = [os.path.normpath(folder + os.fsdecode(name)) for name in records.file_names.tolist()]
        # relpath() alone takes seconds for CelebA
        return [file[len(root) :] if file.startswith(root) else os.path.relpath(file, root) for file in files]

    def train_view_transform_id(self) -> str:
        """What decides the pixels of a training view but the file itself: transform, sizes, seed and versions."""
        dataset = self.dataset("train", train=self.hparams["augment"])
        libraries = ("albumentations", "opencv-python-headless", "numpy", "pillow")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
        crop = f"crop {self.hparams['crop']}; " if "crop" in self.hparams else ""
        return (
            f"{crop}{' '.join(repr(dataset.transform).split())}; decoded at {dataset.at_least} or above; "
            f"seed {dataset.seed}; views {dataset.views}; {versions}"
        )


def part_of(size: int, fraction: float, seed: int) -> np.ndarray:
    """The sorted places of a random part of `size`, at least one above 0; with one seed, larger parts hold smaller."""
    count = max(round(fraction * size), 1 if fraction and size else 0)
    return np.sort(np.random.default_rng((seed, 2)).permutation(size)[:count])


def with_unlabelled(records: Records, unlabelled: Records) -> Records:
    """Training records followed by images without labels; a target that these lack is unknown (-1) for them."""
    unknown = {
        name: np.full((len(unlabelled), *rows.shape[1:]), -1, rows.dtype)
        for name, rows in records.columns.items()
        if name not in unlabelled.columns and rows.dtype.kind == "i"
    }
    return joined([records, unlabelled.with_columns(**unknown)])


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "views": (lambda value: value >= 0, "0 (a new one every epoch) or more"),
    "shard_cache_gb": (lambda value: value > 0, "above 0"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "num_workers": (lambda value: value == "auto" or value >= 0, "auto, or 0 or more"),
    "val_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "test_fraction": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "max_bad_fraction": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "min_crop_area": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "random_erasing": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "central_fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "crop_probability": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
}
