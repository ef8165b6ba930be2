"""Google's S2 cells in numpy: leaf ids of positions, and the parents, bounds, corners and names of cells.

The sphere is a cube's six faces, each a square split in four, 30 times; a cell is named by the way down to it along a
Hilbert curve, so all that lies in a cell has ids between two numbers. An id (uint64) is, from the top: 3 bits of the
face, 2 bits a level, a one, and zeros. Constants and tie rules are those of S2's own reference (s2coords.h,
s2coords_internal.h and s2cell_id.cc of github.com/google/s2geometry, described at s2geometry.io), whose ids these equal
bit for bit; that library takes a position at a time, this an array, in slices that stay in a core's cache.
"""

from __future__ import annotations

import numpy as np

from backbone.errors import InputError
from tasks.geolocalization.sphere import to_latlng, to_xyz, unit

MAX_LEVEL = 30
_CHUNK = 1 << 13  # positions at a time: the ten or so arrays of a slice stay within a megabyte

# The curve through a square's four quarters, by its orientation (bit 0: i and j swapped; bit 1: both inverted): the
# quarter (2 * i + j) that comes at each position, and what that quarter's own orientation differs by.
_QUARTER_AT = np.array([[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]])
_TURN_AT = np.array([1, 0, 0, 3])
_STEP = 6  # levels taken by one look-up; the 2**14 rows of a table stay in a core's cache
_ORIENTATION = 2 * _STEP  # in which bits a row of a table has the orientation that follows


def _make_tables() -> tuple[np.ndarray, np.ndarray]:
    """Tables of _STEP levels at once, row (orientation, i, j) -> (orientation, position), and back."""
    orientation = np.arange(4)[:, None]
    position = i = j = np.zeros((4, 1), np.int64)
    for _ in range(_STEP):  # each column becomes four, one for each quarter of its square
        quarter = _QUARTER_AT[orientation]
        i, j = 2 * i[..., None] + (quarter >> 1), 2 * j[..., None] + (quarter & 1)
        position, orientation = 4 * position[..., None] + np.arange(4), orientation[..., None] ^ _TURN_AT
        position = np.broadcast_to(position, i.shape).reshape(4, -1)
        i, j, orientation = (array.reshape(4, -1) for array in (i, j, orientation))
    before, after = np.arange(4)[:, None] << _ORIENTATION, orientation << _ORIENTATION
    square = i << _STEP | j
    to_position = np.empty(4 << _ORIENTATION, np.int64)
    to_square = np.empty_like(to_position)
    to_position[before | square] = after | position
    to_square[before | position] = after | square
    return to_position, to_square


_TO_POSITION, _TO_SQUARE = _make_tables()


def leaf_ids(latlng: np.ndarray) -> np.ndarray:
    """Ids (N,) uint64 of the leaf cells (under 1 cm across) of positions (N, 2): degrees, latitude first.

    Raises InputError where one is not finite, a latitude is beyond 90 or a longitude beyond 180.
    """
    latlng = np.asarray(latlng)
    ids = np.empty(len(latlng), np.uint64)
    for start in range(0, len(latlng), _CHUNK):
        positions = latlng[start : start + _CHUNK].astype(np.float64)
        most = np.abs(positions).max(axis=0)
        if not (most[0] <= 90 and most[1] <= 180):  # not: NaN compares false
            wrong = np.flatnonzero(~((np.abs(positions) <= (90, 180)).all(axis=1)))[0]
            latitude, longitude = positions[wrong]
            raise InputError(
                f"position {start + wrong} is latitude {latitude}, longitude {longitude}; they must be numbers within "
                "90 and 180 degrees, latitude first."
            )
        ids[start : start + _CHUNK] = _leaf_ids(positions)
    return ids


def _leaf_ids(latlng: np.ndarray) -> np.ndarray:
    x, y, z = to_xyz(latlng).T
    # the face that a vector goes through is that of its largest component; of equal ones the later
    far_x, far_y, far_z = np.abs(x), np.abs(y), np.abs(z)
    on_x = (far_x > far_y) & (far_x > far_z)
    on_y = ~on_x & (far_y > far_z) & ~(far_x > far_y)
    depth = np.where(on_x, x, np.where(on_y, y, z))
    first = np.where(on_x, y, -x)
    second = np.where(on_x | on_y, z, -y)
    behind = depth < 0  # the faces 3 to 5: opposite to 0 to 2, and with the axes swapped
    face = np.where(on_x, 0, np.where(on_y, 1, 2)) + 3 * behind
    first /= depth
    second /= depth
    i = _steps(np.where(behind, second, first))
    j = _steps(np.where(behind, first, second))

    position = face.copy()
    row = (face & 1) << _ORIENTATION
    for shift in range(MAX_LEVEL - _STEP, -1, -_STEP):
        row |= ((i >> shift) & (1 << _STEP) - 1) << _STEP
        row |= (j >> shift) & (1 << _STEP) - 1
        row = _TO_POSITION.take(row)
        position <<= 2 * _STEP
        position |= row & (1 << _ORIENTATION) - 1
        row &= 3 << _ORIENTATION
    return position.view(np.uint64) << np.uint64(1) | np.uint64(1)


def _steps(u: np.ndarray) -> np.ndarray:
    """Column or row, from 0, of the leaf at u in [-1, 1] on a face; the quadratic makes leaves alike in area."""
    s = 0.5 * np.sqrt(1 + 3 * np.abs(u))
    s = np.where(u < 0, 1 - s, s)
    return np.minimum((s * (1 << MAX_LEVEL)).astype(np.int64), (1 << MAX_LEVEL) - 1)


def levels(ids: np.ndarray) -> np.ndarray:
    """Levels (N,) int64 of cells: 0 is a face, 30 a leaf."""
    return MAX_LEVEL - np.bitwise_count(_last_bit(ids) - np.uint64(1)).astype(np.int64) // 2


def parents(ids: np.ndarray, level: int) -> np.ndarray:
    """The cells (N,) uint64 of a level that hold the given ones, which must not be larger."""
    last_bit = np.uint64(1 << 2 * (MAX_LEVEL - level))
    return ids & (~last_bit + np.uint64(1)) | last_bit


def children(ids: np.ndarray) -> np.ndarray:
    """The four cells (N, 4) uint64 that each cell is split in, in rising order; a leaf has none."""
    last_bit = _last_bit(ids)[:, None]
    return ids[:, None] - last_bit + (last_bit >> np.uint64(2)) * np.arange(1, 8, 2, dtype=np.uint64)


def range_min(ids: np.ndarray) -> np.ndarray:
    """The first leaf (N,) uint64 of each cell."""
    return ids - (_last_bit(ids) - np.uint64(1))


def range_max(ids: np.ndarray) -> np.ndarray:
    """The last leaf (N,) uint64 of each cell."""
    return ids + (_last_bit(ids) - np.uint64(1))


def valid(ids: np.ndarray) -> np.ndarray:
    """Which numbers (N,) are ids of cells."""
    ends = _last_bit(ids) & np.uint64(0x1555_5555_5555_5555)  # the last one stands after a whole number of levels
    return (ids >> np.uint64(61) < 6) & (ends != 0)


def centre_vectors(ids: np.ndarray) -> np.ndarray:
    """Unit vectors (N, 3) of the middles of cells, as S2 has it: halfway along both axes of the square."""
    vectors = np.empty((len(ids), 3))
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        face, i, j, size = _squares(some)
        half = size / 2
        vectors[start : start + _CHUNK] = unit(_on_cube(face, i + half, j + half))
    return vectors


def centres(ids: np.ndarray) -> np.ndarray:
    """The middles (N, 2) of cells, in degrees."""
    return to_latlng(centre_vectors(ids))


def outlines(ids: np.ndarray, points_per_side: int = 1) -> np.ndarray:
    """The corners (N, 4 * points_per_side, 2) of cells in degrees, and points along their sides, which are geodesics.

    Anticlockwise as seen from above. Longitudes jump by 360 across the antimeridian; at a pole the longitude is 0.
    """
    face, i, j, size = (array[:, None] for array in _squares(ids))
    along = np.arange(points_per_side) / points_per_side
    none, all_of_it = np.zeros(points_per_side), np.ones(points_per_side)
    right, up = np.concatenate([[along, none], [all_of_it, along], [1 - along, all_of_it], [none, 1 - along]], axis=1)
    return to_latlng(_on_cube(face, i + size * right, j + size * up))


def tokens(ids: np.ndarray) -> list[str]:
    """S2's short names: the id in hexadecimal without the zeros at its end."""
    return [f"{cell:016x}".rstrip("0") for cell in ids.tolist()]


def _last_bit(ids: np.ndarray) -> np.ndarray:
    """The lowest one of each id; 4**(30 - level)."""
    return ids & (~ids + np.uint64(1))


def _squares(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Face, column and row of the first leaf, and number of leaves along a side, of each cell; all (N,) int64."""
    face = (ids >> np.uint64(61)).astype(np.int64)
    # the middle one of the leaves lies somewhere in the cell, and where the cell begins is known from its size
    position = (ids >> np.uint64(1)).view(np.int64)
    size = np.int64(1) << (MAX_LEVEL - levels(ids))
    i, j = np.zeros_like(face), np.zeros_like(face)
    row = (face & 1) << _ORIENTATION
    for shift in range(2 * (MAX_LEVEL - _STEP), -1, -2 * _STEP):
        row |= (position >> shift) & (1 << _ORIENTATION) - 1
        row = _TO_SQUARE.take(row)
        i = i << _STEP | (row >> _STEP) & (1 << _STEP) - 1
        j = j << _STEP | row & (1 << _STEP) - 1
        row &= 3 << _ORIENTATION
    return face, i & -size, j & -size, size


def _on_cube(face: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Vectors (..., 3), not of unit length, of positions on the faces; i and j count leaves, in fractions too."""
    u, v = _from_steps(i), _from_steps(j)
    behind = face > 2
    first, second = np.where(behind, v, u), np.where(behind, u, v)
    depth = np.where(behind, -1.0, 1.0)
    first, second = first * depth, second * depth
    axis = face % 3
    on_x, on_y = axis == 0, axis == 1
    x = np.where(on_x, depth, -first)
    y = np.where(on_x, first, np.where(on_y, depth, -second))
    z = np.where(on_x | on_y, second, depth)
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1) + 0.0  # of -0, which has longitudes of -180, 0 is made


def _from_steps(steps: np.ndarray) -> np.ndarray:
    """The inverse of `_steps`: where on the face in [-1, 1] a line lies that has so many leaves before it."""
    s = steps / (1 << MAX_LEVEL)
    return (1 / 3) * np.where(s >= 0.5, 4 * s * s - 1, 1 - 4 * (1 - s) * (1 - s))
