"""What `predict --source` means: which images, in which order, and where in the results' folders each has its place.

Words of the command line may be folders, globs, lists, videos and a camera; what stands in a list or comes on standard
input is data, and each line of it names one file and nothing else. No torch.
"""

import glob
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from data.folders import UNREADABLE_ENDINGS, count_of, how_to_read, list_folder, no_image, say, unreadable_images
from data.images import IMAGE_ENDINGS, ImageError

VIDEO_ENDINGS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"))
_NAME_BYTES = 200  # of a name that go into names of files, which 255 bytes with all else bound

Key = tuple[str, int | None]  # of an image among the rows: its file as it is written, and the frame of a video


class Item(NamedTuple):
    """One image: a file, or a frame of a video, which has its number from 0, its time and its pixels."""

    path: Path
    place: PurePath  # its name and folders among the results, without an ending; no two alike
    number: int  # from 1, in order
    file_name: str  # its path within what was named as the source, or the whole one where two would have the same
    frame: int | None = None
    seconds: float | None = None
    pixels: np.ndarray | None = None  # uint8 RGB (H, W, 3)

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return str(self.path), self.frame


@dataclass(frozen=True)
class Sources:
    """The files, each once, in order; `camera` is the number of one, which has no files beside it."""

    files: Sequence[Path]
    places: Sequence[PurePath]
    camera: int | None = None

    @property
    def videos(self) -> list[int]:
        """Which of the files are videos."""
        return [i for i, path in enumerate(self.files) if is_video(path)] if self.camera is None else [0]

    def count(self) -> int | None:
        """How many images; None where that is known at the end."""
        return None if self.videos else len(self.files)

    def items(self, done: Callable[[Key], bool], every: int, failed: Callable[[ImageError], None]) -> Iterator[Item]:
        """All images but those that are done, of videos each `every`th frame; calls `failed` with unreadable videos."""
        number = itertools.count(1)
        within = [str(place.parent / path.name) for path, place in zip(self.files, self.places, strict=True)]
        often = Counter(within)
        for path, place, name in zip(self.files, self.places, within, strict=True):
            if self.camera is None and not is_video(path):
                item = Item(path, place, next(number), name if often[name] == 1 else str(path))
                if not done(item.key):
                    yield item
                continue
            try:
                for frame, read in _frames(path if self.camera is None else self.camera):
                    if frame % every:
                        continue
                    picture = place / f"{frame:06}"
                    item = Item(path, picture, next(number), f"{picture}.jpg", frame)
                    if not done(item.key):
                        yield item._replace(**read())
            except ImageError as error:
                failed(error)


def is_video(path: PurePath) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in VIDEO_ENDINGS


def find_sources(words: Sequence[str]) -> Sources:
    """What the words name: a file, a folder to its bottom, a glob, a list (.txt), a video, `-` for standard input, `0`.

    What cannot be read by its ending, and what is called like an image and is no regular file, is passed over in
    folders, and counted in a line. An image that is named twice is there once. Raises InputError where a word names
    nothing, or a folder has no image.
    """
    if any(_is_camera(word) for word in words):
        if len(words) > 1:
            raise InputError(f"--source {' '.join(words)}: a camera ({words[0]}) comes alone; name it by itself.")
        name = Path(f"camera_{int(words[0])}")
        return Sources([name], [name], int(words[0]))
    found: dict[str, tuple[Path, PurePath]] = {}
    for word in words:
        for path, place in _named(word):
            found.setdefault(os.path.abspath(path), (path, place))  # noqa: PTH100  # links stay as they are
    files = [path for path, _ in found.values()]
    return Sources(files, places(place for _, place in found.values()))


def _is_camera(word: str) -> bool:
    return word.isdecimal() and word.isascii() and len(word) < 4 and not Path(word).exists()


def _named(word: str) -> Iterable[tuple[Path, PurePath]]:
    """The files that one word names, and where their results go."""
    if word == "-":
        data = sys.stdin.buffer.read()
        return _listed(data, Path(), "--source -: standard input")
    path = Path(word)
    try:
        if path.is_file():
            if path.suffix.lower() == ".txt":
                return _listed(path.read_bytes(), path.parent, f"--source {path}: the list")
            if (ending := path.suffix.lower()) in UNREADABLE_ENDINGS:
                raise InputError(
                    f"--source {path}: {ending} is a kind of image that cannot be read: {how_to_read(ending)}."
                )
            return [(path, PurePath(path.name))]
        if path.is_dir():
            return _inside(path)
        there = path.exists()
    except OSError as error:
        raise InputError(f"--source {word} cannot be read ({error.strerror or error}); make it readable.") from error
    if not there and glob.has_magic(word):
        return _matches(word)
    what = "this is neither a file nor a folder" if there else "there is no such file or folder"
    raise InputError(f"--source {word}: {what}; name an image, a video, a folder of images, a list.txt or a glob.")


def _inside(folder: Path) -> list[tuple[Path, PurePath]]:
    """The images of a folder, to its bottom."""
    listing = list_folder(folder)
    names = sorted(os.fsdecode(name) for name in listing.names(listing.images).tolist())
    others = sum(listing.others.values(), Counter[str]())
    notes = list(unreadable_images([others]))
    if odd := sum(others[ending] for ending in IMAGE_ENDINGS):
        say(f"note: {count_of(odd, 'name')} in {folder} of no regular file passed over")
    if odd := others["links to nothing"]:
        say(f"note: {count_of(odd, 'link')} in {folder} to nothing passed over")
    if odd := sum(others[ending] for ending in VIDEO_ENDINGS):
        say(f"note: {count_of(odd, 'video')} in {folder} passed over; name a video itself")
    if not names:
        raise InputError(f"--source {folder}: this folder {no_image(notes)}.")
    for issue in notes:
        say(f"note: {issue} ({folder})")
    return [(folder / name, PurePath(name)) for name in names]


def _matches(pattern: str) -> list[tuple[Path, PurePath]]:
    """What a glob names that the shell has left as it is; the results keep the folders from its first wildcard on."""
    steps = list(itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    start, found = Path(*steps), list[tuple[Path, PurePath]]()
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # `**` as in a shell, and absolute ones too
    for path in map(Path, matches):
        if path.is_dir():
            if "**" not in pattern:  # which names what is in the folder too
                found += [(inside, path.relative_to(start) / place) for inside, place in _inside(path)]
        elif path.suffix.lower() in IMAGE_ENDINGS or is_video(path):
            found.append((path, path.relative_to(start)))
    if not found:
        what = f"{count_of(len(matches), 'name')}, none of an image or a video" if matches else "nothing"
        raise InputError(f"--source {pattern}: this glob matches {what}; name images, or a folder of them.")
    return found


def _listed(data: bytes, folder: Path, source: str) -> list[tuple[Path, PurePath]]:
    """The paths of a list, one in a line or each ended by a zero byte, from its folder or else from the working one."""
    if b"\0" in data:
        lines = data.split(b"\0")
    else:
        lines = [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    paths = [Path(os.fsdecode(line)) for line in lines if line.strip()]
    if not paths:
        raise InputError(f"{source} is empty; write the path of an image into each line.")
    if not any((folder / path).exists() or path.exists() for path in paths):
        raise InputError(f"{source} names no file that is there, first {paths[0]}; write a path into each line.")
    found = []
    for path in paths:
        beside = folder / path
        there = beside if beside.exists() or not path.exists() else path
        place = path if not path.is_absolute() and ".." not in path.parts else PurePath(path.name)
        found.append((there, place))
    return found


def places(names: Iterable[PurePath]) -> list[PurePath]:
    """For each path one without its ending that files can be called by: no control characters, not too long, no two
    alike, and none that with .jpg is the name of a folder.
    """
    clean = [PurePath(*map(writable_name, path.parent.parts), writable_name(path.stem)) for path in names]
    folders = {str(above) for path in clean for above in path.parents}
    made: dict[PurePath, None] = {}  # in order
    counts = Counter[PurePath]()
    for path in clean:
        unique = path
        while unique in made or f"{unique}.jpg" in folders:
            counts[path] += 1
            unique = path.with_name(f"{path.name}_{counts[path] + 1}")
        made[unique] = None
    return list(made)


def writable_name(name: str) -> str:
    """A name that a file's can be made of: no control characters or slashes, not only dots, at most 200 bytes."""
    clipped = re.sub(r"[\x00-\x1f\x7f-\x9f/\\]", "_", name)
    while len(os.fsencode(clipped)) > _NAME_BYTES:
        clipped = clipped[:-1]
    return clipped if clipped.strip(". ") else "_"


def _frames(source: Path | int) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """The frames of a video or a camera: the number, and what decodes it, to be called before the next is asked for.

    Raises ImageError where the video has none, InputError where there is no such camera.
    """
    # A video is a stranger's: it is not to be read as the name of a stream or of other files, whatever it holds.
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it warns of, the errors below say
    if isinstance(source, int):
        capture = cv2.VideoCapture(source)
    else:
        if not source.is_file():
            raise ImageError(source, "there is no such file" if not source.exists() else "it is not a regular file")
        capture = cv2.VideoCapture(str(source.absolute()), cv2.CAP_FFMPEG)
    frame = -1
    try:
        while capture.grab():
            frame += 1

            def read(frame: int = frame) -> dict[str, Any]:
                there, pixels = capture.retrieve()
                if not there:
                    raise ImageError(str(source), f"frame {frame} is damaged")
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                return {"pixels": np.ascontiguousarray(pixels[..., ::-1]), "seconds": round(seconds, 3)}

            yield frame, read
    finally:
        capture.release()
    if frame < 0 and isinstance(source, int):
        raise InputError(
            f"--source {source}: there is no camera {source} that OpenCV can open here; name an image, a video, or a "
            "folder of images."
        )
    if frame < 0:
        raise ImageError(str(source), "it is not a video that OpenCV can read")
