"""`python -m data.shard SRC DST`: any data set as tar shards with an index, in WebDataset's convention.

Images are copied byte for byte. The splits are those that `fit` would take with the same options. What was killed goes
on where it was, and ends in the same bytes.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from backbone.errors import Arguments, InputError, exit_code, until_unread
from backbone.files import disk_error, lock, not_written, replacing, sweep, write_whole
from data.bad_images import BadImages
from data.folders import count_of, existing_folder, list_images, progress, say
from data.images import IMAGE_ENDINGS, ImageError, read_exif, read_file
from data.layouts import boxes_reader
from data.readers import celeba, class_csv, geotagged_csv, image_folder, imagenet_lists, stanford_dogs
from data.readers.attribute_csv import CSV_NAME
from data.readers.coordinates_csv import lists_places
from data.readers.shards import INDEX, KIND, NEEDED, is_there, listed, table_of
from data.records import SPLITS, Records, issue_of

if TYPE_CHECKING:
    from data.module import DataModule

_COLUMNS = ("preset", "path_column", "latitude_column", "longitude_column", "group")  # of a CSV of places
_BEGUN = "unfinished.json"  # in DST until the index is there
_LOOKED_AT = 8  # images whose EXIF says whether a folder has places
_THREADS, _AHEAD = 2, 8  # that read images, and so many of them before they are written
_ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}  # of files whose name says none


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Arguments(
        prog="python -m data.shard",
        usage="python -m data.shard SRC DST [options]\n       python -m data.shard --verify DST",
        description="Write the images of SRC with their targets as tar shards with an index into DST, for "
        "--data.shards and for WebDataset. SRC is never written to. The same command goes on where it was stopped.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="SRC DST", help="the data set, and a new folder")
    parser.add_argument("--targets", choices=list(NEEDED), help="what is known of an image; default: by the layout")
    parser.add_argument("--shard_mb", type=float, default=256.0, metavar="MB", help="size of a shard (%(default)g)")
    help = "stop where more than this part of a split's images, and more than 3, cannot be read (%(default)g)"
    parser.add_argument("--max_bad_fraction", type=float, default=0.01, metavar="P", help=help)
    for name in ("val_fraction", "test_fraction"):
        parser.add_argument(f"--{name}", f"--data.{name}", type=float, metavar="P", help="as of `fit`")
    parser.add_argument("--seed", "--data.seed", type=int, default=0, metavar="S", help="as of `fit`")
    for name in ("version", *_COLUMNS):
        parser.add_argument(f"--{name}", f"--data.{name}", metavar=name.upper(), help="as of `fit`")
    parser.add_argument("--verify", action="store_true", help="check counts and digests of what is in DST again")
    options = vars(parser.parse_args(args))
    paths, verified = options.pop("paths"), options.pop("verify")
    if len(paths) != 2 - (verified and len(paths) == 1):
        parser.error("give SRC and DST, or --verify and DST")

    def run() -> None:
        if len(paths) == 2:
            write(*paths, **options)
        if verified:
            verify(paths[-1])

    return exit_code(run, "stopped; the same command goes on")


def write(
    source: Path, target: Path, *, targets: str | None, shard_mb: float, max_bad_fraction: float, **options: Any
) -> None:
    """Write `source` as shards into `target`, or go on with it, and print what was found.

    Raises InputError for what cannot be read, for a `target` of other data or options, and for a full disk.
    """
    if not shard_mb > 0:
        raise InputError(f"--shard_mb is {shard_mb:g}; it must be above 0.")
    if not 0 <= max_bad_fraction <= 1:
        raise InputError(f"--max_bad_fraction is {max_bad_fraction:g}; it must be from 0 to 1.")
    folder = source.parent if source.is_file() else existing_folder(source, "SRC")
    if target.exists() and not target.is_dir():
        raise InputError(f"DST {target} is a file; give a new folder.")
    if target.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"DST {target} lies in SRC, which is not written to; give a folder elsewhere.")
    if source.is_dir() and is_there(source):
        raise InputError(f"{source} is shards already; give the data set that they are of.")
    targets = targets or _targets(source)
    given = {name: value for name, value in options.items() if value is not None}
    records, left_out = _records(source, targets, given)
    facts = {"targets": targets, "shard_mb": shard_mb, "seed": options["seed"], "records_sha256": _digest(records)}
    try:
        with _begun(target, facts) as begun:
            if not begun:
                say(f"{target} is written already; --verify checks it")
                return
            _write_all(records, target, facts, left_out, max_bad_fraction, shard_mb * 1e6)
    except OSError as error:
        raise InputError(f"{target} {not_written(disk_error(error) or error)}") from error


def verify(target: Path) -> None:
    """Compare all shards with the index. Raises InputError that names the first that differs."""
    if not is_there(target):
        raise InputError(f"{target} has no {INDEX}; give a folder that `python -m data.shard` has written to its end.")
    index, again = json.loads((target / INDEX).read_bytes()), "remove it, and give the command that wrote DST again."
    try:
        names = listed(index)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{target / INDEX} is no index ({error!r}); write the shards again, elsewhere.") from error
    others = {path.name for path in target.glob("*.tar")} - {*names}
    if others:
        raise InputError(f"{target / min(others)} is not in the index ({len(others):,} are not); take it away.")
    for shard in progress(index["shardlist"], desc="checking the shards", unit=" shards"):
        path = target / shard["url"]
        table = path.with_suffix(".npz")
        for file, expected in ((path, shard["sha256"]), (table, shard["npz_sha256"])):
            try:
                with file.open("rb") as opened:
                    found = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                told = f"{file} cannot be read ({error.strerror}); give the command that wrote DST again."
                raise InputError(told) from error
            if found != expected:
                raise InputError(f"{file} has another SHA-256 than the index says; {again}")
        with tarfile.open(path, "r:") as archive, np.load(table, allow_pickle=False) as arrays:
            keys = {member.name.partition(".")[0] for member in archive}
            if not len(keys) == len(arrays["file_names"]) == shard["nsamples"]:
                raise InputError(f"{path} has {len(keys):,} images, and the index says {shard['nsamples']:,}; {again}")
    count = sum(shard["nsamples"] for shard in index["shardlist"])
    say(f"{target}: {count_of(count, 'image')} in {count_of(len(index['shardlist']), 'shard')}, as the index says")


# --- what is to be written ------------------------------------------------------------------------------------------


def _targets(source: Path) -> str:
    """What is known of the images, by the layout. Raises InputError where two may be meant."""
    if celeba.is_celeba(source) or (source / CSV_NAME).exists() or source.name == CSV_NAME:
        return "attributes"
    if stanford_dogs.is_stanford_dogs(source) or (source.is_dir() and imagenet_lists.is_there(source)):
        return "classes"
    places = any(map(lists_places, geotagged_csv.csv_files(source)))
    tables = source.is_dir() or source.suffix.lower() in (".csv", ".tsv", ".txt")
    classes = (tables and bool(class_csv.lists(source))) or (source.is_dir() and image_folder.has_classes(source))
    if not places and (not source.is_file() or not classes or _lists_boxes(source)):
        with contextlib.suppress(InputError):
            boxes_reader(source)
            return "boxes"
    if not places and source.is_dir():
        places = _has_positions(source)
    if places and classes:
        raise InputError(f"{source} has both classes and places; say which as --targets classes or --targets places.")
    return "places" if places else "classes" if classes else "faces"


def _lists_boxes(file: Path) -> bool:
    with contextlib.suppress(InputError, OSError), file.open(encoding="utf-8", errors="replace") as opened:
        return "xmin" in opened.readline().lower()
    return False


def _has_positions(source: Path) -> bool:
    """Whether one of a few images has a position in its EXIF."""
    names = list_images(source)
    for row in np.unique(np.linspace(0, len(names) - 1, _LOOKED_AT).astype(np.int64)).tolist():
        with contextlib.suppress(ImageError):
            if read_exif(source / os.fsdecode(names[row]))[0]:
                return True
    return False


def _records(source: Path, targets: str, options: dict[str, Any]) -> tuple[Records, np.ndarray]:
    """All images with their splits as `fit` takes them, and which of them stay out, bool (N,)."""
    if targets == "classes" and (source / "Annotation").is_dir() and stanford_dogs.is_stanford_dogs(source):
        options = {**options, "crop": "bbox"}
    unknown = [name for name in options if name in ("version", *_COLUMNS) and name not in _options_of(targets)]
    if unknown:
        raise InputError(f"--{unknown[0]} is not for {targets}; leave it out.")
    data = _data_module(targets)(root=str(source), num_workers=0, **options)
    records = data.all_records
    columns = {name: rows for name, rows in records.columns.items() if name != "subgroups"}  # an option's
    records = replace(records, columns=columns)
    out = np.zeros(len(records), bool)
    if "problem" in records.columns:
        out = records["problem"] != b""
    if targets == "boxes" and records.layout == "COCO":  # as a fit leaves out what both files list
        train = records["split"] <= 0
        shared = train & np.isin(records.file_names, records.file_names[records["split"] == SPLITS.index("val")])
        out |= shared if (train & ~shared).any() else False
    if targets == "places":
        kept = data.select("train")
        out |= (records["split"] <= 0) & ~np.isin(records.file_names, kept.file_names)
        records = replace(records, notes=kept.notes)
    if out.all():
        raise InputError(f"{source}: none of its {len(records):,} images can be used; see `check`.")
    return records, out


def _data_module(targets: str) -> "type[DataModule]":
    """The data of the task that learns these targets; imported here, as torch comes with them."""
    from data.attributes import AttributesDataModule
    from data.classification import ClassificationDataModule
    from data.detection import DetectionDataModule
    from data.face_pairs import FacePairsDataModule
    from data.geotagged import GeotaggedDataModule

    return {
        "boxes": DetectionDataModule,
        "classes": ClassificationDataModule,
        "attributes": AttributesDataModule,
        "faces": FacePairsDataModule,
        "places": GeotaggedDataModule,
    }[targets]


def _options_of(targets: str) -> tuple[str, ...]:
    return {"boxes": ("version",), "places": _COLUMNS}.get(targets, ())


def _digest(records: Records) -> str:
    """What the shards are of, but for the pixels: the SHA-256 of all names and targets."""
    digest = hashlib.sha256(repr((records.classes, records.class_ids, records.layout)).encode(errors="replace"))
    for name, rows in table_of(records).items():
        digest.update(f"{name} {rows.dtype} {rows.shape} ".encode() + np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _begun(target: Path, facts: dict[str, Any]) -> Iterator[bool]:
    """Whether `target` is still to be written, by this process alone. Raises InputError where it is of another SRC."""
    index, begun = target / INDEX, target / _BEGUN
    other = f"DST {target} is of another SRC, or was begun with other options; give a new folder, or the same command."
    target.mkdir(parents=True, exist_ok=True)
    if is_there(target):
        if json.loads(index.read_bytes()).get("options") != facts:
            raise InputError(other)
        if _is_whole(target):
            begun.unlink(missing_ok=True)  # of one that was killed just before
            yield False
            return
        write_whole(begun, json.dumps(facts))  # what is missing is written again
        index.unlink()
    if not begun.exists():
        if any(not path.name.startswith(".tmp~") for path in target.iterdir()):
            raise InputError(f"DST {target} is there already and not empty; give a new or an empty folder.")
        begun.touch()  # another process may do so at the same time: who has the lock writes it
    with begun.open("rb+") as file:
        if lock(file.fileno()) is False:
            raise InputError(f"DST {target} is being written by another process; wait for it, or end it.")
        if not (content := file.read()):
            file.write(json.dumps(facts).encode())
            file.flush()
        elif json.loads(content) != facts:
            raise InputError(other)
        sweep(target)
        yield True
    begun.unlink()


def _is_whole(target: Path) -> bool:
    """Whether all files of the index are there, the shards with their sizes."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        shardlist = json.loads((target / INDEX).read_bytes())["shardlist"]
        paths = [target / shard["url"] for shard in shardlist]
        sizes = [path.stat().st_size for path in paths if path.with_suffix(".npz").is_file()]
        return sizes == [shard["filesize"] for shard in shardlist]
    return False


# --- writing --------------------------------------------------------------------------------------------------------


def _write_all(
    records: Records, target: Path, facts: dict[str, Any], out: np.ndarray, max_bad_fraction: float, limit: float
) -> None:
    """Write all shards that are not there yet, and then the index."""
    shardlist: list[dict[str, Any]] = []
    missing: dict[int, str] = {}
    split = records["split"].clip(min=0)
    with progress(total=int((~out).sum()), desc="writing shards", unit=" images") as bar:
        for number, name in enumerate(SPLITS):
            order = np.flatnonzero((split == number) & ~out)
            bad = BadImages(max_bad_fraction)
            bad.start(name, _All(), len(order))
            if number == 0:
                order = np.random.default_rng((facts["seed"], 4)).permutation(order)
            begun, images = len(shardlist), None  # those of the shards that are still to be written
            while len(order):
                path = target / f"{name}-{len(shardlist) - begun:06}.tar"
                finished = None if images else _finished(path, order)
                if finished is None:
                    images = images or _read_ahead(records, order)
                    left: dict[int, str] = {}
                    first = _next_good(images, left, bad)
                    missing |= left
                    if first is None:
                        break
                    _write_shard(path, records, first, images, limit, left, bad)
                    finished = _finished(path, order)
                    assert finished is not None
                facts_of, left = finished
                missing |= left
                bad.note((str(records.path(row)), why) for row, why in left.items())
                shardlist.append({**facts_of, "split": name})
                count = facts_of["nsamples"] + len(left)
                bar.update(count)
                order = order[count:]
    reasons = {row: _why(records, row) for row in np.flatnonzero(out).tolist()} | missing
    rows = np.array(sorted(reasons), np.int64)
    issues = [
        *records.issues,
        *issue_of(
            "images left out of the shards", rows, lambda row: f"{os.fsdecode(records.file_names[row])}: {reasons[row]}"
        ),
    ]
    if not shardlist:
        raise InputError(f"{records.folder}: none of its {len(records):,} images can be read.")
    index = {
        "__kind__": KIND,
        "wids_version": 1,
        "shardlist": shardlist,
        "targets": facts["targets"],
        "classes": records.classes,
        "class_ids": records.class_ids,
        "grouped_by": records.grouped_by,
        "layout": records.layout,
        "notes": records.notes,
        "issues": [(issue.what, issue.count, issue.first, issue.more) for issue in issues],
        "options": facts,
    }
    write_whole(target / INDEX, json.dumps(index, indent=1))
    for line in (*records.notes, *(f"{records.folder}: {issue}" for issue in issues)):
        say(line)
    for name in SPLITS:
        of = [shard for shard in shardlist if shard["split"] == name]
        if of:
            images, size = sum(shard["nsamples"] for shard in of), sum(shard["filesize"] for shard in of)
            say(f"{name}: {count_of(images, 'image')} in {count_of(len(of), 'shard')} of {size / 1e6:,.1f} MB")
    say(f"written to {target}; train on them with --data.shards {target}")


def _why(records: Records, row: int) -> str:
    problem = os.fsdecode(records["problem"][row]) if "problem" in records.columns else ""
    return problem or "it is, or looks like, one that is scored"


def _read_ahead(records: Records, order: np.ndarray) -> Iterator[tuple[int, bytes | ImageError]]:
    """Each image's position and bytes, or why it has none, in this order; threads read a few ahead."""

    def read(row: int) -> tuple[int, bytes | ImageError]:
        try:
            return row, read_file(records.path(row))
        except ImageError as error:
            return row, error

    pool, waiting = ThreadPoolExecutor(_THREADS), deque[Future[tuple[int, bytes | ImageError]]]()
    try:
        for row in order:
            waiting.append(pool.submit(read, int(row)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # not waiting: where garbage is collected, as after an error, a thread that is joined may never end
        pool.shutdown(wait=False, cancel_futures=True)


def _next_good(
    images: Iterator[tuple[int, bytes | ImageError]], left: dict[int, str], bad: BadImages
) -> tuple[int, bytes] | None:
    """The next image that has bytes; those that have none are noted. Raises InputError where these are too many."""
    for row, content in images:
        if isinstance(content, bytes):
            return row, content
        left[row] = content.reason
        bad.note([(content.file, content.reason)])
    return None


def _write_shard(
    path: Path,
    records: Records,
    first: tuple[int, bytes],
    images: Iterator[tuple[int, bytes | ImageError]],
    limit: float,
    left: dict[int, str],
    bad: BadImages,
) -> None:
    """Write a shard that begins with an image, of `limit` bytes unless no image is left, and its records.

    `left` are images before it that have no bytes; those within it are added.
    """
    rows, members = list[int](), list[tuple[int, int]]()
    with replacing(path) as beside, beside.open("wb") as file:
        digested = _Digested(file)
        with tarfile.open(fileobj=digested, mode="w|", bufsize=1 << 20, format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
            image: tuple[int, bytes] | None = first
            while image is not None:
                row, content = image
                offset = _add(archive, f"{row:09}.{_ending(records, row, content)}", content)
                _add(archive, f"{row:09}.json", json.dumps(_targets_of(records, row)).encode())
                if "labels" in records.columns:
                    _add(archive, f"{row:09}.cls", str(records["labels"][row]).encode())
                rows.append(row)
                members.append((offset, len(content)))
                image = None if archive.offset >= limit else _next_good(images, left, bad)
        size = file.tell()
    table = table_of(records.take(np.array(rows)))
    table |= {
        "member": np.array(members, np.int64),
        "key": np.array(rows, np.int64),
        "left_out": np.array(list(left), np.int64),
        "left_out_why": np.array([os.fsencode(why) for why in left.values()], np.bytes_),
        "filesize": np.array(size),
        "sha256": np.array(digested.digest.hexdigest()),
    }
    with replacing(path.with_suffix(".npz")) as beside, beside.open("wb") as file:
        np.savez(file, **table)  # type: ignore[arg-type]  # its stub: allow_pickle


class _All:
    """What holds every file."""

    def __contains__(self, file: object) -> bool:
        return True


class _Digested:
    """A file that is written to, and the SHA-256 of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file, whose header says nothing of who wrote it and when; where its content begins."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(member, io.BytesIO(content))
    archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
    return offset


def _finished(path: Path, order: np.ndarray) -> tuple[dict[str, Any], dict[int, str]] | None:
    """What the index says of a shard that is there with the next images of an order, and why some are left out."""
    table = path.with_suffix(".npz")
    try:
        with np.load(table, allow_pickle=False) as arrays:
            facts = {
                "url": path.name,
                "nsamples": len(arrays["key"]),
                "filesize": int(arrays["filesize"]),
                "sha256": str(arrays["sha256"]),
            }
            missing = dict(zip(arrays["left_out"].tolist(), map(os.fsdecode, arrays["left_out_why"]), strict=True))
            rows = np.sort(np.concatenate([arrays["key"], arrays["left_out"]]))
        if path.stat().st_size != facts["filesize"] or not np.array_equal(rows, np.sort(order[: len(rows)])):
            return None
        with table.open("rb") as opened:
            return {**facts, "npz_sha256": hashlib.file_digest(opened, "sha256").hexdigest()}, missing
    except Exception:  # a damaged zip raises a dozen kinds: it is written again
        return None


def _ending(records: Records, row: int, content: bytes) -> str:
    """The ending of an image in its shard: its own, or where that says nothing by its first bytes."""
    ending = os.fsdecode(records.file_names[row]).rpartition(".")[2].lower()
    if f".{ending}" in IMAGE_ENDINGS:
        return ending
    return next((kind for start, kind in _ENDINGS.items() if content.startswith(start)), "jpg")


def _targets_of(records: Records, row: int) -> dict[str, Any]:
    """What is known of an image, for other programs."""
    columns, names = records.columns, records.classes
    found: dict[str, Any] = {"file": os.fsdecode(records.file_names[row])}
    if "labels" in columns:
        label = int(columns["labels"][row])
        found |= {"label": label, "class": names[label]}
    if "crop_xyxy" in columns and not np.isnan(columns["crop_xyxy"][row]).any():
        found["crop_xyxy"] = columns["crop_xyxy"][row].tolist()
    if "latlng" in columns:
        found |= dict(zip(("latitude", "longitude"), columns["latlng"][row].tolist(), strict=True))
    if "attributes" in columns:
        values = zip(names, columns["attributes"][row].tolist(), strict=True)
        found["attributes"] = {name: value for name, value in values if value >= 0}
    if "identities" in columns and columns["identities"][row] >= 0:
        found["identity"] = int(columns["identities"][row])
    if records.boxes is not None:
        of = records.boxes.rows(row)
        labels = records.boxes.labels[of].tolist()
        found |= {
            "boxes": records.boxes.xywh[of].tolist(),  # x, y, width, height in px
            "labels": labels,
            "classes": [names[label] for label in labels],
            "crowd": records.boxes.crowd[of].tolist(),
            "height": int(columns["sizes"][row, 0]),
            "width": int(columns["sizes"][row, 1]),
        }
    return found


if __name__ == "__main__":
    sys.exit(until_unread(main))
