from itertools import pairwise

import numpy as np
import pytest

from tasks.calibration import calibration_error, reliability


def test_the_error_and_the_bins_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    probability = np.append(rng.random(3000), [0.0, 1.0, 1 / 15, 0.2])  # the ends, and edges of bins
    right = rng.random(3004) < probability**2
    bins = reliability(probability, right)
    error = 0.0
    for k, (low, high) in enumerate(pairwise(np.linspace(0, 1, 16))):
        inside = (probability > low) & (probability <= high) | ((k == 0) & (probability == 0))
        assert bins.count[k] == inside.sum()
        assert bins.probability[k] == pytest.approx(probability[inside].mean())
        assert bins.accuracy[k] == pytest.approx(right[inside].mean())
        error += abs(probability[inside].mean() - right[inside].mean()) * inside.mean()
    assert calibration_error(probability, right) == pytest.approx(error, abs=1e-12)


def test_worked_by_hand():
    # of 10 that get 0.3 three are right, of 10 that get 0.8 eight
    true_odds, right = np.repeat([0.3, 0.8], 10), np.array([1] * 3 + [0] * 7 + [1] * 8 + [0] * 2, bool)
    assert calibration_error(true_odds, right) == pytest.approx(0, abs=1e-12)
    # all sure, one in four right
    assert calibration_error(np.ones(4), np.arange(4) == 0) == 0.75
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))
    assert np.isnan(reliability(np.ones(4), np.arange(4) == 0).accuracy[:14]).all()
