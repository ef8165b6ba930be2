"""File names of lists, found on this disk however they are written: the one place that matches them. No torch.

A list made elsewhere has backslashes, %20, accents in another Unicode form, other capitals, or the folders of another
machine. A name counts as found only where one file alone fits it, and each file that a looser rule finds serves one
name.
"""

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import numpy as np

from backbone.errors import InputError
from data.folders import are_there, count_of, list_folder

_MOST_COMPARED = 20_000  # files that the nearest one is looked for among


class Matched(NamedTuple):
    """Where the files of N names are."""

    names: np.ndarray  # bytes (N,): as the files are called; of those not there as they were written
    there: np.ndarray  # bool (N,)
    note: str = ""  # what was needed to find them, counted; "" where they are called as written
    looseness: int = 0  # the number of the loosest rule that was needed
    nearest: str = ""  # of the first that is not there: "a.jpg; the nearest is b.jpg"; "" where all are


def match_files(
    folder: Path,
    names: np.ndarray,
    source: str | Path,
    files: np.ndarray | None = None,
    usable: Callable[[bytes], bool] | None = None,
) -> Matched:
    r"""Find the files of `names`, bytes (N,), in `folder`, or among its `files` where they are listed already.

    As written; else with / for \ (of an address without its ?query), percent-decoded, in one Unicode form, in any
    case, by the end of its path that it shares with one file alone, down to the base name. The folder is
    listed for what is left alone, and of that only `usable` files are taken. `source` is what the note calls the list.
    """
    there = are_there(folder, names) if files is None else np.isin(names, files)
    if there.all():
        return Matched(names, there)
    if files is None:
        try:
            listing = list_folder(folder)
            files = listing.names(listing.images)
        except InputError:  # what cannot be listed may hold what is missing, which will be said
            files = np.array([], np.bytes_)
    on_disk = [file for file in files.tolist() if usable is None or usable(file)]
    missing = sorted(set(names[~there].tolist()))
    found, needed = _match(missing, on_disk, set(names[there].tolist()))
    if found:
        written = names.tolist()
        names = np.array([found.get(name, name) for name in written], np.bytes_)
        there = there | np.array([name in found for name in written])
    note, loosest = "", 0
    if found:
        loosest = 1 + max(_RULES.index(kind) for kind in needed)
        first = next(name for name in missing if name in found)
        said = ascii if _composed(first) == _composed(found[first]) and not first.isascii() else str  # else alike
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in needed.items())
        note = (
            f"{count_of(len(found), 'file name')} of {source} found otherwise than written: {kinds} "
            f"(first: {said(os.fsdecode(first))} is {said(os.fsdecode(found[first]))})"
        )
    taken = set(names[there].tolist())
    nearest = "" if there.all() else _nearest(names[np.argmin(there)], [file for file in on_disk if file not in taken])
    return Matched(names, there, note, loosest, nearest)


def _slashes(name: bytes) -> bytes:
    if b":/" in name and re.match(rb"[a-zA-Z][a-zA-Z0-9]+:/", name):  # an address, at times signed: a.jpg?key=1
        name = re.split(rb"[?#]", name)[0]
    path = name.replace(b"\\", b"/")
    return os.path.normpath(path) if b"./" in path or b"//" in path else path


def _decoded(name: bytes) -> bytes:
    return unquote_to_bytes(_slashes(name)) if b"%" in name else _slashes(name)


def _composed(name: bytes) -> bytes:
    decoded = _decoded(name)
    return decoded if decoded.isascii() else os.fsencode(unicodedata.normalize("NFC", os.fsdecode(decoded)))


def _caseless(name: bytes) -> bytes:
    if name.isascii() and b"%" not in name:
        return _slashes(name).lower()
    return os.fsencode(unicodedata.normalize("NFC", os.fsdecode(_composed(name)).casefold()))


def _base(name: bytes) -> bytes:
    return _caseless(name).rpartition(b"/")[2]


# Each with those before it: a name is counted once, by the last that it needed.
_SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "with / for \\": _slashes,
    "percent-decoded": _decoded,
    "up to another Unicode form": _composed,
    "up to another case": _caseless,
}


_RULES = (*_SPELLINGS, "by the end of the path", "by base name")


def _match(
    missing: Sequence[bytes], files: Sequence[bytes], taken: set[bytes]
) -> tuple[dict[bytes, bytes], Counter[str]]:
    """The file of each of the `missing` names that has one, and how many were found how; `taken` files have a name."""
    bases = {_base(file) for file in files}
    missing = [name for name in missing if _base(name) in bases]  # of a list of millions most may be elsewhere
    found: dict[bytes, bytes] = {}
    needed = Counter[str]()
    for how, key in _SPELLINGS.items():
        left = [name for name in missing if name not in found]
        strict = key is _caseless  # a.jpg and A.jpg may be two images; the other spellings are of one name
        of_key = _unique([file for file in files if not strict or file not in taken], key)
        for name in _unique(left, key).values() if strict else left:
            if file := of_key.get(key(name)):
                found[name] = file
                needed[how] += 1
        taken = taken | set(found.values())
    for key in (_composed, _caseless):
        names = {name: key(name).split(b"/") for name in missing if name not in found}
        free = {file: key(file).split(b"/") for file in files if file not in taken}
        for length in range(min(max(map(len, paths.values()), default=0) for paths in (names, free)), 0, -1):
            wanted = _ends(names, length)
            for end, path in _ends(free, length).items():
                if end in wanted:
                    found[wanted[end]] = path
                    del names[wanted[end]], free[path]
                    needed[_RULES[-1 if length == 1 else -2]] += 1
        taken = taken | set(found.values())
    return found, needed


def _unique(names: Sequence[bytes], key: Callable[[bytes], bytes]) -> dict[bytes, bytes]:
    """Those whose key no other has."""
    keys = [key(name) for name in names]
    counts = Counter(keys)
    return {one: name for one, name in zip(keys, names, strict=True) if counts[one] == 1}


def _ends(paths: dict[bytes, list[bytes]], length: int) -> dict[tuple[bytes, ...], bytes]:
    """The last `length` parts of those paths that have so many, and whose they are, where of one alone."""
    ends = {path: tuple(parts[-length:]) for path, parts in paths.items() if len(parts) >= length}
    counts = Counter(ends.values())
    return {end: path for path, end in ends.items() if counts[end] == 1}


def _nearest(name: bytes, files: Sequence[bytes]) -> str:
    """The name as written, with the nearest of `files` and in what it differs, for a sentence."""
    written = os.fsdecode(name)
    if not files:
        return written
    base = _base(name)
    compared = [os.fsdecode(file) for file in files]
    several = [file for file, path in zip(compared, files, strict=True) if _base(path) == base]
    if len(several) > 1:
        return f"{written}; it may be {several[0]} or {several[1]}"
    last = {file.rpartition("/")[2].casefold(): file for file in (several or compared[:_MOST_COMPARED])}
    near = difflib.get_close_matches(os.fsdecode(base), last, n=1, cutoff=0.6)
    if not near:
        return written
    file = last[near[0]]
    return f"{written}; the nearest is {file}, which {_difference(os.fsdecode(_decoded(name)), file)}"


def _difference(name: str, file: str) -> str:
    def same(change: Callable[[str], str]) -> bool:
        return change(name) == change(file)

    if same(lambda text: unicodedata.normalize("NFKC", text)):
        return "differs in its Unicode form"
    if same(lambda text: unicodedata.normalize("NFKC", text).casefold()):
        return "differs in its case"
    if same(lambda text: text.rpartition("/")[2].casefold()):
        return "lies in another folder"
    if same(lambda text: text.rpartition("/")[2].rpartition(".")[0].casefold()):
        return "differs in its ending"
    return "is called otherwise"
