"""PlaNet's partition of the world: small cells where images are many (Weyand et al. 2016, arXiv 1602.05314).

From the six faces of S2's cube on, a cell of more than `max_images` images is split in four; then cells of fewer than
`min_images`, oceans and poles, are dropped with their images. All that lies in a cell has leaf ids between two numbers,
so in sorted leaf ids a cell's images are counted by two searches. No coordinates are needed beside the leaf ids: a leaf
is under a centimetre across.
"""

from __future__ import annotations

import zipfile
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from backbone.files import replacing
from tasks.geolocalization import s2
from tasks.geolocalization.sphere import haversine_km, to_latlng, to_xyz, unit

# A cell of level 18 is some 35 m across: a telephone knows no better where it is. PlaNet names no limit; without one, a
# pile of images that were all given a city's name is split down to a square centimetre.
MAX_LEVEL = 18
# What a file that is not there, or damaged bytes happen to mean to zipfile and numpy.
_UNREADABLE = (OSError, ValueError, TypeError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_CHUNK = 1 << 16  # leaves whose centres are in memory at once


@dataclass(frozen=True, eq=False)  # arrays have no single result of ==
class Partition:
    """The cells that a model tells apart, in the order of its outputs. Raises InputError where they do not fit."""

    ids: np.ndarray  # uint64 (C,), sorted S2 ids of cells that do not overlap
    counts: np.ndarray  # int64 (C,) images it was built from, in each cell
    points: np.ndarray  # float64 (C, 3) unit vectors: the position that is predicted for a cell
    total: int  # images it was built from, those in dropped cells too
    max_images: int  # a cell of more was split, above MAX_LEVEL
    min_images: int  # a cell of fewer was dropped

    def __post_init__(self) -> None:
        """Check everything that can be, as a partition also comes from files."""
        if fault := _fault(self):
            raise InputError(f"a partition {fault}; build it again.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def latlng(self) -> np.ndarray:
        """Degrees (C, 2) of the points."""
        return to_latlng(self.points)

    def lookup(self, latlng: np.ndarray) -> np.ndarray:
        """The cell (N,) int64 that each position (N, 2) lies in; -1 in a dropped one. Raises as `s2.leaf_ids`."""
        return self.lookup_ids(s2.leaf_ids(latlng))

    def lookup_ids(self, ids: np.ndarray) -> np.ndarray:
        """The cell (N,) int64 that each S2 cell (N,) lies in; -1 in a dropped one, or where it is larger."""
        cells = np.searchsorted(s2.range_min(self.ids), s2.range_min(ids), side="right") - 1
        cells[s2.range_max(ids) > s2.range_max(self.ids)[cells]] = -1  # what is before the first cell is at -1 already
        return cells

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers alone, which a checkpoint holds whoever reads it; exact."""
        return {k: value.tolist() if isinstance(value, np.ndarray) else value for k, value in vars(self).items()}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Partition:
        """The inverse of `to_dict`, of lists or arrays. Raises InputError."""
        types = {"ids": np.uint64, "counts": np.int64, "points": np.float64}
        try:
            fitted: dict[str, Any] = {name: np.asarray(entries[name], dtype) for name, dtype in types.items()}
            fitted |= {name: int(entries[name]) for name in ("total", "max_images", "min_images")}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"a partition lacks a number where one must be ({error}); build it again.") from error
        return cls(**fitted)

    def save(self, path: Path) -> None:
        """Write an .npz file, complete or not at all. Raises InputError where it cannot be written."""
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Partition:
        """Read what `save` wrote. Raises InputError for another file and a damaged one."""
        remedy = "make one with: python -m tasks.geolocalization partition"
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.from_dict(dict(file))
        except _UNREADABLE as error:
            raise InputError(f"{path} is missing, damaged or not a partition ({error}); {remedy}.") from error


def collect_leaves(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """The leaf ids (N,) uint64 of positions that come in chunks (n, 2), in as little memory as they themselves take."""
    leaves = array("Q")  # grows in place, by a sixteenth at a time
    for latlng in chunks:
        leaves.frombytes(s2.leaf_ids(latlng).view(np.uint8).data)
    return np.frombuffer(leaves, np.uint64)


def partitions_of(
    leaves: np.ndarray,
    max_images: Sequence[int],
    *,
    min_images: int = 50,
    points: Literal["mean", "centre"] = "mean",
    prefix: str = "--",
) -> tuple[Partition, ...]:
    """Build a partition of images, given by leaf ids (N,) uint64, for each of `max_images`; from fine to coarse.

    The ids are sorted in place. As a cell that is split at many images is split at fewer too, each cell of a finer
    partition lies in one of a coarser. A cell's point is the mean direction of its images, which lies in it, or its
    centre. Raises InputError for options out of range or in conflict, which it names after `prefix` as the command at
    hand does, and where fewer than two cells come out.
    """
    limits = sorted(max_images)
    given = max_images[0] if len(max_images) == 1 else list(max_images)
    for name, value, valid, rule in (
        ("max_images", given, limits and limits[0] >= 1, "at least one number, and each 1 or more"),
        ("max_images", given, len(set(limits)) == len(limits), "different numbers"),
        ("min_images", min_images, 1 <= min_images <= min(limits, default=1), f"from 1 to {prefix}max_images"),
    ):
        if not valid:
            raise InputError(f"{prefix}{name} is {value}; it must be {rule}.")
    leaves.sort()
    built = [_split(leaves, limit, min_images) for limit in limits]
    for (ids, _), limit in zip(built, limits, strict=True):
        if len(ids) < 2:
            raise InputError(
                f"{len(leaves)} images make {len(ids)} cells of at least {min_images} and at most {limit}; a model "
                f"needs two or more to tell apart, so give more images or lower {prefix}max_images and "
                f"{prefix}min_images."
            )
    vectors = [s2.centre_vectors(ids) for ids, _ in built] if points == "centre" else _mean_directions(leaves, built)
    return tuple(
        Partition(ids, counts, of_cells, len(leaves), limit, min_images)
        for (ids, counts), of_cells, limit in zip(built, vectors, limits, strict=True)
    )


def parent_of(fine: Partition, coarse: Partition) -> np.ndarray:
    """The cell of `coarse` (C_fine,) int64 that each of `fine` lies in.

    Raises InputError where one lies in none, or where the two were made of other images or with another `min_images`:
    these may be nested by chance.
    """
    parents = coarse.lookup_ids(fine.ids)
    if (parents < 0).any() or (fine.total, fine.min_images) != (coarse.total, coarse.min_images):
        raise InputError(
            f"the partitions of {len(fine)} cells (of {fine.total} images, min_images {fine.min_images}) and of "
            f"{len(coarse)} (of {coarse.total}, {coarse.min_images}) are not nested; build them together, of the same "
            "images."
        )
    return parents


def own_cell_km(partition: Partition, latlng: np.ndarray) -> np.ndarray:
    """Distance (N,) from positions (N, 2) to the point of their own cell, in km; infinite in a dropped one.

    This is the error of a classifier that always names the right cell.
    """
    cells = partition.lookup(latlng)
    return np.where(cells < 0, np.inf, haversine_km(latlng, partition.latlng[cells]))


def nearest_point_km(partition: Partition, latlng: np.ndarray) -> np.ndarray:
    """Distance (N,) from positions (N, 2) to the nearest point of any cell, in km.

    No classifier over these cells can do better: a neighbour's point may be nearer than the own cell's.
    """
    from scipy.spatial import KDTree  # here, as training and prediction need no tree

    _, nearest = KDTree(partition.points).query(to_xyz(latlng))
    return haversine_km(latlng, partition.latlng[nearest])


def _split(leaves: np.ndarray, max_images: int, min_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and counts of the cells, sorted, from sorted leaves; level by level."""
    kept = []
    cells = (np.arange(6, dtype=np.uint64) << np.uint64(61)) | np.uint64(1 << 60)  # the faces
    for level in range(MAX_LEVEL + 1):
        counts = np.searchsorted(leaves, s2.range_max(cells), "right") - np.searchsorted(leaves, s2.range_min(cells))
        large = (counts > max_images) if level < MAX_LEVEL else np.zeros(len(cells), bool)
        final = ~large & (counts >= min_images)
        kept.append((cells[final], counts[final]))
        if not large.any():
            break
        cells = s2.children(cells[large]).ravel()
    ids, counts = (np.concatenate(column) for column in zip(*kept, strict=True))
    order = np.argsort(ids)
    return ids[order], counts[order].astype(np.int64)


def _mean_directions(leaves: np.ndarray, built: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Unit vectors (C, 3) for each (ids, counts): the mean of each cell's images, in one pass over the leaves.

    Never zero: no face is so wide that positions on it could cancel.
    """
    starts = [np.searchsorted(leaves, s2.range_min(ids)) for ids, _ in built]
    ends = [start + counts for start, (_, counts) in zip(starts, built, strict=True)]
    sums = [np.zeros((len(ids), 3)) for ids, _ in built]
    with tqdm(
        total=len(leaves), desc="averaging", unit="image", unit_scale=True, delay=2, leave=False, disable=None
    ) as progress:
        for begin in range(0, len(leaves), _CHUNK):
            vectors = s2.centre_vectors(leaves[begin : begin + _CHUNK])
            for start, end, total in zip(starts, ends, sums, strict=True):
                here = slice(np.searchsorted(end, begin, "right"), np.searchsorted(start, begin + len(vectors)))
                edges = np.stack([start[here], end[here]], axis=1).ravel().clip(begin, begin + len(vectors)) - begin
                if len(edges):
                    # each sum goes on to the next edge, so every second one is of what lies between two cells
                    edges = edges[:-1] if edges[-1] == len(vectors) else edges
                    total[here] += np.add.reduceat(vectors, edges, axis=0)[::2]
            progress.update(len(vectors))
    return [unit(total) for total in sums]


def _fault(partition: Partition) -> str:
    """What is wrong with its entries; empty where nothing is."""
    ids, counts, points = partition.ids, partition.counts, partition.points
    if ids.ndim != 1 or counts.shape != ids.shape or points.shape != (*ids.shape, 3):
        return f"has ids {ids.shape}, counts {counts.shape} and points {points.shape}, not (C,), (C,) and (C, 3)"
    if len(ids) < 2:
        return f"has {len(ids)} cells, and two are the fewest that can be told apart"
    if not s2.valid(ids).all() or (s2.range_max(ids)[:-1] >= s2.range_min(ids)[1:]).any():
        return "has ids that are not S2 cells, not sorted, or overlap"
    too_many = (counts > partition.max_images) & (s2.levels(ids) < MAX_LEVEL)
    if counts.min() < partition.min_images or too_many.any() or counts.sum() > partition.total:
        return "has counts that are not between its min_images and max_images, or more than its total"
    if not (np.abs(np.linalg.norm(points, axis=1) - 1) < 1e-9).all():  # NaN compares false
        return "has points that are not unit vectors"
    return ""
