"""Do two images show one person? Judged on pairs by the distance of their embeddings: paper, section 4.7, Table 14.

The protocol is that of Labeled Faces in the Wild (Huang et al. 2007, https://vis-www.cs.umass.edu/lfw/): pairs in ten
folds, the threshold of each fold chosen on the nine others. Pairs at the threshold or nearer count as one person.
"""

import numpy as np
from sklearn.metrics import roc_curve
from sklearn.model_selection import LeaveOneGroupOut


def verification_accuracy(distances: np.ndarray, same: np.ndarray, folds: np.ndarray) -> tuple[float, float]:
    """Accuracy on the pairs (P,), each fold at the best threshold of the others: mean and deviation.

    The deviation is the sample's over the folds (divide by the root of their number for LFW's standard error).
    """
    right = (distances <= thresholds_by_fold(distances, same, folds)) == same
    accuracies = [right[folds == fold].mean() for fold in np.unique(folds)]
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))


def thresholds_by_fold(distances: np.ndarray, same: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """For each pair (P,) the largest distance accepted in its fold: the `best_threshold` of all other folds."""
    thresholds = np.empty(len(same))
    for others, held_out in LeaveOneGroupOut().split(distances, groups=folds):
        thresholds[held_out] = best_threshold(distances[others], same[others])
    return thresholds


def best_threshold(distances: np.ndarray, same: np.ndarray) -> float:
    """The largest distance to accept that classifies most of the pairs (P,) correctly, halfway between two of them.

    Of equally good ones the lowest; -inf where none should be accepted and inf where all should. Not of scikit-learn's
    rates, whose rounding would not say which are equally good, and which need pairs of both kinds.
    """
    order = np.argsort(distances, kind="stable")
    ranked = distances[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal distances the last
    hits = np.append(0, np.cumsum(same[order])[ends])  # pairs of one person that each threshold accepts, -inf first
    alarms = np.append(0, ends + 1) - hits  # and pairs of two
    best = int(np.argmax(hits - alarms))  # right are hits and the pairs of two people less the alarms
    if best in (0, len(ends)):
        return -np.inf if best == 0 else np.inf
    here, beyond = ranked[ends[best - 1]], ranked[ends[best]]
    halfway = here + (beyond - here) / 2
    return float(halfway if halfway < beyond else here)


def roc(distances: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The accepted parts of the pairs of two people and of those of one, (T,) each, from no pair to all.

    There must be pairs of both kinds.
    """
    false_accepts, true_accepts, _ = roc_curve(same, -distances, drop_intermediate=False)
    return false_accepts, true_accepts


def tar_at_far(distances: np.ndarray, same: np.ndarray, far: float = 0.001) -> float:
    """The highest true accept rate (TAR) at a false accept rate of at most `far`; FaceNet calls it VAL.

    Below one over the number of pairs of two people, no false accept is allowed at all.
    """
    false_accepts, true_accepts = roc(distances, same)
    return float(true_accepts[false_accepts <= far].max(initial=0.0))
