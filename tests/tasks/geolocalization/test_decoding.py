import numpy as np
import pytest

from tasks.geolocalization.decoding import expected_positions, f_star, half_radius_km, top_cells
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, destination, haversine_km, to_latlng, to_xyz

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


def test_the_probabilities_given_stay():
    probabilities, latlng = case(5, 3)
    before = probabilities.copy()
    expected_positions(probabilities, to_xyz(latlng), 5000)
    half_radius_km(probabilities, to_xyz(latlng), np.ones(3), latlng[[0, 0, 0, 1, 1]])
    f_star([probabilities, probabilities], [np.arange(3)])
    np.testing.assert_array_equal(probabilities, before)


# ---------------------------------------------------------------------------------------------------- expected position


def test_the_expected_position_worked_by_hand():
    # two cells of 0.3 at 0 and 10 degrees on the equator, one of 0.4 at 100: not within the radius, so not counted
    points = to_xyz([(0, 0), (0, 10), (0, 100)])
    places = expected_positions(np.array([[0.35, 0.35, 0.3], [0.6, 0.0, 0.4], [0.3, 0.3, 0.4]]), points, 2000)
    np.testing.assert_allclose(places, [(0, 5), (0, 0), (0, 100)], atol=1e-9)
    # tan of the angle is the ratio of the weights of vectors at right angles
    right = to_xyz([(0, 0), (90, 0)])
    assert expected_positions(np.array([[np.sqrt(3), 1]]), right, 10_008)[0] == pytest.approx((30, 0))


def test_the_expected_position_between_either_side_of_the_antimeridian_or_a_pole_lies_there():
    fiji = expected_positions(np.array([[0.5, 0.5]]), to_xyz([(-18, 179), (-18, -179)]), 500)
    assert haversine_km(fiji, (-18, 180)) < 0.5  # the mean of degrees is (-18, 0)
    pole = expected_positions(np.full((1, 3), 1 / 3), to_xyz([(88, 0), (88, 120), (88, -120)]), 500)
    assert pole[0, 0] == pytest.approx(90)


@pytest.mark.parametrize("radius", [0.0, 500.0, 3000.0, 30_000.0])
def test_expected_positions_equal_a_plain_loop(radius):
    probabilities, latlng = case(25, 60, seed=2)
    found = expected_positions(probabilities.astype(np.float32), to_xyz(latlng), radius)
    for row, place in zip(probabilities.astype(np.float32).astype(float), found, strict=True):
        near = [c for c in range(60) if haversine_km(latlng[row.argmax()], latlng[c]) <= radius]
        wanted = sum(row[c] * to_xyz(latlng[c]) for c in near)
        assert haversine_km(place, to_latlng(wanted)) < 1e-6


def test_a_radius_of_zero_leaves_the_best_cell_and_its_limit_is_included():
    probabilities, latlng = case(50, 40, seed=3)
    places = expected_positions(probabilities, to_xyz(latlng), 0)
    assert haversine_km(places, latlng[probabilities.argmax(axis=1)]).max() < 1e-6
    pair = to_xyz([(0, 0), (0, 10)])
    alone, both = (expected_positions(np.array([[0.5, 0.5]]), pair, 10 * DEGREE_KM + more) for more in (-1e-6, 1e-6))
    np.testing.assert_allclose([alone[0], both[0]], [(0, 0), (0, 5)], atol=1e-9)


# ------------------------------------------------------------------------------------------------------------------ f*


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


def test_f_star_follows_the_parents_down_three_levels():
    rng = np.random.default_rng(5)
    sizes = (12, 5, 2)
    levels = [one / one.sum(axis=1, keepdims=True) for one in (rng.exponential(size=(7, c)) for c in sizes)]
    parents = [rng.integers(0, sizes[k + 1], sizes[k]) for k in range(2)]
    found = f_star([one.astype(np.float32) for one in levels], parents)
    for n in range(7):
        product = [
            levels[0][n, c] * levels[1][n, parents[0][c]] * levels[2][n, parents[1][parents[0][c]]] for c in range(12)
        ]
        np.testing.assert_allclose(found[n], np.array(product) / sum(product), rtol=1e-5)
    assert found.dtype == np.float64


def test_f_star_of_one_level_or_of_levels_that_agree_on_all_is_the_finest():
    fine, _ = case(6, 8)
    np.testing.assert_allclose(f_star([fine], []), fine)
    np.testing.assert_allclose(f_star([fine, np.full((6, 3), 1 / 3)], [np.arange(8) % 3]), fine)


def test_levels_that_rule_each_other_out_leave_the_finest():
    fine, coarse = np.array([[1.0, 0], [0.5, 0.5]]), np.array([[0.0, 1], [0.0, 1]])
    np.testing.assert_array_equal(f_star([fine, coarse], [np.array([0, 1])]), [[1, 0], [0, 1]])
    tiny = np.float32([[1e-30, 2e-30]])  # whose product float32 would lose
    np.testing.assert_allclose(f_star([tiny, tiny], [np.array([0, 1])]), [[0.2, 0.8]], rtol=1e-6)


# --------------------------------------------------------------------------------------------------------- half radius


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


def test_a_large_cell_is_no_more_certain_than_its_small_ones():
    """A sure cell of 1000 km holds its half within 1000 km, not within 0; nothing lies beyond 20,015 km."""
    points = to_xyz([(0, 0), (0, 179)])
    sure = half_radius_km(np.array([[1.0, 0], [0, 1]]), points, np.array([1000.0, 3000]), np.zeros((2, 2)))
    assert sure == pytest.approx([1000, np.pi * EARTH_RADIUS_KM])


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


def test_probabilities_round_a_place_have_the_radius_of_their_middle():
    place = np.array([[61.0, -179.9]])
    rings = destination(place, np.linspace(0, 350, 36), np.repeat([10.0, 200, 900], 12))
    weights = np.repeat([[0.4 / 12, 0.2 / 12, 0.4 / 12]], 12, axis=1).reshape(1, -1)
    assert half_radius_km(weights, to_xyz(rings), np.zeros(36), place) == pytest.approx(200)
