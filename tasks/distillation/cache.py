"""Cached teacher logits: float16 for each of V fixed views of every image, in a memory-mapped file.

"Function matching" warns of logits cached for one view and used for another (Beyer et al. 2021, arXiv 2106.05237), so a
row belongs to one image and one seeded view of it, and a manifest says which teacher, transform and list it is of.

The folder holds logits.npy (V, N, K), done.npy (V, N) and manifest.json. Several processes may fill it at once, each
other rows: every row has its own bytes in both files. Machines that share no disk fill a folder each.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from backbone.errors import InputError
from backbone.files import room_beside
from tasks.distillation.teachers import ENOUGH_TO_TELL, digest_of
from tasks.processes import agreed, gather

Manifest = Mapping[str, Any]  # see `manifest_of`
Compute = Callable[[Mapping[str, Any]], Tensor]  # a batch of training images to what the teacher outputs for it
_MISSING, _DONE, _SKIPPED = 0, 1, 2  # in done.npy; a byte each, as two processes cannot write one byte
_REMEDY = "name another folder, or delete this one"
_TOLERANCE = 1e-2  # of a row's largest number: float16 has 5e-4 and TF32 1e-3, another teacher far more


def manifest_of(data: Any, names: Sequence[str], outputs: int, teacher: str | None) -> Manifest:
    """What a cache for a data module's training views is of, in the order in which a difference is most telling.

    V views of N images with K outputs each; digests of the outputs' names and of the images' files; all that decides a
    view's pixels; the teacher's digest, or None where it cannot be loaded.
    """
    keys = data.train_keys()
    return {
        "format": 3,
        "images": len(keys),
        "views": data.hparams["views"],
        "outputs": outputs,
        "names": digest_of(*map(os.fsencode, names)),
        "files": digest_of(*map(os.fsencode, keys)),
        "transform": data.train_view_transform_id(),
        "teacher": teacher,
    }


def read_manifest(folder: str | Path) -> Manifest:
    """What the cache in a folder is of. InputError where it cannot be read."""
    try:
        manifest = json.loads((Path(folder).expanduser() / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        manifest = None
    return manifest if isinstance(manifest, dict) else _damaged(folder, "manifest.json")


class TeacherCache:
    """Logits by (view, position of the image) in `folder`, made empty there; with `cache_only` it must be complete.

    A row counts as done only after its numbers are on the disk, so that a kill at any time loses no more than a batch.
    Raises InputError where it is of something else, damaged, or too large for the disk; nothing is changed then.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, *, cache_only: bool = False) -> None:
        self.folder = folder = Path(folder).expanduser()
        if not (folder / "manifest.json").is_file():
            if cache_only:
                raise InputError(f"the cache {folder} does not exist; leave out `cache_only` to have it made.")
            _create(folder, manifest)
        _check(folder, manifest)
        shape = manifest["views"], manifest["images"], manifest["outputs"]
        self._shape = shape
        self.open()
        missing = int((self._done == _MISSING).sum())
        if cache_only and missing:
            lacks = f"lacks {missing:,} of {self._done.size:,} rows"
            raise InputError(f"the cache {folder} {lacks}; leave out `cache_only` to have it filled.")

    def __len__(self) -> int:
        return int(self._shape[0])

    def __deepcopy__(self, memo: dict) -> "TeacherCache":
        return self  # a copy would read the whole file into memory

    def open(self) -> None:
        """Look at the files anew, as over a network what others have written is seen then."""
        self._logits = _map(self.folder, "logits.npy", np.float16, self._shape)  # (V, N, K)
        self._done = _map(self.folder, "done.npy", np.uint8, self._shape[:2])  # (V, N)

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
            lacks = f"lacks {len(absent)} of {len(rows)} rows, first {self._place(absent[0])}"
            raise InputError(f"the cache {self.folder} {lacks}; fill it, without `cache_only`.")
        return torch.from_numpy(np.asarray(self._logits.reshape(-1, self._logits.shape[2])[rows], np.float32))

    def sample(self, count: int = 8) -> list[list[int]]:
        """[view, position] of up to `count` rows that are done, drawn anew each time, for `verify`."""
        done = np.argwhere(self._done == _DONE)
        return np.random.default_rng().choice(done, min(count, len(done)), replace=False).tolist()

    def verify(self, view: int, position: int, logits: Tensor) -> None:
        """Compare a row with the teacher's `logits` (K,) of now. InputError where they differ by over 1 %.

        It finds what no digest can: other pixels under a file's old name, another release of a library.
        """
        cached, now = self.read(view, position)[0], logits.detach().float().cpu()
        difference = (cached - now).abs()
        if difference.max() > _TOLERANCE * max(0.1, *map(float, torch.stack([cached, now]).abs().amax(1))):
            k = int(difference.argmax())
            raise InputError(
                f"the cache {self.folder} is out of date: output {k} for view {view} of image {position} is "
                f"{cached[k]:.5g} there and {now[k]:.5g} now, as the image or a library has changed; {_REMEDY}."
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
            problem = f"cannot be written ({error.strerror}); make room there, and run again to go on"
            raise InputError(f"the cache {self.folder} {problem}.") from error


def verify_some(cache: TeacherCache, data: Any, compute: Compute) -> None:
    """Compare a few rows of the cache with what the teacher outputs now. InputError where they differ."""
    for view, position in cache.sample():
        for batch in data.train_views(view, [position]):
            if len(batch["images"]):
                cache.verify(view, position, compute(batch)[0])


def fill(cache: TeacherCache, data: Any, compute: Compute) -> None:
    """Compute what is missing; stopped at any time, it has lost no more than a batch.

    Of several processes each has an equal share of what lacks on the disk that it sees, and all of them end together.
    """
    agreed(0)  # from here on nobody has begun to write, and all list the same
    cache.open()
    rank, sharing = _sharing(cache)
    missing = [cache.missing(view)[rank::sharing] for view in range(data.hparams["views"])]
    rounds = agreed(sum(-(-len(positions) // data.device_batch) for positions in missing))
    # The first outputs wait until a teacher of probabilities would have been refused: none of those is to be kept.
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []
    computed = 0
    try:
        with tqdm(
            total=sum(map(len, missing)), desc="teacher's outputs", unit=" images", delay=2, leave=False, disable=None
        ) as bar:
            for view, positions in enumerate(missing):
                unread = set(positions.tolist())
                for batch in data.train_views(view, positions.tolist()) if unread else ():
                    data.bad_images.note(batch["bad"], batch["cut_short"])
                    if len(batch["images"]):
                        waiting.append((batch["view"], batch["positions"], compute(batch)))
                        computed += waiting[-1][2].numel()
                    while waiting and computed >= ENOUGH_TO_TELL:
                        cache.write(*waiting.pop(0))
                    unread -= set(batch["positions"].tolist())
                    bar.update(len(batch["images"]))
                    rounds -= 1
                    agreed(0)  # in step, so that none waits for hours and is taken for one that hangs
                if unread:  # the disk may be read-only
                    cache.skip(view, sorted(unread))
    except InputError:
        waiting.clear()
        raise
    finally:  # Ctrl-C too
        for batch_rows in waiting:
            cache.write(*batch_rows)
    for _ in range(rounds + 1):  # the last: by then all have written what they held back
        agreed(0)
    cache.open()


def _sharing(cache: TeacherCache) -> tuple[int, int]:
    """The number of this process among those that see this folder, on the same disk, and how many they are."""
    name = gather({0: secrets.token_hex(8)})[0]
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    ranks = [*gather({rank: None})]
    if len(ranks) == 1 or not agreed(int(any(len(cache.missing(view)) for view in range(len(cache))))):
        return 0, 1  # nothing is to be written, maybe as nothing can be
    mine = cache.folder / f".seen~{name}~{rank}"
    with contextlib.suppress(OSError):  # of a cache that is complete, and may lie where nothing can be written
        mine.touch()
    try:
        agreed(0)
        seen = [one for one in ranks if mine.with_name(f".seen~{name}~{one}").exists()]
        agreed(0)
    finally:
        with contextlib.suppress(OSError):
            mine.unlink(missing_ok=True)
    return (seen.index(rank), len(seen)) if rank in seen else (0, 1)


def _create(folder: Path, manifest: Manifest) -> None:
    """Make an empty cache beside its place and rename it: it is there whole, or not at all. Another process may win."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"the cache {folder} has other things in it; name a folder that is empty or new.")
    views, images, outputs = shape = manifest["views"], manifest["images"], manifest["outputs"]
    size = views * images * (2 * outputs + 1)  # bytes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise InputError(
                f"the cache {folder} needs {size / 1e9:.1f} GB for {views} views of {images:,} images and the disk has "
                f"{free / 1e9:.1f}; name a folder on another disk, or ask for fewer views."
            )
        with room_beside(folder) as room:
            new = room / folder.name
            new.mkdir()
            np.lib.format.open_memmap(new / "logits.npy", "w+", np.float16, shape).flush()  # zeros, of no size yet
            np.lib.format.open_memmap(new / "done.npy", "w+", np.uint8, shape[:2]).flush()
            with (new / "manifest.json").open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=2)
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
    there = read_manifest(folder)
    for name, now in manifest.items():
        if there.get(name) == now or (name, now) == ("teacher", None):
            continue
        one, other = str(there.get(name)), str(now)
        if name == "transform":  # dozens of values, of which only those that differ are shown
            parts = [re.split(r"[,;] (?![\d.])", text) for text in (one, other)]  # not within (0.5, 1.0)
            one, other = (", ".join(p for p in a if p not in b) for a, b in (parts, parts[::-1]))
        raise InputError(f"the cache {folder} is of something else: its {name} is {one}, not {other}; {_REMEDY}.")


def _map(folder: Path, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A file of the cache, read-only: it may lie where nothing can be written."""
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(array.shape)
    except (OSError, ValueError, EOFError):
        _damaged(folder, name)
    return array


def _damaged(folder: str | Path, name: str) -> NoReturn:
    problem = f"its {name} is missing, cut short or not what was written"
    raise InputError(f"the cache {folder} is damaged: {problem}; {_REMEDY}.")
