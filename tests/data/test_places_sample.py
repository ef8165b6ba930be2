import csv
import datetime
import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import ExifTags, Image

from backbone.errors import InputError
from data.coordinates import IssueCounts
from data.readers.coordinates_csv import Columns, read_rows
from data.samples import places
from data.samples.__main__ import main
from data.samples.places import (
    Place,
    distance_km,
    gazetteer,
    moment_of,
    moved,
    perspective,
    photographers_of,
    places_of,
    plan_of,
    scenery,
    season_of,
    shares_of,
    street,
    write_places_sample,
)
from data.samples.places.gazetteer import SPOTS
from data.samples.places.plants import BIOMES, PLANTS, plants_of
from data.samples.places.scenery import HEIGHT, SCENES, WIDTH, Sun, draw_view, grass_of, sky_of, soil_of, sun_at

SMALL = {"train": 18, "val": 5, "test": 8}
REGIONS = list({spot.region.name: spot.region for spot in SPOTS}.values())
COASTLINE = Path(__file__).parents[2] / "tasks" / "geolocalization" / "coastline_110m.npz"


def write_small(folder, patch, seed=0, images=SMALL):
    patch.setattr(places, "IMAGES", images)
    write_places_sample(folder, seed)
    return folder


def rows_of(folder):
    with (folder / "photographs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def positions(rows):
    return np.array([(float(row["latitude"]), float(row["longitude"])) for row in rows])


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return write_small(tmp_path_factory.mktemp("samples") / "places", patch)


@pytest.fixture(scope="module")
def whole():
    """The plan of the whole sample: its places, and the split, place and photographer of every photograph."""
    found, visits = plan_of(np.random.default_rng((0, 1)))
    return found, np.array([visit.split for visit in visits]), np.array([visit[1:] for visit in visits])


def latlng_of(found):
    return np.array([(place.latitude, place.longitude) for place in found])


# --- the layout -------------------------------------------------------------------------------------------------------


def test_the_csv_lists_every_picture_once_and_the_projects_reader_takes_all_of_it(sample):
    rows = rows_of(sample)
    assert list(rows[0]) == ["path", "latitude", "longitude", "author", "place", "taken", "split"]
    assert Counter(row["split"] for row in rows) == SMALL
    assert {path.name for path in sample.iterdir()} == {"photographs", "photographs.csv"}
    files = sorted(path.relative_to(sample).as_posix() for path in (sample / "photographs").iterdir())
    assert files == [row["path"] for row in rows] == [f"photographs/{number:05d}.jpg" for number in range(1, 32)]
    contents = [(sample / file).read_bytes() for file in files]
    assert len(set(contents)) == 31
    assert np.mean([len(content) for content in contents]) * 3100 < 30e6
    for file in files:
        with Image.open(sample / file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
    counts = IssueCounts("row")
    (read,) = read_rows(sample / "photographs.csv", Columns(), counts)
    assert not counts.issues
    np.testing.assert_array_equal(read.latlng, positions(rows))
    assert read.groups.tolist() == [row["author"].encode() for row in rows]
    assert read.taken.tolist() == [row["taken"].encode() for row in rows]
    assert read.splits.tolist() == [row["split"].encode() for row in rows]


def test_exif_says_what_the_csv_says(sample):
    for row in rows_of(sample):
        with Image.open(sample / row["path"]) as image:
            exif = image.getexif()
            gps, times = exif.get_ifd(ExifTags.IFD.GPSInfo), exif.get_ifd(ExifTags.IFD.Exif)
        for name, positive in (("Latitude", "N"), ("Longitude", "E")):
            degrees, minutes, seconds = (float(part) for part in gps[ExifTags.GPS[f"GPS{name}"]])
            assert 0 <= minutes < 60
            assert 0 <= seconds < 60
            sign = 1 if gps[ExifTags.GPS[f"GPS{name}Ref"]] == positive else -1
            angle = sign * (degrees + minutes / 60 + seconds / 3600)
            assert angle == pytest.approx(float(row[name.lower()]), abs=1e-6)
        assert exif[ExifTags.Base.Artist] == row["author"]
        assert times[ExifTags.Base.DateTimeOriginal] == row["taken"].replace("-", ":")


def test_a_position_in_degrees_minutes_and_seconds_worked_by_hand():
    photograph = places.Photograph(np.zeros(0), -33.8567844, 151.213108, datetime.datetime(2020, 2, 29, 7, 5, 9))
    exif = places.exif_of(photograph, "somebody")
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    # 0.8567844 * 60 = 51.407064 and 0.407064 * 60 = 24.42384; 0.213108 * 60 = 12.78648 and 0.78648 * 60 = 47.1888
    assert [float(part) for part in gps[ExifTags.GPS.GPSLatitude]] == [33, 51, 24.4238]
    assert [float(part) for part in gps[ExifTags.GPS.GPSLongitude]] == [151, 12, 47.1888]
    assert (gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef]) == ("S", "E")
    assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:02:29 07:05:09"
    assert [float(part) for part in places._degrees(0.99999999999)] == [1, 0, 0]  # never 60 seconds


# --- where and who ----------------------------------------------------------------------------------------------------


def test_no_photographer_and_no_place_is_in_two_splits(whole, sample):
    _, split, visits = whole
    assert Counter(split.tolist()) == places.IMAGES
    assert [len(np.unique(column)) for column in visits.T] > [400, 400]
    rows = rows_of(sample)
    for column in (*visits.T, *(np.array([row[what] for row in rows]) for what in ("place", "author"))):
        names = split if len(column) == len(split) else np.array([row["split"] for row in rows])
        splits = [set(column[names == name].tolist()) for name in places.IMAGES]
        assert sum(map(len, splits)) == len(set.union(*splits))


def test_a_test_picture_is_near_a_place_to_learn_from_but_not_at_it(whole):
    found, split, visits = whole
    latlng = latlng_of(found)[visits[:, 0]]
    nearest = distance_km(latlng[split == "test"][:, None], latlng[split == "train"]).min(axis=1)
    assert nearest.min() >= 8
    assert np.median(nearest) > 20
    assert (nearest < 750).mean() > 0.95


def test_pictures_are_taken_about_their_place(sample):
    found = {place.name: place for place in places_of(np.random.default_rng((0, 1)))}
    rows = rows_of(sample)
    away = distance_km(latlng_of([found[row["place"]] for row in rows]), positions(rows))
    assert 0 < away.min() < away.max() < 5


def test_positions_are_legal_and_all_over_the_world(whole):
    found, split, visits = whole
    latlng = latlng_of(found)[visits[:, 0]]
    assert np.abs(latlng[:, 0]).max() < 75
    assert np.abs(latlng[:, 1]).max() <= 180
    assert len({*map(tuple, np.floor(latlng / 5).astype(int).tolist())}) >= 100
    # south, north, west, east of a part of each continent that holds nothing of another
    continents = {
        "Africa": (-35, 12, 8, 42),
        "Asia": (5, 60, 70, 145),
        "Europe": (43, 70, -10, 24),
        "North America": (26, 70, -160, -60),
        "South America": (-55, 7, -80, -35),
        "Oceania": (-47, -12, 114, 179),
    }
    for south, north, west, east in continents.values():
        inside = ((latlng > (south, west)) & (latlng < (north, east))).all(axis=1)
        assert all(inside[split == name].mean() > 0.02 for name in ("train", "test"))


def test_places_are_on_land():
    arrays = np.load(COASTLINE)
    rings = [Outline(ring) for ring in np.split(arrays["xy"] / 100, arrays["off"][1:-1])]

    def on_land(latlng):
        return np.any([ring.contains_points(latlng[:, ::-1]) for ring in rings], axis=0)

    latlng = latlng_of(places_of(np.random.default_rng((0, 1))))
    wet = latlng[~on_land(latlng)]
    assert len(wet) < 0.03 * len(latlng)
    for latitude, longitude in wet:  # the outlines are as coarse as 1 : 110,000,000
        assert on_land(np.array([moved(latitude, longitude, 30, bearing) for bearing in range(0, 360, 15)])).any()


def test_photographs_are_clustered_with_a_heavy_tail(whole):
    found, split, visits = whole
    train = visits[split == "train"]
    for column in train.T:
        counts = np.sort(np.unique(column, return_counts=True)[1])[::-1]
        assert counts[: len(counts) // 10].sum() > 0.3 * len(train)
        assert np.median(counts) <= 4
        assert counts[0] > 15
    latlng = latlng_of(found)[train[:, 0]]
    within = (distance_km(latlng[:, None], latlng) <= 750).mean(axis=1)
    assert 0.06 < within.max() < 0.15  # what always answering the best place there is would score


def test_places_keep_apart_and_near_their_spot():
    found = places_of(np.random.default_rng(3))
    assert len({place.name for place in found}) == len(found)
    assert {place.spot for place in found} == set(SPOTS)
    latlng = latlng_of(found)
    spots = np.array([(place.spot.latitude, place.spot.longitude) for place in found])
    apart = distance_km(latlng[:, None], latlng)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= 8
    away = distance_km(latlng, spots)
    assert (away <= np.array([place.spot.reach for place in found]) + 1e-6).all()
    assert not any(place.sea for place, km in zip(found, away, strict=True) if km > 40 or not place.spot.sea)


def test_shares_worked_by_hand():
    a, b = SPOTS[0]._replace(fame=3.0), SPOTS[1]._replace(fame=1.0)
    three = [Place(a, "a", 0, 0, False, 1.0), Place(a, "a 2", 0, 0, False, 2.0), Place(b, "b", 0, 0, False, 0.5)]
    np.testing.assert_allclose(shares_of(three), [0.25, 0.5, 0.25])


def test_great_circles_worked_by_hand():
    assert distance_km(np.array([48.8566, 2.3522]), np.array([51.5074, -0.1278])) == pytest.approx(343.6, abs=0.1)
    assert moved(0, 0, 6371 * np.pi / 2, 0) == pytest.approx((90, 0))
    assert moved(0, 179, 6371 * np.pi / 90, 90) == pytest.approx((0, -179))
    for bearing in range(0, 360, 40):
        end = moved(52, 13, 150, bearing)
        assert distance_km(np.array([52, 13]), np.array(end)) == pytest.approx(150)
        assert np.sign(end[0] - 52) == (1 if np.cos(np.radians(bearing)) > 0.02 else -1)


def test_a_photographer_takes_pictures_one_after_the_other():
    who = photographers_of(np.random.default_rng(0), 2000)
    assert len(who) == 2000
    assert set(np.diff(who)) == {0, 1}
    assert who[0] == 0


# --- when -------------------------------------------------------------------------------------------------------------


def test_the_sun_worked_by_hand():
    equinox, solstice = 81, 172  # sin(2 pi (284 + 81) / 365) = 0, and (284 + 172) / 365 is a quarter more than 1
    assert sun_at(0, equinox, 12).elevation == pytest.approx(np.pi / 2, abs=1e-6)
    assert np.degrees(sun_at(50, equinox, 12).elevation) == pytest.approx(40)
    assert np.degrees(sun_at(50, solstice, 12).elevation) == pytest.approx(40 + 23.45, abs=0.01)
    assert np.degrees(sun_at(-33, equinox, 12)) == pytest.approx([57, 0])  # in the north
    assert abs(np.degrees(sun_at(50, equinox, 12).azimuth)) == pytest.approx(180)
    assert np.degrees(sun_at(50, equinox, 6)) == pytest.approx([0, 90], abs=1e-6)
    assert np.degrees(sun_at(50, equinox, 18)) == pytest.approx([0, -90], abs=1e-6)
    assert sun_at(70, solstice, 0).elevation > 0  # the midnight sun
    assert sun_at(70, solstice + 182, 12).elevation < 0


@pytest.mark.parametrize(("latitude", "longitude"), [(0, 0), (48.9, 2.4), (69.6, 19.0), (-41, 174.8), (61, -149.9)])
def test_pictures_are_taken_while_the_sun_is_up_by_the_clock_of_their_zone(latitude, longitude):
    for seed in range(20):
        taken, sun = moment_of(np.random.default_rng(seed), latitude, longitude)
        solar = taken.hour + taken.minute / 60 + taken.second / 3600 + longitude / 15 - round(longitude / 15)
        again = sun_at(latitude, taken.timetuple().tm_yday, solar)
        assert again == pytest.approx(sun, abs=1e-3)
        assert sun.elevation > 0.1


def test_seasons():
    summer, winter = datetime.datetime(2020, 6, 21), datetime.datetime(2020, 12, 21)
    assert season_of(summer, 50) == pytest.approx(1, abs=1e-3)
    assert season_of(winter, 50) == pytest.approx(-1, abs=1e-3)
    assert season_of(winter, -50) == pytest.approx(1, abs=1e-3)
    assert season_of(summer, 0) == 0


# --- the conventions --------------------------------------------------------------------------------------------------


def test_the_gazetteer_names_only_what_can_be_drawn():
    assert len(REGIONS) == 46
    assert len(SPOTS) == len({spot.name for spot in SPOTS}) > 150
    for region in REGIONS:
        for colours in (region.sign, region.plate, region.tiles, region.walls, region.trim, region.posts, region.box):
            assert set(colours.split("/")) <= set(street.PAINTS), region.name
        assert region.line in street.PAINTS or region[4:6] == ("none", "none")
        assert region.dashes in ("dashed", "solid", "double", "none")
        assert region.drives in ("left", "right")
        assert region.script in street.SCRIPTS
        assert region.roof in street.ROOFS
        assert len(region.sign.split("/")) == len(region.posts.split("/")) == 2
    for spot in SPOTS:
        assert set(plants_of(spot.biome, spot.region.name, spot.longitude)) <= set(PLANTS)
    assert {biome for spot in SPOTS for biome in [spot.biome]} == set(BIOMES)


def test_a_row_of_the_gazetteer_worked_by_hand():
    (spot,) = gazetteer._read(
        "Here and There: latin red/white pink white solid left hip rust sky navy red/black lime\n"
        "  San_Juan  -1.5  2.25  savanna  hills  sea  3  SW  60\n"
    )
    assert spot[2:] == (-1.5, 2.25, "savanna", "hills", True, 3, 225, 60)
    assert spot.name == "San Juan"
    assert (spot.region.name, spot.region.script, spot.region.box) == ("Here and There", "latin", "lime")


def test_no_two_regions_are_alike_and_neighbours_least_of_all():
    for a, b in itertools.combinations(REGIONS, 2):
        assert sum(x != y for x, y in zip(a[1:], b[1:], strict=True)) >= 4, (a.name, b.name)
        assert (a.roof, a.tiles, a.walls) != (b.roof, b.tiles, b.walls)
    latlng = np.array([(spot.latitude, spot.longitude) for spot in SPOTS])
    for i, j in np.argwhere(distance_km(latlng[:, None], latlng) < 1500):
        a, b = SPOTS[i].region, SPOTS[j].region
        assert a is b or sum(x != y for x, y in zip(a[1:], b[1:], strict=True)) >= 5, (a.name, b.name)


def test_colours_run_on_around_the_world():
    assert soil_of(0) == soil_of(72) == soil_of(-72)
    np.testing.assert_allclose(soil_of(179.9999), soil_of(-179.9999), atol=0.01)
    every = np.array([soil_of(longitude) for longitude in range(72)])
    assert np.linalg.norm(np.diff(every, axis=0), axis=1).max() < 12  # no jump
    ahead = np.linalg.norm(every - np.roll(every, 12, axis=0), axis=1)
    assert ahead.min() > 35  # and far from alike a few hundred km on
    for colour in (grass_of, sky_of):
        assert colour(40) == colour(-40)
        hues = [
            Image.new("RGB", (1, 1), tuple(map(int, colour(at)))).convert("HSV").getpixel((0, 0))[0]
            for at in (0, 30, 60)
        ]
        assert hues[0] + 10 < hues[1] < hues[2] - 10


def test_letters_stay_in_their_cells():
    rng = np.random.default_rng(0)
    for script, glyphs in street.SCRIPTS.items():
        assert len(set(glyphs)) == len(glyphs) >= 5
        for _ in range(30):
            points = np.concatenate(street.letter(rng, script))
            assert points.min() >= -0.25
            assert points.max() <= 1.25
    np.testing.assert_array_equal(
        street.letter(np.random.default_rng(0), "latin")[0][0] in [(0, 1), (1, 1), (0, 0)], True
    )


# --- the picture ------------------------------------------------------------------------------------------------------

OPEN = SCENES[-1]._replace(share=1.0, plants=0.0, sign=0.0, letter_box=0.0)
ROWS = SCENES[0]._replace(share=1.0, plants=0.0, cars=0, sign=1.0)
NOON = Sun(0.9, 0.4)


def drawn(patch, spot, latitude, longitude, key, scene=OPEN, sun=NOON, season=0.5):
    patch.setattr(scenery, "SCENES", (scene,))
    patch.setattr(scenery, "WEATHERS", {"clear": 1.0})
    patch.setattr(street, "parasol", lambda *arguments: None)
    streams = [np.random.default_rng((key, i)) for i in (1, 2, 3)]
    return draw_view(spot, latitude, longitude, sun, season, *streams).astype(float)


@pytest.fixture(scope="module")
def desert():
    return next(spot for spot in SPOTS if spot.biome == "desert" and spot.terrain == "plain" and not spot.sea)


def test_soil_tells_longitude_in_every_picture(monkeypatch, desert):
    """Mean colours of the ground: nearer to those of the same longitude than to any of another, 18 degrees away."""
    colours = {
        longitude: [drawn(monkeypatch, desert, 25, longitude, key)[90:].mean(axis=(0, 1)) for key in range(5)]
        for longitude in range(0, 72, 18)
    }
    own = [np.mean(several, axis=0) for several in colours.values()]
    for i, several in enumerate(colours.values()):
        for colour in several:
            assert np.linalg.norm(own - colour, axis=1).argmin() == i
    np.testing.assert_allclose(colours[0][0], drawn(monkeypatch, desert, 25, -72, 0)[90:].mean(axis=(0, 1)), atol=1e-6)


def test_the_sky_tells_latitude_in_every_picture(monkeypatch, desert):
    def hue(latitude, key):
        top = drawn(monkeypatch, desert, latitude, 30, key)[:6].mean(axis=(0, 1))
        return Image.new("RGB", (1, 1), tuple(top.astype(int).tolist())).convert("HSV").getpixel((0, 0))[0]

    hues = np.array([[hue(latitude, key) for key in range(5)] for latitude in (0, 20, 40, 60)])
    assert (hues.max(axis=1)[:-1] < hues.min(axis=1)[1:]).all()


def test_a_region_shows_in_houses_and_signs_and_not_in_sky_and_soil(monkeypatch, desert):
    """From the same random states in two regions: the sky is the same to the bit, houses and signs are not."""
    other = desert._replace(region=next(r for r in REGIONS if r.drives == desert.region.drives and r.name == "Siberia"))
    for key in range(3):
        a, b = (drawn(monkeypatch, spot, 25, 30, key) for spot in (desert, other))
        np.testing.assert_array_equal(a, b)
        a, b = (drawn(monkeypatch, spot, 25, 30, key, scene=ROWS) for spot in (desert, other))
        assert (np.abs(a - b).max(axis=2) > 30).mean() > 0.12


def test_roofs_and_walls_have_the_regions_colours(monkeypatch, desert):
    """Among the colours of a street, the paints of its own region are met far more than another's."""

    def met(region, paint):
        total = 0
        for key in range(4):
            pixels = drawn(monkeypatch, desert._replace(region=region), 25, 30, key, scene=ROWS)
            wanted = np.array(street.PAINTS[paint])
            cosine = pixels @ wanted / (np.linalg.norm(pixels, axis=2) * np.linalg.norm(wanted) + 1e-6)
            total += (cosine > 0.99).mean()  # in any light
        return total

    by_name = {region.name: region for region in REGIONS}
    blue, red = by_name["Siberia"], by_name["Mainland South-East Asia"]  # roofs
    assert met(blue, "blue") > 3 * met(red, "blue")
    assert met(red, "red") > 3 * met(blue, "red")


def test_shadows_are_as_long_as_the_sun_is_low(monkeypatch, desert):
    views = []
    monkeypatch.setattr(scenery, "_exposed", lambda view, *_: views.append(view) or np.zeros((1, 1, 3)))
    for elevation, metres in ((np.pi / 4, 1), (np.arctan(0.5), 2), (0.01, 6)):  # of what is 1 m high, 6 at most
        drawn(monkeypatch, desert, 25, 30, key=0, sun=Sun(elevation, 0.4))
        assert np.hypot(*views[-1].sun) == pytest.approx(metres)
    view = views[0]
    view.shadows.paste(0, (0, 0, *view.shadows.size))
    view.across, view.heading, view.sun = 0, (1, 0), (1.5, 0)
    street.cast(view, 0, 10, high=2, wide=0.5)  # to 3 m on the right; its crown is 0.5 m about 0.7 of it
    left, _, right, _ = view.shadows.getbbox()
    middle, scale = view.canvas.width / 2, view.focal / 10
    np.testing.assert_allclose([left, right - 1], [middle - 0.06 * scale, middle + 3.06 * scale], atol=1.5)


def test_snow_lies_in_cold_winters_only(monkeypatch):
    def white(biome, season):
        spot = SPOTS[0]._replace(biome=biome, sea=False)
        pictures = [
            drawn(monkeypatch, spot, 60, 18, key, season=season)[80:] for key in range(8)
        ]  # straw-coloured soil
        return max((np.ptp(pixels, axis=2) < 30).mean() for pixels in pictures)

    assert white("boreal", -1) > 0.4
    assert white("boreal", 0.5) < 0.05
    assert white("tropical", -1) < 0.05


def test_a_camera_worked_by_hand():
    view = perspective.View(
        Image.new("RGB", (200, 100)), focal=100, horizon=40, up=2, across=1, heading=(1, 0), haze=(0, 0, 0), sight=1e9,
        sun=(1, 0), direct=1,
    )  # fmt: skip
    assert view.seen((3, 5, 10)) == (2, 3, 10)
    assert view.foot(3, 10) == (120, 60, 10, 10)  # 2 m to the right and 2 m down, at 10 px a metre
    assert view.foot(1, 1) is None  # too near
    assert view.outline([(1, 2, 10), (2, 2, 10), (1, 3, 20)]) == ([(100, 40), (110, 40), (100, 35)], 40 / 3)
    outline, _ = view.outline([(0, 0, -5), (2, 0, -5), (2, 0, 8), (0, 0, 8)])
    assert max(y for _, y in outline) == pytest.approx(40 + 100 * 2 / 0.8)  # cut off 0.8 m ahead
    assert len(outline) == 4
    assert view.outline([(0, 0, -5), (2, 0, -5), (2, 0, -8)])[0] == []
    turned = perspective.View(
        Image.new("RGB", (200, 100)), focal=100, horizon=40, up=2, across=0, heading=(0, 1), haze=(0, 0, 0), sight=1e9,
        sun=(1, 0), direct=1,
    )  # fmt: skip
    assert turned.seen((7, 2, 0)) == (0, 0, 7)  # turned to the right by 90 degrees
    assert view.lit((100, 100, 100), -1, 0) == (100, 100, 100)  # its shadow falls away from the sun
    assert view.lit((100, 100, 100), 1, 0) == (68, 68, 68)


def test_what_is_near_hides_what_is_far():
    view = perspective.View(
        Image.new("RGB", (20, 20)), focal=10, horizon=10, up=0, across=0, heading=(1, 0), haze=(0, 0, 0), sight=1e9,
        sun=(1, 0), direct=1,
    )  # fmt: skip
    for s, colour in ((5, (250, 0, 0)), (9, (0, 250, 0))):
        view.later(0, s, lambda s=s, colour=colour: view.face([(-9, -9, s), (9, -9, s), (9, 9, s), (-9, 9, s)], colour))
    assert view.finish().getpixel((10, 10))[:2] == pytest.approx((250, 0), abs=1)


# --- the command and the files ----------------------------------------------------------------------------------------


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_the_same_seed_draws_the_same_files(tmp_path, monkeypatch):
    few = {"train": 4, "val": 1, "test": 2}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_small(tmp_path / name, monkeypatch, seed, few)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}  # nothing half-made is left beside


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(places, "draw_view", stop)
    with pytest.raises(KeyboardInterrupt):
        write_places_sample(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_used(tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="full exists and is not an empty folder"):
        write_places_sample(tmp_path / "full")
    assert main(["places", str(tmp_path / "full")]) == 2
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(places, "IMAGES", {"train": 2, "val": 1, "test": 1})
    assert main(["places", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "empty")
    assert len(rows_of(tmp_path / "empty")) == 4
