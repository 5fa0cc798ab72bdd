import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from qfundus.evaluation import metrics
from qfundus.recipes.nightly import EvaluationRecipe

HOW = EvaluationRecipe(resamples=500, confidence=0.95, specificity=0.9)


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(1)
    grades = rng.integers(0, 5, 300)
    scores = rng.normal(0, 1, (300, 5)) + np.eye(5)[grades] * 1.5
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return probabilities.round(2) / probabilities.round(2).sum(axis=1, keepdims=True), grades  # rounding makes ties


@pytest.mark.parametrize("seed", [None, 100, 101])
def test_every_metric_is_that_of_scikit_learn_weighted_or_not(predictions, seed):
    probabilities, grades = predictions
    weights = np.ones(300) if seed is None else np.random.default_rng(seed).integers(0, 4, 300).astype(float)
    chosen, row = probabilities.argmax(axis=1), weights[None]
    kappa = cohen_kappa_score(grades, chosen, weights="quadratic", sample_weight=weights)
    aucs = [roc_auc_score(grades == g, probabilities[:, g], sample_weight=weights) for g in range(5)]
    referable = roc_auc_score(grades >= 2, probabilities[:, 2:].sum(axis=1), sample_weight=weights)
    assert metrics.quadratic_weighted_kappa(probabilities, grades, row)[0] == pytest.approx(kappa)
    assert metrics.accuracy(probabilities, grades, row)[0] == pytest.approx(
        accuracy_score(grades, chosen, sample_weight=weights)
    )
    assert metrics.auc_one_vs_rest(probabilities, grades, row)[0] == pytest.approx(np.mean(aucs))
    assert metrics.auc_referable(probabilities, grades, row)[0] == pytest.approx(referable)


def test_sensitivity_is_read_where_specificity_holds(predictions):
    probabilities, grades = predictions
    found = metrics.sensitivity_referable(probabilities, grades, np.ones((1, 300)), specificity=0.9)[0]
    score, positive = metrics.referable_score(probabilities), grades >= 2
    best = max(
        (score[positive] >= t).mean() for t in np.append(score, 2) if (score[~positive] < t).mean() >= 0.9 - 1e-12
    )
    assert found == pytest.approx(best)


def test_a_sure_and_right_grader_is_calibrated():
    grades = np.arange(5).repeat(4)
    assert metrics.calibration_error(np.eye(5)[grades], grades, np.ones((1, 20)))[0] == pytest.approx(0)


def test_both_eyes_of_a_patient_are_drawn_together():
    weights = metrics.patient_resamples(np.array(["a", "a", "b", "c"]), 50, 0)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert weights[:, [0, 2, 3]].sum(axis=1).tolist() == [3] * 50


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        grades = rng.integers(0, 5, 150)
        right = rng.uniform(size=150) < 0.7
        probabilities = np.eye(5)[np.where(right, grades, (grades + 1) % 5)]
        estimate = metrics.evaluate(probabilities, grades, np.arange(150).astype(str), HOW, trial)["accuracy"]
        hits += estimate.low <= 0.7 <= estimate.high
    assert 88 <= hits <= 100


def test_a_split_without_referable_eyes_is_undefined_not_wrong():
    grades = np.zeros(10, int)
    assert np.isnan(metrics.auc_referable(np.full((10, 5), 0.2), grades, np.ones((1, 10)))[0])


def test_the_surest_eyes_come_first_in_the_curve_of_coverage():
    probabilities = np.array([[0.9, 0.1, 0, 0, 0], [0.4, 0.6, 0, 0, 0], [0.3, 0.0, 0.7, 0, 0], [0.5, 0.0, 0.5, 0, 0]])
    share, right = metrics.accuracy_by_coverage(probabilities, np.array([0, 0, 2, 4]))
    assert list(share) == [0.25, 0.5, 0.75, 1.0]
    assert np.allclose(right, [1, 1, 2 / 3, 1 / 2])
