import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tasks.geolocalization.loss import cross_entropy, haversine_labels
from tasks.geolocalization.sphere import EARTH_RADIUS_KM, destination, haversine_km, to_latlng, to_xyz

DEGREE_KM = EARTH_RADIUS_KM * math.pi / 180


def scene(num_images, num_cells, seed=0, spread_km=800.0):
    """Cells in clusters, images near them with the nearest as their label; every fifth in a dropped cell."""
    rng = np.random.default_rng(seed)
    hubs = to_latlng(rng.normal(size=(6, 3)))
    cells = destination(hubs[rng.integers(0, 6, num_cells)], rng.uniform(0, 360, num_cells), rng.exponential(spread_km))
    near = destination(cells, rng.uniform(0, 360, num_cells), rng.exponential(60, num_cells))
    truth = near[rng.integers(0, num_cells, num_images)]
    labels = haversine_km(truth[:, None], cells).argmin(axis=1)
    labels[::5] = -1
    return truth, cells, labels


def soft(truth, cells, labels, tau):
    return haversine_labels(torch.tensor(np.array(truth)), torch.tensor(to_xyz(cells)), torch.tensor(labels), tau)


def test_cross_entropy_worked_by_hand():
    """Softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8); the image of no cell does not count in the mean."""
    logits = torch.tensor([[1.0, 2, 5]] * 3).log()
    loss = cross_entropy(logits, torch.tensor([2, -1, 0]))
    assert loss.item() == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)
    targets = torch.tensor([[0.5, 0, 0.5], [0, 0, 0], [1, 0, 0]])
    assert cross_entropy(logits, torch.full((3,), -1)) == 0
    halves = (math.log(8) + math.log(8 / 5)) / 2
    assert cross_entropy(logits, targets).item() == pytest.approx((halves + math.log(8)) / 2)


def test_with_a_cell_each_it_is_pytorchs():
    logits, labels = torch.randn(40, 9), torch.randint(0, 9, (40,))
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels))
    probabilities = torch.rand(40, 9).softmax(1)
    torch.testing.assert_close(cross_entropy(logits, probabilities), F.cross_entropy(logits, probabilities))
    torch.testing.assert_close(cross_entropy(logits, F.one_hot(labels).float()), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("kind", ["plain", "soft"])
def test_images_in_dropped_cells_train_nothing(kind):
    truth, cells, labels = scene(20, 12)
    targets = torch.tensor(labels) if kind == "plain" else soft(truth, cells, labels, 300.0)
    logits = torch.randn(20, 12, requires_grad=True)
    cross_entropy(logits, targets).backward()
    kept = torch.tensor(labels >= 0)
    assert (logits.grad[~kept] == 0).all()
    assert (logits.grad[kept] != 0).any(1).all()
    alone = logits.detach()[kept].requires_grad_()
    cross_entropy(alone, targets[kept]).backward()
    torch.testing.assert_close(logits.grad[kept], alone.grad)  # as if the others were not there


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_float32_in_mixed_precision(dtype):
    truth, cells, labels = scene(8, 12)
    exact = soft(truth, cells, labels, 65.0)
    logits = torch.randn(8, 12)
    with torch.autocast("cpu", dtype=dtype):
        targets = soft(truth, cells, labels, 65.0)
        losses = [cross_entropy(logits.to(dtype), one) for one in (torch.tensor(labels), targets)]
    torch.testing.assert_close(targets, exact, rtol=0, atol=0)
    assert {loss.dtype for loss in losses} == {torch.float32}
    torch.testing.assert_close(losses[1], cross_entropy(logits.to(dtype).float(), exact))


def test_soft_labels_worked_by_hand():
    """On the equator: an image at 0, its cell's point one degree east, others at 1, 2 and 4 degrees to the west."""
    cells = np.array([(0, 1), (0, -2), (0, -4), (0, -1)], float)
    labels = soft([(0.0, 0.0)], cells, [0], DEGREE_KM)
    weights = np.exp([0, -1, -3, 0])
    np.testing.assert_allclose(labels, [weights / weights.sum()], rtol=1e-5)


@pytest.mark.parametrize("tau", [0.5, 65.0, 2000.0])
def test_soft_labels_equal_a_loop_in_float64_and_sum_to_one(tau):
    truth, cells, labels = scene(30, 50, seed=1)
    found = soft(truth, cells, labels, tau)
    assert found.dtype == torch.float32
    for image, own, row in zip(truth, labels, found.double().numpy(), strict=True):
        if own < 0:
            assert (row == 0).all()
            continue
        distance = [haversine_km(image, cell) for cell in cells]
        weights = np.array([min(1.0, math.exp(min(0, -(d - distance[own]) / tau))) for d in distance])
        np.testing.assert_allclose(row, weights / weights.sum(), rtol=max(1e-3, 0.02 / tau), atol=1e-7)
        assert row.sum() == pytest.approx(1, abs=1e-6)
        assert row[own] == row.max()


def test_a_seam_and_poles_are_no_distance():
    cells = np.array([(10, -179.9), (10, 179.5), (10, 0)], float)
    near, far, _ = soft([(10.0, 179.9)], cells, [0], 50.0)[0]
    gap = haversine_km((10, 179.9), cells[:2])
    assert (near / far).item() == pytest.approx(math.exp((gap[1] - gap[0]) / 50), rel=1e-3)
    poles = soft([(90.0, 12.0), (-90.0, 5.0)], np.array([(89.0, -170.0), (89.0, 10.0), (-90.0, 100.0)]), [0, 2], 30.0)
    np.testing.assert_allclose(poles, [[0.5, 0.5, 0], [0, 0, 1]], atol=1e-5)


def test_float32_vectors_measure_neighbours_to_metres():
    """The weight of a neighbour cell at 1 km and a tau of 1 km: by arc cosine of float32 it would be off by factors."""
    place = np.array([[48.8566, 2.3522]])
    for bearing in range(0, 360, 30):
        cells = np.concatenate([place, destination(place, np.array([bearing]), 1.0)])
        own, other = soft(place, cells, [0], 1.0)[0].tolist()
        assert math.log(own / other) == pytest.approx(1, abs=2e-3)  # 2 m


def test_antipodes_anywhere_are_no_nan_though_rounding_makes_some_vectors_too_long():
    places = to_latlng(np.random.default_rng(8).normal(size=(2000, 3)))
    opposite = places * [-1, 1] + [0, 180]
    labels = soft(places, opposite, np.zeros(2000, np.int64), 65.0)  # (B, B)
    assert labels.isfinite().all()
    torch.testing.assert_close(labels.sum(1), torch.ones(2000))
