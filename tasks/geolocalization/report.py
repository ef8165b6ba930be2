"""What a test run leaves in its folder: figures, a row for each photograph, the paper's table, maps, a model card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition, nearest_point_km
from tasks.geolocalization.maps import (
    THRESHOLD_NAMES,
    distance_text,
    draw_error_curve,
    draw_errors_map,
    draw_partition,
    draw_prediction,
    locator_map,
    place,
)
from tasks.geolocalization.metrics import TABLE_11, THRESHOLDS_KM, Scores, selective, within
from tasks.geolocalization.sphere import haversine_km
from tasks.plotting import contact_sheet, fit
from tasks.reporting import count_of, write_csv, write_json

_TILES_IN_ROW = 6
_UNREADABLE_GREY = 160

# What an accuracy that differs over the world is told by: (south, north, west, east) in degrees, no borders. The first
# region that has a place counts.
REGIONS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "Africa": ((-36, 12, -26, 52), (12, 22, -26, 38), (22, 32, -26, 34), (32, 36, -18, 12), (36, 37, -1, 11)),
    "South America": ((-60, 7, -93, -34), (7, 13, -77, -34)),
    "North and Central America": ((48, 84, -170, -52), (7, 48, -130, -52), (59, 84, -74, -25)),
    "Oceania and the Pacific": ((-60, -10, 110, 180), (-10, 0, 131, 180), (-60, 30, 150, 180), (-60, 30, -180, -93)),
    "Europe": ((41, 50, -26, 42), (36, 41, -26, 28), (34, 36, 14, 28), (50, 82, -26, 60)),
    "Asia, west and south": ((5, 42, 28, 92), (-10, 5, 65, 92)),
    "Asia, east and south-east": ((-11, 54, 92, 150),),
    "Asia, north and central": ((42, 84, 42, 180), (54, 84, -180, -168)),
}
_ELSEWHERE = "elsewhere (oceans, poles)"


def write_report(
    folder: Path,
    *,
    split: str,
    scores: Scores,
    places: np.ndarray,
    truth: np.ndarray,
    half_radius_km: np.ndarray,
    partition: Partition,
    files: Sequence[str],
    open_image: Callable[[int], np.ndarray],
    probabilities: Callable[[int], np.ndarray],
    extra: Mapping[str, float | None] | None = None,
) -> dict[str, float | None]:
    """Write the results of a run into `folder`; return what went into metrics.json.

    `scores` is what `evaluate` gave for the places (N, 2) answered and the truth (N, 2), in degrees; half of the
    probability lies within `half_radius_km` (N,) of a place. `files` names the N photographs, `open_image` gives the
    one at a position (H, W, 3) uint8 RGB, and `probabilities` what is said of it (C,); it is asked for three. Where
    `open_image` raises InputError a grey tile stands for the photograph.

    Written: `metrics.json` ("<split>/<figure>", also those of `extra`, and `ceiling_*` of the nearest point of any
    cell, which no answer of a cell's point can beat; null where nothing could be measured), `predictions.csv`,
    `by_region.csv`, `table_11.md` and, under `pictures/`, `partition.png`, `error_curve.png`,
    `errors_map.png`, `near_to_far.png` and `prediction_nearest.png`, `_median`, `_farthest`. The same input gives the
    same files.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    nearest = nearest_point_km(partition, truth)
    ceiling = {f"ceiling_{name}": value for name, value in within(nearest).items()}
    ceiling["ceiling_median_km"] = float(np.median(nearest)) if len(nearest) else np.nan
    named = {**scores.figures, **ceiling, **(extra or {})}
    figures = {f"{split}/{name}": value for name, value in named.items()}
    flat = write_json(folder / "metrics.json", figures)
    write_csv(folder / "predictions.csv", *_by_photograph(scores, places, truth, half_radius_km, partition, files))
    rows = by_region(truth, scores.distance_km, partition)
    cells = (["" if value != value else value for value in row.values()] for row in rows)  # NaN is not itself
    write_csv(folder / "by_region.csv", list(rows[0]), cells)
    (folder / "table_11.md").write_text(table_11(scores, split), "utf-8")

    draw_partition(pictures / "partition.png", partition, "Cells that the answers are chosen from")
    most = partition.latlng[partition.counts.argmax()]
    draw_error_curve(
        pictures / "error_curve.png", scores.distance_km, scores.oracle_km, haversine_km(most, truth), split
    )
    draw_errors_map(pictures / "errors_map.png", truth, places, scores.distance_km)

    def open_or_grey(position: int) -> np.ndarray:
        try:
            return open_image(position)
        except InputError:
            return np.full((300, 300, 3), _UNREADABLE_GREY, np.uint8)

    order = np.argsort(scores.distance_km, kind="stable")
    _draw_near_to_far(pictures / "near_to_far.png", order, scores, places, truth, files, open_or_grey)
    for name, of in (("nearest", 0), ("median", (len(order) - 1) // 2), ("farthest", len(order) - 1)):
        if len(order):
            k = int(order[of])
            where = places[k], float(half_radius_km[k]), truth[k]
            title = f"The {name} of {count_of(len(order), 'photograph')}: {files[k]}"
            picture = pictures / f"prediction_{name}.png"
            draw_prediction(picture, open_or_grey(k), partition, probabilities(k), *where, title)
    return flat


def table_11(scores: Scores, split: str) -> str:
    """The paper's Table 11 in Markdown, with our figures, what our cells allow, and guessing, below it."""
    limits = " | ".join(f"{name} ({limit:,} km)" for name, limit in zip(THRESHOLD_NAMES, THRESHOLDS_KM, strict=True))
    lines = [f"| % of photographs within | {limits} |", "|---" * (1 + len(THRESHOLDS_KM)) + "|"]
    lines += [
        f"| {name}, the paper's, on Im2GPS | {' | '.join(f'{share:.1f}' for share in shares)} |"
        for name, shares in TABLE_11.items()
    ]
    ours = {
        "**ours**": "",
        "ours, if the cell were always right": "oracle_",
        "ours, always the most frequent cell": "baseline_",
    }
    for name, which in ours.items():
        shares = (scores.figures[f"{which}within_{limit}km"] for limit in THRESHOLDS_KM)
        lines.append(f"| {name}, on `{split}` | {' | '.join(map(_per_cent, shares))} |")
    count = count_of(int(scores.figures["images"]), "photograph")
    lines += [
        "",
        f"The paper's figures are on the 237 photographs of Im2GPS, ours on {count} of `{split}`: where these are "
        "others, the rows say what each net did on its own, not which is better.",
    ]
    return "\n".join(lines) + "\n"


def by_region(truth: np.ndarray, distance_km: np.ndarray, partition: Partition) -> list[dict[str, str | float]]:
    """A row for each of `REGIONS`, and for what is left over: photographs learned from, tested on, and how near.

    `region`, `training_photographs` (in cells whose point lies there), `photographs` (of the truth (N, 2)),
    `within_*km` and `median_km`, NaN where there is no photograph.
    """
    of_truth, of_cells = regions_of(truth), regions_of(partition.latlng)
    rows: list[dict[str, str | float]] = []
    for k, name in enumerate((*REGIONS, _ELSEWHERE)):
        there = distance_km[of_truth == k]
        row: dict[str, str | float] = {
            "region": name,
            "training_photographs": int(partition.counts[of_cells == k].sum()),
            "photographs": len(there),
        }
        rows.append({**row, **within(there), "median_km": float(np.median(there)) if len(there) else np.nan})
    return rows


def regions_of(latlng: np.ndarray) -> np.ndarray:
    """The position (N,) in `REGIONS` of each place (N, 2); len(REGIONS) where none has it."""
    found = np.full(len(latlng), len(REGIONS))
    latitude, longitude = latlng[:, 0], latlng[:, 1]
    for k, boxes in reversed(list(enumerate(REGIONS.values()))):
        for south, north, west, east in boxes:
            found[(south <= latitude) & (latitude <= north) & (west <= longitude) & (longitude <= east)] = k
    return found


# ----------------------------------------------------------------------------------------------------------- tables


def _by_photograph(
    scores: Scores,
    places: np.ndarray,
    truth: np.ndarray,
    half_radius_km: np.ndarray,
    partition: Partition,
    files: Sequence[str],
) -> tuple[list[str], Iterator[list[object]]]:
    """Head, rows; `cell`, `rank` (1 is the best) and `probability` are the own cell's, empty where it was dropped."""
    head = ["file", "true_latitude", "true_longitude", "latitude", "longitude", "distance_km", "half_radius_km"]
    head += ["cell", "rank", "probability", "best_cell", "best_probability"]
    tokens = s2.tokens(partition.ids)
    ranks = scores.ranks

    def rows() -> Iterator[list[object]]:
        for k, file in enumerate(tqdm(files, "predictions.csv", disable=None, delay=2, leave=False)):
            degrees = (f"{degree:.7f}" for degree in (*truth[k], *places[k]))
            kilometres = f"{scores.distance_km[k]:.6f}", f"{half_radius_km[k]:.3f}"
            label = int(scores.labels[k])
            own = [tokens[label], int(ranks.rank[k]) + 1, f"{ranks.probability[k]:.6g}"] if label >= 0 else [""] * 3
            yield [file, *degrees, *kilometres, *own, tokens[ranks.best[k]], f"{ranks.confidence[k]:.6g}"]

    return head, rows()


# --------------------------------------------------------------------------------------------------------- pictures


def near_to_far(count: int) -> list[list[int]]:
    """Which of so many photographs, ordered by distance, are shown: the nearest, the middle, the farthest, six each.

    Of 18 or fewer all, in rows of six.
    """
    row = _TILES_IN_ROW
    if count <= 3 * row:
        return [list(range(start, min(start + row, count))) for start in range(0, count, row)]
    middle = (count - row) // 2
    return [list(range(start, start + row)) for start in (0, middle, count - row)]


def _draw_near_to_far(
    path: Path,
    order: np.ndarray,
    scores: Scores,
    places: np.ndarray,
    truth: np.ndarray,
    files: Sequence[str],
    open_image: Callable[[int], np.ndarray],
) -> None:
    """Photographs over small maps: a fair impression needs the middle beside the best and the worst."""
    chosen = order[[k for row in near_to_far(len(order)) for k in row]].tolist() if len(order) else []
    tiles, captions = [], []
    for k in tqdm(chosen, "photographs and maps", disable=None, delay=2, leave=False):
        tiles.append(_tile(open_image(k), locator_map(truth[k], places[k], 240)))
        sure = f"sure by {100 * scores.ranks.confidence[k]:.3g} %"
        captions.append(
            f"{distance_text(float(scores.distance_km[k]))} off, {sure}\ntruth {place(truth[k])}\n{files[k]}"
        )
    title = f"{count_of(len(order), 'photograph')}, the nearest answers first; star: truth, cross: answer"
    if len(chosen) < len(order):
        title = f"The nearest, middle and farthest of {title.replace(', the nearest answers first', '')}"
    contact_sheet(tiles, captions, path, columns=_TILES_IN_ROW, title=title)


def _tile(photograph: np.ndarray, small_map: np.ndarray) -> np.ndarray:
    """A photograph in the middle of a white square, a map below it."""
    width = small_map.shape[1]
    small, _ = fit(photograph, width, 180)
    box = np.full((180, width, 3), 255, np.uint8)
    top, left = (180 - small.shape[0]) // 2, (width - small.shape[1]) // 2
    box[top : top + small.shape[0], left : left + small.shape[1]] = small
    return np.concatenate([box, np.full((6, width, 3), 255, np.uint8), small_map])


# ------------------------------------------------------------------------------------------------------- model card

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

_CAN_TELL = """\
- It knows kinds of places by their looks: vegetation, light, ground, buildings, roads, writing. A famous view may be
  placed to the street; most photographs have nothing in them that tells more than a country or a climate.
- It always answers, also for a picture of a cup on a table. How far to trust an answer is said by its probability and
  by the radius that holds half of it, and both hold for photographs like those above alone.
- It answers with the points of its cells. Where few photographs were taken a cell is as large as a country, or was
  dropped, and the net does not know the place.
- It has what its photographs have: more of rich countries, cities and sights, of summer and of daylight. What looks
  alike, it places where more photographs were taken.
- It reads no position from a file's EXIF."""

# location data identify a person: GDPR, Article 4(1), https://eur-lex.europa.eu/eli/reg/2016/679/oj
_USE = """\
## Responsible use

Meant for research on small networks, for sorting one's own photographs, archives and collections, and for learning
what a photograph gives away, where an error does no harm.

Not meant, and not to be used:

- To find out where a person is, lives, works or has been: that is how stalkers and doxxers work, and one photograph of
  a garden or a view from a window may be enough.
- To decide about a person by it: asylum, borders, policing, insurance, credit, work.
- As evidence. An answer is a guess from looks; verify it by other means.

If you share photographs: deleting the EXIF position is not enough, as the background gives a place away. Mind signs,
number plates, shop fronts, skylines, the view from your window, and do not show your home.

This project ships no weights for this task. Think before you publish yours; the authors of a well-known model withdrew
theirs over such uses (https://github.com/TIBHannover/GeoEstimation). In the European Union a location that can be tied
to a person is personal data (Regulation (EU) 2016/679, Article 4(1)). This is not legal advice."""


def write_model_card(
    path: Path,
    *,
    model: str,
    data: str,
    licence: str,
    split: str,
    scores: Scores,
    truth: np.ndarray,
    partition: Partition,
) -> None:
    """Write a model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993) for those who did not train it.

    `model`, `data` and `licence` ("" where the data name none) are sentences; `scores` are of `split`, whose
    photographs were taken at `truth` (N, 2).
    """
    kept = partition.counts.sum() / max(1, partition.total)
    photographs = count_of(partition.total, "photograph")
    cells = (
        f"It tells apart {count_of(len(partition), 'cell')} of the Earth's surface, which hold {100 * kept:.1f} % of "
        f"the {photographs} they were made from; it does not know the places where the others were taken."
    )
    parts = [
        "# Model card: geolocalization",
        f"{model} It says where on Earth a photograph was taken: places with their probability. {cells}",
        "## Data and licence",
        f"{data} {licence or 'The data name no licence: see that you may use them.'}",
        f"## Figures on `{split}`",
        _figures_part(scores),
        table_11(scores, split).strip(),
        "## If only the surest are answered",
        _selective_part(scores),
        "## By region",
        _regions_part(truth, scores, partition),
        "## What it can and cannot tell",
        _CAN_TELL,
        _USE,
    ]
    path.write_text("\n\n".join(parts) + "\n", "utf-8")


def _figures_part(scores: Scores) -> str:
    lines = [f"{count_of(int(scores.figures['images']), 'photograph')}.", "", "| figure | value |", "|---|---|"]
    lines += [f"| {words} | {_number(scores.figures[name])} |" for name, words in _FIGURES.items()]
    return "\n".join(lines)


def _selective_part(scores: Scores) -> str:
    limits = " | ".join(f"{limit:,} km" for limit in THRESHOLDS_KM)
    lines = [f"| answered | from probability | {limits} | median km |", "|---" * (3 + len(THRESHOLDS_KM)) + "|"]
    for row in selective(scores.distance_km, scores.ranks.confidence):
        shares = " | ".join(_per_cent(row[f"within_{limit}km"]) for limit in THRESHOLDS_KM)
        answered = f"{100 * row['share']:.0f} % ({int(row['images']):,})"
        lines.append(f"| {answered} | {row['from']:.3g} | {shares} | {_number(row['median_km'])} |")
    return "\n".join([*lines, "", "Per cent of the photographs answered within so many kilometres."])


def _regions_part(truth: np.ndarray, scores: Scores, partition: Partition) -> str:
    rows = by_region(truth, scores.distance_km, partition)
    limits = " | ".join(f"{limit:,} km" for limit in THRESHOLDS_KM)
    lines = [f"| region | learned from | tested on | {limits} | median km |", "|---" * (4 + len(THRESHOLDS_KM)) + "|"]
    for row in rows:
        shares = " | ".join(_per_cent(float(row[f"within_{limit}km"])) for limit in THRESHOLDS_KM)
        counts = f"{row['training_photographs']:,} | {row['photographs']:,}"
        lines.append(f"| {row['region']} | {counts} | {shares} | {_number(float(row['median_km']))} |")
    lines += [
        "",
        "Per cent of a region's photographs within so many kilometres. Regions are rough boxes of latitude and",
    ]
    return (
        "\n".join(lines)
        + "\nlongitude. Where few photographs were learned from, or tested on, expect worse, and less certainty."
    )


def _per_cent(share: float) -> str:
    return "not measured" if np.isnan(share) else f"{100 * share:.1f}"


def _number(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:,.1f}" if value >= 10 else f"{value:.3f}"
