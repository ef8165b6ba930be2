"""What a net that places photographs is judged by, on plain numpy: places and the ranks of cells in, figures out.

Distances are haversine on a sphere of 6371.0 km, in float64, and a threshold includes itself. A photograph in a cell
that the partition dropped (label -1) is never in its cell, and counts everywhere but in the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from backbone.errors import InputError
from tasks.geolocalization.sphere import haversine_km

THRESHOLDS_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent
TABLE_11 = {  # of the MobileNet paper: per cent of Im2GPS's 237 photographs within THRESHOLDS_KM
    "Im2GPS": (2.5, 21.9, 32.1, 35.4, 51.9),
    "PlaNet": (11.0, 31.7, 51.1, 64.0, 77.6),  # an Inception-V3 of 52 M; PlaNet's own paper has 8.4 24.5 37.6 53.6 71.3
    "PlaNet MobileNet": (11.4, 31.7, 45.2, 60.3, 79.3),
}
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)  # of the photographs that are answered, in `selective`

_TOP = 5
_BINS = 15  # of confidence; as in Guo et al. 2017
_LEAST = float(np.finfo(np.float32).smallest_subnormal)  # a probability that float32 lost: 103 nats, not infinity


class Ranks(NamedTuple):
    """What `rank_cells` keeps of the probabilities of N photographs, which for many would not fit into memory."""

    rank: np.ndarray  # (N,) int64: how many cells come before the own one; -1 where that was dropped
    probability: np.ndarray  # (N,) of the own cell; NaN where that was dropped
    best: np.ndarray  # (N,) int64: the cell of the highest probability
    confidence: np.ndarray  # (N,) the highest probability


@dataclass(frozen=True)
class Scores:
    """The outcome of `evaluate`. A figure is NaN where there is nothing to measure it on.

    `figures`: `within_1km`, `within_25km`, `within_200km`, `within_750km`, `within_2500km`, the share of photographs
    answered that near; `median_km`, `mean_km`; `geoscore`, the mean of 5000 exp(-distance / 1492.7 km). `cell_top1`,
    `cell_top5`, the share whose own cell is the best, among the best five; `ece`, the calibration error of the best
    cell. `nll`, in nats, over the photographs whose cell was kept; `coverage`, their share. `oracle_within_*km` and
    `oracle_median_km` (NaN if half were dropped) of the answer "the own cell's point"; `baseline_within_*km` and
    `baseline_median_km` of "the most frequent cell's point" whatever is seen. `images`.

    By photograph (N,): `distance_km`; `oracle_km`, infinite in a dropped cell; `labels`; `ranks`.
    """

    figures: dict[str, float]
    distance_km: np.ndarray
    oracle_km: np.ndarray
    labels: np.ndarray
    ranks: Ranks


def rank_cells(probabilities: np.ndarray, labels: np.ndarray) -> Ranks:
    """Where the own cells, labels (N,) in -1..C-1, come among the probabilities (N, C); of equals the lower cell first.

    Raises InputError for probabilities that are not in 0..1, and labels that no cell has.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] == 0:
        raise InputError(f"probabilities have shape {probabilities.shape}; give numbers (photographs, cells).")
    labels = _checked_labels(labels, *probabilities.shape)
    in_range = ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all(axis=1)  # False for NaN too
    if not in_range.all():
        first = int(np.argmin(in_range))
        raise InputError(
            f"probabilities[{first}] hold a value that is not in 0..1 ({(~in_range).sum()} of {len(labels)} "
            "photographs are like this); give a softmax's, and look at that photograph."
        )
    covered, cells = labels >= 0, np.maximum(labels, 0)[:, None]
    own = np.take_along_axis(probabilities, cells, axis=1)  # (N, 1)
    ahead = (probabilities > own) | ((probabilities == own) & (np.arange(probabilities.shape[1]) < cells))
    best = probabilities.argmax(axis=1)  # the first of equals
    confidence = np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0].astype(np.float64)
    rank = np.where(covered, ahead.sum(axis=1), -1)
    return Ranks(rank, np.where(covered, own[:, 0].astype(np.float64), np.nan), best, confidence)


def evaluate(
    places: np.ndarray,
    truth: np.ndarray,
    labels: np.ndarray,
    ranks: Ranks,
    cells_latlng: np.ndarray,
    counts: np.ndarray,
) -> Scores:
    """Score the places (N, 2) answered against the true ones (N, 2), in degrees, latitude first.

    `labels` int (N,) are the photographs' own cells, -1 where dropped; `cells_latlng` (C, 2) the cells' points,
    `counts` (C,) their photographs in training. Raises InputError for coordinates that are none, labels that no cell
    has, shapes that do not fit.
    """
    places, truth, cells_latlng = (
        _checked_places(name, latlng)
        for name, latlng in (("places", places), ("truth", truth), ("cells_latlng", cells_latlng))
    )
    labels = _checked_labels(labels, len(truth), len(cells_latlng))
    if len(places) != len(truth) or len(ranks.rank) != len(truth) or not len(counts) == len(cells_latlng) > 0:
        raise InputError(
            f"there are {len(places)} places, {len(truth)} true ones and {len(ranks.rank)} ranks, {len(cells_latlng)} "
            f"cells and {len(counts)} counts; give one of each a photograph, and a cell."
        )
    covered = labels >= 0
    distance = haversine_km(places, truth)
    oracle = np.where(covered, haversine_km(cells_latlng[labels], truth), np.inf)  # -1 is the last cell, and unused
    baseline = haversine_km(cells_latlng[counts.argmax()], truth)
    right = ranks.rank == 0
    top = (ranks.rank >= 0) & (ranks.rank < _TOP)

    figures = within(distance)
    figures |= {"median_km": _median(distance), "mean_km": _mean(distance), "geoscore": geoscore(distance)}
    figures |= {"cell_top1": _mean(right), "cell_top5": _mean(top), "ece": calibration_error(ranks.confidence, right)}
    figures |= {"nll": _mean(-np.log(np.maximum(ranks.probability[covered], _LEAST))), "coverage": _mean(covered)}
    for name, kilometres in (("oracle", oracle), ("baseline", baseline)):
        figures |= {f"{name}_{figure}": value for figure, value in within(kilometres).items()}
        figures[f"{name}_median_km"] = _median(kilometres)
    figures["images"] = float(len(truth))
    return Scores(figures, distance, oracle, labels, ranks)


def within(distance_km: np.ndarray) -> dict[str, float]:
    """The share of distances (N,) that are at most each of `THRESHOLDS_KM`, as `within_1km` and so on."""
    return {f"within_{limit}km": _mean(distance_km <= limit) for limit in THRESHOLDS_KM}


def geoscore(distance_km: np.ndarray) -> float:
    """Mean of 5000 exp(-distance / 1492.7 km), 5000 at best: as in OSV-5M (Astruc et al. 2024, arXiv 2404.18873)."""
    return _mean(5000 * np.exp(-distance_km / 1492.7))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between confidence (N,) and the share `right` (N,) bool in 15 equal bins (lo, hi], weighted by images.

    Guo et al. (2017), equation 3.
    """
    if len(right) == 0:
        return np.nan
    edges = np.linspace(0, 1, _BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, _BINS - 1)
    return float(np.abs(np.bincount(place, weights=confidence - right)).sum() / len(right))


def selective(distance_km: np.ndarray, confidence: np.ndarray) -> list[dict[str, float]]:
    """How near the answers are if only the surest are given: a row for each of `SHARES`, the rest unanswered.

    A row has the `share` asked for, the `images` answered (those as sure as the last one too), the confidence they are
    answered `from`, `median_km`, and `within_*km`. No rows without images.
    """
    rows = []
    surest = np.sort(confidence)[::-1]
    for share in SHARES if len(surest) else ():
        limit = surest[int(np.ceil(share * len(surest))) - 1]
        answered = distance_km[confidence >= limit]
        row = {"share": share, "images": float(len(answered)), "from": float(limit), "median_km": _median(answered)}
        rows.append(row | within(answered))
    return rows


def _checked_places(name: str, latlng: np.ndarray) -> np.ndarray:
    """Degrees as float64 (N, 2), or InputError."""
    if latlng.ndim != 2 or latlng.shape[1] != 2 or latlng.dtype.kind not in "fiu":
        raise InputError(
            f"{name} have shape {latlng.shape} and type {latlng.dtype}; give latitude and longitude (N, 2) in degrees."
        )
    good = np.isfinite(latlng).all(axis=1) & (np.abs(latlng) <= [90, 180]).all(axis=1)
    if not good.all():
        first = int(np.argmin(good))
        raise InputError(
            f"{name}[{first}] is {latlng[first].tolist()}; give latitude in -90..90, then longitude in -180..180."
        )
    return latlng.astype(np.float64)


def _checked_labels(labels: np.ndarray, num_images: int, num_cells: int) -> np.ndarray:
    """Labels as int64 (N,), or InputError."""
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels have shape {labels.shape} and type {labels.dtype}; give {num_images} whole numbers, one a "
            "photograph."
        )
    out = (labels < -1) | (labels >= num_cells)
    if out.any():
        first = int(np.argmax(out))
        raise InputError(
            f"labels[{first}] is {labels[first]}; a label is a cell, in 0..{num_cells - 1}, or -1 for a dropped one."
        )
    return labels.astype(np.int64)


def _median(values: np.ndarray) -> float:
    """NaN without values, and where the middle is infinite."""
    middle = float(np.median(values)) if len(values) else np.nan
    return middle if np.isfinite(middle) else np.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
