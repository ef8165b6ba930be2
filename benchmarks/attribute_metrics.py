"""How long every figure of `test` takes for CelebA's 200,000 images x 40 attributes: ours beside scikit-learn's.

    python benchmarks/attribute_metrics.py [--images N] [--rounds R]

Both sides have the same logits of a student and a teacher in memory, in a process each, in turn: thresholds chosen, the
figures of each attribute of both nets, agreement, divergence, and the figures with and without one attribute. The
figures that both have must agree to 1e-9, but for those at the thresholds that each side chose: their F1 must.
"""

import argparse
import itertools
import os
import sys
import warnings
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import numpy as np
from scipy.special import expit

from benchmarks.sides import answer, ask, line
from tasks.face_attributes.metrics import by_subgroup, check_finite, choose_thresholds, evaluate

ATTRIBUTES, GROUP = 40, 20  # the images with and without the attribute `GROUP` are compared
Case = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_case(images: int) -> Case:
    """Logits (N, 40) float32 of a student and of a teacher, and targets of frequencies from 2 to 60 %."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.02, 0.6, ATTRIBUTES)
    targets = (rng.random((images, ATTRIBUTES)) < rates).astype(np.int8)
    own, teacher = (
        rng.normal(size=targets.shape).astype(np.float32) * 2 + far * targets - 2 for far in (np.float32(3), 4)
    )
    return own, teacher.astype(np.float32), targets


def ours(own: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """As the head's `compute` and `report` do."""
    logits = check_finite(own)
    thresholds = choose_thresholds(logits, targets)
    figures = evaluate(logits, targets, thresholds, check_finite(teacher)).figures
    for name, of_group in by_subgroup(logits, targets, targets[:, GROUP], thresholds).items():
        figures |= {f"{name} {figure}": of_group[figure] for figure in ("map", "balanced_accuracy", "f1")}
    return figures


def by_scikit_learn(own: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The same with scikit-learn, attribute by attribute; what it lacks, in plain numpy."""
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        balanced_accuracy_score,
        f1_score,
        precision_recall_curve,
    )

    def calibration_error(probability: np.ndarray, truth: np.ndarray) -> float:
        gaps = 0.0
        for low, high in itertools.pairwise(edges):
            inside = (probability > low) & (probability <= high)
            gaps += abs((probability[inside] - truth[inside]).sum())
        return gaps / len(truth)

    edges = np.append(-1.0, np.linspace(0, 1, 16)[1:])
    rows: dict[str, list[float]] = {}
    own_yes, teacher_yes = expit(own.astype(np.float64)), expit(teacher.astype(np.float64))
    for k in range(ATTRIBUTES):
        truth, p, q = targets[:, k] == 1, own_yes[:, k], teacher_yes[:, k]
        precision, recall, limits = precision_recall_curve(truth, p)
        limit = limits[np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))]
        row = {"base_rate": truth.mean()}
        for prefix, probability in (("", p), ("teacher_", q)):
            decided = probability >= limit
            row[f"{prefix}map"] = average_precision_score(truth, probability)
            row[f"{prefix}balanced_accuracy"] = balanced_accuracy_score(truth, decided)
            row[f"{prefix}f1"] = f1_score(truth, decided)
            row[f"{prefix}accuracy"] = accuracy_score(truth, decided)
            row[f"{prefix}ece"] = calibration_error(probability, truth)
        row["teacher_agreement"] = ((p >= limit) == (q >= limit)).mean()
        row["teacher_kl"] = (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))).mean()
        for name, group in (("with", targets[:, GROUP] == 1), ("without", targets[:, GROUP] == 0)):
            if k != GROUP:
                there, decided = truth[group], p[group] >= limit
                row[f"{name} map"] = average_precision_score(there, p[group])
                row[f"{name} balanced_accuracy"] = balanced_accuracy_score(there, decided)
                row[f"{name} f1"] = f1_score(there, decided)
        for name, value in row.items():
            rows.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in rows.items()}


SIDES = {"ours": ours, "scikit-learn": by_scikit_learn}
# our threshold lies between two images, scikit-learn's at one: other logits may lie between the two thresholds
EXACT = ("map", "f1", "balanced_accuracy", "accuracy", "ece", "base_rate")
EXACT += ("teacher_map", "teacher_ece", "teacher_kl", "with map", "without map")


def main() -> None:
    """Run the sides in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        case = make_case(options.images)
        warnings.simplefilter("ignore")  # scikit-learn's, of attributes that so few images have not
        SIDES[options.side](*(column[:2000] for column in case))  # what is imported late
        return answer(lambda: SIDES[options.side](*case))
    print(f"{options.images:,} images x {ATTRIBUTES} attributes; the load was {os.getloadavg()[0]:.1f}")
    rounds = [
        {name: ask(__file__, name, ["--images", options.images]) for name in SIDES} for _ in range(options.rounds)
    ]
    last = rounds[-1]
    for name, found in last.items():
        found["seconds"] = median(one[name]["seconds"] for one in rounds)
        print(line(name, found, last["ours"]))
    results = [last[name]["result"] for name in SIDES]
    assert results[0].keys() >= results[1].keys(), results[1].keys() - results[0].keys()
    for name in EXACT:
        assert abs(results[0][name] - results[1][name]) < 1e-9, (name, *(result[name] for result in results))
    far = max(abs(results[0][name] - value) for name, value in results[1].items())
    print(f"{len(EXACT)} figures equal to 1e-9, all {len(results[1])} to {far:.1e}")


if __name__ == "__main__":
    main()
