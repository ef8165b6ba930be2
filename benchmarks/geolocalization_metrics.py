"""How long the figures of ten million places take, and how much memory: ours beside plain numpy on all at once.

    python benchmarks/geolocalization_metrics.py [--images N] [--cells C] [--rounds R]

Each side, in a process of its own, has N true places and what a head keeps of their predictions in memory, and finds
cells, distances, GeoScore, calibration, the best that the cells allow, guessing, and the figures of the surest: all of
them equal. Then the ranks of the own cells among the probabilities of C cells, by batches as they come from a network,
beside sorting them: equal too.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import numpy as np

from benchmarks.sides import answer, ask, line
from tasks.geolocalization.cells import Partition, collect_leaves, partitions_of
from tasks.geolocalization.metrics import SHARES, THRESHOLDS_KM, Ranks, evaluate, rank_cells, selective
from tasks.geolocalization.sphere import haversine_km, to_latlng, unit
from tasks.kept import Kept

PART = 1 << 17  # of images that are made at once
BATCH, BATCHES = 512, 40  # of images whose probabilities are ranked
Case = tuple[Kept, np.ndarray, Partition]


def make_case(images: int, cells: int) -> Case:
    """Images around 3,000 towns, predicted at the points of cells of which four in ten are their own.

    What a head keeps of them; where they are (N, 2); the cells.
    """
    rng = np.random.default_rng(0)
    towns = unit(rng.normal(size=(3000, 3)))

    def places(count: int) -> np.ndarray:
        return to_latlng(towns[rng.integers(0, len(towns), count)] + rng.normal(size=(count, 3)) * 0.02)

    leaves = collect_leaves(places(PART) for _ in range(8))
    (partition,) = partitions_of(leaves, [2_000_000 // cells], min_images=20)
    points, kept, truth = partition.latlng, Kept(), np.empty((images, 2))
    for start in range(0, images, PART):
        here = truth[start : start + PART] = places(min(PART, images - start))
        own, count = partition.lookup(here), len(here)
        best = np.where(rng.random(count) < 0.4, np.maximum(own, 0), rng.integers(0, len(partition), count))
        rank = np.where(own < 0, -1, np.where(best == own, 0, rng.integers(1, 20, count)))
        confidence = rng.random(count)
        probability = np.where(own < 0, np.nan, np.where(rank == 0, confidence, confidence * rng.random(count)))
        columns = rank.astype(np.int32), probability, best.astype(np.int32), confidence, np.full(count, 500.0)
        kept.add(range(start, start + count), points[best], *columns)
    return kept, truth, partition


def ours(kept: Kept, truth: np.ndarray, partition: Partition) -> dict[str, Any]:
    """As the head's `compute` and `report` do."""
    positions, [latlng, *ranks, _], _ = kept.take()
    scores = evaluate(latlng, truth[positions], Ranks(*ranks), partition)
    return scores.figures | {"surest": selective(scores.distance_km, scores.ranks.confidence)}


def at_once(kept: Kept, truth: np.ndarray, partition: Partition) -> dict[str, Any]:
    """The same as one would write it down."""
    predicted, rank, probability, _, confidence, _ = kept.take().columns
    points, own = partition.latlng, partition.lookup(truth)
    right, covered = rank == 0, own >= 0
    distances = {
        "": haversine_km(predicted, truth),
        "oracle_": np.where(covered, haversine_km(truth, points[own]), np.inf),
        "baseline_": haversine_km(points[np.argmax(partition.counts)], truth),
    }
    figures = {}
    for prefix, kilometres in distances.items():
        figures |= {f"{prefix}within_{limit}km": (kilometres <= limit).mean() for limit in THRESHOLDS_KM}
        middle = np.median(kilometres)
        figures[f"{prefix}median_km"] = middle if np.isfinite(middle) else np.nan
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = [abs((confidence[bins == k] - right[bins == k]).sum()) for k in range(15)]
    figures |= {"mean_km": distances[""].mean(), "geoscore": (5000 * np.exp(-distances[""] / 1492.7)).mean()}
    figures |= {"cell_top1": right.mean(), "cell_top5": ((rank >= 0) & (rank < 5)).mean()}
    figures |= {"ece": sum(gaps) / len(truth), "nll": -np.log(probability[covered]).mean()}
    figures |= {"coverage": covered.mean(), "images": len(truth)}
    surest, order = [], np.argsort(-confidence)
    for share in SHARES:
        taken = distances[""][order[: int(np.ceil(share * len(order)))]]
        row = {"share": share, "images": len(taken), "from": confidence[order[len(taken) - 1]]}
        surest.append({**row, **{f"within_{limit}km": (taken <= limit).mean() for limit in THRESHOLDS_KM}})
        surest[-1]["median_km"] = np.median(taken)
    plain = [{name: float(value) for name, value in row.items()} for row in (figures, *surest)]
    return plain[0] | {"surest": plain[1:]}


def batches(cells: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Probabilities (B, C) float32 and own cells (B,)."""
    rng = np.random.default_rng(1)
    weights = rng.exponential(size=(BATCH, cells)).astype(np.float32) ** 4
    weights /= weights.sum(axis=1, keepdims=True)
    return [(weights, rng.integers(-1, cells, BATCH)) for _ in range(BATCHES)]


def by_sorting(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The ranks (B,) of the own cells."""
    place = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1)
    return np.where(labels < 0, -1, place[np.arange(len(labels)), labels])


SIDES = {"ours": ours, "all at once": at_once}
RANKED = {"ranks": lambda *batch: rank_cells(*batch).rank, "ranks by sorting": by_sorting}


def run(side: str, images: int, cells: int) -> None:
    """One side, in its own process."""
    if side in SIDES:
        case = make_case(images, cells)
        answer(lambda: SIDES[side](*case))
    else:
        work = batches(cells)
        answer(lambda: int(sum(int((RANKED[side](*batch) * np.arange(1, BATCH + 1)).sum()) for batch in work)))


def same(a: Any, b: Any) -> bool:
    """Whether figures are equal to 1e-12 of their size."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.isclose(a, b, rtol=1e-12, atol=0, equal_nan=True))


def main() -> None:
    """Run the sides in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--cells", type=int, default=5000, help="about so many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=(*SIDES, *RANKED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    args = ["--images", options.images, "--cells", options.cells]
    if options.side:
        return run(options.side, options.images, options.cells)
    print(f"{options.images:,} places, about {options.cells:,} cells; the load was {os.getloadavg()[0]:.1f}")
    for sides in (SIDES, RANKED):
        rounds = [{name: ask(__file__, name, args) for name in sides} for _ in range(options.rounds)]
        last = rounds[-1]
        for name, found in last.items():
            found["seconds"] = median(one[name]["seconds"] for one in rounds)
        first, second = last.values()
        for name, found in last.items():
            print(line(name, found, first))
        assert same(first["result"], second["result"]), (first["result"], second["result"])
        if sides is RANKED:
            each = first["seconds"] / BATCH / BATCHES
            print(f"of {BATCH * BATCHES:,} images: {1e6 * each:.1f} us an image, {each * options.images:.0f} s for all")
    print("all figures equal")


if __name__ == "__main__":
    main()
