import csv
import datetime
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import ExifTags, Image

from data.readers import geotagged_csv
from data.samples import places, write_sample
from data.samples.places import distance_km, moment_of, moved, plan_of, scenery, season_of, sun_at
from data.samples.places.gazetteer import BIOMES, PLANTS, REGIONS, ROOFS, SPOTS
from data.samples.places.scenery import HEIGHT, WIDTH, View, draw_view, grass_of, sky_of, soil_of

SMALL = {"train": 18, "val": 5, "test": 8}
COASTLINE = Path(__file__).parents[2] / "tasks" / "geolocalization" / "coastline_110m.npz"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples") / "places"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "IMAGES", SMALL)
        write_sample("places", folder)
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        return folder, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole():
    """The plan of the whole sample: its places and where they are, and split, place and photographer of every image."""
    found, visits = plan_of(np.random.default_rng((0, 1)))
    latlng = np.array([(place.latitude, place.longitude) for place in found])
    return found, latlng, np.array([split for split, *_ in visits]), np.array([visit[1:] for visit in visits])


# --- the layout -------------------------------------------------------------------------------------------------------


def test_the_csv_lists_every_image_once_and_the_projects_reader_takes_all_of_it(sample):
    folder, rows = sample
    assert list(rows[0]) == ["path", "latitude", "longitude", "author", "place", "taken", "split"]
    assert Counter(row["split"] for row in rows) == SMALL
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert files == [row["path"] for row in rows] == [f"images/{number:05d}.jpg" for number in range(1, 32)]
    contents = {(folder / file).read_bytes() for file in files}
    assert len(contents) == 31
    assert np.mean([len(content) for content in contents]) * 3100 < 30e6
    records = geotagged_csv.read(folder)
    assert records.issues == ()
    assert [name.decode() for name in records.file_names] == files
    np.testing.assert_array_equal(
        records["latlng"], [(float(row["latitude"]), float(row["longitude"])) for row in rows]
    )
    assert records["split"].tolist() == [list(SMALL).index(row["split"]) for row in rows]
    assert len(set(records["group"].tolist())) == len({row["author"] for row in rows})


def test_exif_says_what_the_csv_says(sample):
    folder, rows = sample
    for row in rows:
        with Image.open(folder / row["path"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
            exif = image.getexif()
        gps, times = exif.get_ifd(ExifTags.IFD.GPSInfo), exif.get_ifd(ExifTags.IFD.Exif)
        for name, positive in (("Latitude", "N"), ("Longitude", "E")):
            degrees, minutes, seconds = (float(part) for part in gps[ExifTags.GPS[f"GPS{name}"]])
            sign = 1 if gps[ExifTags.GPS[f"GPS{name}Ref"]] == positive else -1
            assert sign * (degrees + minutes / 60 + seconds / 3600) == pytest.approx(float(row[name.lower()]), abs=1e-6)
        assert exif[ExifTags.Base.Artist] == row["author"]
        assert times[ExifTags.Base.DateTimeOriginal] == row["taken"].replace("-", ":")


def test_a_position_in_degrees_minutes_and_seconds_worked_by_hand():
    exif = places.exif_of(-33.8567844, 151.213108, datetime.datetime(2020, 2, 29, 7, 5, 9), "somebody")
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    # 0.8567844 * 60 = 51.407064 and 0.407064 * 60 = 24.42384; 0.213108 * 60 = 12.78648 and 0.78648 * 60 = 47.1888
    assert [float(part) for part in gps[ExifTags.GPS.GPSLatitude]] == [33, 51, 24.4238]
    assert [float(part) for part in gps[ExifTags.GPS.GPSLongitude]] == [151, 12, 47.1888]
    assert (gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef]) == ("S", "E")
    near = places.exif_of(0.99999999999, 0, datetime.datetime(2020, 1, 1), "").get_ifd(ExifTags.IFD.GPSInfo)
    assert [float(part) for part in near[ExifTags.GPS.GPSLatitude]] == [1, 0, 0]  # never 60 seconds


# --- where, when and who ----------------------------------------------------------------------------------------------


def test_no_photographer_and_no_place_is_in_two_splits(whole):
    _, latlng, split, visits = whole
    assert Counter(split.tolist()) == places.IMAGES == {"train": 2400, "val": 300, "test": 400}
    for column in visits.T:
        splits = [set(column[split == name].tolist()) for name in places.IMAGES]
        assert sum(map(len, splits)) == len(set.union(*splits)) > 400
    at = latlng[visits[:, 0]]  # a test image is near a place to learn from, but not at it
    nearest = distance_km(at[split == "test"], at[split == "train"]).min(axis=1)
    assert nearest.min() >= 8
    assert (nearest < 750).mean() > 0.95
    within = (distance_km(at, at) <= 750).mean(axis=1)
    assert 0.06 < within.max() < 0.15  # what the best constant prediction would score


def test_places_keep_apart_near_their_spot_on_land_and_all_over_the_world(whole, sample):
    found, latlng, split, visits = whole
    assert len({place.name for place in found}) == len(found)
    apart = distance_km(latlng, latlng)
    assert apart[~np.eye(len(found), dtype=bool)].min() >= 8
    away = distance_km(latlng, np.array([(place.spot.latitude, place.spot.longitude) for place in found])).diagonal()
    assert (away <= np.array([place.spot.reach for place in found]) + 1e-6).all()
    arrays = np.load(COASTLINE)
    rings = [Outline(ring) for ring in np.split(arrays["xy"] / 100, arrays["off"][1:-1])]
    wet = latlng[~np.any([ring.contains_points(latlng[:, ::-1]) for ring in rings], axis=0)]
    assert len(wet) < 0.03 * len(latlng)  # the outlines are as coarse as 1 : 110,000,000
    for name in ("train", "test"):
        at = latlng[visits[split == name, 0]]
        cells = {*map(tuple, np.floor(at / 30).astype(int).tolist())}
        assert len(cells) >= 25  # of 30 degrees
        assert {-1, 1} == set(np.sign(at[:, 0])) == set(np.sign(at[:, 1]))
    taken = [(float(row["latitude"]), float(row["longitude"])) for row in sample[1]]
    home = dict(zip([place.name for place in found], latlng, strict=True))
    shift = distance_km(np.array(taken), np.array([home[row["place"]] for row in sample[1]])).diagonal()
    assert 0 < shift.min() < shift.max() < 5


def test_great_circles_worked_by_hand():
    paris, london = np.array([[48.8566, 2.3522]]), np.array([[51.5074, -0.1278]])
    assert distance_km(paris, london).item() == pytest.approx(343.6, abs=0.1)
    assert moved(0, 0, 6371 * np.pi / 2, 0) == pytest.approx((90, 0))
    assert moved(0, 179, 6371 * np.pi / 90, 90) == pytest.approx((0, -179))
    for bearing in range(0, 360, 40):
        end = moved(52, 13, 150, bearing)
        assert distance_km(np.array([[52, 13]]), np.array([end])).item() == pytest.approx(150)
        assert np.sign(end[0] - 52) == (1 if np.cos(np.radians(bearing)) > 0.02 else -1)


def test_the_sun_worked_by_hand():
    equinox, solstice = 81, 172  # sin(2 pi (284 + 81) / 365) = 0, and (284 + 172) / 365 is a quarter more than 1
    assert sun_at(0, equinox, 12)[0] == pytest.approx(np.pi / 2, abs=1e-6)
    assert np.degrees(sun_at(50, equinox, 12)[0]) == pytest.approx(40)
    assert np.degrees(sun_at(50, solstice, 12)[0]) == pytest.approx(40 + 23.45, abs=0.01)
    assert np.degrees(sun_at(-33, equinox, 12)) == pytest.approx([57, 0])  # in the north
    assert np.degrees(sun_at(50, equinox, 6)) == pytest.approx([0, 90], abs=1e-6)
    assert sun_at(70, solstice, 0)[0] > 0  # the midnight sun
    assert sun_at(70, solstice + 182, 12)[0] < 0
    for day, latitude, season in ((172, 50, 1), (355, 50, -1), (355, -50, 1), (172, 0, 0)):
        taken = datetime.datetime(2019, 1, 1) + datetime.timedelta(day - 1)
        assert season_of(taken, latitude) == pytest.approx(season, abs=1e-3)


@pytest.mark.parametrize(("latitude", "longitude"), [(0, 0), (48.9, 2.4), (69.6, 19.0), (-41, 174.8), (61, -149.9)])
def test_images_are_taken_while_the_sun_is_up_by_the_clock_of_their_zone(latitude, longitude):
    for seed in range(20):
        taken, sun = moment_of(np.random.default_rng(seed), latitude, longitude)
        solar = taken.hour + taken.minute / 60 + taken.second / 3600 + longitude / 15 - round(longitude / 15)
        assert sun_at(latitude, taken.timetuple().tm_yday, solar) == pytest.approx(sun, abs=1e-3)
        assert sun[0] > 0.1


# --- what is seen -----------------------------------------------------------------------------------------------------


def drawn(patch, spot, latitude, longitude, key, scene="land", sun=(0.9, 0.4), season=0.5):
    """A view without plants and signs in clear weather, from the same random state for the same key."""

    class Chosen(np.random.Generator):
        def choice(self, a, *args, **kwargs):
            first = np.ravel(a)[0]
            return scene if first == "street" else 1.0 if first == 1.0 else super().choice(a, *args, **kwargs)

    patch.setattr(scenery, "_plant", lambda *arguments: None)
    patch.setattr(scenery, "_sign", lambda *arguments: None)
    if scene == "land":
        patch.setattr(scenery, "_houses", lambda *arguments: None)
    streams = np.random.default_rng((key, 1)), Chosen(np.random.PCG64(key))
    return draw_view(spot, (latitude, longitude), sun, season, *streams).astype(float)


@pytest.fixture(scope="module")
def desert():
    return next(spot for spot in SPOTS.values() if spot.biome == "desert" and spot.terrain == "plain" and not spot.sea)


def test_the_tables_name_only_what_can_be_drawn():
    assert len(SPOTS) > 150
    assert {spot.biome for spot in SPOTS.values()} == set(BIOMES)
    assert {spot.region for spot in SPOTS.values()} == set(REGIONS)
    assert {kind for biome in BIOMES.values() for kind in biome.plants.split()} == set(PLANTS)
    assert {region.roof for region in REGIONS.values()} == set(ROOFS)
    assert {region.dashes for region in REGIONS.values()} == {"dashed", "solid", "double", "none"}
    looks = [(region.roof, region.tiles, region.walls) for region in REGIONS.values()]
    assert len(set(looks)) == len(looks)  # no two are alike


def test_soil_tells_longitude_and_the_sky_latitude_in_every_image(monkeypatch, desert):
    own = {lng: [drawn(monkeypatch, desert, 25, lng, key) for key in range(5)] for lng in range(0, 72, 18)}
    colours = np.array([[pixels[90:].mean(axis=(0, 1)) for pixels in images] for images in own.values()])
    distances = np.linalg.norm(colours[:, :, None] - colours.mean(axis=1), axis=3)
    assert (distances.argmin(axis=2) == np.arange(4)[:, None]).all()
    np.testing.assert_allclose([soil_of(72), soil_of(-72)], [soil_of(0)] * 2)

    def hue(pixels):
        return Image.new("RGB", (1, 1), tuple(map(int, pixels))).convert("HSV").getpixel((0, 0))[0]

    latitudes = (0, 20, 40, 60)
    hues = [[hue(drawn(monkeypatch, desert, at, 30, k)[:6].mean(axis=(0, 1))) for k in range(5)] for at in latitudes]
    assert (np.max(hues, axis=1)[:-1] < np.min(hues, axis=1)[1:]).all()
    assert hue(grass_of(0)) + 10 < hue(grass_of(30)) < hue(grass_of(-60)) - 10
    assert hue(sky_of(0)) + 10 < hue(sky_of(30)) < hue(sky_of(-60)) - 10


def test_a_region_shows_in_a_street_and_not_in_sky_and_soil(monkeypatch, desert):
    """From the same random states in two regions: open land is the same to the bit, a street is not."""
    assert REGIONS[desert.region].drives == REGIONS["Siberia"].drives
    other = SimpleNamespace(**vars(desert) | {"region": "Siberia"})
    for key in range(3):
        with monkeypatch.context() as patch:
            np.testing.assert_array_equal(*(drawn(patch, spot, 25, 30, key) for spot in (desert, other)))
        with monkeypatch.context() as patch:
            a, b = (drawn(patch, spot, 25, 30, key, scene="street") for spot in (desert, other))
        assert (np.abs(a - b).max(axis=2) > 30).mean() > 0.12


def test_snow_lies_in_cold_winters_only(monkeypatch, desert):
    def white(biome, season):
        spot = SimpleNamespace(**vars(desert) | {"biome": biome})  # at 18 degrees soil is straw-coloured
        images = [drawn(monkeypatch, spot, 60, 18, key, season=season)[80:] for key in range(8)]
        return max((np.ptp(pixels, axis=2) < 30).mean() for pixels in images)

    assert white("boreal", -1) > 0.4
    assert white("boreal", 0.5) < 0.05
    assert white("tropical", -1) < 0.05


def test_a_camera_worked_by_hand():
    view = View(np.random.default_rng(0), (np.pi / 4, 0.3), np.zeros(3), 1.0, 1)
    view.focal, view.horizon, view.middle, view.up, view.across = 100, 40, 80, 2, 1
    assert np.hypot(*view.sun) == pytest.approx(1)  # the shadow of what is 1 m high, the sun at 45 degrees
    # 2 m to the right and 2 m down, 10 m ahead, at 10 px a metre, three times as large; then at the horizon; then near.
    assert view.seen([(3, 0, 10), (1, 2, 50)]) == [pytest.approx((300, 180)), pytest.approx((240, 120))]
    assert view.seen([(1, 0, -5)]) == view.seen([(1, 0, 1.6)])
    view.sight, view.sun = 1e9, (1.5, 0)
    for s, colour in ((5, (250, 0, 0)), (9, (0, 250, 0))):
        view.add(1, s, 1, 2, [([(-9, -9, s), (9, -9, s), (9, 9, s), (-9, 9, s)], colour)])
    shadow = Image.Image.getbbox(view.shadows)  # 1 m to both sides, and 3 m to the right; nearest at 20 px a metre
    np.testing.assert_allclose([shadow[0], shadow[2] - 1], [240 - 60, 240 + 4 * 60], atol=1.5)
    np.testing.assert_allclose(view.finish()[40, 80], (250, 0, 0), atol=1)  # what is near hides what is far
