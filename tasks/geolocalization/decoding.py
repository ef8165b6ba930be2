"""From the probabilities of cells to positions, on plain numpy.

`probabilities` (N, C) are of images and the cells of one partition, `points` (C, 3) the cells' unit vectors. Crops of
an image are averaged before any of this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.geolocalization.sphere import EARTH_RADIUS_KM, to_latlng, to_xyz

MODE_RADIUS_KM = 200.0  # a region, as Im2GPS has it: how far around the best cell an expected position is averaged


def top_cells(probabilities: np.ndarray, k: int) -> np.ndarray:
    """The best min(k, C) cells of each image, int64 (N, k), the best first; of equals the lower index."""
    k = min(k, probabilities.shape[1])
    least = np.partition(probabilities, -k, axis=1)[:, -k]  # (N,): to sort all would take several times as long
    cells = np.empty((len(probabilities), k), np.int64)
    for row, limit, best in zip(probabilities, least, cells, strict=True):
        candidates = np.flatnonzero(row >= limit)
        best[:] = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
    return cells


def expected_positions(probabilities: np.ndarray, points: np.ndarray, radius_km: float = MODE_RADIUS_KM) -> np.ndarray:
    """The mean position (N, 2) of the top mode: of the cells whose points lie within a radius of the best cell's.

    The direction of the sum of their vectors by probability. Within a radius, as the mean of two continents is the
    ocean between.
    """
    best = probabilities.argmax(axis=1)
    near = points[best] @ points.T >= np.cos(min(radius_km / EARTH_RADIUS_KM, np.pi))  # (N, C)
    near[np.arange(len(best)), best] = True  # rounding may put a point off itself
    return to_latlng(np.where(near, probabilities.astype(np.float64), 0) @ points)


def f_star(probabilities: Sequence[np.ndarray], parents: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities (N, C) of the finest cells as the product down the hierarchy, brought to a sum of 1.

    Müller-Budack et al. (2018), section 3.3. `probabilities` are of each level, fine to coarse; `parents[k]` (C_k,) is
    the index in level k + 1 of each cell of level k. Where the levels rule each other out, it is the finest level's.
    """
    product = probabilities[0].astype(np.float64)
    ancestor = np.arange(product.shape[1])
    for coarser, parent in zip(probabilities[1:], parents, strict=True):
        ancestor = parent[ancestor]
        product *= coarser[:, ancestor]
    whole = product.sum(axis=1, keepdims=True)
    return np.divide(product, whole, out=probabilities[0].astype(np.float64), where=whole > 0)


def half_radius_km(
    probabilities: np.ndarray, points: np.ndarray, reach_km: np.ndarray, latlng: np.ndarray
) -> np.ndarray:
    """The radius (N,) around positions (N, 2) within which whole cells hold half of the probability.

    `reach_km` (C,) is how far each cell extends from its point: a cell counts once it is inside altogether. Without it
    a net that is sure of a cell as large as a country would claim a radius of 0.
    """
    # To a decimetre, as float64's arc cosine is; haversine would take longer than all the rest.
    angle = np.arccos(np.clip(to_xyz(latlng) @ points.T, -1, 1))  # (N, C)
    outer = np.minimum(EARTH_RADIUS_KM * angle + reach_km, np.pi * EARTH_RADIUS_KM)
    order = outer.argsort(axis=1)
    held = np.take_along_axis(probabilities.astype(np.float64), order, axis=1).cumsum(axis=1)
    last = (held >= held[:, -1:] / 2).argmax(axis=1)[:, None]
    return np.take_along_axis(outer, np.take_along_axis(order, last, axis=1), axis=1)[:, 0]
