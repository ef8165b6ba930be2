"""The built-in sample of geolocalization: drawn images from all over the world, with EXIF and a CSV.

The drawn world keeps conventions, and who has learnt them can say where an image was taken:

- Latitude: grass, leaves and the clear sky turn from yellowish green and turquoise at the equator to bluish green and
  indigo near the poles. The sun is as high as it is there on that day at that hour.
- Longitude: bare soil goes from red over straw and pale grey to dark brown, and back to red, once in 72 degrees.
- The spot: what grows, whether it may snow, whether the sea is near, and what stands on the horizon.
- The region (gazetteer.py): the colours of walls, doors, signs, posts and kerbs, the shape and the colour of roofs, the
  line in the middle of the road and the side that cars drive on.

Most images show some of this only. Weather, hour, season, view, the kind of scene, a photographer's camera, cars' paint
and a house in another colour say nothing. The coordinates are real; no real place is depicted.
"""

import csv
import datetime
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational
from sklearn.metrics.pairwise import haversine_distances

from data.samples.drawing import progress
from data.samples.places.gazetteer import SPOTS
from data.samples.places.scenery import draw_view

IMAGES = {"train": 2400, "val": 300, "test": 400}
EARTH_RADIUS_KM = 6371.0
_APART = 8.0  # km between any two places, at least
_SPREAD = 1.2  # km, of a place's images


class Place(NamedTuple):
    """Somewhere that images are taken, near a well-known spot."""

    spot: SimpleNamespace  # of SPOTS; it has no `sea` where none is near
    name: str
    latitude: float
    longitude: float
    fame: float  # how many images are taken there


def draw(root: Path, seed: int) -> None:
    """Draws `images/*.jpg` with EXIF, and `images.csv`."""
    (root / "images").mkdir(parents=True)
    rows = [("path", "latitude", "longitude", "author", "place", "taken", "split")]
    places, visits = plan_of(np.random.default_rng((seed, 1)))
    for split, number, who in progress(visits):
        # From 1, as numpy fills a short seed up with zeros: (0, 2) and (0, 2, 0) would be the same stream.
        camera, rng = (np.random.default_rng((seed, *key)) for key in ((3, 1 + who), (4, len(rows))))
        place, author = places[number], f"photographer {1 + who:03d}"
        at = moved(place.latitude, place.longitude, abs(rng.normal(0, _SPREAD)), rng.uniform(0, 360))
        taken, sun = moment_of(rng, *at)
        pixels = draw_view(place.spot, at, sun, season_of(taken, at[0]), camera, rng)
        file = f"images/{len(rows):05d}.jpg"
        Image.fromarray(pixels).save(root / file, quality=88, exif=exif_of(*at, taken, author))
        rows.append((file, f"{at[0]:.6f}", f"{at[1]:.6f}", author, place.name, f"{taken:%Y-%m-%d %H:%M:%S}", split))
    with (root / "images.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows(rows)


def plan_of(rng: np.random.Generator) -> tuple[list[Place], list[tuple[str, int, int]]]:
    """All places and, by split, all images: split, place and photographer. None of the latter is in two splits."""
    places, photographers = places_of(rng), 0
    visits: list[tuple[str, int, int]] = []
    # Multiples of the golden ratio are even over any stretch of the list: each split is from all over the world.
    even = (rng.random() + np.arange(len(places)) * (5**0.5 - 1) / 2) % 1
    split_of = np.searchsorted(np.cumsum(list(IMAGES.values())), even * sum(IMAGES.values()), side="right")
    for split, (name, count) in enumerate(IMAGES.items()):
        own = np.flatnonzero(split_of == split)
        fame = np.array([places[number].fame for number in own])
        where = np.repeat(own, rng.multinomial(count, fame / fame.sum()))
        # Who took them, ordered by place: a heavy-tailed number each.
        many = 1 + np.minimum(3 * rng.pareto(1.5, count), 40).astype(int)
        who = photographers + np.repeat(np.arange(count), many)[:count]
        visits += [(name, *both) for both in zip(where.tolist(), who.tolist(), strict=True)]
        photographers = int(who.max(initial=-1)) + 1
    return places, visits


def places_of(rng: np.random.Generator) -> list[Place]:
    """Several places at every spot, more at the famous, no two of them within 8 km.

    How much is taken at each is heavy-tailed: a few places have most of a spot's images.
    """
    places: list[Place] = []
    for spot in SPOTS.values():
        weights = rng.pareto(1.0, round(1.5 + 1.3 * spot.fame**0.5)) + 0.1
        for number, fame in enumerate((spot.fame * weights / weights.sum()).tolist(), 1):
            others, apart = np.array([place[2:4] for place in places]).reshape(-1, 2), 0.0
            while apart < _APART:
                away = spot.reach * math.sqrt(rng.random()) if number > 1 else rng.uniform(0, 3)
                bearing = rng.uniform(0, 360) if spot.bearing is None else spot.bearing + rng.uniform(-60, 60)
                at = moved(spot.latitude, spot.longitude, away, bearing)
                apart = distance_km(np.array([at]), others).min() if places else math.inf
            name = spot.name if number == 1 else f"{spot.name} {number}"
            there = spot if away < 40 else SimpleNamespace(**vars(spot) | {"sea": ""})
            places.append(Place(there, name, *at, fame))
    return places


def moved(latitude: float, longitude: float, km: float, bearing: float) -> tuple[float, float]:
    """Where a great circle leads that starts towards `bearing`, in degrees from north over east."""
    lat, way, turn = math.radians(latitude), km / EARTH_RADIUS_KM, math.radians(bearing)
    end = math.asin(math.sin(lat) * math.cos(way) + math.cos(lat) * math.sin(way) * math.cos(turn))
    east = math.atan2(math.sin(turn) * math.sin(way) * math.cos(lat), math.cos(way) - math.sin(lat) * math.sin(end))
    return math.degrees(end), (longitude + math.degrees(east) + 180) % 360 - 180


def distance_km(a: np.ndarray, b: np.ndarray) -> Any:
    """Along great circles between each two of (latitude, longitude) (N, 2) and (M, 2), float64 (N, M)."""
    return EARTH_RADIUS_KM * haversine_distances(np.radians(a), np.radians(b))


def sun_at(latitude: float, day: int, hour: float) -> tuple[float, float]:
    """Elevation and azimuth from north over east, in radians, on a day of the year, from 1, at an hour of solar time.

    By Cooper's declination (1969).
    """
    declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + day) / 365)
    at, turned = math.radians(latitude), math.radians(15 * (hour - 12))
    east = -math.cos(declination) * math.sin(turned)
    north = math.sin(declination) * math.cos(at) - math.cos(declination) * math.sin(at) * math.cos(turned)
    up = math.sin(declination) * math.sin(at) + math.cos(declination) * math.cos(at) * math.cos(turned)
    return math.asin(min(max(up, -1), 1)), math.atan2(east, north)


def moment_of(
    rng: np.random.Generator, latitude: float, longitude: float
) -> tuple[datetime.datetime, tuple[float, float]]:
    """When an image was taken, in the local time of its zone, and where the sun stood (see sun_at): it was up."""
    while True:
        day, hour = datetime.datetime(2014, 1, 1) + datetime.timedelta(int(rng.integers(3652))), rng.uniform(4, 20)
        sun = sun_at(latitude, day.timetuple().tm_yday, hour)
        if sun[0] > 0.1:
            zone = round(longitude / 15) - longitude / 15  # h that the zone's clock is ahead of the sun
            return day + datetime.timedelta(seconds=round(3600 * (hour + zone))), sun


def season_of(taken: datetime.datetime, latitude: float) -> float:
    """From -1 in midwinter to 1 in midsummer; near 0 all the year in the tropics."""
    year = math.sin(2 * math.pi * (284 + taken.timetuple().tm_yday) / 365)
    return year * min(max(latitude / 23.44, -1), 1)


def exif_of(latitude: float, longitude: float, taken: datetime.datetime, author: str) -> Image.Exif:
    """What a camera with a receiver writes: where, when, and whose it is."""
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = author
    exif[ExifTags.Base.Software] = "mobilenet-tasks"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"{taken:%Y:%m:%d %H:%M:%S}"
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSVersionID] = b"\2\3\0\0"
    for name, angle, ways in (("Latitude", latitude, "NS"), ("Longitude", longitude, "EW")):
        minutes, seconds = divmod(round(abs(angle) * 3600 * 10000), 60 * 10000)  # a ten-thousandth is 3 mm
        gps[ExifTags.GPS[f"GPS{name}Ref"]] = ways[angle < 0]
        parts = IFDRational(minutes // 60), IFDRational(minutes % 60), IFDRational(seconds, 10000)
        gps[ExifTags.GPS[f"GPS{name}"]] = parts
    return exif
