"""The cells that a net's outputs are of, one partition or a hierarchy of them, and how its logits become positions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition, parent_of
from tasks.geolocalization.decoding import MODE_RADIUS_KM, expected_positions, f_star, half_radius_km
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, haversine_km

Decode = Literal["best", "f_star", "expected"]


class CellHierarchy:
    """Partitions from fine to coarse; the net's outputs are their cells in this order.

    Raises InputError where they are not nested, or were not made together.
    """

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self.partitions = tuple(sorted(partitions, key=len, reverse=True))
        self.finest = self.partitions[0]
        self.sizes = [len(partition) for partition in self.partitions]
        self._parents = [parent_of(fine, coarse) for fine, coarse in pairwise(self.partitions)]
        corners = s2.outlines(self.finest.ids)  # (C, 4, 2)
        self._reach_km = haversine_km(self.finest.latlng[:, None], corners).max(1)  # of a cell around its point

    def decode(self, logits: Tensor, mode: Decode) -> tuple[np.ndarray, np.ndarray]:
        """The finest cells' probabilities (N, C) and positions (N, 2) for logits of N images: (N, crops, sum of all C).

        A position is the point of the `best` cell of the finest partition, of the best by the product down the
        hierarchy (`f_star`), or the mean of the cells around that (`expected`).
        """
        levels = [level.float().softmax(2).mean(1).cpu().numpy() for level in logits.split(self.sizes, 2)]
        probabilities = levels[0] if mode == "best" else f_star(levels, self._parents)
        if mode == "expected":
            return probabilities, expected_positions(probabilities, self.finest.points)
        return probabilities, self.finest.latlng[probabilities.argmax(axis=1)]

    def decode_tensors(self, logits: Tensor, mode: Decode) -> tuple[Tensor, Tensor]:
        """The same as `decode`, on tensors alone in float32, as a network that is exported can have it."""
        levels = [level.float().softmax(2).mean(1) for level in logits.split(self.sizes, 2)]
        probabilities = levels[0]
        if mode != "best" and len(levels) > 1:
            ancestor = np.arange(self.sizes[0])
            for coarser, parent in zip(levels[1:], self._parents, strict=True):
                ancestor = parent[ancestor]
                probabilities = probabilities * coarser[:, torch.from_numpy(ancestor)]
            whole = probabilities.sum(1, keepdim=True)
            probabilities = torch.where(whole > 0, probabilities / whole.clamp_min(1e-38), levels[0])
        best = probabilities.argmax(1)
        if mode != "expected":
            return probabilities, torch.from_numpy(self.finest.latlng).float()[best]
        points = torch.from_numpy(self.finest.points).float()  # (C, 3)
        near = points[best] @ points.T >= np.cos(MODE_RADIUS_KM / EARTH_RADIUS_KM)
        near = near | (torch.arange(len(points)) == best[:, None])
        x, y, z = (torch.where(near, probabilities, 0.0) @ points).unbind(1)
        return probabilities, torch.stack([torch.atan2(z, (x * x + y * y).sqrt()), torch.atan2(y, x)], 1).rad2deg()

    def half_radius_km(self, probabilities: np.ndarray, latlng: np.ndarray) -> np.ndarray:
        """The radius (N,) around each position (N, 2) within which whole cells hold half of the probability."""
        return half_radius_km(probabilities, self.finest.points, self._reach_km, latlng)
