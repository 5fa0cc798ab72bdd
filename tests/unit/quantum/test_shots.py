from dataclasses import replace

import pytest
import torch

from qfundus.quantum import QuantumLayer, build_ansatz, chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.shots import ShotsLayer


class Counting:
    """An estimator that counts how often it is called."""

    def __init__(self, estimator):
        self.estimator, self.calls = estimator, 0

    def run(self, pubs, **how):
        self.calls += 1
        return self.estimator.run(pubs, **how)


def gradients(layer, features):
    features = features.clone().requires_grad_()
    values = layer(features)
    (values * torch.linspace(-1, 1, values.shape[1])).sum().backward()
    return values.detach(), features.grad, layer.weight.grad


@pytest.fixture
def trained():
    torch.manual_seed(0)
    layer = QuantumLayer(chain_ansatz(3, 2))
    torch.nn.init.uniform_(layer.weight, -2, 2)
    return layer


def warm(trained, name, **how):
    backend = open_backend(name)
    counting = Counting(backend.estimator)
    layer = ShotsLayer(chain_ansatz(3, 2), replace(backend, estimator=counting), **how)
    layer.load_state_dict(trained.state_dict())
    return layer, counting


def test_shifted_gradients_without_shots_are_the_exact_ones_in_one_call_each_way(trained):
    layer, counting = warm(trained, "exact")
    features = torch.rand(4, 3)
    for ours, exact in zip(gradients(layer, features), gradients(trained, features), strict=True):
        assert torch.allclose(ours, exact, atol=1e-5)
    assert counting.calls == 2


@pytest.mark.parametrize("name", ["aer", "cirq"])
def test_shifted_gradients_from_shots_are_within_their_noise(trained, name):
    layer, _ = warm(trained, name, precision=0.03)
    features = torch.rand(2, 3)
    values, _, by_weight = gradients(layer, features)
    exact, _, exact_by_weight = gradients(trained, features)
    assert (values - exact).abs().max() < 5 * 0.03
    # Two samples and three observables, each a difference of two estimates by two: under one precision each.
    assert (by_weight - exact_by_weight).abs().max() < 5 * 0.03 * 6**0.5


def test_perturbed_gradients_are_right_in_the_mean(trained):
    layer, counting = warm(trained, "exact", gradient="spsa")
    features = torch.rand(1, 3).expand(1500, -1)
    mean = gradients(layer, features)[2] / 1500
    exact = gradients(trained, features[:1])[2]
    assert counting.calls == 2
    assert (mean - exact).abs().max() < 0.15


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.rand(2, 4), r"takes angles \(batch, 3\)"),
        (torch.rand(3), "takes"),
        (torch.full((2, 3), torch.nan), "finite"),
    ],
)
def test_angles_that_do_not_fit_are_refused(trained, features, message):
    layer, _ = warm(trained, "exact")
    with pytest.raises(ValueError, match=message):
        layer(features)


def test_ways_that_there_are_not_are_refused(trained):
    for how, message in (({"gradient": "psr"}, "Unknown gradient psr"), ({"precision": 0.0}, "between 0 and 1")):
        with pytest.raises(ValueError, match=message):
            warm(trained, "exact", **how)


@pytest.mark.parametrize("name", ["exact", "aer", "cirq"])
def test_an_empty_batch_has_no_values(trained, name):
    layer, _ = warm(trained, name)
    values = layer(torch.rand(0, 3))
    values.sum().backward()
    assert values.shape == (0, 3)
    assert not layer.weight.grad.any()


def test_a_circuit_that_the_shift_rule_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="turn one gate, by itself"):
        ShotsLayer(build_ansatz("reupload", 3, 2), open_backend("exact"))


def test_fine_tuning_under_noise_lowers_the_loss_there(trained):
    layer, _ = warm(trained, "aer", precision=0.02)
    features, wanted = torch.rand(4, 3), torch.full((4, 3), 0.5)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = (layer(features) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_spsa_takes_circuits_that_cannot_be_shifted():
    circuit = build_ansatz("zz_feature_map", 3, 1)
    with pytest.raises(ValueError, match="or SPSA"):
        ShotsLayer(circuit, open_backend("aer"))
    layer = ShotsLayer(circuit, open_backend("aer"), precision=0.1, gradient="spsa")
    features = torch.zeros(2, layer.n_features, requires_grad=True)
    layer(features).sum().backward()
    assert features.grad.isfinite().all()
