"""Are two photographs of one person? Judged on pairs by the distance of their embeddings: paper, section 4.7, Table 14.

The protocol is that of Labeled Faces in the Wild (Huang et al. 2007, https://vis-www.cs.umass.edu/lfw/): pairs in ten
folds, the threshold of each fold chosen on the nine others. Pairs at the threshold or nearer count as one person.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbone.errors import InputError


class Pairs(NamedTuple):
    """Pairs of photographs, as files relative to LFW's folder: "Jane_Doe/Jane_Doe_0001.jpg"."""

    first: list[str]  # P files
    second: list[str]  # P files
    same: np.ndarray  # (P,) bool: of one person
    folds: np.ndarray  # (P,) int64 from 0


class Roc(NamedTuple):
    """What each threshold gives, from the one that accepts no pair to the one that accepts all; all (T,)."""

    far: np.ndarray  # false accept rate: share of the pairs of two people that are accepted
    tar: np.ndarray  # true accept rate: share of the pairs of one person that are accepted
    thresholds: np.ndarray  # the largest distance accepted; -inf at first


def read_pairs(file: Path) -> Pairs:
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
    return Pairs(first, second, same, np.repeat(np.arange(num_folds), 2 * count))


def verification_accuracy(distances: np.ndarray, same: np.ndarray, folds: np.ndarray) -> tuple[float, float]:
    """Share of the pairs (P,) told rightly, each fold at the threshold that is best on the others: mean and deviation.

    The deviation is the sample's over the folds (divide by the root of their number for LFW's standard error). A
    threshold lies halfway between two distances; of equally good ones the lowest is taken. Raises InputError for
    distances that are not finite and fewer than two folds.
    """
    distances, same = _checked(distances, same)
    if folds.shape != same.shape:
        raise InputError(f"folds have shape {folds.shape}; give {len(same)}, one a pair.")
    names = np.unique(folds)
    if len(names) < 2:
        raise InputError(f"there are {len(names)} folds; a threshold is chosen on the others, so there must be two.")
    accuracies = []
    for fold in names:
        held_out = folds == fold
        threshold = _best_threshold(distances[~held_out], same[~held_out])
        accuracies.append(((distances[held_out] <= threshold) == same[held_out]).mean())
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))


def roc(distances: np.ndarray, same: np.ndarray) -> Roc:
    """Rates of false and of true accepts at every threshold; pairs (P,) of equal distance are accepted together.

    Raises InputError for distances that are not finite, and without a pair of one person and one of two.
    """
    distances, same = _checked(distances, same)
    if same.all() or not same.any():
        raise InputError(f"{same.sum()} of {len(same)} pairs are of one person; there must be pairs of both kinds.")
    thresholds, hits, alarms = _accepted(distances, same)
    return Roc(alarms / alarms[-1], hits / hits[-1], thresholds)


def tar_at_far(distances: np.ndarray, same: np.ndarray, far: float = 0.001) -> float:
    """The highest rate of true accepts at which the rate of false ones is at most `far`; FaceNet's VAL at a FAR.

    Below one over the number of pairs of two people, no false accept is allowed at all. Raises InputError as `roc`.
    """
    rates = roc(distances, same)
    return float(rates.tar[rates.far <= far].max(initial=0.0))


def _photograph(name: str, number: int) -> str:
    return f"{name}/{name}_{number:04d}.jpg"


def _accepted(distances: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds (T,) rising from -inf over every distance, and how many pairs of one person and of two they accept."""
    order = np.argsort(distances, kind="stable")
    ranked = distances[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal distances the last
    hits = np.append(0, np.cumsum(same[order])[ends])
    return np.append(-np.inf, ranked[ends]), hits, np.append(0, ends + 1) - hits


def _best_threshold(distances: np.ndarray, same: np.ndarray) -> float:
    thresholds, hits, alarms = _accepted(distances, same)
    best = int(np.argmax(hits - alarms))  # right are hits and the pairs of two people less the alarms
    if best in (0, len(thresholds) - 1):
        return -np.inf if best == 0 else np.inf
    here, beyond = thresholds[best], thresholds[best + 1]
    halfway = here + (beyond - here) / 2
    return float(halfway if halfway < beyond else here)


def _checked(distances: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances as float64 (P,) and `same` as bool (P,), or InputError."""
    if distances.ndim != 1 or same.shape != distances.shape or len(same) == 0:
        raise InputError(
            f"distances have shape {distances.shape} and same {same.shape}; give one of each for every pair."
        )
    bad = ~np.isfinite(distances)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(f"distances[{first}] is {distances[first]} ({bad.sum()} of {len(bad)} are not finite).")
    return distances.astype(np.float64), same.astype(bool)
