"""Positions per second from latitude and longitude to S2 leaf ids on one core: ours beside s2geometry and s2cell.

    python benchmarks/s2_cells.py [POSITIONS]

POSITIONS (default 2,000,000) are spread evenly over the sphere. The libraries (`pip install s2geometry s2cell`; one
that is missing is left out) take one at a time, and a fiftieth of the positions; the sides take turns and must agree to
the last bit.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import numpy as np

from tasks.geolocalization import s2
from tasks.geolocalization.sphere import to_latlng

ROUNDS = 5


def of_s2geometry(latlng: np.ndarray) -> list[int]:
    """Google's own library, by its Python binding."""
    from s2geometry import S2CellId, S2LatLng

    return [S2CellId(S2LatLng.FromDegrees(latitude, longitude)).id() for latitude, longitude in latlng.tolist()]


def of_s2cell(latlng: np.ndarray) -> list[int]:
    """The reference's algorithm in pure Python."""
    from s2cell import lat_lon_to_cell_id

    return [lat_lon_to_cell_id(latitude, longitude, 30) for latitude, longitude in latlng.tolist()]


def main() -> None:
    """Time all in turn and print the medians."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    positions = to_latlng(np.random.default_rng(0).normal(size=(count, 3)))
    few = positions[: max(1, count // 50)]
    sides: dict[str, tuple[Callable[[np.ndarray], Any], np.ndarray]] = {"ours": (s2.leaf_ids, positions)}
    for name, ids_by in (("s2geometry", of_s2geometry), ("s2cell", of_s2cell)):
        try:
            ids_by(few[:1])
        except ImportError:
            print(f"{name} is not installed: left out")
            continue
        sides[name] = (ids_by, few)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    ids = {}
    for _ in range(ROUNDS):
        for name, (ids_of, latlng) in sides.items():
            start = time.perf_counter()
            ids[name] = ids_of(latlng)
            seconds[name].append(time.perf_counter() - start)
    for name, (_, latlng) in sides.items():
        rate = len(latlng) / statistics.median(seconds[name])
        equal = np.array_equal(np.array(ids[name], np.uint64), ids["ours"][: len(latlng)])
        print(f"{name:>10}: {rate / 1e6:6.3f} million positions a second" + ("" if equal else "; NOT THE SAME IDS"))
    for title, take in (("parents", lambda ids: s2.parents(ids, 12)), ("centres", s2.centre_vectors)):
        start = time.perf_counter()
        take(ids["ours"])
        print(f"{title:>10}: {count / (time.perf_counter() - start) / 1e6:6.1f} million cells a second, ours")


if __name__ == "__main__":
    main()
