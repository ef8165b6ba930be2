"""`python -m tasks.<task> predict`, the same for every task: which images, in batches, what is written.

A task says its own options and what to write of a result; nothing heavy is imported before they are parsed.
"""

import argparse
import collections
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import Arguments, InputError
from backbone.names import printed
from tasks.next_steps import say_next
from tasks.run_folders import checkpoint_at

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.module import TaskModule
    from tasks.prediction_rows import RowsOfRun
    from tasks.predictor import Predictor, Seen
    from tasks.sources import Item, Sources

_PRINTED = 20  # images of which a line is printed; then a bar
_ON_SHEETS = 60  # images, the first ones
_OF_SAMPLE = 20  # images of the built-in sample, where no others are named
_WRITERS = 4  # threads that draw and write pictures
FORMATS = ("jsonl", "csv")


class Described(NamedTuple):
    """What is written of one image."""

    row: Mapping[str, Any]  # the line of predictions.jsonl, after the file's name
    line: str  # what is printed of it
    caption: str = ""  # under its tile on the sheet, a few lines
    kept: Any = None  # on the disk, for the files of the end: what JSON can hold


Rows = Iterable[tuple[dict[str, Any], Any]]  # each with what was kept of its image; may be gone through again
OpenImage = Callable[[], "np.ndarray"]  # the image itself, uint8 RGB (H, W, 3)


@dataclass(frozen=True)
class Started:
    """A task's part of the command once the net is there.

    `describe` gets an image, its (height, width) px, its result, and how many rows are before its own. `write`, called
    in threads, writes the files of one image, before its row. The files of the end are made from the disk alone, as
    some images may have been described by a call that was interrupted.
    """

    describe: "Callable[[Item, tuple[int, int], Any, int], Described]"
    options: Mapping[str, Any] = field(default_factory=dict)  # of head.predict
    write: "Callable[[Item, OpenImage, Any, int], None] | None" = None
    found: Callable[[Mapping[str, Any]], Iterable[str]] = lambda row: ()  # the names in a row that are counted
    finish: Callable[[int, Rows], Sequence[str]] = lambda count, rows: ()  # writes the task's own; lines to print
    columns: Sequence[str] = ()  # of predictions.csv, after the file and the frame
    table: Callable[[Mapping[str, Any]], Iterable[Sequence[object]]] = lambda row: ()  # the lines of a row there
    formats: Mapping[str, Callable[[Rows], Path]] = field(default_factory=dict)  # other than jsonl and csv


@dataclass(frozen=True)
class PredictCommand:
    """A task's part of the command; `start(options, predictor, run)` gives the rest of it."""

    description: str
    add_arguments: Callable[[Arguments], None]
    start: "Callable[[argparse.Namespace, Predictor, Path], Started]"
    load: "Callable[..., Predictor] | None" = None  # of a file and a device, where not every file is a .ckpt
    sheets: bool = True  # contact sheets of the images under pictures/
    formats: Sequence[str] = FORMATS
    # of --shards
    row: Callable[[Any, tuple[int, int]], Mapping[str, Any]] = lambda result, size: {}  # of an image's (height, width)
    fields: "Callable[[Sequence[str]], Mapping[str, pa.DataType]]" = lambda names: {}  # of a row; by the head's names
    of_results: Sequence[str] = ()  # the options that decide rows
    # takes these, and gives those of head.predict
    adjust: "Callable[[Predictor, Mapping[str, Any]], Mapping[str, Any]] | None" = None

    def predictor(self, module_class: "type[TaskModule]", file: Path, options: argparse.Namespace) -> "Predictor":
        """The predictor of a file on the device, and with the trunk, that the options name. Raises InputError."""
        from tasks.predictor import Predictor, device_of

        load = self.load or (lambda path, device: Predictor.from_checkpoint(module_class, path, device))
        trunk = getattr(options, "trunk", None)
        return load(file, device_of(options.device), **({"trunk": trunk} if trunk else {}))


def main(
    task: str, classes: "Callable[[], tuple[type[TaskModule], Any]]", command: PredictCommand, args: list[str]
) -> int:
    """Run the command; return its exit code. InputError where the source or the checkpoint cannot be used."""
    prog = f"python -m tasks.{task} predict"
    parser = Arguments(prog=prog, usage=f"{prog} [options]", description=command.description)
    add = parser.add_argument
    add(
        "--source",
        nargs="+",
        metavar="S",
        help="images, folders, globs, a list.txt, videos, 0 (a camera), - (paths on "
        "standard input); default, for a net trained on the built-in sample: some of its test images",
    )
    add(
        "--weights",
        "--model.weights",
        dest="weights",
        metavar="F",
        help="a .ckpt, a run folder, or weights of others' "
        "by file or name; default: the best checkpoint of the newest run",
    )
    add("--ckpt_path", type=Path, metavar="C.ckpt", help="the same, of ours")
    command.add_arguments(parser)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    add("--batch", type=int, metavar="N", help="images at once (default: 16 on a CPU, 64 on a GPU)")
    add("--every", type=int, default=1, metavar="N", help="of videos, each N-th frame (default: %(default)s)")
    add(
        "--format",
        default="jsonl",
        help=f"{', '.join(command.formats)}: beside predictions.jsonl, which is always written (default: %(default)s)",
    )
    add("--no-images", action="store_true", help="write no pictures")
    add("--out", type=Path, metavar="DIR", help="a new or empty folder for the results (default: a new run folder)")
    add(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where run folders are and go (default: %(default)s)",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with the newest prediction that was interrupted, or "
        "with that one, with its options; the same command does so too",
    )
    add(
        "--shards",
        metavar="S",
        help="instead of images tar shards, as --data.shards names them; writes a Parquet file for each into --out, "
        "and goes on where it was stopped",
    )
    add("--shard", metavar="i/n", help="of --shards every n-th from number i on, 0 to n - 1: one of n jobs")
    add("--engine", choices=("local", "ray"), default="local", help="ray: on the processes of --workers")
    add("--workers", type=int, default=2, metavar="N", help="processes of --engine ray (default: %(default)s)")
    options = parser.parse_args(args)
    if options.shards is None and (options.shard or options.engine == "ray"):
        raise InputError("--shard and --engine are of --shards; name shards with it.")
    if options.resume is not None and options.shards is None:
        options = _resumed(task, parser, options)
    for name in ("top", "batch", "every", "workers"):
        if (value := getattr(options, name, None)) is not None and value < 1:
            raise InputError(f"--{name} {value}: give 1 or more.")
    if (conf := getattr(options, "conf", None)) is not None and not 0 <= conf <= 1:
        raise InputError(f"--conf {conf}: give a number from 0 to 1.")
    if options.format not in command.formats:
        raise InputError(f"--format {options.format}: {task} can write {', '.join(command.formats)}; give one of them.")
    if options.weights and options.ckpt_path:
        raise InputError("--weights and --ckpt_path both name the net; give one of them.")
    if options.shards is not None:
        if options.out is None or options.source or options.resume is not None:
            raise InputError("--shards needs --out, the folder of the results; leave out --source and --resume.")
        from tasks.predict_shards import Engine, one_by_one, predict_all

        outcomes: Engine = one_by_one
        if options.engine == "ray":
            from tasks.ray_engine import outcomes
        predict_all(task, classes, command, options, _network(task, options)[1], outcomes)
        return 0
    _predict(task, *classes(), command, options)
    return 0


def _resumed(task: str, parser: Arguments, options: argparse.Namespace) -> argparse.Namespace:
    """The options of the prediction that is gone on with, as its config.yaml says them."""
    import yaml

    if options.source:  # the whole command, which finds its run by itself
        return options
    if options.resume:
        run = Path(options.resume)
        if not (run / "predictions.jsonl.part").is_file():
            raise InputError(
                f"--resume {run}: this is no folder of an interrupted prediction; leave the name out for "
                "the newest one."
            )
    else:
        parts = sorted((options.runs / task).glob("*/predictions.jsonl.part"))
        if not parts:
            raise InputError(
                f"--resume: no prediction under {options.runs / task} was interrupted; name images with "
                "--source, or the folder that --out named."
            )
        run = parts[-1].parent
    given = [name for name, value in vars(options).items() if value != parser.get_default(name)]
    if others := sorted(set(given) - {"resume", "runs"}):
        raise InputError(f"--resume takes all options from {run}; leave out --{others[0]}.")
    try:
        config = yaml.safe_load((run / "config.yaml").read_bytes())
        types = {action.dest: action.type for action in parser._actions}
        for name in set(vars(options)) - {"resume"}:
            options.__dict__[name] = Path(config[name]) if types[name] is Path and config[name] else config[name]
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise InputError(f"{run / 'config.yaml'} is not as `predict` writes it; give the whole command.") from error
    return options


def _predict(
    task: str, module_class: "type[TaskModule]", datamodule_class: Any, command: PredictCommand, options: Any
) -> None:
    import yaml

    from backbone.accelerator import retain_freed_memory
    from backbone.download import digest_of
    from data.bad_images import said_of_cut_short
    from data.folders import count_of
    from data.images import take_cut_short
    from tasks.outputs import Sheets, counted
    from tasks.prediction_rows import rows_of_run
    from tasks.predictor import device_of
    from tasks.sources import find_sources

    retain_freed_memory()
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    del given["resume"]
    device = device_of(options.device)
    file, found, predictor = _loaded(task, module_class, command, options)
    words = options.source
    sources = find_sources(words) if words else _sample_images(file, predictor, datamodule_class)
    files = {name: path for name, path in vars(options).items() if isinstance(path, Path) and path.is_file()}
    paths = b"\0".join(os.fsencode(path.absolute()) for path in sources.files)
    config = {  # all that decides the rows
        **given,
        "weights": given["weights"] and str(file),
        "ckpt_path": None if options.weights else str(file),
        "device": device,
        "images": {"count": len(sources.files), "sha256_of_paths": hashlib.sha256(paths).hexdigest()},
        "sha256": {name: digest_of(path) for name, path in {**files, "checkpoint": found}.items()},
        **({"started": time.time_ns()} if sources.camera is not None else {}),  # which cannot be gone on with
    }
    options.sources = sources  # for a task that numbers them
    with rows_of_run(task, options, yaml.safe_dump(config, encoding="utf-8")) as rows:
        started = command.start(options, predictor, rows.run)
        sheets = Sheets(rows.run / "pictures") if command.sheets and not options.no_images else None
        if rows.done:
            total = f" of {count:,}" if (count := sources.count()) else ""
            print(f"going on with {rows.run}: {count_of(rows.count, 'image')}{total} done", flush=True)
        unreadable = _Run(started, predictor, sources, rows, sheets, options).go()
        names = (name for row, _ in rows for name in started.found(row))
        if told := counted(names):
            print(printed(f"found: {told}"))
        for line in started.finish(rows.count, rows):
            print(printed(line))
        if options.format == "csv":
            print(f"table: {_write_table(rows, started)}")
        elif options.format in started.formats:
            print(f"{options.format}: {started.formats[options.format](rows)}")
        written = rows.finish()
    left_out = f", {unreadable:,} could not be read" if unreadable else ""
    print(f"{count_of(rows.count, 'image')}{left_out}: {written}")
    if cut_short := sorted(take_cut_short()):
        name, reason = cut_short[0]
        print(printed(f"note: {said_of_cut_short(len(cut_short))}; the first is {name}: {reason}"))
    if (pictures := rows.run / "pictures").is_dir():
        first = f" (a sheet of the first {_ON_SHEETS} images)" if sheets and rows.count > _ON_SHEETS else ""
        print(f"pictures: {pictures}{first}")
    say_next(*_next(task, file, options))
    print(f"run: {rows.run}")


def _network(task: str, options: Any) -> tuple[Path, Path, str]:
    """The net as it was named, its file, and its name where it is known by one; names are fetched."""
    from backbone.weights import find_weights
    from tasks.run_folders import newest_checkpoint

    file = Path(options.weights) if options.weights else options.ckpt_path or newest_checkpoint(task, options.runs)
    trunk = getattr(options, "trunk", None)
    if trunk and not options.weights:
        raise InputError(f"--model.trunk {trunk} is the network of --weights; name these too, or leave it out.")
    found, known = checkpoint_at(file), ""
    if options.weights and found == file:
        weights = find_weights(options.weights)
        found, known = checkpoint_at(weights.file), weights.name
    return file, found, known


def _loaded(
    task: str, module_class: "type[TaskModule]", command: PredictCommand, options: Any
) -> "tuple[Path, Path, Predictor]":
    """The net as it was named, its file, and its predictor; a line says which it is and how good it was."""
    from backbone.weights import table

    file, found, known = _network(task, options)
    predictor = command.predictor(module_class, found, options)
    figure = predictor.figure
    if figure and found.name != "best.ckpt":
        figure = f"its run's best: {figure}"
    if known:
        published = {row.name: row for row in table() if row.published is not None}
        if row := published.get(known):
            figure = f"{known}, published: {'mAP' if row.task == 'coco' else 'top-1'} {row.published:.1f} %"
    said = found if found.suffix == ".ckpt" else file
    kind = "checkpoint" if found.suffix == ".ckpt" else "weights"
    print(printed(f"{kind}: {said}{f' ({figure})' if figure else ''}"), flush=True)
    return (found if not options.weights else file), found, predictor


class _Run:
    """The way of all images: read ahead and in batches, written by threads, and their rows in order.

    A row is on the disk once the files of its image are, and whatever stops the run, those that are done are kept.
    """

    def __init__(
        self, started: Started, predictor: "Predictor", sources: "Sources", rows: "RowsOfRun", sheets: Any, options: Any
    ) -> None:
        self.started, self.predictor, self.sources = started, predictor, sources
        self.rows, self.sheets, self.options = rows, sheets, options
        self.waiting: collections.deque[tuple[Future[Any], Item, Described, float]] = collections.deque()
        self.number = rows.count  # of the next row
        self.unreadable, self.first = 0, ""
        self.batch = options.batch or (1 if sources.camera is not None else predictor.default_batch)

    def go(self) -> int:
        """Predict all that is not done; how many images could not be read. InputError where none could."""
        from tasks.predictor import kept_if_small

        needs_image = not self.options.no_images or getattr(self.options, "save_crops", False)
        done, camera = self.rows.count, self.sources.camera is not None
        self.told = _Progress(done, self.sources.count())
        items = self.sources.items(self.rows.done.__contains__, self.options.every, self._unreadable)
        seen = self.predictor.stream(
            items,
            batch=self.batch,
            open_item=lambda item: self.predictor.open(item.path) if item.pixels is None else item.pixels,
            keep=kept_if_small if needs_image else None,
            **self.started.options,
        )
        with contextlib.closing(self.told), ThreadPoolExecutor(_WRITERS, "write") as self.pool:
            try:
                with contextlib.closing(seen):
                    for one in seen:
                        self._take(one)
            except KeyboardInterrupt as stop:
                if not camera or type(stop) is not KeyboardInterrupt:  # the end of a camera is that it is stopped
                    raise
            finally:
                self._settle(0)
                if self.sheets:
                    self.sheets.write()
        if not done and self.unreadable and not self.rows.count:
            from data.folders import count_of

            raise InputError(
                f"{count_of(self.unreadable, 'image')}, of which none could be read; the first: {self.first}"
            )
        return self.unreadable

    def _unreadable(self, error: Exception) -> None:
        self.unreadable, self.first = self.unreadable + 1, self.first or str(error)
        self.told.say(f"warning: {error}", sys.stderr)

    def _take(self, seen: "Seen") -> None:
        """Describe an image, let its files be written, and write the rows of those before it."""
        if seen.error:
            self._unreadable(seen.error)
            return
        number, self.number = self.number, self.number + 1
        described = self.started.describe(seen.item, seen.size, seen.result, number)
        self.waiting.append((self.pool.submit(self._write, seen, number), seen.item, described, seen.seconds))
        self._settle(2 * self.batch)

    def _write(self, seen: "Seen", number: int) -> "np.ndarray | None":
        """Write the files of one image; its tile, where it comes on a sheet."""
        from tasks.outputs import tile

        def image() -> "np.ndarray":
            item = seen.item
            kept = seen.image if item.pixels is None else item.pixels
            return self.predictor.open(item.path) if kept is None else kept

        if self.started.write:
            self.started.write(seen.item, image, seen.result, number)
        return tile(image()) if self.sheets and number < _ON_SHEETS else None

    def _settle(self, most: int) -> None:
        """Write the rows of images whose files are there, in order, until no more than `most` wait."""
        while self.waiting and (len(self.waiting) > most or self.waiting[0][0].done()):
            shown = self.waiting[0][0].result()  # an interruption leaves it where it is
            _, item, described, seconds = self.waiting.popleft()
            frame = {} if item.frame is None else {"frame": item.frame, "seconds": item.seconds}
            try:
                self.rows.append({"file": str(item.path), **frame, **described.row}, described.kept)
            except BaseException:
                self.waiting.clear()  # no row is to come after one that is not whole
                raise
            self.told.count(item, described.line, seconds)
            if shown is not None:
                self.sheets.add(shown, f"{item.path.name}\n{described.caption}")


class _Progress:
    """A line for each image up to 20, then a bar; where there is no terminal, a line for each tenth of them."""

    def __init__(self, done: int, total: int | None) -> None:
        from tqdm import tqdm

        self.total, self.number, self.start, self.first = total, done, time.perf_counter(), done
        few = total is not None and total <= _PRINTED
        self.bar = tqdm(initial=done, total=total, unit="image", disable=True if few else None)
        self.tenths = 0 if few or not self.bar.disable else total or 0

    def say(self, line: str, file: Any = None) -> None:
        """Print a line above the bar."""
        self.bar.write(printed(line), file=file or sys.stdout)

    def count(self, item: "Item", line: str, seconds: float) -> None:
        """One image more is done."""
        self.number += 1
        self.bar.update()
        if self.number <= _PRINTED:
            at = "" if item.frame is None else f", frame {item.frame} ({item.seconds} s)"
            self.say(f"{item.path}{at}: {line}  ({1000 * seconds:.0f} ms)")
        elif self.tenths and self.number * 10 // self.tenths > (self.number - 1) * 10 // self.tenths:
            rate = (self.number - self.first) / (time.perf_counter() - self.start)
            self.say(f"{self.number:,} of {self.total:,} images, {rate:.0f} images/s")

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def _write_table(rows: "RowsOfRun", started: Started) -> Path:
    """Write predictions.csv: a line for each object, class or attribute, with its image."""
    from tasks.reporting import write_csv

    path = rows.run / "predictions.csv"
    lines = ([row["file"], row.get("frame", ""), *line] for row, _ in rows for line in started.table(row))
    write_csv(path, ["file", "frame", *started.columns], lines)
    return path


def _next(task: str, file: Path, options: Any) -> list[list[str | Path]]:
    """What can be done next, as the words of commands."""
    words = [f"./{word}" if word[0] == "-" and word != "-" else word for word in options.source or ["photo.jpg"]]
    again: list[str | Path] = [task, "predict", "--weights", file, "--source", *words]
    conf = None if "-" in words else getattr(options, "conf", None)  # standard input is read by now
    if conf:
        again += ["--conf", "0.5" if conf < 0.5 else "0.1"]
    # Others' weights know no images to be scored on.
    data = [] if checkpoint_at(file).suffix == ".ckpt" else ["--data", "DIR"]
    return [*([again] if conf or not options.source else []), [task, "export", "--weights", file, *data]]


def _sample_images(file: Path, predictor: "Predictor", datamodule_class: Any) -> "Sources":
    """A few test images of the built-in sample, where the net was trained on it. InputError where it was not."""
    from data.folders import say
    from tasks.sources import Sources, places

    if predictor.data_options.get("root", "other data") is not None or predictor.data_options.get("shards"):
        raise InputError(f"{file} was not trained on the built-in sample; name images with --source.")
    data = datamodule_class(root=None)
    data.setup("test")
    records = data.records("test")
    step = max(1, len(records) // _OF_SAMPLE)
    files = [records.path(position) for position in range(0, len(records), step)][:_OF_SAMPLE]
    say(f"no --source: {len(files)} of {len(records):,} test images of the built-in sample")
    return Sources(files, places(PurePath(path.name) for path in files))
