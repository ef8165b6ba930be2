"""What `predict` writes beside its rows, whatever the task: sheets of the images, a video of its frames."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.files import replacing

if TYPE_CHECKING:
    import numpy as np

_TILES = 60  # on a sheet


def tile(image: "np.ndarray") -> "np.ndarray":
    """An image (H, W, 3) as small as a sheet shows it."""
    from tasks.plotting import fit

    return fit(image, 220, 220)[0]


class Sheets:
    """Contact sheets of 60 tiles, each written when it is full, so that no more than one is in memory.

    A run that goes on begins a new sheet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = max((int(path.stem.rpartition("_")[2]) for path in folder.glob("predictions_*.png")), default=0)
        self.tiles: list[np.ndarray] = []
        self.captions: list[str] = []

    def add(self, shown: "np.ndarray", caption: str) -> None:
        """Put a tile on the sheet."""
        self.tiles.append(shown)
        self.captions.append(caption)
        if len(self.tiles) == _TILES:
            self.write()

    def write(self) -> None:
        """Write the sheet, where there is anything on it."""
        from tasks.plotting import contact_sheet

        if not self.tiles:
            return
        number = self.number + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"predictions_{number:03}.png") as sheet:
            contact_sheet(self.tiles, self.captions, sheet, columns=6, title=f"Predictions, sheet {number}")
        self.number = number
        self.tiles.clear()
        self.captions.clear()


def write_video(frames: Sequence[Path], path: Path, frames_per_second: float) -> bool:
    """Write images of one size, in order, as an MP4 file; whether OpenCV can do so here. They are deleted then."""
    import cv2
    import numpy as np
    from PIL import Image

    with replacing(path) as beside:
        with Image.open(frames[0]) as first:
            size = first.size
        video = cv2.VideoWriter(str(beside), cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, size)
        there = video.isOpened()
        for frame in frames if there else ():
            with Image.open(frame) as image:
                video.write(np.asarray(image)[..., ::-1])
        video.release()
        if not there:
            beside.touch()
    if not there:
        path.unlink()
        return False
    for frame in frames:
        frame.unlink()
    frames[0].parent.rmdir()
    return True


def counted(names: Iterable[str], most: int = 10) -> str:
    """How many of each name, the most frequent first: "2 person, 1 cup"."""
    from collections import Counter

    counts = Counter(names).most_common()
    more = f", {len(counts) - most} more names" if len(counts) > most else ""
    return ", ".join(f"{count:,} {name}" for name, count in counts[:most]) + more
