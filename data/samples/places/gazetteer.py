"""The drawn world's tables: where images are taken, with real coordinates, and what is seen there.

- spots.csv: well-known places. `sea`: whether it can be seen; `fame`: how many images are taken there; `bearing`:
  where more places are, in degrees from north over east (empty: all around), and `reach`: up to how many km away.
- regions.csv: what all places of a region share. Colours are `#rrggbb`, two of them `a/b`: the `line` in the middle
  of the road and its `dashes` (none: no line), the side that it `drives` on, `roof` and its `tiles`, `walls`,
  `trim` (doors and shutters), `sign` (ground/writing), `posts` (stripes, of kerbs too) and number `plate`.
- biomes.csv: `plants`, frequent ones twice, and, in 0 to 1, their `density`, the share of `grass` on the ground, how
  dry it is (`straw`), and the chance of snow in midwinter (`cold`).
- plants.csv: a stem `high` and, to each side, `half` m, and a `crown` of pieces with so many `corners` (3: a triangle):
  x and y of the middle, half the width and half the height in m, and the angle.
- roofs.csv: `rings` from the eaves up: half the length and half the depth, in those of the house, and the height above
  the walls, in half depths.
"""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_NUMBERS = {"latitude", "longitude", "fame", "reach", "density", "grass", "straw", "cold", "high", "half", "corners"}


def _value(column: str, text: str) -> Any:
    if column in ("crown", "rings"):
        return [tuple(float(number) for number in part.split()) for part in text.split("/")]
    if column == "bearing":
        return float(text) if text else None
    return float(text) if column in _NUMBERS else text


def _table(name: str) -> dict[str, SimpleNamespace]:
    """The rows of a table by their first column, with the columns as attributes."""
    with Path(__file__).with_name(f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = [{column: _value(column, text) for column, text in row.items()} for row in csv.DictReader(file)]
    return {row["name"]: SimpleNamespace(**row) for row in rows}


REGIONS, SPOTS, BIOMES, PLANTS, ROOFS = map(_table, ("regions", "spots", "biomes", "plants", "roofs"))
