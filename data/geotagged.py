"""Images with the place where each was taken: a CSV, a folder with positions in the EXIF, or tar shards.

A place is told by more than the view: one walk, one camera, one hour's light. So no photographer, sequence or place is
in two splits where a column says whose an image is; elsewhere no day, and what looks like an image that is scored is
not trained on.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from backbone.errors import InputError
from data.folders import count_of
from data.layouts import read_places
from data.module import Size, WholeImageDataModule
from data.readers import shards
from data.readers.coordinates_csv import choose_columns
from data.records import UNSPLIT, Records, Split, joined
from data.splits import assign_splits


def training_records(read: Records, assigned: Records, source: str | Path) -> Records:
    """The training images of `assigned`, which are the images `read` with their splits.

    Where a split was drawn, and by day or image, without those that look like one that is scored: a burst may go on
    past midnight. Raises InputError where none is left.
    """
    train, scored = assigned.of_split("train"), assigned.take(assigned["split"] > 0)
    if not len(train):
        if len(scored):
            return train
        raise InputError(
            f"{source} has too few images (by {read.grouped_by}) to set some aside and keep some to train on; add "
            "some, or say which image is of which split."
        )
    drawn = bool((np.where(read["split"] == UNSPLIT, 0, read["split"]) != assigned["split"]).any())
    if not drawn or read.grouped_by not in ("day", "image"):
        return train
    from data.near_duplicates import without_near_duplicates  # hashing is needed where splits are drawn

    kept, removed = without_near_duplicates(train, scored)
    if not len(kept):
        raise InputError(
            f"every image of {source} to train on looks like one that is set aside; give other images, or say by a "
            "column `split` which is of which."
        )
    note = f"{removed:,} of {count_of(len(train), 'training image')} look like one that is set aside and are left out"
    return replace(kept, notes=(*kept.notes, note)) if removed else kept


def size_for_crops(size: Size) -> Size:
    """The (height, width) px that five crops of `size` are cut from."""
    return round(size[0] * 8 / 7), round(size[1] * 8 / 7)


class GeotaggedDataModule(WholeImageDataModule):
    """Images with places: a CSV `path,latitude,longitude`, or a folder of images with positions in their EXIF.

    Args:
        preset: Whose columns the CSV has: path_lat_lon, yfcc100m, osv5m, mp16, im2gps, geo_clip; else the header tells.
        path_column: Its column of the images' paths, where that is another; a position from 0 where it has no header.
        latitude_column: The same of the latitude, in degrees.
        longitude_column: The same of the longitude.
        group: The same of the photographer, the sequence or the place: no two splits have one. Without it a column of
            such a name; without that images of one day stay together, and what looks like a scored one is not used.
        shards: Tar shards that `python -m data.shard` has written: their folder or URL, or DIR/train-{000..123}.tar.
            Without that command's index a `key.jpg` and a `key.json` with latitude and longitude for each image. With
            `root` too it is they that are trained on, and `root` is for validation, but for its test split.
        mirror: Mirror half of the training images; writing and the side of the road that one drives on are then lost.
        hue: Shift the hue of half of them; soil, leaves and roofs then tell less.
        crops: In evaluation the middle as one crop, or as five of 7/8 its side, its corners and centre.

    """

    sample = "places"
    targets = ("latlng",)
    beside_root = True
    categories: dict[int, str] = {}  # noqa: RUF012  # there are none: what a place is, the partition says

    def __init__(
        self,
        *,
        preset: str | None = None,
        path_column: str | None = None,
        latitude_column: str | None = None,
        longitude_column: str | None = None,
        group: str | None = None,
        mirror: bool = False,
        hue: bool = False,
        crops: Literal[1, 5] = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._columns = choose_columns(preset, path_column, latitude_column, longitude_column, group)

    @property
    def evaluated_size(self) -> Size:
        """(height, width) px of what five crops of the input's size are cut from, or of the input."""
        return size_for_crops(self.input_size) if self.hparams["crops"] == 5 else self.input_size

    @cached_property
    def _unsplit(self) -> Records:
        records = self.from_shards("places")
        if records is None:
            return read_places(self.root, self._columns)
        groups = records.columns.get("group", records.file_names)
        return records.with_columns(group=np.where(groups == b"", records.file_names, groups))

    def read(self) -> Records:
        """All records of the data set, with a column `split`. Raises InputError."""
        # what looks like a scored one is not trained on, and a partition is drawn from the list alone
        return assign_splits(self._unsplit, **self.split_options, source=self.root, find_copies=False)

    @cached_property
    def _of_root(self) -> Records:
        return training_records(self._unsplit, self.all_records, self.root)

    @cached_property
    def _train(self) -> Records:
        pattern: str | None = self.hparams["shards"]
        if pattern is None or not self.hparams["root"]:
            return self._of_root
        records, scored = shards.read(pattern, "places"), self.all_records
        if "split" in records.columns:
            records = records.take(records["split"] <= 0)
        if "group" not in records.columns:
            records = records.with_columns(group=np.zeros(len(records), "S1"))
        summary = (*(f"{pattern}: {issue}" for issue in records.issues), _overlap(records, scored, pattern, self.root))
        return replace(records, issues=scored.issues, notes=(*scored.notes, *summary))

    def select(self, split: Split) -> Records:
        """The records of a split as a fit or an evaluation takes them."""
        chosen: str = self.hparams["test_split"] if split == "test" else split
        if chosen == "all":
            return self._unsplit  # of one day or one author too, of which no split can be drawn
        if chosen == "train":
            return self._train if split == "train" else self._of_root
        records = super().select(split)
        if split == "val" and self.hparams["root"] and self.hparams["shards"]:
            return replace(joined([self._of_root, records]), issues=records.issues)
        return records

    def describe(self, records: Records) -> str:
        """As "30 images in 7 squares of one degree"."""
        places = len(np.unique(np.round(records["latlng"]), axis=0))
        return f"{count_of(len(records), 'image')} in {count_of(places, 'square')} of one degree,"

    def train_latlng(self) -> np.ndarray:
        """Where the training images were taken, float64 (N, 2): what a partition is built from."""
        return self._train["latlng"]

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """Leaves the places where they are looked up; Apple's GPU has no float64."""
        rest = {name: value for name, value in batch.items() if name != "latlng"}
        return {**super().transfer_batch_to_device(rest, device, dataloader_idx), "latlng": batch["latlng"]}


def _overlap(records: Records, scored: Records, pattern: str, source: Path) -> str:
    """How many of the shards' images are of groups that are scored, too: a sentence."""
    alike = f"{pattern} is trained on whether or not an image looks like one of {source}"
    known = records["group"] != b""
    if scored.grouped_by in ("day", "image") or not known.any():
        return f"{alike}, and whether the same photographers took them is not known"
    shared = known & np.isin(records["group"], scored["group"])
    groups = len(np.unique(records["group"][shared]))
    return f"{alike}; {shared.sum():,} of {len(known):,} are of {groups:,} of its groups (by {scored.grouped_by})"
