"""Cached teacher logits: float16 for each of V fixed views of every image, in a memory-mapped file.

"Function matching" warns of logits cached for one view and used for another (Beyer et al. 2021, arXiv 2106.05237), so a
row belongs to one image and one seeded view of it, and a manifest says which teacher, transform and list it is of.

The folder holds logits.npy (V, N, K), done.npy (V, N) and manifest.json. Several processes of one machine may fill it
at once, each other rows: every row has its own bytes in both files.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from backbone.errors import InputError
from tasks.distillation.teachers import ENOUGH_TO_TELL, Ensemble, Teacher

_MISSING, _DONE, _SKIPPED = 0, 1, 2  # in done.npy; a byte each, as two processes cannot write one byte
_REMEDY = "name another folder, or delete this one"
_TOLERANCE = 1e-2  # of a row's largest number: float16 has 5e-4 and TF32 1e-3, another teacher far more


@dataclass(frozen=True)
class Manifest:
    """What a cache is of; it serves runs that ask for the very same.

    V views of N images with K outputs each; `keys` and `names` are digests of the images' files and the outputs' names;
    `transform` names all that decides a view's pixels; `teacher` is its digest, or None where it cannot be loaded. The
    order is that in which a difference is most telling.
    """

    format: int = field(default=3, init=False)
    images: int
    views: int
    outputs: int
    names: str
    keys: str
    transform: str
    teacher: str | None


def digest_of(names: Iterable[str]) -> str:
    """sha256, in hex, of names in their order."""
    digest = hashlib.sha256()
    for name in map(os.fsencode, names):
        digest.update(len(name).to_bytes(8, "little") + name)
    return digest.hexdigest()


def cached_size(folder: str | Path) -> int:
    """How many numbers a cache has for an image. InputError where it is none."""
    path = Path(folder).expanduser() / "manifest.json"
    try:
        return int(json.loads(path.read_text("utf-8"))["outputs"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"the cache {folder} cannot be read ({error}); leave out `cache_only` to have it made."
        ) from error


class TeacherCache:
    """Logits by (view, position of the image); `open` one.

    A row counts as done only after its numbers are on the disk, so that a kill at any time loses no more than a batch.
    """

    def __init__(self, folder: Path, logits: np.memmap, done: np.memmap) -> None:
        self.folder = folder
        self._logits = logits  # float16 (V, N, K)
        self._done = done  # uint8 (V, N)

    @classmethod
    def open(cls, folder: str | Path, manifest: Manifest, *, cache_only: bool = False) -> "TeacherCache":
        """Open the cache in `folder`, or make an empty one; with `cache_only` it must be there, and complete.

        Raises InputError where it is of something else, damaged, or too large for the disk; nothing is changed then.
        """
        folder = Path(folder).expanduser()
        if not (folder / "manifest.json").is_file():
            if cache_only:
                raise InputError(f"the cache {folder} does not exist; leave out `cache_only` to have it made.")
            _create(folder, manifest)
        _check(folder, manifest)
        shape = manifest.views, manifest.images, manifest.outputs
        logits, done = _map(folder, "logits.npy", np.float16, shape), _map(folder, "done.npy", np.uint8, shape[:2])
        missing = int((done == _MISSING).sum())
        if cache_only and missing:
            raise InputError(
                f"the cache {folder} lacks {missing:,} of {done.size:,} views of images; leave out `cache_only` to "
                "have the teacher asked for them."
            )
        return cls(folder, logits, done)

    def __deepcopy__(self, memo: dict) -> "TeacherCache":
        return self  # a copy would read the whole file into memory

    def missing(self, view: int) -> np.ndarray:
        """Positions, int64 and rising, of images without logits for this view, those skipped before among them."""
        return np.flatnonzero(self._done[view] != _DONE)

    def write(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor, logits: Tensor) -> None:
        """Keep logits (B, K) for views (B,), or one for all, of the images at positions (B,), and mark them done.

        Raises InputError where a number is beyond float16's range, or the disk is full.
        """
        rows = self._rows(views, positions)
        values = logits.detach().float().cpu().numpy()
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if halves.shape != (len(rows), self._logits.shape[2]):
            raise ValueError(f"logits have shape {halves.shape}, not {(len(rows), self._logits.shape[2])}")
        finite = np.isfinite(halves)
        if not finite.all():
            i, k = np.argwhere(~finite)[0]
            raise InputError(
                f"the teacher's output {k} for {self._place(rows[i])} is {values[i, k]}, and a cache is of float16, "
                "which ends at 65504; train without a cache."
            )
        self._store("logits.npy", self._logits, rows, halves)
        self._store("done.npy", self._done, rows, np.full(len(rows), _DONE, np.uint8))

    def skip(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor) -> None:
        """Mark images that a pass over `missing` could not read; the cache is complete without them."""
        rows = self._rows(views, positions)
        self._store("done.npy", self._done, rows, np.full(len(rows), _SKIPPED, np.uint8))

    def read(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor) -> Tensor:
        """The logits, float32 (B, K), for views (B,) of the images at positions (B,). InputError where one lacks."""
        rows = self._rows(views, positions)
        absent = rows[self._done.reshape(-1)[rows] != _DONE]
        if len(absent):
            raise InputError(
                f"the cache {self.folder} lacks {len(absent)} of {len(rows)} images, first {self._place(absent[0])}; "
                "fill it, without `cache_only`."
            )
        return torch.from_numpy(np.asarray(self._logits.reshape(-1, self._logits.shape[2])[rows], np.float32))

    def sample(self, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """Views and positions, int64 each, of up to `count` rows that are done, drawn anew each time, for `verify`."""
        done = np.flatnonzero(self._done.reshape(-1) == _DONE)
        rows = np.random.default_rng().choice(done, min(count, len(done)), replace=False)
        return np.unravel_index(rows, self._done.shape)  # type: ignore[return-value]  # two, as it has two axes

    def verify(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor, logits: Tensor) -> None:
        """Compare the cache with the teacher's `logits` (B, K) of now. InputError where they differ by over 1 %.

        It finds what no digest can: other pixels under a file's old name, another release of a library.
        """
        rows = self._rows(views, positions)
        cached, now = self.read(views, positions), logits.detach().float().cpu()
        largest = torch.maximum(cached.abs(), now.abs()).amax(1).clamp(min=0.1)
        differ = (cached - now).abs().amax(1) > _TOLERANCE * largest
        if differ.any():
            i = int(differ.nonzero()[0])
            k = int((cached[i] - now[i]).abs().argmax())
            raise InputError(
                f"the cache {self.folder} is out of date: output {k} for {self._place(rows[i])} is {cached[i, k]:.5g} "
                f"there and {now[i, k]:.5g} now, as the image or a library has changed; {_REMEDY}."
            )

    def _rows(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor) -> np.ndarray:
        """Row numbers, int64 (B,), in the order of the files. ValueError where there is no such view or image."""
        view, position = np.broadcast_arrays(np.atleast_1d(views), np.atleast_1d(positions))
        return np.ravel_multi_index((view, position), self._done.shape)

    def _place(self, row: int) -> str:
        view, position = divmod(int(row), self._done.shape[1])
        return f"view {view} of image {position}"

    def _store(self, name: str, file: np.memmap, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows and flush them to the disk.

        Not through the map: a full disk, or one taken away, would end the process by a signal.
        """
        try:
            with (self.folder / name).open("r+b") as out:
                for row, value in zip(rows.tolist(), values, strict=True):
                    out.seek(file.offset + row * value.nbytes)
                    out.write(value.tobytes())
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise InputError(
                f"the cache {self.folder} cannot be written ({error.strerror}); make room there, and run again to go "
                "on."
            ) from error


def open_filled(
    folder: str | Path,
    teacher: Teacher | Ensemble | None,
    data: Any,
    names: Sequence[str],
    outputs: int,
    device: torch.device,
    *,
    cache_only: bool,
) -> TeacherCache:
    """The cache of a teacher for a data module's training views, compared with it, and with all that it lacked.

    With `cache_only` nothing may be lacking, and the teacher, None where it cannot be loaded, only compared with.
    """
    keys = data.train_keys()
    shape, digests = (len(keys), data.hparams["views"], outputs), (digest_of(names), digest_of(keys))
    transform = data.train_view_transform_id()
    manifest = Manifest(*shape, *digests, transform, None if teacher is None else teacher.digest)
    cache = TeacherCache.open(folder, manifest, cache_only=cache_only)
    if teacher is None:
        return cache
    for view, position in zip(*cache.sample(), strict=True):
        for batch in data.train_views(int(view), [int(position)]):
            if len(batch["images"]):
                files = [data.file("train", int(position))]
                cache.verify(view, position, teacher(batch["images"].to(device), files))
    if not cache_only:
        _fill(cache, teacher, data, device)
    return cache


def _fill(cache: TeacherCache, teacher: Teacher | Ensemble, data: Any, device: torch.device) -> None:
    """Ask the teacher for what is missing; stopped at any time, it has lost no more than a batch."""
    together = dist.is_available() and dist.is_initialized()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    # By the image, as this list is shorter for a process that comes after another has begun to write.
    missing = [(rows := cache.missing(view))[rows % ranks == rank] for view in range(data.hparams["views"])]
    # The first outputs wait until a teacher of probabilities would have been refused: none of those is to be kept.
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []
    asked = 0

    def write() -> None:
        while waiting:
            cache.write(*waiting.pop(0))

    try:
        with tqdm(total=sum(map(len, missing)), desc="asking the teacher", unit=" images", delay=2, leave=False) as bar:
            for batch in _batches(cache, data, missing):
                files = [data.file("train", position) for position in batch["positions"].tolist()]
                logits = teacher(batch["images"].to(device), files)
                waiting.append((batch["view"], batch["positions"], logits))
                asked += logits.numel()
                if asked >= ENOUGH_TO_TELL:
                    write()
                bar.update(len(logits))
    except InputError:
        waiting.clear()
        raise
    finally:  # Ctrl-C too
        write()
    if together:
        dist.barrier()


def _batches(cache: TeacherCache, data: Any, missing: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """The batches of the missing positions of each view, of which unreadable ones are skipped."""
    for view, positions in enumerate(missing):
        if not len(positions):
            continue
        read = [np.zeros(0, np.int64)]
        for batch in data.train_views(view, positions.tolist()):
            data.bad_images.note(batch["bad"])
            read.append(batch["positions"].numpy())
            if len(batch["images"]):
                yield batch
        cache.skip(view, np.setdiff1d(positions, np.concatenate(read)))


def _create(folder: Path, manifest: Manifest) -> None:
    """Make an empty cache beside its place and rename it: it is there whole, or not at all. Another process may win."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"the cache {folder} has other things in it; name a folder that is empty or new.")
    shape = manifest.views, manifest.images, manifest.outputs
    size = manifest.views * manifest.images * (2 * manifest.outputs + 1)  # bytes
    # The versions are for people; a difference is no reason to refuse, as rows are compared with the teacher's of now.
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise InputError(
                f"the cache {folder} needs {size / 1e9:.1f} GB for {manifest.views} views of {manifest.images:,} "
                f"images, and the disk has {free / 1e9:.1f}; name a folder on another disk, or ask for fewer views."
            )
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as name:
            new = Path(name) / folder.name
            new.mkdir()
            np.lib.format.open_memmap(new / "logits.npy", "w+", np.float16, shape).flush()  # zeros, of no size yet
            np.lib.format.open_memmap(new / "done.npy", "w+", np.uint8, shape[:2]).flush()
            with (new / "manifest.json").open("w", encoding="utf-8") as file:
                json.dump({**dataclasses.asdict(manifest), "versions": versions}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            if folder.exists():
                folder.rmdir()
            new.rename(folder)
    except OSError as error:
        if not (folder / "manifest.json").is_file():  # if it is there, another process was first
            raise InputError(f"the cache {folder} cannot be made ({error.strerror}); name another folder.") from error


def _check(folder: Path, manifest: Manifest) -> None:
    """Raise InputError where the folder's manifest says anything else than `manifest`."""
    try:
        there: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        there = {"format": there["format"], **there}
    except (OSError, ValueError, LookupError, TypeError):
        _damaged(folder, "manifest.json")
    for name, now in dataclasses.asdict(manifest).items():
        if there.get(name) != now and (name, now) != ("teacher", None):
            difference = f"is {there.get(name)} there and {now} now"
            if name == "transform":
                difference = _difference(str(there.get(name)), now)
            raise InputError(f"the cache {folder} is of something else: `{name}` {difference}; {_REMEDY}.")


def _difference(there: str, now: str) -> str:
    """What two descriptions of a transform do not share, for people: each has dozens of values."""
    # At commas, semicolons and brackets, but for those of numbers: "scale=(0.5, 1.0)", "HorizontalFlip(p=0.5".
    one, other = (
        [part.strip() for part in re.findall(r"(?:\([-\d., ]*\)|\((?=\w)|[^,;()[\]])+", text) if part.strip()]
        for text in (there, now)
    )
    changes = [code for code in difflib.SequenceMatcher(None, one, other, False).get_opcodes() if code[0] != "equal"]
    parts = [part for _, start, stop, _, _ in changes for part in one[start:stop]]
    others = [part for _, _, _, start, stop in changes for part in other[start:stop]]
    return f"has {', '.join(parts) or 'nothing'} there and {', '.join(others) or 'nothing'} now"


def _map(folder: Path, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A file of the cache, read-only: it may lie where nothing can be written."""
    try:
        found = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        _damaged(folder, name)
    if found.dtype != dtype or found.shape != shape:
        _damaged(folder, name)
    return found


def _damaged(folder: Path, name: str) -> NoReturn:
    raise InputError(
        f"the cache {folder} is damaged: its {name} is missing, cut short or not what was written; {_REMEDY}."
    )
