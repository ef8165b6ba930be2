"""Which split a photograph with a place is of: as a column says, or drawn by its group, day or path. No torch."""

import os
import re
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from data.coordinates import LeftOut
from data.coordinates_columns import SPLIT_NAME, Columns, has_places_alone
from data.coordinates_csv import Rows, read_rows, stream_coordinates

SPLIT_NUMBERS: dict[bytes, int] = {b"train": 0, b"val": 1, b"valid": 1, b"validation": 1, b"test": 2}  # in any case


def check_drawing(val_fraction: float, test_fraction: float, seed: int, options: str = "--data.") -> None:
    """Raise InputError, which names them as `options` has them, for fractions or a seed that nothing can be drawn by.

    A fraction of 0 sets nothing aside.
    """
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise InputError(f"{options}{name} is {value:g}; it must be 0 or more, and below 1.")
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"{options}val_fraction {val_fraction:g} and {options}test_fraction {test_fraction:g} together leave "
            "nothing to train on; lower them."
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"{options}seed is {seed}; it must be from 0 to 4294967295.")


def drawn_order(names: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each name, bytes (N,), that depends on the name and `seed` alone: float64 (N,).

    So a group that is set aside by it stays there, whatever photographs are added later. The mixing is splitmix64's
    (Steele et al., 2014, https://doi.org/10.1145/2714064.2660195), eight bytes of a name at a time.
    """
    return (_hashed(names, seed) >> np.uint64(11)) * 2.0**-53


def _hashed(names: np.ndarray, seed: int) -> np.ndarray:
    """64 bits of each name, uint64 (N,)."""
    words = max(1, -(-names.dtype.itemsize // 8))
    padded = np.ascontiguousarray(names.astype(f"S{8 * words}")).view("<u8").reshape(len(names), words)
    state = np.full(len(names), seed, dtype=np.uint64)
    state = _mix(state)
    for word in padded.T:
        state = np.where(word > 0, _mix(state ^ word), state)  # the padding, which depends on the longest name, is 0
    return state


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def set_aside(drawn: np.ndarray, fractions: Sequence[float]) -> list[int]:
    """Where each part ends that is set aside of G groups in the order of their numbers `drawn`, float64 (G,).

    By the number of a group, so that it stays where it is; but each part has a group, and so has what is left.
    """
    ends: list[int] = []
    for later, below in zip(range(len(fractions), 0, -1), np.cumsum(fractions), strict=True):
        first = ends[-1] if ends else 0
        ends.append(int(np.clip((drawn < below).sum(), first + 1, len(drawn) - later)))
    return ends


def split_numbers(file: Path, rows: Rows) -> np.ndarray:
    """Of each row 0 train, 1 val, 2 test, int8 (N,), by the column `split`, and 0 without one; or InputError."""
    if rows.splits is None:
        return np.zeros(len(rows.lines), dtype=np.int8)
    names, which = np.unique(np.strings.lower(rows.splits), return_inverse=True)
    numbers = np.array([SPLIT_NUMBERS.get(name, -1) for name in names.tolist()], dtype=np.int8)[which]
    if (numbers < 0).any():
        row = int(np.argmin(numbers))
        text = rows.splits[row].decode(errors="replace")
        raise InputError(
            f"{file}, line {rows.lines[row]}: the {SPLIT_NAME} is {text!r}; it must be train, val or test."
        )
    return numbers


def groups_of(rows: Rows, left_out: LeftOut) -> tuple[np.ndarray, str]:
    """The name of the group that each row is of, bytes (N,), and what that is: "group", "day" or "picture".

    A row without a group, or without a day where dates are all there is, is a group of its own, named by its path.
    """
    if rows.groups is not None:
        return np.where(rows.groups == b"", rows.paths, rows.groups), "group"
    if rows.taken is None:
        return rows.paths, "picture"
    days = np.array([day_of(taken) for taken in rows.taken.tolist()], np.bytes_)
    undated = (days == b"") & (rows.taken != b"")
    if undated.any():
        row = int(np.argmax(undated))
        text = rows.taken[row].decode(errors="replace")
        left_out.note("no day", int(undated.sum()), lambda: f"line {rows.lines[row]}, {text!r}")
    return np.where(days == b"", rows.paths, days), "day" if (days != b"").any() else "picture"


_SINCE_1970 = {9: 1, 10: 1, 12: 1000, 13: 1000, 15: 10**6, 16: 10**6}  # digits: how many in a second
_NUMBER = re.compile(rb"(\d+)(?:\.\d*)?$")
_YEAR_FIRST = re.compile(rb"(\d{4})\D{1,3}(\d\d?)\D{1,3}(\d\d?)(?!\d)")
_TOGETHER = re.compile(rb"((?:19|20)\d\d)([01]\d)([0-3]\d)(?=\D|(?:\d{4}|\d{6})?$)")  # with the time, or not
_YEAR_LAST = re.compile(rb"(\d\d?)[-/. ](\d\d?)[-/. ](\d{4}|\d\d)(?!\d)")
_NO_DAY = re.compile(rb"\d{4}(\D\d\d?)?$")


def day_of(written: bytes) -> bytes:
    """The name of the day of a date as it was written: b"2020:01:31", as EXIF has it; empty where none can be read.

    Seconds since 1970, or thousandths or millionths, are read as UTC. Where the year is last, day and month stay as
    they are, as which is which does not matter: one day has one name. A month or a year alone is taken whole.
    """
    if found := _YEAR_FIRST.match(written) or _TOGETHER.match(written):
        return b"%04d:%02d:%02d" % numbers if all(numbers := tuple(map(int, found.groups()))) else b""
    if (number := _NUMBER.match(written)) and (a_second := _SINCE_1970.get(len(number[1]))):
        return time.strftime("%Y:%m:%d", time.gmtime(int(number[1]) // a_second)).encode()
    if found := _YEAR_LAST.match(written):
        numbers = tuple(map(int, found.groups()))
        return b"%02d/%02d/%d" % numbers if all(numbers[:2]) else b""
    return written if _NO_DAY.match(written) and int(written[:4]) else b""


def training_coordinates(
    file: Path,
    columns: Columns | None = None,
    left_out: LeftOut | None = None,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Iterator[np.ndarray]:
    """As stream_coordinates(), but of the rows that a training on `file` with the same settings is given, or more.

    By the `split` column; without the groups that are drawn for validation or testing where no row is of it. A file of
    nothing but coordinates is all taken. It cannot be known here which pictures are missing, or look like others.
    Raises InputError for a picture that is listed twice, too, and for fewer groups than are to be set aside.
    """
    if has_places_alone(file, columns):
        yield from stream_coordinates(file, columns, left_out)
        return
    left_out = LeftOut() if left_out is None else left_out
    fractions = _lacking(file, columns, {1: val_fraction, 2: test_fraction})
    first = _first_trained_on(file, columns, fractions, seed) if fractions else 0.0
    met = array("Q")
    for rows in read_rows(file, columns, left_out):
        chosen = split_numbers(file, rows) == 0
        if fractions:
            chosen &= drawn_order(groups_of(rows, left_out)[0], seed) >= first
        met.frombytes(_hashed(rows.paths, 0).view(np.uint8).data)
        yield rows.latlng[chosen]
    _refuse_repeated(file, columns, np.frombuffer(met, np.uint64))


def _lacking(file: Path, columns: Columns | None, fractions: dict[int, float]) -> list[float]:
    """The fractions above 0 of those splits that no row is of."""
    wanted = {split: fraction for split, fraction in fractions.items() if fraction > 0}
    for rows in read_rows(file, columns):
        for split in np.unique(split_numbers(file, rows)).tolist():
            wanted.pop(split, None)
        if not wanted or rows.splits is None:
            break
    return list(wanted.values())


def _first_trained_on(file: Path, columns: Columns | None, fractions: list[float], seed: int) -> float:
    """The number by drawn_order() from which on groups are trained on, as set_aside() has it."""
    below = np.cumsum(fractions)
    every, parts = [], set()
    for rows in read_rows(file, columns):
        groups = groups_of(rows, LeftOut())[0][split_numbers(file, rows) == 0]
        every.append(np.unique(drawn_order(groups, seed)))
        parts.update(np.searchsorted(below, every[-1], side="right").tolist())
        if len(parts) > len(below):  # each has a group, which is soon so but in small sets
            return float(below[-1])
    drawn = np.unique(np.concatenate(every))
    if len(drawn) <= len(below):
        raise InputError(
            f"{file} has too few groups to train on ({len(drawn)}) to set one aside for each of validation and testing "
            "that no row is of; add some, or give a fraction of 0 where none is to be set aside."
        )
    return float(drawn[set_aside(drawn, fractions)[-1]])


def _refuse_repeated(file: Path, columns: Columns | None, hashed: np.ndarray) -> None:
    """Raises InputError where a picture is listed twice, by what _hashed() gave for each; rereads only if it may be."""
    ordered = np.sort(hashed)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    met: dict[bytes, int] = {}
    for rows in read_rows(file, columns) if len(again) else ():
        for row in np.flatnonzero(np.isin(_hashed(rows.paths, 0), again)).tolist():
            name, line = rows.paths[row], int(rows.lines[row])
            if name in met:
                raise InputError(
                    f"{file} lists {os.fsdecode(name)} more than once (lines {met[name]} and {line}); keep one of its "
                    "rows."
                )
            met[name] = line
