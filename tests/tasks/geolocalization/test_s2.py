from itertools import product

import numpy as np
import pytest
import s2geometry

from backbone.errors import InputError
from tasks.geolocalization import s2
from tasks.geolocalization.sphere import haversine_km, to_latlng, to_xyz

# every corner, the middle of every edge and of every face of the cube, exactly on them
CUBE = to_latlng(np.array([v for v in product((-1.0, 0.0, 1.0), repeat=3) if any(v)]))
SEAMS = np.array(
    [
        *((lat, lng) for lat in (90, -90, 90 - 1e-9, 1e-9 - 90) for lng in (-180, -135, -45, 0, 17.3, 45, 90, 180)),
        *((lat, lng) for lat in (-89, -45, -0.0, 0.0, 33.3, 45) for lng in (-180, 180, np.nextafter(180, 0), -0.0)),
        *((lat, lng) for lat in (-35.3, 0, 35.264389682754654) for lng in (-135, -45, 45, 135)),  # edges, corners
        *((45.0, lng) for lng in range(-180, 181, 15)),  # on and near the edges of the polar faces
    ],
    dtype=np.float64,
)


@pytest.fixture(scope="module")
def positions():
    even = to_latlng(np.random.default_rng(0).normal(size=(100_000, 3)))
    return np.concatenate([even, CUBE, SEAMS])


@pytest.fixture(scope="module")
def oracle(positions):
    """The ids of S2's own library."""
    cell, place = s2geometry.S2CellId, s2geometry.S2LatLng.FromDegrees
    return np.array([cell(place(lat, lng)).id() for lat, lng in positions.tolist()], np.uint64)


def of_oracle(ids, read):
    return [read(s2geometry.S2CellId(cell)) for cell in ids.tolist()]


def degrees(place):
    return place.lat().degrees(), place.lng().degrees()


@pytest.fixture(scope="module")
def cells(oracle):
    """Some cells of every level."""
    return np.array(
        [s2geometry.S2CellId(c).parent(k % 31).id() for k, c in enumerate(oracle[-3000:].tolist())], np.uint64
    )


def test_leaf_ids_are_those_of_s2_itself_to_the_last_bit(positions, oracle):
    assert len(positions) > 100_000
    np.testing.assert_array_equal(s2.leaf_ids(positions), oracle)


def test_slices_order_and_type_of_the_input_do_not_matter(positions, oracle):
    order = np.random.default_rng(1).permutation(len(positions))[:20_000]
    np.testing.assert_array_equal(s2.leaf_ids(positions[order]), oracle[order])
    np.testing.assert_array_equal(s2.leaf_ids(np.asfortranarray(positions)), oracle)
    single = positions[order].astype(np.float32)
    np.testing.assert_array_equal(s2.leaf_ids(single), s2.leaf_ids(single.astype(np.float64)))
    assert s2.leaf_ids(np.array([[48, 2]])) == s2.leaf_ids(np.array([[48.0, 2.0]]))
    assert s2.leaf_ids(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    "wrong", [(np.nan, 0), (0, np.inf), (90.001, 0), (139.69, 35.68), (-91, 0), (0, 180.5), (0, 540)]
)
def test_what_is_no_position_is_refused_and_named(wrong):
    latlng = np.zeros((20_000, 2))
    latlng[17_123] = wrong
    with pytest.raises(InputError, match=r"position 17123 is latitude .*, longitude .*within 90"):
        s2.leaf_ids(latlng)


@pytest.mark.parametrize("level", [0, 1, 12, 29, 30])
def test_parents_are_those_of_s2(oracle, level):
    some = oracle[::10]
    np.testing.assert_array_equal(s2.parents(some, level), of_oracle(some, lambda c: c.parent(level).id()))
    assert (s2.levels(s2.parents(some, level)) == level).all()


def test_bounds_levels_children_and_names_are_those_of_s2(cells):
    assert set(s2.levels(cells).tolist()) == set(range(31))
    np.testing.assert_array_equal(s2.levels(cells), of_oracle(cells, lambda c: c.level()))
    np.testing.assert_array_equal(s2.range_min(cells), of_oracle(cells, lambda c: c.range_min().id()))
    np.testing.assert_array_equal(s2.range_max(cells), of_oracle(cells, lambda c: c.range_max().id()))
    whole = cells[s2.levels(cells) < 30]
    expected = of_oracle(whole, lambda c: [c.child(k).id() for k in range(4)])
    np.testing.assert_array_equal(s2.children(whole), np.array(expected, np.uint64))
    assert s2.tokens(cells) == of_oracle(cells, lambda c: c.ToToken())
    assert s2.valid(cells).all()


def test_numbers_that_are_no_ids_are_told_as_s2_does():
    numbers = np.random.default_rng(2).integers(0, 2**64, 5000, dtype=np.uint64) << np.uint64(7)
    numbers[:3] = 0, 2**64 - 1, 1
    expected = of_oracle(numbers, lambda c: c.is_valid())
    assert 0.1 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(s2.valid(numbers), expected)


def test_centres_and_corners_are_those_of_s2(cells):
    np.testing.assert_allclose(s2.centres(cells), of_oracle(cells, lambda c: degrees(c.ToLatLng())), rtol=0, atol=1e-13)
    lengths = np.linalg.norm(s2.centre_vectors(cells), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=0, atol=1e-15)

    def vertices(cell):
        whole = s2geometry.S2Cell(cell)
        return [degrees(s2geometry.S2LatLng(whole.GetVertex(k))) for k in range(4)]

    np.testing.assert_allclose(s2.outlines(cells), of_oracle(cells, vertices), rtol=0, atol=1e-13)


def test_a_leafs_centre_is_in_it_and_less_than_a_centimetre_from_its_position(positions, oracle):
    np.testing.assert_array_equal(s2.leaf_ids(s2.centres(oracle)), oracle)
    assert haversine_km(s2.centres(oracle), positions).max() < 1e-5  # km


def test_an_outline_follows_the_sides_along_geodesics(cells):
    for cell in cells[(s2.levels(cells) > 0) & (s2.levels(cells) < 15)][:100]:
        [outline], [corners] = (to_xyz(s2.outlines(np.array([cell]), of_side)) for of_side in (6, 1))
        assert outline.shape == (24, 3)
        np.testing.assert_allclose(outline[::6], corners, atol=1e-15)
        ring = np.concatenate([outline, outline[:1]])
        for side in range(4):  # on the plane of the sphere's centre and the two corners, and in order between them
            start, end = corners[side], corners[(side + 1) % 4]
            points = ring[6 * side : 6 * side + 7]
            normal = np.cross(start, end)
            assert np.abs(points @ (normal / np.linalg.norm(normal))).max() < 1e-12
            assert (np.diff(points @ (end - start)) > 0).all()
        inside = to_xyz(s2.centres(np.array([cell])))[0]  # anticlockwise: the middle is to the left of every side
        assert (np.cross(ring[:-1], ring[1:]) @ inside > 0).all()
