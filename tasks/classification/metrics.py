"""What an image classifier is judged by, on plain numpy: logits and labels in, figures out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax
from tqdm import tqdm

from backbone.errors import InputError
from tasks.calibration import Reliability, calibration_error, reliability

TEMPERATURES = (0.05, 20.0)  # lowest and highest that is looked at

_TOP = 5
_BLOCK = 2**21  # logits handled at once: ImageNet's 50 million would need 0.4 GB for each copy as float64


@dataclass(frozen=True)
class Scores:
    """The outcome of `evaluate`. A figure is NaN where there are no images to measure it on.

    `figures`: `top1` with its 95 % interval `top1_low`, `top1_high`; `top5`, of more than five classes;
    `mean_per_class`, the mean recall of the classes that have images; `nll` and `ece` of the softmax as it is,
    `nll_calibrated` and `ece_calibrated` of the softmax of logits / `temperature`; `images`; `classes_without_images`.
    `confusion` (C, C) int64 counts images by truth (row) and prediction (column). `images` (C,) counts those of each
    class; `recall`, `precision`, `f1` (C,) are NaN where they would be 0 / 0. `before` and `after` the temperature.
    """

    figures: dict[str, float]
    confusion: np.ndarray
    images: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    f1: np.ndarray
    before: Reliability
    after: Reliability


class ConfusedPair(NamedTuple):
    """`images` of class `truth` were taken for class `predicted`: `share` in (0, 1] of all that class has."""

    truth: int
    predicted: int
    images: int
    share: float


def evaluate(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Scores:
    """Score logits (N, C) against labels (N,) in 0..C-1.

    Of equal logits the lower class goes first: an image's rank is the number of classes above its truth, plus those of
    a lower index level with it. So a net that says the same of every class is right on class 0 alone. Raises
    InputError for logits that are not finite, labels out of range, a temperature not above 0.
    """
    logits, labels = _checked(logits, labels)
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature is {temperature}; give a number above 0, such as fit_temperature's.")
    num_images, num_classes = logits.shape
    rank, predicted = np.empty((2, num_images), np.int64)
    nll, confidence = np.empty((2, 2, num_images))  # of the truth, in nats; of the prediction; before and after T
    for rows in _blocks(logits, "scoring"):
        block, truth = logits[rows].astype(np.float64), labels[rows, None]  # (B, C), (B, 1)
        own = np.take_along_axis(block, truth, axis=1)  # (B, 1)
        # not sklearn's top_k_accuracy_score, which has no rule for equal logits
        rank[rows] = ((block > own) | ((block == own) & (np.arange(num_classes) < truth))).sum(axis=1)
        predicted[rows] = block.argmax(axis=1)  # the first of equals
        for k, divisor in enumerate((1.0, temperature)):
            log_probabilities = log_softmax(block / divisor, axis=1)
            nll[k, rows] = -np.take_along_axis(log_probabilities, truth, axis=1)[:, 0]
            confidence[k, rows] = np.exp(log_probabilities.max(axis=1))

    right = rank == 0
    # not sklearn's confusion_matrix, which takes several times as long at 1,000 classes
    confusion = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, -1)
    hits, images, predictions = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = _ratio(hits, images)
    low, high = wilson_interval(int(right.sum()), num_images)
    figures = {
        "top1": _mean(right),
        "top1_low": low,
        "top1_high": high,
        **({"top5": _mean(rank < _TOP)} if num_classes > _TOP else {}),  # of five or fewer it is 1, whatever the net
        "mean_per_class": _mean(recall[images > 0]),
        "nll": _mean(nll[0]),
        "ece": calibration_error(confidence[0], right),
        "temperature": float(temperature),
        "nll_calibrated": _mean(nll[1]),
        "ece_calibrated": calibration_error(confidence[1], right),
        "images": float(num_images),
        "classes_without_images": float((images == 0).sum()),
    }
    precision, f1 = _ratio(hits, predictions), _ratio(2 * hits, images + predictions)
    before, after = (reliability(one, right) for one in confidence)
    return Scores(figures, confusion, images, recall, precision, f1, before, after)


def compare(logits: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """A teacher's logits (N, C) beside its student's: how good it is, and how near the student came.

    `teacher_top1` as `evaluate` has it; `teacher_agreement`, the share of images for which both predict the same class;
    `teacher_kl`, the mean divergence of the student's softmax from the teacher's, in nats. Raises InputError as
    `evaluate`.
    """
    top1 = evaluate(teacher, labels).figures["top1"]
    agree, divergence = np.empty((2, len(logits)))
    for rows in _blocks(logits, "comparing"):
        own, target = (log_softmax(part[rows].astype(np.float64), axis=1) for part in (logits, teacher))  # (B, C)
        agree[rows] = own.argmax(axis=1) == target.argmax(axis=1)
        divergence[rows] = (np.exp(target) * (target - own)).sum(axis=1)
    return {"teacher_top1": top1, "teacher_agreement": _mean(agree), "teacher_kl": _mean(divergence)}


def top_classes(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The best min(5, C) classes of each image (N, k) and their probabilities (N, k), in `evaluate`'s order."""
    count = min(_TOP, logits.shape[1])
    classes, probabilities = np.empty((len(logits), count), np.int64), np.empty((len(logits), count))
    for rows in _blocks(logits, "ranking"):
        block = log_softmax(logits[rows].astype(np.float64) / temperature, axis=1)
        every = np.arange(len(block))
        for k in range(count):  # five passes cost a fifth of a stable sort, and a partition has no order among equals
            classes[rows, k] = best = block.argmax(axis=1)
            probabilities[rows, k] = np.exp(block[every, best])
            block[every, best] = -np.inf
    return classes, probabilities


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion by Wilson's score method, NaN without trials.

    Unlike "plus or minus two standard errors" it holds for few trials and near 0 and 1; Newcombe (1998), method 3.
    """
    from scipy.stats import binomtest  # here: slow to import

    if trials == 0:
        return np.nan, np.nan
    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(low), float(high)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T within `TEMPERATURES` for which softmax(logits / T) gives the labels the least negative log-likelihood.

    Temperature scaling after Guo et al. (2017), section 4.2; fit it on other images than it is judged on. Half the
    square of log T is added to the sum over the images: a small set without an error would ask for T = 0, and a large
    one does not notice. So T is 1 where every T is as good. Raises InputError as `evaluate`.
    """
    from scipy.optimize import brentq  # here: slow to import, and only needed once in a run

    logits, labels = _checked(logits, labels)
    if len(logits) == 0:
        return 1.0
    shifted = logits - logits.max(axis=1, keepdims=True)  # (N, C), so that exp() cannot overflow
    target = np.take_along_axis(shifted, labels[:, None], axis=1).mean(dtype=np.float64)

    def slope(log_t: float) -> float:
        """Over 1 / T, of the mean: the logit expected, less that of the label, and the pull of log T towards 0."""
        total = 0.0
        for rows in _blocks(logits, "fitting the temperature"):
            weights = np.exp(shifted[rows] * np.float32(np.exp(-log_t)))  # (B, C)
            expected = np.einsum("bc,bc->b", weights, shifted[rows]) / weights.sum(axis=1)  # (B,)
            total += float(expected.sum(dtype=np.float64))
        return (total - log_t * np.exp(log_t)) / len(logits) - target

    lowest, highest = np.log(TEMPERATURES)
    at_lowest, at_highest = slope(lowest), slope(highest)
    if at_lowest == at_highest == 0:
        return 1.0
    if at_lowest < 0 or at_highest > 0:
        return TEMPERATURES[0] if at_lowest < 0 else TEMPERATURES[1]
    return float(np.exp(brentq(slope, lowest, highest, xtol=1e-5)))


def confused_pairs(confusion: np.ndarray) -> list[ConfusedPair]:
    """Every pair of classes that was confused, the most images first, then the largest share, then by class."""
    images = confusion.sum(axis=1).tolist()
    wrong = np.argwhere(confusion * (1 - np.eye(len(confusion), dtype=int))).tolist()
    counts = [int(confusion[truth, predicted]) for truth, predicted in wrong]
    pairs = [ConfusedPair(t, p, count, count / images[t]) for (t, p), count in zip(wrong, counts, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair.images, -pair.share, pair.truth, pair.predicted))


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits as float32 (N, C) and labels as int64 (N,), or InputError."""
    if logits.ndim != 2 or logits.shape[1] == 0 or logits.dtype.kind not in "fiu":
        raise InputError(f"logits have shape {logits.shape} and type {logits.dtype}; give numbers (images, classes).")
    if labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels have shape {labels.shape} and type {labels.dtype}; give {len(logits)} whole numbers, one an image."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        logits = logits.astype(np.float32, copy=False)
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"logits[{first}] hold a value that is not finite ({bad.sum()} of {len(logits)} images are like this); "
            "look at that image, or train with a lower rate."
        )
    out = (labels < 0) | (labels >= logits.shape[1])
    if out.any():
        first = int(np.argmax(out))
        raise InputError(f"labels[{first}] is {labels[first]}; a label is in 0..{logits.shape[1] - 1}, as the logits.")
    return logits, labels.astype(np.int64)


def _blocks(logits: np.ndarray, doing: str) -> tqdm:
    """Slices of rows, with a progress bar where they take long."""
    step = max(1, _BLOCK // logits.shape[1])
    slices = [slice(k, k + step) for k in range(0, len(logits), step)]
    return tqdm(slices, doing, disable=None, delay=2, leave=False)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole (K,), NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
