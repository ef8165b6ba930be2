"""The cells that a net answers with, one partition or a hierarchy of them, and how its logits become a place."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from tasks.geolocalization import s2
from tasks.geolocalization.answers import expected_places, f_star, half_radius_km, top_places
from tasks.geolocalization.cells import Partition, parent_of
from tasks.geolocalization.sphere import haversine_km

Answer = Literal["best", "f_star", "expected"]


class Located(NamedTuple):
    """Where N photographs were taken, with the probability of every cell."""

    probabilities: np.ndarray  # (N, C) of the finest cells
    latlng: np.ndarray  # (N, 2) degrees


class Atlas:
    """Partitions from fine to coarse; the net's outputs are their cells in this order.

    A place is the point of the `best` cell of the finest, of the best by the product down the hierarchy (`f_star`), or
    the mean of the cells within `mode_radius_km` of that (`expected`). Raises InputError where they are not nested, or
    were not made together.
    """

    def __init__(self, partitions: Sequence[Partition], answer: Answer, mode_radius_km: float) -> None:
        self.partitions = tuple(partitions)
        self.finest = self.partitions[0]
        self.sizes = [len(partition) for partition in self.partitions]
        self.answer = answer
        self.mode_radius_km = mode_radius_km
        pairs = zip(self.partitions, self.partitions[1:], strict=False)
        self._parents = [_parents(fine, coarse) for fine, coarse in pairs]
        corners = s2.corners(self.finest.ids)  # (C, 4, 2)
        self._reach_km = haversine_km(self.finest.latlng[:, None], corners).max(1)  # of a cell around its point

    def labels(self, latlng: np.ndarray) -> list[np.ndarray]:
        """The cell (N,) int64 of each place (N, 2) in each partition, -1 in a dropped one."""
        return [partition.lookup(latlng) for partition in self.partitions]

    def split(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, sum of all C) as those of each partition."""
        return logits.split(self.sizes, 1)

    def locate(self, logits: Tensor) -> Located:
        """Answer logits of N photographs, each of several crops: (N, crops, sum of all C)."""
        levels = [level.float().softmax(2).mean(1).cpu().numpy() for level in logits.split(self.sizes, 2)]
        probabilities = levels[0] if self.answer == "best" else f_star(levels, self._parents)
        if self.answer == "expected":
            return Located(probabilities, expected_places(probabilities, self.finest.points, self.mode_radius_km))
        return Located(probabilities, top_places(probabilities, self.finest.points, 1).latlng[:, 0])

    def half_radius_km(self, located: Located) -> np.ndarray:
        """The radius (N,) around each place within which whole cells hold half of the probability."""
        return half_radius_km(located.probabilities, self.finest.points, self._reach_km, located.latlng)

    def to_list(self) -> list[dict[str, Any]]:
        """What a checkpoint holds of it."""
        return [partition.to_dict() for partition in self.partitions]


def _parents(fine: Partition, coarse: Partition) -> np.ndarray:
    """As `parent_of`; InputError for cells of other photographs or options too, which may be nested by chance."""
    for of, two in (
        ("photographs", (fine.total, coarse.total)),
        ("min_photos", (fine.min_photos, coarse.min_photos)),
        ("max_level", (fine.max_level, coarse.max_level)),
    ):
        if two[0] != two[1]:
            said = f"of {two[0]} and {two[1]} {of}" if of == "photographs" else f"with {of} {two[0]} and {two[1]}"
            raise InputError(
                f"the partitions of {len(fine)} and {len(coarse)} cells are {said}; build them together, from the same "
                "photographs."
            )
    return parent_of(fine, coarse)


def five_crops(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The four corners and the centre of images (B, 3, H, W), each of `size` (height, width): (B, 5, 3, height, width).

    Images of that very size are their only crop, (B, 1, 3, H, W).
    """
    height, width = images.shape[2:]
    if (height, width) == tuple(size):
        return images[:, None]
    down, right = height - size[0], width - size[1]
    if down < 0 or right < 0:
        raise InputError(f"pictures of {height} x {width} px have no crops of {size[0]} x {size[1]} px.")
    corners = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    return torch.stack([images[:, :, top : top + size[0], left : left + size[1]] for top, left in corners], 1)
