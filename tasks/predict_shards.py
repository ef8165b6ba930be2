"""`predict --shards`: the images of tar shards in, a Parquet file of rows for each shard out.

A shard is the unit of work: its file appears whole, by a rename, or not at all, and what is there is not done again. So
whatever is killed, the same command goes on, and any number of jobs may share the shards, with nothing between them.
"""

import argparse
import fnmatch
import glob
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import InputError
from backbone.files import replacing, sweep, write_whole
from backbone.names import printed
from data import shard_cache
from data.folders import count_of
from data.images import ImageError, open_image
from data.readers import shards

if TYPE_CHECKING:
    import pyarrow as pa


_AT_ONCE = 2048  # rows that are held before they are written
_BEGINNING = 1 << 20  # bytes of a shard whose digest tells it from others
_OF = b"mobilenet_tasks.shard"  # in a file's metadata: which shard it is of
_CONFIG = "_config.json"  # in the folder of the results; by "_" readers of Parquet know to leave it out


class Image(NamedTuple):
    """One image of a shard."""

    key: str
    file: str  # its name where it came from, where the shard says so
    content: bytes


class Network(NamedTuple):
    """What makes rows of images: a checkpoint, or an exported file."""

    stream: Callable[..., Iterator[Any]]  # `Predictor.stream`
    at_least: tuple[int, int] | None  # (height, width) px that an image is decoded to, or above
    row: Callable[[Any, tuple[int, int]], Mapping[str, Any]]  # of a result and the image's (height, width)
    fields: "Mapping[str, pa.DataType]"  # of `row`
    options: Mapping[str, Any]  # of the stream


class Shard(NamedTuple):
    """A shard: a file, or the copy of one that is fetched from `url`."""

    url: str  # empty for a local one
    folder: Path
    name: str

    @property
    def shown(self) -> str:
        """As it is called in rows and messages."""
        return f"{shard_cache.shown(self.url).rstrip('/')}/{self.name}" if self.url else str(self.folder / self.name)

    @property
    def file(self) -> Path:
        """The shard on this machine. Raises ImageError where it cannot be fetched."""
        return shard_cache.local_shard(self.url, self.folder, self.name) if self.url else self.folder / self.name


def located(where: str) -> list[Shard]:
    """The shards of a folder or URL with an index, or named as `--data.shards` has it, each once, in order.

    Raises InputError where there are none, two have one name, or a local one is not there.
    """
    found: dict[str, Shard] = {}
    for one in shards.named(where):
        remote, whole = shard_cache.is_remote(one), not one.endswith(".tar")
        parent, name = (one.rstrip("/") or "/", "*.tar") if whole else os.path.split(one)
        if (whole or glob.has_magic(name)) if remote else (whole and shards.is_there(Path(parent))):
            try:
                names = fnmatch.filter(shards.listed(shards.index_of(parent)), name)
            except InputError:  # a ValueError too
                raise
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{parent}/{shards.INDEX} is no index ({error!r}); write the shards again.") from error
        elif not remote and glob.has_magic(name):
            names = sorted(Path(file).name for file in glob.glob(os.path.join(parent, name)))  # noqa: PTH118, PTH207
        else:
            names = [name]
        for name in names:
            shard = Shard(parent, shard_cache.folder_of(parent), name) if remote else Shard("", Path(parent), name)
            if found.setdefault(name, shard) != shard:
                raise InputError(f"--shards: {found[name].shown} and {shard.shown} have one name; predict them apart.")
    if not found:
        raise InputError(f"--shards {where}: there is no shard; name a folder of them, or them as DIR/*.tar.")
    missing = [shard for shard in found.values() if not shard.url and not (shard.folder / shard.name).is_file()]
    if missing:
        raise InputError(f"--shards: {missing[0].shown} does not exist ({len(missing):,} of {len(found):,} do not).")
    return list(found.values())


def parquet_of(shard: Shard, out: Path) -> Path:
    """The file of a shard's rows in the folder `out`."""
    return out / f"{shard.name.removesuffix('.tar')}.parquet"


def predict_shard(shard: Shard, network: Network, out: Path, batch: int | None = None) -> tuple[int, int] | None:
    """Write a row for each image of a shard; how many there are and how many could not be read. None: it was there.

    A row has the columns of `schema_of`, in the shard's order; of an image that cannot be read `error` says why. Raises
    InputError, and writes nothing, where the shard cannot be read to its end, or has a key twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = parquet_of(shard, out)
    if path.exists():
        check_done(shard, out)
        return None
    whose = identity(shard, whole=True)
    schema, keys, bad, rows = schema_of(network).with_metadata({_OF: whose}), set[str](), 0, []
    nothing = dict.fromkeys(network.fields)

    def opened(image: Image) -> Any:
        return open_image(image.file, at_least=network.at_least, content=image.content)

    words = [name for name, kind in _leaves(schema) if pa.types.is_string(kind)]  # a dictionary of floats is in vain
    with (
        replacing(path) as beside,
        pq.ParquetWriter(beside, schema, compression="zstd", use_dictionary=words) as writer,
    ):
        for seen in network.stream(_images(shard), batch=batch, open_item=opened, **network.options):
            image: Image = seen.item
            if image.key in keys:
                raise InputError(f"{shard.shown} has two images of the key {image.key}; give each a key of its own.")
            keys.add(image.key)
            bad += seen.error is not None
            made = nothing if seen.error else network.row(seen.result, seen.size)
            error = seen.error.reason if seen.error else None
            rows.append({"key": image.key, "file": image.file, "shard": shard.name, "error": error, **made})
            if len(rows) == _AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return len(keys), bad


def check_done(shard: Shard, out: Path) -> None:
    """Raise InputError where the file that is there for a shard is not of this shard, but of another of its name."""
    import pyarrow.parquet as pq

    path = parquet_of(shard, out)
    if (pq.read_schema(path).metadata or {}).get(_OF) != identity(shard):
        raise InputError(f"{path} is of another shard than {shard.shown}; give another --out.")


def identity(shard: Shard, *, whole: bool = False) -> bytes:
    """What tells a shard from others of its name: its size and a digest of its beginning, or by its index.

    Raises InputError where it is not as its index says; its digest is looked at with `whole`.
    """
    size, digest = shard_cache.stated(shard.folder).get(shard.name, (None, None))
    if shard.url:  # held to these when it is fetched
        return f"{size} {digest}".encode() if digest else shard.shown.encode()
    with shard.file.open("rb") as file:
        there, beginning = os.fstat(file.fileno()).st_size, hashlib.sha256(file.read(_BEGINNING)).hexdigest()
        file.seek(0)
        same = not (whole and digest) or hashlib.file_digest(file, "sha256").hexdigest() == digest
    if size not in (None, there) or not same:
        raise InputError(f"{shard.shown} is not what its index says (size or SHA-256); copy it again.")
    return f"{there} {beginning}".encode()


def schema_of(network: Network) -> "pa.Schema":
    """The columns of every shard's file, whatever is in it: key, file, shard, error, and those of the task."""
    import pyarrow as pa

    own = {"key": pa.string(), "file": pa.string(), "shard": pa.string(), "error": pa.string()}
    return pa.schema({**own, **network.fields})


def _leaves(fields: Iterable[Any], before: str = "") -> "Iterator[tuple[str, pa.DataType]]":
    """The columns as Parquet counts them: name, and type, of all that is in lists and structs."""
    import pyarrow as pa

    for field in fields:
        name, kind = f"{before}{field.name}", field.type
        while pa.types.is_list(kind):
            name, kind = f"{name}.list.element", kind.value_type
        if pa.types.is_struct(kind):
            yield from _leaves((kind.field(i) for i in range(kind.num_fields)), f"{name}.")
        else:
            yield name, kind


def _utf8(name: str) -> str:
    """The name with what is no UTF-8 in it, which Parquet cannot have, escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _images(shard: Shard) -> Iterator[Image]:
    for key, name, content, given in shards.members(shard.file):
        yield Image(_utf8(key), _utf8(str(given.get("file") or name)), content)


Outcome = tuple[Shard, "tuple[int, int] | str"]
# What came of each shard, as they are done: of shards, how to make a network, the folder of the results, the options
Engine = Callable[[Sequence[Shard], Callable[[], Network], Path, argparse.Namespace], Iterator[Outcome]]


# --- the command ------------------------------------------------------------------------------------------------------


def predict_all(
    task: str,
    classes: Callable[[], Any],
    command: Any,
    options: argparse.Namespace,
    file: Path,
    outcomes: Engine,
) -> None:
    """Predict the shards that this job has by the network of a file; `command` is the task's PredictCommand.

    Raises InputError where a shard could not be read.
    """
    out, index, jobs = options.out, *_share(options.shard)
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError('--shards writes Parquet by pyarrow; pip install "mobilenet-tasks[parquet]".') from error
    wanted = located(options.shards)[index::jobs]
    make, about = _maker(task, classes, command, options, file)
    _begin(out, {"task": task, **about})
    there = {shard for shard in wanted if parquet_of(shard, out).exists()}
    left = [shard for shard in wanted if shard not in there]
    for shard in there:
        check_done(shard, out)
    if there:
        print(f"{count_of(len(there), 'shard')} of {len(wanted):,} done already", flush=True)
    images = bad = 0
    failed, start, before = list[str](), 0.0, 0
    for number, (shard, outcome) in enumerate(outcomes(left, make, out, options) if left else (), 1):
        if isinstance(outcome, str):
            failed.append(outcome)
            print(printed(f"error: {outcome}"), file=sys.stderr, flush=True)
            continue
        images, bad = images + outcome[0], bad + outcome[1]
        unread = f", {outcome[1]:,} could not be read" if outcome[1] else ""
        rate = f", {(images - before) / (time.perf_counter() - start):,.0f} images/s" if start else ""
        told = f"{shard.name}: {count_of(outcome[0], 'image')}{unread}"
        print(printed(f"{told} ({number:,} of {count_of(len(left), 'shard')}{rate})"), flush=True)
        if not start:  # the network is there by now
            start, before = time.perf_counter(), images
    if failed:
        first = f"{count_of(len(failed), 'shard')} of {len(wanted):,} could not be read, the first: {failed[0]}"
        raise InputError(f"{first.rstrip('.')}; the same command tries these again.")
    if left and not images:
        raise InputError(f"--shards {options.shards}: there is no image in them.")
    print(f"{count_of(images, 'image')}, {bad:,} could not be read: {out}")


def outcome_of(shard: Shard, network: Network, out: Path, batch: int | None) -> "tuple[int, int] | str":
    """What `predict_shard` gives, or the sentence of its error."""
    try:
        return predict_shard(shard, network, out, batch) or (0, 0)  # another job has just done it
    except ImageError as error:
        return f"{shard.shown} cannot be read ({error.reason})"
    except InputError as error:
        return str(error)


def one_by_one(
    left: Sequence[Shard], make: Callable[[], Network], out: Path, options: argparse.Namespace
) -> Iterator[Outcome]:
    """What came of each shard, in this process."""
    network = make()
    for shard in left:
        yield shard, outcome_of(shard, network, out, options.batch)


def _share(word: str | None) -> tuple[int, int]:
    """Which of how many jobs this one is."""
    if word is None and "TORCHELASTIC_RUN_ID" in os.environ:  # the processes of torchrun share them
        word = f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}"
    found = re.fullmatch(r"(\d+)/(\d+)", word or "0/1")
    if not found or not int(found[1]) < int(found[2]):
        raise InputError(f"--shard {word}: give i/n, this job's number from 0 to n - 1 and how many there are.")
    return int(found[1]), int(found[2])


def _begin(out: Path, config: dict[str, Any]) -> None:
    """Make the folder of the results, or find it begun with the same network and options. InputError where not."""
    text = json.dumps(config, indent=1)
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = out / _CONFIG
        if not before.is_file():
            if any(not path.name.startswith(".") for path in out.iterdir()):
                raise InputError(f"--out {out} is not empty, and has no {_CONFIG} of this command; give a new folder.")
            write_whole(before, text)  # as other jobs do at the same time, and see below whether it is theirs
        if before.read_text("utf-8") != text:
            raise InputError(f"--out {out} has the results of another network or of other options; give a new folder.")
        sweep(out)
    except OSError as error:
        raise InputError(f"--out {out} cannot be used ({error.strerror or error}); give another folder.") from error


def _maker(
    task: str, classes: Callable[[], Any], command: Any, options: argparse.Namespace, file: Path
) -> tuple[Callable[[], Network], dict[str, Any]]:
    """How each process makes its network, and all that decides the rows."""
    from backbone.download import digest_of

    given = {name: getattr(options, name) for name in command.of_results if getattr(options, name, None) is not None}
    print(printed(f"network: {file}"), flush=True)
    about, file = {"sha256": digest_of(file), "options": given}, file.absolute()

    def make() -> Network:
        from backbone.accelerator import retain_freed_memory

        retain_freed_memory()
        if file.suffix == ".onnx":
            return _exported(task, command, file, given)
        predictor = command.predictor(classes()[0], file, options)
        adjusted = command.adjust(predictor, given) if command.adjust else given
        fields = command.fields(getattr(predictor.head, "names", ()))
        return Network(predictor.stream, predictor.at_least, command.row, fields, adjusted)

    return make, about


def _exported(task: str, command: Any, file: Path, given: Mapping[str, Any]) -> Network:
    """The network of an exported ONNX file, by onnxruntime; its rows are those of the runner."""
    from tasks.predictor import stream
    from tasks.run import InputError as Refused
    from tasks.run import Model

    try:
        model = Model(file, **{name: given[name] for name in ("conf", "top") if name in given})
    except Refused as error:
        raise InputError(str(error)) from error
    except ImportError as error:
        raise InputError(f'{file} needs onnxruntime; pip install "mobilenet-tasks[onnx]".') from error
    if model.task != task:
        raise InputError(f"{file} is of {model.task}; predict with that task.")

    def answer(resized: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        import numpy as np

        return model.rows(np.stack(resized), sizes)

    def streamed(items: Iterable[Image], *, batch: int | None, open_item: Callable[[Image], Any]) -> Iterator[Any]:
        return stream(items, open_item, model.resized, answer, batch or 8)

    return Network(streamed, model.at_least, lambda row, size: row, command.fields(model.names), {})
