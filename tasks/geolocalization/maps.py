"""World maps without network: cells, what a net predicts for an image, how far off it is, and where.

Maps are equirectangular. Land and borders are Natural Earth's at 1:110 million (public domain, with thanks to
https://www.naturalearthdata.com), in `coastline_110m.npz`: 10,654 points `xy` in hundredths of a degree, longitude
first, in rings that begin at `off`. Colours are told apart with every form of colour blindness; the same input gives
the same bytes.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from data.folders import count_of
from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition
from tasks.geolocalization.geojson import flat_ring
from tasks.geolocalization.metrics import THRESHOLDS_KM, Scores
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, destination, great_circle, haversine_km
from tasks.reporting import BLUE, DPI, ORANGE, legible, save_figure

THRESHOLD_NAMES = ("street", "city", "region", "country", "continent")  # of THRESHOLDS_KM, by Im2GPS's successors

_LAND, _SEA, _INK = "#dcdcd6", "#f6f8fa", "#303030"
_RED = "#8b1a1a"  # of the numbered cells
_BANDS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725", "#d55e00")  # viridis, and beyond it vermillion
_DEGREE_KM = np.pi * EARTH_RADIUS_KM / 180
_FEW_CELLS = 1500  # up to which their points are drawn
_FARTHEST_KM = 3000.0  # that a zoomed map reaches from its middle
_WORST = 25  # images joined to their predictions on the map of errors
_NUMBERED = 5
_TURNS = (-360, 0, 360)  # by which longitudes are seen again across the antimeridian


class View(NamedTuple):
    """What a map shows, in degrees. East may be beyond 180 or west beyond -180, where it crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    @property
    def shape(self) -> float:
        """Height by width, where a degree is as long either way."""
        return (self.north - self.south) / (self.east - self.west)


def draw_partition(path: Path, partition: Partition, title: str) -> None:
    """Draw the cells by their number of images: the world, the region with the most cells, cells by level.

    Where cells are few their points are dots.
    """
    levels, counts = s2.levels(partition.ids), partition.counts
    # small cells on top; the mean of three continents may be at the pole that is between
    world, dense = _world(partition.latlng[levels > 2]), _densest(s2.centres(partition.ids))
    norm, colormap = LogNorm(counts.min(), max(counts.max(), counts.min() + 1)), colormaps["viridis_r"]
    order = np.argsort(levels, kind="stable")
    rings, colors = _cell_rings(partition.ids[order]), colormap(norm(counts[order]))

    height, total = 15.0 * world.shape, 15.0 * world.shape + 6.2  # inches
    figure = Figure(figsize=(15.0, total), dpi=DPI)
    figure.text(0, 1, _one_line(title), fontsize=15, va="bottom")
    upper = figure.add_axes((0, 1 - (height + 0.3) / total, 1, height / total))
    lower = figure.add_axes((0, 0, 0.66, 5.4 / total))
    # A cell below a pixel would fade out, and what is below shine through between two: lines as opaque as they
    for axes, view, fill, dot in ((upper, world, (0.6, 1.0), 3), (lower, dense, (0.35, 0.85), 7)):
        _draw_land(axes, view, cased=True)
        _fill(axes, view, rings, colors, *fill, edge=None if axes is upper else "white")
        if len(partition) <= _FEW_CELLS:
            x, y = _in_view(partition.latlng, view).T
            axes.scatter(x, y, s=dot, color=_INK, linewidths=0, zorder=5)
    kept = 100 * counts.sum() / max(1, partition.total)
    heading = f"{count_of(len(partition), 'cell')} with {kept:.1f} % of {count_of(partition.total, 'image')}"
    dots = "; dots: where a cell's images are" if len(partition) <= _FEW_CELLS else ""
    upper.set_title(heading + dots, loc="left", fontsize=11)
    _frame(upper, dense)
    lower.set_title("where cells are densest (the frame above)", loc="left", fontsize=11)
    _add_degrees(lower)

    bars = figure.add_axes((0.74, 0, 0.26, 3.9 / total))
    cells = np.bincount(levels)
    shown = np.arange(levels.min(), len(cells))
    drawn = bars.barh(shown, cells[shown], color=BLUE, height=0.75)
    bars.bar_label(drawn, [f"{cells[level]:,}" for level in shown], padding=4, fontsize=9)
    bars.set_yticks(shown, [f"{level}  ({cell_width_text(level)})" for level in shown.tolist()], fontsize=9)
    bars.set(ylim=(len(cells) - 0.4, shown[0] - 0.6), xlim=(0, 1.18 * cells.max()), xticks=[])
    bars.set_title("cells by level (and about how wide)", loc="left", fontsize=11)
    bars.spines[["top", "right", "bottom"]].set_visible(False)

    fewest, most = int(counts.min()), int(counts.max())
    ticks = [step * 10**power for power in range(19) for step in (1, 2, 5) if fewest <= step * 10**power <= most]
    ticks = ticks if len(ticks) > 1 else sorted({fewest, most})
    bar = figure.add_axes((0.70, 4.95 / total, 0.30, 0.22 / total))
    _color_bar(bar, norm, colormap, "images in a cell", {tick: f"{tick:,}" for tick in ticks})
    save_figure(figure, path)


def draw_prediction(
    path: Path,
    image: np.ndarray,
    partition: Partition,
    likeliest: tuple[np.ndarray, np.ndarray],
    latlng: np.ndarray,
    half_radius_km: float,
    true_latlng: np.ndarray | None,
    title: str,
) -> None:
    """Draw an image (H, W, 3) uint8 RGB beside the world with the likeliest cells over it.

    `likeliest` are cells (K,) and their probabilities (K,), best first, of which some are numbered and listed. The
    prediction (2,) and the truth (2,), where known, are joined by their great circle. A second map shows the
    prediction's surroundings, with the circle of `half_radius_km` that holds half of the probability.
    """
    cells, probabilities = likeliest
    top = max(float(probabilities[0]), 1e-6)
    norm = LogNorm(top / 100, top)
    colormap = ListedColormap(colormaps["YlOrRd"](np.linspace(0.25, 1, 256)))  # its yellow would be lost on the land
    heat = np.flatnonzero(probabilities >= top / 100)[::-1]  # the likeliest on top
    rings, colors = _cell_rings(partition.ids[cells[heat]]), colormap(norm(probabilities[heat]))
    numbered = partition.latlng[cells[:_NUMBERED]]
    world = _world(np.stack([latlng] + ([] if true_latlng is None else [true_latlng])))
    wide, tall, across = 16.0, 10.3, 0.67  # inches, and the part of the width that the maps take
    upward = across * wide / tall * world.shape
    below = 1 - upward - 0.03
    near = _surroundings(latlng, true_latlng, half_radius_km, below * tall / (across * wide))

    figure = Figure(figsize=(wide, tall), dpi=DPI)
    figure.text(0, 1.005, _one_line(title), fontsize=15, va="bottom")
    left = figure.add_axes((0, 0.5, 0.31, 0.5), anchor="NW")
    left.imshow(image, interpolation="antialiased")
    left.set_axis_off()
    upper = figure.add_axes((1 - across, 1 - upward, across, upward))
    lower = figure.add_axes((1 - across, 0, across, below))
    circle = destination(latlng, np.linspace(0, 360, 181), min(half_radius_km, 0.499 * 360 * _DEGREE_KM))
    for axes, view, line in ((upper, world, 1.4), (lower, near, 0.6)):
        _draw_land(axes, view)
        _fill(axes, view, rings, colors, line, 0.8)
        if true_latlng is not None:
            _draw_line(axes, view, great_circle(true_latlng, latlng, 100), color=BLUE, linewidth=1.6)
        _draw_line(axes, view, circle, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
        _number(axes, view, numbered)
        _mark(axes, view, latlng, "X", _INK, 130)
        if true_latlng is not None:
            _mark(axes, view, true_latlng, "*", BLUE, 330)
    _frame(upper, near)
    _add_degrees(lower)

    half = f"half of the probability within {distance_text(half_radius_km)}"
    rows = [("✖", _INK, f"predicted {position_text(latlng)}"), ("", _INK, half)]
    if true_latlng is not None:
        far = distance_text(float(haversine_km(latlng, true_latlng)))
        rows += [("★", BLUE, f"truth {position_text(true_latlng)}"), ("", BLUE, f"{far} off")]
    for k, at in enumerate(numbered):
        rows.append((f"{k + 1}", _RED, f"{_percent(probabilities[k])}   {position_text(at)}"))
    for k, (sign, color, text) in enumerate(rows):
        y, style = 0.465 - 0.032 * k, dict[str, Any](color=color, fontsize=12, va="top")
        figure.text(0.01, y, sign, fontweight="bold", **style)
        figure.text(0.03, y, text, **style)
    ticks = {share: _percent(share) for share in (top / 100, top / 10, top)}
    _color_bar(
        figure.add_axes((0.01, 0.045, 0.26, 0.016)),
        norm,
        colormap,
        "probability of a cell, up to the highest here",
        ticks,
    )
    save_figure(figure, path)


def locator_map(true_latlng: np.ndarray, latlng: np.ndarray, width: int) -> np.ndarray:
    """A small map (H, W, 3) uint8 RGB, so many pixels wide: the truth a star, the prediction a cross, and the way.

    The map is the world's; of those near each other the surroundings.
    """
    view = _world(np.empty((0, 2)))
    height = round(width * view.shape)
    if haversine_km(true_latlng, latlng) <= _FARTHEST_KM:
        view = _surroundings(latlng, true_latlng, 900.0, height / width)
    elif min(true_latlng[0], latlng[0]) < view.south:
        view = view._replace(south=-90.0)  # squeezed, so that all maps are of one size
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_land(axes, view, 0.25)
    _draw_line(axes, view, great_circle(true_latlng, latlng, 100), color=BLUE, linewidth=1.2)
    _mark(axes, view, latlng, "X", ORANGE, 45)
    _mark(axes, view, true_latlng, "*", BLUE, 90)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_error_curve(path: Path, scores: Scores, split: str) -> None:
    """Plot the share of images within a distance, the five thresholds as lines with the share at each.

    Beside it are the curve of the own cell's point, which no cell's point but a luckier neighbour's can beat, and that
    of always predicting the most frequent cell.
    """
    figure = Figure(figsize=(10.5, 6), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    first, last = 0.3, np.pi * EARTH_RADIUS_KM
    for values, label, color, linestyle, width in (
        (scores.distance_km, "the predictions", BLUE, "-", 2.6),
        (scores.oracle_km, "if the cell were always right", "0.45", (0, (6, 2)), 1.5),
        (scores.baseline_km, "always the most frequent cell", ORANGE, (0, (1.5, 1.5)), 2.0),
    ):
        x = np.unique(np.concatenate([[first, last], values[(values > first) & (values < last)]]))
        y = np.searchsorted(np.sort(values), x, side="right") / max(1, len(values))
        axes.step(x, y, where="post", label=label, color=color, linestyle=linestyle, linewidth=width)
    axes.lines[0].set_zorder(4)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    for name, limit in zip(THRESHOLD_NAMES, THRESHOLDS_KM, strict=True):
        share = scores.figures[f"within_{limit}km"]
        axes.axvline(limit, color="0.75", linewidth=1, zorder=1)
        axes.text(limit, 1.03, f"{name}\n{limit:,} km", ha="center", va="bottom", fontsize=10, clip_on=False)
        axes.plot([limit], [share], "o", color=BLUE, markersize=7, zorder=5)
        style = dict[str, Any](ha="right", fontsize=11, color=BLUE, fontweight="bold", zorder=6, bbox=box)
        axes.annotate(f"{100 * share:.1f} %", (limit, share), (-7, 7), textcoords="offset points", **style)
    axes.set(xscale="log", xlim=(first, last), ylim=(0, 1.02), xlabel="distance between prediction and truth, km")
    axes.set_ylabel("share of images at most so far off")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", framealpha=1, edgecolor="white", fontsize=10)
    median = f", half of them within {distance_text(float(np.median(scores.distance_km)))}"
    heading = f"{split}: {count_of(len(scores.distance_km), 'image')}{median}"
    axes.set_title(heading, loc="left", fontsize=13, pad=44)
    save_figure(figure, path)


def draw_errors_map(path: Path, true_latlng: np.ndarray, latlng: np.ndarray, distance_km: np.ndarray) -> None:
    """Draw images (N, 2) where they were taken, coloured by how far off the predictions (N, 2) are.

    The farthest off are joined to their predictions by great circles.
    """
    view = _world(true_latlng)
    figure = Figure(figsize=(15, 15 * view.shape), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_land(axes, view)
    worst = np.argsort(-distance_km, kind="stable")[:_WORST]
    worst = worst[distance_km[worst] > THRESHOLDS_KM[-1]]
    for k in worst.tolist():
        _draw_line(axes, view, great_circle(true_latlng[k], latlng[k], 100), color=_BANDS[-1], linewidth=0.7, alpha=0.6)
        _mark(axes, view, latlng[k], "x", _BANDS[-1], 22)
    band = np.searchsorted(THRESHOLDS_KM, distance_km, side="left")  # at most the limit
    # in the order of the data: no band lies on top of all others
    dots: dict[str, Any] = {"s": float(np.clip(9000 / max(1, len(band)), 9, 40)), "c": np.array(_BANDS)[band].tolist()}
    axes.scatter(true_latlng[:, 1], true_latlng[:, 0], edgecolors="white", linewidths=0.4, zorder=6, **dots)
    names = [f"at most {limit:,} km" for limit in THRESHOLDS_KM] + [f"beyond {THRESHOLDS_KM[-1]:,} km"]
    for k, (name, color) in enumerate(zip(names, _BANDS, strict=True)):
        label = f"{name}: {(band == k).sum():,} ({100 * (band == k).mean():.1f} %)"
        axes.scatter([], [], s=45, color=color, edgecolors=_INK, linewidths=0.4, label=label)
    place = dict[str, Any](loc="upper left", bbox_to_anchor=(0, -0.01), ncols=3, alignment="left", borderpad=0)
    axes.legend(title="distance between prediction and truth", frameon=False, fontsize=11, **place)
    title = f"{count_of(len(true_latlng), 'image')} where they were taken"
    if len(worst):
        title += f"; lines lead from the {len(worst)} farthest off to the predictions (crosses)"
    axes.set_title(title, loc="left", fontsize=13)
    save_figure(figure, path)


def position_text(latlng: np.ndarray) -> str:
    """Degrees as people write them: "48.86° N, 2.35° E"."""
    latitude, longitude = np.asarray(latlng, float).round(2).tolist()
    return f"{_degrees(latitude, 'NS', '.2f')}, {_degrees((longitude + 180) % 360 - 180, 'EW', '.2f')}"


def _degrees(value: float, letters: str, form: str = "g") -> str:
    return f"{abs(round(value, 4)):{form}}° {letters[int(value < 0)]}"


def distance_text(kilometres: float) -> str:
    """So many kilometres as people write them: "27.1 km", "850 m"."""
    if kilometres < 1:
        return f"{1000 * kilometres:.0f} m"
    return f"{kilometres:,.1f} km" if kilometres < 100 else f"{kilometres:,.0f} km"


def cell_width_text(level: int) -> str:
    """About how wide a cell of a level is: the square root of its mean area."""
    return distance_text(float(np.sqrt(4 * np.pi / 6 / 4**level)) * EARTH_RADIUS_KM)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _one_line(title: str) -> str:
    return legible([title], "image", 110)[0]


def _world(latlng: np.ndarray) -> View:
    """The world; without the Antarctic where no position (N, 2) is in it."""
    south = -60.0 if latlng[:, 0].min(initial=0) > -58 else -90.0
    north = 84.0 if latlng[:, 0].max(initial=0) < 82 else 90.0
    return View(-180, south, 180, north)


def _densest(latlng: np.ndarray, height: int = 14, width: int = 34) -> View:
    """The part of the world, in degrees, that the most positions (N, 2) lie in, around their mean."""
    count = np.histogram2d(latlng[:, 0], latlng[:, 1], bins=[90, 180], range=[[-90, 90], [-180, 180]])[0]
    around = np.concatenate([count, count[:, : width // 2 - 1]], axis=1)  # across the antimeridian too
    inside = np.lib.stride_tricks.sliding_window_view(around, (height // 2, width // 2)).sum(axis=(2, 3))
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    south, west = 2.0 * int(row) - 90, 2.0 * int(column) - 180
    north, east = latlng[:, 0] - south, (latlng[:, 1] - west) % 360
    here = (north >= 0) & (north <= height) & (east <= width)
    south = float(np.clip(south + north[here].mean() - height / 2, -90, 90 - height))
    west = (west + float(east[here].mean()) - width / 2 + 180) % 360 - 180
    return View(west, south, west + width, south + height)


def _surroundings(latlng: np.ndarray, true_latlng: np.ndarray | None, half_radius_km: float, shape: float) -> View:
    """What is around a prediction: the circle with half of the probability, and the truth where it is not far."""
    middle, reach = np.asarray(latlng, float), 1.35 * half_radius_km
    if true_latlng is not None and (far := float(haversine_km(latlng, true_latlng))) <= _FARTHEST_KM:
        middle = great_circle(latlng, true_latlng, 3)[1]
        reach = max(reach, 0.75 * far, far / 2 + 1.2 * half_radius_km)
    half = float(np.clip(reach, 120, _FARTHEST_KM)) / _DEGREE_KM
    south = float(np.clip(middle[0] - half, -90, 90 - 2 * half))
    across = min(180.0, half / shape / max(0.1, float(np.cos(np.radians(middle[0])))))
    return View(float(middle[1] - across), south, float(middle[1] + across), south + 2 * half)


def _in_view(latlng: np.ndarray, view: View) -> np.ndarray:
    """Positions (N, 2) as x and y (N, 2), turned to lie in the view where that shows them."""
    x = view.west + (np.asarray(latlng)[..., 1] - view.west) % 360
    return np.stack([x, np.asarray(latlng)[..., 0]], axis=-1)


@functools.lru_cache
def _coast() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rings (n, 2) of land, longitude first, and the lines along them without the map's own edges."""
    with np.load(Path(__file__).with_name("coastline_110m.npz")) as file:
        degrees, starts = file["xy"] / 100, file["off"]
    rings, lines = np.split(degrees, starts[1:-1]), []
    for land in rings:
        a, b = land[:-1], land[1:]
        edge = ((np.abs(a) == 180) & (np.abs(b) == 180))[:, 0] | ((a[:, 1] <= -90) | (b[:, 1] <= -90))
        lines.append(np.stack([a, b], axis=1)[~edge])
    return rings, list(np.concatenate(lines))


@functools.lru_cache
def _coast_paths() -> tuple[list[Outline], Outline]:
    """The rings of land, and the lines along them as one path, made once for all maps."""
    rings, lines = _coast()
    codes = np.tile([Outline.MOVETO, Outline.LINETO], len(lines)).astype(Outline.code_type)
    return [Outline(ring) for ring in rings], Outline(np.concatenate(lines), codes)


def _draw_land(axes: Axes, view: View, line: float = 0.5, cased: bool = False) -> None:
    """Land, sea and, above the cells, faint borders; `cased` ones are seen on cells of any colour."""
    rings, lines = _coast_paths()
    axes.set_facecolor(_SEA)
    strokes = [("white", 0.75, 3.2 * line), (_INK, 1.0, 1.4 * line)] if cased else [(_INK, 0.35, line)]
    for turn in _TURNS:
        if -180 + turn >= view.east or 180 + turn <= view.west:
            continue
        place = Affine2D().translate(turn, 0) + axes.transData
        axes.add_collection(PathCollection(rings, color=_LAND, linewidths=0.3, transform=place), autolim=False)
        for color, alpha, width in strokes:
            # unsnapped, as a snapped straight line leaves its case
            style: dict[str, Any] = {"edgecolor": color, "alpha": alpha, "linewidth": width, "snap": False}
            axes.add_artist(PathPatch(lines, fill=False, zorder=4, transform=place, **style))
    axes.set(xlim=(view.west, view.east), ylim=(view.south, view.north), xticks=[], yticks=[])
    axes.spines[:].set(color="0.7", linewidth=0.8)


def _cell_rings(ids: np.ndarray) -> list[np.ndarray]:
    """Each cell as a ring (n, 2) of a flat map, as `flat_ring`; of small cells the corners, all at once."""
    latlng = s2.outlines(ids)  # (C, 4, 2)
    simple = (s2.levels(ids) >= 6) & (np.abs(latlng[..., 0]) < 89.9).all(axis=1)
    flat = np.stack([np.unwrap(latlng[..., 1], period=360, axis=1), latlng[..., 0]], axis=-1)
    flat[..., 0] -= 360 * np.floor((flat[..., :1].min(axis=1) + 180 + 1e-9) / 360)
    return [flat[k] if simple[k] else flat_ring(int(ids[k])) for k in range(len(ids))]


def _fill(
    axes: Axes, view: View, rings: list[np.ndarray], colors: np.ndarray, line: float, alpha: float, edge: Any = None
) -> None:
    """Fill rings with colours (C, 4), those across the antimeridian at both sides of the map."""
    least, most = (np.array([bound(one, axis=0) for one in rings]) for bound in (np.min, np.max))  # (C, 2)
    for turn in _TURNS:
        seen = (np.add(least, (turn, 0)) < view[2:]) & (np.add(most, (turn, 0)) > view[:2])
        chosen = np.flatnonzero(seen.all(axis=1))
        style: dict[str, Any] = {"linewidths": line, "alpha": alpha, "zorder": 3, "facecolors": colors[chosen]}
        shown = [np.add(rings[k], (turn, 0)) for k in chosen.tolist()]
        edges = colors[chosen] if edge is None else edge
        axes.add_collection(PolyCollection(shown, edgecolors=edges, **style), autolim=False)


def _draw_line(axes: Axes, view: View, latlng: np.ndarray, **style: Any) -> None:
    """A line through positions (n, 2) that are near each other, whole wherever the map is cut."""
    x = np.unwrap(latlng[:, 1], period=360)
    for turn in (-720, *_TURNS, 720):
        if x.min() + turn < view.east and x.max() + turn > view.west:
            axes.plot(x + turn, latlng[:, 0], scalex=False, scaley=False, zorder=5, **style)


def _mark(axes: Axes, view: View, latlng: np.ndarray, marker: str, color: str, size: float) -> None:
    x, y = _in_view(latlng, view)
    white: dict[str, Any] = {} if marker == "x" else {"edgecolors": "white", "linewidths": 1.1}
    axes.scatter(x, y, marker=marker, s=size, color=color, zorder=8, **white)


def _number(axes: Axes, view: View, latlng: np.ndarray) -> None:
    """Number the positions (n, 2); one that a better one's number would cover is left out."""
    x, y = _in_view(latlng, view).T
    axes.scatter(x, y, s=14, color=_RED, zorder=7)
    shown: list[np.ndarray] = []
    box = {"boxstyle": "circle,pad=0.2", "facecolor": _RED, "edgecolor": "white", "linewidth": 0.8}
    arrow = {"arrowstyle": "-", "color": _RED, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "fontweight": "bold", "color": "white"}
    for rank, at in enumerate(_in_view(latlng, view), 1):
        share = (at - (view.west, view.south)) / (view.east - view.west, view.north - view.south)
        if ((share >= 0) & (share <= 1)).all() and not any((np.abs(share - s) < (0.018, 0.04)).all() for s in shown):
            shown.append(share)
            style |= {"textcoords": "offset points", "zorder": 9, "bbox": box, "arrowprops": arrow}
            axes.annotate(f"{rank}", at, (13, 13), **style)


def _frame(axes: Axes, view: View) -> None:
    """Outline what a second map shows."""
    x = np.array([view.west, view.east, view.east, view.west, view.west])
    y = [view.south, view.south, view.north, view.north, view.south]
    for turn in _TURNS:
        for color, width in (("white", 3.6), (_INK, 1.6)):  # on cells of any colour
            axes.plot(x + turn, y, color=color, linewidth=width, zorder=6, scalex=False, scaley=False)


def _add_degrees(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: _degrees((value + 180) % 360 - 180, "EW"))
    axes.yaxis.set_major_formatter(lambda value, _: _degrees(value, "NS"))
    axes.tick_params(labelsize=9, colors="0.35", length=3)


def _color_bar(axes: Axes, norm: Any, colormap: Any, title: str, ticks: dict[float, str]) -> None:
    scale = axes.figure.colorbar(ScalarMappable(norm, colormap), cax=axes, orientation="horizontal")
    scale.set_ticks(list(ticks), labels=list(ticks.values()))
    axes.set_title(title, loc="left", fontsize=11)
    axes.minorticks_off()
