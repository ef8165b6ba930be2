"""What a net that names face attributes is judged by, on plain numpy: logits and targets in, figures out.

Every attribute is a yes or no of its own; a target is 1 (has it), 0 (has not) or -1 (nobody said), which counts
nowhere. Accuracy saturates where few have an attribute, so average precision is what the paper and we go by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError

_BINS = 15  # of probability; as in Guo et al. 2017
_COMPARED = ("ap", "balanced_accuracy", "f1", "accuracy", "ece")  # of the student and, where there is one, the teacher
_MEANS = {  # figure: the column of `Scores` it is the mean of
    "map": "ap",
    **{name: name for name in (*_COMPARED[1:], "base_rate")},
    "teacher_map": "teacher_ap",
    **{f"teacher_{name}": f"teacher_{name}" for name in _COMPARED[1:]},
}


@dataclass(frozen=True)
class Scores:
    """The outcome of `evaluate`. A figure is NaN where there is nothing to measure it on.

    By attribute, each (K,): `ap`, `balanced_accuracy` and `f1` are NaN without both a positive and a negative image;
    `accuracy`, `base_rate` (the share that has it: the AP of an answer that knows nothing) and `ece` where nothing is
    known; `known` and `positive` count images. The teacher's are None without one, and its decisions fall at the
    student's thresholds; `teacher_agreement` (share of equal decisions) and `teacher_kl` (nats) are over all images, as
    they need no labels.

    `figures`: `map`, `balanced_accuracy`, `f1`, `accuracy`, `ece`, `base_rate` and the teacher's of the first five
    (`teacher_map`), means over the attributes that have a positive and a negative image; `attributes_left_out` of these
    means; `teacher_agreement` and `teacher_kl`, means over all attributes; `images`.
    """

    figures: dict[str, float]
    ap: np.ndarray
    balanced_accuracy: np.ndarray
    f1: np.ndarray
    accuracy: np.ndarray
    base_rate: np.ndarray
    ece: np.ndarray
    known: np.ndarray
    positive: np.ndarray
    teacher_ap: np.ndarray | None = None
    teacher_balanced_accuracy: np.ndarray | None = None
    teacher_f1: np.ndarray | None = None
    teacher_accuracy: np.ndarray | None = None
    teacher_ece: np.ndarray | None = None
    teacher_agreement: np.ndarray | None = None
    teacher_kl: np.ndarray | None = None


def evaluate(
    logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | None = None, teacher: np.ndarray | None = None
) -> Scores:
    """Score logits (N, K) against targets (N, K) of 1, 0 and -1 (unknown), and against a teacher's logits (N, K).

    The answer is yes from the probability in `thresholds` (K,) on, by default 0.5; the teacher's too. Raises
    InputError for logits that are not finite, other targets, shapes that do not fit.
    """
    logits, targets = _checked(logits, targets)
    num_images, num_attributes = logits.shape
    limits = _checked_thresholds(thresholds, num_attributes)
    if teacher is not None:
        teacher = _checked(teacher, targets, "teacher")[0]

    by_attribute = ["base_rate", *_COMPARED]
    if teacher is not None:
        by_attribute += [*(f"teacher_{name}" for name in _COMPARED), "teacher_agreement", "teacher_kl"]
    scores = {name: np.full(num_attributes, np.nan) for name in by_attribute}
    known, positive = (targets >= 0).sum(axis=0), (targets == 1).sum(axis=0)
    for k in tqdm(range(num_attributes), "scoring", disable=None, delay=2, leave=False):
        labelled = targets[:, k] >= 0
        own, truth = logits[:, k], targets[labelled, k] == 1
        probability = probabilities(own)
        said = probability >= limits[k]
        row = _of_one(own[labelled], truth, probability[labelled], said[labelled])
        if teacher is not None:
            wanted = teacher[:, k]
            chance = probabilities(wanted)
            meant = chance >= limits[k]
            of_teacher = _of_one(wanted[labelled], truth, chance[labelled], meant[labelled])
            row |= {f"teacher_{name}": of_teacher[name] for name in _COMPARED if name in of_teacher}
            row["teacher_agreement"] = _mean(said == meant)
            row["teacher_kl"] = _mean(_binary_kl(wanted, own))
        for name, value in row.items():
            scores[name][k] = value

    counted = (positive > 0) & (positive < known)
    figures = {figure: _mean(scores[name][counted]) for figure, name in _MEANS.items() if name in scores}
    figures |= {name: _mean(scores[name]) for name in ("teacher_agreement", "teacher_kl") if name in scores}
    figures |= {"images": float(num_images), "attributes_left_out": float((~counted).sum())}
    return Scores(figures, **scores, known=known, positive=positive)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean precision over the positives, images (N,) from the highest score down; NaN without both kinds of `truth`.

    Images of equal score are taken together, so their order does not matter: scikit-learn's average_precision_score,
    but for its 0 where no image is positive.
    """
    positives = np.count_nonzero(truth)
    if positives in (0, len(truth)):
        return np.nan
    order = np.argsort(-scores, kind="stable")
    ends = _ends_of_runs(scores[order])
    hits = np.cumsum(truth[order])[ends]
    return float((np.diff(hits, prepend=0) * (hits / (ends + 1))).sum() / positives)


def choose_thresholds(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The probability (K,) from which on to answer yes, for the highest F1 of each attribute on these images.

    Choose on other images than are judged. A threshold lies halfway (in logits) between two images; of equally good
    ones it is the nearest to 0.5, which also is that of an attribute without both a positive and a negative image.
    Raises InputError as `evaluate`.
    """
    logits, targets = _checked(logits, targets)
    chosen = np.full(logits.shape[1], 0.5)
    for k in tqdm(range(len(chosen)), "choosing thresholds", disable=None, delay=2, leave=False):
        labelled = targets[:, k] >= 0
        truth = targets[labelled, k] == 1
        positives = np.count_nonzero(truth)
        if positives in (0, len(truth)):
            continue
        order = np.argsort(-logits[labelled, k], kind="stable")
        ranked = logits[labelled, k][order].astype(np.float64)
        probability = probabilities(ranked)
        ends = _ends_of_runs(probability)  # not of logits: above 37 they all have probability 1
        f1 = 2 * np.cumsum(truth[order])[ends] / (ends + 1 + positives)
        after = np.append(ends[:-1] + 1, ends[-1])  # the first image that gets a no; none after the last
        halfway = probabilities((ranked[ends] + ranked[after]) / 2)
        above = np.append(np.nextafter(probability[after[:-1]], 1), 0)
        candidates = np.clip(halfway, above, probability[ends])
        best = candidates[f1 == f1.max()]
        chosen[k] = best[np.argmin(np.abs(best - 0.5))]
    return chosen


def by_subgroup(
    logits: np.ndarray, targets: np.ndarray, group: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """`evaluate`'s figures of the images "with" and "without" an attribute: where `group` (N,) is 1, and where it is 0.

    Their means are over the same attributes, those with a positive and a negative image in either group, or they would
    not compare. AP and F1 still rise with the base rate; balanced accuracy does not. Raises InputError as `evaluate`.
    """
    logits, targets = _checked(logits, targets)
    if group.shape != targets.shape[:1]:
        raise InputError(f"group has shape {group.shape}; give {len(targets)} values, one an image.")
    groups = {"with": group == 1, "without": group == 0}
    in_both = np.all(
        [((targets[rows] == 1).any(axis=0)) & ((targets[rows] == 0).any(axis=0)) for rows in groups.values()], axis=0
    )
    comparable = np.where(in_both, targets, -1)
    return {name: evaluate(logits[rows], comparable[rows], thresholds).figures for name, rows in groups.items()}


def probabilities(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)) as float64, exact at both ends."""
    power = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1, power) / (1 + power)


def _of_one(logits: np.ndarray, truth: np.ndarray, probability: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """The scores of one attribute on the images (N,) of which it is known."""
    row = {
        "ap": average_precision(logits, truth),
        "accuracy": _mean(said == truth),
        "base_rate": _mean(truth),
        "ece": _calibration_error(probability, truth),
    }
    if truth.any() and not truth.all():
        hits = np.count_nonzero(said & truth)
        row["balanced_accuracy"] = (_mean(said[truth]) + _mean(~said[~truth])) / 2
        row["f1"] = 2 * hits / (np.count_nonzero(said) + np.count_nonzero(truth))
    return row


def _calibration_error(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean gap between the probability of yes and the share of yes in 15 equal bins (lo, hi], weighted by images."""
    if len(truth) == 0:
        return np.nan
    edges = np.linspace(0, 1, _BINS + 1)
    place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, _BINS - 1)
    return float(np.abs(np.bincount(place, weights=probability - truth)).sum() / len(truth))


def _binary_kl(wanted: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of the teacher's yes-or-no from the student's, in nats (N,); from logits, as probabilities of 1 lose it."""
    wanted, own = wanted.astype(np.float64), own.astype(np.float64)
    yes = probabilities(wanted) * (np.logaddexp(0, -own) - np.logaddexp(0, -wanted))
    no = probabilities(-wanted) * (np.logaddexp(0, own) - np.logaddexp(0, wanted))
    return np.maximum(yes + no, 0)  # rounding may leave -1e-17


def _ends_of_runs(ranked: np.ndarray) -> np.ndarray:
    """Position of the last of each run of equal values in (N,), N > 0."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))


def _checked(logits: np.ndarray, targets: np.ndarray, name: str = "logits") -> tuple[np.ndarray, np.ndarray]:
    """Logits as float32 (N, K), and targets (N, K), or InputError."""
    if logits.ndim != 2 or logits.shape[1] == 0 or logits.dtype.kind not in "fiu":
        raise InputError(
            f"{name} have shape {logits.shape} and type {logits.dtype}; give numbers (images, attributes)."
        )
    if targets.shape != logits.shape or targets.dtype.kind not in "iu":
        raise InputError(
            f"targets have shape {targets.shape} and type {targets.dtype}, {name} shape {logits.shape}; give whole "
            "numbers, one an image and attribute."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        logits = logits.astype(np.float32, copy=False)
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{name}[{first}] hold a value that is not finite ({bad.sum()} of {len(logits)} images are like this); "
            "look at that image, or train with a lower rate."
        )
    wrong = (targets != 0) & (targets != 1) & (targets != -1)
    if wrong.any():
        image, attribute = np.argwhere(wrong)[0].tolist()
        raise InputError(
            f"targets[{image}, {attribute}] is {targets[image, attribute]}; a target is 1 (has it), 0 (has not) or -1 "
            "(unknown)."
        )
    return logits, targets


def _checked_thresholds(thresholds: np.ndarray | None, num_attributes: int) -> np.ndarray:
    if thresholds is None:
        return np.full(num_attributes, 0.5)
    if thresholds.shape != (num_attributes,) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise InputError(f"thresholds are {thresholds}; give {num_attributes} probabilities in 0..1, one an attribute.")
    return thresholds


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
