"""World maps without network: cells, what a net says of a photograph, how far off it is, and where.

Maps are equirectangular. Land and borders are Natural Earth's at 1:110 million (public domain, with thanks to
https://www.naturalearthdata.com), in `coastline_110m.npz`: 10,654 points `xy` in hundredths of a degree, longitude
first, in rings that begin at `off`. Colours are told apart with every form of colour blindness; the same input gives
the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition
from tasks.geolocalization.geojson import flat_ring
from tasks.geolocalization.metrics import THRESHOLDS_KM
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, great_circle, haversine_km, ring
from tasks.reporting import BLUE, DPI, ORANGE, count_of, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLD_NAMES = ("street", "city", "region", "country", "continent")  # of THRESHOLDS_KM, by Im2GPS's successors

_LAND, _SEA, _INK = "#dcdcd6", "#f6f8fa", "#303030"
_DEGREE_KM = np.pi * EARTH_RADIUS_KM / 180
_RED = "#8b1a1a"  # of the numbered places
_FEW_POINTS = 1500  # cells up to which their points are drawn
_FARTHEST_KM = 3000.0  # that a zoomed map reaches from its middle
_WORST = 25  # photographs joined to their answers on the map of errors
_NUMBERED = 5
_LINE_POINTS = 100  # of a great circle
_BAND_COLORS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725", "#d55e00")  # viridis, and beyond it vermillion


class View(NamedTuple):
    """What a map shows, in degrees. East may be beyond 180 or west beyond -180, where it crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float


# ----------------------------------------------------------------------------------------------------------- pictures


def draw_partition(path: Path, partition: Partition, title: str) -> None:
    """Draw the cells by their number of photographs: the world, the region with the most cells, cells by level.

    Where cells are few their points are dots.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    rings = _cell_rings(partition.ids)
    levels = s2.levels(partition.ids)
    world = _world(partition.latlng[levels > 2])  # the mean of three continents may be at the pole that is between
    dense = _densest(s2.centres(partition.ids))
    norm = LogNorm(partition.counts.min(), max(partition.counts.max(), partition.counts.min() + 1))
    colormap = colormaps["viridis_r"]
    colors = colormap(norm(partition.counts))
    points = partition.latlng if len(partition) <= _FEW_POINTS else np.empty((0, 2))

    width = 15.0  # inches
    height = width * _shape(world)
    figure = Figure(figsize=(width, height + 6.2), dpi=DPI, facecolor="white")
    total = height + 6.2
    kept = 100 * partition.counts.sum() / max(1, partition.total)
    figure.text(0, 1, _drawable(title), fontsize=15, va="bottom", parse_math=False)
    said = f"{count_of(len(partition), 'cell')} with {kept:.1f} % of {count_of(partition.total, 'photograph')}"
    upper = figure.add_axes((0, 1 - height / total - 0.3 / total, 1, height / total))
    lower = figure.add_axes((0, 0, 0.66, 5.4 / total))
    order = np.argsort(levels, kind="stable")  # small cells on top
    ordered = [rings[k] for k in order]
    for axes, view in ((upper, world), (lower, dense)):
        _draw_land(axes, view, cased=True)
        if axes is lower:
            _fill(axes, view, ordered, colors[order], 0.35, 0.85, edge="white")
        else:
            # A cell below a pixel would fade out, and what is below shine through between two: lines as opaque as they
            _fill(axes, view, ordered, colors[order], 0.6, 1.0)
        if len(points):
            x, y = _in_view(points, view).T
            axes.scatter(x, y, s=3 if axes is upper else 7, color=_INK, linewidths=0, zorder=5)
    upper.set_title(said + "; dots: where a cell's photographs are" * bool(len(points)), loc="left", fontsize=11)
    _frame(upper, dense)
    lower.set_title("where cells are densest (the frame above)", loc="left", fontsize=11)
    _add_degrees(lower, dense)

    bars = figure.add_axes((0.74, 0, 0.26, 3.9 / total))
    number = np.bincount(levels)
    shown = np.arange(np.flatnonzero(number)[0], len(number))
    bars.barh(shown, number[shown], color=BLUE, height=0.75)
    for level in shown.tolist():
        bars.annotate(
            f"{number[level]:,}", (number[level], level), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    side = [f"{level}  ({cell_width_text(level)})" for level in shown.tolist()]
    bars.set_yticks(shown, side, fontsize=9)
    bars.set(ylim=(len(number) - 0.4, shown[0] - 0.6), xlim=(0, 1.18 * number.max()), xticks=[])
    bars.tick_params(length=0)
    bars.set_title("cells by level (and about how wide)", loc="left", fontsize=11)
    bars.spines[["top", "right", "bottom"]].set_visible(False)

    bar = figure.add_axes((0.70, 4.95 / total, 0.30, 0.22 / total))
    scale = figure.colorbar(ScalarMappable(norm, colormap), cax=bar, orientation="horizontal")
    scale.ax.set_title("photographs in a cell", loc="left", fontsize=11)
    fewest, most = int(partition.counts.min()), int(partition.counts.max())
    steps = [step * 10**power for power in range(19) for step in (1, 2, 5) if fewest <= step * 10**power <= most]
    steps = steps if len(steps) > 1 else sorted({fewest, most})
    scale.set_ticks(steps, labels=[f"{step:,}" for step in steps])
    scale.ax.minorticks_off()
    save_figure(figure, path)


def draw_prediction(
    path: Path,
    photograph: np.ndarray,
    partition: Partition,
    probabilities: np.ndarray,
    answer_latlng: np.ndarray,
    half_radius_km: float,
    true_latlng: np.ndarray | None,
    title: str,
) -> None:
    """Draw a photograph (H, W, 3) uint8 RGB beside the world with the probabilities (C,) of the cells over it.

    The best places are numbered and listed; the answer (2,) and the truth (2,), where known, are joined by their great
    circle. A second map shows the answer's surroundings, with the circle of `half_radius_km` that holds half of the
    probability.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure

    best = np.argsort(-probabilities, kind="stable")
    top = max(float(probabilities[best[0]]), 1e-6)
    norm = LogNorm(top / 100, top)
    heat = best[probabilities[best] >= top / 100][::-1]  # the likeliest on top
    colormap = ListedColormap(colormaps["YlOrRd"](np.linspace(0.25, 1, 256)))  # its yellow would be lost on the land
    colors = colormap(norm(probabilities[heat]))
    rings = _cell_rings(partition.ids[heat])
    places = partition.latlng[best[:_NUMBERED]]
    ends = [answer_latlng] + ([] if true_latlng is None else [true_latlng])
    world = _world(np.stack(ends))
    wide, tall = 16.0, 10.3  # inches
    across, upward = 0.67, 0.67 * wide / tall * _shape(world)  # of the figure, that the world takes
    below = 1 - upward - 0.03
    near = _surroundings(answer_latlng, true_latlng, half_radius_km, below * tall / (across * wide))

    figure = Figure(figsize=(wide, tall), dpi=DPI, facecolor="white")
    figure.text(0, 1.005, _drawable(title), fontsize=15, va="bottom", parse_math=False)
    left = figure.add_axes((0, 0.5, 0.31, 0.5))
    left.imshow(photograph, interpolation="antialiased")
    left.set_anchor("NW")
    left.set_axis_off()
    upper = figure.add_axes((1 - across, 1 - upward, across, upward))
    lower = figure.add_axes((1 - across, 0, across, below))
    for axes, view, line in ((upper, world, 1.4), (lower, near, 0.6)):
        _draw_land(axes, view)
        _fill(axes, view, rings, colors, line, 0.8)
        if true_latlng is not None:
            _draw_way(axes, view, true_latlng, answer_latlng, color=BLUE, linewidth=1.6)
        _draw_line(
            axes,
            view,
            ring(answer_latlng, min(half_radius_km, 0.499 * 360 * _DEGREE_KM), 181),
            color=_INK,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
        )
        _number(axes, view, places)
        _mark(axes, view, answer_latlng, "X", _INK, 130)
        if true_latlng is not None:
            _mark(axes, view, true_latlng, "*", BLUE, 330)
    _frame(upper, near)
    _add_degrees(lower, near)
    _add_scale(lower, near)
    _write_answer(figure, places, probabilities[best[:_NUMBERED]], answer_latlng, half_radius_km, true_latlng)
    bar = figure.add_axes((0.01, 0.045, 0.26, 0.016))
    scale = figure.colorbar(ScalarMappable(norm, colormap), cax=bar, orientation="horizontal")
    scale.ax.set_title("probability of a cell", loc="left", fontsize=10)
    scale.set_ticks([top / 100, top / 10, top], labels=[_percent(top / 100), _percent(top / 10), _percent(top)])
    scale.ax.minorticks_off()
    save_figure(figure, path)


def locator_map(true_latlng: np.ndarray, answer_latlng: np.ndarray, width: int) -> np.ndarray:
    """A small map (H, W, 3) uint8 RGB, so many pixels wide: the truth a star, the answer a cross, and the way.

    The world's; of those near each other the surroundings.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    view = _world(np.empty((0, 2)))
    height = round(width * _shape(view))
    if haversine_km(true_latlng, answer_latlng) <= _FARTHEST_KM:
        view = _surroundings(answer_latlng, true_latlng, 900.0, height / width)
    elif min(true_latlng[0], answer_latlng[0]) < view.south:
        view = view._replace(south=-90.0)  # squeezed, so that all maps are of one size
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_land(axes, view, 0.25)
    _draw_way(axes, view, true_latlng, answer_latlng, color=BLUE, linewidth=1.2)
    _mark(axes, view, answer_latlng, "X", ORANGE, 45)
    _mark(axes, view, true_latlng, "*", BLUE, 90)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def error_curve(distance_km: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (M,) that occur, rising, and the share (M,) of all photographs (N,) at most so far away."""
    kilometres, count = np.unique(distance_km, return_counts=True)
    return kilometres, count.cumsum() / max(1, len(distance_km))


def draw_error_curve(
    path: Path, distance_km: np.ndarray, oracle_km: np.ndarray, baseline_km: np.ndarray | None, split: str
) -> None:
    """Plot the share of photographs (N,) within a distance, the five thresholds as lines with the share at each.

    Beside it the curve of the own cell's point, which no cell's point but a luckier neighbour's can beat, and that of
    always answering the most frequent cell.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    first, last = 0.3, np.pi * EARTH_RADIUS_KM
    curves: list[tuple[np.ndarray, str, Any]] = [
        (oracle_km, "if the cell were always right", {"color": "0.45", "linestyle": (0, (6, 2)), "linewidth": 1.5}),
        (distance_km, "the answers", {"color": BLUE, "linewidth": 2.6, "zorder": 4}),
    ]
    if baseline_km is not None:
        style = {"color": ORANGE, "linestyle": (0, (1.5, 1.5)), "linewidth": 2}
        curves.append((baseline_km, "always the most frequent cell", style))
    for values, label, style in curves:
        kilometres, shares = error_curve(values)
        start = float((values <= first).sum()) / max(1, len(values))
        beyond = (kilometres > first) & (kilometres < last)
        x = [first, *kilometres[beyond], last]
        y = [start, *shares[beyond], float(np.isfinite(values).sum()) / max(1, len(values))]
        axes.step(x, y, where="post", label=label, **style)
    for name, limit in zip(THRESHOLD_NAMES, THRESHOLDS_KM, strict=True):
        share = float((distance_km <= limit).sum()) / max(1, len(distance_km))
        axes.axvline(limit, color="0.75", linewidth=1, zorder=1)
        axes.text(limit, 1.03, f"{name}\n{limit:,} km", ha="center", va="bottom", fontsize=10, clip_on=False)
        if len(distance_km):
            axes.plot([limit], [share], "o", color=BLUE, markersize=7, zorder=5)
            axes.annotate(
                f"{100 * share:.1f} %",
                (limit, share),
                (-7, 7),
                textcoords="offset points",
                ha="right",
                fontsize=11,
                color=BLUE,
                fontweight="bold",
                zorder=6,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
            )
    axes.set(xscale="log", xlim=(first, last), ylim=(0, 1.02), xlabel="distance between answer and truth, km")
    axes.set_ylabel("share of photographs at most so far off")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    order = [1, 0, *range(2, len(handles))]  # the answers first, though drawn over the others
    axes.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        loc="upper left",
        framealpha=1,
        edgecolor="white",
        fontsize=10,
    )
    median = f", half of them within {distance_text(float(np.median(distance_km)))}" if len(distance_km) else ""
    heading = f"{split}: {count_of(len(distance_km), 'photograph')}{median}"
    axes.set_title(heading, loc="left", fontsize=13, pad=44, parse_math=False)
    save_figure(figure, path)


def draw_errors_map(path: Path, true_latlng: np.ndarray, answer_latlng: np.ndarray, distance_km: np.ndarray) -> None:
    """Draw photographs (N, 2) where they were taken, coloured by how far off the answers (N, 2) are.

    The farthest off are joined to their answers by great circles.
    """
    from matplotlib.figure import Figure

    view = _world(true_latlng)
    figure = Figure(figsize=(15, 15 * _shape(view)), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_land(axes, view)
    worst = np.argsort(-distance_km, kind="stable")[:_WORST]
    worst = worst[distance_km[worst] > THRESHOLDS_KM[-1]]
    for k in worst.tolist():
        _draw_way(axes, view, true_latlng[k], answer_latlng[k], color=_BAND_COLORS[-1], linewidth=0.7, alpha=0.6)
        _mark(axes, view, answer_latlng[k], "x", _BAND_COLORS[-1], 22)
    band = np.searchsorted(THRESHOLDS_KM, distance_km, side="left")  # at most the limit
    size = float(np.clip(9000 / max(1, len(band)), 9, 40))
    names = [f"at most {limit:,} km" for limit in THRESHOLDS_KM] + [f"beyond {THRESHOLDS_KM[-1]:,} km"]
    handles = []
    for k, (name, color) in enumerate(zip(names, _BAND_COLORS, strict=True)):
        chosen = band == k
        count = f"{name}: {chosen.sum():,}" + f" ({100 * chosen.sum() / max(1, len(band)):.1f} %)"
        handles.append(axes.scatter([], [], s=45, color=color, edgecolors=_INK, linewidths=0.4, label=count))
    # in the order of the data: no band lies on top of all others
    axes.scatter(
        true_latlng[:, 1],
        true_latlng[:, 0],
        s=size,
        c=[_BAND_COLORS[k] for k in band.tolist()],
        edgecolors="white",
        linewidths=0.4,
        zorder=6,
    )
    axes.legend(
        handles=handles,
        title="distance between answer and truth",
        loc="upper left",
        bbox_to_anchor=(0, -0.01),
        ncols=3,
        frameon=False,
        fontsize=11,
        alignment="left",
        borderpad=0,
    )
    title = f"{count_of(len(true_latlng), 'photograph')} where they were taken"
    if len(worst):
        title += f"; lines lead from the {len(worst)} farthest off to the answers (crosses)"
    axes.set_title(title, loc="left", fontsize=13)
    save_figure(figure, path)


def place(latlng: np.ndarray) -> str:
    """Degrees as people write them: "48.86° N, 2.35° E"."""
    latitude, longitude = np.asarray(latlng, float).round(2).tolist()
    east = (longitude + 180) % 360 - 180
    return f"{abs(latitude):.2f}° {'N' if latitude >= 0 else 'S'}, {abs(east):.2f}° {'E' if east >= 0 else 'W'}"


# -------------------------------------------------------------------------------------------------------------- views


def _world(latlng: np.ndarray) -> View:
    """The world; without the Antarctic where no place (N, 2) is in it."""
    south = -60.0 if not len(latlng) or latlng[:, 0].min() > -58 else -90.0
    north = 84.0 if not len(latlng) or latlng[:, 0].max() < 82 else 90.0
    return View(-180, south, 180, north)


def _shape(view: View) -> float:
    """Height by width, where a degree is as long either way."""
    return (view.north - view.south) / (view.east - view.west)


def _densest(latlng: np.ndarray, height: int = 14, width: int = 34) -> View:
    """The part of the world, in degrees, that the most places (N, 2) lie in, moved until their mean is its middle."""
    rows, columns = (np.clip((latlng + np.array([90, 180])) // 2, 0, (89, 179))).astype(int).T
    count = np.zeros((90, 180), int)
    np.add.at(count, (rows, columns), 1)
    tall, wide = height // 2, width // 2
    around = np.concatenate([count, count[:, : wide - 1]], axis=1)  # across the antimeridian too
    inside = np.lib.stride_tricks.sliding_window_view(around, (tall, wide)).sum(axis=(2, 3))
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    south, west = 2.0 * int(row) - 90, 2.0 * int(column) - 180
    for _ in range(10):  # mean shift: each turn a denser part, and soon the same
        north, east = latlng[:, 0] - south, (latlng[:, 1] - west) % 360
        here = (north >= 0) & (north <= height) & (east <= width)
        south = float(np.clip(south + north[here].mean() - height / 2, -90, 90 - height))
        west += float(east[here].mean()) - width / 2
    west = (west + 180) % 360 - 180
    return View(west, south, west + width, south + height)


def _surroundings(
    answer_latlng: np.ndarray, true_latlng: np.ndarray | None, half_radius_km: float, shape: float
) -> View:
    """What is around an answer: the circle that holds half of the probability, and the truth where it is not far."""
    middle, reach = np.asarray(answer_latlng, float), 1.35 * half_radius_km
    if true_latlng is not None and (far := float(haversine_km(answer_latlng, true_latlng))) <= _FARTHEST_KM:
        middle = great_circle(answer_latlng, true_latlng, 3)[1]
        reach = max(reach, 0.75 * far, far / 2 + 1.2 * half_radius_km)
    half = float(np.clip(reach, 120, _FARTHEST_KM)) / _DEGREE_KM
    south = float(np.clip(middle[0] - half, -90, 90 - 2 * half))
    across = min(180.0, half / shape / max(0.1, float(np.cos(np.radians(middle[0])))))
    return View(float(middle[1] - across), south, float(middle[1] + across), south + 2 * half)


def _offsets(view: View) -> list[int]:
    """By how much longitudes are turned to be seen."""
    return [turn for turn in (-360, 0, 360) if -180 + turn < view.east and 180 + turn > view.west]


def _turned(lines: np.ndarray, degrees: float) -> np.ndarray:
    """Lines (..., 2), longitude first, so many degrees farther east."""
    return lines + np.array([degrees, 0.0])


def _in_view(latlng: np.ndarray, view: View) -> np.ndarray:
    """Places (N, 2) as x and y (N, 2), turned to lie in the view where that shows the place."""
    x = view.west + (np.asarray(latlng)[..., 1] - view.west) % 360
    return np.stack([x, np.asarray(latlng)[..., 0]], axis=-1)


# ------------------------------------------------------------------------------------------------------------ drawing


@functools.lru_cache
def _coast() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rings (n, 2) of land, longitude first, and the lines along them without the map's own edges."""
    with np.load(Path(__file__).with_name("coastline_110m.npz")) as file:
        degrees, starts = file["xy"] / 100, file["off"]
    rings = np.split(degrees, starts[1:-1])
    lines = []
    for land in rings:
        a, b = land[:-1], land[1:]
        edge = ((np.abs(a) == 180) & (np.abs(b) == 180))[:, 0] | ((a[:, 1] <= -90) | (b[:, 1] <= -90))
        lines.append(np.stack([a, b], axis=1)[~edge])
    return rings, list(np.concatenate(lines))


def _draw_land(axes: Axes, view: View, line: float = 0.5, cased: bool = False) -> None:
    """Land, sea and, above the cells, faint borders; `cased` ones are seen on cells of any colour."""
    from matplotlib.collections import LineCollection, PolyCollection

    rings, lines = _coast()
    axes.set_facecolor(_SEA)
    for turn in _offsets(view):
        land = [_turned(one, turn) for one in rings]
        axes.add_collection(
            PolyCollection(land, facecolors=_LAND, edgecolors=_LAND, linewidths=0.3, zorder=1), autolim=False
        )
        borders = [_turned(one, turn) for one in lines]
        strokes = [("white", 0.75, 3.2 * line), (_INK, 1.0, 1.4 * line)] if cased else [(_INK, 0.35, line)]
        for color, alpha, width in strokes:
            # unsnapped, as a snapped straight line leaves its case
            over = LineCollection(borders, colors=color, alpha=alpha, linewidths=width, zorder=4, snap=False)
            axes.add_collection(over, autolim=False)
    axes.set(xlim=(view.west, view.east), ylim=(view.south, view.north), xticks=[], yticks=[])
    axes.set_aspect("auto")  # the axes are made in the view's shape
    axes.spines[:].set(color="0.7", linewidth=0.8)


def _cell_rings(ids: np.ndarray) -> list[np.ndarray]:
    """Each cell as a ring (n, 2) of a flat map, as `flat_ring`; of small cells the corners, all at once."""
    latlng = s2.corners(ids)  # (C, 4, 2)
    simple = (s2.levels(ids) >= 6) & (np.abs(latlng[..., 0]) < 89.9).all(axis=1)
    flat = np.stack([np.unwrap(latlng[..., 1], period=360, axis=1), latlng[..., 0]], axis=-1)
    flat[..., 0] -= 360 * np.floor((flat[..., :1].min(axis=1) + 180 + 1e-9) / 360)
    return [flat[k] if simple[k] else flat_ring(int(ids[k])) for k in range(len(ids))]


def _fill(
    axes: Axes,
    view: View,
    rings: Sequence[np.ndarray],
    colors: np.ndarray,
    line: float,
    alpha: float,
    edge: str | None = None,
) -> None:
    """Fill rings with colours (C, 4), those across the antimeridian at both sides of the map."""
    from matplotlib.collections import PolyCollection

    if not rings:
        return
    west, east = (np.array([bound(one[:, 0]) for one in rings]) for bound in (np.min, np.max))
    south, north = (np.array([bound(one[:, 1]) for one in rings]) for bound in (np.min, np.max))
    for turn in (-360, 0, 360):
        seen = (west + turn < view.east) & (east + turn > view.west) & (south < view.north) & (north > view.south)
        chosen = np.flatnonzero(seen)
        if len(chosen):
            shown = [_turned(rings[k], turn) for k in chosen.tolist()]
            style: dict[str, Any] = {"linewidths": line, "alpha": alpha, "zorder": 3}
            edges = colors[chosen] if edge is None else edge
            axes.add_collection(
                PolyCollection(shown, facecolors=colors[chosen], edgecolors=edges, **style), autolim=False
            )


def _draw_line(axes: Axes, view: View, latlng: np.ndarray, **style: Any) -> None:
    """A line through places (n, 2) that are near each other, whole wherever the map is cut."""
    x = np.unwrap(latlng[:, 1], period=360)
    for turn in (-720, -360, 0, 360, 720):
        if x.min() + turn < view.east and x.max() + turn > view.west:
            axes.plot(x + turn, latlng[:, 0], scalex=False, scaley=False, **{"zorder": 5, **style})


def _draw_way(axes: Axes, view: View, a_latlng: np.ndarray, b_latlng: np.ndarray, **style: Any) -> None:
    _draw_line(axes, view, great_circle(a_latlng, b_latlng, _LINE_POINTS), **style)


def _mark(axes: Axes, view: View, latlng: np.ndarray, marker: str, color: str, size: float) -> None:
    x, y = _in_view(latlng, view)
    white: dict[str, Any] = {} if marker == "x" else {"edgecolors": "white", "linewidths": 1.1}
    axes.scatter([x], [y], marker=marker, s=size, color=color, zorder=8, **white)


def _number(axes: Axes, view: View, latlng: np.ndarray) -> None:
    """Number the places (n, 2); one that a better one's number would cover is left out."""
    x, y = _in_view(latlng, view).T
    axes.scatter(x, y, s=14, color=_RED, zorder=7)
    shown: list[np.ndarray] = []
    size = np.array([view.east - view.west, view.north - view.south])
    for rank, at in enumerate(_in_view(latlng, view), 1):
        share = (at - (view.west, view.south)) / size
        if not ((share >= 0) & (share <= 1)).all() or any((np.abs(share - one) < (0.018, 0.04)).all() for one in shown):
            continue
        shown.append(share)
        axes.annotate(
            f"{rank}",
            at,
            (13, 13),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10,
            fontweight="bold",
            color="white",
            zorder=9,
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": _RED, "edgecolor": "white", "linewidth": 0.8},
            arrowprops={"arrowstyle": "-", "color": _RED, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
        )


def _frame(axes: Axes, view: View) -> None:
    """Outline what a second map shows."""
    for turn in (-360, 0, 360):
        if view.west + turn < 180 and view.east + turn > -180:
            x = np.array([view.west, view.east, view.east, view.west, view.west]) + turn
            y = [view.south, view.south, view.north, view.north, view.south]
            for color, width in (("white", 3.6), (_INK, 1.6)):  # on cells of any colour
                axes.plot(x, y, color=color, linewidth=width, zorder=6, scalex=False, scaley=False)


def _add_degrees(axes: Axes, view: View) -> None:
    from matplotlib.ticker import MaxNLocator

    def named(value: float, positive: str, negative: str) -> str:
        return f"{abs(round(value, 4)):g}° {positive if value > 0 else negative if value < 0 else ''}".rstrip()

    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: named((value + 180) % 360 - 180, "E", "W"))
    axes.yaxis.set_major_formatter(lambda value, _: named(value, "N", "S"))
    axes.tick_params(labelsize=9, colors="0.35", length=3)
    axes.set(xlim=(view.west, view.east), ylim=(view.south, view.north))


def _add_scale(axes: Axes, view: View) -> None:
    """A ruler in the lower left corner, right at the height it lies at."""
    height = view.north - view.south
    y = view.south + 0.06 * height
    degree = _DEGREE_KM * max(0.01, float(np.cos(np.radians(y))))
    most = 0.22 * (view.east - view.west) * degree
    length = max(step * 10.0**power for power in range(-1, 5) for step in (1, 2, 5) if step * 10.0**power <= most)
    x = view.west + 0.02 * (view.east - view.west)
    axes.plot([x, x + length / degree], [y, y], color=_INK, linewidth=3, solid_capstyle="butt", zorder=10)
    axes.text(x, y + 0.02 * height, f"{length:,g} km", fontsize=10, zorder=10)


def _write_answer(
    figure: Any,
    places: np.ndarray,
    probabilities: np.ndarray,
    answer_latlng: np.ndarray,
    half_radius_km: float,
    true_latlng: np.ndarray | None,
) -> None:
    """The text under the photograph."""
    text: dict[str, Any] = {"fontsize": 12, "va": "top", "parse_math": False}
    y = 0.465
    rows = [
        ("✖", _INK, f"answer {place(answer_latlng)}"),
        ("", _INK, f"half of the probability within {distance_text(half_radius_km)}"),
    ]
    if true_latlng is not None:
        far = distance_text(float(haversine_km(answer_latlng, true_latlng)))
        rows += [("★", BLUE, f"truth {place(true_latlng)}"), ("", BLUE, f"{far} off")]
    rows += [("", _INK, "")]
    for k, (at, chance) in enumerate(zip(places, probabilities.tolist(), strict=True), 1):
        rows.append((f"{k}", _RED, f"{_percent(chance)}   {place(at)}"))
    for sign, color, line in rows:
        figure.text(0.01, y, sign, color=color, fontweight="bold", **text)
        figure.text(0.03, y, line, color=color, **text)
        y -= 0.032 if line else 0.016


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def distance_text(kilometres: float) -> str:
    """So many kilometres as people write them: "27.1 km", "850 m", "0.9 cm"."""
    if kilometres < 0.002:
        return f"{100_000 * kilometres:.3g} cm" if kilometres else "0 m"
    if kilometres < 1:
        return f"{1000 * kilometres:.0f} m"
    return f"{kilometres:,.1f} km" if kilometres < 100 else f"{kilometres:,.0f} km"


def cell_width_text(level: int) -> str:
    """About how wide a cell of a level is: the square root of its mean area."""
    return distance_text(float(np.sqrt(4 * np.pi / 6 / 4**level)) * EARTH_RADIUS_KM)


def _drawable(title: str) -> str:
    """In one line, not too long, and with a question mark for each letter that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    line = "".join(letter if ord(letter) in known else "?" for letter in " ".join(title.split()))
    return line if len(line) <= 110 else f"{line[:54]}…{line[-55:]}"
