"""Lists of objects in COCO's JSON, their fields as columns: each is checked, or understood and counted. No torch."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np

from backbone.errors import InputError
from data.readers.coco_masks import around_mask
from data.records import Issue, issue_of

_NUMBER = re.compile(r"\s*[+-]?([0-9]{1,99}\.?[0-9]{0,99}|\.[0-9]{1,99})(e[+-]?[0-9]{1,2})?\s*", re.IGNORECASE)
_REMEDY = "give a COCO annotation file, with `images`, `annotations` and `categories`."
_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,1000}\s*")


class FieldList:
    """One list of objects in a COCO file; its fields as columns. InputError names the first item at fault."""

    def __init__(self, content: Any, key: str, name: str) -> None:
        if not isinstance(content, Mapping):
            raise InputError(f"{name} is not COCO: its top level is of type {type(content).__name__}; {_REMEDY}")
        items = content.get(key)
        if not isinstance(items, Sequence) or isinstance(items, str):
            found = ", ".join(f"`{one}`" for one in list(content)[:6]) or "nothing"
            raise InputError(f"{name} is not COCO: it has no list `{key}` (it has {found}); {_REMEDY}")
        if not all(issubclass(kind, Mapping) for kind in set(map(type, items))):
            at = next(i for i, item in enumerate(items) if not isinstance(item, Mapping))
            raise InputError(f"{name} is not COCO: {key}[{at}] is {_short(items[at])}; it must be an object.")
        self.name, self.key = name, key
        self.items: Sequence[Mapping[str, Any]] = items
        self.issues: list[Issue] = []  # what was odd in the fields asked for

    def at(self, row: int) -> str:
        """How messages call an item."""
        return f"{self.key}[{row}]" + (f" (id {_short(self.items[row]['id'])})" if "id" in self.items[row] else "")

    def refused(self, row: int, field: str, wanted: str, count: int = 1) -> InputError:
        """The error of a field that is not as it is `wanted`, of `count` items the first."""
        problem = f"is {_short(self.items[row][field])}" if field in self.items[row] else "is missing"
        others = f" ({count} of {len(self.items)} are like this)" if count > 1 else ""
        return InputError(f"{self.name}: {self.at(row)}: `{field}` {problem}{others}; it must be {wanted}.")

    def numbers(self, field: str, *, optional: bool = False, wanted: str = "a finite number") -> np.ndarray:
        """A field, float64 (M,); NaN where it may be missing and is. An optional one may be true or false too."""
        values, text = _from_text([item.get(field) for item in self.items])
        self.issues += issue_of(f"`{field}` given as text (taken as numbers)", text, self.at)
        also = (type(None), bool) if optional else ()
        self._check(_are_numbers(values, also), field, wanted)
        column = _as_floats(values)  # None is NaN
        self._check(np.isfinite(column) | np.array([value is None for value in values], dtype=bool), field, wanted)
        return column

    def integers(self, field: str) -> np.ndarray:
        """A field, as `as_ids` has it; 7.0 and "7" are 7."""
        values = [item.get(field) for item in self.items]
        if set(map(type, values)) <= {int}:
            return as_ids(values)
        numbers = [_integer(value) for value in values]
        fine = np.array([number is not None for number in numbers])
        wanted = "an integer"
        if not fine.all() and isinstance(values[int(fine.argmin())], float):
            wanted += " (one of 2**53 or more without point or exponent: as a float it has lost its last digits)"
        self._check(fine, field, wanted)
        text = np.array([isinstance(value, str) for value in values])
        self.issues += issue_of(f"`{field}` given as text (taken as integers)", text, self.at)
        return as_ids(numbers)

    def ids(self, *same: str) -> np.ndarray:
        """The ids of the items, each its own; an item that repeats another's, and its fields `same`, is left out."""
        ids = self.integers("id")
        first: dict[int, int] = {}
        repeated = np.array(
            [first.setdefault(number, row) != row for row, number in enumerate(ids.tolist())], dtype=bool
        )
        for row in np.flatnonzero(repeated).tolist():
            other = first[ids[row]]
            if any(self.items[row].get(field) != self.items[other].get(field) for field in same):
                raise InputError(
                    f"{self.name}: {self.key}: `id` {ids[row]} occurs {(ids == ids[row]).sum()} times, as {self.key}["
                    f"{other}] and [{row}], which differ; give each an id of its own."
                )
        self.issues += issue_of(f"repeated entries of `{self.key}`, left out", repeated, self.at)
        self.items = [item for item, again in zip(self.items, repeated.tolist(), strict=True) if not again]
        return ids[~repeated]

    def positions(self, field: str, ids: np.ndarray, among: str) -> np.ndarray:
        """Where the ids of a field stand in `ids`, int64 (M,)."""
        wanted, where = self.integers(field).tolist(), {one: i for i, one in enumerate(ids.tolist())}
        positions = np.array([where.get(one, -1) for one in wanted], dtype=np.int64)
        unknown = positions < 0
        if unknown.any():
            row = int(unknown.argmax())
            raise InputError(
                f"{self.name}: {self.at(row)}: `{field}` {wanted[row]} is not among {among} ({unknown.sum()} of "
                f"{len(wanted)} are like this); add it there, or remove what refers to it."
            )
        return positions

    def boxes(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field `bbox`, float64 (M, 4), or the box around `segmentation` where there is none; and which rows have one.

        `sizes` (M, 2) are (height, width) of the images, 0 where unknown. A mask without area has none: [0, 0, 0, 0].
        """
        wanted = "[x, y, width, height] in px, four finite numbers"
        boxes: list[Any] = [item.get("bbox") for item in self.items]
        masked = np.zeros(len(boxes), dtype=bool)
        for row, box in enumerate(boxes):
            if box is None or (isinstance(box, list) and not box):
                masked[row] = self.items[row].get("segmentation") is not None
        for row in np.flatnonzero(masked).tolist():
            height, width = sizes[row].tolist()
            try:
                boxes[row] = around_mask(self.items[row]["segmentation"], (height, width))
            except (ValueError, TypeError, LookupError, OverflowError):
                size = f" of the image's size {[height, width]}" if height else ""
                known = (
                    f"polygons [[x1, y1, x2, y2, x3, y3, ...]] in px, or {{counts, size}}{size}, as `bbox` is missing"
                )
                raise self.refused(row, "segmentation", known) from None
        self._check([isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 for box in boxes], "bbox", wanted)
        sides, text = _from_text(list(chain.from_iterable(boxes)))
        rows = np.unique(np.flatnonzero(text) // 4)
        self.issues += issue_of("`bbox` given as text (taken as numbers)", rows, self.at)
        self._check(np.reshape(_are_numbers(sides), (-1, 4)).all(axis=1), "bbox", wanted)
        xywh = _as_floats(sides).reshape(-1, 4)
        self._check(np.isfinite(xywh).all(axis=1), "bbox", wanted)
        found: np.ndarray = ~masked | (xywh[:, 2] > 0)
        self.issues += issue_of("objects without `bbox` (taken from their masks)", masked & found, self.at)
        return xywh, found

    def sizes(self, *, strict: bool) -> np.ndarray:
        """Fields `height` and `width`, int64 (N, 2); 0 where not both are given, or sensible if not `strict`."""
        sizes = np.zeros((len(self.items), 2), dtype=np.int64)
        for column, field in enumerate(("height", "width")):
            sides, text = _from_text([item.get(field) for item in self.items])
            self.issues += issue_of(f"`{field}` given as text (taken as numbers)", text, self.at)
            for row, side in enumerate(sides):
                if isinstance(side, int | float) and 1 <= side < 2**31 and side == int(side):
                    sizes[row, column] = side
                elif (
                    strict
                    and side not in (None, "")
                    and not (isinstance(side, int | float) and (side <= 0 or side != side))
                ):
                    raise self.refused(row, field, "a number of px, or be left out")
        sizes[(sizes == 0).any(axis=1)] = 0
        return sizes

    def strings(self, field: str, default: str | None) -> list[str]:
        """A field; without a `default`, which is given the item's id, each must have it."""
        values: list[Any] = [item.get(field) for item in self.items]
        for row, value in enumerate(values):
            if not isinstance(value, str) or not value:
                if default is None:
                    raise self.refused(row, field, "a string")
                values[row] = default.format(self.items[row]["id"]) if value is None else str(value)
        return values

    def _check(self, fine: Any, field: str, wanted: str) -> None:
        if not np.all(fine):
            raise self.refused(int(np.argmin(fine)), field, wanted, len(fine) - int(np.sum(fine)))


def _from_text(values: list[Any]) -> tuple[list[Any], np.ndarray]:
    """The values with numbers for those that are texts of one, and which these are, bool (M,)."""
    if str not in set(map(type, values)):
        return values, np.zeros(len(values), dtype=bool)
    text = np.array([isinstance(value, str) and bool(_NUMBER.fullmatch(value)) for value in values], dtype=bool)
    return [float(value) if is_text else value for value, is_text in zip(values, text.tolist(), strict=True)], text


def _are_numbers(values: Sequence[Any], also: tuple[type, ...] = ()) -> np.ndarray:
    """Which are numbers, or of the types `also`, bool (N,)."""
    kinds = set(map(type, values))  # few, so that 200,000 boxes take a tenth of a second
    odd = {kind for kind in kinds - set(also) if kind is bool or not issubclass(kind, Real)}
    return np.array([type(value) not in odd for value in values]) if odd else np.ones(len(values), dtype=bool)


def _as_floats(values: Sequence[Any]) -> np.ndarray:
    """Numbers and None, float64 (M,); an integer that no float holds is infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        large = sys.float_info.max
        return np.array([math.inf if isinstance(v, int) and abs(v) > large else v for v in values], dtype=np.float64)


def as_ids(numbers: Sequence[Any]) -> np.ndarray:
    """Integers as int64 (M,), or as Python's own, dtype object, where one of them is larger."""
    try:
        return np.array(numbers, dtype=np.int64)
    except OverflowError:
        return np.array(numbers, dtype=object)


def _integer(value: object) -> int | None:
    """The integer that a number or a text of digits is, or None; a float above 2**53 may have been another."""
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return int(number) if abs(number) < 2**53 and number.is_integer() else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
