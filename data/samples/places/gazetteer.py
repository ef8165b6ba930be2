"""Where the sample's images were taken (spots.csv, with real coordinates), and how a region looks (regions.csv)."""

import csv
from pathlib import Path
from typing import NamedTuple


class Region(NamedTuple):
    """What all places of a region have in common. Colours are `#rrggbb`; `a/b` is a pair of them."""

    name: str
    line: str  # the colour of the line in the middle of the road
    dashes: str  # whether it is solid, dashed or double; none where there is no line
    drives: str  # on which side
    roof: str  # its shape
    tiles: str  # its colour
    walls: str
    trim: str  # doors and shutters
    sign: str  # its ground / its writing
    posts: str  # the stripes of posts and kerbs
    plate: str  # the ground of number plates


class Spot(NamedTuple):
    """A place that many know."""

    name: str
    region: Region
    latitude: float
    longitude: float
    biome: str
    terrain: str
    sea: bool  # whether it can be seen
    fame: float  # how many images are taken there
    bearing: float | None  # degrees from north over east, in the middle of where more places are; None for all around
    reach: float  # km to the farthest of its places


def _rows(name: str) -> list[dict[str, str]]:
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


REGIONS = {row["name"]: Region(**row) for row in _rows("regions.csv")}
# A row has Spot's fields in their order.
_READ = str, REGIONS.__getitem__, float, float, str, str, bool, float, lambda text: float(text) if text else None, float
SPOTS = [Spot(*(read(text) for read, text in zip(_READ, row.values(), strict=True))) for row in _rows("spots.csv")]
