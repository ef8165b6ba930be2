"""What a head keeps of the images that it scores, packed: as objects, those of ten million images fill the memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.records import rows_from
from tasks.processes import of_all


class Rows(NamedTuple):
    """Images by their position in the split, ascending, and their rows in each column.

    An image has one row, or where `counts` (N,) says so as many, which lie together.
    """

    positions: np.ndarray  # int64 (N,)
    columns: list[np.ndarray]  # each (N, ...), or (sum of counts, ...)
    counts: np.ndarray | None = None  # int64 (N,)


class Kept:
    """Rows of plain arrays, batch after batch; `take` gives those of all processes, each image once."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._images: list[_Column] = []  # positions and, where images have several rows or none, their numbers
        self._columns: list[_Column] = []

    def __len__(self) -> int:
        return self._images[0].size if self._images else 0

    def add(self, positions: Sequence[int], *columns: np.ndarray, counts: Sequence[int] | None = None) -> None:
        """Keep the rows of a batch's images: one of each in every column, or `counts` of them."""
        images = [np.asarray(values, np.int64) for values in (positions, counts) if values is not None]
        if not self._images:
            self._images, self._columns = list(map(_Column, images)), list(map(_Column, columns))
        for column, rows in zip([*self._images, *self._columns], [*images, *columns], strict=True):
            column.add(rows)

    def take(self) -> Rows:
        """All rows of all processes, in the order of the images; nothing is kept afterwards. At least one image is.

        Of an image that comes twice, as where there are fewer images than processes, the last rows count.
        """
        mine = [column.rows for column in self._images], [column.rows for column in self._columns]
        self._clear()
        parts = [part for part in of_all(mine) if part[0]]
        del mine
        images, columns = (
            [each[0] if len(parts) == 1 else np.concatenate(each) for each in zip(*of_part, strict=True)]
            for of_part in zip(*parts, strict=True)
        )
        positions = images[0]
        counts = images[1] if len(images) > 1 else None
        if (np.diff(positions) > 0).all():
            return Rows(positions, columns, counts)
        unique, last = np.unique(positions[::-1], return_index=True)
        chosen = len(positions) - 1 - last
        rows = chosen
        if counts is not None:
            starts, counts = (np.cumsum(counts) - counts)[chosen], counts[chosen]
            rows = rows_from(starts, counts)
        return Rows(unique, [column[rows] for column in columns], counts)


class _Column:
    """Rows of one shape in one array that grows by half of itself; what is not filled takes no memory."""

    def __init__(self, like: np.ndarray) -> None:
        self._array, self.size = np.empty((0, *like.shape[1:]), like.dtype), 0

    @property
    def rows(self) -> np.ndarray:
        """Those that are there."""
        return self._array[: self.size]

    def add(self, rows: np.ndarray) -> None:
        """Append rows of the same shape and kind."""
        end = self.size + len(rows)
        if end > len(self._array):
            grown = np.empty((end + end // 2, *self._array.shape[1:]), self._array.dtype)
            grown[: self.size] = self.rows
            self._array = grown
        self._array[self.size : end] = rows
        self.size = end
