"""What describes a data set in YOLO's layout: Ultralytics' and Roboflow's data.yaml, Darknet's obj.data. No torch.

Its paths are found wherever they count from. Of Ultralytics' own loader, which is AGPL, nothing is taken.
"""

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from backbone.errors import InputError
from data.images import IMAGE_ENDINGS
from data.readers.boxes import split_of_folder
from data.records import UNSPLIT, Split
from data.splits import split_named

_LARGEST = 1_000_000  # bytes of a description; a second is spent on each 100,000
_ENDINGS = (".yaml", ".yml", ".data")
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "*.names")


class Layout(NamedTuple):
    """What a data set's own description says."""

    source: Path | None = None  # the file, for sentences
    splits: Mapping[Split, list[str]] = MappingProxyType({})  # folders and lists of paths, as written
    base: str = ""  # what they are relative to
    names: dict[int, str] | None = None
    keypoints: bool = False  # numbers of keypoints follow each box
    unnamed: bool = False  # only the number of the classes is known


def described(root: Path) -> Layout:
    """What the description in a folder says, or the file itself, or the one in a folder below; else nothing.

    Raises InputError where it cannot be read, or where two may be meant.
    """
    if root.is_file():
        if root.suffix.lower() == ".data" and _pairs(root).keys() & {"names", "train"}:
            return _of_darknet(root)
        if root.stat().st_size < _LARGEST and (content := _yaml(root)):
            return _of_yaml(root, content)
        raise InputError(f"{root} does not describe a data set, with `names`, `train` and `val`; give its folder.")
    if layout := _in(root):
        return layout
    below = [found for folder in _folders_of(root) if (found := _below(root, folder))]
    if len(below) > 1:
        raise InputError(
            f"{root} has {below[0].source} and {below[1].source}; give the folder of the one that is meant."
        )
    return below[0] if below else Layout()


def _in(root: Path) -> Layout | None:
    """What the description right in a folder says; None where there is none. Raises InputError."""
    with os.scandir(root) as entries:  # a Path for each of 100,000 images would take seconds
        names = sorted(one.name for one in entries if one.name[0] != "." and one.name.lower().endswith(_ENDINGS))
    files = [path for name in names if (path := root / name).is_file() and path.stat().st_size < _LARGEST]
    yamls = {path: content for path in files if path.suffix.lower() != ".data" and (content := _yaml(path))}
    if yamls:
        path = _meant(root, list(yamls), ("data", "dataset"))
        return _of_yaml(path, yamls[path])
    lists = [path for path in files if path.suffix.lower() == ".data" and _pairs(path).keys() & {"names", "train"}]
    return _of_darknet(_meant(root, lists, ("obj",))) if lists else None


def _meant(root: Path, paths: list[Path], stems: tuple[str, ...]) -> Path:
    plain = [path for path in paths if path.stem.lower() in stems] or paths
    if len(plain) > 1:
        raise InputError(f"{root} has {plain[0].name} and {plain[1].name}; take away the one that is not meant.")
    return plain[0]


def _folders_of(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(root / one.name for one in entries if one.name[0] != "." and one.is_dir())


def _below(root: Path, folder: Path) -> Layout | None:
    """What the description in a folder of `root` says, where it can be read and something of what it lists is there."""
    try:
        found = _in(folder)
    except (InputError, OSError):  # it may be of anything, such as a net
        return None
    if not found:
        return None
    found = found._replace(base=os.path.join(folder.name, found.base))  # noqa: PTH118
    listed = any(places_of(root, found.base, path) for paths in found.splits.values() for path in paths)
    return found if listed else None


def _yaml(path: Path) -> dict[str, Any] | None:
    """Its content where it describes a data set, all cells as text (a class may be called `no`), else None."""
    try:
        content = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)  # makes text, lists and mappings of text alone
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        if path.stem.lower() not in ("data", "dataset"):
            return None
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read ({reason}); write its `names`, `train` and `val` anew.") from None
    if not isinstance(content, dict) or not ({"names", "nc"} & set(content)):
        return None
    return content


def _of_yaml(path: Path, content: dict[str, Any]) -> Layout:
    splits: dict[Split, list[str]] = {}
    for key, value in content.items():
        if (split := split_named(str(key))) and value:
            paths = value if isinstance(value, list) else [value]
            if not all(isinstance(one, str) for one in paths):
                raise InputError(f"{path}: `{key}` must be a folder, a text file of paths, or a list of them.")
            splits.setdefault(split, []).extend(paths)
    names, base, unnamed = content.get("names"), content.get("path", ""), False
    if isinstance(names, str) and names:  # another file, as Darknet has it
        names = _names_in(path.parent / (place_of(path.parent, "", names) or names))
    elif isinstance(names, list):
        names = dict(enumerate(names))
    elif isinstance(names, dict):
        if not all(re.fullmatch(r"\s*\d{1,9}\s*", str(key)) for key in names):
            raise InputError(f"{path}: the keys of `names` must be the classes' numbers, from 0; write a list instead.")
        names = {int(key): name for key, name in names.items()}
    elif re.fullmatch(r"\d{1,6}", str(content.get("nc"))):
        names, unnamed = {number: str(number) for number in range(int(content["nc"]))}, True
    if not names or not all(isinstance(name, str) for name in names.values()):  # nested lists may print without end
        raise InputError(f"{path}: `names` must list the classes, such as [cat, dog].")
    base = base if isinstance(base, str) else ""
    return Layout(path, splits, base, names, bool(content.get("kpt_shape")), unnamed)


def _of_darknet(path: Path) -> Layout:
    """https://github.com/AlexeyAB/darknet: `train = data/train.txt`, `valid = ...`, `names = data/obj.names`."""
    content = _pairs(path)
    splits = {split: [text] for key, text in content.items() if (split := split_named(key)) and text}
    names = place_of(path.parent, "", content["names"]) if content.get("names") else None
    return Layout(path, splits, "", _names_in(path.parent / names) if names else None)


def _pairs(path: Path) -> dict[str, str]:
    """The lines `key = value` of a text."""
    pairs = (line.split("=", 1) for line in path.read_text(errors="replace").splitlines() if "=" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _names_in(file: Path) -> dict[int, str]:
    """The classes of a text, one a line, by number."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); write the classes, one a line.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{file} is empty; write the classes into it, one a line.")
    return {number: line.strip() for number, line in enumerate(lines)}


def names_beside(root: Path, texts: list[bytes]) -> dict[int, str] | None:
    """The classes of the first list in `root` or in a folder of texts."""
    folders = dict.fromkeys([root, *(root / os.fsdecode(text.rpartition(b"/")[0]) for text in texts if text)])
    for folder in [*folders, *dict.fromkeys(one.parent for one in folders if one != root)]:
        for pattern in NAME_FILES:
            for file in sorted(folder.glob(pattern)):
                return _names_in(file)
    return None


# --- paths --------------------------------------------------------------------------------------------------------


def place_of(root: Path, base: str, text: str) -> str | None:
    """Where a path of a description is, from `root`; None where it is not there.

    It may count from `root` or its parent, with `base` before it or not, and `../` may stand where `./` is meant
    (Roboflow); what is in `root` is preferred. A path of another machine is known by its end.
    """
    whole, text = (os.path.normpath(one.strip().replace("\\", "/")) for one in (os.path.join(base, text), text))  # noqa: PTH118
    inside = [one for path in (whole, text) if not (one := re.sub(r"^(\.\./)+", "", path)).startswith("/")]
    ends = [re.split(r"/+", path.lstrip("/")) for path in (whole, text)]
    suffixes = ["/".join(parts[start:]) for parts in ends for start in range(1, len(parts))]
    if split_of_folder(text) != UNSPLIT:  # `test/images` is not `images`
        suffixes = [one for one in suffixes if split_of_folder(one) == split_of_folder(text)]
    suffixes += [os.path.join(base, one) for one in suffixes if base]  # noqa: PTH118
    for path in (*inside, whole, text, f"../{text}", *suffixes):
        if (root / path).exists():
            return os.path.relpath(root / path, root) if path.startswith(("/", "..")) else path
    return None


def is_image(path: str) -> bool:
    """Whether a path is an image's by its ending."""
    return os.path.splitext(path)[1].lower() in IMAGE_ENDINGS  # noqa: PTH122


def places_of(root: Path, base: str, text: str) -> list[str]:
    """Where an entry of a description is, from `root`, or all that fits it where it has wildcards; [] for nothing."""
    if place := place_of(root, base, text):
        return [place]
    text = text.strip().replace("\\", "/")
    for pattern in (os.path.join(base, text), text, re.sub(r"^(\.\./)+", "", text)):  # noqa: PTH118
        if found := sorted(glob.glob(pattern, root_dir=root, recursive=True)):  # noqa: PTH207  # strings: 100,000s
            found = [one for one in found if is_image(one)] or found  # texts beside images are no lists of paths
            return [
                os.path.relpath(root / one, root) if one.startswith("/") else os.path.normpath(one) for one in found
            ]
    return []
