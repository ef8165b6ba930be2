"""What a net that names face attributes is judged by, on plain arrays: logits and targets in, figures out.

Every attribute is a yes or no of its own; a target is 1 (has it), 0 (has not) or -1 (unknown), which counts nowhere.
Accuracy saturates where few have an attribute, so average precision is what the paper and we go by.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from backbone.errors import InputError
from tasks.calibration import calibration_error

_COMPARED = ("ap", "balanced_accuracy", "f1", "accuracy", "ece")  # of the student and, where there is one, the teacher


class Scores(NamedTuple):
    """The outcome of `evaluate`. A figure is NaN where there is nothing to measure it on.

    `by_attribute`, each (K,): `ap`, `balanced_accuracy` and `f1` are NaN without both a positive and a negative image;
    `accuracy`, `base_rate` (the part that has it: the AP of guessing) and `ece` where nothing is known; `known` and
    `positive` count images. With a teacher the same as `teacher_ap` and so on, decided at the student's thresholds;
    `teacher_agreement` (part of equal decisions) and `teacher_kl` (nats) are over all images, as they need no labels.

    `figures`: `map`, `balanced_accuracy`, `f1`, `accuracy`, `ece`, `base_rate` and the teacher's of the first five
    (`teacher_map`), means over the attributes that have a positive and a negative image; `attributes_left_out` of these
    means; `teacher_agreement` and `teacher_kl`, means over all attributes; `images`.
    """

    figures: dict[str, float]
    by_attribute: dict[str, np.ndarray]


def evaluate(
    logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, teacher: np.ndarray | None = None
) -> Scores:
    """Score logits (N, K) against targets (N, K) of 1, 0 and -1 (unknown), and against a teacher's logits (N, K).

    The prediction is yes from the probability in `thresholds` (K,) on; the teacher's too. Raises InputError for logits
    that are not finite.
    """
    logits, teacher = check_finite(logits), None if teacher is None else check_finite(teacher, "teacher")
    known, positive = (targets >= 0).sum(axis=0), (targets == 1).sum(axis=0)
    rows = []
    for k in tqdm(range(logits.shape[1]), "scoring", disable=None, delay=2, leave=False):
        labelled = targets[:, k] >= 0
        own, truth = logits[:, k], targets[labelled, k] == 1
        rows.append(_of_one(own[labelled], truth, thresholds[k]))
        if teacher is not None:
            theirs = teacher[:, k]
            of_teacher = _of_one(theirs[labelled], truth, thresholds[k])
            rows[-1] |= {f"teacher_{name}": of_teacher[name] for name in _COMPARED}
            alike = (expit(own) >= thresholds[k]) == (expit(theirs) >= thresholds[k])
            rows[-1] |= {"teacher_agreement": _mean(alike), "teacher_kl": _mean(_binary_kl(theirs, own))}

    by_attribute = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    counted = (positive > 0) & (positive < known)
    over_all = ("teacher_agreement", "teacher_kl")
    figures = {
        name.removesuffix("ap") + "map" if name.endswith("ap") else name: _mean(
            values if name in over_all else values[counted]
        )
        for name, values in by_attribute.items()
    }
    figures |= {"images": float(len(logits)), "attributes_left_out": float((~counted).sum())}
    return Scores(figures, {**by_attribute, "known": known, "positive": positive})


def _of_one(logits: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, float]:
    """The scores of one attribute on the images (N,) of which it is known."""
    probability = expit(logits)
    decided = probability >= threshold
    positives, yes, hits = np.count_nonzero(truth), np.count_nonzero(decided), np.count_nonzero(decided & truth)
    negatives = len(truth) - positives
    row = dict.fromkeys(_COMPARED, np.nan)
    row |= {"accuracy": _mean(decided == truth), "ece": calibration_error(probability, truth)}
    if positives and negatives:
        row["ap"] = _average_precision(logits, truth)
        row["balanced_accuracy"] = (hits / positives + 1 - (yes - hits) / negatives) / 2
        row["f1"] = 2 * hits / (yes + positives)
    return {**row, "base_rate": _mean(truth)}


def _average_precision(logits: np.ndarray, truth: np.ndarray) -> float:
    """Precision at each distinct logit, weighted by the recall gained there: scikit-learn's definition.

    Written here, as scikit-learn checks and copies its input for each figure: of 200,000 x 40 that takes longer than
    the figures.
    """
    order = np.argsort(-logits)
    ranked, right = logits[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last of each run of equals
    gained = np.diff(right[ends], prepend=0)
    return float(np.sum(gained * (right[ends] / (ends + 1))) / right[-1])


def choose_thresholds(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The probability (K,) from which on to predict yes, for the highest F1 of each attribute on these images.

    Choose on other images than are judged. A threshold lies halfway (in logits) between two images; of equally good
    ones it is the nearest to 0.5, which also is that of an attribute without both a positive and a negative image.
    Not scikit-learn's precision_recall_curve, whose rounded rates do not say which thresholds are equally good. Raises
    InputError as `evaluate`.
    """
    logits = check_finite(logits)
    chosen = np.full(logits.shape[1], 0.5)
    for k in tqdm(range(len(chosen)), "choosing thresholds", disable=None, delay=2, leave=False):
        labelled = targets[:, k] >= 0
        truth = targets[labelled, k] == 1
        positives = np.count_nonzero(truth)
        if positives in (0, len(truth)):
            continue
        order = np.argsort(-logits[labelled, k], kind="stable")
        ranked = logits[labelled, k][order]
        probability = expit(ranked)
        # the last of each run of equals; not of logits: above 37 they all have probability 1
        ends = np.flatnonzero(np.append(probability[1:] != probability[:-1], True))
        f1 = 2 * np.cumsum(truth[order])[ends] / (ends + 1 + positives)
        after = np.append(ends[:-1] + 1, ends[-1])  # the first image that gets a no; none after the last
        halfway = expit((ranked[ends] + ranked[after]) / 2)
        above = np.append(np.nextafter(probability[after[:-1]], 1), 0)
        candidates = np.clip(halfway, above, probability[ends])
        best = candidates[f1 == f1.max()]
        chosen[k] = best[np.argmin(np.abs(best - 0.5))]
    return chosen


def by_subgroup(
    logits: np.ndarray, targets: np.ndarray, group: np.ndarray, thresholds: np.ndarray
) -> dict[str, dict[str, float]]:
    """`evaluate`'s figures of the images "with" and "without" an attribute: where `group` (N,) is 1, and where it is 0.

    Their means are over the same attributes, those with a positive and a negative image in either group, or they would
    not compare. AP and F1 still rise with the base rate; balanced accuracy does not.
    """
    groups = {"with": group == 1, "without": group == 0}
    in_both = np.all(
        [((targets[rows] == 1).any(axis=0)) & ((targets[rows] == 0).any(axis=0)) for rows in groups.values()], axis=0
    )
    comparable = np.where(in_both, targets, -1)
    return {name: evaluate(logits[rows], comparable[rows], thresholds).figures for name, rows in groups.items()}


def check_finite(logits: np.ndarray, name: str = "logits") -> np.ndarray:
    """The logits (N, K) as float64. Raises InputError where one is not finite, as of a diverged net."""
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise InputError(
            f"{name}[{int(np.argmax(bad))}] has a value that is not finite ({bad.sum()} of {len(logits)} images are "
            "like this); look at that image, or train with a lower rate."
        )
    return logits.astype(np.float64)


def _binary_kl(teacher: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of the teacher's yes-or-no from the student's, in nats (N,); from logits, as probabilities of 1 lose it."""
    yes = expit(teacher) * (np.logaddexp(0, -own) - np.logaddexp(0, -teacher))
    no = expit(-teacher) * (np.logaddexp(0, own) - np.logaddexp(0, teacher))
    return np.maximum(yes + no, 0)  # rounding may leave -1e-17


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
