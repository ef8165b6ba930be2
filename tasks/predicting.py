"""What every `predict` does around its network: find the pictures, go through them, name what cannot be read."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from data.images import IMAGE_ENDINGS, ImageError
from tasks.plotting import contact_sheet, fit
from tasks.runs import point_latest, read_checkpoint

_PRINTED = 20  # answers for more pictures are in the file alone
_TILES = 60  # on a sheet


def pictures_at(source: Path) -> list[Path]:
    """List the picture at `source`, or the pictures right in that folder by their endings; InputError where none is."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source {source}: there is no such file or folder.")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise InputError(
            f"--source {source}: no picture ({endings}) lies in this folder; folders in it are not searched."
        )
    return found


def need_sample(checkpoint: Path, task: str, what_for: str) -> None:
    """Raise InputError where a net was trained on other data than the built-in sample: --source is to name pictures."""
    trained_on = read_checkpoint(checkpoint, task)["datamodule_hyper_parameters"]["root"]
    if trained_on is not None:
        raise InputError(f"{checkpoint} was trained on {trained_on}; name pictures to {what_for} with --source.")


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


def write_answers(
    run: Path,
    pictures: Sequence[Path],
    answer: Callable[[Path], tuple[np.ndarray, Mapping[str, Any], str]],
    title: str,
) -> None:
    """Write into a run folder that `new_run` named what `answer` says of each picture.

    `answer` gives the picture, a JSON object and a caption of a few lines. Written: predictions.jsonl, a line for each
    picture, and under pictures/ sheets of 60. Errors as `for_each`.
    """
    lines: list[str] = []
    tiles: list[np.ndarray] = []
    captions: list[str] = []

    def predict(path: Path) -> None:
        image, row, caption = answer(path)
        lines.append(json.dumps({"file": str(path), **row}, ensure_ascii=False))
        tiles.append(fit(image, 220, 220)[0])
        captions.append(f"{path.name}\n{caption}")
        if len(tiles) == _TILES:
            write_sheet()

    def write_sheet() -> None:
        number = -(-len(lines) // _TILES)
        (run / "pictures").mkdir(parents=True, exist_ok=True)
        sheet = run / "pictures" / f"predictions_{number:03}.png"
        contact_sheet(tiles, captions, sheet, columns=6, title=f"{title}, sheet {number}")
        tiles.clear()
        captions.clear()

    done = for_each(pictures, predict)
    if tiles:
        write_sheet()
    # A name that is no UTF-8 stays readable JSON: \udcff is its escape too.
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    (run / "predictions.jsonl").write_bytes(text)
    point_latest(run)
    if done <= _PRINTED:
        print(text.decode(), end="")
    print(f"{done} pictures: {run / 'predictions.jsonl'}\npictures: {run / 'pictures'}\nrun: {run}")
