"""What every `predict` does around its network: find the pictures, go through them, name what cannot be read."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from backbone.errors import InputError
from data.images import IMAGE_ENDINGS, ImageError


def pictures_at(source: Path) -> list[Path]:
    """List the picture at `source`, or the pictures right in that folder by their endings; InputError where none is."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source {source}: there is no such file or folder.")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        raise InputError(f"--source {source}: no picture ({', '.join(sorted(IMAGE_ENDINGS))}) lies in this folder.")
    return found


def for_each(pictures: Sequence[Path], predict: Callable[[Path], None]) -> int:
    """Call `predict` with each picture, with a progress bar; return for how many it returned.

    A picture for which it raises ImageError is named on stderr and passed over; InputError where all are. Ctrl-C ends
    it early, and what is done counts.
    """
    refused: list[ImageError] = []
    done = 0
    try:
        for path in tqdm(pictures, unit="image", disable=None):
            try:
                predict(path)
            except ImageError as error:
                refused.append(error)
                continue
            done += 1
    except KeyboardInterrupt:
        if not done:
            raise
        print(f"\ninterrupted: what follows is of the first {done} pictures", file=sys.stderr)
    for unreadable in refused:
        print(f"warning: {unreadable}", file=sys.stderr)
    if not done:
        raise InputError(f"none of the {len(pictures)} pictures could be read; the first: {refused[0]}")
    return done
