"""A teacher's answers, kept: float16 logits for each of V fixed views of every picture, in a memory-mapped file.

"Function matching" warns of answers kept for one view and used for another (Beyer et al. 2021, arXiv 2106.05237), so an
answer belongs to one picture and one seeded view of it, and a manifest says which teacher, transform and list it is of.

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from backbone.errors import InputError
from tasks.distillation.teachers import TELLING

_FORMAT = 2  # 1 had no digest of the answers' names
_MISSING, _DONE, _SKIPPED = 0, 1, 2  # in done.npy; a byte each, as two processes cannot write one byte
_REMEDY = "name another folder, or delete this one"
_TOLERANCE = 1e-2  # of a row's largest number: float16 has 5e-4 and TF32 1e-3, another teacher far more


@dataclass(frozen=True)
class Manifest:
    """What a cache is of; it serves runs that ask for the very same.

    `teacher` is its digest, or None where it is not at hand and nothing is to be asked of it; `transform` names all
    that decides a view's pixels; `keys` is `keys_digest` of the pictures, `names` of what is answered; V views of N
    images with K answers each.
    """

    teacher: str | None
    transform: str
    keys: str
    names: str
    views: int
    images: int
    answers: int


_SAYS = {  # in the order in which a difference is most telling
    "images": "the number of pictures",
    "views": "the number of views",
    "answers": "the number of answers",
    "names": "what is answered (digest of the names)",
    "keys": "the list of pictures (digest)",
    "transform": "the transform",
    "teacher": "the teacher (digest)",
}


def keys_digest(keys: Iterable[str]) -> str:
    """sha256, in hex, of names in their order."""
    digest = hashlib.sha256()
    for key in keys:
        name = os.fsencode(key)
        digest.update(len(name).to_bytes(8, "little") + name)
    return digest.hexdigest()


class TeacherCache:
    """Answers by (view, position of the picture); `open` one.

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
                raise InputError(
                    f"the cache {folder} does not exist, so it cannot serve alone; leave out `cache_only`."
                )
            _create(folder, manifest)
        _check(folder, manifest)
        shape = manifest.views, manifest.images, manifest.answers
        logits, done = _map(folder, "logits.npy", np.float16, shape), _map(folder, "done.npy", np.uint8, shape[:2])
        cache = cls(folder, logits, done)
        missing = int((done == _MISSING).sum())
        if cache_only and missing:
            raise InputError(
                f"the cache {folder} has no answer yet for {missing:,} of {done.size:,} views of pictures, so it "
                "cannot serve alone; leave out `cache_only` to have them asked for."
            )
        return cache

    def __deepcopy__(self, memo: dict) -> "TeacherCache":
        return self  # a copy would read the whole file into memory

    def missing(self, view: int) -> np.ndarray:
        """Positions, int64 and rising, of pictures without an answer for this view, those skipped before among them."""
        return np.flatnonzero(self._done[view] != _DONE)

    def write(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor, logits: Tensor) -> None:
        """Keep logits (B, K) for views (B,), or one for all, of the pictures at positions (B,), and mark them done.

        Raises InputError where a number is beyond float16's range, or the disk is full.
        """
        rows = self._rows(views, positions)
        values = logits.detach().float().cpu().numpy()
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if halves.shape != (len(rows), self._logits.shape[2]):
            raise ValueError(f"{len(rows)} rows of {self._logits.shape[2]} answers, not {halves.shape}")
        finite = np.isfinite(halves)
        if not finite.all():
            i, k = np.argwhere(~finite)[0]
            view, position = divmod(int(rows[i]), self._logits.shape[1])
            raise InputError(
                f"the teacher's answer {k} for view {view} of picture {position} is {values[i, k]}, and a cache keeps "
                "float16, up to 65504; train without a cache."
            )
        self._store("logits.npy", self._logits, rows, halves)
        self._store("done.npy", self._done, rows, np.full(len(rows), _DONE, np.uint8))

    def skip(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor) -> None:
        """Mark pictures that a pass over `missing` could not read; the cache is complete without them."""
        rows = self._rows(views, positions)
        self._store("done.npy", self._done, rows, np.full(len(rows), _SKIPPED, np.uint8))

    def read(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor) -> Tensor:
        """The logits, float32 (B, K), for the views (B,) of the pictures at positions (B,).

        Raises InputError where one of them is not there.
        """
        rows = self._rows(views, positions)
        absent = rows[self._done.reshape(-1)[rows] != _DONE]
        if len(absent):
            view, position = divmod(int(absent[0]), self._logits.shape[1])
            raise InputError(
                f"the cache {self.folder} has no answer for {len(absent)} of {len(rows)} pictures asked for, first "
                f"view {view} of picture {position}; fill it, without `cache_only`."
            )
        return torch.from_numpy(np.asarray(self._logits.reshape(-1, self._logits.shape[2])[rows], np.float32))

    def sample(self, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """Views and positions, int64 each, of up to `count` rows that are done, drawn anew each time, for `verify`."""
        done = np.flatnonzero(self._done.reshape(-1) == _DONE)
        rows = np.random.default_rng().choice(done, min(count, len(done)), replace=False)
        return rows // self._logits.shape[1], rows % self._logits.shape[1]

    def verify(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor, answers: Tensor) -> None:
        """Compare what is kept with the teacher's `answers` (B, K) of now. InputError where they differ by over 1 %.

        It finds what no digest can: other pixels under a file's old name, another release of a library.
        """
        rows = self._rows(views, positions)
        kept, now = self.read(views, positions), answers.detach().float().cpu()
        differ = (kept - now).abs().amax(1) > _TOLERANCE * torch.maximum(kept.abs(), now.abs()).amax(1).clamp(min=0.1)
        if differ.any():
            i = int(differ.nonzero()[0])
            view, position = divmod(int(rows[i]), self._logits.shape[1])
            k = int((kept[i] - now[i]).abs().argmax())
            raise InputError(
                f"the cache {self.folder} is out of date: for view {view} of picture {position}, answer {k}, it has "
                f"{kept[i, k]:.5g} where the teacher now says {now[i, k]:.5g}; the picture or a library has changed; "
                f"{_REMEDY}."
            )

    def _rows(self, views: ArrayLike | Tensor, positions: ArrayLike | Tensor) -> np.ndarray:
        """Row numbers, int64 (B,), in the order of the files. ValueError where there is no such view or picture."""
        view, position = np.broadcast_arrays(np.atleast_1d(views), np.atleast_1d(positions))
        return np.ravel_multi_index((view, position), self._done.shape)

    def _store(self, name: str, file: np.memmap, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows and flush them to the disk.

        Not through the map: a full disk, or one taken away, would end the process by a signal.
        """
        size = values[0].nbytes if len(values) else 0
        try:
            with (self.folder / name).open("r+b") as out:
                for row, value in zip(rows.tolist(), values, strict=True):
                    out.seek(file.offset + row * size)
                    out.write(value.tobytes())
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise InputError(
                f"the cache {self.folder} cannot be written ({error.strerror}); make room there, and run again to go "
                "on."
            ) from error


def fill(
    cache: TeacherCache,
    teacher: Callable[[Tensor, Sequence[str]], Tensor],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    total: int,
    file: Callable[[int], str],
) -> None:
    """Ask the teacher about batches of (view (B,), position (B,), images uint8 (B, 3, H, W)), and keep what it says.

    Images are on the teacher's device; `total` counts them all, for the progress bar; `file` names the one at a
    position in what goes wrong. Stopped at any time, it has lost no more than a batch: go on with what is `missing`.
    """
    # The first answers wait until a teacher of probabilities would have been refused: none of those is to be kept.
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []
    answered = 0

    def write() -> None:
        while waiting:
            cache.write(*waiting.pop(0))

    try:
        with tqdm(total=total, desc="asking the teacher", unit=" images", delay=2, leave=False) as bar:
            for views, positions, images in batches:
                if not len(images):
                    continue
                answers = teacher(images, [file(position) for position in positions.tolist()])
                waiting.append((views, positions, answers))
                answered += answers.numel()
                if answered >= TELLING:
                    write()
                bar.update(len(images))
    except InputError:
        waiting.clear()
        raise
    finally:  # Ctrl-C too
        write()


def _create(folder: Path, manifest: Manifest) -> None:
    """Make an empty cache beside its place and rename it: it is there whole, or not at all. Another process may win."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"the cache {folder} holds other things than a cache; name a folder that is empty or new.")
    if manifest.teacher is None:
        raise ValueError("an empty cache is of no use without a teacher")
    size = manifest.views * manifest.images * (2 * manifest.answers + 1)  # bytes
    text = {"format": _FORMAT, "dtype": "float16", **dataclasses.asdict(manifest), "versions": _versions()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise InputError(
                f"the cache {folder} needs {size / 1e9:.1f} GB for {manifest.views} views of {manifest.images:,} "
                f"pictures, and the disk has {free / 1e9:.1f}; name a folder on another disk, or ask for fewer views."
            )
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as beside:
            new = Path(beside) / folder.name
            new.mkdir()
            shape = manifest.views, manifest.images, manifest.answers
            np.lib.format.open_memmap(new / "logits.npy", "w+", np.float16, shape).flush()  # zeros, of no size yet
            np.lib.format.open_memmap(new / "done.npy", "w+", np.uint8, shape[:2]).flush()
            with (new / "manifest.json").open("w", encoding="utf-8") as file:
                json.dump(text, file, indent=2)
                file.write("\n")
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
        found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        names = _SAYS if found["format"] == _FORMAT else ()
        found = {name: found[name] for name in ("format", "dtype", *names)}
    except (OSError, ValueError, LookupError, TypeError):
        _damaged(folder, "manifest.json")
    for name, ours in (("format", _FORMAT), ("dtype", "float16")):
        if found[name] != ours:
            raise InputError(f"the cache {folder} is of {name} {found[name]!r} and not {ours!r}; {_REMEDY}.")
    for name, what in _SAYS.items():
        asked = getattr(manifest, name)
        if found[name] != asked and not (name == "teacher" and asked is None):
            difference = f"is {found[name]} there and {asked} now"
            if name == "transform":
                difference = _difference(str(found[name]), asked)
            raise InputError(f"the cache {folder} is of something else: {what} {difference}; {_REMEDY}.")


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
    if not changes:
        return f"is {there} there and {now} now"
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


def _versions() -> dict[str, str]:
    """For people; a difference is no reason to refuse, as rows are compared with the teacher's answers of now."""
    return {name: version(name) for name in ("torch", "torchvision", "numpy")}
