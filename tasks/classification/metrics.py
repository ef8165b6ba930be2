"""What an image classifier is judged by, on plain numpy: logits and labels in, figures out.

Accuracy with its interval, mean per-class accuracy, the confusion matrix, and how far its probabilities can be trusted
(negative log-likelihood and calibration error, before and after temperature scaling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError

TEMPERATURES = (0.05, 20.0)  # lowest and highest that is looked at

_TOP = 5
_BINS = 15  # of confidence; as in Guo et al. 2017
_Z = 1.959964  # of the normal distribution at 95 %, two-sided
_BLOCK = 2**21  # logits handled at once: ImageNet's 50 million would need 0.4 GB for each copy as float64


class Reliability(NamedTuple):
    """Images by confidence in 15 equal bins (lo, hi]; `confidence` and `accuracy` are means, NaN where no image is."""

    images: np.ndarray  # (15,) int64
    confidence: np.ndarray  # (15,)
    accuracy: np.ndarray  # (15,)


@dataclass(frozen=True)
class Scores:
    """The outcome of `evaluate`. A figure is NaN where there are no images to measure it on.

    `figures`: `top1` with its 95 % interval `top1_low`, `top1_high`; `top5` (of the best min(5, C)); `mean_per_class`,
    the mean recall of the classes that have images; `nll` and `ece` of the softmax as it is, `nll_calibrated` and
    `ece_calibrated` of the softmax of logits / `temperature`; `images`; `classes_without_images`.
    `confusion` (C, C) int64 counts images by truth (row) and answer (column). `images` (C,) counts those of each
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
    rank, answer = np.empty((2, num_images), np.int64)
    surprise, confidence = np.empty((2, 2, num_images))  # of the truth, in nats; of the answer; before and after T
    for rows in tqdm(_blocks(logits), "scoring", disable=None, delay=2, leave=False):
        block, truth = logits[rows].astype(np.float64), labels[rows, None]  # (B, C), (B, 1)
        own = np.take_along_axis(block, truth, axis=1)  # (B, 1)
        ahead = (block > own) | ((block == own) & (np.arange(num_classes) < truth))
        rank[rows] = ahead.sum(axis=1)
        answer[rows] = block.argmax(axis=1)  # the first of equals
        for k, divisor in enumerate((1.0, temperature)):
            best, log_sum = _log_softmax_parts(block, divisor)
            surprise[k, rows] = log_sum - (own - best)[:, 0] / divisor
            confidence[k, rows] = np.exp(-log_sum)

    right = rank == 0
    confusion = np.bincount(labels * num_classes + answer, minlength=num_classes**2).reshape(num_classes, num_classes)
    hits, images, answers = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, precision = _ratio(hits, images), _ratio(hits, answers)
    before, after = reliability(confidence[0], right), reliability(confidence[1], right)
    low, high = wilson_interval(int(right.sum()), num_images)
    figures = {
        "top1": _mean(right),
        "top1_low": low,
        "top1_high": high,
        "top5": _mean(rank < _TOP),
        "mean_per_class": _mean(recall[images > 0]),
        "nll": _mean(surprise[0]),
        "ece": expected_calibration_error(before),
        "temperature": float(temperature),
        "nll_calibrated": _mean(surprise[1]),
        "ece_calibrated": expected_calibration_error(after),
        "images": float(num_images),
        "classes_without_images": float((images == 0).sum()),
    }
    f1 = _ratio(2 * hits, images + answers)
    return Scores(figures, confusion, images, recall, precision, f1, before, after)


def compare(logits: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """A teacher's logits (N, C) beside its student's: how good it is, and how near the student came.

    `teacher_top1` as `evaluate` has it; `teacher_agreement`, the share of images to which both give the same answer;
    `teacher_kl`, the mean divergence of the student's softmax from the teacher's, in nats. Raises InputError as
    `evaluate`.
    """
    top1 = evaluate(teacher, labels).figures["top1"]
    alike, divergence = np.empty((2, len(logits)))
    for rows in tqdm(_blocks(logits), "comparing", disable=None, delay=2, leave=False):
        own, wanted = _log_softmax(logits[rows]), _log_softmax(teacher[rows])  # (B, C)
        alike[rows] = own.argmax(axis=1) == wanted.argmax(axis=1)
        divergence[rows] = (np.exp(wanted) * (wanted - own)).sum(axis=1)
    return {"teacher_top1": top1, "teacher_agreement": _mean(alike), "teacher_kl": _mean(divergence)}


def top_classes(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The best min(5, C) classes of each image (N, k) and their probabilities (N, k), in `evaluate`'s order."""
    count = min(_TOP, logits.shape[1])
    classes, probabilities = np.empty((len(logits), count), np.int64), np.empty((len(logits), count))
    for rows in tqdm(_blocks(logits), "ranking", disable=None, delay=2, leave=False):
        block = logits[rows].astype(np.float64)
        best, log_sum = _log_softmax_parts(block, temperature)
        every = np.arange(len(block))
        for k in range(count):  # five passes cost a fifth of a stable sort, and a partition has no order among equals
            classes[rows, k] = found = block.argmax(axis=1)
            probabilities[rows, k] = np.exp((block[every, found] - best[:, 0]) / temperature - log_sum)
            block[every, found] = -np.inf
    return classes, probabilities


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion by Wilson's score method, NaN without trials.

    Unlike "plus or minus two standard errors" it holds for few trials and near 0 and 1; Newcombe (1998), method 3.
    """
    if trials == 0:
        return np.nan, np.nan
    share = successes / trials
    middle = share + _Z**2 / (2 * trials)
    reach = _Z * np.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    whole = 1 + _Z**2 / trials
    return max(0.0, float((middle - reach) / whole)), min(1.0, float((middle + reach) / whole))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """Sort images by the probability (N,) of their answer, and see how many in each bin are `right` (N,) bool."""
    edges = np.linspace(0, 1, _BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, _BINS - 1)  # edges[k] < c <= edges[k + 1]
    images = np.bincount(place, minlength=_BINS)
    means = (_ratio(np.bincount(place, weights=values, minlength=_BINS), images) for values in (confidence, right))
    return Reliability(images, *means)


def expected_calibration_error(bins: Reliability) -> float:
    """Mean gap between confidence and accuracy, bins weighted by their images: Guo et al. (2017), equation 3."""
    if not bins.images.any():
        return np.nan
    gaps = np.nan_to_num(np.abs(bins.accuracy - bins.confidence))
    return float((bins.images * gaps).sum() / bins.images.sum())


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
    wanted = np.take_along_axis(shifted, labels[:, None], axis=1).mean(dtype=np.float64)

    lowest, highest = np.log(TEMPERATURES)
    with tqdm(desc="fitting the temperature", unit=" tries", disable=None, delay=2, leave=False) as progress:

        def slope(log_t: float) -> float:
            """Over 1 / T, of the mean: the logit expected, less the one wanted, and the pull of log T towards 0."""
            progress.update()
            total = 0.0
            for rows in _blocks(logits):
                weights = np.exp(shifted[rows] * np.float32(np.exp(-log_t)))  # (B, C)
                expected = np.einsum("bc,bc->b", weights, shifted[rows]) / weights.sum(axis=1)  # (B,)
                total += float(expected.sum(dtype=np.float64))
            return (total - log_t * np.exp(log_t)) / len(logits) - wanted

        at_lowest, at_highest = slope(lowest), slope(highest)
        if at_lowest == at_highest == 0:
            return 1.0
        if at_lowest < 0 or at_highest > 0:
            return TEMPERATURES[0] if at_lowest < 0 else TEMPERATURES[1]
        return float(np.exp(brentq(slope, lowest, highest, xtol=1e-5)))


def confused_pairs(confusion: np.ndarray) -> list[ConfusedPair]:
    """Every pair of classes that was confused, the most images first, then the largest share, then by class."""
    wrong = confusion - np.diag(confusion.diagonal())
    images = confusion.sum(axis=1).tolist()
    where = np.nonzero(wrong)
    found = zip(*(part.tolist() for part in where), wrong[where].tolist(), strict=True)
    pairs = [ConfusedPair(truth, answer, count, count / images[truth]) for truth, answer, count in found]
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


def _blocks(logits: np.ndarray) -> list[slice]:
    step = max(1, _BLOCK // logits.shape[1])
    return [slice(k, k + step) for k in range(0, len(logits), step)]


def _log_softmax_parts(block: np.ndarray, divisor: float) -> tuple[np.ndarray, np.ndarray]:
    """`best` (B, 1) and `log_sum` (B,) with log softmax(block / divisor) = (block - best) / divisor - log_sum."""
    best = block.max(axis=1, keepdims=True)
    return best, np.log(np.exp((block - best) / divisor).sum(axis=1))


def _log_softmax(block: np.ndarray) -> np.ndarray:
    """Of logits (B, C), in float64."""
    block = block.astype(np.float64)
    best, log_sum = _log_softmax_parts(block, 1.0)
    return block - best - log_sum[:, None]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole (K,), NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
