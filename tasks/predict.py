"""`python -m tasks.<task> predict`, the same for every task: which images, one after the other, what is written.

A task says its own options and what to write of a result; nothing heavy is imported before they are parsed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import Arguments, InputError
from backbone.files import disk_error, not_written, replacing, sweep, write_whole
from backbone.names import escaped, printed

if TYPE_CHECKING:
    import numpy as np

    from tasks.module import TaskModule
    from tasks.predictor import Predictor

_PRINTED = 20  # lines; those of more images are in the file alone
_TILES = 60  # on a sheet
_NAME_BYTES = 200  # of an image's name that go into names of files, which 255 bytes with all else bound


class Described(NamedTuple):
    """What is written of one image."""

    row: Mapping[str, Any]  # the line of predictions.jsonl, after the file's name
    caption: str  # under its tile on the sheet, a few lines
    tile: "np.ndarray | None" = None  # what the sheet shows; None: the image, uint8 (H, W, 3)
    kept: Any = None  # on the disk, for `Finish`: what JSON can hold


Describe = Callable[[Path, "np.ndarray", int], Described]  # of an image, and how many rows are before its own
# Of how many images, with the row and what was kept of each: writes the task's own files, gives lines to print. It
# learns of them from the disk alone, as some may have been described by a call that was interrupted.
Finish = Callable[[int, Iterator[tuple[dict[str, Any], Any]]], Sequence[str]]


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
    from backbone.download import digest_of
    from backbone.weights import find_weights
    from data.bad_images import said_of_cut_short
    from data.folders import count_of
    from data.images import take_cut_short
    from tasks.predictor import Predictor
    from tasks.run_folders import checkpoint_at, newest_checkpoint

    retain_freed_memory()
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = getattr(options, "weights", None)
    file = weights or options.ckpt_path or newest_checkpoint(task, options.runs)
    print(printed(f"{'weights' if weights else 'checkpoint'}: {file}"), flush=True)
    load = command.load or (lambda path, device: Predictor.from_checkpoint(module_class, path, device))
    trunk = getattr(options, "trunk", None)
    if trunk and not options.weights:
        raise InputError(f"--model.trunk {trunk} is the network of --model.weights; name these too, or leave it out.")
    found = checkpoint_at(find_weights(file).file if weights else file)
    predictor = load(found, device, **({"trunk": trunk} if trunk else {}))
    images = images_at(options.source) if options.source else _sample_images(file, predictor, datamodule_class)
    of_weights = "weights" if weights else "ckpt_path"
    files = {name: path for name, path in vars(options).items() if isinstance(path, Path) and path.is_file()}
    paths = b"\0".join(os.fsencode(path.absolute()) for path in images)
    config = {  # all that decides the rows
        **given,
        of_weights: str(file),
        "device": device,
        "images": {"count": len(images), "sha256_of_paths": hashlib.sha256(paths).hexdigest()},
        "sha256": {name: digest_of(path) for name, path in {**files, of_weights: found}.items()},
    }
    options.images = images  # for a task that numbers them
    with _rows_of_run(task, options.runs, yaml.safe_dump(config, encoding="utf-8")) as rows:
        describe, finish = command.start(options, predictor, rows.run)
        sheets = _Sheets(rows.run / "pictures")

        def predict(path: Path) -> None:
            image = predictor.open(path)
            described = describe(path, image, rows.count)
            rows.append({"file": str(path), **described.row}, described.kept)
            if command.sheets:
                sheets.add(image if described.tile is None else described.tile, f"{path.name}\n{described.caption}")

        if rows.done:
            print(f"going on with {rows.run}: {count_of(rows.count, 'image')} of {len(images):,} done", flush=True)
        try:
            unreadable = for_each([path for path in images if str(path) not in rows.done], predict, rows.count)
        finally:
            sheets.write()
        own_lines = finish(rows.count, iter(rows))
        written = rows.finish()
    if rows.count <= _PRINTED:
        for row in written.read_text("utf-8").splitlines():
            print(escaped(row))
    for line in own_lines:
        print(printed(line))
    left_out = f", {unreadable:,} could not be read" if unreadable else ""
    print(f"{count_of(rows.count, 'image')}{left_out}: {written}")
    if cut_short := sorted(take_cut_short()):
        file, reason = cut_short[0]
        print(printed(f"note: {said_of_cut_short(len(cut_short))}; the first is {file}: {reason}"))
    if sheets.folder.is_dir():
        print(f"pictures: {sheets.folder}")
    print(f"run: {rows.run}")


class _Rows:
    """The rows of a run on the disk, each from when its image is done, and beside each what the task keeps for its end.

    While they are open no other process adds to them. `done` are the files that have a row from a call before.
    """

    def __init__(self, run: Path, mode: str) -> None:
        self.run, self.count, self.done = run, 0, set[str]()
        self.part, self.kept = run / "predictions.jsonl.part", run / "kept.jsonl.part"
        self._files = [path.open(mode, buffering=0) for path in (self.kept, self.part)]
        self.locked = _lock(self._files[1].fileno())

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Any]]:
        with self.part.open("rb") as part, self.kept.open("rb") as kept:
            for row, more in zip(part, kept, strict=True):
                yield json.loads(row), json.loads(more)

    def append(self, row: Mapping[str, Any], kept: Any) -> None:
        """Write both to the disk."""
        for file, content in zip(self._files, (kept, row), strict=True):
            # A name that is not UTF-8 stays readable JSON: \udcff is its escape too.
            data = f"{json.dumps(content, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
            while data:
                data = data[file.write(data) :]
        self.count += 1

    def recover(self) -> bool:
        """Drop what a kill left torn or by itself, and learn what is done.

        False where an image was changed since it was done; OSError where the run has ended in the meantime.
        """
        ends = [0, 0]
        with self.kept.open("rb") as kept, self.part.open("rb") as part:
            for lines in zip(kept, part, strict=False):
                try:
                    _, row = map(json.loads, lines)
                except ValueError:
                    break
                if not all(line.endswith(b"\n") for line in lines):
                    break
                self.done.add(row["file"])
                ends = [end + len(line) for end, line in zip(ends, lines, strict=True)]
        self.count, last = len(self.done), self.part.stat().st_mtime
        if any(Path(file).stat().st_ctime > last for file in self.done):
            return False
        for file, end in zip(self._files, ends, strict=True):
            file.truncate(end)
            file.seek(end)
        return True

    def finish(self) -> Path:
        """Give the rows, which are complete, their name; returns it."""
        os.fsync(self._files[1].fileno())
        written = self.part.rename(self.part.with_suffix(""))
        self.kept.unlink()
        return written

    def close(self) -> None:
        for file in self._files:
            file.close()


@contextlib.contextmanager
def _rows_of_run(task: str, root: Path, config: bytes) -> Iterator[_Rows]:
    """The rows of the newest unfinished run of this config, or of a new run.

    Where the body fails with no row, nothing of them is left; else a line says that they are kept. Raises InputError
    where the disk is full or may not be written to.
    """
    from data.folders import count_of
    from tasks.run_folders import new_run

    with contextlib.ExitStack() as stack:
        rows = _unfinished(root / task, config)
        run = rows.run if rows else stack.enter_context(new_run(task, root, "--runs"))
        try:
            if rows is None:
                rows = _Rows(run, "xb")
                write_whole(run / "config.yaml", config)  # from now on others may find it; it is locked before
            yield rows
        except BaseException as error:
            with contextlib.suppress(OSError):  # it must not hide the error
                if rows and rows.count:
                    print(f"{count_of(rows.count, 'image')} done, kept in {run}; the same command goes on.", flush=True)
                else:
                    for name in ("config.yaml", "predictions.jsonl.part", "kept.jsonl.part"):
                        (run / name).unlink(missing_ok=True)
            told = isinstance(error, InputError) or not isinstance(error, Exception)
            if not told and (cause := disk_error(error)):
                raise InputError(f"{run} {not_written(cause)}") from error
            raise
        finally:
            if rows:
                rows.close()


def _unfinished(folder: Path, config: bytes) -> _Rows | None:
    """The rows of the newest run of this config that was interrupted and that no other process goes on with."""
    for part in sorted(folder.glob("*/predictions.jsonl.part"), reverse=True):
        # OSError: ended since it was listed, or not ours to write.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if (part.parent / "config.yaml").read_bytes() != config:
                continue
            rows = _Rows(part.parent, "rb+")
            stack.callback(rows.close)
            if rows.locked and rows.recover():
                sweep(rows.run)
                sweep(rows.run / "pictures")
                stack.pop_all()
                return rows
    return None


def _lock(file: int) -> bool:
    """Whether this open file is now locked by us; until it is closed, no other process's can be."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; another's, or a file system without locks
        return False
    return True


def images_at(source: Path) -> list[Path]:
    """The image at `source`, or the images right in that folder by their endings; InputError where there is none.

    What is called like an image and is a folder, a pipe, a socket or a device is passed over, and counted in a line; so
    are images in a format that cannot be read. Hidden files do not count.
    """
    from data.folders import UNREADABLE_ENDINGS, count_of, how_to_read, is_foreign, no_image, unreadable_images
    from data.images import IMAGE_ENDINGS

    try:
        if source.is_file():
            if (ending := source.suffix.lower()) in UNREADABLE_ENDINGS:
                raise InputError(
                    f"--source {source}: {ending} is a kind of image that cannot be read: {how_to_read(ending)}."
                )
            return [source]
        if not source.is_dir():
            what = "this is neither a file nor a folder" if source.exists() else "there is no such file or folder"
            raise InputError(f"--source {source}: {what}; name an image, or a folder of images.")
        inside = sorted(path for path in source.iterdir() if not is_foreign(path.name))
        found = [path for path in inside if path.suffix.lower() in IMAGE_ENDINGS]
        images = [path for path in found if path.is_file() or not path.exists()]  # a link to nothing is told of later
    except OSError as error:
        raise InputError(f"--source {source} cannot be read ({error.strerror or error}); make it readable.") from error
    if len(images) < len(found):
        print(f"note: {count_of(len(found) - len(images), 'name')} in {source} of no regular file passed over")
    unreadable = unreadable_images([Counter(path.suffix.lower() for path in inside)])
    if not images:
        raise InputError(f"--source {source}: this folder {no_image(unreadable)}; folders in it are not searched.")
    for issue in unreadable:
        print(f"note: {issue} ({source})")
    return images


def writable_names(names: Iterable[str]) -> list[str]:
    """For each name one that a file's can be made of: no control characters, 200 bytes or a few more, no two alike."""
    made: dict[str, None] = {}  # in order
    counts = Counter[str]()
    for name in names:
        clipped = re.sub(r"[\x00-\x1f\x7f-\x9f]", "_", name)
        while len(os.fsencode(clipped)) > _NAME_BYTES:
            clipped = clipped[:-1]
        unique = clipped
        while unique in made:
            counts[clipped] += 1
            unique = f"{clipped}_{counts[clipped] + 1}"
        made[unique] = None
    return list(made)


def _sample_images(file: Path, predictor: "Predictor", datamodule_class: Any) -> list[Path]:
    """The test images of the built-in sample, where the net was trained on it. InputError where it was not."""
    if predictor.data_options.get("root", "other data") is not None:
        raise InputError(f"{file} was not trained on the built-in sample; name images with --source.")
    data = datamodule_class(root=None)
    data.setup("test")
    records = data.records("test")
    return [records.path(position) for position in range(len(records))]


def for_each(images: Sequence[Path], predict: Callable[[Path], None], done: int = 0) -> int:
    """Call `predict` with each image, with a progress bar; return how many it could not read.

    An image for which it raises ImageError is named on stderr and passed over. InputError where all are, and none was
    `done` before.
    """
    from tqdm import tqdm

    from data.folders import count_of
    from data.images import ImageError

    unreadable, first = 0, ""
    with tqdm(images, initial=done, total=done + len(images), unit="image", disable=None) as bar:
        for path in bar:
            try:
                predict(path)
            except ImageError as error:
                unreadable, first = unreadable + 1, first or str(error)
                bar.write(f"warning: {error}", file=sys.stderr)
    if not done and unreadable == len(images):
        raise InputError(f"{count_of(len(images), 'image')}, of which none could be read; the first: {first}")
    return unreadable


class _Sheets:
    """Contact sheets of 60 tiles, each written when it is full, so that no more than one is in memory.

    A run that goes on begins a new sheet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = max((int(path.stem.rpartition("_")[2]) for path in folder.glob("predictions_*.png")), default=0)
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
        number = self.number + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"predictions_{number:03}.png") as sheet:
            contact_sheet(self.tiles, self.captions, sheet, columns=6, title=f"Predictions, sheet {number}")
        self.number = number
        self.tiles.clear()
        self.captions.clear()
