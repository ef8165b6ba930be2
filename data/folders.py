"""Folders of images: whether one is there, and what lies in it; the only place that lists them. No torch."""

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from backbone.names import printed
from data.images import HEIF_ENDINGS, IMAGE_ENDINGS
from data.records import Issue

# Left by macOS, Windows, file servers and file systems; no more data than a name with a leading dot.
_NOT_DATA = frozenset(
    kind(name)
    for name in b"__macosx thumbs.db ehthumbs.db desktop.ini @eadir #recycle $recycle.bin lost+found".split()
    for kind in (bytes, os.fsdecode)
)
_ENDINGS = frozenset(ending.removeprefix(".").encode() for ending in IMAGE_ENDINGS)

# Images by their names, in formats that are not read: of phones without the extra for them, of cameras, drawing
# programs and scanners.
# fmt: off
UNREADABLE_ENDINGS = HEIF_ENDINGS.union((
    ".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef",
    ".srw", ".psd", ".svg", ".xcf", ".ai", ".eps", ".tga", ".jxl", ".exr", ".hdr", ".pcx", ".ico", ".dcm", ".djvu",
)) - IMAGE_ENDINGS
# fmt: on

_THREADS = 16  # they wait for the disk; where it is fast, they are no slower than one

# A progress bar where there is a terminal, and something to wait for.
progress = functools.partial(tqdm, disable=None, delay=2, leave=False)


def existing_folder(root: str | Path, option: str = "--data") -> Path:
    """The folder that an option names, as a path. Raises InputError where there is none."""
    path = Path(root)
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{option} {path} {problem}; give the folder that holds the data set.")
    return path


def say(line: str) -> None:
    """Print a line for the user, once in a distributed run; names in it may hold anything."""
    if "lightning" in sys.modules:  # which imports torch, and without it there is one process
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only(print)(printed(line), flush=True)
    else:
        print(printed(line), flush=True)


def is_foreign(name: str | bytes) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a system: no data."""
    return name[:1] in (".", b".") or name.lower() in _NOT_DATA


def count_of(count: int, of: str) -> str:
    """The number and the noun: "1 image", "2,000 images", "3 classes"."""
    return f"{count:,} {of}{'' if count == 1 else 'es' if of.endswith(('s', 'x')) else 's'}"


def unreadable_images(others: Iterable[Counter[str]]) -> tuple[Issue, ...]:
    """What to say of files, counted by their ending in lower case, that are images in a format that is not read."""
    counts = Counter({ending: n for ending, n in sum(others, Counter[str]()).items() if ending in UNREADABLE_ENDINGS})
    what = "file{} left out, a kind of image that cannot be read: {}"
    return tuple(
        Issue(f"{ending} {what.format('s' * (n > 1), how_to_read(ending))}", n) for ending, n in counts.most_common()
    )


def how_to_read(ending: str) -> str:
    """What to do with images of such an ending, in lower case, which cannot be read."""
    return "pip install '.[heif]', or save as JPEG" if ending in HEIF_ENDINGS else "save as JPEG or PNG"


def readable(names: np.ndarray, there: np.ndarray, source: str | Path) -> tuple[np.ndarray, tuple[Issue, ...]]:
    """Which files of a list, bytes (N,), are not `there` as images that cannot be read, bool (N,); these, counted.

    Raises InputError where nothing else is there.
    """
    endings = np.array([f".{os.fsdecode(name.rpartition(b'.')[2])}".lower() for name in names.tolist()])
    unreadable = there & np.isin(endings, list(UNREADABLE_ENDINGS))
    issues = unreadable_images([Counter(endings[unreadable].tolist())])
    if issues and (there == unreadable).all():
        raise InputError(f"{source} lists no image that can be read: {', '.join(map(str, issues))}.")
    return ~unreadable, issues


@dataclass
class Listing:
    """What lies in a folder, to the bottom, links followed; hidden files and what systems leave behind passed over."""

    images: dict[str, list[bytes]] = field(default_factory=dict)  # folder, "" for the root itself, to sorted names
    inodes: dict[str, list[int]] = field(default_factory=dict)  # of the same images; of a link that of its file
    others: dict[str, Counter[str]] = field(default_factory=dict)  # other files there, by their ending

    def names(self, folders: Iterable[str]) -> np.ndarray:
        """The paths in the root, bytes (N,), of the images right in these `folders`, in that order."""
        starts = ((folder, os.fsencode(folder) + b"/" if folder else b"") for folder in folders)
        return np.array([start + name for folder, start in starts for name in self.images[folder]], dtype=np.bytes_)


def list_folder(root: Path, depth: int = 0) -> Listing:
    """List `root` by threads. Raises InputError where a folder cannot be listed.

    Of links that lead twice to one folder, or back up, one counts within each of the folders at `depth`: 0 is the root.
    """
    listing, seen, level = Listing(), set[tuple[str, int, int]](), [""]
    with ThreadPoolExecutor(_THREADS) as pool, progress(desc="listing images", unit=" images") as bar:
        while level:
            deeper: list[str] = []
            for path, (images, inodes, subfolders, others, identity) in zip(
                level, pool.map(lambda path: _list(root, path), level), strict=True
            ):
                above = path.split("/")[:depth]
                within = [("/".join(above[:i]), *identity) for i in range(len(above) + 1)]
                if not seen.isdisjoint(within):
                    continue
                seen.add(within[-1])
                listing.images[path], listing.inodes[path], listing.others[path] = images, inodes, others
                deeper += [f"{path}/{name}" if path else name for name in subfolders]
                bar.update(len(images))
            level = deeper
    return listing


def list_images(root: Path) -> np.ndarray:
    """The sorted paths of all images in `root`, bytes (N,); a line counts those that cannot be read.

    Raises InputError where there is none.
    """
    names, issues = list_readable(root)
    for issue in issues:
        say(f"{root}: {issue}")
    return names


def list_readable(root: Path) -> tuple[np.ndarray, tuple[Issue, ...]]:
    """What list_images() finds, and what to say of images that cannot be read."""
    listing = list_folder(root)
    names, issues = np.sort(listing.names(listing.images)), unreadable_images(listing.others.values())
    if not len(names):
        raise InputError(f"{root} {no_image(issues)}; give a folder of images.")
    return names, issues


def no_image(issues: Sequence[Issue]) -> str:
    """That a folder "holds no image", by which endings, and what else it holds."""
    also = "".join(f"; {issue}" for issue in issues)
    return f"holds no image by its ending ({', '.join(sorted(IMAGE_ENDINGS))}){also}"


def are_there(folder: Path, names: np.ndarray) -> np.ndarray:
    """Which files are in `folder`, bool (N,). Each folder is listed once: asking by name is slow over a network."""
    start = os.fsencode(folder)
    listed: dict[bytes, set[bytes]] = {}
    there = np.empty(len(names), dtype=bool)
    for i, name in enumerate(progress(names.tolist(), desc="looking for the images")):
        parent, _, last = name.rpartition(b"/")
        if parent not in listed:
            try:
                with os.scandir(os.path.join(start, parent)) as entries:  # noqa: PTH118  # a Path cannot be bytes
                    listed[parent] = {entry.name for entry in entries if not is_foreign(entry.name) and entry.is_file()}
            except (OSError, ValueError):  # ValueError: a zero byte in the name
                listed[parent] = set()
        there[i] = last in listed[parent]
    return there


def _list(root: Path, path: str) -> tuple[list[bytes], list[int], list[str], Counter[str], tuple[int, int]]:
    """The images, their inodes, the subfolders and what else lies right in a folder, and its identity on the disk."""
    inodes: dict[bytes, int] = {}
    subfolders: list[str] = []
    others = Counter[str]()
    try:
        stat = (root / path).stat()
        with os.scandir(os.fsencode(root / path)) as entries:
            for entry in entries:
                name = entry.name
                if is_foreign(name):
                    continue
                _, dot, ending = name.rpartition(b".")  # not splitext: a million of them would take a while
                link = entry.is_symlink()
                if dot and ending.lower() in _ENDINGS and _is(entry.is_file):
                    inodes[name] = entry.stat().st_ino if link else entry.inode()
                elif _is(entry.is_dir):
                    subfolders.append(os.fsdecode(name))
                else:
                    broken = link and not _is(entry.is_file)
                    kind = os.fsdecode(dot + ending.lower()) if dot else "without an ending"
                    others["links to nothing" if broken else kind] += 1
    except OSError as error:
        raise InputError(f"{root / path} cannot be listed ({error.strerror or error}); make it readable.") from error
    names = sorted(inodes)
    return names, [inodes[name] for name in names], sorted(subfolders), others, (stat.st_dev, stat.st_ino)


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads round to itself, or where one may not look
        return False
