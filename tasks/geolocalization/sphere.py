"""Geometry on the globe, in numpy and float64: a sphere, as the field's distances are all taken on one.

A position is `latlng` (..., 2): degrees, latitude first; or a unit vector `xyz` (..., 3), which has no seam and no
poles. Averages are taken of vectors and never of degrees: those of Fiji's 179 and -179 meet in Africa.
"""

from __future__ import annotations

import numpy as np

EARTH_RADIUS_KM = 6371.0  # the mean radius, as Im2GPS, PlaNet's successors and OSV-5M measure


def to_xyz(latlng: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3): x towards (0, 0), y towards (0, 90), z towards the north pole."""
    latitude, longitude = np.moveaxis(np.radians(np.asarray(latlng, np.float64)), -1, 0)
    across = np.cos(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=-1)


def to_latlng(xyz: np.ndarray) -> np.ndarray:
    """Degrees (..., 2) of vectors of any length but 0; longitude in [-180, 180], at a pole an arbitrary one."""
    x, y, z = np.moveaxis(np.asarray(xyz, np.float64), -1, 0)
    return np.degrees(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))


def haversine_km(a_latlng: np.ndarray, b_latlng: np.ndarray) -> np.ndarray:
    """Distance (...) along the surface between positions (..., 2) that broadcast; longitudes may differ by full turns.

    In float64, and good to a micrometre for neighbours and antipodes alike: half the angle has the haversine as the
    square of its sine and, as its cosine's, the haversine of the way on to the antipode. The arc cosine of float32
    vectors would be wrong by kilometres for neighbours.
    """
    a, b = np.asarray(a_latlng, np.float64), np.asarray(b_latlng, np.float64)
    turn = b[..., 1] - a[..., 1]
    turn = np.radians(turn - 360 * np.round(turn / 360)) / 2  # exactly 0 from -180 to 180
    a_latitude, b_latitude = np.radians(a[..., 0]), np.radians(b[..., 0])
    across = np.cos(a_latitude) * np.cos(b_latitude)
    near = np.sin((b_latitude - a_latitude) / 2) ** 2 + across * np.sin(turn) ** 2
    far = np.sin((b_latitude + a_latitude) / 2) ** 2 + across * np.cos(turn) ** 2
    return 2 * EARTH_RADIUS_KM * np.arctan2(np.sqrt(near), np.sqrt(far))


def unit(xyz: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) brought to length 1; NaN for those of no length, which have no direction."""
    length = np.linalg.norm(xyz, axis=-1, keepdims=True)
    return np.divide(xyz, length, out=np.full(np.shape(xyz), np.nan), where=length > 0)


def great_circle(a_latlng: np.ndarray, b_latlng: np.ndarray, num_points: int) -> np.ndarray:
    """Positions (num_points, 2) evenly along the shortest way from one (2,) to another, both ends included.

    Between antipodes, where every way is as short, it is one of them.
    """
    a, b = to_xyz(a_latlng), to_xyz(b_latlng)
    ahead = np.cross(np.cross(a, b), a)  # at right angles to a, in the plane of both
    if np.linalg.norm(ahead) < 1e-12:
        ahead = np.cross(a, np.eye(3)[np.argmin(np.abs(a))])
    angle = np.linspace(0, haversine_km(a_latlng, b_latlng) / EARTH_RADIUS_KM, num_points)[:, None]
    return to_latlng(np.cos(angle) * a + np.sin(angle) * unit(ahead))


def destination(latlng: np.ndarray, bearing: np.ndarray, distance_km: np.ndarray | float) -> np.ndarray:
    """Positions (..., 2) reached from others (..., 2) at a bearing (degrees from north, clockwise) after a distance."""
    latlng = np.asarray(latlng, np.float64)
    bearing, angle = np.radians(bearing)[..., None], np.asarray(distance_km)[..., None] / EARTH_RADIUS_KM
    north, east = to_xyz(np.add(latlng, (90, 0))), to_xyz(latlng * (0, 1) + (0, 90))  # a quarter of the way around
    ahead = np.cos(bearing) * north + np.sin(bearing) * east
    return to_latlng(np.cos(angle) * to_xyz(latlng) + np.sin(angle) * ahead)
