"""Are two photographs of one person? Judged on pairs by the distance of their embeddings: paper, section 4.7, Table 14.

The protocol is that of Labeled Faces in the Wild (Huang et al. 2007, https://vis-www.cs.umass.edu/lfw/): pairs in ten
folds, the threshold of each fold chosen on the nine others. Pairs at the threshold or nearer count as one person.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backbone.errors import InputError


class Roc(NamedTuple):
    """What each threshold gives, from the one that accepts no pair to the one that accepts all; all (T,)."""

    far: np.ndarray  # false accept rate: share of the pairs of two people that are accepted
    tar: np.ndarray  # true accept rate: share of the pairs of one person that are accepted
    thresholds: np.ndarray  # the largest distance accepted; -inf at first


def verification_accuracy(distances: np.ndarray, same: np.ndarray, folds: np.ndarray) -> tuple[float, float]:
    """Share of the pairs (P,) told rightly, each fold at the threshold that is best on the others: mean and deviation.

    The deviation is the sample's over the folds (divide by the root of their number for LFW's standard error). Raises
    InputError as `thresholds_by_fold`.
    """
    right = (distances <= thresholds_by_fold(distances, same, folds)) == same
    accuracies = [right[folds == fold].mean() for fold in np.unique(folds)]
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))


def thresholds_by_fold(distances: np.ndarray, same: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """For each pair (P,) the largest distance accepted in its fold: the `best_threshold` of all other folds.

    Raises InputError for distances that are not finite and fewer than two folds.
    """
    distances, same = _checked(distances, same)
    if folds.shape != same.shape:
        raise InputError(f"folds have shape {folds.shape}; give {len(same)}, one a pair.")
    names = np.unique(folds)
    if len(names) < 2:
        raise InputError(f"there are {len(names)} folds; a threshold is chosen on the others, so there must be two.")
    thresholds = np.empty(len(same))
    for fold in names:
        held_out = folds == fold
        thresholds[held_out] = best_threshold(distances[~held_out], same[~held_out])
    return thresholds


def best_threshold(distances: np.ndarray, same: np.ndarray) -> float:
    """The largest distance to accept that tells most of the pairs (P,) rightly, halfway between two of them.

    Of equally good ones the lowest; -inf where none should be accepted and inf where all should.
    """
    thresholds, hits, alarms = _accepted(distances, same)
    best = int(np.argmax(hits - alarms))  # right are hits and the pairs of two people less the alarms
    if best in (0, len(thresholds) - 1):
        return -np.inf if best == 0 else np.inf
    here, beyond = thresholds[best], thresholds[best + 1]
    halfway = here + (beyond - here) / 2
    return float(halfway if halfway < beyond else here)


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


def auc(rates: Roc) -> float:
    """The area under the curve: how often a pair of one person is nearer than one of two, a tie counting one half."""
    return float(np.trapezoid(rates.tar, rates.far))


def _accepted(distances: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds (T,) rising from -inf over every distance, and how many pairs of one person and of two they accept."""
    order = np.argsort(distances, kind="stable")
    ranked = distances[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal distances the last
    hits = np.append(0, np.cumsum(same[order])[ends])
    return np.append(-np.inf, ranked[ends]), hits, np.append(0, ends + 1) - hits


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
