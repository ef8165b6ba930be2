import numpy as np
import pytest

from tasks.geolocalization.sphere import (
    EARTH_RADIUS_KM,
    destination,
    great_circle,
    haversine_km,
    to_latlng,
    to_xyz,
    unit,
)

PARIS, LONDON = (48.8566, 2.3522), (51.5074, -0.1278)
DEGREE_KM = EARTH_RADIUS_KM * np.pi / 180


def positions(number, seed=0):
    """Anywhere on the sphere, and its awkward spots."""
    xyz = np.random.default_rng(seed).normal(size=(number, 3))
    spots = [(90, 0), (-90, 30), (0, 0), (0, 180), (0, -180), (45, 90), (-12.5, -90), (89.9999999, 10)]
    return np.concatenate([to_latlng(xyz), np.array(spots, float)])


def chord_km(a, b):
    """The oracle: the angle between vectors from their sum and difference, in extended precision."""
    a, b = (
        np.stack([np.cos(x) * np.cos(y), np.cos(x) * np.sin(y), np.sin(x)], -1) for x, y in (radians(a), radians(b))
    )
    lengths = (np.sqrt(((a + sign * b) ** 2).sum(-1)) for sign in (-1, 1))
    return (2 * EARTH_RADIUS_KM * np.arctan2(*lengths)).astype(np.float64)


def radians(latlng):
    return np.moveaxis(np.asarray(latlng, np.longdouble) * (np.longdouble("3.14159265358979323846") / 180), -1, 0)


def test_known_distances():
    assert haversine_km(PARIS, LONDON) == pytest.approx(343.556, abs=5e-4)
    assert haversine_km((0, 0), (0, 180)) == pytest.approx(20_015.0868, abs=1e-4)
    assert haversine_km((90, 17), (-90, -100)) == pytest.approx(np.pi * 6371, rel=1e-15)
    assert haversine_km((0, 0), (0, 90)) == pytest.approx(np.pi * 6371 / 2, rel=1e-15)
    assert haversine_km((10, 20), (11, 20)) == pytest.approx(DEGREE_KM, rel=1e-12)
    assert haversine_km((60, 20), (60, 20.001)) == pytest.approx(DEGREE_KM / 2000, rel=1e-6)  # cos 60 = 1 / 2


@pytest.mark.parametrize("latitude", [0.0, 37.25, -89.5])
def test_a_longitude_of_180_and_one_of_minus_180_are_the_same(latitude):
    assert haversine_km((latitude, 180), (latitude, -180)) == 0
    assert haversine_km((latitude, 190), (latitude, -170)) == 0
    assert haversine_km((latitude, 370), (latitude, -710)) == 0  # full turns
    metre = 1e-3 / DEGREE_KM / np.cos(np.radians(latitude))
    across = haversine_km((latitude, 180 - metre / 2), (latitude, metre / 2 - 180))
    assert across == pytest.approx(1e-3, rel=1e-6)


def test_one_metre_is_measured_to_a_micrometre_everywhere():
    anywhere = positions(500)
    near = destination(anywhere, np.linspace(0, 360, len(anywhere)), 1e-3)
    np.testing.assert_allclose(haversine_km(anywhere, near), 1e-3, atol=1e-9, rtol=0)


def test_distances_equal_those_of_extended_precision_from_a_metre_to_the_antipodes():
    anywhere = positions(300)
    every = [haversine_km(anywhere[:, None], anywhere[None]), chord_km(anywhere[:, None], anywhere[None])]
    np.testing.assert_allclose(*every, rtol=1e-9, atol=1e-9)
    antipodes = anywhere * [-1, 1] + [0, 180]
    for step in (0, 1e-5, 1e-3, 0.5):
        moved = antipodes + [step, 0] * np.where(antipodes[:, :1] > 0, -1, 1)
        np.testing.assert_allclose(haversine_km(anywhere, moved), chord_km(anywhere, moved), rtol=0, atol=1e-9)


def test_axes_and_the_way_back():
    corners = {(0, 0): (1, 0, 0), (0, 90): (0, 1, 0), (90, 5): (0, 0, 1), (0, 180): (-1, 0, 0), (0, -90): (0, -1, 0)}
    for latlng, xyz in corners.items():
        np.testing.assert_allclose(to_xyz(latlng), xyz, atol=1e-15)
    anywhere = positions(1000)
    np.testing.assert_allclose(np.linalg.norm(to_xyz(anywhere), axis=-1), 1, rtol=1e-14)
    back = to_latlng(3.5 * to_xyz(anywhere))  # of any length
    assert haversine_km(anywhere, back).max() < 1e-9
    assert (np.abs(back) <= [90, 180]).all()
    np.testing.assert_allclose(to_latlng(to_xyz(anywhere[None, :4])), back[None, :4], rtol=1e-14)


def test_what_has_no_direction_is_nan():
    np.testing.assert_array_equal(np.isnan(unit(np.array([[0, 0, 0], [0, 0, 2]]))), [[True] * 3, [False] * 3])


def test_a_great_circle_has_even_steps_that_add_up_to_the_distance():
    rng = np.random.default_rng(4)
    for a, b in to_latlng(rng.normal(size=(50, 2, 3))):
        way = great_circle(a, b, 9)
        steps = haversine_km(way[1:], way[:-1])
        np.testing.assert_allclose(steps, haversine_km(a, b) / 8, rtol=1e-9)  # any detour would make them longer
        assert haversine_km(way[[0, -1]], [a, b]).max() < 1e-9


def test_a_great_circle_goes_over_the_seam_and_the_pole():
    np.testing.assert_allclose(np.abs(great_circle((0, 170), (0, -170), 3)), [(0, 170), (0, 180), (0, 170)], atol=1e-9)
    np.testing.assert_allclose(great_circle((80, 0), (80, 180), 3)[1, 0], 90)
    np.testing.assert_allclose(great_circle(PARIS, PARIS, 4), [PARIS] * 4)


@pytest.mark.parametrize("place", [(0, 0), (90, 0), (37.5, -120.25), (0, 90)])
def test_between_antipodes_it_is_one_of_the_ways(place):
    way = great_circle(place, (-place[0], place[1] + 180), 5)
    np.testing.assert_allclose(haversine_km(place, way), np.arange(5) / 4 * np.pi * 6371, rtol=1e-7, atol=1e-9)


def test_destinations_worked_by_hand():
    quarter = np.pi / 2 * EARTH_RADIUS_KM
    assert destination((0, 0), 0, DEGREE_KM) == pytest.approx((1, 0))
    assert destination((0, 0), 90, DEGREE_KM) == pytest.approx((0, 1))
    assert destination((10, 20), 180, DEGREE_KM) == pytest.approx((9, 20))
    assert destination((0, 179.5), 90, DEGREE_KM) == pytest.approx((0, -179.5))
    # west along a great circle comes to the equator
    assert destination((50, 40), 270, quarter) == pytest.approx((0, -50))


def test_destinations_all_around_are_as_far_away_and_evenly_apart():
    for place in positions(20):
        for radius in (0.001, 25, 2500, 15_000):
            around = destination(place, np.linspace(0, 360, 37), radius)
            np.testing.assert_allclose(haversine_km(place, around), radius, rtol=1e-6)
            steps = haversine_km(around[1:], around[:-1])
            np.testing.assert_allclose(steps, steps[0], rtol=1e-5)
