"""ImageNet as it is published: class folders to train on, and validation images in one folder whose labels are a list.

The list is Kaggle's `LOC_val_solution.csv`, or the devkit's ground truth. No torch.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from backbone.errors import InputError
from data.folders import is_foreign
from data.images import IMAGE_ENDINGS
from data.readers import image_folder
from data.readers.csv_table import located, packed, read_header, refuse_repeated
from data.records import SPLITS, Records, joined

_BASES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # Kaggle's zip makes the second
_VAL = ("val", "ILSVRC2012_img_val")
_TRAIN = ("train", "ILSVRC2012_img_train")
_CSV = "LOC_val_solution.csv"
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_DEVKITS = ("", "data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12")


class _Found(NamedTuple):
    """Where the parts lie."""

    base: Path
    val: Path
    labels: Path  # of either kind


def is_there(root: Path) -> bool:
    """Whether a list of the validation images' labels is there, and these lie in one folder."""
    return _find(root) is not None


def read(root: Path) -> Records:
    """The training images of the class folders, if they are there, and the validation images of the list.

    Classes are the ids, in order. Raises InputError where the list does not fit.
    """
    found = _find(root)
    if found is None:
        raise InputError(f"{root} has no validation images of ImageNet with a list of their labels.")
    names, ids = _of_csv(found.labels) if found.labels.name == _CSV else _of_devkit(found.labels)
    trained = next((found.base / name for name in _TRAIN if (found.base / name).is_dir()), None)
    train, known = None, tuple[str, ...]()
    if trained is not None:
        train = image_folder.read(trained)
        known = train.classes
    listed, which = np.unique(ids, return_inverse=True)
    words = [word.decode(errors="replace") for word in listed.tolist()]
    classes = (*known, *(word for word in words if word not in set(known)))
    of_name = {name: label for label, name in enumerate(classes)}
    labels = np.array([of_name[word] for word in words], np.int64)[which]
    columns: dict[str, np.ndarray] = {"labels": labels, "split": np.full(len(labels), SPLITS.index("val"), np.int8)}
    val = located(Records(found.val, names, columns, classes=classes), found.labels)
    if train is None:
        return val
    split = np.full(len(train), SPLITS.index("train"), np.int8)
    return replace(joined([train.with_columns(split=split), val]), classes=classes)


def _find(root: Path) -> _Found | None:
    for base in (root / place for place in _BASES):
        for val in (base / name for name in _VAL):
            if not _is_flat(val):
                continue
            above = [base, *base.absolute().parents[:3]]
            places = [folder / _CSV for folder in above]
            places += [folder / place / _TRUTH for folder in above for place in _DEVKITS]
            labels = next((file for file in places if file.is_file()), None)
            if labels is not None:
                return _Found(base, val, labels)
    return None


def _is_flat(folder: Path) -> bool:
    """Whether the first thing in a folder is an image."""
    if not folder.is_dir():
        return False
    first = next((entry for entry in folder.iterdir() if not is_foreign(entry.name)), None)
    return first is not None and first.suffix.lower() in IMAGE_ENDINGS and first.is_file()


def _of_csv(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images and the ids of their classes, bytes (N,): of each row's boxes the first says it."""
    table = read_header(file, f"Kaggle's {_CSV}")
    image, boxes = table.column("ImageId"), table.column("PredictionString")
    if min(image, boxes) < 0:
        raise InputError(f"{file} has no columns ImageId and PredictionString; fetch it again.")
    names, ids = [], []
    for lines, columns in table.chunks():
        words = [cell.split() for cell in columns[boxes]]
        if not all(words):
            line = lines[[bool(one) for one in words].index(False)]
            raise InputError(f"{file}, line {line}: PredictionString is empty; fetch it again.")
        names.append(packed(f"{name.strip()}.JPEG" for name in columns[image]))
        ids.append(packed(one[0] for one in words))
    if not names:
        raise InputError(f"{file} has no rows; fetch it again.")
    refuse_repeated(file, found := np.concatenate(names))
    return found, np.concatenate(ids)


def _of_devkit(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same of the ground truth, whose line i is the number of the class of validation image i, from 1."""
    meta = file.with_name(_META)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        id_of = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
    except (OSError, ValueError, KeyError, NotImplementedError, IndexError, MatReadError) as error:
        raise InputError(
            f"{meta}, which has the ids of the numbers in {file.name}, cannot be read ({error}); unpack the devkit "
            "again."
        ) from error
    numbers = file.read_text("utf-8", errors="replace").split()
    odd = next((i for i, word in enumerate(numbers) if not word.isdecimal() or int(word) not in id_of), None)
    if odd is not None or not numbers:
        where = f", line {odd + 1}: {numbers[odd]!r} is no class of {meta.name}" if odd is not None else " is empty"
        raise InputError(f"{file}{where}; unpack the devkit again.")
    names = packed(f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, len(numbers) + 1))
    return names, packed(id_of[int(word)] for word in numbers)
