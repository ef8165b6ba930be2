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
from data.coordinates import LeftOut, clean
from data.coordinates_columns import GROUP_NAMES, Columns
from data.coordinates_csv import read_rows
from data.geotagged import GeotaggedImages, Undivided, last_parts, without_endings
from data.images import IMAGE_ENDINGS, open_image
from data.loading import start_worker, training_position
from data.photographs import Photographs, Size, collate

_BUFFER = 1000  # pictures, not decoded, that a worker draws the next one from
_NAMES = (("latitude", "longitude"), ("LAT", "LON"), ("lat", "lon"), ("lat", "lng"))  # in a JSON
_META = re.compile(r"__[^/]*__($|/)")  # members that the library passes over

_ARCHIVE = re.compile(rb"(?:.*/)?([^/]+)\.(?:tar|tgz)[^/]*/(.*)")  # a shard, and what is in it
_LONGEST = 100  # bytes that are kept of a group: arrays are as wide as their longest

_KEPT_AS = "shards-2"  # another number where what is kept changes


@dataclass(frozen=True)
class Shards:
    """What is known of some shards: their pictures in the order that they are in, with their places."""

    files: tuple[str, ...]
    counts: np.ndarray  # int64 (S,): pictures in each, those left out as well
    positions: np.ndarray  # int64 (P,): of each such picture its position in `images`, -1 left out
    images: GeotaggedImages  # file_names are "<shard>/<key>.<ending>"
    groups: np.ndarray  # bytes (N,): of each of `images` the photographer, sequence or place, empty where none is known
    notes: tuple[str, ...]
    pattern: str

    def kept(self) -> np.ndarray:
        """Pictures in each shard that are trained on, int64 (S,)."""
        ends = np.cumsum(self.counts)
        return np.array([(part >= 0).sum() for part in np.split(self.positions, ends[:-1])])

    def overlap_with(self, scored: Undivided) -> tuple[str, ...]:
        """What is known of these pictures' being others' near kin, as far as it makes scores flatter: sentences."""
        known = self.groups != b""
        if scored.by in ("day", "picture") or not known.any():
            without = scored.source if scored.by in ("day", "picture") else self.pattern
            kin = f"whether the same photographers took them is not known, as {without} does not say whose a picture is"
        else:
            shared = known & np.isin(self.groups, [name[:_LONGEST] for name in np.unique(scored.group_names).tolist()])
            count, of = int(shared.sum()), len(np.unique(self.groups[shared]))
            unknown = f" ({(~known).sum():,} do not say whose they are)" if not known.all() else ""
            kin = (
                f"{count:,} of {len(known):,} are of {of:,} of its groups (by {scored.by})"
                f"{', so that its scores flatter' if count else ''}{unknown}"
            )
        return (f"{self.pattern} is trained on whether or not a picture looks like one of {scored.source}; {kin}",)


def read_shards(pattern: str, listed: Path | None = None, columns: Columns | None = None) -> Shards:
    """What is in the shards of `pattern`, as `DIR/train-{000000..000123}.tar`: one pass, kept for the next run.

    A picture's place is in its JSON, as latitude and longitude, or in the CSV `listed` by its key. Of files the
    pictures are passed over; what `pipe:` or a URL gives has to be read from end to end. Raises InputError where a
    shard is missing or cut off, for a place that clean() refuses, where it is not certain which picture a row of the
    list is of, and where there is no picture.
    """
    files = tuple(_library().shardlists.expand_urls(pattern))
    folders = [file for file in files if _is_file(file) and Path(file).is_dir()]
    if folders:
        raise InputError(
            f"--data.shards: {folders[0]} is a folder; name its shards, as DIR/train-{{000000..000123}}.tar."
        )
    gone = [file for file in files if _is_file(file) and not Path(file).is_file()]
    if gone:
        raise InputError(f"--data.shards: {gone[0]} is not there ({len(gone):,} of {len(files):,}); correct {pattern}.")
    names, latlng, groups, counts = _kept_index(pattern, files)
    left_out = LeftOut()
    if listed is not None:
        latlng, groups = _looked_up(names, latlng, groups, listed, columns, left_out)
    has = np.flatnonzero(~np.isnan(latlng[:, 0]))
    if len(has) < len(names):
        first = int(np.argmax(np.isnan(latlng[:, 0])))
        left_out.note("no position", len(names) - len(has), lambda: names[first].decode(errors="replace"))
    if not len(has):
        raise InputError(
            f"{pattern} has no picture with a place ({len(names):,} pictures); write `key.json` with latitude and "
            "longitude beside each, or give --data.shards_csv."
        )
    cleaned, keep = clean(latlng[has], pattern, lambda row: names[has[row]].decode(errors="replace"), left_out, "JSON")
    chosen = has[keep]
    positions = np.full(len(names), -1)
    positions[chosen] = np.arange(len(chosen))
    folder = Path(files[0]).parent if _is_file(files[0]) else Path()
    images = GeotaggedImages(folder, names[chosen], cleaned[keep])
    return Shards(files, counts, positions, images, groups[chosen], tuple(left_out.lines("picture", pattern)), pattern)


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


def _kept_index(pattern: str, files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, bytes (P,), latlng (P, 2), NaN for none, groups, bytes (P,), and counts (S,).

    From the cache where no file has changed.
    """
    stats = [Path(file).stat() if _is_file(file) else None for file in files]
    stamps = np.array([(-1, -1) if stat is None else (stat.st_size, stat.st_mtime_ns) for stat in stats])
    known = cache.load(_KEPT_AS, Path(pattern))
    if known and np.array_equal(known["stamps"], stamps):
        return known["names"], known["latlng"], known["groups"], known["counts"]
    names: list[bytes] = []
    latlng: list[tuple[float, float]] = []
    groups: list[bytes] = []
    counts = []
    for file in tqdm(files, desc="looking into the shards", unit=" shards", delay=2, leave=False):
        before = len(names)
        for name, place, group in _look_into(file):
            names.append(name)
            latlng.append(place)
            groups.append(group)
        counts.append(len(names) - before)
    arrays = {
        "names": np.array(names, dtype=np.bytes_),
        "latlng": np.array(latlng, dtype=np.float64).reshape(-1, 2),
        "groups": np.array(groups, dtype=np.bytes_),
        "counts": np.array(counts),
    }
    cache.save(_KEPT_AS, Path(pattern), {**arrays, "stamps": stamps})
    return arrays["names"], arrays["latlng"], arrays["groups"], arrays["counts"]


def _look_into(file: str) -> Iterator[tuple[bytes, tuple[float, float], bytes]]:
    """The name, the place and the group of each picture of a shard, put together as the library does in streaming."""
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
                    given = _parsed(sample.get("json"), file, name)
                    yield f"{shard}/{name}".encode(errors="surrogateescape"), _place(given, file, name), _group(given)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{file} is not a tar archive, or it is cut off ({error}); make or fetch it again.") from error


def _parsed(content: bytes | None, file: str, name: str) -> dict[str, Any]:
    """What a JSON says, nothing where there is none."""
    if content is None:
        return {}
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file}: the JSON of {name} cannot be read ({error}); correct it.") from error
    return found if isinstance(found, dict) else {}


def _place(given: dict[str, Any], file: str, name: str) -> tuple[float, float]:
    """(latitude, longitude) of a JSON, NaN where it has none."""
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


def _group(given: dict[str, Any]) -> bytes:
    """The photographer, sequence or place of a JSON, by the names that a CSV's column may have; empty for none."""
    lower = {key.lower(): value for key, value in given.items() if isinstance(value, str | int)}
    group = next((str(lower[name]) for name in GROUP_NAMES if name in lower), "")
    return group.strip().encode(errors="surrogateescape")[:_LONGEST]


def _looked_up(
    names: np.ndarray,
    latlng: np.ndarray,
    groups: np.ndarray,
    listed: Path,
    columns: Columns | None,
    left_out: LeftOut,
) -> tuple[np.ndarray, np.ndarray]:
    """The latlng and the groups, those that are missing from the CSV `listed`, whose paths are the pictures' keys.

    With the shard in front, as `train-000.tar/key`; else the key with its folders; else, where one of the two has no
    folders, the last part of the other. Raises InputError where a row may be of two pictures, or the other way round.
    """
    rows = list(read_rows(listed, columns, left_out))
    paths = without_endings(np.concatenate([part.paths for part in rows]))
    places = np.concatenate([part.latlng for part in rows])
    of_rows = np.concatenate(
        [
            np.zeros(len(part.paths), "S1") if part.groups is None else part.groups.astype(f"S{_LONGEST}")
            for part in rows
        ]
    )
    in_shard = np.array([_ARCHIVE.sub(rb"\1/\2", path) for path in paths.tolist()], np.bytes_)
    bare = without_endings(names)
    of_shard = np.array([_ARCHIVE.sub(rb"\1/\2", name) for name in bare.tolist()], np.bytes_)
    keys = np.array([name.partition(b"/")[2] for name in bare.tolist()], np.bytes_)
    named = np.array([_ARCHIVE.match(path) is not None for path in paths.tolist()], dtype=bool)
    flat_row, flat_key = np.strings.find(paths, b"/") < 0, np.strings.find(keys, b"/") < 0
    at = np.full(len(names), -1)
    wanting = np.isnan(latlng[:, 0])

    def look(wanted: np.ndarray, which: np.ndarray, given: np.ndarray, candidates: np.ndarray) -> bool:
        left, those = np.flatnonzero((at < 0) & which), np.flatnonzero(candidates)
        found = _matched(names[left], wanted[left], given[those], wanting[left], listed)
        at[left[found >= 0]] = those[found[found >= 0]]
        return bool((found >= 0).any())

    every = np.ones(len(names), dtype=bool)
    by_shard = look(of_shard, every, in_shard, ~flat_row)
    look(keys, every, paths, ~named)
    look(last_parts(keys), ~flat_key, paths, flat_row)
    if not by_shard:  # else a row's folder is the shard, and another shard's picture is not meant
        look(keys, flat_key, last_parts(paths), ~flat_row & ~named)
    found = at >= 0
    of_these = np.where(found, of_rows[at], b"")
    return (
        np.where((found & wanting)[:, None], places[at], latlng),
        np.where(groups == b"", of_these, groups),
    )


def _matched(names: np.ndarray, wanted: np.ndarray, given: np.ndarray, wanting: np.ndarray, listed: Path) -> np.ndarray:
    """The position in `given` of each of `wanted`, bytes (P,), -1 for none; `names` are for sentences.

    Raises InputError where `given` has one twice, or two of `wanted` are the same, of which one is `wanting`.
    """
    if not len(given) or not len(wanted):
        return np.full(len(wanted), -1)
    values, first, times = np.unique(given, return_index=True, return_counts=True)
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    found = values[place] == wanted
    twice = found & wanting & (times[place] > 1)
    if twice.any():
        row = int(np.argmax(twice))
        raise InputError(
            f"{listed} lists {wanted[row].decode(errors='replace')} more than once, one of which may be "
            f"{names[row].decode(errors='replace')}; keep one row, or write the shard and the key, as that."
        )
    several = found & (np.bincount(place[found], minlength=len(values))[place] > 1)
    if (several & wanting).any():
        row = int(np.argmax(several & wanting))
        one, other = names[several & (wanted == wanted[row])][:2]
        raise InputError(
            f"{listed} lists {wanted[row].decode(errors='replace')}, which may be {one.decode(errors='replace')} or "
            f"{other.decode(errors='replace')}; write the shard before the key, as they are written here."
        )
    return np.where(found, first[place], -1)
