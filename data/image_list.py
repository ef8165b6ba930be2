"""A list of image files with what is known of each: what every reader of whole pictures gives. No torch."""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class ImageList:
    """The images of one split, packed: a list of objects would be copied page by page into every worker.

    A subclass adds arrays of N rows, or None where nothing is known.
    """

    folder: Path  # file_names are relative to it
    file_names: np.ndarray  # UTF-8 bytes (N,), dtype S*

    def __len__(self) -> int:
        return len(self.file_names)

    def path(self, position: int) -> Path:
        """The file of the image at `position`."""
        return self.folder / os.fsdecode(self.file_names[position])  # not decode(): a name need not be valid UTF-8

    def __contains__(self, file: object) -> bool:
        return bool((self.file_names == os.fsencode(os.path.relpath(str(file), self.folder))).any())

    def take(self, positions: np.ndarray) -> Self:
        """The images at `positions`, (M,) of integers or a mask of bool (N,), in that order."""
        rows: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: rows[name][positions] for name in rows if isinstance(rows[name], np.ndarray)})
