"""Images with attributes, each of which an image has, has not, or nobody said: CelebA, a CSV, unlabelled folders."""

import difflib
import os
from dataclasses import replace
from typing import Any

import numpy as np

from backbone.errors import InputError, check_options
from data.folders import count_of, existing_folder, list_images, say
from data.layouts import read_attributes
from data.module import WholeImageDataModule, part_of, with_unlabelled
from data.readers import celeba
from data.readers.attribute_csv import UNKNOWN
from data.records import Records, Split
from data.splits import assign_splits


class AttributesDataModule(WholeImageDataModule):
    """Images with attributes: CelebA, or a CSV `path,attribute,...`; and any folder of images without labels.

    Args:
        attributes: Names of those to learn, in that order; without them all that the data have.
        subgroups: Names of those by which the model card divides the scored images, learned or not.
        unlabelled: A folder of images without labels, which are added to the training set.
        labelled_fraction: Part of the labelled training images that is used; a smaller part is within a larger one.
        unlabelled_fraction: The same of the unlabelled ones.
        min_crop_area: Smallest part of an image's area in a training crop; a hat that is cut off is still labelled.
        central_fraction: Part of the image's side that is looked at in evaluation, in its middle.

    """

    sample = "faces"
    targets = ("attributes",)

    def __init__(
        self,
        *,
        attributes: list[str] | None = None,
        subgroups: list[str] | None = None,
        unlabelled: str | None = None,
        labelled_fraction: float = 1.0,
        unlabelled_fraction: float = 1.0,
        min_crop_area: float = 0.5,
        central_fraction: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(min_crop_area=min_crop_area, central_fraction=central_fraction, **options)
        labelled = labelled_fraction > 0 or unlabelled is not None
        check_options(
            "data",
            ("attributes", attributes, attributes is None or len(attributes) > 0, "one name or more, or left out"),
            ("labelled_fraction", labelled_fraction, 0 <= labelled_fraction <= 1, "from 0 to 1"),
            ("labelled_fraction", labelled_fraction, labelled, "above 0 where there is no --data.unlabelled"),
            ("unlabelled_fraction", unlabelled_fraction, 0 <= unlabelled_fraction <= 1, "from 0 to 1"),
        )
        self.licence = ""  # a sentence for the model card, where the data's terms bind what is trained on them

    def read(self) -> Records:
        """The data set with the attributes to learn; splits that nobody says are drawn, by person where known."""
        records = self.from_shards("attributes") or read_attributes(self.root)
        if self.source is None:
            records = celeba.without_terms(records)
        self.licence = celeba.LICENCE if celeba.LICENCE in records.notes else ""
        records = assign_splits(records, **self.split_options, source=self.root)
        subgroups, names = self.hparams["subgroups"] or [], self.hparams["attributes"]
        records = records.with_columns(subgroups=records["attributes"][:, _chosen(records, subgroups, "subgroups")])
        if names is None:
            return records
        learned = records.with_columns(attributes=records["attributes"][:, _chosen(records, names, "attributes")])
        return replace(learned, classes=tuple(names))

    def select(self, split: Split) -> Records:
        """The records of a split; of training those that the fractions ask for, and what has no labels."""
        return super().select(split) if split != "train" else self._train()

    def describe(self, records: Records) -> str:
        """How many images, how many of them without labels, and attributes."""
        without = int((records["attributes"] == UNKNOWN).all(1).sum())
        unlabelled = f", {without:,} of them without labels" if without else ""
        return f"{count_of(len(records), 'image')}{unlabelled}, {count_of(len(records.classes), 'attribute')},"

    def need_labels(self, why: str) -> None:
        """Raises InputError, with `why` they are needed, where no training image has a label."""
        attributes = self.records("train")["attributes"]
        if not (attributes != UNKNOWN).any():
            raise InputError(
                f"none of the {len(attributes):,} training images has a label, and some are needed {why}; raise "
                "--data.labelled_fraction, or give data that have them."
            )

    def subgroups(self, split: Split) -> dict[str, np.ndarray]:
        """By each attribute of `--data.subgroups` the labels, int8 (N,), of the N images of a scored split."""
        names = self.hparams["subgroups"] or []
        return dict(zip(names, self.records(split)["subgroups"].T, strict=True))

    def _train(self) -> Records:
        options, records = self.hparams, self.all_records
        train, seed = records.of_split("train"), options["seed"]
        train = train.take(part_of(len(train), options["labelled_fraction"], seed))
        if options["unlabelled"] is None:
            return train
        folder = existing_folder(options["unlabelled"], "--data.unlabelled")
        # Not those trained on with labels, nor those scored: the folder may be the data set's own.
        scored = [records.of_split("val"), records.of_split("test")]
        pool = unused(Records(folder, list_images(folder)), [train, *scored])
        pool = pool.take(part_of(len(pool), options["unlabelled_fraction"], seed))
        if not len(train) + len(pool):
            raise InputError(
                f"--data.labelled_fraction {options['labelled_fraction']:g} and --data.unlabelled_fraction "
                f"{options['unlabelled_fraction']:g} of {folder} leave nothing to train on; raise one of them."
            )
        return with_unlabelled(train, pool)


def unused(records: Records, used: list[Records]) -> Records:
    """Each file of the training images once, and none that is in `used`; a line says how many are left out."""
    paths = _full_paths(records)
    once = np.zeros(len(paths), bool)
    once[np.unique(paths, return_index=True)[1]] = True
    new = once & ~np.isin(paths, np.concatenate([_full_paths(part) for part in used]))
    if not new.all():
        count = f"{(~new).sum():,} of {count_of(len(records), 'image')} in {records.folder}"
        say(f"train: {count} are left out, in use already or scored")
    return records.take(new)


def _full_paths(records: Records) -> np.ndarray:
    """Where each image lies, bytes (N,), the same for one file of two lists; links of folders are followed."""
    folder = os.fsencode(records.folder.resolve())
    return np.array([os.path.normpath(folder + b"/" + name) for name in records.file_names.tolist()], dtype=np.bytes_)


def _chosen(records: Records, names: list[str], option: str) -> list[int]:
    """The positions of the attributes of these names. InputError for one that the records lack, or that comes twice."""
    lower = {name.lower(): name for name in records.classes}
    for name in names:
        if name not in records.classes:
            near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0)
            raise InputError(
                f"--data.{option} has {name!r}, which is not among the data's {len(records.classes)} attributes; "
                f"the nearest is {lower[near[0]]!r}."
            )
        if names.count(name) > 1:
            raise InputError(f"--data.{option} has {name!r} more than once; name it once.")
    return [records.classes.index(name) for name in names]
