"""A prediction as GeoJSON (RFC 7946), which any map program opens; and cells as polygons of a flat map."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition

_DECIMALS = 9  # of a degree: a tenth of a millimetre, so that not even the smallest S2 cell collapses


def feature_collection(
    partition: Partition, cells: np.ndarray, probabilities: np.ndarray, latlng: np.ndarray, half_km: float, file: str
) -> dict[str, Any]:
    """A FeatureCollection of the predicted position as a point and, after it, the likeliest cells as polygons.

    `cells` int64 (K,) of the partition, the likeliest first, have `probabilities` (K,); half of all probability lies
    within `half_km` of the position (2,), in degrees. Coordinates are longitude first; a cell across the
    antimeridian is a MultiPolygon in two parts.
    """
    [own] = partition.lookup(np.reshape(latlng, (1, 2)))  # an expected position may lie in a dropped one
    latitude, longitude = np.round(latlng, _DECIMALS).tolist()
    prediction = {
        "kind": "prediction",
        "file": file,
        "half_radius_km": float(half_km),
        "token": s2.tokens(partition.ids[[own]])[0] if own >= 0 else None,
    }
    found = [({"type": "Point", "coordinates": [longitude, latitude]}, prediction)]
    for rank, (cell, token) in enumerate(zip(cells.tolist(), s2.tokens(partition.ids[cells]), strict=True)):
        properties = {
            "kind": "cell",
            "rank": rank + 1,
            "probability": float(probabilities[rank]),
            "token": token,
            "training_images": int(partition.counts[cell]),
        }
        found.append((cell_geometry(int(partition.ids[cell])), properties))
    features = [{"type": "Feature", "geometry": geometry, "properties": of} for geometry, of in found]
    return {"type": "FeatureCollection", "features": features}


def cell_geometry(cell: int) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon cut at the antimeridian (RFC 7946, section 3.1.9); exterior rings anticlockwise."""
    parts = [[ring.tolist()] for ring in cut(flat_ring(cell))]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def flat_ring(cell: int) -> np.ndarray:
    """A cell's outline on a flat map: a closed anticlockwise ring (n, 2) of degrees, longitude first.

    Neighbouring points are near each other, so longitudes go on beyond 180 where the cell does; they begin in
    [-180, 180). A cell with a pole inside or at a corner runs along the map's edge, which the pole is.
    """
    ids = np.array([cell], np.uint64)
    # A side of a face is 90 degrees and bends much on the map; from level 6 on it is under 2 and straight enough
    latlng = s2.outlines(ids, max(1, 64 >> int(s2.levels(ids)[0])))[0].round(_DECIMALS)
    # the two faces around a pole, which have a point there, are cut open at the antimeridian
    latlng = np.roll(latlng, -int(np.argmax(np.abs(latlng[:, 1]))), axis=0)
    points: list[tuple[float, float]] = []
    for k, (latitude, longitude) in enumerate(latlng.tolist()):
        # a pole has every longitude: here those of the meridians by which the outline comes and goes
        both = (k - 1, (k + 1) % len(latlng)) if abs(latitude) == 90 else ()
        points += [(float(latlng[i, 1]), latitude) for i in both] or [(longitude, latitude)]
    ring = np.array([*points, points[0]])
    ring[:, 0] = np.unwrap(ring[:, 0], period=360).round(_DECIMALS)  # closed to the bit
    if turn := round((ring[-1, 0] - ring[0, 0]) / 360):  # once around a pole, which lies to the left
        pole = 90.0 * turn
        ring = np.concatenate([ring, [[ring[-1, 0], pole], [ring[0, 0], pole], ring[0]]])
    ring[:, 0] = (ring[:, 0] - 360 * np.floor((ring[:, 0].min() + 180) / 360)).round(_DECIMALS)
    return ring


def cut(ring: np.ndarray) -> list[np.ndarray]:
    """A closed ring (n, 2), longitude first, cut at the antimeridian into closed rings within [-180, 180]."""
    if ring[:, 0].max() <= 180:
        return [ring]
    beyond = _left_of(ring * (-1, 1), -180) * (-1, 1) - (360, 0)  # mirrored, cut, mirrored back
    return [_left_of(ring, 180), beyond.round(_DECIMALS)]


def _left_of(ring: np.ndarray, limit: float) -> np.ndarray:
    """The part of a closed ring at most so far east (Sutherland and Hodgman 1974, for one side)."""
    points = []
    for a, b in itertools.pairwise(ring):
        if a[0] <= limit:
            points.append(a)
        if (a[0] - limit) * (b[0] - limit) < 0:
            share = (limit - a[0]) / (b[0] - a[0])
            points.append(np.array([limit, round(a[1] + share * (b[1] - a[1]), _DECIMALS)]))
    return np.array([*points, points[0]])
