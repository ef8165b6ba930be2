"""What embeddings are judged by, on plain arrays: how far they are from the teacher's, and who they say is who."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import auc

from backbone.errors import InputError
from data.readers.lfw_pairs import Pairs
from tasks.face_embeddings.verification import (
    best_threshold,
    roc,
    tar_at_far,
    thresholds_by_fold,
    verification_accuracy,
)

FAR = 0.001  # FaceNet's rate of false accepts


class Verification(NamedTuple):
    """How one net tells pairs of one person from pairs of two. Distances are squared, of unit vectors: 0 to 4.

    `figures`: `verification_accuracy` and `verification_accuracy_std` over the folds, NaN where there is but one;
    `tar_at_far_0.001`, the true accept rate at a false accept rate of 0.1 % (Schroff et al. 2015), and `auc`.
    """

    figures: dict[str, float]
    distances: np.ndarray  # (P,)
    thresholds: np.ndarray  # (P,) the largest distance accepted in the pair's fold; the best of all with one fold
    best_threshold: float  # of all pairs; infinite where no distance serves


class Scores(NamedTuple):
    """The outcome of `evaluate`. `student` and `teacher` are None without pairs of both kinds, `cosines` without one.

    `figures`: those of `student`, and of `teacher` as "teacher_..."; `pairs` that were scored; `cosine` and
    `squared_distance`, means over the images of the angle and the distance from the teacher's embedding; and
    `teacher_spread`, the mean squared distance of two images' embeddings, with which that distance is to be compared.
    """

    figures: dict[str, float]
    pairs: Pairs | None  # those scored, by rows of the embeddings
    student: Verification | None
    teacher: Verification | None
    cosines: np.ndarray | None  # (N,)


def evaluate(
    embeddings: np.ndarray,
    pairs: Pairs | None,
    projected: np.ndarray | None = None,
    teacher: np.ndarray | None = None,
) -> Scores:
    """Score embeddings (N, D) of any length by `pairs` of their rows, and by those of the teacher (N, T).

    `projected` (N, T) are the student's in the teacher's space: its own, or a projector's.
    """
    figures = {"images": float(len(embeddings))}
    own = theirs = cosines = None
    if pairs is not None:
        figures["pairs"] = float(pairs.same.size)
        if pairs.same.any() and not pairs.same.all():
            own = verify(embeddings, pairs)
            figures |= own.figures
            if teacher is not None:
                theirs = verify(teacher, pairs)
                figures |= {f"teacher_{name}": value for name, value in theirs.figures.items()}
    if teacher is not None and projected is not None:
        directions = unit(teacher)
        cosines = (unit(projected) * directions).sum(1)
        count = len(cosines)
        # the mean over pairs of two rows: of unit vectors it is twice one less the mean cosine, which their sum has
        others = (np.square(directions.sum(0)).sum() - count) / (count * (count - 1)) if count > 1 else np.nan
        figures |= {
            "cosine": float(cosines.mean()),
            "squared_distance": float((2 - 2 * cosines).mean()),
            "teacher_spread": float(2 - 2 * others),
        }
    return Scores(figures, pairs, own, theirs, cosines)


def verify(embeddings: np.ndarray, pairs: Pairs) -> Verification:
    """Tell pairs of rows of embeddings (N, D) apart by their distance. InputError where one is not finite."""
    directions = unit(embeddings)
    distances = np.square(directions[pairs.first] - directions[pairs.second]).sum(1)
    best = best_threshold(distances, pairs.same)
    mean = deviation = np.nan
    thresholds = np.full(len(distances), best)
    if len(np.unique(pairs.folds)) > 1:
        mean, deviation = verification_accuracy(distances, pairs.same, pairs.folds)
        thresholds = thresholds_by_fold(distances, pairs.same, pairs.folds)
    figures = {
        "verification_accuracy": mean,
        "verification_accuracy_std": deviation,
        f"tar_at_far_{FAR}": tar_at_far(distances, pairs.same, FAR),
        "auc": float(auc(*roc(distances, pairs.same))),
    }
    return Verification(figures, distances, thresholds, best)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) brought to length 1, float64; one of zeros stays so, at distance 1 from all others.

    Raises InputError where one is not finite, as of a diverged net.
    """
    values = embeddings.astype(np.float64)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise InputError(f"the embedding of image {int(np.argmax(bad))} is not finite ({bad.sum()} of {bad.size}).")
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)


def pairs_among(pairs: Pairs, positions: np.ndarray) -> Pairs:
    """Those pairs of which both images are among `positions`, int64 (N,) ascending, with the images' places there."""
    there = np.isin(pairs.first, positions) & np.isin(pairs.second, positions)
    first, second = (np.searchsorted(positions, side[there]) for side in (pairs.first, pairs.second))
    return pairs._replace(first=first, second=second, same=pairs.same[there], folds=pairs.folds[there])
