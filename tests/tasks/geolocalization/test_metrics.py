import numpy as np
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score

from backbone.errors import InputError
from tasks.calibration import calibration_error
from tasks.geolocalization import metrics, s2
from tasks.geolocalization.cells import Partition
from tasks.geolocalization.metrics import (
    SHARES,
    THRESHOLDS_KM,
    evaluate,
    geoscore,
    nearness,
    rank_cells,
    selective,
)
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, destination, haversine_km, to_latlng, to_xyz

DEGREE_KM = EARTH_RADIUS_KM * np.pi / 180
NAMES = [f"within_{limit}km" for limit in THRESHOLDS_KM]


def partition_of(latlng, counts, level=2):
    """One cell of `level` around each position (C, 2), with that for its point, and the order in which they come."""
    ids = s2.parents(s2.leaf_ids(np.array(latlng, float)), level)
    order, counts = np.argsort(ids), np.array(counts)
    points = to_xyz(np.array(latlng, float))
    return Partition(ids[order], counts[order], points[order], int(counts.sum()), 10**6, 1), order


def case(num_images=60, seed=0):
    """Images anywhere over 40 large cells that cover part of the Earth; probabilities that favour the own cell."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.permutation(np.unique(s2.parents(s2.leaf_ids(to_latlng(rng.normal(size=(5000, 3)))), 2)))[:40])
    points = s2.centre_vectors(ids)
    cells = Partition(ids, rng.permutation(40) + 5, points, 10**4, 10**4, 1)
    near = rng.integers(0, 40, num_images)
    truth = destination(cells.latlng[near], rng.uniform(0, 360, num_images), 10 ** rng.uniform(-1, 3.3, num_images))
    labels = cells.lookup(truth)
    weights = rng.exponential(size=(num_images, 40))
    weights[np.arange(num_images), near] *= 4
    return truth, cells, labels, weights / weights.sum(axis=1, keepdims=True)


def scored(truth, cells, probabilities):
    ranks = rank_cells(probabilities, cells.lookup(truth))
    return evaluate(cells.latlng[ranks.best], truth, ranks, cells)


@pytest.mark.parametrize("chunk", [7, 60, 1 << 17])  # images that are located at once
@pytest.mark.parametrize("seed", range(3))
def test_every_figure_equals_a_plain_loop(seed, chunk, monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    truth, cells, labels, probabilities = case(seed=seed)
    scores = scored(truth, cells, probabilities)
    points, counts = cells.latlng, cells.counts.tolist()
    distance, oracle, baseline, top1, top5, nll = [], [], [], 0, 0, []
    for place, own, row in zip(truth, labels, probabilities, strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        distance.append(haversine_km(points[order[0]], place))
        baseline.append(haversine_km(points[counts.index(max(counts))], place))
        oracle.append(haversine_km(points[own], place) if own >= 0 else np.inf)
        if own >= 0:
            top1 += order[0] == own
            top5 += own in order[:5]
            nll.append(-np.log(row[own]))
    assert 5 < len(nll) < 60
    figures = {"images": 60, "coverage": len(nll) / 60, "cell_top1": top1 / 60, "cell_top5": top5 / 60}
    figures |= {"mean_km": distance, "nll": nll, "geoscore": [5000 * np.exp(-d / 1492.7) for d in distance]}
    for prefix, values in (("", distance), ("oracle_", oracle), ("baseline_", baseline)):
        figures[f"{prefix}median_km"] = sorted(values)[29:31]
        for name, limit in zip(NAMES, (1, 25, 200, 750, 2500), strict=True):
            figures[prefix + name] = sum(d <= limit for d in values) / 60  # of all, those in dropped cells too
    figures["ece"] = calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    assert scores.figures == pytest.approx({name: np.mean(value) for name, value in figures.items()}, rel=1e-12)
    assert {type(value) for value in scores.figures.values()} == {float}
    for name, values in (("distance_km", distance), ("oracle_km", oracle), ("baseline_km", baseline)):
        np.testing.assert_array_equal(getattr(scores, name), values)
    assert scores.labels.tolist() == labels.tolist()


def test_scores_worked_by_hand():
    """Four images and two cells on the equator, at 0 and 90 degrees; the last one's cell was dropped."""
    cells, _ = partition_of([(0.001, 0.001), (0.001, 90.001)], [10, 30], level=0)
    cells = Partition(cells.ids, cells.counts, to_xyz([(0, 0), (0, 90)]), 40, 50, 1)
    truth = np.array([(0.0, 0.1), (0, 91), (0, 5), (45.001, 180)])  # 11, 111, 556 km from their cells' points
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7]])
    figures = scored(truth, cells, probabilities).figures
    far, away = 85 * DEGREE_KM, haversine_km((45.001, 180), (0, 90))
    distances = [0.1 * DEGREE_KM, DEGREE_KM, far, away]
    expected = dict.fromkeys(NAMES[:1], 0.0) | {"within_25km": 1 / 4} | dict.fromkeys(NAMES[2:], 2 / 4)
    expected |= {"median_km": (DEGREE_KM + far) / 2, "mean_km": np.mean(distances), "images": 4, "coverage": 3 / 4}
    expected |= {"geoscore": 1250 * sum(np.exp(-d / 1492.7) for d in distances)}
    expected |= {"cell_top1": 2 / 4, "cell_top5": 3 / 4, "nll": -np.log([0.8, 0.6, 0.1]).mean()}
    # right at 0.8 and 0.6, wrong at 0.9 and 0.7, each in a bin of its own
    expected |= {"ece": (0.2 + 0.4 + 0.9 + 0.7) / 4}
    oracle, baseline = (0, 1 / 4, 2 / 4, 3 / 4, 3 / 4), (0, 0, 1 / 4, 1 / 4, 1 / 4)
    expected |= {f"oracle_{name}": value for name, value in zip(NAMES, oracle, strict=True)}
    expected |= {f"baseline_{name}": value for name, value in zip(NAMES, baseline, strict=True)}
    expected |= {"oracle_median_km": 3 * DEGREE_KM}  # of 0.1, 1 and 5 degrees, and one that is infinitely far
    expected |= {"baseline_median_km": (far + 89.9 * DEGREE_KM) / 2}
    assert figures == pytest.approx(expected)


@pytest.mark.parametrize("limit", THRESHOLDS_KM)
def test_a_threshold_includes_its_exact_distance(limit):
    at = np.array([np.nextafter(limit, 0), limit, np.nextafter(limit, np.inf)])
    assert nearness(at)[f"within_{limit}km"] == 2 / 3
    # and from positions: north along a meridian, at distances 1 mm short and 1 mm beyond
    for more, inside in ((-1e-6, 1), (1e-6, 0)):
        north = np.array([[(limit + more) / DEGREE_KM - 45, 7.0]])
        assert nearness(haversine_km(north, np.array([[-45.0, 7.0]])))[f"within_{limit}km"] == inside


def test_the_geoscore():
    assert geoscore(np.zeros(3)) == 5000
    assert geoscore(np.array([1492.7])) == pytest.approx(1839.397, abs=1e-3)
    assert geoscore(np.array([0.0, 1e9])) == pytest.approx(2500)


def test_cell_figures_are_scikit_learns_where_all_cells_were_kept():
    _, cells, _, _ = case()
    rng = np.random.default_rng(4)
    labels = np.arange(200) % 40
    probabilities = rng.dirichlet(np.ones(40), 200)
    figures = scored(s2.centres(cells.ids)[labels], cells, probabilities).figures
    for name, k in (("cell_top1", 1), ("cell_top5", 5)):
        assert figures[name] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=k))
    assert figures["nll"] == pytest.approx(log_loss(labels, probabilities))


def test_a_rank_counts_the_cells_before_and_of_equals_the_lower_goes_first():
    ranks = rank_cells(np.full((4, 4), 0.25), np.array([0, 1, 3, -1]))
    assert ranks.rank.tolist() == [0, 1, 3, -1]
    assert ranks.best.tolist() == [0] * 4
    assert ranks.confidence.tolist() == [0.25] * 4
    np.testing.assert_array_equal(ranks.probability, [0.25, 0.25, 0.25, np.nan])
    _, _, labels, probabilities = case(300)
    rounded = probabilities.round(1).astype(np.float32)  # many ties
    order = np.argsort(-rounded, axis=1, kind="stable")
    expected = [list(row).index(own) if own >= 0 else -1 for row, own in zip(order, labels, strict=True)]
    ranks = rank_cells(rounded, labels)
    assert ranks.rank.tolist() == expected
    assert ranks.best.tolist() == order[:, 0].tolist()
    assert ranks.confidence.dtype == ranks.probability.dtype == np.float64


def test_a_probability_that_was_lost_costs_103_nats_and_not_infinity():
    cells, order = partition_of([(0, 10), (0, 100)], [1, 1])
    truth = np.array([(0.0, 10), (0, 100)])[order]
    figures = scored(truth, cells, np.float32([[1, 0], [1, 0]])).figures
    assert figures["nll"] == pytest.approx(103.28 / 2, abs=0.01)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 10])
def test_what_is_no_probability_is_refused(wrong):
    _, _, labels, probabilities = case(4)
    probabilities[2, 1] = wrong
    with pytest.raises(InputError, match=r"1 of 4 images are not in 0\.\.1"):
        rank_cells(probabilities, labels)


def test_taking_the_surest_alone_worked_by_hand():
    rows = selective(np.array([0.5, 5000.0, 30, 800]), np.array([0.9, 0.1, 0.8, 0.3]))
    assert [row["share"] for row in rows] == list(SHARES) == [1, 0.75, 0.5, 0.25, 0.1]
    assert [row["images"] for row in rows] == [4, 3, 2, 1, 1]
    assert [row["from"] for row in rows] == [0.1, 0.3, 0.8, 0.9, 0.9]
    assert [row["median_km"] for row in rows] == [415, 30, 15.25, 0.5, 0.5]
    assert [row["within_25km"] for row in rows] == [1 / 4, 1 / 3, 1 / 2, 1, 1]
    assert selective(np.empty(0), np.empty(0)) == []
    rows = selective(np.arange(8.0), np.array([0.5] * 6 + [0.9, 0.2]))
    assert [row["images"] for row in rows] == [8, 7, 7, 7, 1]  # all that are as sure
