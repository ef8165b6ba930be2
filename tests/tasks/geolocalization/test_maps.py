import socket

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.path import Path as Outline
from PIL import Image

from tasks.geolocalization import maps, s2
from tasks.geolocalization.cells import Partition, build_partition
from tasks.geolocalization.metrics import THRESHOLDS_KM
from tasks.geolocalization.sphere import haversine_km, ring, to_latlng


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a map asked for the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def figure(monkeypatch):
    """The figures that would be written; writing them takes most of the time."""
    figures = []
    monkeypatch.setattr(maps, "save_figure", lambda figure, _: figures.append(figure))
    return figures


@pytest.fixture
def small(monkeypatch):
    """Pictures of few pixels, which are soon written."""
    monkeypatch.setattr(maps, "DPI", 25)


PARIS, LONDON, FIJI, SAMOA = np.array([[48.86, 2.35], [51.5, -0.12], [-17.7, 178.1], [-13.8, -171.8]])


def partition(seed=0, count=3000):
    """Clusters around a few cities, and places anywhere: cells of all sizes, at the poles and the antimeridian too."""
    rng = np.random.default_rng(seed)
    cities = np.repeat([PARIS, LONDON, FIJI, [40.7, -74], [35.7, 139.7]], count // 6, axis=0)
    places = np.concatenate([cities + rng.normal(size=cities.shape), to_latlng(rng.normal(size=(count // 6, 3)))])
    places[:, 1] = (places[:, 1] + 180) % 360 - 180
    return build_partition(places, max_photos=100, min_photos=2)


def photograph(height=60, width=90):
    return np.full((height, width, 3), (30, 140, 60), np.uint8)


def draw(path, cells, at, *, true=None, tau=500.0, title="a.jpg", image=None):
    probabilities = np.exp(-haversine_km(at, cells.latlng) / tau)
    image = photograph() if image is None else image
    maps.draw_prediction(path, image, cells, probabilities / probabilities.sum(), at, 300.0, true, title)


def filled(axes, latlng):
    """Which places (N, 2) lie in anything filled on this map above the land."""
    found = np.zeros(len(latlng), bool)
    for collection in axes.collections:
        if isinstance(collection, PolyCollection) and collection.get_zorder() == 3:
            for outline in collection.get_paths():
                found |= outline.contains_points(latlng[:, ::-1])
    return found


# -------------------------------------------------------------------------------------------------------- geography


@pytest.mark.parametrize(
    ("latlng", "land"),
    [
        *[
            (place, True)
            for place in ([48.9, 2.3], [-33.8, 150.5], [55.7, 37.6], [-15.8, -47.9], [-85, 100], [67, 179])
        ],
        *[(place, False) for place in ([0, -30], [40, -150], [-30, 80], [42.5, 51], [85, 0], [0, 179.5])],
    ],
)
def test_land_is_where_land_is(latlng, land):
    rings, _ = maps._coast()
    assert any(Outline(one).contains_point(latlng[::-1]) for one in rings) == land


def test_no_coast_runs_along_the_edge_of_the_map():
    rings, lines = maps._coast()
    assert sum(map(len, rings)) == 10_654
    assert max(np.abs(np.diff(line, axis=0)).max() for line in lines) < 30
    at_edge = [line for line in lines if (np.abs(line[:, 0]) == 180).all() or (line[:, 1] <= -90).any()]
    assert at_edge == []


def test_places_are_written_as_people_do():
    assert maps.place(PARIS) == "48.86° N, 2.35° E"
    assert maps.place(np.array([-33.456, -70.651])) == "33.46° S, 70.65° W"
    assert maps.place(np.array([0.0, 180.0])) == "0.00° N, 180.00° W"
    assert [maps.distance_text(km) for km in (0.85, 27.14, 343.6, 20015.1)] == [
        "850 m",
        "27.1 km",
        "344 km",
        "20,015 km",
    ]
    assert [maps.distance_text(km) for km in (0.0021, 0.0019, 0.000009)] == ["2 m", "190 cm", "0.9 cm"]


@pytest.mark.parametrize("level", [0, 7, 18, 30])
def test_a_cell_is_as_wide_as_the_root_of_its_mean_area(level):
    """A sphere has 6 * 4**level cells."""
    area = 4 * np.pi * 6371.0**2 / (6 * 4**level)
    expected = {0: "9,220 km", 7: "72.0 km", 18: "35 m", 30: "0.859 cm"}[level]
    assert maps.cell_width_text(level) == expected == maps.distance_text(area**0.5)


# ------------------------------------------------------------------------------------------------------------ views


def test_the_antarctic_is_shown_where_a_place_is_in_it():
    assert maps._world(np.stack([PARIS, FIJI])) == maps.View(-180, -60, 180, 84)
    assert maps._world(np.array([[-77.8, 166.7]])).south == -90
    assert maps._world(np.array([[90.0, 0.0]])).north == 90


@pytest.mark.parametrize("middle", [[47.0, 9.0], [-18.0, 179.0], [-18.0, -179.0], [88.0, 30.0], [-89.0, -170.0]])
def test_the_densest_part_holds_the_cluster(middle):
    rng = np.random.default_rng(1)
    cluster = np.array(middle) + rng.uniform(-1, 1, (500, 2))
    cluster[:, 1] = (cluster[:, 1] + 180) % 360 - 180
    view = maps._densest(np.concatenate([cluster, to_latlng(rng.normal(size=(300, 3)))]))
    x, y = maps._in_view(cluster, view).T
    assert ((view.west <= x) & (x <= view.east) & (view.south <= y) & (y <= view.north)).all()
    assert (view.east - view.west, view.north - view.south) == (34, 14)


@pytest.mark.parametrize("middle", [[47.0, 9.0], [-18.0, 179.5], [-18.0, -179.5]])
def test_the_densest_part_has_its_cells_in_the_middle(middle):
    cluster = np.array(middle) + np.random.default_rng(1).uniform(-1, 1, (500, 2))
    cluster[:, 1] = (cluster[:, 1] + 180) % 360 - 180
    view = maps._densest(cluster)
    x, y = maps._in_view(np.array([middle]), view)[0]
    assert ((view.west + view.east) / 2, (view.south + view.north) / 2) == pytest.approx((x, y), abs=0.2)
    # one far to the side does not move it
    view = maps._densest(np.concatenate([cluster, [[middle[0], middle[1] - 30.2]]]))
    x, y = maps._in_view(np.array([middle]), view)[0]
    assert ((view.west + view.east) / 2, (view.south + view.north) / 2) == pytest.approx((x, y), abs=0.2)


@pytest.mark.parametrize(
    ("answer", "truth", "radius"),
    [(PARIS, LONDON, 20), (PARIS, LONDON, 900), (FIJI, SAMOA, 100), (PARIS, None, 1000), ([80, 10], [85, 170], 200)],
)
def test_the_surroundings_hold_the_answer_the_truth_and_half_of_the_probability(answer, truth, radius):
    view = maps._surroundings(np.array(answer), None if truth is None else np.array(truth), radius, 0.5)
    assert -90 <= view.south < view.north <= 90
    shown = np.concatenate([np.reshape([answer, answer if truth is None else truth], (2, 2)), ring(answer, radius, 73)])
    x, y = maps._in_view(shown, view).T
    assert (x <= view.east).all()
    assert ((view.south <= y) & (y <= view.north)).all()


def test_a_truth_on_another_continent_does_not_widen_the_surroundings():
    assert maps._surroundings(PARIS, FIJI, 200.0, 0.5) == maps._surroundings(PARIS, None, 200.0, 0.5)


# ------------------------------------------------------------------------------------------------------------ cells


def test_the_map_of_cells_fills_where_cells_are_and_nothing_else(figure, tmp_path):
    cells = partition()
    assert {0, 1} & set(s2.levels(cells.ids).tolist()) or s2.levels(cells.ids).min() < 4
    maps.draw_partition(tmp_path / "a.png", cells, "cells")
    rng = np.random.default_rng(2)
    places = to_latlng(rng.normal(size=(1500, 3)))
    near_seam = np.column_stack([rng.uniform(-60, 80, 300), rng.choice([-1, 1], 300) * rng.uniform(170, 180, 300)])
    places = np.concatenate([places, near_seam, PARIS + rng.normal(size=(100, 2))])
    world = figure[0].axes[0]
    assert world.get_xlim() == (-180, 180)
    drawn, kept = filled(world, places), cells.lookup(places) >= 0
    assert (drawn != kept).mean() < 0.01
    assert 0.2 < kept.mean() < 0.99


def test_the_map_of_cells_is_written_for_any_partition(small, tmp_path):
    faces = np.array([face << 61 | 1 << 60 for face in range(6)], np.uint64)
    whole = Partition(faces, np.full(6, 7), s2.centre_vectors(faces), 42, 10, 1, 18)
    maps.draw_partition(tmp_path / "a.png", whole, "$six$ \\frac{ \n faces")
    assert (np.asarray(Image.open(tmp_path / "a.png").convert("RGB")) < 100).any()


def test_a_cell_across_the_antimeridian_is_filled_at_both_edges_and_beyond(figure, tmp_path):
    faces = np.array([face << 61 | 1 << 60 for face in range(6)], np.uint64)
    cells = Partition(faces[[1, 3]], np.full(2, 7), s2.centre_vectors(faces[[1, 3]]), 14, 7, 7, 18)
    maps.draw_partition(tmp_path / "a.png", cells, "the face of the Pacific, and that of Asia")
    edges = np.array([[0, 179], [0, -179], [30, -150], [0, -130], [0, 130], [50, 180], [50, -180], [0, 0]])
    assert filled(figure[0].axes[0], edges).tolist() == [True, True, True, False, True, False, False, False]
    draw(tmp_path / "a.png", cells, FIJI, tau=1e6)
    near = figure[1].axes[2]
    west, east = near.get_xlim()
    assert west < 180 < east
    assert filled(near, np.array([[-17, 175], [-17, east - 1]])).all()


def test_cells_without_gaps_show_coasts_and_nothing_between_them(figure, tmp_path):
    """Cells of one colour over all the Earth: what is seen beside it is drawn above them."""
    cells = np.arange(6, dtype=np.uint64) << np.uint64(61) | np.uint64(1 << 60)
    for _ in range(3):
        cells = s2.children(cells).ravel()
    maps.draw_partition(
        tmp_path / "a.png", Partition(cells, np.full(384, 7), s2.centre_vectors(cells), 2688, 7, 7, 18), ""
    )
    canvas = FigureCanvasAgg(figure[0])
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    world = figure[0].axes[0]

    def at(latitude, longitude):
        """Pixels around a place: (7, 7, 3)."""
        x, y = world.transData.transform((longitude, latitude)).round().astype(int)
        return pixels[len(pixels) - y - 4 : len(pixels) - y + 3, x - 3 : x + 4]

    for latitude, longitude in (
        (0, -152),
        (0, 78),
        (0, 62),
        (14, -135),
        (-30, -135),
        (-20, 90),
    ):  # sides of cells at sea
        assert np.ptp(at(latitude, longitude).reshape(-1, 3), axis=0).max() <= 6
    for latitude, longitude in ((-34.83, 20.07), (49, -110), (14.7, -17.6), (8.1, 77.5)):  # coasts, and a border
        light = at(latitude, longitude).sum(-1)
        assert light.max() - light.min() > 250


def test_thirty_thousand_cells_are_outlined_as_one_by_one():
    rng = np.random.default_rng(4)
    places = np.concatenate([to_latlng(rng.normal(size=(300, 3))), [[-17.0, 180.0], [-17.0, -180.0], [90.0, 0.0]]])
    for level in (3, 6, 9):
        ids = np.unique(s2.parents(s2.leaf_ids(places), level))
        for quick, cell in zip(maps._cell_rings(ids), ids.tolist(), strict=True):
            slow = maps.flat_ring(cell)
            assert [*quick.min(axis=0), *quick.max(axis=0)] == pytest.approx(
                [*slow.min(axis=0), *slow.max(axis=0)], abs=1e-6
            )


# ------------------------------------------------------------------------------------------------------- prediction


def test_a_title_is_one_line_of_letters_that_can_be_drawn():
    assert maps._drawable("$a$ é Ж\n眼 \udcff.jpg") == "$a$ é Ж ? ?.jpg"
    assert maps._drawable("a" * 100 + "b" * 100) == "a" * 54 + "…" + "b" * 55


def test_a_prediction_shows_the_photograph_the_heat_the_places_and_the_truth(figure, tmp_path):
    cells = partition()
    draw(tmp_path / "a.png", cells, cells.latlng[cells.lookup(PARIS[None])[0]], true=LONDON, tau=1500)
    picture, world, near = figure[0].axes[:3]
    assert (picture.images[0].get_array() == photograph()).all()
    assert filled(world, PARIS[None]).all()
    assert not filled(world, FIJI[None]).any()  # far less than a hundredth of the best
    for axes in (world, near):
        stars = [one.get_offsets()[0].tolist() for one in axes.collections if one.get_zorder() == 8]
        assert [LONDON[1], LONDON[0]] in [pytest.approx(star) for star in stars]
    texts = [text.get_text() for text in figure[0].texts]
    assert "truth 51.50° N, 0.12° W" in texts
    assert "half of the probability within 300 km" in texts
    assert sum(text in ("1", "2", "3", "4", "5") for text in texts) == 5
    assert "1" in [text.get_text() for text in near.texts]


def lines_of(axes):
    """Points of the lines as drawn: within the map, with a gap where a line leaves it."""
    for line in axes.lines:
        yield line.get_color(), np.column_stack(line.get_data())


def test_the_way_to_the_truth_crosses_the_antimeridian_and_not_the_map(figure, tmp_path):
    draw(tmp_path / "a.png", partition(), FIJI, true=SAMOA)
    world = figure[0].axes[1]
    ways = [points for color, points in lines_of(world) if color == maps.BLUE]
    assert len(ways) == 2  # at either edge
    for points in ways:
        assert np.abs(np.diff(points, axis=0)).max() < 2
    ends = np.concatenate([[points[0], points[-1]] for points in ways])
    inside = ends[np.abs(ends[:, 0]) <= 180]
    assert sorted(inside.tolist()) == [pytest.approx(SAMOA[::-1]), pytest.approx(FIJI[::-1])]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("at", "true"), [(FIJI, SAMOA), (np.array([89.0, 0.0]), None), (PARIS, np.array([-48.86, -177.65]))]
)
def test_a_prediction_is_written_for_any_place_and_name(small, tmp_path, at, true):
    draw(tmp_path / "a.png", partition(), at, true=true, title="$\\frac{$ 眼 \udcff\n" + "n" * 300)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert (pixels == (30, 140, 60)).all(axis=-1).mean() > 0.05


# ------------------------------------------------------------------------------------------------------ error curve


def test_the_error_curve_counts_who_is_at_most_so_far_off():
    kilometres, share = maps.error_curve(np.array([25.0, 1, 300, 1, np.inf, 0, 25, 9000]))
    assert kilometres.tolist() == [0, 1, 25, 300, 9000, np.inf]
    assert share.tolist() == [1 / 8, 3 / 8, 5 / 8, 6 / 8, 7 / 8, 1]
    assert [len(part) for part in maps.error_curve(np.empty(0))] == [0, 0]
    rng = np.random.default_rng(0)
    distance = rng.choice([0.5, 1, 25, 200, 750, 2500], 200)
    kilometres, share = maps.error_curve(distance)
    for limit, value in zip(kilometres, share, strict=True):
        assert value == (distance <= limit).mean()


def test_the_drawn_curve_has_the_shares_at_the_thresholds(figure, tmp_path):
    distance = np.array([0.1, 1.0, 24.0, 25.0, 25.1, 200.0, 700.0, 750.0, 2500.0, 12000.0])
    oracle = np.append(distance[:9] / 2, np.inf)
    maps.draw_error_curve(tmp_path / "a.png", distance, oracle, np.full(10, 5000.0), "test $x$")
    [axes] = figure[0].axes
    curves = {line.get_label(): np.column_stack(line.get_data()) for line in axes.lines if len(line.get_xdata()) > 2}

    def share_at(label, limit):
        x, y = curves[label].T
        return y[np.searchsorted(x, limit, side="right") - 1]

    expected = {1: 0.2, 25: 0.4, 200: 0.6, 750: 0.8, 2500: 0.9}
    for limit in THRESHOLDS_KM:
        assert share_at("the answers", limit) == pytest.approx(expected[limit])
        assert share_at("if the cell were always right", limit) == pytest.approx((oracle <= limit).mean())
        assert share_at("always the most frequent cell", limit) == 0
    assert share_at("always the most frequent cell", 5001) == 1
    assert curves["if the cell were always right"][-1, 1] == 0.9  # one was in a dropped cell
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if "%" in text] == ["20.0 %", "40.0 %", "60.0 %", "80.0 %", "90.0 %"]
    names = ["street\n1 km", "city\n25 km", "region\n200 km", "country\n750 km", "continent\n2,500 km"]
    assert [text for text in texts if "km" in text] == names
    upright = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert upright == list(THRESHOLDS_KM)


@pytest.mark.filterwarnings("error")
def test_the_pictures_of_errors_are_written_without_photographs_and_without_a_baseline(small, tmp_path):
    none = np.empty(0)
    maps.draw_error_curve(tmp_path / "curve.png", none, none, None, "val")
    maps.draw_errors_map(tmp_path / "map.png", np.empty((0, 2)), np.empty((0, 2)), none)
    for name in ("curve", "map"):
        assert (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) < 120).any()


# ---------------------------------------------------------------------------------------------------- map of errors


def test_the_map_of_errors_counts_by_threshold_and_leads_from_the_farthest(figure, tmp_path):
    truth = np.array([PARIS, PARIS, LONDON, FIJI, SAMOA, LONDON])
    answer = np.array([PARIS, LONDON, LONDON, PARIS, FIJI, FIJI])
    distance = np.array([1.0, 25.0, 25.001, 16000.0, 1100.0, 16100.0])
    maps.draw_errors_map(tmp_path / "a.png", truth, answer, distance)
    [axes] = figure[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "at most 1 km: 1 (16.7 %)",
        "at most 25 km: 1 (16.7 %)",
        "at most 200 km: 1 (16.7 %)",
        "at most 750 km: 0 (0.0 %)",
        "at most 2,500 km: 1 (16.7 %)",
        "beyond 2,500 km: 2 (33.3 %)",
    ]
    crosses = [one.get_offsets()[0].tolist() for one in axes.collections if one.get_zorder() == 8]
    assert crosses == [pytest.approx(FIJI[::-1]), pytest.approx(PARIS[::-1])]  # the farthest first
    [photographs] = [one for one in axes.collections if one.get_zorder() == 6]
    assert photographs.get_offsets().tolist() == truth[:, ::-1].tolist()


# ------------------------------------------------------------------------------------------------------- small maps


def blue_at(image):
    y, x = np.nonzero((np.abs(image.astype(int) - (0, 114, 178)) < 12).all(axis=-1))
    return x.mean(), y.mean()


def test_a_small_map_has_the_truth_where_it_is():
    truth = np.array([20.0, 10.0])
    image = maps.locator_map(truth, truth, 240)
    assert image.shape == (96, 240, 3)
    assert blue_at(image) == pytest.approx((120, 48), abs=1.5)  # of one near the answer: the middle
    far = maps.locator_map(np.array([-30.0, -90.0]), np.array([-30.0001, 89.0]), 360)
    assert far.shape == (144, 360, 3)
    orange = (np.abs(far.astype(int) - (213, 94, 0)) < 12).all(axis=-1)
    y, x = np.nonzero(orange)
    assert (x.mean(), y.mean()) == pytest.approx((269, 114), abs=1.5)
    assert maps.locator_map(np.array([-80.0, 0.0]), PARIS, 240).shape == (96, 240, 3)
