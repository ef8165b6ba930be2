import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from PIL import Image

from tasks.geolocalization import maps, s2
from tasks.geolocalization.cells import Partition, partitions_of
from tasks.geolocalization.metrics import THRESHOLDS_KM, evaluate, rank_cells
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, destination, haversine_km, to_latlng, to_xyz

pytestmark = pytest.mark.usefixtures("no_network")

DEGREE_KM = EARTH_RADIUS_KM * np.pi / 180


@pytest.fixture
def figure(monkeypatch):
    """The figures that would be written; writing them takes most of the time."""
    figures = []
    monkeypatch.setattr(maps, "save_figure", lambda figure, _: figures.append(figure))
    return figures


PARIS, LONDON, FIJI, SAMOA = np.array([[48.86, 2.35], [51.5, -0.12], [-17.7, 178.1], [-13.8, -171.8]])


def partition(seed=0, count=3000):
    """Clusters around a few cities, and places anywhere: cells of all sizes, at the poles and the antimeridian too."""
    rng = np.random.default_rng(seed)
    cities = np.repeat([PARIS, LONDON, FIJI, [40.7, -74], [35.7, 139.7]], count // 6, axis=0)
    places = np.concatenate([cities + rng.normal(size=cities.shape), to_latlng(rng.normal(size=(count // 6, 3)))])
    places[:, 1] = (places[:, 1] + 180) % 360 - 180
    [built] = partitions_of(s2.leaf_ids(places), [100], min_images=2)
    return built


IMAGE = np.full((60, 90, 3), (30, 140, 60), np.uint8)


def draw(path, cells, at, *, true=None, tau=500.0, title="a.jpg"):
    weights = np.exp(-haversine_km(at, cells.latlng) / tau)
    best = np.argsort(-weights)[:100]
    maps.draw_prediction(path, IMAGE, cells, (best, weights[best] / weights.sum()), at, 300.0, true, title)


def filled(axes, latlng):
    """Which places (N, 2) lie in anything filled on this map above the land."""
    found = np.zeros(len(latlng), bool)
    for collection in axes.collections:
        if isinstance(collection, PolyCollection) and collection.get_zorder() == 3:
            for outline in collection.get_paths():
                found |= outline.contains_points(latlng[:, ::-1])
    return found


def test_land_is_where_land_is():
    rings, _ = maps._coast()
    land = [(48.9, 2.3), (-33.8, 150.5), (55.7, 37.6), (-15.8, -47.9), (-85, 100), (67, 179)]
    sea = [(0, -30), (40, -150), (-30, 80), (42.5, 51), (85, 0), (0, 179.5)]
    for latlng in land + sea:
        assert any(Outline(one).contains_point(latlng[::-1]) for one in rings) == (latlng in land)


def test_no_coast_runs_along_the_edge_of_the_map():
    rings, lines = maps._coast()
    assert sum(map(len, rings)) == 10_654
    assert max(np.abs(np.diff(line, axis=0)).max() for line in lines) < 30
    at_edge = [line for line in lines if (np.abs(line[:, 0]) == 180).all() or (line[:, 1] <= -90).any()]
    assert at_edge == []


def test_positions_and_distances_are_written_as_people_do():
    assert maps.position_text(PARIS) == "48.86° N, 2.35° E"
    assert maps.position_text(np.array([-33.456, -70.651])) == "33.46° S, 70.65° W"
    assert maps.position_text(np.array([0.0, 180.0])) == "0.00° N, 180.00° W"
    expected = ["0 m", "850 m", "27.1 km", "344 km", "20,015 km"]
    assert [maps.distance_text(km) for km in (0, 0.85, 27.14, 343.6, 20015.1)] == expected
    for level, width in {0: "9,220 km", 7: "72.0 km", 18: "35 m"}.items():
        area = 4 * np.pi * 6371.0**2 / (6 * 4**level)  # a sphere has 6 * 4**level cells
        assert maps.cell_width_text(level) == width == maps.distance_text(area**0.5)


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
    # in its middle, but for the few that are anywhere, and the map's edge
    assert (view.west + view.east) / 2 == pytest.approx(x.mean(), abs=2)
    assert abs((view.south + view.north) / 2 - y.mean()) < (1 if abs(middle[0]) < 80 else 9)


@pytest.mark.parametrize(
    ("predicted", "truth", "radius"),
    [(PARIS, LONDON, 20), (PARIS, LONDON, 900), (FIJI, SAMOA, 100), (PARIS, None, 1000), ([80, 10], [85, 170], 200)],
)
def test_the_surroundings_hold_the_prediction_the_truth_and_half_of_the_probability(predicted, truth, radius):
    view = maps._surroundings(np.array(predicted), None if truth is None else np.array(truth), radius, 0.5)
    assert -90 <= view.south < view.north <= 90
    ends = np.reshape([predicted, predicted if truth is None else truth], (2, 2))
    shown = np.concatenate([ends, destination(predicted, np.linspace(0, 360, 73), radius)])
    x, y = maps._in_view(shown, view).T
    assert (x <= view.east).all()
    assert ((view.south <= y) & (y <= view.north)).all()


def test_the_map_of_cells_fills_where_cells_are_and_nothing_else(figure, tmp_path):
    cells = partition()
    assert s2.levels(cells.ids).min() < 4
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


def test_a_cell_across_the_antimeridian_is_filled_at_both_edges_and_beyond(figure, tmp_path):
    faces = np.array([face << 61 | 1 << 60 for face in range(6)], np.uint64)
    cells = Partition(faces[[1, 3]], np.full(2, 7), s2.centre_vectors(faces[[1, 3]]), 14, 7, 7)
    maps.draw_partition(tmp_path / "a.png", cells, "the face of the Pacific, and that of Asia")
    edges = np.array([[0, 179], [0, -179], [30, -150], [0, -130], [0, 130], [50, 180], [50, -180], [0, 0]])
    assert filled(figure[0].axes[0], edges).tolist() == [True, True, True, False, True, False, False, False]
    draw(tmp_path / "a.png", cells, FIJI, tau=1e6)
    near = figure[1].axes[2]
    west, east = near.get_xlim()
    assert west < 180 < east
    assert filled(near, np.array([[-17, 175], [-17, east - 1]])).all()


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


def test_a_prediction_shows_the_image_the_heat_the_cells_and_the_truth(figure, tmp_path):
    cells = partition()
    draw(tmp_path / "a.png", cells, cells.latlng[cells.lookup(PARIS[None])[0]], true=LONDON, tau=1500)
    left, world, near = figure[0].axes[:3]
    assert (left.images[0].get_array() == IMAGE).all()
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


@pytest.mark.parametrize("highest", [0.8, 0.03])
def test_the_heat_ends_at_the_images_own_highest_probability_and_the_bar_says_it(figure, tmp_path, highest):
    cells = partition()
    probabilities = highest * np.array([1, 0.5, 0.1, 0.02, 0.009])  # the last is below a hundredth of the best
    maps.draw_prediction(tmp_path / "a.png", IMAGE, cells, (np.arange(5), probabilities), PARIS, 300.0, None, "a.jpg")
    _, world, _, bar = figure[0].axes
    assert bar.get_xticks().tolist() == pytest.approx([highest / 100, highest / 10, highest])
    assert [text.get_text() for text in bar.get_xticklabels()][2] == f"{100 * highest:g} %"
    heat = [one.get_facecolor() for one in world.collections if one.get_zorder() == 3]
    colors = next(one for one in heat if len(one))  # the least likely first
    assert colors[-1, :3].tolist() == pytest.approx(maps.colormaps["YlOrRd"](1.0)[:3])
    assert len(np.unique(colors, axis=0)) == 4


def test_the_way_to_the_truth_crosses_the_antimeridian_and_not_the_map(figure, tmp_path):
    draw(tmp_path / "a.png", partition(), FIJI, true=SAMOA)
    world = figure[0].axes[1]
    ways = [np.column_stack(line.get_data()) for line in world.lines if line.get_color() == maps.BLUE]
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
def test_a_prediction_is_written_for_any_place_and_name(monkeypatch, tmp_path, at, true):
    monkeypatch.setattr(maps, "DPI", 25)  # few pixels are soon written
    draw(tmp_path / "a.png", partition(), at, true=true, title="$\\frac{$ 眼 \udcff\n" + "n" * 300)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert (pixels == (30, 140, 60)).all(axis=-1).mean() > 0.05


def test_the_curves_have_the_shares_at_the_thresholds(figure, tmp_path):
    """Ten images north of two cells' points: all but one of the first cell, which the net names for all but one."""
    ids = s2.parents(s2.leaf_ids(np.array([[1.0, 7.0], [1.0, 100.0]])), 0)
    cells = Partition(ids, np.array([4, 5]), to_xyz([(0.5, 7.0), (0.5, 100.0)]), 10, 5, 1)
    truth = np.array([(0.5 + km / DEGREE_KM, 7.0) for km in (0.1, 0.99, 24, 24.9, 26, 199, 700, 749, 2499)] + [(80, 7)])
    best = np.array([0] * 8 + [1, 0])
    scores = evaluate(cells.latlng[best], truth, rank_cells(np.eye(2)[best], cells.lookup(truth)), cells)
    maps.draw_error_curve(tmp_path / "a.png", scores, "test $x$")
    [axes] = figure[0].axes
    curves = {line.get_label(): np.column_stack(line.get_data()) for line in axes.lines if len(line.get_xdata()) > 2}

    def share_at(label, limit):
        x, y = curves[label].T
        return y[np.searchsorted(x, limit, side="right") - 1]

    for limit in THRESHOLDS_KM:
        assert share_at("the predictions", limit) == pytest.approx((scores.distance_km <= limit).mean())
        assert share_at("if the cell were always right", limit) == pytest.approx((scores.oracle_km <= limit).mean())
        assert share_at("always the most frequent cell", limit) == pytest.approx((scores.baseline_km <= limit).mean())
    assert [share_at("the predictions", limit) for limit in THRESHOLDS_KM] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert curves["if the cell were always right"][-1, 1] == 0.9  # one was in a dropped cell
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if "%" in text] == ["20.0 %", "40.0 %", "60.0 %", "80.0 %", "80.0 %"]
    names = ["street\n1 km", "city\n25 km", "region\n200 km", "country\n750 km", "continent\n2,500 km"]
    assert [text for text in texts if "km" in text] == names
    upright = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert upright == list(THRESHOLDS_KM)


def test_the_map_of_errors_counts_by_threshold_and_leads_from_the_farthest(figure, tmp_path):
    truth = np.array([PARIS, PARIS, LONDON, FIJI, SAMOA, LONDON])
    predicted = np.array([PARIS, LONDON, LONDON, PARIS, FIJI, FIJI])
    distance = np.array([1.0, 25.0, 25.001, 16000.0, 1100.0, 16100.0])
    maps.draw_errors_map(tmp_path / "a.png", truth, predicted, distance)
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
    [images] = [one for one in axes.collections if one.get_zorder() == 6]
    assert images.get_offsets().tolist() == truth[:, ::-1].tolist()


def middle_of(image, color):
    y, x = np.nonzero((np.abs(image.astype(int) - color) < 12).all(axis=-1))
    return x.mean(), y.mean()


def test_a_small_map_has_the_truth_where_it_is():
    truth = np.array([20.0, 10.0])
    image = maps.locator_map(truth, truth, 240)
    assert image.shape == (96, 240, 3)
    assert middle_of(image, (0, 114, 178)) == pytest.approx(
        (120, 48), abs=1.5
    )  # of one near the prediction: the middle
    far = maps.locator_map(np.array([-30.0, -90.0]), np.array([-30.0001, 89.0]), 360)
    assert far.shape == (144, 360, 3)
    assert middle_of(far, (213, 94, 0)) == pytest.approx((269, 114), abs=1.5)
    assert maps.locator_map(np.array([-80.0, 0.0]), PARIS, 240).shape == (96, 240, 3)


def test_land_is_drawn_on_both_sides_of_the_antimeridian():
    figure = Figure((8, 2.5), dpi=50)
    axes = figure.add_axes((0, 0, 1, 1))
    maps._draw_land(axes, maps.View(150, 50, 230, 75))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    for latlng, color in (((65, 165), maps._LAND), ((66, 208), maps._LAND), ((56, 190), maps._SEA)):
        y, x = int((latlng[0] - 50) / 25 * 125), int((latlng[1] - 150) / 80 * 400)
        assert drawn[y, x].tolist() == [int(color[i : i + 2], 16) for i in (1, 3, 5)]
