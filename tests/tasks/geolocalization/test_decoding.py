import numpy as np
import pytest

from tasks.geolocalization.decoding import expected_positions, f_star, half_radius_km, top_cells
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, haversine_km, to_latlng, to_xyz

DEGREE_KM = EARTH_RADIUS_KM * np.pi / 180


def case(num_images, num_cells, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(num_images, num_cells)) ** 3
    return weights / weights.sum(axis=1, keepdims=True), to_latlng(rng.normal(size=(num_cells, 3)))


def test_the_best_cells_are_those_of_a_stable_sort_and_no_more_than_there_are():
    probabilities = case(40, 30)[0].round(2).astype(np.float32)  # many ties
    for k in (1, 4, 100):
        expected = [sorted(range(30), key=lambda c, row=row: -row[c])[:k] for row in probabilities.tolist()]
        assert top_cells(probabilities, k).tolist() == expected


def test_the_expected_position_worked_by_hand():
    # two cells of 0.3 at 0 and 10 degrees on the equator, one of 0.4 at 100: not within the radius, so not counted
    points = to_xyz([(0, 0), (0, 10), (0, 100)])
    places = expected_positions(np.array([[0.35, 0.35, 0.3], [0.6, 0.0, 0.4], [0.3, 0.3, 0.4]]), points, 2000)
    np.testing.assert_allclose(places, [(0, 5), (0, 0), (0, 100)], atol=1e-9)
    # tan of the angle is the ratio of the weights of vectors at right angles
    right = to_xyz([(0, 0), (90, 0)])
    assert expected_positions(np.array([[np.sqrt(3), 1]]), right, 10_008)[0] == pytest.approx((30, 0))


@pytest.mark.parametrize("radius", [0.0, 500.0, 3000.0, 30_000.0])
def test_expected_positions_equal_a_plain_loop(radius):
    probabilities, latlng = case(25, 60, seed=2)
    found = expected_positions(probabilities.astype(np.float32), to_xyz(latlng), radius)
    for row, place in zip(probabilities.astype(np.float32).astype(float), found, strict=True):
        near = [c for c in range(60) if haversine_km(latlng[row.argmax()], latlng[c]) <= radius]
        wanted = sum(row[c] * to_xyz(latlng[c]) for c in near)
        assert haversine_km(place, to_latlng(wanted)) < 1e-6


def test_f_star_worked_by_hand():
    # four fine cells, two in each coarse one. Products: 0.40 * 0.3, 0.10 * 0.3, 0.35 * 0.7, 0.15 * 0.7; sum 0.5
    fine, coarse = np.array([[0.40, 0.10, 0.35, 0.15]]), np.array([[0.3, 0.7]])
    products = np.array([[0.12, 0.03, 0.245, 0.105]])
    found = f_star([fine, coarse], [np.array([0, 0, 1, 1])])
    np.testing.assert_allclose(found, products / 0.5)
    assert (fine.argmax(), found.argmax()) == (0, 2)  # the coarse level changed the prediction
    # a third level, which has both coarse cells in one of its two, changes nothing
    three = f_star([fine, coarse, np.array([[0.2, 0.8]])], [np.array([0, 0, 1, 1]), np.array([1, 1])])
    np.testing.assert_allclose(three, found)


def test_levels_that_rule_each_other_out_leave_the_finest():
    fine, coarse = np.array([[1.0, 0], [0.5, 0.5]]), np.array([[0.0, 1], [0.0, 1]])
    np.testing.assert_array_equal(f_star([fine, coarse], [np.array([0, 1])]), [[1, 0], [0, 1]])
    tiny = np.float32([[1e-30, 2e-30]])  # whose product float32 would lose
    np.testing.assert_allclose(f_star([tiny, tiny], [np.array([0, 1])]), [[0.2, 0.8]], rtol=1e-6)


def test_the_half_radius_worked_by_hand():
    # points at 0, 1, 3 and 7 degrees from the prediction; the cells reach 10, 20, 5 and 1 km from them
    points, reach = to_xyz([(0, 0), (0, 1), (0, -3), (7, 0)]), np.array([10.0, 20, 5, 1])
    probabilities = np.array([[0.6, 0.2, 0.1, 0.1], [0.3, 0.25, 0.25, 0.2], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]])
    radius = half_radius_km(probabilities, points, reach, np.zeros((4, 2)))
    assert radius == pytest.approx([10, DEGREE_KM + 20, 3 * DEGREE_KM + 5, 7 * DEGREE_KM + 1])
    # exactly half is half
    assert half_radius_km(np.array([[0.5, 0.25, 0.25, 0]]), points, reach, np.zeros((1, 2))) == pytest.approx(10)
    # from elsewhere: 2 degrees east of it the second cell comes first
    moved = half_radius_km(probabilities[1:2], points, reach, np.array([[0.0, 2.0]]))
    assert moved == pytest.approx(2 * DEGREE_KM + 10)


def test_half_radii_equal_a_plain_loop_and_hold_half():
    probabilities, latlng = case(25, 60, seed=4)
    rng = np.random.default_rng(4)
    reach, places = rng.uniform(0, 800, 60), to_latlng(rng.normal(size=(25, 3)))
    found = half_radius_km(probabilities, to_xyz(latlng), reach, places)
    for row, place, radius in zip(probabilities, places, found, strict=True):
        outer = haversine_km(place, latlng) + reach
        assert row[outer <= radius + 2e-4].sum() >= 0.5
        assert row[outer < radius - 2e-4].sum() < 0.5
    doubled = half_radius_km(2 * probabilities, to_xyz(latlng), reach, places)  # of what there is
    np.testing.assert_array_equal(doubled, found)
