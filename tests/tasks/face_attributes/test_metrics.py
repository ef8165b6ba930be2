import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from backbone.errors import InputError
from tasks.face_attributes.metrics import by_subgroup, choose_thresholds, evaluate


def case(num_images, num_attributes, seed=0, unknown=0.2, ties=False):
    """Logits that favour the targets, of attributes of unequal frequency; some targets are unknown."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_images, num_attributes)) < rng.uniform(0.05, 0.95, num_attributes)).astype(np.int8)
    logits = rng.normal(size=targets.shape) * 2 + 2 * targets - 1
    targets[rng.random(targets.shape) < unknown] = -1
    return (logits.round() if ties else logits).astype(np.float32), targets


def halves(targets):
    return np.full(targets.shape[1], 0.5)


def measurable(targets):
    return np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))


def average_precision(scores, truth):
    """By counting, at every score from the top: the precision there, weighted by the positives that it adds."""
    total, hits_before = 0.0, 0
    for score in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= score
        hits = (chosen & truth).sum()
        total += (hits - hits_before) * hits / chosen.sum()
        hits_before = hits
    return total / truth.sum()


def f1(truth, decided):
    return 2 * (truth & decided).sum() / (truth.sum() + decided.sum())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("num_images", "num_attributes"), [(150, 7), (37, 40), (5, 30), (2, 9), (1, 4)])
def test_every_figure_is_that_of_counting(num_images, num_attributes, ties):
    for seed in range(3):
        logits, targets = case(num_images, num_attributes, seed, ties=ties)
        targets[:, 0] = -1  # nothing known
        targets[:, 1] = 0  # no positive
        targets[:, 2] = 1  # no negative
        thresholds = np.random.default_rng(seed).uniform(0.2, 0.8, num_attributes)
        figures, by_attribute = evaluate(logits, targets, thresholds)
        kept = measurable(targets)
        for k in range(num_attributes):
            row = {name: values[k] for name, values in by_attribute.items()}
            known = targets[:, k] >= 0
            truth, decided = targets[known, k] == 1, expit(logits[known, k].astype(float)) >= thresholds[k]
            assert (row["known"], row["positive"]) == (known.sum(), truth.sum())
            if known.any():
                assert row["accuracy"] == pytest.approx((truth == decided).mean())
                assert row["base_rate"] == pytest.approx(truth.mean())
            if k in kept:
                assert row["ap"] == pytest.approx(average_precision(logits[known, k], truth), rel=1e-12)
                assert row["balanced_accuracy"] == pytest.approx(
                    (decided[truth].mean() + (~decided[~truth]).mean()) / 2
                )
                assert row["f1"] == pytest.approx(f1(truth, decided))
            else:
                assert np.isnan([row["ap"], row["balanced_accuracy"], row["f1"]]).all()
        assert figures["attributes_left_out"] == num_attributes - len(kept)
        assert figures["images"] == num_images
        for name in ("ap", "f1", "accuracy", "ece", "balanced_accuracy", "base_rate"):
            expected = by_attribute[name][kept].mean() if len(kept) else np.nan
            assert figures[name.replace("ap", "map")] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("ties", [False, True])
def test_every_attribute_is_scored_as_scikit_learn_scores_it(ties):
    logits, targets = case(3000, 6, seed=5, ties=ties)
    thresholds = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])  # the last gives no yes
    scores = evaluate(logits, targets, thresholds).by_attribute
    for k in range(6):
        known = targets[:, k] >= 0
        truth, own = targets[known, k] == 1, logits[known, k].astype(float)
        decided = expit(own) >= thresholds[k]
        assert scores["ap"][k] == pytest.approx(average_precision_score(truth, own), rel=1e-12)
        assert scores["balanced_accuracy"][k] == pytest.approx(balanced_accuracy_score(truth, decided), rel=1e-12)
        assert scores["f1"][k] == pytest.approx(f1_score(truth, decided), rel=1e-12)


def ap_of(scores, truth):
    return evaluate(np.float32(scores)[:, None], np.int8(truth)[:, None], np.array([0.5])).by_attribute["ap"][0]


def test_average_precision_worked_by_hand_and_the_order_of_equals_does_not_matter():
    # from the top: yes; then two level, one of them yes; then no; then yes.
    # precision 1/1 for the first, 2/3 for the second (both of its level are chosen), 3/5 for the third
    scores, truth = np.array([9, 5, 5, 2, 1]), np.array([1, 1, 0, 0, 1])
    assert ap_of(scores, truth) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    swapped = [0, 2, 1, 3, 4]
    assert ap_of(scores[swapped], truth[swapped]) == ap_of(scores, truth)
    assert ap_of(np.zeros(8), np.arange(8) < 2) == 0.25  # all level: the base rate, whatever comes first
    assert np.isnan(ap_of(scores, np.ones(5)))
    assert np.isnan(ap_of(scores, np.zeros(5)))


def test_decisions_worked_by_hand():
    # yes from 0.5 on, so for the first three; of these two are right, and one of the two noes
    logits, targets = np.float32([[3], [2], [0], [-1], [-2]]), np.int8([[1], [1], [0], [1], [0]])
    figures = evaluate(logits, targets, np.array([0.5])).figures
    assert figures["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (figures["accuracy"], figures["base_rate"]) == (pytest.approx(3 / 5), pytest.approx(3 / 5))


def test_large_logits_neither_overflow_nor_lose_their_order():
    with np.errstate(all="raise", under="ignore"):
        logits = np.float32([[3e38, -3e38], [40, -40], [39, -41], [-3e38, 3e38]])  # 39 and 40 have probability 1
        scores = evaluate(logits, np.int8([[1, 0], [1, 1], [0, 0], [0, 0]]), np.full(2, 0.5), -logits)
    assert scores.by_attribute["ap"].tolist() == [1.0, 0.5]
    assert scores.figures["teacher_agreement"] == 0


# -------------------------------------------------------------------------------------------------------- the teacher


def test_the_teacher_is_scored_by_the_same_code_and_compared_on_all_images():
    logits, targets = case(300, 6, unknown=0.5)
    teacher, _ = case(300, 6, seed=9)
    thresholds = np.linspace(0.2, 0.7, 6)
    scores = evaluate(logits, targets, thresholds, teacher)
    alone = evaluate(teacher, targets, thresholds)  # the student's thresholds
    for name in ("map", "balanced_accuracy", "f1", "accuracy", "ece"):
        assert scores.figures[f"teacher_{name}"] == alone.figures[name] != scores.figures[name]
    for name in ("ap", "balanced_accuracy", "f1", "accuracy", "ece"):
        np.testing.assert_array_equal(scores.by_attribute[f"teacher_{name}"], alone.by_attribute[name])
    p, q = (expit(one.astype(np.float64)) for one in (teacher, logits))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(scores.by_attribute["teacher_kl"], kl.mean(axis=0), rtol=1e-9)
    assert scores.figures["teacher_kl"] == pytest.approx(kl.mean())
    agreement = (p >= thresholds) == (q >= thresholds)
    assert scores.figures["teacher_agreement"] == pytest.approx(agreement.mean())
    unlabelled = evaluate(logits, np.full_like(targets, -1), thresholds, teacher).figures  # neither needs labels
    assert unlabelled["teacher_kl"] == scores.figures["teacher_kl"]
    assert unlabelled["attributes_left_out"] == 6
    assert np.isnan(unlabelled["map"])
    assert "teacher_map" not in evaluate(logits, targets, thresholds).figures


def test_the_divergence_worked_by_hand():
    # a teacher of 3/4 and a student of 1/2: 3/4 ln(3/2) + 1/4 ln(1/2)
    targets, limit = np.int8([[1], [0]]), np.array([0.5])
    scores = evaluate(np.zeros((2, 1), np.float32), targets, limit, np.log(np.float32([[3], [3]])))
    assert scores.figures["teacher_kl"] == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), rel=1e-6)
    sure = np.full((2, 1), 1000, np.float32)  # of yes, and the student of no: 1000 nats
    assert evaluate(-sure, targets, limit, sure).figures["teacher_kl"] == pytest.approx(1000)


# --------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [1, 40])  # 40: many probabilities are 1
def test_no_other_threshold_has_a_higher_f1(ties, scale):
    logits, targets = case(40, 6, seed=2, ties=ties)
    logits *= scale
    reached = evaluate(logits, targets, choose_thresholds(logits, targets)).by_attribute["f1"]
    for k in measurable(targets):
        known = targets[:, k] >= 0
        chance = expit(logits[known, k].astype(float))
        tried = [f1(targets[known, k] == 1, chance >= limit) for limit in [0, *chance]]
        assert reached[k] == pytest.approx(max(tried), abs=1e-12)


def test_a_threshold_lies_halfway_in_logits_and_nearest_to_a_half_among_equals():
    apart, truth = np.float32([[3], [2], [-1], [-4]]), np.int8([[1], [1], [0], [0]])
    assert choose_thresholds(apart, truth) == pytest.approx(expit(0.5))
    # yes, no, no, yes, no: F1 of the first alone is 2 * 1 / (1 + 2), of the first four 2 * 2 / (4 + 2), both 2/3;
    # the limit 2.5 is nearer to 0.5 than -3.5
    logits, truth = np.float32([[3], [2], [1], [-3], [-4]]), np.int8([[1], [0], [0], [1], [0]])
    assert choose_thresholds(logits, truth) == pytest.approx(expit(2.5))
    assert choose_thresholds(-logits[::-1], truth) == pytest.approx(expit(-2.5))


@pytest.mark.parametrize(
    ("logits", "truth", "best"),
    [
        # above 37 all have probability 1, so the first cannot be told from three noes: all five, 2 * 2 / (5 + 2)
        ([60, 50, 45, 40, -1], [1, 0, 0, 0, 1], 4 / 7),
        # 1 and the float before it, with halfway between their logits rounded to the lower
        ([36.8, 36, -1], [1, 0, 0], 1.0),
    ],
)
def test_where_probabilities_run_into_one_a_threshold_still_does_what_it_was_chosen_for(logits, truth, best):
    logits, targets = np.float32(logits)[:, None], np.int8(truth)[:, None]
    scores = evaluate(logits, targets, choose_thresholds(logits, targets))
    assert scores.figures["f1"] == pytest.approx(best)


def test_all_may_get_a_yes_and_an_attribute_without_both_kinds_keeps_a_half():
    logits = np.float32([[0, 1, 1, 1], [-2, 2, 2, 2]])
    targets = np.int8([[0, 0, 1, -1], [1, 0, 1, -1]])
    assert choose_thresholds(logits, targets) == pytest.approx([expit(-2), 0.5, 0.5, 0.5])
    assert choose_thresholds(logits[:0], targets[:0]).tolist() == [0.5] * 4


# ---------------------------------------------------------------------------------------------------------- subgroups


def test_subgroups_are_scored_over_the_attributes_that_both_can_be_judged_by():
    logits, targets = case(500, 5, unknown=0.1)
    group = targets[:, 2]
    targets[group == 0, 4] = 0  # a beard, say: nobody without the attribute has one
    thresholds = np.linspace(0.3, 0.6, 5)
    found = by_subgroup(logits, targets, group, thresholds)
    assert list(found) == ["with", "without"]
    for figures, rows in zip(found.values(), (group == 1, group == 0), strict=True):
        alone = evaluate(logits[rows][:, [0, 1, 3]], targets[rows][:, [0, 1, 3]], thresholds[[0, 1, 3]]).figures
        assert figures == alone | {"attributes_left_out": 2}
    assert found["with"]["images"] + found["without"]["images"] == (group >= 0).sum()


# ------------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused_by_their_position(value):
    targets, logits = np.ones((4, 3), np.int8), np.zeros((4, 3), np.float32)
    broken = logits.copy()
    broken[2, 1] = value
    for call in (
        lambda: evaluate(broken, targets, halves(targets)),
        lambda: choose_thresholds(broken, targets),
        lambda: evaluate(logits, targets, halves(targets), broken),
    ):
        with pytest.raises(InputError, match=r"\[2\].*1 of 4"):
            call()
