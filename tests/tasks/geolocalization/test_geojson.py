import itertools
import json

import numpy as np
import pytest

from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition
from tasks.geolocalization.geojson import cell_geometry, cut, feature_collection
from tasks.geolocalization.sphere import to_latlng

FACES = [face << 61 | 1 << 60 for face in range(6)]


def polygons(geometry):
    assert geometry["type"] in ("Polygon", "MultiPolygon")
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]


def area(ring):
    (x, y), (next_x, next_y) = np.transpose(ring[:-1]), np.transpose(ring[1:])
    return float((x * next_y - next_x * y).sum() / 2)


def inside(geometry, latlng):
    """Even-odd: how often a ray to the north crosses any ring; none here has a hole."""
    within = np.zeros(len(latlng), bool)
    for [ring] in polygons(geometry):
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if x0 != x1:
                crosses = (x0 > latlng[:, 1]) != (x1 > latlng[:, 1])
                within ^= crosses & (latlng[:, 0] < y0 + (latlng[:, 1] - x0) / (x1 - x0) * (y1 - y0))
    return within


def cells_of_level(level):
    cells = np.array(FACES, np.uint64)
    for _ in range(level):
        cells = s2.children(cells).ravel()
    return cells


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_position_is_in_the_polygon_of_its_own_cell_and_in_no_other(level):
    places = to_latlng(np.random.default_rng(level).normal(size=(4000, 3)))
    own = s2.parents(s2.leaf_ids(places), level)
    found = np.zeros(len(places), int)
    for cell in cells_of_level(level).tolist():
        there = inside(cell_geometry(cell), places)
        found += there
        # sides are geodesics, drawn as chains of straight lines: a few places lie between the two
        assert (there != (own == cell)).mean() < 0.002, s2.tokens(np.array([cell], np.uint64))
    assert (found == 1).mean() > 0.99


def test_rings_are_closed_anticlockwise_longitude_first_and_within_the_map():
    deep = s2.parents(s2.leaf_ids(np.array([[-16.8, 180.0], [-16.8, -180.0], [89.9, 10.0], [-90.0, 0.0]])), 12)
    leaves = s2.leaf_ids(np.array([[48.85, 2.35], [0.0, 0.0], [90.0, 0.0]]))
    for cell in [*cells_of_level(0), *cells_of_level(1), *cells_of_level(3), *deep, *leaves]:
        for [ring] in polygons(cell_geometry(int(cell))):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert area(ring) > 0
            assert (np.abs(ring) <= (180, 90)).all()
            assert not (np.abs(np.diff(ring, axis=0)).sum(axis=1) == 0).any()


@pytest.mark.parametrize(("face", "pole"), [(2, 90), (5, -90)])
def test_a_face_around_a_pole_goes_along_the_edge_of_the_map(face, pole):
    geometry = cell_geometry(FACES[face])
    assert geometry["type"] == "Polygon"
    [ring] = geometry["coordinates"]
    assert [-180, pole] in ring
    assert [180, pole] in ring
    assert 35 < np.abs(ring)[:, 1].min() < 36  # at the cube's corners, arctan(1 / sqrt(2)) = 35.26


def test_a_square_across_the_antimeridian_by_hand():
    square = np.array([[170.0, 10], [200, 10], [200, 20], [170, 20], [170, 10]])
    east, west = cut(square)
    assert east.tolist() == [[170, 10], [180, 10], [180, 20], [170, 20], [170, 10]]
    assert west.tolist() == [[-180, 10], [-160, 10], [-160, 20], [-180, 20], [-180, 10]]
    assert [one.tolist() for one in cut(square - (20, 0))] == [(square - (20, 0)).tolist()]  # touches it alone


def partition():
    places = np.array([[48.85, 2.35], [-18.1, 178.4], [40.7, -74.0]])
    ids = s2.parents(s2.leaf_ids(places), 6)
    order = np.argsort(ids)
    counts = np.array([30, 20, 10])[order]
    return Partition(ids[order], counts, s2.centre_vectors(ids[order]), 70, 30, 1), np.argsort(order)


def test_a_prediction_is_a_point_and_the_likeliest_cells():
    cells, (paris, fiji, _) = partition()
    likeliest = np.array([fiji, paris]), np.array([0.625, 0.25])
    found = feature_collection(cells, *likeliest, np.array([48.9, 2.4]), 12.5, file="a/\udcff$1$.jpg")
    found = json.loads(json.dumps(found, allow_nan=False))
    assert found["type"] == "FeatureCollection"
    point, first, second = found["features"]
    assert {one["type"] for one in found["features"]} == {"Feature"}
    assert point["geometry"] == {"type": "Point", "coordinates": [2.4, 48.9]}
    tokens = s2.tokens(cells.ids)
    expected = {"kind": "prediction", "file": "a/\udcff$1$.jpg", "half_radius_km": 12.5, "token": tokens[paris]}
    assert point["properties"] == expected
    expected = {"kind": "cell", "rank": 1, "probability": 0.625, "token": tokens[fiji], "training_images": 20}
    assert first["properties"] == expected
    assert (second["properties"]["rank"], second["properties"]["token"]) == (2, tokens[paris])
    assert inside(second["geometry"], np.array([[48.85, 2.35], [2.35, 48.85]])).tolist() == [True, False]


def test_a_position_in_no_kept_cell_has_no_token():
    cells, _ = partition()
    found = feature_collection(cells, np.arange(3), np.full(3, 1 / 3), np.array([0.0, 0.0]), 3000.0, file="a.jpg")
    assert found["features"][0]["properties"]["token"] is None
    assert len(found["features"]) == 4
