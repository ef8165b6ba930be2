"""Geotagged images in tar shards, for data sets of more files than a file system likes. No torch.

The format is WebDataset's (https://github.com/webdataset/webdataset): members of a shard that follow each other and
share their path up to the first dot of its last part are one sample: `key.jpg`, and `key.json` with its place.
"""

import itertools
import json
import math
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import InputError
from data.coordinates import IssueCounts, clean
from data.folders import progress
from data.images import IMAGE_ENDINGS, ImageError
from data.readers.coordinates_csv import GROUP_NAMES
from data.records import Records

_NAMES = (("latitude", "longitude"), ("LAT", "LON"), ("lat", "lon"), ("lat", "lng"))  # in a JSON
_MEMBER = re.compile(r"(?!__[^/]*__(?:$|/))((?:.*/|)[^.]+)\.([^/]*)")  # its key and ending; none where it is metadata
_LONGEST = 100  # bytes that are kept of a group: arrays are as wide as their longest


def read(pattern: str) -> Records:
    """The images with a place in the shards named by `pattern`, as `DIR/train-{000000..000123}.tar`, in their order.

    The shards are local files, not URLs. An image's file name is "<shard>/<key>.<ending>". Columns: `latlng`; `group`,
    bytes, the photographer, sequence or place, empty where no JSON says it; `member`, int64 (N, 3), the length of the
    shard's part of the name, and the image's offset and size in the shard. Only headers and JSON are read. Raises
    InputError where a shard is missing or cut off, for a place that is certainly wrong, and where no image has one.
    """
    files = [Path(file) for file in expanded(pattern)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"--data.shards: {missing[0]} is not a file ({len(missing):,} of {len(files):,} are not); name local "
            "files, as DIR/train-{000000..000123}.tar."
        )
    folder = Path(os.path.commonpath([file.parent for file in files]))
    parts = []  # of a shard each, packed: objects of millions of images would fill the memory
    for file in progress(files, desc="reading the shards' headers", unit=" shards"):
        if rows := list(_samples(file, os.fsencode(file.relative_to(folder)))):
            parts.append([np.array(column) for column in zip(*rows, strict=True)])
    names, places, groups, members = map(np.concatenate, zip(*parts, strict=True)) if parts else np.zeros((4, 0, 2))
    counts, has = IssueCounts("image"), np.flatnonzero(~np.isnan(places[:, 0]))
    if not len(has):
        raise InputError(
            f"{pattern} has no image with a place ({len(names):,} images); write key.json with latitude and longitude "
            "beside each."
        )
    if len(has) < len(names):
        first = int(np.argmax(np.isnan(places[:, 0])))
        counts.note("no position", len(names) - len(has), lambda: os.fsdecode(names[first]))
    cleaned, keep = clean(places[has], pattern, lambda row: os.fsdecode(names[has[row]]), counts, "JSON")
    chosen = has[keep]
    return Records(
        folder,
        names[chosen],
        {"latlng": cleaned[keep], "group": groups[chosen], "member": members[chosen]},
        issues=counts.issues,
    )


def expanded(pattern: str) -> list[str]:
    """What a pattern stands for: `{000..123}` every number from the first to the last, `{a,b}` each of these."""
    found = re.search(r"\{([^{}]+)\}", pattern)
    if not found:
        return [pattern]
    each = found[1].split(",")
    if ends := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        each = [f"{number:0{len(ends[1])}}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    return [name for part in each for name in expanded(pattern[: found.start()] + part + pattern[found.end() :])]


def shard_sizes(records: Records) -> np.ndarray:
    """The number of these images in each shard, in their order: int64 (S,)."""
    lengths = records["member"][:, 0].tolist()
    shards = (name[:length] for name, length in zip(records.file_names.tolist(), lengths, strict=True))
    return np.array([sum(1 for _ in same) for _, same in itertools.groupby(shards)])


def image_bytes(records: Records, position: int) -> bytes:
    """The image at `position` as it is in its shard. Raises ImageError."""
    name, (length, offset, size) = records.file_names[position], records["member"][position].tolist()
    try:
        with (records.folder / os.fsdecode(name[:length])).open("rb") as shard:
            shard.seek(offset)
            return shard.read(size)
    except OSError as error:
        raise ImageError(records.path(position), f"its shard cannot be read ({error.strerror or error})") from error


def _samples(file: Path, shard: bytes) -> Iterator[tuple[bytes, tuple[float, float], bytes, tuple[int, int, int]]]:
    """(file name, place, group, member) of each image of a shard, as `read` has them."""
    try:
        with tarfile.open(file, "r:") as archive:
            named = ((member, _MEMBER.fullmatch(member.name)) for member in archive if member.isreg())
            matched = ((member, match) for member, match in named if match)
            for key, sample in itertools.groupby(matched, lambda pair: pair[1][1]):
                members = [(match[2].lower(), member) for member, match in sample]
                parts = dict(members)
                if len(parts) < len(members):
                    raise InputError(f"{file} has two files of one name for the key {key}; give each a key of its own.")
                ending = next((ending for ending in parts if f".{ending}" in IMAGE_ENDINGS), None)
                if ending is None:
                    continue
                name, image = f"{key}.{ending}", parts[ending]
                content = archive.extractfile(parts["json"]) if "json" in parts else None
                given = _parsed(content.read() if content else b"{}", file, name)
                packed = shard + b"/" + name.encode(errors="surrogateescape")
                yield packed, _place(given, file, name), _group(given), (len(shard), image.offset_data, image.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{file} is not a tar archive, or it is cut off ({error}); make or fetch it again.") from error


def _parsed(content: bytes, file: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file}: the JSON of {name} cannot be read ({error}); correct it.") from error
    return found if isinstance(found, dict) else {}


def _place(given: dict[str, Any], file: Path, name: str) -> tuple[float, float]:
    """(latitude, longitude) of a JSON, NaN where it has none. Raises InputError for what is not numbers."""
    values = next(([given[key] for key in names] for names in _NAMES if {*names} <= given.keys()), [None])
    if None in values or "" in values:
        return math.nan, math.nan
    try:
        latitude, longitude = map(float, values)
    except (TypeError, ValueError):
        latitude = longitude = math.nan
    if not math.isfinite(latitude + longitude):
        raise InputError(f"{file}: the JSON of {name} has the place {values}; it must be latitude and longitude.")
    return latitude, longitude


def _group(given: dict[str, Any]) -> bytes:
    """The photographer, sequence or place of a JSON, by the names that a CSV's column may have; empty for none."""
    lower = {key.lower(): value for key, value in given.items() if isinstance(value, str | int)}
    group = next((str(lower[name]) for name in GROUP_NAMES if name in lower), "")
    return group.strip().encode(errors="surrogateescape")[:_LONGEST]
