"""Images in tar shards, for data sets of more files than a file system likes, here or far away. No torch.

The format is WebDataset's (https://github.com/webdataset/webdataset): members of a shard that follow each other and
share their path up to the first dot of its last part are one sample: `key.jpg`, and `key.json` with its targets. What
`python -m data.shard` has written has an index, and beside each shard the records of its images, so that no shard is
opened before an image is wanted. Of others' shards the headers, JSON and labels are read.
"""

import contextlib
import fnmatch
import glob
import itertools
import json
import math
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from backbone.errors import InputError
from data import shard_cache
from data.coordinates import IssueCounts, clean
from data.folders import progress
from data.images import IMAGE_ENDINGS, ImageError
from data.readers.class_csv import classes_of
from data.readers.coordinates_csv import GROUP_NAMES
from data.records import SPLITS, UNSPLIT, Boxes, Issue, Records, issue_of, joined
from data.splits import split_named

INDEX, KIND = "index.json", "wids-shard-index-v1"  # the kind is WebDataset's
NEEDED = {"boxes": "boxes", "classes": "labels", "attributes": "attributes", "places": "latlng", "faces": ""}
_Row = tuple[bytes, tuple[float, float], bytes, tuple[int, int, int], bytes]
_NAMES = (("latitude", "longitude"), ("LAT", "LON"), ("lat", "lon"), ("lat", "lng"))  # in a JSON
_MEMBER = re.compile(r"(?!__[^/]*__(?:$|/))((?:.*/|)[^.]+)\.([^/]*)")  # its key and ending; none where it is metadata
_LONGEST = 100  # bytes that are kept of a group: arrays are as wide as their longest


def is_there(folder: Path) -> bool:
    """Whether `python -m data.shard` has written a folder to its end."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / INDEX).read_bytes())
        return isinstance(content, dict) and content.get("__kind__") == KIND
    return False


def read(where: str, targets: str = "") -> Records:
    """The images in the shards of a folder or URL with an index, or named as `DIR/train-{000000..000123}.tar`.

    `where` may also be several with commas, or with * and ?; without an index they are local. With `targets`, one of
    NEEDED, the images must have these. An image's file name is "<shard>/<its name in the source>", or without an index
    "<shard>/<key>.<ending>", and the column `member` says where it is. Raises InputError for what is not there, or
    cannot be used.
    """
    files = named(where)
    whole = len(files) == 1 and not re.search(r"\.tar$|[*?[]", files[0].partition("?")[0] if "://" in where else where)
    parents = {files[0] if whole else os.path.dirname(file) or "." for file in files}  # noqa: PTH120  # or URLs
    folder = next(iter(parents))
    if len(parents) == 1 and ("://" in folder or is_there(Path(folder))):
        records = _of_index(folder, None if whole else [file.rpartition("/")[2] for file in files])
        needed = NEEDED.get(targets, "")
        if needed and needed not in records.columns and not (needed == "boxes" and records.boxes is not None):
            raise InputError(
                f"{where} has {records.layout}, without {needed}, which this task learns; give shards that have them, "
                f"as of `python -m data.shard SRC DST --targets {targets}`."
            )
        return records
    if whole:
        problem = f"has no {INDEX} of `python -m data.shard`" if Path(folder).is_dir() else "does not exist"
        raise InputError(f"--data.shards: {folder} {problem}; name a folder that has it, or shards as DIR/*.tar.")
    return _without_index(where, files, targets)


def _of_index(where: str, wanted: list[str] | None) -> Records:
    """The records of the shards of a folder or URL, of those alone whose names are `wanted` where these are given."""
    remote = shard_cache.is_remote(where)
    folder = shard_cache.folder_of(where) if remote else Path(where)
    source = shard_cache.shown(where) if remote else str(folder)
    try:
        index = index_of(where)
        names = listed(index)
        chosen = [n for n in names if wanted is None or any(fnmatch.fnmatchcase(n, pattern) for pattern in wanted)]
        lacking = [n for n in wanted or () if not any(fnmatch.fnmatchcase(name, n) for name in names)]
        if lacking:
            raise InputError(f"{source} has no shard {lacking[0]}; it has {names[0]} to {names[-1]}.")
        tables = [f"{name.removesuffix('.tar')}.npz" for name in chosen]
        missing = [] if remote else [n for n in (*chosen, *tables) if not (folder / n).is_file()]
        if missing:
            raise InputError(f"{folder / missing[0]} is missing ({len(missing):,} files are); copy the shards again.")
        paths = shard_cache.fetch_files(where, tables) if remote else [folder / name for name in tables]
        parts = [
            _table(path, name, folder)
            for path, name in zip(progress(paths, desc="reading the shards' records"), chosen, strict=True)
        ]
        stated = {str(shard["url"]): int(shard["nsamples"]) for shard in index["shardlist"]}
        for part, name in zip(parts, chosen, strict=True):
            if len(part) != stated[name]:
                raise ValueError(f"{name} has {len(part):,} images, and should have {stated[name]:,}")
        return replace(
            joined(parts),
            folder=folder,
            classes=tuple(index["classes"]),
            class_ids=tuple(index["class_ids"]),
            issues=tuple(Issue(what, count, first, tuple(more)) for what, count, first, more in index["issues"]),
            notes=tuple(index["notes"]),
            grouped_by=index["grouped_by"],
            layout=f"shards of {index['layout']}",
            url=where if remote else "",
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}/{INDEX} cannot be used ({error!r}); write the shards again.") from error


def index_of(where: str) -> Any:
    """The content of the index in a folder, or at a URL, where it is fetched."""
    return (
        shard_cache.fetch_index(where) if shard_cache.is_remote(where) else json.loads(Path(where, INDEX).read_bytes())
    )


def listed(index: Any) -> list[str]:
    """The names of an index's shards. Raises ValueError, TypeError or KeyError where it is none."""
    names = [str(shard["url"]) for shard in index["shardlist"]]
    if odd := next((name for name in names if Path(name).name != name or not name.endswith(".tar")), None):
        raise ValueError(f"the shard {odd!r} is not a name of a file in it")
    return names


def table_of(records: Records) -> dict[str, np.ndarray]:
    """The images as arrays that need no pickle, as `_table` reads them."""
    columns = {f"column_{name}": rows for name, rows in records.columns.items() if name != "member"}
    for name, rows in columns.items():
        if rows.dtype == object:  # numbers beyond 64 bits
            columns[name] = np.array([str(number) for number in rows.tolist()])
    boxes = {} if records.boxes is None else {f"boxes_{name}": rows for name, rows in vars(records.boxes).items()}
    return {"file_names": records.file_names, **columns, **boxes}


def _table(path: Path, shard: str, folder: Path) -> Records:
    """The images of one shard, from the arrays beside it. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name.removeprefix("column_"): arrays[name] for name in arrays if name.startswith("column_")}
            boxes = {name.removeprefix("boxes_"): arrays[name] for name in arrays if name.startswith("boxes_")}
            names, member = arrays["file_names"], arrays["member"]
        if ids := [name for name, rows in columns.items() if rows.dtype.kind == "U"]:
            columns |= {name: np.array([int(number) for number in columns[name].tolist()], object) for name in ids}
        start = os.fsencode(f"{shard}/")
        columns["member"] = np.column_stack([np.full(len(names), len(start) - 1), member])
        if any(len(rows) != len(names) for rows in columns.values()):
            raise ValueError("its columns are not equally long")
        return Records(folder, np.char.add(start, names), columns, Boxes(**boxes) if boxes else None)
    except Exception as error:  # a damaged zip raises a dozen kinds
        raise InputError(f"{path} cannot be read ({error}); copy it again, or write the shards again.") from error


def _without_index(where: str, patterns: list[str], targets: str) -> Records:
    """The images of local shards by their headers, JSON and labels, with the columns of `targets` or that are there."""
    files = [
        Path(found)
        for name in patterns
        for found in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])  # noqa: PTH207
    ]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(
            f"--data.shards: {missing[0] if missing else where} is not a file ({len(missing):,} of {len(files):,} are "
            "not); name local files, as DIR/train-{000000..000123}.tar, or a folder or URL with an index.json."
        )
    folder = Path(os.path.commonpath([file.parent for file in files]))
    parts = []  # of a shard each, packed: objects of millions of images would fill the memory
    for file in progress(files, desc="reading the shards' headers", unit=" shards"):
        named = split_named(re.split(r"[-_.\d]", file.name)[0])
        if rows := list(_rows(file, os.fsencode(file.relative_to(folder)))):
            of_split = np.full(len(rows), UNSPLIT if named is None else SPLITS.index(named), np.int8)
            parts.append([*(np.array(column) for column in zip(*rows, strict=True)), of_split])
    if not parts:
        raise InputError(f"{where} has no image; give shards that have some.")
    names, places, groups, members, words, split = map(np.concatenate, zip(*parts, strict=True))
    columns = {"member": members, **({"split": split} if {0, 1} <= {*split.tolist()} else {})}
    records = Records(folder, names, columns, layout="shards without an index")
    if targets == "places" or (not targets and not np.isnan(places[:, 0]).all()):
        return _with_places(records.with_columns(group=groups), places, where)
    if targets == "classes" or (not targets and (words != b"").any()):
        return _with_labels(records, words, where)
    if targets == "faces" or not targets:
        return records
    raise InputError(
        f"{where}: {targets} of shards are read with the index that `python -m data.shard` writes; write them with it."
    )


def _with_places(records: Records, places: np.ndarray, where: str) -> Records:
    counts, has = IssueCounts("image"), np.flatnonzero(~np.isnan(places[:, 0]))
    names = records.file_names
    if not len(has):
        raise InputError(
            f"{where} has no image with a place ({len(names):,} images); write key.json with latitude and longitude "
            "beside each."
        )
    if len(has) < len(names):
        first = int(np.argmax(np.isnan(places[:, 0])))
        counts.note("no position", len(names) - len(has), lambda: os.fsdecode(names[first]))
    cleaned, keep = clean(places[has], where, lambda row: os.fsdecode(names[has[row]]), counts, "JSON")
    return replace(records.take(has[keep]).with_columns(latlng=cleaned[keep]), issues=counts.issues)


def _with_labels(records: Records, words: np.ndarray, where: str) -> Records:
    has = words != b""
    if not has.any():
        raise InputError(
            f"{where} has no image with a label ({len(words):,} images); write key.cls, or key.json with a class, "
            "beside each."
        )
    issues = issue_of("images have no label", ~has, lambda row: os.fsdecode(records.file_names[row]))
    classes, labels = classes_of(words[has])
    return replace(records.take(has).with_columns(labels=labels), classes=classes, issues=tuple(issues))


def named(where: str) -> list[str]:
    """What `where` names, as `read` takes it, one by one: its parts between commas, with their braces expanded."""
    return [name for part in re.split(r",(?![^{]*\})", where) for name in expanded(part)]


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
    return np.diff(np.append(_starts(records), len(records)))


def shard_names(records: Records) -> list[str]:
    """The shards of `shard_sizes`, relative to the records' folder."""
    starts = _starts(records)
    lengths = records["member"][starts, 0].tolist()
    return [
        os.fsdecode(name[:length]) for name, length in zip(records.file_names[starts].tolist(), lengths, strict=True)
    ]


def _starts(records: Records) -> np.ndarray:
    """The position of each shard's first image, int64 (S,)."""
    lengths = records["member"][:, 0]
    shard = np.zeros(len(records), f"S{max(int(lengths.max(initial=0)), 1)}")
    for length in np.unique(lengths).tolist():
        of = lengths == length
        shard[of] = records.file_names[of].astype(f"S{length}")  # which cuts
    return np.flatnonzero(np.append(True, shard[1:] != shard[:-1])[: len(records)])


def content_of(records: Records, position: int) -> bytes | None:
    """The bytes of the image at `position` where it is in a shard; None where it is a file. Raises ImageError."""
    if "member" not in records.columns or records["member"][position, 2] < 0:
        return None
    return image_bytes(records, position)


def image_bytes(records: Records, position: int) -> bytes:
    """The image at `position` as it is in its shard, which is fetched where it is far away. Raises ImageError."""
    name, (length, offset, size) = records.file_names[position], records["member"][position].tolist()
    shard = os.fsdecode(name[:length])
    try:
        return shard_cache.read_range(records.url, records.folder, shard, offset, size)
    except ImageError as error:  # which names the shard, and not what is counted
        reason = f"its shard cannot be read ({error.file}: {error.reason})"
        raise ImageError(records.path(position), reason) from error


def members(file: str | Path | BinaryIO) -> Iterator[tuple[str, str, bytes, dict[str, Any]]]:
    """(key, name, image's bytes, JSON) of each image of a shard, a path or an open file, read once from its beginning.

    `name` is the image's in the shard, as "<key>.<ending>"; a sample without a JSON has an empty one. Raises InputError
    that names a shard that is damaged or cut off.
    """
    for key, ending, _, contents in _samples(file, images=True):
        name = f"{key}.{ending}"
        yield key, name, contents[ending], _parsed(contents.get("json", b"{}"), _named(file), name)


def _samples(
    file: str | Path | BinaryIO, *, images: bool
) -> Iterator[tuple[str, str, tarfile.TarInfo, dict[str, bytes]]]:
    """(key, ending, member, contents) of each image: its JSON and label, and with `images` its bytes, by their endings.

    With `images` the file is read from its beginning to its end, else only those parts and the headers.
    """
    path = file if isinstance(file, str | Path) else None
    wanted = {"json", "cls", *((ending.removeprefix(".") for ending in IMAGE_ENDINGS) if images else ())}
    try:
        with (
            Path(path).open("rb") if path is not None else contextlib.nullcontext(cast(BinaryIO, file)) as opened,
            tarfile.open(fileobj=opened, mode="r:") as archive,
        ):
            named = ((member, _MEMBER.fullmatch(member.name)) for member in archive if member.isreg())
            matched = ((member, match) for member, match in named if match)
            for key, sample in itertools.groupby(matched, lambda pair: pair[1][1]):
                parts, contents = dict[str, tarfile.TarInfo](), dict[str, bytes]()
                for member, match in sample:
                    ending = match[2].lower()
                    if ending in parts:
                        raise InputError(
                            f"{_named(file)} has two files of one name for the key {key}; give each a key of its own."
                        )
                    parts[ending] = member
                    if ending in wanted and (content := archive.extractfile(member)):
                        contents[ending] = content.read()
                image = next((ending for ending in parts if f".{ending}" in IMAGE_ENDINGS), None)
                if image is not None:
                    yield key, image, parts[image], contents
            opened.seek(archive.offset)  # tarfile ends without a word at a header that is damaged
            if (end := opened.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
                raise EOFError(f"it is damaged at byte {archive.offset:,}" if end else "it has no end")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{_named(file)} is not a tar archive, or it is cut off ({error}); make or fetch it again."
        ) from error


def _named(file: str | Path | BinaryIO) -> str:
    return str(file) if isinstance(file, str | Path) else str(getattr(file, "name", "the shard"))


def _rows(file: Path, shard: bytes) -> Iterator[_Row]:
    """(file name, place, group, member, label) of each image of a shard, as `read` has them."""
    for key, ending, image, contents in _samples(file, images=False):
        name = f"{key}.{ending}"
        given = _parsed(contents.get("json", b"{}"), str(file), name)
        packed = shard + b"/" + name.encode(errors="surrogateescape")
        member = len(shard), image.offset_data, image.size
        yield packed, _place(given, file, name), _group(given), member, _label(given, contents.get("cls", b""))


def _parsed(content: bytes, file: str, name: str) -> dict[str, Any]:
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


def _label(given: dict[str, Any], cls: bytes) -> bytes:
    """The class of a JSON, or of a text beside it; empty for none."""
    word = next((given[key] for key in ("class", "label") if isinstance(given.get(key), str | int)), None)
    return (cls if word is None else str(word).encode(errors="surrogateescape")).strip()
