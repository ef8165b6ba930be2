import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score

import tasks.classification.metrics as classification
from backbone.errors import InputError
from tasks.geolocalization.metrics import (
    SHARES,
    TABLE_11,
    THRESHOLDS_KM,
    Ranks,
    calibration_error,
    evaluate,
    geoscore,
    rank_cells,
    selective,
    within,
)
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, destination, haversine_km, to_latlng

DEGREE_KM = EARTH_RADIUS_KM * np.pi / 180
NAMES = [f"within_{limit}km" for limit in (1, 25, 200, 750, 2500)]


def case(num_photographs=60, num_cells=12, seed=0):
    """Photographs round the cells' points, one in six of a dropped cell; probabilities that favour the own cell."""
    rng = np.random.default_rng(seed)
    cells = to_latlng(rng.normal(size=(num_cells, 3)))
    labels = rng.integers(0, num_cells, num_photographs)
    truth = destination(
        cells[labels], rng.uniform(0, 360, num_photographs), 10 ** rng.uniform(-1, 3.5, num_photographs)
    )
    weights = rng.exponential(size=(num_photographs, num_cells))
    weights[np.arange(num_photographs), labels] *= 4
    labels[::6] = -1
    counts = rng.permutation(num_cells) + 5
    return truth, cells, labels, weights / weights.sum(axis=1, keepdims=True), counts


def scored(truth, cells, labels, probabilities, counts):
    ranks = rank_cells(probabilities, labels)
    return evaluate(cells[ranks.best], truth, labels, ranks, cells, counts)


# ------------------------------------------------------------------------------------------------------------ evaluate


@pytest.mark.parametrize("seed", range(3))
def test_every_figure_equals_a_plain_loop(seed):
    truth, cells, labels, probabilities, counts = case(seed=seed)
    scores = scored(truth, cells, labels, probabilities, counts)
    distance, oracle, baseline, top1, top5, nll = [], [], [], 0, 0, []
    for place, own, row in zip(truth, labels, probabilities, strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        distance.append(haversine_km(cells[order[0]], place))
        baseline.append(haversine_km(cells[list(counts).index(max(counts))], place))
        if own >= 0:
            oracle.append(haversine_km(cells[own], place))
            top1 += order[0] == own
            top5 += own in order[:5]
            nll.append(-np.log(row[own]))
    figures = {"images": 60, "coverage": len(oracle) / 60, "cell_top1": top1 / 60, "cell_top5": top5 / 60}
    figures |= {"median_km": sorted(distance)[29:31], "baseline_median_km": sorted(baseline)[29:31]}
    figures |= {"oracle_median_km": sorted([*oracle, *[np.inf] * 10])[29:31]}
    figures |= {"mean_km": distance, "nll": nll, "geoscore": [5000 * np.exp(-d / 1492.7) for d in distance]}
    for prefix, values in (("", distance), ("oracle_", oracle), ("baseline_", baseline)):
        for name, limit in zip(NAMES, (1, 25, 200, 750, 2500), strict=True):
            figures[prefix + name] = sum(d <= limit for d in values) / 60  # of all, those in dropped cells too
    figures["ece"] = scores.figures["ece"]  # below
    assert scores.figures == pytest.approx({name: np.mean(value) for name, value in figures.items()}, rel=1e-12)
    assert {type(value) for value in scores.figures.values()} == {float}
    np.testing.assert_array_equal(scores.distance_km, distance)
    np.testing.assert_array_equal(np.isinf(scores.oracle_km), labels == -1)
    assert scores.labels.tolist() == labels.tolist()


def test_scores_worked_by_hand():
    """Four photographs and two cells on the equator, at 0 and 90 degrees; the last one's cell was dropped."""
    cells, counts = np.array([(0.0, 0), (0, 90)]), np.array([10, 30])
    truth = np.array([(0.0, 0.1), (0, 91), (0, 5), (45, 180)])  # 11, 111, 556 km from their cells; 10,007 from the last
    labels = np.array([0, 1, 0, -1])
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7]])
    figures = scored(truth, cells, labels, probabilities, counts).figures
    far = 85 * DEGREE_KM
    distances = [0.1 * DEGREE_KM, DEGREE_KM, far, 90 * DEGREE_KM]
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


def test_the_answer_may_be_anywhere_and_the_cells_figures_stay():
    truth, cells, labels, probabilities, counts = case()
    ranks = rank_cells(probabilities, labels)
    moved = evaluate(truth, truth, labels, ranks, cells, counts).figures
    plain = evaluate(cells[ranks.best], truth, labels, ranks, cells, counts).figures
    assert [moved[name] for name in NAMES] == [1] * 5
    assert (moved["median_km"], moved["mean_km"], moved["geoscore"]) == (0, 0, 5000)
    kept = [name for name in plain if name.startswith(("oracle", "baseline", "cell", "nll", "ece", "cov"))]
    assert len(kept) == 17
    assert {name: moved[name] for name in kept} == {name: plain[name] for name in kept}


def test_always_answering_the_most_frequent_cell_scores_what_the_baseline_says():
    truth, cells, labels, probabilities, counts = case()
    ranks = rank_cells(probabilities, labels)
    frequent = np.tile(cells[counts.argmax()], (60, 1))
    figures = evaluate(frequent, truth, labels, ranks, cells, counts).figures
    for name in [*NAMES, "median_km"]:
        assert figures[name] == figures[f"baseline_{name}"]


def test_answering_the_own_cell_scores_what_the_oracle_says():
    truth, cells, labels, _, counts = case()
    sure = np.where(labels[:, None] == np.arange(12), 1.0, 0.0)
    sure[labels == -1, 0] = 1
    places = np.where(labels[:, None] >= 0, cells[labels], -truth)  # no more than a miss where it was dropped
    figures = evaluate(places, truth, labels, rank_cells(sure, labels), cells, counts).figures
    assert [figures[name] for name in NAMES] == pytest.approx([figures[f"oracle_{name}"] for name in NAMES])
    assert figures["cell_top1"] == figures["coverage"] == 50 / 60
    assert figures["nll"] == 0
    assert figures["ece"] == pytest.approx(10 / 60)  # sure, and wrong on the dropped ones


def test_a_model_over_another_set_of_photographs_has_no_oracle_median_and_no_likelihood():
    truth, cells, labels, probabilities, counts = case()
    figures = scored(truth, cells, np.full_like(labels, -1), probabilities, counts).figures
    unknown = {name for name, value in figures.items() if np.isnan(value)}
    assert unknown == {"nll", "oracle_median_km"}
    assert figures["coverage"] == figures["cell_top1"] == figures["cell_top5"] == figures["oracle_within_2500km"] == 0
    assert figures["within_2500km"] > 0


def test_without_photographs_there_are_no_figures():
    _, cells, _, _, counts = case()
    figures = scored(np.empty((0, 2)), cells, np.empty(0, np.int64), np.empty((0, 12)), counts).figures
    assert {name: value for name, value in figures.items() if not np.isnan(value)} == {"images": 0}
    assert selective(np.empty(0), np.empty(0)) == []


# ----------------------------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("limit", THRESHOLDS_KM)
def test_a_threshold_includes_its_exact_distance(limit):
    at = np.array([np.nextafter(limit, 0), limit, np.nextafter(limit, np.inf)])
    assert within(at)[f"within_{limit}km"] == 2 / 3
    # and from places: north along a meridian, at distances 1 mm short and 1 mm beyond
    near, far = (np.array([[(limit + more) / DEGREE_KM - 45, 7.0]]) for more in (-1e-6, 1e-6))
    ranks = rank_cells(np.ones((1, 12)) / 12, np.array([-1]))
    for place, inside in ((near, 1), (far, 0)):
        figures = evaluate(
            place, np.array([[-45.0, 7.0]]), np.array([-1]), ranks, np.zeros((12, 2)), np.ones(12)
        ).figures
        assert figures[f"within_{limit}km"] == inside


def test_the_geoscore():
    assert geoscore(np.zeros(3)) == 5000
    assert geoscore(np.array([1492.7])) == pytest.approx(1839.397, abs=1e-3)
    assert geoscore(np.array([0.0, 1e9])) == pytest.approx(2500)


def test_table_11_is_per_threshold():
    assert THRESHOLDS_KM == (1, 25, 200, 750, 2500)
    assert TABLE_11["PlaNet"] == (11.0, 31.7, 51.1, 64.0, 77.6)
    assert TABLE_11["PlaNet MobileNet"] == (11.4, 31.7, 45.2, 60.3, 79.3)
    assert TABLE_11["Im2GPS"] == (2.5, 21.9, 32.1, 35.4, 51.9)
    assert all(list(row) == sorted(row) for row in TABLE_11.values())


# --------------------------------------------------------------------------------------------------------------- ranks


def test_cell_figures_are_scikit_learns_where_all_cells_were_kept():
    truth, cells, labels, probabilities, counts = case(200, 9, seed=4)
    labels = np.arange(200) % 9
    figures = scored(truth, cells, labels, probabilities, counts).figures
    for name, k in (("cell_top1", 1), ("cell_top5", 5)):
        assert figures[name] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=k))
    assert figures["nll"] == pytest.approx(log_loss(labels, probabilities))


def test_cell_figures_and_calibration_are_those_of_the_classification_task():
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 20, 500)
    logits = (rng.normal(size=(500, 20)) + 3 * (labels[:, None] == np.arange(20))).astype(np.float32)
    power = np.exp(logits.astype(np.float64))
    probabilities = power / power.sum(axis=1, keepdims=True)
    _, cells, _, _, counts = case(1, 20)
    ours = scored(rng.uniform(-80, 80, (500, 2)), cells, labels, probabilities, counts).figures
    theirs = classification.evaluate(logits, labels).figures
    for own, other in (("cell_top1", "top1"), ("cell_top5", "top5"), ("nll", "nll"), ("ece", "ece")):
        assert ours[own] == pytest.approx(theirs[other], rel=1e-9)


def test_the_calibration_error_is_that_of_the_classification_task_at_the_edges_of_bins_too():
    rng = np.random.default_rng(7)
    edges = np.linspace(0, 1, 16)
    for confidence in (rng.random(400), np.tile([edges, edges - 0.01, edges + 0.01], 5).ravel().clip(0, 1), np.ones(9)):
        right = rng.random(len(confidence)) < 0.6
        expected = classification.expected_calibration_error(classification.reliability(confidence, right))
        assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-12)
    # (7/15, 8/15] holds 0.50 and 0.52, one right; (14/15, 1] holds 0.97, 0.99 and 1, one right
    worked = calibration_error(np.array([0.50, 0.97, 0.52, 1.0, 0.99]), np.array([True, False, False, True, False]))
    assert worked == pytest.approx((2 * 0.01 + 1.96) / 5)


def test_a_rank_counts_the_cells_before_and_of_equals_the_lower_goes_first():
    level = np.full((4, 4), 0.25)
    ranks = rank_cells(level, np.array([0, 1, 3, -1]))
    assert ranks.rank.tolist() == [0, 1, 3, -1]
    assert ranks.best.tolist() == [0] * 4
    assert ranks.confidence.tolist() == [0.25] * 4
    np.testing.assert_array_equal(ranks.probability, [0.25, 0.25, 0.25, np.nan])
    _, _, labels, probabilities, _ = case(300, 15)
    ranks = rank_cells(probabilities.round(1).astype(np.float32), labels)  # many ties
    order = np.argsort(-probabilities.round(1), axis=1, kind="stable")
    expected = [list(row).index(own) if own >= 0 else -1 for row, own in zip(order, labels, strict=True)]
    assert ranks.rank.tolist() == expected
    assert ranks.best.tolist() == order[:, 0].tolist()
    assert ranks.confidence.dtype == ranks.probability.dtype == np.float64


def test_a_probability_that_was_lost_costs_103_nats_and_not_infinity():
    cells, counts = np.zeros((2, 2)), np.ones(2)
    figures = scored(np.zeros((2, 2)), cells, np.array([0, 1]), np.float32([[1, 0], [1, 0]]), counts).figures
    assert figures["nll"] == pytest.approx(103.28 / 2, abs=0.01)
    least = np.nextafter(np.float32(0), np.float32(1))
    assert -np.log(float(least)) == pytest.approx(103.28, abs=0.01)


# ----------------------------------------------------------------------------------------------------------- selective


def test_answering_the_surest_alone_worked_by_hand():
    confidence = np.array([0.9, 0.1, 0.8, 0.3])
    rows = selective(np.array([0.5, 5000.0, 30, 800]), confidence)
    assert [row["share"] for row in rows] == list(SHARES) == [1, 0.75, 0.5, 0.25, 0.1]
    assert [row["images"] for row in rows] == [4, 3, 2, 1, 1]
    assert [row["from"] for row in rows] == [0.1, 0.3, 0.8, 0.9, 0.9]
    assert [row["median_km"] for row in rows] == [415, 30, 15.25, 0.5, 0.5]
    assert [row["within_25km"] for row in rows] == [1 / 4, 1 / 3, 1 / 2, 1, 1]
    assert [row["within_2500km"] for row in rows] == [3 / 4, 1, 1, 1, 1]


def test_all_that_are_as_sure_are_answered_whatever_their_order():
    distance, confidence = np.arange(8.0), np.array([0.5] * 6 + [0.9, 0.2])
    rows = selective(distance, confidence)
    assert [row["images"] for row in rows] == [8, 7, 7, 7, 1]
    assert selective(distance[::-1], confidence[::-1]) == rows
    assert rows[0] | {"share": 0, "from": 0} == {"share": 0, "images": 8, "from": 0, "median_km": 3.5} | within(
        distance
    )


# -------------------------------------------------------------------------------------------------------------- inputs

TRUTH, CELLS, LABELS, PROBABILITIES, COUNTS = case(4, 3)
RANKS = rank_cells(PROBABILITIES, LABELS)
GOOD = {"places": TRUTH, "truth": TRUTH, "labels": LABELS, "ranks": RANKS, "cells_latlng": CELLS, "counts": COUNTS}


def changed(array, position, value):
    array = array.copy()
    array[position] = value
    return array


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"places": changed(TRUTH, (2, 0), np.nan)}, r"places\[2\] is \[nan, .*latitude in -90\.\.90"),
        ({"truth": changed(TRUTH, (1, 0), 90.01)}, r"truth\[1\] is \[90\.01"),
        ({"truth": changed(TRUTH, (3, 1), 180.5)}, r"truth\[3\] is .*180\.5\]; .*longitude in -180\.\.180"),
        ({"cells_latlng": changed(CELLS, (0, 0), -np.inf)}, r"cells_latlng\[0\]"),
        ({"places": TRUTH[:, 0]}, r"places have shape \(4,\)"),
        ({"places": TRUTH.astype(str)}, "places have .*type <U"),
        ({"places": TRUTH[:3]}, "there are 3 places, 4 true ones and 4 ranks"),
        ({"ranks": Ranks(*(one[:2] for one in RANKS))}, "and 2 ranks"),
        ({"counts": COUNTS[:2]}, "3 cells and 2 counts"),
        ({"labels": changed(LABELS, 1, 3)}, r"labels\[1\] is 3; a label is a cell, in 0\.\.2, or -1"),
        ({"labels": changed(LABELS, 2, -2)}, r"labels\[2\] is -2"),
        ({"labels": LABELS[:3]}, r"labels have shape \(3,\).*give 4"),
        ({"labels": LABELS.astype(float)}, "labels have .*float64"),
        ({"cells_latlng": CELLS[:0], "counts": COUNTS[:0], "labels": np.full(4, -1)}, "0 cells and 0 counts"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_its_position(wrong, message):
    evaluate(**GOOD)
    with pytest.raises(InputError, match=message):
        evaluate(**GOOD | wrong)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (
            changed(PROBABILITIES, (2, 1), np.nan),
            LABELS,
            r"probabilities\[2\] hold .* not in 0\.\.1 \(1 of 4 photographs",
        ),
        (changed(PROBABILITIES, (slice(1, 3), 0), -0.1), LABELS, r"probabilities\[1\] hold .*\(2 of 4"),
        (10 * np.ones((4, 3)), LABELS, r"probabilities\[0\] .*give a softmax's"),  # logits
        (PROBABILITIES[0], LABELS, r"probabilities have shape \(3,\)"),
        (PROBABILITIES, changed(LABELS, 3, 3), r"labels\[3\] is 3"),
        (PROBABILITIES, LABELS[1:], r"labels have shape \(3,\)"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_its_position(probabilities, labels, message):
    with pytest.raises(InputError, match=message):
        rank_cells(probabilities, labels)


def test_the_metrics_need_neither_torch_nor_lightning():
    script = (
        "import sys, tasks.geolocalization.metrics, tasks.geolocalization.answers;"
        "print({'torch', 'lightning', 'scipy', 'matplotlib.figure'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[3]
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert printed.stdout == "set()\n"
