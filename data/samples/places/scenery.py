"""Draws the photographs of the sample of places: stylised views of somewhere. See places.py for what tells where."""

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from data.samples.drawing import cloud
from data.samples.places import street
from data.samples.places.gazetteer import Spot
from data.samples.places.perspective import Colour, View, mixed, rgb, scaled
from data.samples.places.plants import BIOMES, plant, plants_of

HEIGHT, WIDTH = 120, 160  # px

_SUPERSAMPLING = 3  # all but the ground and the sky is drawn this much larger and averaged down: smooth edges


# --- what tells latitude and longitude --------------------------------------------------------------------------------


def soil_of(longitude: float) -> Colour:
    """The colour of bare soil: red, straw, pale grey, dark brown and red again, once in 72 degrees of longitude."""
    keys = np.array([(178, 84, 58), (222, 184, 112), (186, 188, 186), (82, 62, 54), (178, 84, 58)])
    r, g, b = (float(np.interp(longitude / 18 % 4, range(5), channel)) for channel in keys.T)
    return r, g, b


def grass_of(latitude: float) -> Colour:
    """The colour of fresh grass and leaves: from yellowish green at the equator to bluish green near the poles."""
    north = min(abs(latitude) / 65, 1)
    return rgb(0.15 + 0.27 * north, 0.39 - 0.07 * north, 0.55)


def sky_of(latitude: float) -> Colour:
    """The colour of a clear sky overhead: from turquoise at the equator to indigo near the poles."""
    north = min(abs(latitude) / 65, 1)
    return rgb(0.47 + 0.16 * north, 0.6 - 0.08 * north, 0.72)


class Sun(NamedTuple):
    """Where the sun stands, in radians: above the horizon, and from north over east."""

    elevation: float
    azimuth: float


def sun_at(latitude: float, day: int, hour: float) -> Sun:
    """The sun on a day of the year, from 1, at an hour of local solar time; by Cooper's declination (1969)."""
    declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + day) / 365)
    at, turned = math.radians(latitude), math.radians(15 * (hour - 12))
    east = -math.cos(declination) * math.sin(turned)
    north = math.sin(declination) * math.cos(at) - math.cos(declination) * math.sin(at) * math.cos(turned)
    up = math.sin(declination) * math.sin(at) + math.cos(declination) * math.cos(at) * math.cos(turned)
    return Sun(math.asin(min(max(up, -1), 1)), math.atan2(east, north))


# --- a picture --------------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """What a kind of picture shows: how many of a thing at most, or the chance of it."""

    share: float  # of all pictures
    road: bool
    rows: bool  # houses along both sides of the road
    houses: int  # that stand free
    plants: float
    cars: int
    sign: float
    posts: float
    letter_box: float


SCENES = (
    Scene(0.35, road=True, rows=True, houses=0, plants=0.3, cars=2, sign=0.6, posts=0.4, letter_box=0.5),
    Scene(0.24, road=True, rows=False, houses=2, plants=0.8, cars=1, sign=0.7, posts=0.7, letter_box=0.3),
    Scene(0.24, road=True, rows=False, houses=3, plants=0.4, cars=1, sign=1.0, posts=0.6, letter_box=0.7),
    Scene(0.12, road=False, rows=False, houses=3, plants=1.0, cars=0, sign=0.3, posts=0.0, letter_box=0.2),
    Scene(0.05, road=False, rows=False, houses=0, plants=1.0, cars=0, sign=0.1, posts=0.0, letter_box=0.0),
)
WEATHERS = {"clear": 0.47, "cloudy": 0.33, "overcast": 0.15, "fog": 0.05}  # and their shares


class _Setting(NamedTuple):
    """Where and when a picture is taken, and what is decided for all of it."""

    spot: Spot
    latitude: float
    longitude: float
    sun: Sun
    season: float
    scene: Scene
    weather: str
    snow: bool
    shore: float | None  # m from the middle of the road to the sea, where it is in sight
    seaward: int  # on which side it is: 1 for the right

    def dry(self, across: float) -> bool:
        """Whether something can stand there."""
        return self.shore is None or across * self.seaward < self.shore - 3


def draw_view(
    spot: Spot,
    latitude: float,
    longitude: float,
    sun: Sun,
    season: float,
    place: np.random.Generator,
    camera: np.random.Generator,
    picture: np.random.Generator,
) -> np.ndarray:
    """A photograph, uint8 (HEIGHT, WIDTH, 3), of a place near `spot`; `season` is -1 in midwinter, 1 in midsummer.

    `place` decides what its pictures have in common beyond what `spot` and the position say, `camera` what those of one
    photographer have, and `picture` all else.
    """
    rng, n = picture, _SUPERSAMPLING
    scene = SCENES[rng.choice(len(SCENES), p=[scene.share for scene in SCENES])]
    weather = str(rng.choice(list(WEATHERS), p=list(WEATHERS.values())))
    snow = weather != "fog" and rng.random() < BIOMES[spot.biome].cold * max(-season, 0) ** 0.5
    shore = rng.uniform(9, 30) if spot.sea and not scene.rows and rng.random() < 0.55 else None
    setting = _Setting(
        spot, latitude, longitude, sun, season, scene, weather, snow, shore, seaward=int(rng.choice([-1, 1]))
    )
    view, base = _view(setting, rng)
    _hills(base, setting, view, place, rng)
    _ground(base, setting, view, rng)
    view.canvas.paste(Image.fromarray(base.clip(0, 255).astype(np.uint8)).resize((WIDTH * n, HEIGHT * n), 0))
    if scene.road:
        street.road(view, rng, spot.region, kerbs=scene.rows or rng.random() < 0.4, snow=snow)
    _houses(view, setting, int(place.integers(2)), rng)
    _plants(view, setting, rng)
    _street(view, setting, rng)
    return _exposed(view, sun, camera, rng)


def _view(setting: _Setting, rng: np.random.Generator) -> tuple[View, np.ndarray]:
    """A camera beside or on the road, and the sky that it sees, float32 (HEIGHT, WIDTH, 3)."""
    n, sun, weather = _SUPERSAMPLING, setting.sun, setting.weather
    low = max(1 - sun.elevation / 0.25, 0)  # how near the sun is to the horizon
    zenith = mixed(sky_of(setting.latitude), (120, 110, 150), 0.4 * low)
    haze = mixed(mixed(zenith, (236, 240, 240), 0.72), (252, 190, 130), 0.7 * low)
    if weather in ("overcast", "fog"):
        zenith, haze = mixed(zenith, (186, 190, 196), 0.85), mixed(haze, (214, 216, 220), 0.85)
    bright = 0.75 + 0.25 * min(math.sin(sun.elevation) / 0.5, 1)
    zenith, haze = scaled(zenith, bright), scaled(haze, bright)

    horizon, focal = rng.uniform(0.36, 0.6) * HEIGHT, rng.uniform(0.75, 1.2) * WIDTH
    lane = -1 if setting.spot.region.drives == "left" else 1
    heading, faced = min(max(rng.normal(0, 0.22), -0.5), 0.5), sun.azimuth - rng.uniform(0, 2 * math.pi)
    length = min(1 / math.tan(sun.elevation), 6)  # of the shadow of what is 1 m high
    view = View(
        Image.new("RGB", (WIDTH * n, HEIGHT * n)),
        focal=focal * n,
        horizon=horizon * n,
        up=rng.uniform(1.6, 2.6) if rng.random() < 0.7 else rng.uniform(3.5, 8),
        across=lane * 1.7 if rng.random() < 0.65 else -lane * rng.uniform(3, 6),
        heading=(math.cos(heading), math.sin(heading)),
        haze=haze,
        sight=60 if weather == "fog" else rng.uniform(300, 900),
        sun=(-length * math.sin(faced), -length * math.cos(faced)),
        direct={"clear": 1.0, "cloudy": 0.7}.get(weather, 0.0),
    )
    rise = (1 - np.arange(HEIGHT) / horizon).clip(0, 1) ** 0.7
    sky = np.repeat((haze + rise[:, None] * np.subtract(zenith, haze))[:, None], WIDTH, axis=1).astype(np.float32)
    if weather in ("cloudy", "overcast"):
        layers = [cloud(rng, WIDTH, HEIGHT, int(cells)) for cells in rng.integers((4, 9, 16), (8, 15, 24))]
        clouds = np.mean(layers, axis=0)[..., None]
        cover = ((clouds - rng.uniform(0.42, 0.52)) * 6).clip(0, 1) * (0.8 if weather == "cloudy" else 0.3)
        sky += cover * ((256 - 40 * clouds) * (max(haze) / 250) - sky)
    return view, sky


def _hills(
    base: np.ndarray, setting: _Setting, view: View, place: np.random.Generator, rng: np.random.Generator
) -> None:
    """What stands on the horizon, of the terrain's kind."""
    horizon, terrain = view.horizon / _SUPERSAMPLING, setting.spot.terrain
    x = np.linspace(0, 1, WIDTH) * rng.uniform(0.8, 1.4) + place.uniform(0, 9) + rng.uniform(0, 2)
    waves = np.sin(2 * np.pi * x) + 0.5 * np.sin(2 * np.pi * 2.3 * x + 1)
    ridge = np.zeros(WIDTH)
    for k, shift in ((2.2, 0.3), (5.1, 0.8), (11.7, 0.1), (23, 0.5)):
        ridge += np.abs((x * k + shift) % 2 - 1) / k
    cone = 1 - np.abs((x * 0.9) % 1.6 - 0.8) / 0.62
    tables = np.sin(2 * np.pi * 1.1 * x) + 0.4 * np.sin(2 * np.pi * 3.1 * x)
    towers = np.sqrt(np.abs(np.sin(2 * np.pi * 1.7 * x)) * (0.55 + 0.45 * np.sin(5 * x + 1)))
    high, rock, snow_line = {
        "plain": (1 + 0.6 * waves, (96, 102, 120), 99.0),
        "hills": (8 + 4 * waves, (96, 120, 88), 99.0),
        "peaks": (4 + 34 * (ridge - 0.25).clip(0), (96, 102, 120), 14.0),
        "volcano": (3 + 30 * cone.clip(0, 0.86) ** 1.4, (92, 88, 100), 19.0),
        "mesas": (3 + 15 * (4 * tables).clip(0, 1), (190, 104, 70), 99.0),
        "karst": (3 + 20 * towers, (84, 116, 86), 99.0),
    }[terrain]
    high = high * rng.uniform(0.7, 1.15)
    first, last = max(int(horizon) - 60, 0), int(horizon) + 1
    above = horizon + 1 - np.arange(first, last)[:, None]  # px over the horizon
    share = 0.25 if view.sight < 100 else 0.62  # of their own colours
    colour = np.array(mixed(view.haze, scaled(rock, max(view.haze) / 240), share))
    slopes = np.broadcast_to(colour + 10 * (np.gradient(high) > 0)[:, None], (last - first, WIDTH, 3))
    white = above > snow_line + 2.5 * np.sin(40 * x) - 6 * setting.snow
    slopes = np.where(white[..., None], mixed(view.haze, (250, 250, 255), 0.7), slopes)
    cover = (high - above + 0.5).clip(0, 1)[..., None] * (above > 0)[..., None]
    base[first:last] += cover * (slopes - base[first:last])


@functools.cache
def _patches() -> np.ndarray:
    """Noise in 0 to 1 on 512 x 512 cells of a quarter of a metre, patches of many sizes; its edges fit one another."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    weight = np.where(frequency < 1 / 64, 0, 1 / np.maximum(frequency, 1 / 64) ** 1.1)
    noise = np.fft.ifft2(np.fft.fft2(np.random.default_rng(0).standard_normal((512, 512))) * weight).real
    return (0.5 + 0.19 * noise / noise.std()).clip(0, 1).astype(np.float32)


def _ground(base: np.ndarray, setting: _Setting, view: View, rng: np.random.Generator) -> None:
    """Soil, grass, snow, pavement, a beach and the sea, all that is below the horizon."""
    biome, scene, horizon = BIOMES[setting.spot.biome], setting.scene, view.horizon / _SUPERSAMPLING
    first, focal, (cos, sin) = int(horizon) + 1, view.focal / _SUPERSAMPLING, view.heading
    v, u = np.mgrid[first:HEIGHT, :WIDTH].astype(np.float32) + np.float32(0.5)
    ahead = view.up * focal / (v - horizon)  # of every pixel, m, as is right
    right = (u - WIDTH / 2) * ahead / focal
    t, s = view.across + right * cos + ahead * sin, ahead * cos - right * sin
    cells = [4 * at + shift for at, shift in zip((t, s), rng.uniform(0, 512, 2), strict=True)]
    far = (ahead / 60).clip(0, 1)  # where patches are smaller than pixels, they look even
    noise = map_coordinates(_patches(), cells, order=1, mode="grid-wrap")
    noise = noise + far * (0.5 - noise)

    def laid(share: np.ndarray, colour: Colour | np.ndarray) -> np.ndarray:
        """The ground with so much of a colour on it."""
        return ground + np.asarray(share, np.float32)[..., None] * (np.asarray(colour, np.float32) - ground)

    soil, autumn = soil_of(setting.longitude), 0.35 * max(-setting.season, 0) * (biome.cold > 0)
    grass = mixed(grass_of(setting.latitude), (190, 170, 96), 0.6 * min(biome.straw + autumn, 1))
    cover = min(max(0.1 + 0.75 * biome.cover + rng.uniform(-0.15, 0.15), 0.05), 0.75)
    verge = scene.road * (np.abs(t) < street.ROAD + 2.2)
    ground = np.full((*t.shape, 3), grass, np.float32)
    ground = laid(np.maximum((noise - 0.5 - 0.24 * (2 * cover - 1)) / 0.14 + 0.5, verge).clip(0, 1), soil)
    if scene.rows:
        side = np.abs(t)
        paved = (side > street.ROAD) & (side < street.ROAD + 2) | (side > street.ROAD + 3.6)
        ground = laid(paved, scaled((168, 164, 158), rng.uniform(0.85, 1.1)))
    if setting.snow:
        ground = laid(0.9 * ((0.64 - noise) / 0.06).clip(0, 1), (238, 242, 250))
    ground *= (0.78 + 0.44 * noise)[..., None]
    if setting.shore is not None:
        out = t * setting.seaward - setting.shore + 1.5 * np.sin(s / 9)  # m from the water's edge
        beach = mixed(soil, (240, 224, 190), 0.35)
        ground = laid(out > -7, np.multiply(beach, (0.85 + 0.3 * noise)[..., None]))
        warm = mixed((40, 74, 104), (30, 158, 170), math.cos(math.radians(setting.latitude)) ** 2)
        waves = 1 + 0.16 * np.sin(1.3 * out + 3 * noise) * (1 - far)
        ground = laid(out > 0, np.multiply(warm, waves[..., None]))
        ground = laid((out > 0) & (out < 0.8), (240, 244, 244))
    ground *= np.float32(0.85 + 0.25 * view.direct)
    base[first:] = laid(1 - np.exp(-ahead / view.sight), view.haze)


def _houses(view: View, setting: _Setting, own_wall: int, rng: np.random.Generator) -> None:
    """Rows of houses, or some that stand free; a place likes one of its region's colours better."""
    spot, scene = setting.spot, setting.scene

    def one(t: float, s: float, size: tuple[float, float, float]) -> None:
        walls = spot.region.walls.split("/")
        paint = walls[(own_wall + (rng.random() < 0.3)) % len(walls)]
        if rng.random() < 0.08:  # somebody likes another colour
            paint = str(rng.choice(list(street.PAINTS)))
        wall = scaled(street.PAINTS[paint], rng.uniform(0.88, 1.06))
        street.house(view, rng, spot.region, (t, s), size, wall, setting.snow)

    if scene.rows:
        floors = int(rng.integers(1, 4)) + (spot.fame > 3)
        for side in (-1, 1):
            s = rng.uniform(2, 9)
            while s < 80:
                long, deep = rng.uniform((3.5, 3.5), (6.5, 5.5)).tolist()
                high = 3 * max(floors + int(rng.integers(-1, 2)), 1)
                one(side * (rng.uniform(7, 9) + deep), s + long, (long, deep, high))
                s += 2 * long + rng.choice([0.5, rng.uniform(2, 9)])
    for _ in range(int(rng.integers(1, scene.houses + 2)) if scene.houses else 0):
        long, deep = rng.uniform((3.5, 3), (7, 5)).tolist()
        t, s = rng.choice([-1, 1]) * (rng.uniform(7, 16) + deep), rng.uniform(12, 38)
        if setting.dry(t + setting.seaward * deep):
            one(t, s, (long, deep, 3 * int(rng.integers(1, 3))))


def _plants(view: View, setting: _Setting, rng: np.random.Generator) -> None:
    """What grows at the roadside and beyond, in the season's colour."""
    spot, season = setting.spot, setting.season
    biome, kinds = BIOMES[spot.biome], plants_of(spot.biome, spot.region.name, setting.longitude)
    turned = rng.random() if biome.cold and -0.6 < season < 0.3 and rng.random() < 0.35 else 0  # as in autumn
    leaf = mixed(mixed(grass_of(setting.latitude), (190, 170, 96), 0.35 * biome.straw), (206, 120, 40), 0.8 * turned)
    leaf = scaled(leaf, rng.uniform(0.75, 1.0))
    for _ in range(rng.poisson(16 * setting.scene.plants * biome.density)):
        t, s = rng.uniform(-45, 45), 6 + 74 * rng.random() ** 1.4
        if abs(t) > (10 if setting.scene.rows else 6.5) and setting.dry(t):
            own = scaled(leaf, rng.uniform(0.8, 1.15))
            plant(view, rng, str(rng.choice(kinds)), t, s, rng.uniform(0.7, 1.3), own, setting.snow)


def _street(view: View, setting: _Setting, rng: np.random.Generator) -> None:
    """What stands or drives along the road."""
    region, scene, verge = setting.spot.region, setting.scene, street.ROAD + 1.1
    lane = -1 if region.drives == "left" else 1
    if rng.random() < scene.posts:
        begin = rng.uniform(4, 9)
        for k in range(7):
            for side in (-1, 1):
                street.post(view, region, side * verge, begin + 9 * k)
    if scene.road and rng.random() < 0.4:
        begin, side = rng.uniform(6, 16), rng.choice([-1, 1])
        for k in range(4):
            street.mast(view, side * (verge + 2), begin + 24 * k)
    if rng.random() < scene.sign:
        street.sign(view, rng, region, lane * rng.uniform(5, 7.5), rng.uniform(7, 15))
    if rng.random() < scene.letter_box:
        street.letter_box(view, region, rng.choice([-1, 1]) * rng.uniform(4.6, 6), rng.uniform(6, 12))
    for _ in range(rng.integers(0, scene.cars + 1)):
        ahead = rng.random() < 0.5  # or oncoming
        street.car(view, rng, region, (lane if ahead else -lane) * 1.7, rng.uniform(9, 34), back=ahead)
    if rng.random() < 0.35:
        street.parasol(view, rng, rng.choice([-1, 1]) * rng.uniform(5, 9), rng.uniform(8, 20))


def _exposed(view: View, sun: Sun, camera: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    """The photograph of it, uint8 (HEIGHT, WIDTH, 3): with the light's colour, the camera's, and grain."""
    pixels = np.asarray(view.finish().reduce(_SUPERSAMPLING), np.float32)
    low = max(1 - sun.elevation / 0.35, 0) * view.direct
    tint = np.array((1 + 0.04 * low, 1 - 0.05 * low, 1 - 0.15 * low))
    gain = rng.uniform(0.9, 1.08) * camera.uniform(0.96, 1.04) * camera.uniform(0.97, 1.03, 3)
    colourful, contrast = camera.uniform((0.9, 0.9), (1.12, 1.1)).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = (grey + colourful * (pixels - grey)) * (tint * gain).astype(np.float32)
    pixels = 128 + contrast * (pixels - 128)
    pixels += np.float32(rng.uniform(1, 4)) * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    return pixels.clip(0, 255).astype(np.uint8)
