"""Geotagged photographs in tar shards, for data sets that outgrow one disk: read from end to end, never at random.

The format is WebDataset's (https://github.com/webdataset/webdataset): `key.jpg` and `key.json` of a picture follow each
other in a shard. Its library reads and shuffles them. Which worker has which shard, how many batches there are and
where a resumed run goes on is decided here: a rate that falls to 0 needs to know the length, and the library leaves all
three to its user (its issues #177, #234 and #271).
"""

import itertools
import json
import random
import re
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from backbone.errors import InputError
from data import cache
from data.coordinates import Columns, LeftOut, clean, read_rows
from data.geotagged import GeotaggedImages, stems
from data.images import IMAGE_ENDINGS, open_image
from data.loading import start_worker, training_position
from data.photographs import Photographs, Size, collate

_BUFFER = 1000  # pictures, not decoded, that a worker draws the next one from
_NAMES = (("latitude", "longitude"), ("LAT", "LON"), ("lat", "lon"), ("lat", "lng"))  # in a JSON
_META = re.compile(r"__[^/]*__($|/)")  # members that the library passes over

_KEPT_AS = "shards-1"  # another number where what is kept changes


@dataclass(frozen=True)
class Shards:
    """What is known of some shards: their pictures in the order that they are in, with their places."""

    files: tuple[str, ...]
    counts: np.ndarray  # int64 (S,): pictures in each, those left out as well
    positions: np.ndarray  # int64 (P,): of each such picture its position in `images`, -1 left out
    images: GeotaggedImages  # file_names are "<shard>/<key>.<ending>"
    notes: tuple[str, ...]

    def kept(self) -> np.ndarray:
        """Pictures in each shard that are trained on, int64 (S,)."""
        ends = np.cumsum(self.counts)
        return np.array([(part >= 0).sum() for part in np.split(self.positions, ends[:-1])])


def read_shards(pattern: str, listed: Path | None = None, columns: Columns | None = None) -> Shards:
    """What is in the shards of `pattern`, as `DIR/train-{000000..000123}.tar`: one pass, kept for the next run.

    A picture's place is in its JSON, as latitude and longitude, or in the CSV `listed` by its key. Of files the
    pictures are passed over; what `pipe:` or a URL gives has to be read from end to end. Raises InputError where a
    shard is missing or cut off, for a place that clean() refuses, and where there is no picture.
    """
    files = tuple(_library().shardlists.expand_urls(pattern))
    gone = [file for file in files if _is_file(file) and not Path(file).is_file()]
    if gone:
        raise InputError(f"--data.shards: {gone[0]} is not there ({len(gone):,} of {len(files):,}); correct {pattern}.")
    names, latlng, counts = _kept_index(pattern, files)
    left_out = LeftOut()
    if listed is not None:
        latlng = _looked_up(names, latlng, listed, columns, left_out)
    has = np.flatnonzero(~np.isnan(latlng[:, 0]))
    if len(has) < len(names):
        first = int(np.argmax(np.isnan(latlng[:, 0])))
        left_out.note("no position", len(names) - len(has), lambda: names[first].decode(errors="replace"))
    if not len(has):
        raise InputError(
            f"{pattern} has no picture with a place ({len(names):,} pictures); write `key.json` with latitude and "
            "longitude beside each, or give --data.shards_csv."
        )
    cleaned, keep = clean(latlng[has], pattern, lambda row: names[has[row]].decode(errors="replace"), left_out)
    chosen = has[keep]
    positions = np.full(len(names), -1)
    positions[chosen] = np.arange(len(chosen))
    folder = Path(files[0]).parent if _is_file(files[0]) else Path()
    images = GeotaggedImages(folder, names[chosen], cleaned[keep])
    return Shards(files, counts, positions, images, tuple(left_out.lines("picture", pattern)))


def make_shard_loader(
    shards: Shards, photographs: Photographs, batch_size: int, num_workers: int, trainer: Trainer | None
) -> DataLoader:
    """The training batches of `shards`, each picture as `photographs` augments it, from where the trainer stands."""
    epoch, start = training_position(trainer, batch_size) if trainer else (0, 0)
    dataset = StreamedPhotographs(
        shards,
        photographs,
        batch_size=batch_size,
        num_workers=num_workers,
        rank=trainer.global_rank if trainer else 0,
        num_replicas=trainer.world_size if trainer else 1,
        epoch=epoch,
        batches_done=start // batch_size,
    )
    warnings.filterwarnings("ignore", ".*IterableDataset.*has `__len__` defined.*")  # it is right: each has its own
    return DataLoader(
        dataset,
        batch_size=None,  # the data set gives batches
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # as in loading.py
    )


class StreamedPhotographs(IterableDataset):
    """Batches of an epoch, the next one each time it is iterated over.

    A worker has the same shards in every epoch, in another order, so that the number of batches does not change; it
    drops a last, smaller batch unless it is its only one. The first epoch goes on after `batches_done` of this rank's.
    """

    def __init__(
        self,
        shards: Shards,
        photographs: Photographs,
        *,
        batch_size: int,
        num_workers: int,
        rank: int = 0,
        num_replicas: int = 1,
        epoch: int = 0,
        batches_done: int = 0,
    ) -> None:
        workers = max(1, num_workers)
        if len(shards.files) < num_replicas:
            raise InputError(
                f"--data.shards names {len(shards.files)} shards for {num_replicas} devices; give at least as many."
            )
        self.shards = shards
        self.photographs = photographs
        self.batch_size = batch_size
        self.epoch = self.first_epoch = epoch
        every = range(len(shards.files))
        shares = [
            [every[worker * num_replicas + replica :: workers * num_replicas] for worker in range(workers)]
            for replica in range(num_replicas)
        ]
        kept = shards.kept()
        batches = [[_batches(int(kept[share].sum()), batch_size) for share in of_rank] for of_rank in shares]
        self.shares, self.batches = shares[rank], batches[rank]
        self.length = min(map(sum, batches))  # no rank may wait for one that has no more
        self.skipped, self.turn = _dealt(self.batches, batches_done)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, skipped = 0 if info is None else info.id, 0
        epoch, self.epoch = self.epoch, self.epoch + 1
        if epoch == self.first_epoch:  # the loader takes a batch from its first worker first, whose turn it may not be
            worker = (worker + self.turn) % len(self.shares)
            skipped = self.skipped[worker]
        seed = (self.photographs.seed, epoch, worker)
        order = np.random.default_rng(seed).permutation(np.array(self.shares[worker], dtype=np.int64))
        shuffled = _library().shuffle(_BUFFER, rng=random.Random(repr(seed)))(self._pictures(order.tolist()))
        size = self.batch_size
        wanted = itertools.islice(shuffled, skipped * size, self.batches[worker] * size)
        while chosen := list(itertools.islice(wanted, size)):
            yield collate([self._sample(epoch, *picture) for picture in chosen])

    def _pictures(self, order: list[int]) -> Iterator[tuple[int, bytes]]:
        """(position, content) of the pictures that are trained on, shard by shard."""
        starts = np.cumsum(self.shards.counts) - self.shards.counts
        for shard in order:
            row = int(starts[shard])
            for sample in _library().tarfile_samples([{"url": self.shards.files[shard]}]):
                if ending := _ending(sample):
                    if (position := int(self.shards.positions[row])) >= 0:
                        yield position, sample[ending]
                    row += 1

    def _sample(self, epoch: int, position: int, content: bytes) -> dict[str, Any]:
        self.photographs.opened = _Content(content)
        return self.photographs[epoch, position]


class _Content:
    """Opens a picture that was read already."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __call__(self, images: GeotaggedImages, position: int, at_least: Size | None = None) -> np.ndarray:
        return open_image(images.path(position), at_least=at_least, content=self.content)


def _as_it_is(batch: Any) -> Any:
    return batch


def _batches(samples: int, size: int) -> int:
    return samples // size or min(samples, 1)


def _dealt(batches: list[int], done: int) -> tuple[list[int], int]:
    """How many of the first `done` batches came from each worker, and whose turn is next.

    A loader takes them from its workers in turn, and passes over those that have no more.
    """
    dealt, worker = [0] * len(batches), 0
    for _ in range(min(done, sum(batches))):
        while dealt[worker] == batches[worker]:
            worker = (worker + 1) % len(batches)
        dealt[worker] += 1
        worker = (worker + 1) % len(batches)
    return dealt, worker


def _library() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise InputError(
            "--data.shards needs the library webdataset; install it by `pip install webdataset`, or this project with "
            "its extra `shards`."
        ) from error
    return webdataset


def _is_file(url: str) -> bool:
    return not re.match(r"[a-z0-9]+:", url)


def _ending(sample: dict[str, Any]) -> str | None:
    """By which a sample of the library has its picture."""
    return next((ending for ending in sample if f".{ending}" in IMAGE_ENDINGS), None)


# --- what is in them ------------------------------------------------------------------------------------------------


def _kept_index(pattern: str, files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names, bytes (P,), latlng (P, 2), NaN for none, and counts (S,); from the cache where no file has changed."""
    stats = [Path(file).stat() if _is_file(file) else None for file in files]
    stamps = np.array([(-1, -1) if stat is None else (stat.st_size, stat.st_mtime_ns) for stat in stats])
    known = cache.load(_KEPT_AS, Path(pattern))
    if known and np.array_equal(known["stamps"], stamps):
        return known["names"], known["latlng"], known["counts"]
    names: list[bytes] = []
    latlng: list[tuple[float, float]] = []
    counts = []
    for file in tqdm(files, desc="looking into the shards", unit=" shards", delay=2, leave=False):
        before = len(names)
        for name, place in _look_into(file):
            names.append(name)
            latlng.append(place)
        counts.append(len(names) - before)
    arrays = {
        "names": np.array(names, dtype=np.bytes_),
        "latlng": np.array(latlng, dtype=np.float64).reshape(-1, 2),
        "counts": np.array(counts),
    }
    cache.save(_KEPT_AS, Path(pattern), {**arrays, "stamps": stamps})
    return arrays["names"], arrays["latlng"], arrays["counts"]


def _look_into(file: str) -> Iterator[tuple[bytes, tuple[float, float]]]:
    """The name and the place of each picture of a shard, grouped as the library groups what it streams."""
    wds = _library()
    shard = file.rpartition("/")[2]

    def members(archive: tarfile.TarFile) -> Iterator[dict[str, Any]]:
        for member in archive:
            if member.isreg() and not _META.match(member.name):
                content = archive.extractfile(member) if member.name.lower().endswith(".json") else None
                yield {"fname": member.name, "data": b"" if content is None else content.read(), "__url__": file}

    try:
        with (
            wds.gopen(file) as stream,
            tarfile.open(fileobj=stream, mode="r:" if _is_file(file) else "r|*") as archive,
        ):
            for sample in wds.tariterators.group_by_keys(members(archive)):
                if ending := _ending(sample):
                    name = f"{sample['__key__']}.{ending}"
                    yield f"{shard}/{name}".encode(errors="surrogateescape"), _place(sample.get("json"), file, name)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{file} is not a tar archive, or it is cut off ({error}); make or fetch it again.") from error


def _place(content: bytes | None, file: str, name: str) -> tuple[float, float]:
    """(latitude, longitude) of a JSON, NaN where it has none."""
    if content is None:
        return np.nan, np.nan
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file}: the JSON of {name} cannot be read ({error}); correct it.") from error
    given = found if isinstance(found, dict) else {}
    values = [given[key] for names in _NAMES if {*names} <= given.keys() for key in names][:2]
    if not values or None in values or "" in values:
        return np.nan, np.nan
    try:
        latitude, longitude = map(float, values)
    except (TypeError, ValueError):
        latitude = longitude = np.nan
    if not np.isfinite([latitude, longitude]).all():
        raise InputError(f"{file}: the JSON of {name} has the place {values}; it must be latitude and longitude.")
    return latitude, longitude


def _looked_up(
    names: np.ndarray, latlng: np.ndarray, listed: Path, columns: Columns | None, left_out: LeftOut
) -> np.ndarray:
    """The latlng, those that are missing from the CSV `listed`, where its paths are the pictures' keys."""
    rows = list(read_rows(listed, columns, left_out))
    keys, places = stems(np.concatenate([part.paths for part in rows])), np.concatenate([part.latlng for part in rows])
    wanted = stems(names)
    order = np.argsort(keys, kind="stable")
    at = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    found = (keys[at] == wanted) & np.isnan(latlng[:, 0])
    return np.where(found[:, None], places[at], latlng)
