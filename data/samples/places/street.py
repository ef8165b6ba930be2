"""What people have set up along the roads of the sample of places, in the colours and the script of a region."""

import itertools
import math

import numpy as np

from data.samples.places.gazetteer import Region
from data.samples.places.perspective import Colour, Foot, View, mixed, rgb, scaled

ROAD = 3.4  # m, half of its width

# fmt: off
PAINTS: dict[str, Colour] = {
    "white": (240, 238, 232), "cream": (236, 222, 182), "sand": (216, 188, 138), "gold": (214, 170, 40),
    "ochre": (206, 148, 62), "adobe": (184, 122, 80), "terracotta": (196, 92, 54), "orange": (240, 132, 36),
    "rust": (140, 70, 48), "brick": (156, 62, 50), "maroon": (112, 28, 40), "red": (208, 36, 36),
    "brown": (106, 70, 46), "timber": (134, 94, 58), "thatch": (170, 146, 88), "charcoal": (58, 60, 66),
    "black": (24, 24, 28), "slate": (86, 98, 118), "grey": (150, 150, 150), "concrete": (180, 176, 166),
    "zinc": (154, 172, 188), "copper": (98, 166, 144), "moss": (84, 108, 60), "green": (24, 112, 66),
    "lime": (164, 204, 60), "teal": (22, 128, 130), "turquoise": (70, 194, 190), "sky": (128, 186, 228),
    "blue": (28, 82, 176), "navy": (26, 40, 100), "violet": (122, 78, 164), "magenta": (204, 48, 124),
    "pink": (238, 160, 168), "yellow": (248, 208, 48),
}
# fmt: on

# Rings of a roof from the eaves up: half its length and half its depth, in those of the house, and the height above the
# walls, in half depths.
ROOFS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "flat": ((1.04, 1.04, 0.0), (1.04, 1.04, 0.16)),
    "gable": ((1.06, 1.14, -0.08), (1.06, 0.0, 0.7)),
    "steep": ((1.06, 1.1, -0.1), (1.06, 0.0, 1.7)),
    "hip": ((1.12, 1.12, -0.06), (0.45, 0.0, 0.65)),
    "mansard": ((1.05, 1.05, 0.0), (0.85, 0.78, 0.8), (0.6, 0.4, 0.95)),
    "swept": ((1.35, 1.4, 0.05), (0.85, 0.7, 0.3), (0.6, 0.0, 1.1)),
    "cone": ((1.2, 1.25, -0.15), (0.0, 0.0, 1.45)),
    "dome": ((1.03, 1.03, 0.0), (1.03, 1.03, 0.1)),  # and a dome on it
}
_WITH_GABLES = ("gable", "steep")

# Strokes of a few letters of each script on the keys of a keypad, 7 8 9 above 4 5 6 above 1 2 3: lines, rings (o) and
# dots (d). They have the script's look and say nothing.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "latin": ("713", "1739", "9713 56", "183 46", "79 82", "71 o5", "71 93 46", "o5", "1793 46", "179 64 53"),
    "cyrillic": ("7193", "1793", "17 93 46", "71398 82", "19 37 82", "79 17", "1863 46", "17 o6 17 93"),
    "greek": ("1831", "183", "o5 82", "97513", "71 82 93 46", "o5 13", "7825 93", "79 46 13"),
    "arabic": ("13 93 d5", "6413 d2", "13 o6 d9", "4136 d8 d9", "13 2 82", "13 46 d5", "13 71"),
    "ethiopic": ("1793 o1", "82 46 o8", "o7 71 93", "o5 82 13", "71 46 93 o3"),
    "devanagari": ("79 93 o4", "79 82 o5", "79 93 46 41", "79 82 56 63", "79 93 o1", "79 o4 62"),
    "tamil": ("o5 93", "o4 63 71", "o1 7 93 13", "o4 o6", "o5 o3 79", "o1 82 93"),
    "thai": ("o7 71 93", "o7 713 93", "o4 o9 63", "o1 79 93", "o7 7193", "o3 93 71 d8"),
    "han": ("79 46 13 82", "79 71 93 13 46 82", "82 46 19 37 13", "79 82 71 93 46", "46 82 51 53 79 d1 d3"),
    "kana": ("79 83", "46 82 o2", "78 42 93", "79 46 13 82 71 93", "o5 13", "71 93 62", "46 82 51 53"),
    "hangul": ("o4 93 56", "79 71 13", "o8 46 13", "17 39 o5", "79 o5 13", "7413 93", "o7 93 o2"),
}


def letter(rng: np.random.Generator, script: str) -> list[list[tuple[float, float]]]:
    """A letter of a script: lines through points, x to the right and y up, about 0 to 1."""
    strokes = []
    for stroke in str(rng.choice(SCRIPTS[script])).split():
        points = [((int(key) - 1) % 3 / 2, (int(key) - 1) // 3 / 2) for key in stroke if key.isdigit()]
        if stroke[0] in "od":
            (x, y), radius = points[0], 0.24 if stroke[0] == "o" else 0.07
            turn = np.linspace(0, 2 * math.pi, 9).tolist()
            points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turn]
        strokes.append(points)
    return strokes


def _write(
    view: View,
    rng: np.random.Generator,
    script: str,
    box: tuple[float, float, float, float],
    letters: int,
    ink: tuple[int, int, int],
) -> None:
    """A line of letters in a box (x1, y1, x2, y2) of the canvas."""
    x1, y1, x2, y2 = box
    step = (x2 - x1) / letters
    for k in range(letters):
        for stroke in letter(rng, script):
            points = [(x1 + (k + 0.1 + 0.76 * x) * step, y2 - y * (y2 - y1)) for x, y in stroke]
            view.pen.line(points, fill=ink, width=max(int((y2 - y1) / 7), 2), joint="curve")


def road(view: View, rng: np.random.Generator, region: Region, kerbs: bool, snow: bool) -> None:
    """The road with its lines and, where there are any, kerbs in the colours of the posts."""
    asphalt = scaled((104, 104, 108), rng.uniform(0.7, 1.25))
    if snow:
        asphalt = mixed(asphalt, (214, 218, 226), rng.uniform(0, 0.6))

    def strip(t: float, wide: float, start: float, end: float, colour: Colour) -> None:
        view.face([(t - wide, 0, start), (t + wide, 0, start), (t + wide, 0, end), (t - wide, 0, end)], colour)

    pieces = list(itertools.pairwise((-8, 4, 9, 18, 36, 75, 150, 400)))  # each with its share of haze
    for start, end in pieces:
        strip(0, ROAD, start, end, asphalt)
    if kerbs:
        stripes = [PAINTS[name] for name in region.posts.split("/")]
        for k in range(24):
            for t in (-ROAD - 0.2, ROAD + 0.2):
                strip(t, 0.25, 2.5 * k - 3, 2.5 * k - 0.5, stripes[k % 2])
    begin = rng.uniform(-4, 0)
    if region.line == "none":
        return
    if region.dashes == "dashed":
        for k in range(22):
            strip(0, 0.16, begin + 6 * k, begin + 6 * k + 3, PAINTS[region.line])
    for t in {"dashed": (), "solid": (0.0,), "double": (-0.26, 0.26)}[region.dashes]:
        for start, end in pieces:
            strip(t, 0.14, start, end, PAINTS[region.line])


def house(
    view: View,
    rng: np.random.Generator,
    region: Region,
    at: tuple[float, float],
    size: tuple[float, float, float],
    wall: Colour,
    snow: bool,
) -> None:
    """A house about `at`, across and along; `size` is half its length along the road, half its depth, its height."""
    (t, s), (long, deep, high) = at, size
    tiles, trim = scaled(PAINTS[region.tiles], rng.uniform(0.88, 1.06)), PAINTS[region.trim]
    if snow:
        tiles = mixed(tiles, (236, 240, 250), 0.45)
    door, sells, letters = rng.uniform(-0.6, 0.6), rng.random() < 0.35, rng.spawn(1)[0]
    corners = [(t - deep, s - long), (t + deep, s - long), (t + deep, s + long), (t - deep, s + long)]
    a, b = (high * part for part in view.sun)
    for (t1, s1), (t2, s2) in zip(corners, corners[1:] + corners[:1], strict=True):
        view.shadow([(t1, 0, s1), (t2, 0, s2), (t2 + a, 0, s2 + b), (t1 + a, 0, s1 + b)])
    front = -1 if t > 0 else 1  # it looks to the road
    end, face = s - long, t + front * deep
    distance = view.seen((t, 0, s))[2]

    def opening(m: float, y: float, wide: float, tall: float, colour: Colour, at_the_end: bool = False) -> None:
        edges = ((m - wide, y), (m + wide, y), (m + wide, y + tall), (m - wide, y + tall))
        points = [(a, b, end) if at_the_end else (face, b, a) for a, b in edges]
        view.face(points, view.lit(colour, 0, -1) if at_the_end else view.lit(colour, front, 0))

    def draw() -> None:
        if distance < -long - deep:
            return
        # The end that is near and the front are seen, and no other wall.
        ridge = [(t, high + ROOFS[region.roof][1][2] * deep, end)] if region.roof in _WITH_GABLES else []
        eaves = [(t + deep, high, end), *ridge, (t - deep, high, end)]
        view.face([(t - deep, 0, end), (t + deep, 0, end), *eaves], view.lit(wall, 0, -1))
        opening(s, 0, long, high, wall)
        if distance < 70:
            count = max(int(long / 1.3), 1)
            for y in np.arange(0.9, high, 3).tolist():
                for wide, tall, colour in ((0.75, 1.45, trim), (0.42, 1.35, (64, 76, 94))):
                    for k in range(count):
                        opening(s - long + (2 * k + 1) * long / count, y, wide, tall, colour)
                    for m in (t - deep / 2, t + deep / 2):
                        opening(m, y, wide, tall, colour, at_the_end=True)
            opening(s + door * long, 0, 0.6, 2.2, scaled(trim, 0.8))
        _roof(view, region.roof, tiles, at, size)
        if sells and distance < 50:
            _shop_sign(view, letters, region, (face, s), long, front)

    view.later(t, s, draw)


def _roof(view: View, shape: str, tiles: Colour, at: tuple[float, float], size: tuple[float, float, float]) -> None:
    (t, s), (long, deep, high) = at, size
    rings = [
        [(t + i * d * deep, high + h * deep, s + j * m * long) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        for m, d, h in ROOFS[shape]
    ]
    normals = ((0, -1), (1, 0), (0, 1), (-1, 0))
    for below, above in itertools.pairwise(rings):
        sides = [(below[k], below[(k + 1) % 4], above[(k + 1) % 4], above[k]) for k in range(4)]
        for k in sorted(range(4), key=lambda k: -sum(view.seen(point)[2] for point in sides[k])):
            if k % 2 or shape not in _WITH_GABLES:  # at their ends is the wall
                view.face(sides[k], view.lit(tiles, *normals[k]))
    if view.up > high + ROOFS[shape][-1][2] * deep:
        view.face(rings[-1], tiles)
    foot = view.foot(t, s)
    if shape != "dome" or foot is None:
        return
    x, y, scale, z = foot
    y, r = y - high * scale, 0.8 * min(deep, long) * scale
    turn = np.linspace(0, math.pi, 14).tolist()
    view.pen.polygon([(x + r * math.cos(a), y - 1.15 * r * math.sin(a)) for a in turn],
                     fill=view.hazy(scaled(tiles, 0.85), z))  # fmt: skip
    view.pen.polygon([(x - 0.2 * r + 0.5 * r * math.cos(a), y - 0.95 * r * math.sin(a)) for a in turn],
                     fill=view.hazy(scaled(tiles, 1.05), z))  # fmt: skip
    view.pen.line([(x, y - 1.1 * r), (x, y - 1.6 * r)], fill=view.hazy(scaled(tiles, 0.7), z), width=2)


def _shop_sign(
    view: View, rng: np.random.Generator, region: Region, at: tuple[float, float], long: float, front: int
) -> None:
    """A sign along the front of a house, over the door."""
    (face, s), half = at, 0.8 * long
    ground, ink = (PAINTS[name] for name in region.sign.split("/"))
    view.face([(face, 2.3, s - half), (face, 2.3, s + half), (face, 3.3, s + half), (face, 3.3, s - half)], ground)
    count = max(int(half), 2)
    for k in range(count):
        for stroke in letter(rng, region.script):
            along = [front * half * (2 * (k + 0.1 + 0.76 * x) / count - 1) for x, _ in stroke]  # read from the road
            points = [(face, 2.45 + 0.7 * y, s + m) for m, (_, y) in zip(along, stroke, strict=True)]
            outline, z = view.outline(points)
            if len(outline) == len(points):
                view.pen.line(outline, fill=view.hazy(ink, z), width=2)


def cast(view: View, t: float, s: float, high: float, wide: float) -> None:
    """The shadow of something thin below and `wide` to each side above."""
    a, b = (high * part for part in view.sun)
    thin = 0.12 * wide
    view.shadow([(t - thin, 0, s), (t + thin, 0, s), (t + a + thin, 0, s + b), (t + a - thin, 0, s + b)])
    turn = np.linspace(0, 2 * math.pi, 10, endpoint=False).tolist()
    view.shadow([(t + 0.7 * a + wide * math.cos(w), 0.0, s + 0.7 * b + wide * math.sin(w)) for w in turn])


def post(view: View, region: Region, t: float, s: float) -> None:
    """A post in stripes at the edge of the road."""
    foot = view.foot(t, s)
    if foot is None:
        return
    cast(view, t, s, 1.2, 0.2)

    def draw() -> None:
        for k, name in enumerate(2 * region.posts.split("/")):
            _box(view, foot, (-0.14, 0.32 * k, 0.14, 0.32 * (k + 1)), PAINTS[name])

    view.later(t, s, draw)


def _box(view: View, foot: Foot, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Fills what is from x1 to x2 across and from y1 to y2 above a foot, (x1, y1, x2, y2) in m."""
    x, y, scale, z = foot
    x1, y1, x2, y2 = box
    corners = [x + x1 * scale, y - y2 * scale, x + x2 * scale, y - y1 * scale]
    view.pen.rectangle(corners, fill=view.hazy(colour, z))


def mast(view: View, t: float, s: float) -> None:
    """A mast of a line beside the road, the same everywhere."""
    foot = view.foot(t, s)
    if foot is None:
        return
    cast(view, t, s, 8, 0.3)

    def draw() -> None:
        _box(view, foot, (-0.11, 0, 0.11, 8), (96, 84, 76))
        _box(view, foot, (-1, 7.3, 1, 7.45), (96, 84, 76))

    view.later(t, s, draw)


def sign(view: View, rng: np.random.Generator, region: Region, t: float, s: float) -> None:
    """A sign that names places, on two legs."""
    foot, own = view.foot(t, s), rng.spawn(1)[0]
    half, low, high = rng.uniform(1.3, 1.9), rng.uniform(1.2, 1.8), rng.uniform(2.9, 3.5)
    lines, letters = int(rng.integers(1, 3)), int(rng.integers(4, 7))
    if foot is None:
        return
    cast(view, t, s, high, half)

    def draw() -> None:
        x, y, scale, z = foot
        ground, ink = (PAINTS[name] for name in region.sign.split("/"))
        for leg in (-0.7, 0.7):
            _box(view, foot, (leg * half - 0.06, 0, leg * half + 0.06, low), (120, 120, 124))
        _box(view, foot, (-half, low, half, high), ink)
        _box(view, foot, (0.07 - half, low + 0.07, half - 0.07, high - 0.07), ground)
        tall = (high - low) / lines * scale
        for k in range(lines):
            top, wide = y - high * scale + k * tall, (half - 0.15) * scale
            box = (x - wide, top + 0.2 * tall, x + wide, top + 0.8 * tall)
            _write(view, own, region.script, box, letters, view.hazy(ink, z))

    view.later(t, s, draw)


def letter_box(view: View, region: Region, t: float, s: float) -> None:
    """A letter box beside the road."""
    foot = view.foot(t, s)
    if foot is None:
        return
    cast(view, t, s, 1.5, 0.4)

    def draw() -> None:
        _box(view, foot, (-0.42, 0.1, 0.42, 1.5), PAINTS[region.box])
        _box(view, foot, (0.14, 0.1, 0.42, 1.5), scaled(PAINTS[region.box], 0.75))
        _box(view, foot, (-0.26, 1.12, 0.2, 1.25), (24, 24, 26))

    view.later(t, s, draw)


def car(view: View, rng: np.random.Generator, region: Region, t: float, s: float, back: bool) -> None:
    """A car in any colour with the region's number plate, from behind or from the front."""
    foot, own = view.foot(t, s), rng.spawn(1)[0]
    paint, tall = rgb(rng.random(), rng.uniform(0.15, 0.75), rng.uniform(0.05, 0.75)), rng.uniform(1.35, 1.9)
    if foot is None:
        return
    view.shadow([(t - 1, 0, s), (t + 1, 0, s), (t + 1, 0, s + 4), (t - 1, 0, s + 4)])

    def draw() -> None:
        x, y, scale, z = foot
        for a in (-0.8, 0.5):
            _box(view, foot, (a, 0, a + 0.3, 0.4), (26, 26, 28))
        for half, low, high, top, colour in (
            (0.88, 0.95, tall, 0.66, scaled(paint, 0.9)),
            (0.74, 0.98, tall - 0.1, 0.58, (70, 86, 100)),  # glass
        ):
            cabin = ((-half, low), (-top, high), (top, high), (half, low))
            view.pen.polygon([(x + a * scale, y - b * scale) for a, b in cabin], fill=view.hazy(colour, z))
        _box(view, foot, (-0.92, 0.25, 0.92, 0.97), paint)
        for a in (-0.9, 0.62):
            _box(view, foot, (a, 0.68, a + 0.28, 0.88), (196, 30, 30) if back else (250, 246, 214))
        plate = PAINTS[region.plate]
        _box(view, foot, (-0.46, 0.38, 0.46, 0.68), plate)
        ink = view.hazy(PAINTS["black" if sum(plate) > 330 else "white"], z)
        if scale > 14:
            box = (x - 0.4 * scale, y - 0.62 * scale, x + 0.4 * scale, y - 0.44 * scale)
            _write(view, own, region.script, box, 5, ink)

    view.later(t, s, draw)


def parasol(view: View, rng: np.random.Generator, t: float, s: float) -> None:
    """A parasol in any two colours: it says nothing."""
    foot, colours = view.foot(t, s), [rgb(rng.random(), rng.uniform(0.3, 0.7), 0.8) for _ in range(2)]
    if foot is None:
        return
    cast(view, t, s, 2.3, 1.2)

    def draw() -> None:
        x, y, scale, z = foot
        _box(view, foot, (-0.04, 0, 0.04, 2.4), (220, 216, 206))
        for k, (a, b) in enumerate(itertools.pairwise(np.linspace(-1.4, 1.4, 7).tolist())):
            corners = ((0, 2.6), (a, 1.9), (b, 1.9))
            view.pen.polygon([(x + m * scale, y - n * scale) for m, n in corners], fill=view.hazy(colours[k % 2], z))

    view.later(t, s, draw)
