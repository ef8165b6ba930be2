"""Faces to learn embeddings from, which needs no labels, and pairs of them, of one person or of two, to judge these by.

Pairs are LFW's list (Huang et al. 2007, https://vis-www.cs.umass.edu/lfw/), or drawn, where it is known who is on which
picture: in ten folds that share nobody, as many of one person as of two, as LFW has them.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from data.attributes import CSV_NAME, AttributeData, AttributeImages, divide, read_attributes
from data.celeba import is_celeba
from data.folders import Split, existing_folder, say
from data.image_list import ImageList, list_pictures, without_used
from data.images import IMAGE_ENDINGS
from data.photographs import PhotographsDataModule

FOLDS, PER_FOLD = 10, 300  # LFW's: so many pairs of each kind in a fold


class ListedPairs(NamedTuple):
    """Pairs of photographs, as files relative to LFW's folder: "Jane_Doe/Jane_Doe_0001.jpg"."""

    first: list[str]  # P files
    second: list[str]  # P files
    same: np.ndarray  # (P,) bool: of one person
    folds: np.ndarray  # (P,) int64 from 0


class Pairs(NamedTuple):
    """Pairs of the images of a list."""

    first: np.ndarray  # int64 (P,) positions
    second: np.ndarray  # int64 (P,) positions
    same: np.ndarray  # bool (P,): of one person
    folds: np.ndarray  # int64 (P,) from 0


@dataclass(frozen=True)
class FaceImages(ImageList):
    """The faces of one split."""

    pairs: Pairs | None = None  # None: in training, and where nobody knows who is on which


# --- pairs that are given -------------------------------------------------------------------------------------------


def read_pairs(file: Path) -> ListedPairs:
    """Read LFW's `pairs.txt`, or a list in its format such as `pairsDevTest.txt`.

    A header of the number of folds (where left out: 1) and n; then, for each fold, n lines `name i j` of one person and
    n lines `name i name j` of two. Raises InputError that names the line.
    """
    try:
        lines = Path(file).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a list of pairs ({error}); give LFW's pairs.txt.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and lines[0].lstrip().startswith("<"):
        raise InputError(f"{file} is a web page, not a list of pairs; download pairs.txt again.")
    header = [int(text) for text in lines[0].split() if text.isdecimal()] if lines else []
    if not lines or len(header) != len(lines[0].split()) or len(header) not in (1, 2) or 0 in header:
        raise InputError(
            f"{file}, line 1 is '{lines[0] if lines else ''}'; it must be the number of folds and of pairs of each "
            "kind in a fold, such as '10 300'."
        )
    num_folds, count = header if len(header) == 2 else [1, *header]
    wanted = 2 * num_folds * count
    if len(lines) - 1 != wanted:
        raise InputError(
            f"{file} ends at line {len(lines)}, but the header '{lines[0].strip()}' promises {wanted + 1} lines; mend "
            "the header or the list."
        )

    first, second = [], []
    same = np.tile(np.repeat([True, False], count), num_folds)
    for number, (line, one_person) in enumerate(zip(lines[1:], same.tolist(), strict=True), start=2):
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        if one_person and len(fields) == 3:
            fields.insert(2, fields[0])
            valid = fields[1].lstrip("0") != fields[3].lstrip("0")
        else:
            valid = not one_person and len(fields) == 4 and fields[0] != fields[2]
        if not valid or not all(fields) or not all(text.isdecimal() and int(text) for text in fields[1::2]):
            form = "'name i j', two photographs of one person" if one_person else "'name i name j', two people"
            raise InputError(f"{file}, line {number} is '{line.strip()}'; it must be {form}, numbered from 1.")
        first.append(_photograph(fields[0], int(fields[1])))
        second.append(_photograph(fields[2], int(fields[3])))
    return ListedPairs(first, second, same, np.repeat(np.arange(num_folds), 2 * count))


def _photograph(name: str, number: int) -> str:
    return f"{name}/{name}_{number:04d}.jpg"


def list_pairs(file: Path, folder: Path) -> FaceImages:
    """The photographs of a list of pairs, each once, sorted by name, and their pairs.

    One that is not there as .jpg is taken by another ending, as aligned copies of LFW have .png. Raises InputError for
    a list that is none, and names the first photograph that is missing.
    """
    listed = read_pairs(file)
    wanted = sorted({*listed.first, *listed.second})
    names: list[bytes] = []
    missing: list[str] = []
    seen: dict[str, dict[str, str]] = {}
    for name in tqdm(wanted, "looking for the pairs", unit=" pictures", delay=2, leave=False):
        person, _, photograph = name.partition("/")
        if person not in seen:
            seen[person] = _pictures(folder / person)
        found = seen[person].get(photograph.removesuffix(".jpg"))
        if found is None:
            missing.append(name)
        else:
            names.append(os.fsencode(f"{person}/{found}"))
    if missing:
        raise InputError(
            f"{len(missing):,} of the {len(wanted):,} photographs of {file} are not in --data.pairs_root {folder}, the "
            f"first being {missing[0]}; give the folder that holds all of them."
        )
    place = {name: i for i, name in enumerate(wanted)}
    first, second = (np.array([place[name] for name in names], np.int64) for names in (listed.first, listed.second))
    return FaceImages(folder, np.array(names), Pairs(first, second, listed.same, listed.folds))


def _pictures(folder: Path) -> dict[str, str]:
    """The pictures right in a folder, by their names without ending; .jpg before others. Listed, as asking is slow."""
    try:
        names = sorted(os.listdir(folder), key=lambda name: (name.endswith(".jpg"), name))  # noqa: PTH208
    except OSError:
        return {}
    parts = (os.path.splitext(name) for name in names)  # noqa: PTH122
    return {stem: stem + ending for stem, ending in parts if ending.lower() in IMAGE_ENDINGS}


# --- pairs that are drawn -------------------------------------------------------------------------------------------


def draw_pairs(people: np.ndarray, seed: int) -> Pairs | None:
    """Pairs of the pictures of `people`, int64 (N,), -1 where unknown: at most ten folds, 300 of each kind in a fold.

    Everybody is in one fold alone, no pair comes twice, and a fold has as many pairs of one person as of two. None
    where there are too few people for two folds: each needs two, and two pictures of one of them.
    """
    rng = np.random.default_rng((seed, 3))  # a stream of its own: what draws the splits should say nothing of this
    known = np.flatnonzero(people >= 0)
    names, person, counts = np.unique(people[known], return_inverse=True, return_counts=True)
    num_folds = min(FOLDS, int((counts > 1).sum()), len(names) // 2)
    if num_folds < 2:
        return None
    order = rng.permutation(len(names))
    order = order[np.argsort(counts[order] < 2, kind="stable")]  # who has two pictures is dealt out first
    fold_of = np.empty(len(names), np.int64)
    fold_of[order] = np.arange(len(names)) % num_folds
    pairs, same, folds = [], [], []
    for fold in range(num_folds):
        mine = rng.permutation(np.flatnonzero(fold_of[person] == fold))
        side_by_side = mine[np.argsort(person[mine], kind="stable")]  # everybody's pictures
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

    Not drawn out of all pairs, of which a large set has billions; each picture comes about equally often so.
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


# --- loading --------------------------------------------------------------------------------------------------------


def read_faces(root: Path, *, val_fraction: float, test_fraction: float, seed: int) -> AttributeData:
    """The faces in `root`: whatever `read_attributes` reads, or else all pictures of the folder, to the bottom.

    Of such a tree it is not known who is on which, and validation and test are drawn by picture.
    """
    if root.is_file() or (root / CSV_NAME).exists() or is_celeba(root):
        return read_attributes(root, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    names = list_pictures(root)
    images = AttributeImages(root, names, np.zeros((len(names), 0), np.int8))
    splits, notes = divide(images, np.zeros(len(images), np.int8), val_fraction, test_fraction, seed, str(root))
    return AttributeData((), splits, tuple(notes))


class FacePairsDataModule(PhotographsDataModule):
    """Faces to learn embeddings from, and pairs of faces to judge them by; no labels are needed.

    Args:
        root: CelebA's folder, a CSV with a column `identity`, or any tree of pictures; without one, the built-in
            sample, which is drawn once. Who is on which picture is used for pairs alone.
        unlabelled: A folder of more pictures to train on; the sample has one of its own.
        pairs: LFW's pairs.txt, which `test` then scores; without it pairs are drawn from the test pictures, where it is
            known who is on them.
        pairs_root: Folder of the pairs' photographs, as Jane_Doe/Jane_Doe_0001.jpg.
        views: Augmented views of each training image, which take turns by the epoch, so that a teacher's answers to
            them can be kept; at 0 every epoch has a new one.
        image_size: Side of the square input in px, or [height, width].
        resolution_mult: The paper's resolution multiplier; 1 keeps `image_size` as it is.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load and augment.
        val_fraction: Part of the training images set aside where there is no validation part.
        test_fraction: The same for testing.
        max_bad_fraction: A run stops when more than this part of a split's images cannot be read.
        augment: Crop, flip, colour and erase the training images.
        min_crop_area: Smallest part of a photograph's area in a training crop.
        random_erasing: Part of the training images that lose a random rectangle.
        central_fraction: Part of the photograph's side that is looked at in evaluation, in its middle.
        seed: Of the order, the augmentation, the split and the pairs.

    """

    answers = ()
    sample = "faces"

    def __init__(
        self,
        root: str | None = None,
        unlabelled: str | None = None,
        pairs: str | None = None,
        pairs_root: str | None = None,
        views: int = 0,
        image_size: int | list[int] = 160,
        resolution_mult: float = 1.0,
        batch_size: int = 32,
        num_workers: int = 2,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        max_bad_fraction: float = 0.01,
        augment: bool = True,
        min_crop_area: float = 0.6,
        random_erasing: float = 0.0,
        central_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.prepare()
        if (pairs is None) != (pairs_root is None):
            raise InputError(
                f"--data.pairs is {pairs} and --data.pairs_root {pairs_root}; give the list and the folder of its "
                "photographs, or neither."
            )
        self.categories: dict[int, str] = {}  # an embedding has no names
        self._found: AttributeData | None = None
        self._listed: FaceImages | None = None
        self._stage = ""

    def setup(self, stage: str) -> None:
        """Finds and checks what `stage` needs, and prints one line for each split."""
        self._stage = stage
        super().setup(stage)

    def pairs(self, split: Split) -> Pairs | None:
        """The pairs of a split's images; None where nobody knows who is on which."""
        return self._splits[split].pairs

    def file(self, split: Split, position: int) -> str:
        """Its path, relative to the data set's folder, or to that of the pairs."""
        if self._listed is not None and self._splits[split] is self._listed:
            return os.fsdecode(self._listed.file_names[position])
        return super().file(split, position)

    def _data(self) -> AttributeData:
        if self._found is None:
            asked = {name: self.hparams[name] for name in ("val_fraction", "test_fraction", "seed")}
            self._found = read_faces(self._root(), **asked)
        return self._found

    def _notes(self) -> tuple[str, ...]:
        if self._stage == "test" and self.hparams["pairs"] is not None:
            return ()  # the pairs need nothing else
        data = self._data()
        terms = () if self.hparams["root"] is None or not data.licence else (data.licence,)  # the sample is nobody's
        return (*data.notes, *terms)

    def _read(self, split: str) -> FaceImages:
        if split == "train":
            return self._train()
        if split == "test" and (listed := self._given_pairs()) is not None:
            return listed
        images = self._data().splits[split]  # type: ignore[index]  # "val" or "test"
        people = images.identities
        pairs = None if people is None else draw_pairs(people, self.hparams["seed"])
        if pairs is None:
            why = "nobody knows who is on these images" if people is None else "too few people are on these images"
            say(f"{split}: {why} to make pairs of them, so that the distance from the teacher alone is measured")
        return FaceImages(images.folder, images.file_names, pairs)

    def _said(self, images: FaceImages) -> str:
        if images.pairs is None:
            return f"{len(images):,} images"
        same = int(images.pairs.same.sum())
        kinds = f"{same:,} pairs of one person and {len(images.pairs.same) - same:,} of two"
        return f"{len(images):,} images, {kinds} in {len(np.unique(images.pairs.folds))} folds,"

    def _given_pairs(self) -> FaceImages | None:
        asked = self.hparams
        if asked["pairs"] is not None and self._listed is None:
            self._listed = list_pairs(Path(asked["pairs"]), existing_folder(asked["pairs_root"], "--data.pairs_root"))
        return self._listed

    def _train(self) -> FaceImages:
        splits, listed = self._data().splits, self._given_pairs()
        more = self.hparams["unlabelled"]
        if more is None and self.hparams["root"] is None:
            more = str(self._root() / "unlabelled")
        images = FaceImages(splits["train"].folder, splits["train"].file_names)
        if more is not None:
            folder = existing_folder(more, "--data.unlabelled")
            images = FaceImages.joined([images, FaceImages(folder, list_pictures(folder))])
        # Not one twice, nor those scored: a folder may hold the other, and the pairs' lie in either.
        images = without_used(images, [part for part in (splits["val"], splits["test"], listed) if part is not None])
        if not len(images):
            raise InputError("all training images are among those scored, so that none is left; give others.")
        return images
