"""Faces to learn embeddings from, which needs no labels, and pairs of them, of one person or of two, to judge these by.

Pairs are LFW's list, or drawn, where it is known who is on which image: in ten folds that share nobody, as many of one
person as of two, as LFW has them.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import InputError
from data.attributes import unused
from data.folders import count_of, existing_folder, list_images, say
from data.layouts import read_faces
from data.module import WholeImageDataModule
from data.readers import celeba, lfw_pairs
from data.readers.lfw_pairs import FaceRecords, Pairs
from data.records import Records, Split, joined
from data.splits import assign_splits

FOLDS, PER_FOLD = 10, 300  # LFW's: so many pairs of each kind in a fold


def draw_pairs(people: np.ndarray, seed: int) -> Pairs | None:
    """Pairs of the images of `people`, int64 (N,), -1 where unknown: at most ten folds, 300 of each kind in a fold.

    Everybody is in one fold alone, no pair comes twice, and a fold has as many pairs of one person as of two. None
    where there are too few people for two folds: each needs two, and two images of one of them.
    """
    rng = np.random.default_rng((seed, 3))  # a stream of its own: what draws the splits should say nothing of this
    known = np.flatnonzero(people >= 0)
    names, person, counts = np.unique(people[known], return_inverse=True, return_counts=True)
    num_folds = min(FOLDS, int((counts > 1).sum()), len(names) // 2)
    if num_folds < 2:
        return None
    order = rng.permutation(len(names))
    order = order[np.argsort(counts[order] < 2, kind="stable")]  # who has two images is dealt out first
    fold_of = np.empty(len(names), np.int64)
    fold_of[order] = np.arange(len(names)) % num_folds
    pairs, same, folds = [], [], []
    for fold in range(num_folds):
        mine = rng.permutation(np.flatnonzero(fold_of[person] == fold))
        side_by_side = mine[np.argsort(person[mine], kind="stable")]  # everybody's images
        alike = _neighbours(side_by_side, person, True, rng)
        unlike = _neighbours(mine, person, False, rng)
        count = min(len(alike), len(unlike))
        pairs += [alike[:count], unlike[:count]]
        same += [True] * count + [False] * count
        folds += [fold] * (2 * count)
    first, second = known[np.concatenate(pairs)].T
    return Pairs(first, second, np.array(same), np.array(folds, np.int64))


def _neighbours(order: np.ndarray, person: np.ndarray, same: bool, rng: np.random.Generator) -> np.ndarray:
    """At most 300 pairs (P, 2) out of `order` that are of one person, or of two: of neighbours first, then farther off.

    Not drawn out of all pairs, of which a large set has billions; each image comes about equally often so.
    """
    found = [np.zeros((0, 2), np.int64)]
    enough = PER_FOLD
    for shift in range(1, len(order)):
        pairs = np.stack([order[:-shift], order[shift:]], axis=1)
        pairs = pairs[(person[pairs[:, 0]] == person[pairs[:, 1]]) == same]
        if same and not len(pairs):
            break  # and so none farther off
        found.append(rng.permutation(pairs)[:enough])
        enough -= len(found[-1])
        if not enough:
            break
    return rng.permutation(np.concatenate(found))


class FacePairsDataModule(WholeImageDataModule):
    """Faces to learn embeddings from, and pairs of faces to judge them by; no labels are needed.

    Args:
        unlabelled: A folder of more images to train on; the sample has one of its own.
        pairs: LFW's pairs.txt, which `test` then scores; without it pairs are drawn from the test images, where it is
            known who is on them.
        pairs_root: Folder of the pairs' images, as Jane_Doe/Jane_Doe_0001.jpg.
        image_size: Side of the square input in px, or [height, width].
        min_crop_area: Smallest part of an image's area in a training crop.
        central_fraction: Part of the image's side that is looked at in evaluation, in its middle.

    """

    sample = "faces"

    def __init__(
        self,
        *,
        unlabelled: str | None = None,
        pairs: str | None = None,
        pairs_root: str | None = None,
        image_size: int | list[int] = 160,
        min_crop_area: float = 0.6,
        central_fraction: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            image_size=image_size, min_crop_area=min_crop_area, central_fraction=central_fraction, **options
        )
        if (pairs is None) != (pairs_root is None):
            raise InputError(
                f"--data.pairs is {pairs} and --data.pairs_root {pairs_root}; give the list and the folder of its "
                "images, or neither."
            )

    categories: dict[int, str] = {}  # noqa: RUF012  # an embedding has no names

    def pairs(self, split: Split) -> Pairs | None:
        """The pairs of a split's images; None where nobody knows who is on which."""
        records: Any = self.records(split)
        return records.pairs

    def file(self, split: Split, position: int) -> str:
        """The path of an image, relative to the data set's folder, or to that of the pairs."""
        records = self.records(split)
        if split == "test" and records is self._listed:
            return str(records.path(position).relative_to(records.folder))
        return super().file(split, position)

    def read(self) -> Records:
        """All images, with splits, and with the people on them where these are known."""
        records = self.from_shards("faces") or read_faces(self.root)
        if self.source is None:
            records = celeba.without_terms(records)
        return assign_splits(records, **self.split_options, source=self.root)

    def select(self, split: Split) -> FaceRecords:
        """All images to train on, without those that are scored; or the images of a split with their pairs."""
        if split == "train":
            return self._train()
        if split == "test" and self._listed is not None:
            return self._listed
        records = super().select(split)
        people = records.columns.get("identities")
        pairs = None if people is None else draw_pairs(people, self.hparams["seed"])
        if pairs is None:
            why = "nobody knows who is on these images" if people is None else "too few people are on these images"
            say(f"{split}: {why} to make pairs of them, so that the distance from the teacher alone is measured")
        return _faces(records, pairs)

    def describe(self, records: Any) -> str:
        """How many images, and pairs of them."""
        if records.pairs is None:
            return count_of(len(records), "image")
        same = int(records.pairs.same.sum())
        kinds = f"{count_of(same, 'pair')} of one person and {len(records.pairs.same) - same:,} of two"
        folds = count_of(len(np.unique(records.pairs.folds)), "fold")
        return f"{count_of(len(records), 'image')}, {kinds} in {folds},"

    @cached_property
    def _listed(self) -> FaceRecords | None:
        pairs, folder = self.hparams["pairs"], self.hparams["pairs_root"]
        return None if pairs is None else lfw_pairs.read(Path(pairs), existing_folder(folder, "--data.pairs_root"))

    def _train(self) -> FaceRecords:
        records, listed = self.all_records, self._listed
        more = self.hparams["unlabelled"]
        if more is None and self.source is None:
            more = str(self.root / "unlabelled")
        train = records.of_split("train")
        if more is not None:
            folder = existing_folder(more, "--data.unlabelled")
            train = joined([train, Records(folder, list_images(folder))])
        if not len(train):
            return _faces(train, None)  # which is said for every task
        # Not one twice, nor those scored: a folder may hold the other, and the pairs' lie in either.
        scored = [records.of_split("val"), records.of_split("test"), *([] if listed is None else [listed])]
        train = unused(train, scored)
        if not len(train):
            raise InputError("all training images are among those scored, so that none is left; give others.")
        return _faces(train, None)


def _faces(records: Records, pairs: Pairs | None) -> FaceRecords:
    return FaceRecords(**{**vars(records), "pairs": pairs})
