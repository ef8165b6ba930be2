"""What grows in the sample of places: which plants a biome has, and how they are drawn."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw

from data.samples.places.perspective import Colour, View, mixed, scaled
from data.samples.places.street import cast


class Biome(NamedTuple):
    """What grows."""

    plants: tuple[str, ...]  # names of PLANTS, frequent ones twice
    density: float  # 0 to 1
    cover: float  # the share of the ground that is grass
    straw: float  # how dry the grass is, 0 to 1
    cold: float  # the chance of snow in midwinter


BIOMES = {
    "tropical": Biome(("palm", "palm", "banana", "broadleaf"), 0.9, 0.65, 0.0, 0.0),
    "savanna": Biome(("acacia", "acacia", "palm"), 0.45, 0.5, 0.7, 0.0),
    "desert": Biome(("cactus", "shrub"), 0.25, 0.12, 0.6, 0.0),
    "steppe": Biome(("poplar", "shrub"), 0.3, 0.48, 0.6, 0.3),
    "mediterranean": Biome(("cypress", "pine", "olive"), 0.6, 0.45, 0.4, 0.0),
    "subtropical": Biome(("broadleaf", "pine", "palm", "bamboo"), 0.8, 0.6, 0.1, 0.0),
    "oceanic": Biome(("broadleaf", "broadleaf", "conifer"), 0.7, 0.7, 0.0, 0.05),
    "continental": Biome(("broadleaf", "birch", "poplar"), 0.7, 0.6, 0.15, 0.5),
    "boreal": Biome(("conifer", "conifer", "birch"), 0.95, 0.55, 0.1, 0.8),
    "highland": Biome(("shrub", "poplar"), 0.35, 0.48, 0.4, 0.0),
    "tundra": Biome(("shrub",), 0.15, 0.48, 0.3, 0.9),
}


def plants_of(biome: str, region: str, longitude: float) -> tuple[str, ...]:
    """The names of what grows there: cacti in the Americas only, and gum trees in Australia only."""
    plants = BIOMES[biome].plants
    if "cactus" in plants and longitude > -30:
        plants = ("palm", "shrub")
    return ("gum", *plants) if "Australia" in region else plants


def plant(
    view: View, rng: np.random.Generator, kind: str, t: float, s: float, size: float, leaf: Colour, snow: bool
) -> None:
    """A tree, or what stands for one, `t` across and `s` along, of so many times the usual size."""
    draw, high, wide = PLANTS[kind]
    foot, own = view.foot(t, s), rng.spawn(1)[0]
    if foot is None:
        return
    x, y, scale, z = foot
    cast(view, t, s, high * size, wide * size)
    light = 0.8 + 0.2 * view.direct

    def paint(colour: Colour, bright: float = 1.0) -> tuple[int, int, int]:
        return view.hazy(scaled(colour, bright * light), z)

    if snow:
        leaf = mixed(leaf, (230, 236, 244), 0.3)
    one = _Plant(view.pen, own, paint, leaf, x, y, high * size * scale, wide * size * scale)
    view.later(t, s, lambda: draw(one))


class _Plant(NamedTuple):
    """What is wanted to draw one, in px of the canvas."""

    pen: ImageDraw.ImageDraw
    rng: np.random.Generator
    paint: Callable[..., tuple[int, int, int]]  # a colour as it looks from there, in so much light
    leaf: Colour
    x: float  # of its foot, as y
    y: float
    high: float
    wide: float  # to each side


_BARK, _BIRCH, _GUM, _PINE, _PALM = (92, 70, 52), (224, 222, 214), (206, 190, 170), (120, 78, 56), (136, 112, 84)


def _stem(one: _Plant, colour: Colour, thick: float, *points: tuple[float, float]) -> tuple[float, float]:
    """A line from the foot through points, x in widths and y in heights of the plant; where it ends, in px."""
    line = [(one.x + a * one.wide, one.y - b * one.high) for a, b in ((0.0, 0.0), *points)]
    one.pen.line(line, fill=one.paint(colour), width=max(int(thick * one.high), 1), joint="curve")
    return line[-1]


def _crown(one: _Plant, x: float, y: float, wide: float, high: float, tufts: int, leaf: Colour) -> None:
    """Tufts of leaves in an ellipse about (x, y), px: darker ones below, brighter ones above."""
    for bright, lift in ((0.7, 0.18), (0.88, 0.0), (1.1, -0.22)):
        for angle in one.rng.uniform(0, 2 * math.pi, tufts).tolist():
            at = x + 0.6 * wide * math.cos(angle), y + high * (0.55 * math.sin(angle) + lift)
            _blob(one, at, 0.45 * wide, 0.42 * high, one.paint(leaf, bright))


def _blob(one: _Plant, at: tuple[float, float], a: float, b: float, colour: tuple[int, int, int]) -> None:
    one.pen.ellipse([at[0] - a, at[1] - b, at[0] + a, at[1] + b], fill=colour)


def _broadleaf(one: _Plant) -> None:
    _stem(one, _BARK, 0.07, (0, 0.5))
    _crown(one, one.x, one.y - 0.64 * one.high, one.wide, 0.36 * one.high, 6, one.leaf)


def _conifer(one: _Plant) -> None:
    _stem(one, _BARK, 0.05, (0, 0.3))
    x, y, high = one.x, one.y, one.high
    for k in range(4):
        top, below, half = y - high * (0.45 + 0.185 * k), y - high * (0.12 + 0.19 * k), one.wide * (1 - 0.21 * k)
        one.pen.polygon([(x, top), (x - half, below), (x + half, below)], fill=one.paint(one.leaf, 0.55 + 0.06 * k))
        one.pen.polygon([(x, top), (x - half, below), (x - half / 5, below)], fill=one.paint(one.leaf, 0.7 + 0.06 * k))


def _birch(one: _Plant) -> None:
    _stem(one, _BIRCH, 0.05, (0, 0.8))
    for k in range(5):
        y, half = one.y - (0.08 + 0.13 * k) * one.high, 0.025 * one.high
        one.pen.line([(one.x - half, y), (one.x + half / 3, y)], fill=one.paint((40, 40, 40)))
    leaf = mixed(one.leaf, (230, 220, 90), 0.25)
    _crown(one, one.x, one.y - 0.68 * one.high, one.wide, 0.32 * one.high, 4, leaf)


def _poplar(one: _Plant) -> None:
    _stem(one, _BARK, 0.04, (0, 0.3))
    _crown(one, one.x, one.y - 0.55 * one.high, one.wide, 0.45 * one.high, 5, one.leaf)


def _cypress(one: _Plant) -> None:
    for bright, shift, half in ((0.5, 0.0, 1.0), (0.66, -0.25, 0.55)):
        edge = ((0, 1), (half, 0.35), (0.5 * half, 0.03), (-0.5 * half, 0.03), (-half, 0.35))
        points = [(one.x + (shift + a) * one.wide, one.y - b * one.high) for a, b in edge]
        one.pen.polygon(points, fill=one.paint(one.leaf, bright))


def _pine(one: _Plant) -> None:
    x, y = _stem(one, _PINE, 0.05, (one.rng.uniform(-0.3, 0.3), 0.8))
    _crown(one, x, y - 0.04 * one.high, one.wide, 0.16 * one.high, 5, scaled(one.leaf, 0.75))


def _acacia(one: _Plant) -> None:
    for side in (-0.5, 0.1, 0.6):
        _stem(one, _BARK, 0.035, (0.1 * side, 0.35), (side, 0.85))
    _blob(one, (one.x, one.y - 0.86 * one.high), one.wide, 0.12 * one.high, one.paint(one.leaf, 0.7))
    at = one.x - 0.1 * one.wide, one.y - 0.91 * one.high
    _blob(one, at, 0.85 * one.wide, 0.08 * one.high, one.paint(one.leaf, 0.98))


def _olive(one: _Plant) -> None:
    _stem(one, _BARK, 0.1, (0.1, 0.5))
    leaf = mixed(one.leaf, (176, 184, 160), 0.5)
    _crown(one, one.x, one.y - 0.65 * one.high, one.wide, 0.32 * one.high, 5, leaf)


def _gum(one: _Plant) -> None:
    bend = one.rng.uniform(-0.25, 0.25)
    for side in (-0.5, 0.4):
        x, y = _stem(one, _GUM, 0.05, (bend, 0.4), (bend + side, 0.8))
        _crown(one, x, y, 0.6 * one.wide, 0.14 * one.high, 4, mixed(one.leaf, (140, 150, 120), 0.5))


def _palm(one: _Plant) -> None:
    lean = one.rng.uniform(-0.5, 0.5)
    x, y = _stem(one, _PALM, 0.045, (0.35 * lean, 0.45), (lean, 0.85))
    for k, angle in enumerate((np.linspace(-0.5, math.pi + 0.5, 8) + one.rng.uniform(-0.1, 0.1, 8)).tolist()):
        dx, dy = one.wide * math.cos(angle), -0.75 * one.wide * math.sin(angle)
        middle = x + 0.6 * dx, y + 0.85 * dy
        frond = [(x, y), middle, (x + dx, y + dy + 0.45 * one.wide), (middle[0], middle[1] + 0.24 * one.wide)]
        one.pen.polygon(frond, fill=one.paint(one.leaf, 0.68 if k % 2 else 0.95))


def _banana(one: _Plant) -> None:
    for k, angle in enumerate((np.linspace(0.35, math.pi - 0.35, 6) + one.rng.uniform(-0.15, 0.15, 6)).tolist()):
        cos, sin = math.cos(angle), math.sin(angle)
        edge = (
            (0, 0),
            (0.55 * cos - 0.22 * sin, 0.65 * sin),
            (1.1 * cos, sin - 0.15),
            (0.55 * cos + 0.22 * sin, 0.65 * sin),
        )
        points = [(one.x + a * one.wide, one.y - b * one.high) for a, b in edge]
        one.pen.polygon(points, fill=one.paint(one.leaf, 0.75 if k % 2 else 1.05))


def _bamboo(one: _Plant) -> None:
    for side, tall in zip((-1, -0.6, -0.2, 0.2, 0.6, 1), one.rng.uniform(0.7, 1, 6).tolist(), strict=True):
        x, y = _stem(one, mixed(one.leaf, (220, 210, 90), 0.35), 0.02, (0.7 * side, 0.5 * tall), (1.3 * side, tall))
        _blob(one, (x, y + 0.12 * one.high), 0.3 * one.wide, 0.16 * one.high, one.paint(one.leaf, 0.9))


def _cactus(one: _Plant) -> None:
    green = (70, 118, 72)
    _stem(one, green, 0.13, (0, 1))
    for side, low, top in ((-1, 0.35, 0.75), (1, 0.5, 0.9)):
        _stem(one, green, 0.09, (0, low), (side, low), (side, top))


def _shrub(one: _Plant) -> None:
    _crown(one, one.x, one.y - 0.4 * one.high, one.wide, 0.5 * one.high, 4, one.leaf)


# What draws each, its height, and its width to each side, in m.
PLANTS: dict[str, tuple[Callable[[_Plant], None], float, float]] = {
    "broadleaf": (_broadleaf, 8, 3.2),
    "conifer": (_conifer, 11, 2.4),
    "birch": (_birch, 9, 1.8),
    "poplar": (_poplar, 10, 1.2),
    "cypress": (_cypress, 9, 0.9),
    "pine": (_pine, 8, 3.2),
    "acacia": (_acacia, 6, 4.5),
    "olive": (_olive, 4, 2.2),
    "gum": (_gum, 9, 2.8),
    "palm": (_palm, 9, 3.0),
    "banana": (_banana, 3.2, 2.2),
    "bamboo": (_bamboo, 8, 1.8),
    "cactus": (_cactus, 4, 1.0),
    "shrub": (_shrub, 1.1, 1.1),
}
