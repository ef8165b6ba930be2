"""The built-in sample of geolocalization: drawn photographs from all over the world, with EXIF and a CSV.

The drawn world keeps conventions, and who has learnt them can say where a picture was taken. No number in it says so,
and what is written has the look of a script but no meaning.

- Latitude: grass, leaves and the clear sky turn from yellowish green and turquoise at the equator to bluish green and
  indigo near the poles, and the sea from turquoise to grey. The sun is as high as it is there on that day at that hour.
- Longitude: bare soil goes from red over straw and pale grey to dark brown, and back to red, once in 72 degrees.
- The spot: what grows, whether it may snow, whether the sea is near, and what stands on the horizon: hills, peaks, a
  volcano, mesas or towers of karst.
- The region, of which there are 46 (gazetteer.py): the colours of walls, doors and shutters, the shape and the colour
  of roofs, the script and the colours of signs, number plates and letter boxes, the line in the middle of the road, the
  side that cars drive on, the stripes of posts and kerbs.

Most pictures show some of this only. Weather, hour, season, view, the kind of scene, a photographer's camera, cars'
paint, parasols and a house in another colour say nothing. The coordinates are real; no real place is depicted.
"""

import csv
import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational
from tqdm import tqdm

from data.samples.drawing import drawn_whole
from data.samples.places.gazetteer import SPOTS, Spot
from data.samples.places.scenery import Sun, draw_view, sun_at

IMAGES = {"train": 2400, "val": 300, "test": 400}
EARTH_RADIUS_KM = 6371.0
_APART = 8.0  # km between any two places, at least
_SPREAD = 1.2  # km, of a place's photographs


class Place(NamedTuple):
    """Somewhere that photographs are taken, near a well-known spot."""

    spot: Spot
    name: str
    latitude: float
    longitude: float
    sea: bool
    fame: float  # how much of what is photographed near the spot


def write_places_sample(folder: str | Path, seed: int = 0) -> None:
    """Draws the data set into `folder`: `photographs/*.jpg` with EXIF, and `photographs.csv`.

    The same `seed` gives the same files. It is drawn beside `folder` and moved there when complete, so that a kill
    leaves no half of one. Raises InputError where `folder` holds anything already.
    """
    with drawn_whole(folder) as drawn:
        _write(drawn, seed)


def _write(root: Path, seed: int) -> None:
    (root / "photographs").mkdir(parents=True)
    rows = [("path", "latitude", "longitude", "author", "place", "taken", "split")]
    places, visits = plan_of(np.random.default_rng((seed, 1)))
    for split, at, who in tqdm(visits, desc="drawing the sample", unit="image", delay=2, leave=False):
        # From 1, as numpy fills a short seed up with zeros: (0, 2) and (0, 2, 0) would be the same stream.
        keys = (2, 1 + at), (3, 1 + who), (4, len(rows))
        photograph = photograph_of(places[at], *(np.random.default_rng((seed, *key)) for key in keys))
        file, author = f"photographs/{len(rows):05d}.jpg", f"photographer {1 + who:03d}"
        Image.fromarray(photograph.pixels).save(root / file, quality=88, exif=exif_of(photograph, author))
        position = f"{photograph.latitude:.6f}", f"{photograph.longitude:.6f}"
        rows.append((file, *position, author, places[at].name, f"{photograph.taken:%Y-%m-%d %H:%M:%S}", split))
    with (root / "photographs.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows(rows)


class Visit(NamedTuple):
    """A photograph to be taken: of which split, at which place and by which photographer, both from 0."""

    split: str
    place: int
    photographer: int


def plan_of(rng: np.random.Generator) -> tuple[list[Place], list[Visit]]:
    """All places and, by split, all photographs; no place and no photographer is in two splits."""
    places, visits, photographers = places_of(rng), [], 0
    # Multiples of the golden ratio are even over any stretch of the list: each split is from all over the world.
    even = (rng.random() + np.arange(len(places)) * (5**0.5 - 1) / 2) % 1
    split_of = np.searchsorted(np.cumsum(list(IMAGES.values())), even * sum(IMAGES.values()), side="right")
    for split, (name, count) in enumerate(IMAGES.items()):
        own = np.flatnonzero(split_of == split)
        where = np.repeat(own, rng.multinomial(count, shares_of([places[at] for at in own])))
        who = photographers + photographers_of(rng, count)
        visits += [Visit(name, *both) for both in zip(where.tolist(), who.tolist(), strict=True)]
        photographers += len(set(who.tolist()))
    return places, visits


class Photograph(NamedTuple):
    """A picture, uint8 (HEIGHT, WIDTH, 3), with where and when it was taken."""

    pixels: np.ndarray
    latitude: float
    longitude: float
    taken: datetime.datetime  # in the local time of its zone


def photograph_of(
    place: Place, look: np.random.Generator, camera: np.random.Generator, picture: np.random.Generator
) -> Photograph:
    """A photograph of a place; `look` is the place's stream, `camera` the photographer's. See scenery.draw_view()."""
    at = moved(place.latitude, place.longitude, abs(picture.normal(0, _SPREAD)), picture.uniform(0, 360))
    taken, sun = moment_of(picture, *at)
    spot = place.spot._replace(sea=place.sea)
    return Photograph(draw_view(spot, *at, sun, season_of(taken, at[0]), look, camera, picture), *at, taken)


# --- where, when, who -------------------------------------------------------------------------------------------------


def places_of(rng: np.random.Generator) -> list[Place]:
    """Several places at every spot, more at the famous, no two of them within 8 km.

    How much is photographed at each is heavy-tailed: a few places have most of a spot's photographs.
    """
    places: list[Place] = []
    for spot in SPOTS:
        weights = rng.pareto(1.0, round(1.5 + 1.3 * spot.fame**0.5)) + 0.1
        for number, weight in enumerate(weights.tolist(), 1):
            while True:
                away = spot.reach * np.sqrt(rng.random()) if number > 1 else rng.uniform(0, 3)
                bearing = rng.uniform(0, 360) if spot.bearing is None else spot.bearing + rng.uniform(-60, 60)
                at = moved(spot.latitude, spot.longitude, away, bearing)
                others = np.array([(other.latitude, other.longitude) for other in places]).reshape(-1, 2)
                if (distance_km(np.array(at), others) >= _APART).all():
                    break
            name = spot.name if number == 1 else f"{spot.name} {number}"
            places.append(Place(spot, name, *at, sea=spot.sea and away < 40, fame=weight))
    return places


def shares_of(places: list[Place]) -> np.ndarray:
    """How much of a split is taken at each of its places, float64 (N,) of sum 1: a spot's share is as its fame."""
    total: dict[str, float] = {}
    for place in places:
        total[place.spot.name] = total.get(place.spot.name, 0) + place.fame
    shares = np.array([place.spot.fame * place.fame / total[place.spot.name] for place in places])
    return shares / shares.sum()


def moved(latitude: float, longitude: float, km: float, bearing: float) -> tuple[float, float]:
    """Where a great circle leads that starts towards `bearing`, in degrees from north over east."""
    lat, way, turn = np.radians(latitude), km / EARTH_RADIUS_KM, np.radians(bearing)
    end = np.arcsin(np.sin(lat) * np.cos(way) + np.cos(lat) * np.sin(way) * np.cos(turn))
    east = np.arctan2(np.sin(turn) * np.sin(way) * np.cos(lat), np.cos(way) - np.sin(lat) * np.sin(end))
    return float(np.degrees(end)), float((longitude + np.degrees(east) + 180) % 360 - 180)


def distance_km(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Along great circles between (latitude, longitude) (..., 2), by the haversine formula."""
    (lat1, lng1), (lat2, lng2) = (np.moveaxis(np.radians(latlng), -1, 0) for latlng in (a, b))
    h = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lng2 - lng1) / 2) ** 2
    kilometres: np.ndarray = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(h))
    return kilometres


def photographers_of(rng: np.random.Generator, images: int) -> np.ndarray:
    """Who took each of the pictures, ordered by place, from 0, int64 (images,): a heavy-tailed number each."""
    return np.repeat(np.arange(images), 1 + np.minimum(3 * rng.pareto(1.5, images), 40).astype(int))[:images]


def moment_of(rng: np.random.Generator, latitude: float, longitude: float) -> tuple[datetime.datetime, Sun]:
    """When a picture was taken, in the local time of its zone, and where the sun stood: it was up."""
    while True:
        day = datetime.date(2014, 1, 1) + datetime.timedelta(days=int(rng.integers(3652)))
        hour = rng.uniform(4, 20)
        sun = sun_at(latitude, day.timetuple().tm_yday, hour)
        if sun.elevation > 0.1:
            zone = round(longitude / 15) - longitude / 15  # h that the zone's clock is ahead of the sun
            midnight = datetime.datetime.combine(day, datetime.time())
            return midnight + datetime.timedelta(seconds=round(3600 * (hour + zone))), sun


def season_of(taken: datetime.datetime, latitude: float) -> float:
    """From -1 in midwinter to 1 in midsummer; near 0 all the year in the tropics."""
    year = np.sin(2 * np.pi * (284 + taken.timetuple().tm_yday) / 365)
    return float(year * np.clip(latitude / 23.44, -1, 1))


def exif_of(photograph: Photograph, author: str) -> Image.Exif:
    """What a camera with a receiver writes: where, when, and whose it is."""
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = author
    exif[ExifTags.Base.Software] = "mobilenet-tasks"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"{photograph.taken:%Y:%m:%d %H:%M:%S}"
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSVersionID] = b"\2\3\0\0"
    gps[ExifTags.GPS.GPSLatitudeRef] = "N" if photograph.latitude >= 0 else "S"
    gps[ExifTags.GPS.GPSLatitude] = _degrees(photograph.latitude)
    gps[ExifTags.GPS.GPSLongitudeRef] = "E" if photograph.longitude >= 0 else "W"
    gps[ExifTags.GPS.GPSLongitude] = _degrees(photograph.longitude)
    return exif


def _degrees(angle: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """Degrees, minutes, and seconds to a ten-thousandth, 3 mm."""
    parts = round(abs(angle) * 3600 * 10000)
    minutes, seconds = divmod(parts, 60 * 10000)
    return IFDRational(minutes // 60), IFDRational(minutes % 60), IFDRational(seconds, 10000)
