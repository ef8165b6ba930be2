"""A list of image files with what is known of each: what every reader of whole pictures gives. No torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from data.folders import say
from data.images import IMAGE_ENDINGS


@dataclass(frozen=True)
class ImageList:
    """The images of one split, packed: a list of objects would be copied page by page into every worker.

    A subclass adds arrays of N rows, or None where nothing is known.
    """

    folder: Path  # file_names are relative to it
    file_names: np.ndarray  # UTF-8 bytes (N,), dtype S*

    def __len__(self) -> int:
        return len(self.file_names)

    def path(self, position: int) -> Path:
        """The file of the image at `position`."""
        return self.folder / os.fsdecode(self.file_names[position])  # not decode(): a name need not be valid UTF-8

    def __contains__(self, file: object) -> bool:
        return bool((self.file_names == os.fsencode(os.path.relpath(str(file), self.folder))).any())

    def take(self, positions: np.ndarray) -> Self:
        """The images at `positions`, (M,) of integers or a mask of bool (N,), in that order."""
        rows: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: rows[name][positions] for name in rows if isinstance(rows[name], np.ndarray)})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All parts as one, in their order, in the folder that holds all of theirs; None for what one does not know."""
        folders = [os.path.abspath(part.folder) for part in parts]  # noqa: PTH100  # resolve() would follow links
        folder = os.path.commonpath(folders)
        starts = [b"" if own == folder else os.fsencode(f"{os.path.relpath(own, folder)}/") for own in folders]
        names = [np.char.add(start, part.file_names) for start, part in zip(starts, parts, strict=True)]
        rows = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)[2:]}
        known = {name: np.concatenate(of) for name, of in rows.items() if all(isinstance(a, np.ndarray) for a in of)}
        written = parts[0].folder if len(set(folders)) == 1 else Path(folder)
        return cls(written, np.concatenate(names), **{**dict.fromkeys(rows), **known})


Images = TypeVar("Images", bound=ImageList)


def list_pictures(root: Path) -> np.ndarray:
    """The names of all pictures in `root` to the bottom, links followed, sorted: UTF-8 bytes (N,), relative to it.

    Hidden files and folders are passed over, files of other endings too. Raises InputError where there is none.
    """
    names: list[bytes] = []
    seen: set[tuple[int, int]] = set()  # a link may lead back up
    with tqdm(desc="listing the pictures", unit=" pictures", delay=2, leave=False) as bar:
        for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
            stat = Path(folder).stat()
            if (stat.st_dev, stat.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
            start = os.path.relpath(folder, root)
            found = [n for n in files if n[0] != "." and os.path.splitext(n)[1].lower() in IMAGE_ENDINGS]  # noqa: PTH122
            names += [os.fsencode(name if start == "." else f"{start}/{name}") for name in found]
            bar.update(len(found))
    if not names:
        raise InputError(
            f"{root} holds no picture by its ending ({', '.join(sorted(IMAGE_ENDINGS))}); give a folder of pictures."
        )
    return np.sort(np.array(names))


def _refuse_unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}); make it readable.") from error


def are_there(folder: Path, names: np.ndarray) -> np.ndarray:
    """Which files are in `folder`, bool (N,). Each folder is listed once: asking by name is slow over a network."""
    start = os.fsencode(folder)
    listed: dict[bytes, set[bytes]] = {}
    there = np.empty(len(names), dtype=bool)
    for i, name in enumerate(tqdm(names.tolist(), desc="looking for the pictures", delay=2, leave=False)):
        parent, _, last = name.rpartition(b"/")
        if parent not in listed:
            try:
                with os.scandir(os.path.join(start, parent)) as entries:  # noqa: PTH118  # a Path cannot be bytes
                    listed[parent] = {entry.name for entry in entries if entry.is_file()}
            except OSError:
                listed[parent] = set()
        there[i] = last in listed[parent]
    return there


def _full_paths(images: ImageList) -> np.ndarray:
    """Where each image lies, bytes (N,), the same for one file of two lists; links of folders are followed."""
    folder = os.fsencode(images.folder.resolve())
    return np.array([os.path.normpath(folder + b"/" + name) for name in images.file_names.tolist()], dtype=np.bytes_)


def without_used(images: Images, used: Sequence[ImageList]) -> Images:
    """Each file of the training images `images` once, and none that is in `used`; a line says how many are left out."""
    paths = _full_paths(images)
    once = np.zeros(len(paths), bool)
    once[np.unique(paths, return_index=True)[1]] = True
    new = once & ~np.isin(paths, np.concatenate([_full_paths(part) for part in used]))
    if not new.all():
        left_out = f"{(~new).sum():,} of {len(images):,} images in {images.folder}"
        say(f"train: {left_out} are left out, in use already or scored")
    return images.take(new)
