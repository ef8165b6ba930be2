"""`python -m tasks.<task> predict`, the same for every task: which images, one after the other, what is written.

A task says its own options and what to write of a result; nothing heavy is imported before they are parsed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import Arguments, InputError

if TYPE_CHECKING:
    import numpy as np

    from tasks.module import TaskModule
    from tasks.predictor import Predictor

_PRINTED = 20  # lines; those of more images are in the file alone
_TILES = 60  # on a sheet


class Described(NamedTuple):
    """What is written of one image."""

    row: Mapping[str, Any]  # the line of predictions.jsonl, after the file's name
    caption: str  # under its tile on the sheet, a few lines
    tile: "np.ndarray | None" = None  # what the sheet shows; None: the image, uint8 (H, W, 3)


Describe = Callable[[Path, "np.ndarray"], Described]
Finish = Callable[[int], Sequence[str]]  # of how many images: writes the task's own files, gives lines to print


@dataclass(frozen=True)
class PredictCommand:
    """A task's part of the command; `start(options, predictor, run)` gives what each image and the end call."""

    description: str
    add_arguments: Callable[[Arguments], None]
    start: "Callable[[argparse.Namespace, Predictor, Path], tuple[Describe, Finish]]"
    load: "Callable[..., Predictor] | None" = None  # of a file and a device, where not every file is a .ckpt
    sheets: bool = True  # contact sheets of all images under pictures/


def main(
    task: str, classes: "Callable[[], tuple[type[TaskModule], Any]]", command: PredictCommand, args: list[str]
) -> int:
    """Run the command; return its exit code. InputError where the source or the checkpoint cannot be used."""
    parser = Arguments(prog=f"python -m tasks.{task} predict", description=command.description)
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FILE-or-FOLDER",
        help="images; default, for a net trained on the built-in sample: its test images",
    )
    parser.add_argument("--ckpt_path", type=Path, metavar="C.ckpt", help="default: the best of the newest run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    command.add_arguments(parser)
    options = parser.parse_args(args)
    if getattr(options, "top_k", 1) < 1:
        raise InputError(f"--top_k {options.top_k}: give 1 or more.")
    _predict(task, *classes(), command, options)
    return 0


def _predict(
    task: str, module_class: "type[TaskModule]", datamodule_class: Any, command: PredictCommand, options: Any
) -> None:
    import torch
    import yaml

    from backbone.accelerator import retain_freed_memory
    from data.folders import count_of
    from tasks.predictor import Predictor
    from tasks.runs import new_run, newest_checkpoint, point_latest

    retain_freed_memory()
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = getattr(options, "weights", None)
    file = weights or options.ckpt_path or newest_checkpoint(task, options.runs)
    print(f"{'weights' if weights else 'checkpoint'}: {file}", flush=True)
    load = command.load or (lambda path, device: Predictor.from_checkpoint(module_class, path, device))
    trunk = getattr(options, "trunk", None)
    if trunk and not options.weights:
        raise InputError(f"--model.trunk {trunk} is the network of --model.weights; name these too, or leave it out.")
    predictor = load(file, device, **({"trunk": trunk} if trunk else {}))
    images = images_at(options.source) if options.source else _sample_images(file, predictor, datamodule_class)
    options.images = images  # for a task that numbers them
    with new_run(task, options.runs, "--runs") as run:
        describe, finish = command.start(options, predictor, run)
        sheets = _Sheets(run / "pictures")
        lines: list[str] = []

        def predict(path: Path) -> None:
            image = predictor.open(path)
            described = describe(path, image)
            lines.append(json.dumps({"file": str(path), **described.row}, ensure_ascii=False))
            if command.sheets:
                sheets.add(image if described.tile is None else described.tile, f"{path.name}\n{described.caption}")

        done, unreadable = for_each(images, predict)
        sheets.write()
        # A name that is not UTF-8 stays readable JSON: \udcff is its escape too.
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        (run / "predictions.jsonl").write_bytes(text)
        given["weights" if weights else "ckpt_path"] = str(file)
        (run / "config.yaml").write_text(yaml.safe_dump(given), "utf-8")
        own_lines = finish(done)
        point_latest(run)
    if done <= _PRINTED:
        print(text.decode(), end="")
    for line in own_lines:
        print(line)
    left_out = f", {unreadable:,} could not be read" if unreadable else ""
    print(f"{count_of(done, 'image')}{left_out}: {run / 'predictions.jsonl'}")
    if (run / "pictures").is_dir():
        print(f"pictures: {run / 'pictures'}")
    print(f"run: {run}")


def images_at(source: Path) -> list[Path]:
    """The image at `source`, or the images right in that folder by their endings; InputError where there is none."""
    from data.images import IMAGE_ENDINGS

    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source {source}: there is no such file or folder.")
    images = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
    if not images:
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise InputError(f"--source {source}: this folder has no image ({endings}); folders in it are not searched.")
    return images


def _sample_images(file: Path, predictor: "Predictor", datamodule_class: Any) -> list[Path]:
    """The test images of the built-in sample, where the net was trained on it. InputError where it was not."""
    if predictor.data_options.get("root", "other data") is not None:
        raise InputError(f"{file} was not trained on the built-in sample; name images with --source.")
    data = datamodule_class(root=None)
    data.setup("test")
    records = data.records("test")
    return [records.path(position) for position in range(len(records))]


def for_each(images: Sequence[Path], predict: Callable[[Path], None]) -> tuple[int, int]:
    """Call `predict` with each image, with a progress bar; return how many it took, and how many it could not read.

    An image for which it raises ImageError is named on stderr and passed over; InputError where all are. Ctrl-C ends
    it early, and what is done counts.
    """
    from tqdm import tqdm

    from data.folders import count_of
    from data.images import ImageError

    refused: list[ImageError] = []
    done = 0
    try:
        for path in tqdm(images, unit="image", disable=None):
            try:
                predict(path)
            except ImageError as error:
                refused.append(error)
                continue
            done += 1
    except KeyboardInterrupt:
        if not done:
            raise
        print(f"\ninterrupted: what follows is of the first {count_of(done, 'image')}", file=sys.stderr)
    for unreadable in refused:
        print(f"warning: {unreadable}", file=sys.stderr)
    if not done:
        raise InputError(f"{count_of(len(images), 'image')}, of which none could be read; the first: {refused[0]}")
    return done, len(refused)


class _Sheets:
    """Contact sheets of 60 tiles, each written when it is full, so that no more than one is in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.tiles: list[np.ndarray] = []
        self.captions: list[str] = []

    def add(self, tile: "np.ndarray", caption: str) -> None:
        from tasks.plotting import fit

        self.tiles.append(fit(tile, 220, 220)[0])
        self.captions.append(caption)
        if len(self.tiles) == _TILES:
            self.write()

    def write(self) -> None:
        from tasks.plotting import contact_sheet

        if not self.tiles:
            return
        self.number += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet = self.folder / f"predictions_{self.number:03}.png"
        contact_sheet(self.tiles, self.captions, sheet, columns=6, title=f"Predictions, sheet {self.number}")
        self.tiles.clear()
        self.captions.clear()
