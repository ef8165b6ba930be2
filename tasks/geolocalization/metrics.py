"""How near predicted positions are, and how often the right cell is found, on plain numpy.

Distances are haversine on a sphere of 6371.0 km, in float64, and a threshold includes itself. An image in a cell that
the partition dropped (label -1) is never in its cell, and counts everywhere but in the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from backbone.errors import InputError
from tasks.calibration import calibration_error
from tasks.geolocalization.cells import Partition
from tasks.geolocalization.sphere import haversine_km

THRESHOLDS_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent
TABLE_11 = {  # of the MobileNet paper: per cent of Im2GPS's 237 images within THRESHOLDS_KM
    "Im2GPS": (2.5, 21.9, 32.1, 35.4, 51.9),
    "PlaNet": (11.0, 31.7, 51.1, 64.0, 77.6),  # an Inception-V3 of 52 M; PlaNet's own paper has 8.4 24.5 37.6 53.6 71.3
    "PlaNet MobileNet": (11.4, 31.7, 45.2, 60.3, 79.3),
}
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)  # of the images that are predicted, in `selective`

_CHUNK = 1 << 17  # images whose cells and distances are computed at once: ten million take what is returned, and little
_TOP = 5
_LEAST = float(np.finfo(np.float32).smallest_subnormal)  # a probability that float32 lost: 103 nats, not infinity


class Ranks(NamedTuple):
    """What `rank_cells` keeps of the probabilities of N images, which for many would not fit into memory."""

    rank: np.ndarray  # (N,) integers: how many cells come before the own one; -1 where that was dropped
    probability: np.ndarray  # (N,) of the own cell; NaN where that was dropped
    best: np.ndarray  # (N,) integers: the cell of the highest probability
    confidence: np.ndarray  # (N,) the highest probability


@dataclass(frozen=True)
class Scores:
    """The outcome of `evaluate`. A figure is NaN where there is nothing to measure it on.

    `figures`: `within_1km`, `within_25km`, `within_200km`, `within_750km`, `within_2500km`, the share of images placed
    that near; `median_km`, `mean_km`; `geoscore`, the mean of 5000 exp(-distance / 1492.7 km). `cell_top1`,
    `cell_top5`, the share whose own cell is the best, among the best five; `ece`, the calibration error of the best
    cell. `nll`, in nats, over the images whose cell was kept; `coverage`, their share. `oracle_within_*km` and
    `oracle_median_km` (NaN if half were dropped) of predicting the own cell's point; `baseline_within_*km` and
    `baseline_median_km` of predicting the most frequent cell's point whatever is seen. `images`.

    By image (N,): `latlng` (N, 2) predicted and `truth` (N, 2), in degrees; `distance_km`; `oracle_km`, infinite in a
    dropped cell; `baseline_km`; `labels`, the own cells; `ranks`.
    """

    figures: dict[str, float]
    latlng: np.ndarray
    truth: np.ndarray
    distance_km: np.ndarray
    oracle_km: np.ndarray
    baseline_km: np.ndarray
    labels: np.ndarray
    ranks: Ranks


def rank_cells(probabilities: np.ndarray, labels: np.ndarray) -> Ranks:
    """Where the own cells, labels (N,) in -1..C-1, come among the probabilities (N, C); of equals the lower cell first.

    Raises InputError for probabilities that are not in 0..1, as after a training that went wrong.
    """
    best = probabilities.argmax(axis=1)  # the first of equals, or of NaN
    confidence = np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0]
    in_range = (probabilities.min(axis=1) >= 0) & (confidence <= 1 + 1e-5)  # False for NaN too
    if not in_range.all():
        raise InputError(
            f"the probabilities of {(~in_range).sum()} of {len(labels)} images are not in 0..1; train again, with a "
            "lower --model.lr."
        )
    covered, cells = labels >= 0, np.maximum(labels, 0)[:, None]
    own = np.take_along_axis(probabilities, cells, axis=1)  # (N, 1)
    rank = np.count_nonzero(probabilities > own, axis=1)
    tied = np.flatnonzero(np.count_nonzero(probabilities >= own, axis=1) > rank + 1)  # few: the own cell is one itself
    before = np.arange(probabilities.shape[1]) < cells[tied]
    rank[tied] += np.count_nonzero((probabilities[tied] == own[tied]) & before, axis=1)
    probability = np.where(covered, own[:, 0].astype(np.float64), np.nan)
    return Ranks(np.where(covered, rank, -1), probability, best, confidence.astype(np.float64))


def evaluate(latlng: np.ndarray, truth: np.ndarray, ranks: Ranks, cells: Partition) -> Scores:
    """Score the positions (N, 2) predicted against the true ones (N, 2), in degrees; `ranks` are of their own cells."""
    points, most = cells.latlng, cells.counts.argmax()
    labels, (distance, oracle, baseline) = np.empty(len(truth), np.int32), np.empty((3, len(truth)))
    for start in range(0, len(truth), _CHUNK):
        rows = slice(start, start + _CHUNK)
        own = labels[rows] = cells.lookup(truth[rows])
        distance[rows] = haversine_km(latlng[rows], truth[rows])
        oracle[rows] = np.where(own < 0, np.inf, haversine_km(truth[rows], points[own]))
        baseline[rows] = haversine_km(points[most], truth[rows])
    covered = labels >= 0
    right = ranks.rank == 0
    top = (ranks.rank >= 0) & (ranks.rank < _TOP)

    figures = nearness(distance) | {"mean_km": _mean(distance), "geoscore": geoscore(distance)}
    figures |= {"cell_top1": _mean(right), "cell_top5": _mean(top), "ece": calibration_error(ranks.confidence, right)}
    figures |= {"nll": _mean(-np.log(np.maximum(ranks.probability[covered], _LEAST))), "coverage": _mean(covered)}
    for name, kilometres in (("oracle", oracle), ("baseline", baseline)):
        figures |= {f"{name}_{figure}": value for figure, value in nearness(kilometres).items()}
    figures["images"] = float(len(truth))
    return Scores(figures, latlng, truth, distance, oracle, baseline, labels, ranks)


def nearness(distance_km: np.ndarray) -> dict[str, float]:
    """The share of distances (N,) that are at most each of `THRESHOLDS_KM`, as `within_1km` and so on; `median_km`.

    NaN without distances; the median also where the middle is infinite.
    """
    median = float(np.median(distance_km)) if len(distance_km) else np.nan
    shares = {f"within_{limit}km": _mean(distance_km <= limit) for limit in THRESHOLDS_KM}
    return {**shares, "median_km": median if np.isfinite(median) else np.nan}


def geoscore(distance_km: np.ndarray) -> float:
    """Mean of 5000 exp(-distance / 1492.7 km), 5000 at best: as in OSV-5M (Astruc et al. 2024, arXiv 2404.18873)."""
    return _mean(5000 * np.exp(-distance_km / 1492.7))


def selective(distance_km: np.ndarray, confidence: np.ndarray) -> list[dict[str, float]]:
    """How near the predictions are if only the surest are taken: a row for each of `SHARES`.

    A row has the `share` asked for, the `images` taken (those as sure as the last one too), the confidence they are
    taken `from`, and their `nearness`. There are no rows without images.
    """
    rows = []
    limits: list[float] = []
    if len(confidence):
        limits = np.sort(confidence)[[-int(np.ceil(share * len(confidence))) for share in SHARES]].tolist()
    for share, limit in zip(SHARES, limits, strict=False):
        taken = distance_km[confidence >= limit]
        rows.append({"share": share, "images": float(len(taken)), "from": limit, **nearness(taken)})
    return rows


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
