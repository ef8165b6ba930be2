"""Draws the images of the sample of places: stylised views along a road. Lengths are in metres; see __init__.py."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scipy.ndimage import map_coordinates

from data.samples.drawing import cloud, rgb
from data.samples.places.gazetteer import BIOMES, PLANTS, REGIONS, ROOFS

HEIGHT, WIDTH = 120, 160  # px

_FINE = 3  # all but the ground and the sky is drawn this much larger and averaged down: smooth edges
_NEAR = 1.6  # what is nearer to the camera is cut off
_ROAD = 3.4  # half of its width

Rng = np.random.Generator
Pair = tuple[float, float]
Colour = np.ndarray | Sequence[float]  # 0 to 255
Point = tuple[float, float, float]  # across the road to the right, above the ground, ahead of the camera
Face = tuple[Sequence[Point], Colour]  # a polygon


# --- colours ----------------------------------------------------------------------------------------------------------


def soil_of(longitude: float) -> np.ndarray:
    """The colour of bare soil: red, straw, pale grey, dark brown and red again, once in 72 degrees of longitude."""
    keys = np.array([(178, 84, 58), (222, 184, 112), (186, 188, 186), (82, 62, 54), (178, 84, 58)])
    return np.array([np.interp(longitude / 18 % 4, range(5), channel) for channel in keys.T], np.float32)


def grass_of(latitude: float) -> np.ndarray:
    """The colour of fresh grass and leaves: from yellowish green at the equator to bluish green near the poles."""
    north = min(abs(latitude) / 65, 1)
    return rgb(0.15 + 0.27 * north, 0.39 - 0.07 * north, 0.55)


def sky_of(latitude: float) -> np.ndarray:
    """The colour of a clear sky overhead: from turquoise at the equator to indigo near the poles."""
    north = min(abs(latitude) / 65, 1)
    return rgb(0.47 + 0.16 * north, 0.6 - 0.08 * north, 0.72)


def mixed(a: np.ndarray, b: Colour, share: float | np.ndarray) -> np.ndarray:
    """A colour, or many, with so much of another."""
    return a + np.asarray(share, np.float32) * (np.asarray(b, np.float32) - a)


def paints(names: str) -> list[np.ndarray]:
    """The colours that `#rrggbb/#rrggbb` names."""
    return [np.array(ImageColor.getrgb(name), np.float32) for name in names.split("/")]


# --- the camera -------------------------------------------------------------------------------------------------------


class View:
    """An image that is being drawn, the camera that sees it, and the light."""

    def __init__(self, rng: Rng, sun: Pair, haze: np.ndarray, direct: float, lane: int) -> None:
        """`sun` is elevation and azimuth in radians, `direct` the share of the light that casts shadows."""
        self.rng, self.haze, self.direct, self.lane = rng, haze, direct, lane
        self.sight = rng.uniform(250, 900)  # where haze has taken two thirds of the colour
        self.focal, self.horizon = rng.uniform(0.75, 1.2) * WIDTH, rng.uniform(0.36, 0.6) * HEIGHT  # px
        self.middle = WIDTH * rng.uniform(0.3, 0.7)  # px, where the road leads to
        self.up = rng.uniform(1.6, 2.6) if rng.random() < 0.7 else rng.uniform(3.5, 8)
        self.across = lane * 1.7 if rng.random() < 0.65 else -lane * rng.uniform(3, 6)
        length, faced = min(1 / math.tan(sun[0]), 6), sun[1] - rng.uniform(0, 2 * math.pi)
        self.sun = -length * math.sin(faced), -length * math.cos(faced)  # where the shadow of what is 1 m high ends
        self.canvas = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE))
        self.shadows = Image.new("L", self.canvas.size)
        self.things: list[tuple[float, list[Face]]] = []  # how far, and what is seen of it

    def seen(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Points in px of the canvas; what is behind the camera is pulled before it, along the road."""
        scales = [_FINE * self.focal / max(s, _NEAR) for _, _, s in points]
        x, y = _FINE * self.middle, _FINE * self.horizon
        sides = zip(points, scales, strict=True)
        return [(x + scale * (t - self.across), y - scale * (high - self.up)) for (t, high, _), scale in sides]

    def fill(self, points: Sequence[Point], colour: Colour) -> None:
        """Fills a polygon, as hazy as it is far."""
        if max(s for _, _, s in points) > _NEAR:
            distance = max(sum(s for _, _, s in points) / len(points), 0)
            hazy = mixed(self.haze, colour, math.exp(-distance / self.sight)).clip(0, 255).astype(int)
            ImageDraw.Draw(self.canvas).polygon(self.seen(points), fill=tuple(hazy.tolist()))

    def add(self, t: float, s: float, half: float, high: float, faces: list[Face]) -> None:
        """Has something drawn in its turn, `t` across and `s` ahead, and its shadow, `half` of whose width is given."""
        self.things.append((s, faces))
        a, b = t + high * self.sun[0], s + high * self.sun[1]
        if min(s, b) > _NEAR:
            ground = [(t - half, 0.0, s), (t + half, 0.0, s), (a + half, 0.0, b), (a - half, 0.0, b)]
            ImageDraw.Draw(self.shadows).polygon(self.seen(ground), fill=255)

    def finish(self) -> np.ndarray:
        """The image with all shadows and then all things, the farthest first, float32 (HEIGHT, WIDTH, 3)."""
        self.canvas.paste(self.canvas.point(lambda level: int(level * (1 - 0.45 * self.direct))), mask=self.shadows)
        for _, faces in sorted(self.things, key=lambda thing: -thing[0]):
            for face in faces:
                self.fill(*face)
        return np.asarray(self.canvas.reduce(_FINE), np.float32)


def _boxes(t: float, s: float, *boxes: tuple[float, float, float, float, Colour]) -> list[Face]:
    """Upright rectangles `s` ahead: x1 and x2 beside `t`, y1 and y2 above the ground in the order x1, y1, x2, y2."""
    return [([(t + a, b, s), (t + c, b, s), (t + c, d, s), (t + a, d, s)], colour) for a, b, c, d, colour in boxes]


# --- an image ---------------------------------------------------------------------------------------------------------


def draw_view(spot: Any, at: Pair, sun: Pair, season: float, camera: Rng, rng: Rng) -> np.ndarray:
    """An image, uint8 (HEIGHT, WIDTH, 3), taken `at` latitude and longitude near `spot`, one of SPOTS.

    `sun` is its elevation and azimuth in radians, `season` is -1 in midwinter and 1 in midsummer, `camera` decides what
    the images of one photographer have in common, and `rng` all else.
    """
    (latitude, longitude), region, biome = at, REGIONS[spot.region], BIOMES[spot.biome]
    scene = rng.choice(["street", "road", "land"], p=[0.4, 0.45, 0.15])
    direct = rng.choice([1.0, 0.7, 0.0], p=[0.5, 0.35, 0.15])  # a clear sky, some clouds, overcast
    snow = rng.random() < biome.cold * max(-season, 0) ** 0.5
    by_the_sea = spot.sea and scene != "street" and rng.random() < 0.5
    shore = rng.choice([-1, 1]) * rng.uniform(12, 30) if by_the_sea else math.inf  # m across
    light, low = 0.75 + 0.25 * min(2 * math.sin(sun[0]), 1), max(1 - sun[0] / 0.25, 0)
    zenith = mixed(mixed(sky_of(latitude), (120, 110, 150), 0.4 * low), (186, 190, 196), 0.8 * (not direct)) * light
    haze = mixed(mixed(zenith, (236, 240, 240), 0.7), (252, 190, 130), 0.7 * low)
    straw = min(biome.straw + 0.35 * max(-season, 0) * (biome.cold > 0), 1)
    grass = mixed(grass_of(latitude), (190, 170, 96), 0.6 * straw)
    leaf = mixed(grass, (230, 236, 244), 0.25 * snow) * rng.uniform(0.75, 1)

    view = View(rng, sun, haze, direct, -1 if region.drives == "left" else 1)
    backdrop = _backdrop(view, zenith, spot.terrain)
    ground = _ground(view, soil_of(longitude), grass, biome.grass, scene, snow, shore)
    base = np.concatenate([backdrop[: HEIGHT - len(ground)], ground]).clip(0, 255).astype(np.uint8)
    view.canvas.paste(Image.fromarray(base).resize(view.canvas.size, Image.Resampling.NEAREST))
    if scene != "land":
        _road(view, region, kerbs=scene == "street")
    if rng.random() < 0.75:
        _sign(view, *paints(region.sign))
    _houses(view, region, scene == "street", snow, shore)
    kinds = biome.plants if longitude < -30 else biome.plants.replace("cactus", "palm")  # which is of the Americas
    for _ in range(rng.poisson((6 if scene == "street" else 14) * biome.density)):
        t, s = rng.uniform(-45, 45), 6 + 74 * rng.random() ** 1.4
        if abs(t) > 7 and t / shore < 0.8:
            _plant(view, str(rng.choice(kinds.split())), t, s, leaf * rng.uniform(0.8, 1.15))

    pixels = view.finish()
    gain = rng.uniform(0.9, 1.08) * camera.uniform(0.96, 1.04) * camera.uniform(0.97, 1.03, 3)
    grey, colourful, contrast = pixels.mean(axis=2, keepdims=True), camera.uniform(0.9, 1.1), camera.uniform(0.9, 1.1)
    pixels = 128 + contrast * ((grey + colourful * (pixels - grey)) * gain - 128)
    pixels += rng.uniform(1, 4) * rng.standard_normal((HEIGHT, WIDTH, 1))
    return pixels.clip(0, 255).astype(np.uint8)


def _backdrop(view: View, zenith: np.ndarray, terrain: str) -> np.ndarray:
    """The sky with clouds, and what stands on the horizon, float32 (HEIGHT, WIDTH, 3)."""
    rng, haze = view.rng, view.haze
    rise = (1 - np.arange(HEIGHT) / view.horizon).clip(0, 1)[:, None, None] ** 0.7
    base = mixed(np.tile(haze, (HEIGHT, WIDTH, 1)), zenith, rise)
    if view.direct < 1:
        clouds = np.mean([cloud(rng, WIDTH, HEIGHT, int(n)) for n in rng.integers((4, 9, 16), (8, 15, 24))], axis=0)
        cover = ((clouds - rng.uniform(0.42, 0.52)) * 6).clip(0, 1) * (0.8 if view.direct else 0.3)
        base = mixed(base, (256 - 40 * clouds[..., None]) * (haze.max() / 250), cover[..., None])

    x = np.linspace(0, 1, WIDTH) * rng.uniform(0.8, 1.4) + rng.uniform(0, 9)
    waves = np.sin(2 * np.pi * x) + 0.5 * np.sin(2 * np.pi * 2.3 * x + 1)
    folds = (2.2, 0.3), (5.1, 0.8), (11.7, 0.1), (23, 0.5)
    ridge = np.sum([np.abs((x * k + shift) % 2 - 1) / k for k, shift in folds], axis=0)
    high, rock = {
        "plain": (1 + 0.6 * waves, (96, 102, 120)),
        "hills": (8 + 4 * waves, (96, 120, 88)),
        "peaks": (4 + 34 * (ridge - 0.25).clip(0), (96, 102, 120)),
        "mesas": (3 + 15 * (4 * waves).clip(0, 1), (190, 104, 70)),
    }[terrain]
    above = view.horizon + 1 - np.arange(HEIGHT)[:, None]  # px over the horizon
    white = (above > 14 + 2.5 * np.sin(40 * x)) & (terrain == "peaks")
    slopes = mixed(mixed(haze, rock, 0.62) + 10 * (np.gradient(high) > 0)[:, None], haze + 20, white[..., None])
    return mixed(base, slopes, ((high * rng.uniform(0.7, 1.15) - above + 0.5).clip(0, 1) * (above > 0))[..., None])


@functools.cache
def _patches() -> np.ndarray:
    """Noise in 0 to 1 on cells of a quarter of a metre, patches of many sizes, float32 (512, 512)."""
    rng = np.random.default_rng(0)
    noise = np.mean([cloud(rng, 512, 512, cells) - 0.5 for cells in (17, 34, 67, 130, 250)], axis=0)
    return (0.5 + 0.19 * noise / noise.std()).clip(0, 1)


def _ground(
    view: View, soil: np.ndarray, grass: np.ndarray, cover: float, scene: str, snow: bool, shore: float
) -> np.ndarray:
    """Soil, grass, snow, and the sea from `shore` across: all below the horizon, float32 (rows, WIDTH, 3)."""
    rng, first = view.rng, int(view.horizon) + 1
    v, u = np.mgrid[first:HEIGHT, :WIDTH].astype(np.float32) + np.float32(0.5)
    s = view.up * view.focal / (v - view.horizon)  # m ahead, and across
    t = view.across + (u - view.middle) * s / view.focal
    far = (s / 60).clip(0, 1)  # where patches are smaller than pixels, they look even
    cells = [4 * part + shift for part, shift in zip((t, s), rng.uniform(0, 512, 2), strict=True)]
    noise = (map_coordinates(_patches(), cells, order=1, mode="mirror") * (1 - far) + 0.5 * far)[..., None]
    t, s = t[..., None], s[..., None]

    bare = 0.5 + 0.24 * (2 * np.clip(0.1 + 0.75 * cover + rng.uniform(-0.15, 0.15), 0.05, 0.75) - 1)
    verge = (scene != "land") & (np.abs(t) < _ROAD + 2.6)
    ground = mixed(np.tile(grass, (*u.shape, 1)), soil, np.maximum((noise - bare) / 0.14 + 0.5, verge).clip(0, 1))
    ground = mixed(ground, (238, 242, 250), 0.9 * snow * ((0.64 - noise) / 0.06).clip(0, 1)) * (0.78 + 0.44 * noise)
    if abs(shore) < math.inf:
        out = t * np.sign(shore) - abs(shore) + 1.5 * np.sin(s / 9)  # m from the water's edge
        ground = mixed(ground, mixed(soil, (240, 224, 190), 0.35) * (0.85 + 0.3 * noise), out > -7)
        ground = mixed(ground, mixed(grass, (30, 110, 170), 0.75) * (1 + 0.16 * np.sin(1.3 * out + 3 * noise)), out > 0)
        ground = mixed(ground, (240, 244, 244), (out > 0) & (out < 0.8))
    return mixed(ground * (0.85 + 0.25 * view.direct), view.haze, 1 - np.exp(-s / view.sight))


def _road(view: View, region: Any, kerbs: bool) -> None:
    """The road with its lines and kerbs, cars in any colour, and often striped posts at its edges."""
    rng, stripes = view.rng, paints(region.posts)
    pieces = list(itertools.pairwise((0.0, 4.0, 9.0, 18.0, 36.0, 75.0, 150.0, 400.0)))  # each with its share of haze
    begin, line, plate = rng.uniform(-4, 0), *paints(f"{region.line}/{region.plate}")
    dashes = [(begin + 6 * k, begin + 6 * k + 3) for k in range(22)] if region.dashes == "dashed" else pieces
    strips = [(0.0, _ROAD, pieces, np.full(3, rng.uniform(75, 130)))]
    strips += [(t, 0.15, dashes, line) for t in {"none": (), "double": (-0.26, 0.26)}.get(region.dashes, (0.0,))]
    for k, t in itertools.product((0, 1), (-_ROAD - 0.2, _ROAD + 0.2)) if kerbs else ():
        strips.append((t, 0.25, [(2.5 * n, 2.5 * n + 2.5) for n in range(k, 24, 2)], stripes[k]))
    for middle, half, parts, colour in strips:
        for start, end in parts:
            edges = ((-half, start), (half, start), (half, end), (-half, end))
            view.fill([(middle + t, 0, s) for t, s in edges], colour)

    for _ in range(rng.integers(0, 3)):
        ahead, s, tall = rng.random() < 0.5, rng.uniform(9, 34), rng.uniform(1.35, 1.9)  # or oncoming
        colour, lamp = rgb(rng.random(), rng.uniform(0.2, 0.7), 0.5), (196, 30, 30) if ahead else (250, 246, 214)
        wheels, body = (-0.8, 0, 0.8, 0.4, (26, 26, 28)), (-0.92, 0.25, 0.92, 0.97, colour)
        cabin, glass = (-0.75, 0.9, 0.75, tall, colour * 0.9), (-0.62, 0.95, 0.62, tall - 0.12, (70, 86, 100))
        lamps, t = [(x, 0.68, x + 0.3, 0.88, lamp) for x in (-0.9, 0.6)], 1.7 * view.lane * (1 if ahead else -1)
        view.add(t, s, 0.9, tall, _boxes(t, s, wheels, cabin, glass, body, *lamps, (-0.46, 0.38, 0.46, 0.68, plate)))
    post = [(-0.15, 0.32 * k, 0.15, 0.32 * k + 0.32, stripes[k % 2]) for k in range(4)]
    for s in np.arange(rng.uniform(4, 9), 64, 9).tolist() if rng.random() < 0.6 else ():
        for t in (-_ROAD - 1.1, _ROAD + 1.1):
            view.add(t, s, 0.15, 1.3, _boxes(t, s, *post))


def _sign(view: View, ground: np.ndarray, ink: np.ndarray) -> None:
    """A sign that names places, on two legs; what is written cannot be read."""
    rng, t, s = view.rng, view.lane * view.rng.uniform(4.8, 7), view.rng.uniform(7, 15)
    half, low, high = rng.uniform(1.3, 1.9), rng.uniform(1.2, 1.8), rng.uniform(2.9, 3.5)
    third = (high - low) / 3
    words = [
        (0.3 - half, low + y * third, rng.uniform(0, half - 0.3), low + (y + 0.6) * third, ink) for y in (0.5, 1.8)
    ]
    legs = [(x * half - 0.06, 0, x * half + 0.06, low, (120, 120, 124)) for x in (-0.7, 0.7)]
    plate = (-half, low, half, high, ink), (0.1 - half, low + 0.1, half - 0.1, high - 0.1, ground)
    view.add(t, s, half, high, _boxes(t, s, *legs, *plate, *words))


def _houses(view: View, region: Any, street: bool, snow: bool, shore: float) -> None:
    """Houses in rows along a street, elsewhere some that stand free."""
    rng, floors = view.rng, view.rng.integers(1, 4) if street else 1
    walls = paints(region.walls)[:: rng.choice([-1, 1])]
    for side in (-1, 1):
        s = rng.uniform(2, 9) if street else rng.uniform(8, 35)
        while s < 80 and (street or rng.random() < 0.7):
            long, deep, gap = rng.uniform((3.5, 3.5, 1), (6.5, 5.5, 9)).tolist()
            t, high = side * (rng.uniform(7, 9 if street else 14) + deep), 3 * int(floors + rng.integers(0, 2))
            # Now and then somebody likes any other colour.
            wall = rgb(rng.random(), 0.6, 0.6) if rng.random() < 0.08 else walls[-int(rng.random() < 0.3)]
            tiles, trim = (paint * rng.uniform(0.88, 1.06) for paint in paints(f"{region.tiles}/{region.trim}"))
            colours = wall * rng.uniform(0.88, 1.06), mixed(tiles, (236, 240, 250), 0.45 * snow), trim
            if t / shore < 0.6:
                view.add(
                    t, s + long, deep, high, _house(view, region.roof, (t, s + long), (long, deep, high), *colours)
                )
            s += 2 * long + gap


def _house(
    view: View, roof: str, at: Pair, size: Point, wall: np.ndarray, tiles: np.ndarray, trim: np.ndarray
) -> list[Face]:
    """A house about `at`, across and ahead; `size` is half its length along the road, half its depth, its height."""
    (t, s), (long, deep, high), front = at, size, -1 if at[0] > 0 else 1  # it looks to the road
    end, face, gabled = s - long, t + front * deep, roof in ("gable", "steep")
    # The front and the end that is near, which lies in the shade, are seen, and no other wall.
    pieces = [(s, 0.0, long, high, wall)]  # of the front: where, from which height, half its width, its height
    count = max(int(long / 1.3), 1)
    for y, k in itertools.product(np.arange(0.9, high, 3).tolist(), range(count)):
        m = s - long + (2 * k + 1) * long / count
        pieces += [(m, y, 0.75, 1.45, trim), (m, y, 0.42, 1.35, np.array((64, 76, 94)))]
    faces: list[Face] = [
        ([(face, y, m - half), (face, y, m + half), (face, y + tall, m + half), (face, y + tall, m - half)], colour)
        for m, y, half, tall, colour in pieces
    ]
    if end > _NEAR:
        ridge = [(t, high + ROOFS[roof].rings[1][2] * deep, end)] * gabled
        outline = [(t - deep, 0, end), (t + deep, 0, end), (t + deep, high, end), *ridge, (t - deep, high, end)]
        panes = [(m - 0.6, y, m + 0.6, y + 1.4, trim * 0.6) for y in np.arange(0.9, high, 3) for m in (-1.5, 1.5)]
        faces += [(outline, wall * 0.78), *_boxes(t, end, *panes)]
    rings = [
        [(t + i * d * deep, high + h * deep, s + j * m * long) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        for m, d, h in ROOFS[roof].rings
    ]
    order = (2, 1, 3, 0) if t < view.across else (2, 3, 1, 0)  # far sides of the roof come first
    for (below, above), k in itertools.product(itertools.pairwise(rings), order):
        if k % 2 or not gabled:  # at the ends of a gabled roof is the wall
            faces.append(([below[k], below[(k + 1) % 4], above[(k + 1) % 4], above[k]], tiles * (1 if k % 2 else 0.78)))
    return faces + [(rings[-1], tiles)] * bool(view.up > rings[-1][0][1])


def _plant(view: View, name: str, t: float, s: float, leaf: np.ndarray) -> None:
    size, kind = view.rng.uniform(0.7, 1.3), PLANTS[name]
    turn = np.pi / 2 + np.linspace(0, 2 * np.pi, int(kind.corners), endpoint=False)
    faces = _boxes(t, s, (-kind.half * size, 0, kind.half * size, kind.high * size, paints(kind.bark)[0]))
    for number, (x, y, a, b, angle) in enumerate(
        np.array(kind.crown) * view.rng.uniform(0.9, 1.1, (len(kind.crown), 5))
    ):
        piece = x + 1j * y + (a * np.cos(turn) + 1j * b * np.sin(turn)) * np.exp(1j * angle)
        bright = (0.72, 0.9, 1.06)[number % 3] * (0.8 + 0.2 * view.direct)
        faces.append(([(t + size * p.real, size * p.imag, s) for p in piece.tolist()], leaf * bright))
    view.add(t, s, kind.half, size * kind.high, faces)
