"""What is written of a test run: figures, a row for each image, the paper's table, maps, a model card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from backbone.files import write_whole
from backbone.names import shown
from data.folders import count_of
from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition, nearest_point_km, own_cell_km
from tasks.geolocalization.maps import (
    THRESHOLD_NAMES,
    cell_width_text,
    distance_text,
    draw_error_curve,
    draw_errors_map,
    draw_partition,
    draw_prediction,
    locator_map,
    position_text,
)
from tasks.geolocalization.metrics import TABLE_11, THRESHOLDS_KM, Scores, nearness, selective
from tasks.geolocalization.sphere import haversine_km
from tasks.plotting import contact_sheet, image_or_grey
from tasks.reporting import figures_table, markdown_table, number, write_csv, write_json, write_model_card

_TILES_IN_ROW = 6
_SAMPLE = 1_000_000  # images that a partition's figures are of, evenly along S2's curve, where there are more
_LIMITS = [f"{limit:,} km" for limit in THRESHOLDS_KM]

# What an accuracy that differs over the world is told by: (south, north, west, east) in degrees, no borders. The first
# region that has a position counts.
REGIONS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "Africa": ((-36, 12, -26, 52), (12, 22, -26, 38), (22, 32, -26, 34), (32, 36, -18, 12), (36, 37, -1, 11)),
    "South America": ((-60, 7, -93, -34), (7, 13, -77, -34)),
    "North and Central America": ((48, 84, -170, -52), (7, 48, -130, -52), (59, 84, -74, -25)),
    "Oceania and the Pacific": ((-60, -10, 110, 180), (-10, 0, 131, 180), (-60, 30, 150, 180), (-60, 30, -180, -93)),
    "Europe": ((41, 50, -26, 42), (36, 41, -26, 28), (34, 36, 14, 28), (50, 82, -26, 60)),
    "Asia, west and south": ((5, 42, 28, 92), (-10, 5, 65, 92)),
    "Asia, east and south-east": ((-11, 54, 92, 150),),
    "Asia, north and central": ((42, 84, 42, 180), (54, 84, -180, -168)),
    "elsewhere (oceans, poles)": (),
}


def write_report(
    folder: Path,
    *,
    split: str,
    scores: Scores,
    half_radius_km: np.ndarray,
    likeliest: Mapping[int, tuple[np.ndarray, np.ndarray]],
    partition: Partition,
    files: Sequence[str],
    open_image: Callable[[int], np.ndarray],
    model: str,
    data: str,
) -> None:
    """Write the results of a run into `folder`.

    Half of the probability lies within `half_radius_km` (N,) of a prediction. `likeliest` has of the images that can
    be drawn the likeliest cells (K,) with their probabilities (K,), best first; `files` names the N images and
    `open_image` gives the one at a position. `model` and `data` are sentences for the model card.

    Beside the figures of `scores`, `metrics.json` has `ceiling_*` of the nearest point of any cell, which no prediction
    of a cell's point can beat, and `within_half_radius`.
    """
    pictures, distance = folder / "pictures", scores.distance_km
    pictures.mkdir(parents=True, exist_ok=True)
    ceiling = nearness(nearest_point_km(partition, scores.truth))
    figures = {**scores.figures, **{f"ceiling_{name}": value for name, value in ceiling.items()}}
    figures |= {"within_half_radius": float((distance <= half_radius_km).mean())}
    write_json(folder / "metrics.json", {f"{split}/{name}": value for name, value in figures.items()})
    write_csv(folder / "predictions.csv", _COLUMNS, _by_image(scores, half_radius_km, partition, files))
    regions = by_region(scores.truth, distance, partition)
    cells = (["" if value != value else value for value in row.values()] for row in regions)  # NaN is not itself
    write_csv(folder / "by_region.csv", list(regions[0]), cells)
    write_whole(folder / "table_11.md", table_11(scores, split))
    _write_card(folder / "model_card.md", split, scores, regions, partition, model, data)

    draw_partition(pictures / "partition.png", partition, "Cells that the net tells apart")
    draw_error_curve(pictures / "error_curve.png", scores, split)
    draw_errors_map(pictures / "errors_map.png", scores.truth, scores.latlng, distance)
    order = np.argsort(distance, kind="stable")
    _draw_near_to_far(pictures / "near_to_far.png", order, scores, files, open_image)
    drawable = [k for k in order.tolist() if k in likeliest]
    for name, at in (("nearest", 0), ("median", (len(drawable) - 1) // 2), ("farthest", -1)):
        k = drawable[at]
        title, image = f"The {name} of {count_of(len(drawable), 'image')}: {files[k]}", image_or_grey(open_image, k)
        where = scores.latlng[k], float(half_radius_km[k]), scores.truth[k]
        draw_prediction(pictures / f"prediction_{name}.png", image, partition, likeliest[k], *where, title)


def partition_figures(partition: Partition, leaves: np.ndarray) -> str:
    """What is to know of a partition of images, given by sorted leaf ids (N,): a table for people.

    Cells by level; the share of images in them; and the best that any classifier over them could do, on the very images
    that they were built from: the share within 1, 25, 200, 750 and 2500 km and the median distance.
    """
    kept, step, levels = int(partition.counts.sum()), -(-len(leaves) // _SAMPLE), s2.levels(partition.ids)
    lines = [
        f"{count_of(partition.total, 'training image')}, {count_of(len(partition), 'cell')}",
        f"{100 * kept / partition.total:.2f} % of the images are in a cell, {partition.total - kept:,} in none",
        "",
        f"{'level':>7} {'about':>9} {'cells':>9} {'images':>13} {'share':>8}",
    ]
    for level in np.unique(levels).tolist():
        cells, images = int((levels == level).sum()), int(partition.counts[levels == level].sum())
        share = f"{images:>13,} {100 * images / partition.total:>6.1f} %"
        lines.append(f"{level:>7} {cell_width_text(level):>9} {cells:>9,} {share}")
    sample = s2.centres(leaves[step // 2 :: step])
    most = partition.latlng[np.argmax(partition.counts)]
    lines += ["", f"{'% within':>30}" + "".join(f"{limit:>9} km" for limit in THRESHOLDS_KM) + f"{'median':>12}"]
    for name, distance in (
        ("at best: nearest cell's point", nearest_point_km(partition, sample)),
        ("always the right cell", own_cell_km(partition, sample)),
        ("always the most frequent cell", haversine_km(sample, most)),
    ):
        shares = "".join(f"{100 * (distance <= limit).mean():>12.1f}" for limit in THRESHOLDS_KM)
        lines.append(f"{name:>30}{shares}{np.median(distance):>9,.1f} km")
    if step > 1:
        lines.append(f"measured on one image in {step}, {len(sample):,} of {len(leaves):,}")
    return "\n".join(lines)


def table_11(scores: Scores, split: str) -> str:
    """The paper's Table 11 in Markdown, with our figures, what our cells allow, and guessing, below it."""
    names = [f"{name} ({limit})" for name, limit in zip(THRESHOLD_NAMES, _LIMITS, strict=True)]
    rows = [[f"{name}, the paper's, on Im2GPS", *(f"{s:.1f}" for s in shares)] for name, shares in TABLE_11.items()]
    ours = {"**ours**": "", "ours, if the cell were always right": "oracle_"}
    for name, which in {**ours, "ours, always the most frequent cell": "baseline_"}.items():
        shares = (scores.figures[f"{which}within_{limit}km"] for limit in THRESHOLDS_KM)
        rows.append([f"{name}, on `{split}`", *map(_per_cent, shares)])
    count = count_of(int(scores.figures["images"]), "image")
    return (
        f"{markdown_table(['% of images within', *names], rows)}\n\nThe paper's figures are on the 237 images of "
        f"Im2GPS, ours on {count} of `{split}`: where these are others, the rows say how well each net did on its own, "
        "not which is better.\n"
    )


def by_region(truth: np.ndarray, distance_km: np.ndarray, partition: Partition) -> list[dict[str, str | float]]:
    """A row for each of `REGIONS`: images learned from, tested on, and how near.

    `region`, `training_images` (in cells whose point lies there), `images` (of the truth (N, 2)), `within_*km` and
    `median_km`, NaN where there is no image.
    """
    of_truth, of_cells = regions_of(truth), regions_of(partition.latlng)
    rows: list[dict[str, str | float]] = []
    for k, name in enumerate(REGIONS):
        there, trained = distance_km[of_truth == k], int(partition.counts[of_cells == k].sum())
        row: dict[str, str | float] = {"region": name, "training_images": trained, "images": len(there)}
        rows.append({**row, **nearness(there)})
    return rows


def regions_of(latlng: np.ndarray) -> np.ndarray:
    """The region (N,) of each position (N, 2), as `REGIONS` counts them; the last where no other has it."""
    region = np.full(len(latlng), len(REGIONS) - 1)
    latitude, longitude = latlng.T
    for k, boxes in reversed(list(enumerate(REGIONS.values()))):
        for south, north, west, east in boxes:
            region[(south <= latitude) & (latitude <= north) & (west <= longitude) & (longitude <= east)] = k
    return region


# `cell`, `rank` (1 is the best) and `probability` are the own cell's, empty where it was dropped
_COLUMNS = ["file", "true_latitude", "true_longitude", "latitude", "longitude", "distance_km", "half_radius_km"]
_COLUMNS += ["cell", "rank", "probability", "best_cell", "best_probability"]


def _by_image(
    scores: Scores, half_radius_km: np.ndarray, partition: Partition, files: Sequence[str]
) -> Iterator[list[object]]:
    tokens, ranks = s2.tokens(partition.ids), scores.ranks
    for k, file in enumerate(tqdm(files, "predictions.csv", disable=None, delay=2, leave=False)):
        degrees = (f"{degree:.7f}" for degree in (*scores.truth[k], *scores.latlng[k]))
        kilometres = f"{scores.distance_km[k]:.6f}", f"{half_radius_km[k]:.3f}"
        label = int(scores.labels[k])
        own = [tokens[label], int(ranks.rank[k]) + 1, f"{ranks.probability[k]:.6g}"] if label >= 0 else [""] * 3
        yield [file, *degrees, *kilometres, *own, tokens[ranks.best[k]], f"{ranks.confidence[k]:.6g}"]


# --------------------------------------------------------------------------------------------------------- near to far


def near_to_far(count: int) -> list[int]:
    """Which of so many images, ordered by distance, are shown: the nearest, the middle, the farthest, six each.

    All of 18 or fewer.
    """
    row = _TILES_IN_ROW
    starts = range(0, count, row) if count <= 3 * row else (0, (count - row) // 2, count - row)
    return [k for start in starts for k in range(start, min(start + row, count))]


def _draw_near_to_far(
    path: Path, order: np.ndarray, scores: Scores, files: Sequence[str], open_image: Callable[[int], np.ndarray]
) -> None:
    """Images over small maps: a fair impression needs the middle beside the best and the worst."""
    chosen, tiles, captions = order[near_to_far(len(order))].tolist(), [], []
    for k in tqdm(chosen, "images and maps", disable=None, delay=2, leave=False):
        tiles.append(_tile(image_or_grey(open_image, k), locator_map(scores.truth[k], scores.latlng[k], 240)))
        far = f"{distance_text(float(scores.distance_km[k]))} off, sure by {100 * scores.ranks.confidence[k]:.3g} %"
        captions.append(f"{far}\ntruth {position_text(scores.truth[k])}\n{shown(files[k])}")
    which = "The nearest, middle and farthest of " if len(chosen) < len(order) else ""
    title = f"{which}{count_of(len(order), 'image')}, the nearest predictions first; star: truth, cross: prediction"
    contact_sheet(tiles, captions, path, columns=_TILES_IN_ROW, title=title)


def _tile(image: np.ndarray, small_map: np.ndarray) -> np.ndarray:
    """An image in the middle of a white box, a map below it."""
    box = ImageOps.pad(Image.fromarray(image), (small_map.shape[1], 180), Image.Resampling.BICUBIC, "white")
    return np.concatenate([np.asarray(box), np.full_like(small_map[:6], 255), small_map])


# ---------------------------------------------------------------------------------------------------------- model card

_FIGURES = {  # in the order of the card
    "median_km": "median distance, km",
    "mean_km": "mean distance, km",
    "geoscore": "GeoScore (5000 is perfect)",
    "cell_top1": "share whose own cell is the likeliest",
    "cell_top5": "share whose own cell is among the likeliest five",
    "coverage": "share whose own cell was kept",
    "ece": "calibration error of the likeliest cell's probability",
    "nll": "negative log-likelihood of the own cell, nats",
}


def _write_card(
    path: Path,
    split: str,
    scores: Scores,
    regions: Sequence[dict[str, str | float]],
    partition: Partition,
    model: str,
    data: str,
) -> None:
    kept, images = 100 * partition.counts.sum() / max(1, partition.total), count_of(partition.total, "image")
    cells = (
        "It says where on Earth an image was taken: positions with their probability. It tells apart "
        f"{count_of(len(partition), 'cell')} of the Earth's surface, which hold {kept:.1f} % of the {images} they were "
        "made from; it does not know the places where the others were taken."
    )

    def near(row: dict[str, float] | dict[str, str | float]) -> list[str]:
        shares = [_per_cent(float(row[f"within_{limit}km"])) for limit in THRESHOLDS_KM]
        return [*shares, number(float(row["median_km"]))]

    surest = selective(scores.distance_km, scores.ranks.confidence)
    taken = [[f"{100 * r['share']:.0f} % ({int(r['images']):,})", f"{r['from']:.3g}", *near(r)] for r in surest]
    by_place = [[str(r["region"]), f"{r['training_images']:,}", f"{r['images']:,}", *near(r)] for r in regions]
    parts = {
        f"Figures on `{split}`": f"{count_of(int(scores.figures['images']), 'image')}.\n\n"
        f"{figures_table(scores.figures, _FIGURES)}\n\n{table_11(scores, split)}",
        "If only the surest are taken": markdown_table(["taken", "from probability", *_LIMITS, "median km"], taken)
        + "\n\nPer cent of these images within so many kilometres.",
        "By region": markdown_table(["region", "learned from", "tested on", *_LIMITS, "median km"], by_place)
        + "\n\nPer cent of a region's images within so many kilometres. Regions are rough boxes of latitude and "
        "longitude. Where few images were learned from, or tested on, expect worse, and less certainty.",
    }
    told = {"task": "geolocalization", "model": f"{model} {cells}", "data": data, "licence": ""}
    write_model_card(path, **told, parts=parts, end=Path(__file__).with_name("model_card.md").read_text("utf-8"))


def _per_cent(share: float) -> str:
    return "not measured" if np.isnan(share) else f"{100 * share:.1f}"
