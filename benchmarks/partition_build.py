"""Seconds and peak memory of a partition of many images, by phase.

    python benchmarks/partition_build.py               # 100 million images, cells of 50 to 10,000
    python benchmarks/partition_build.py --images 1e7

The places are made up, clustered as images are (20,000 cities of very different size, a tenth of the images
anywhere), in chunks, and only their leaf ids are kept: 8 bytes each. Making them up is timed apart.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import numpy as np
from tqdm import tqdm

from tasks.geolocalization import s2
from tasks.geolocalization.cells import own_cell_km, partitions_of
from tasks.geolocalization.sphere import to_latlng

CHUNK = 1 << 20
CITIES = 20_000


def clustered(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Chunks (n, 2) of places: Zipf's law for the cities' sizes, heavy tails around each, a tenth anywhere."""
    generator = np.random.default_rng(seed)
    cities = generator.normal(size=(CITIES, 3))
    cities /= np.linalg.norm(cities, axis=1, keepdims=True)
    weights = 1 / np.arange(1, CITIES + 1)
    upto = np.cumsum(weights / weights.sum())
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        around = cities[np.searchsorted(upto, generator.random(size)).clip(max=CITIES - 1)]
        radius = 0.001 * generator.pareto(1.5, size)[:, None]  # 6 km, in radians
        anywhere = generator.random(size)[:, None] < 0.1
        yield to_latlng(
            np.where(anywhere, 0, around) + np.where(anywhere, 1, radius) * generator.normal(size=(size, 3))
        )


def main() -> None:
    """Build once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=1e8)
    parser.add_argument("--max_images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--min_images", type=int, default=50)
    options = parser.parse_args()
    count = int(options.images)
    seconds = dict.fromkeys(("making up places", "leaf ids", "partition", "ids to cells"), 0.0)
    clock = time.perf_counter

    leaves, filled = np.empty(count, np.uint64), 0
    chunks = clustered(count)
    with tqdm(total=count, unit="image", unit_scale=True, delay=2, leave=False) as progress:
        while filled < count:
            start = clock()
            places = next(chunks)
            made = clock()
            leaves[filled : filled + len(places)] = s2.leaf_ids(places)
            seconds["making up places"] += made - start
            seconds["leaf ids"] += clock() - made
            filled += len(places)
            progress.update(len(places))
    start = clock()
    partitions = partitions_of(leaves, options.max_images, min_images=options.min_images)
    seconds["partition"] = clock() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    start = clock()
    found = sum(int((partitions[0].lookup_ids(leaves[at : at + CHUNK]) >= 0).sum()) for at in range(0, count, CHUNK))
    seconds["ids to cells"] = clock() - start

    for phase, taken in seconds.items():
        print(f"{phase:>16}: {taken:7.1f} s, {count / taken / 1e6:6.1f} million images a second")
    together = seconds["leaf ids"] + seconds["partition"]
    print(f"leaf ids and partition together {together:.1f} s; peak {peak / 2**30:.2f} GiB")
    for partition in partitions:
        levels = s2.levels(partition.ids)
        kept = partition.counts.sum() / partition.total
        print(f"{len(partition):,} cells of levels {levels.min()} to {levels.max()}, {100 * kept:.1f} % kept")
    assert found == partitions[0].counts.sum(), "the cells' counts are not those of looking images up"
    sample = s2.centres(leaves[:: max(1, count // 100_000)])
    errors = own_cell_km(partitions[0], sample)
    print(f"median distance to the own cell's point: {np.median(errors):.1f} km, of {len(sample):,} images")


if __name__ == "__main__":
    main()
