import numpy as np
import pytest

from qfundus.hybrid.ensemble import fit_mixture, fit_temperature


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, 400)
    return np.eye(5)[grades] * 2 + rng.normal(0, 1, (400, 5)), rng.normal(0, 1, (400, 5)), grades


def likelihood(probabilities, grades):
    return np.log(probabilities[np.arange(len(grades)), grades]).mean()


def test_a_head_that_knows_nothing_gets_no_weight(case):
    knows, noise, grades = case
    assert fit_mixture(knows, noise, grades).classical_weight > 0.9
    assert fit_mixture(noise, knows, grades).classical_weight < 0.1


def test_the_mixture_is_no_worse_than_either_head(case):
    knows, _, grades = case
    other = knows + np.random.default_rng(1).normal(0, 1, knows.shape)
    mixture = fit_mixture(knows, other, grades)
    alone = max(
        likelihood(
            type(mixture)(mixture.classical_temperature, mixture.quantum_temperature, w).mix(knows, other), grades
        )
        for w in (0.0, 1.0)
    )
    assert likelihood(mixture.mix(knows, other), grades) >= alone - 1e-4


def test_an_overconfident_head_is_cooled(case):
    knows, _, grades = case
    assert fit_temperature(knows * 5, grades) == pytest.approx(5 * fit_temperature(knows, grades), rel=0.01)


def test_probabilities_add_up_to_one(case):
    knows, noise, grades = case
    assert np.allclose(fit_mixture(knows, noise, grades).mix(knows, noise).sum(axis=1), 1)
