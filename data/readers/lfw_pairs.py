"""LFW's list of pairs of faces, of one person or of two, and the images it names. No torch.

Huang et al. (2007), https://vis-www.cs.umass.edu/lfw/: `pairs.txt`, and `name/name_0001.jpg` for each image.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbone.errors import InputError
from backbone.web_pages import is_web_page
from data.folders import list_folder
from data.matching import match_files
from data.records import Records


class Pairs(NamedTuple):
    """Pairs of the images of a list."""

    first: np.ndarray  # int64 (P,) positions
    second: np.ndarray  # int64 (P,) positions
    same: np.ndarray  # bool (P,): of one person
    folds: np.ndarray  # int64 (P,) from 0


@dataclass(frozen=True)
class FaceRecords(Records):
    """The faces of one split, with the pairs that judge embeddings of them."""

    pairs: Pairs | None = None  # None: in training, and where nobody knows who is on which


def read_list(file: Path) -> tuple[list[str], Pairs]:
    """The images of LFW's `pairs.txt`, or of a list in its format such as `pairsDevTest.txt`, each once; their pairs.

    Images are sorted, as "Jane_Doe/Jane_Doe_0001.jpg". A header of the number of folds (where left out: 1) and n; then,
    for each fold, n lines `name i j` of one person and n lines `name i name j` of two. Raises InputError that names the
    line.
    """
    try:
        lines = Path(file).read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"--data.pairs {file} does not exist; give LFW's pairs.txt.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{file} cannot be read as a list of pairs ({reason}); give LFW's pairs.txt.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and is_web_page(lines[0].encode()):
        raise InputError(f"{file} is a web page, not a list of pairs; download pairs.txt again.")
    header = [int(text) for text in lines[0].split() if text.isdecimal()] if lines else []
    if not lines or len(header) != len(lines[0].split()) or len(header) not in (1, 2) or 0 in header:
        raise InputError(
            f"{file}, line 1 is '{lines[0] if lines else ''}'; it must be the number of folds and of pairs of each "
            "kind in a fold, such as '10 300'."
        )
    num_folds, count = header if len(header) == 2 else [1, *header]
    wanted = 2 * num_folds * count
    if len(lines) - 1 != wanted:
        raise InputError(
            f"{file} ends at line {len(lines)}, but the header '{lines[0].strip()}' promises {wanted + 1} lines; mend "
            "the header or the list."
        )

    first, second = [], []
    same = np.tile(np.repeat([True, False], count), num_folds)
    for number, (line, one_person) in enumerate(zip(lines[1:], same.tolist(), strict=True), start=2):
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        if one_person and len(fields) == 3:
            fields.insert(2, fields[0])
            valid = fields[1].lstrip("0") != fields[3].lstrip("0")
        else:
            valid = not one_person and len(fields) == 4 and fields[0] != fields[2]
        if not valid or not all(fields) or not all(text.isdecimal() and int(text) for text in fields[1::2]):
            form = "'name i j', two images of one person" if one_person else "'name i name j', two people"
            raise InputError(f"{file}, line {number} is '{line.strip()}'; it must be {form}, numbered from 1.")
        first.append(_file(fields[0], int(fields[1])))
        second.append(_file(fields[2], int(fields[3])))
    images, places = np.unique([first, second], return_inverse=True)
    return images.tolist(), Pairs(places[0], places[1], same, np.repeat(np.arange(num_folds), 2 * count))


def _file(name: str, number: int) -> str:
    return f"{name}/{name}_{number:04d}.jpg"


def read(file: Path, folder: Path) -> FaceRecords:
    """The images of a list of pairs, each once, sorted by name, and their pairs.

    One that is not there as .jpg is taken by another ending, as aligned copies of LFW have .png. Raises InputError for
    a list that is not one, and names the first image that is missing.
    """
    wanted, pairs = read_list(file)
    known: dict[str, bytes] = {}  # "Jane_Doe/Jane_Doe_0001" to its path; .jpg before others
    listing = list_folder(folder, depth=1)
    for path in sorted(listing.names(listing.images).tolist(), key=lambda path: path.endswith(b".jpg")):
        known[os.fsdecode(path).rpartition(".")[0]] = path
    stems = np.array([os.fsencode(name.removesuffix(".jpg")) for name in wanted])
    matched = match_files(folder, stems, file, np.array(list(map(os.fsencode, known)), np.bytes_))
    if missing := int((~matched.there).sum()):
        first, dot, nearest = matched.nearest.partition(";")
        raise InputError(
            f"{missing:,} of the {len(wanted):,} images of {file} are not in --data.pairs_root {folder}, the "
            f"first being {first}.jpg{dot}{nearest}; give the folder that holds all of them."
        )
    names = np.array([known[os.fsdecode(stem)] for stem in matched.names], np.bytes_)
    return FaceRecords(folder, names, pairs=pairs, notes=(matched.note,) if matched.note else ())
