"""How far probabilities can be trusted: of those that were given 0.8, eight in ten should be right. On plain numpy."""

from typing import NamedTuple

import numpy as np

BINS = 15  # as in Guo et al. 2017


class Reliability(NamedTuple):
    """Predictions by probability in 15 equal bins (lo, hi]; the two means are NaN where a bin is empty."""

    count: np.ndarray  # type: ignore[assignment]  # int64 (15,); hides tuple.count, which nobody needs here
    probability: np.ndarray  # float64 (15,): the mean in the bin
    accuracy: np.ndarray  # float64 (15,): the part that is right


def reliability(probability: np.ndarray, right: np.ndarray) -> Reliability:
    """Sort predictions by their probability, (N,) in 0..1, and see how many in each bin are `right`, bool (N,)."""
    place = _bins(probability)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights=values, minlength=BINS) for values in (probability, right))
    return Reliability(count, *(np.divide(of, count, out=np.full(BINS, np.nan), where=count > 0) for of in sums))


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between probability (N,) and the part that is `right`, bool (N,), bins weighted by their size.

    Guo et al. (2017), https://arxiv.org/abs/1706.04599, equation 3; NaN where N is 0.
    """
    if len(right) == 0:
        return float("nan")
    return float(np.abs(np.bincount(_bins(probability), weights=probability - right)).sum() / len(right))


def _bins(probability: np.ndarray) -> np.ndarray:
    """The bin of each, int64 (N,): edges[k] < probability <= edges[k + 1], and 0 in the first."""
    place = np.searchsorted(np.linspace(0, 1, BINS + 1), probability, side="left") - 1
    return np.clip(place, 0, BINS - 1, out=place)  # in place, as N may be ten million
