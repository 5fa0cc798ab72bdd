import pytest
import torch
from command_line import call

from qfundus.errors import SetupError
from qfundus.heads.quantum_plan import NightPlan, Refusal, plan_night, plan_shots
from qfundus.layout import checkout
from qfundus.quantum import chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.jobs.schedule import Limit, Rules
from qfundus.quantum.shots import ShotsLayer
from qfundus.recipes.nightly import QuantumHeadRecipe

HOW = QuantumHeadRecipe(
    features=6, qubits=8, layers=3, epochs=60, patience=12, batch=32, learning_rate=0.01, weight_decay=0.0
)


def test_a_night_is_predicted_from_one_step():
    plan = plan_night(HOW, eyes=1000, window=3600)
    assert isinstance(plan, NightPlan)
    assert plan.steps == 60 * 32
    assert plan.night_seconds > plan.steps * plan.step_seconds > 0
    assert plan.method in {"state_vector", "tensor_network"}


def test_a_circuit_that_takes_too_long_is_refused_and_a_smaller_one_proposed():
    plan = plan_night(HOW.model_copy(update={"ansatz": "all_to_all", "qubits": 16}), eyes=1000, window=60)
    assert isinstance(plan, Refusal)
    assert "the window is 0.0167 h" in plan.why
    assert plan.proposal is not None
    assert plan.proposal.qubits < 16


def test_a_circuit_that_fits_nowhere_is_refused_before_it_is_measured():
    plan = plan_night(HOW.model_copy(update={"ansatz": "all_to_all", "qubits": 40, "batch": 1}), eyes=1, window=0.0)
    assert isinstance(plan, Refusal)
    assert "GiB" in plan.why


@pytest.mark.parametrize(("gradient", "each"), [("parameter_shift", 1 + 2 * 56), ("spsa", 3)])
def test_shots_and_cost_of_fine_tuning_are_counted_as_the_layer_sends_them(gradient, each, monkeypatch):
    exact = open_backend("exact")
    prices = {"machine": {"through": "exact", "price": {"task": 0.3, "shot": 0.0004}}}
    monkeypatch.setattr("qfundus.quantum.backends.read_backends", lambda *_: prices)
    plan = plan_shots(HOW, 100, "machine", precision=0.02, gradient=gradient)
    assert (plan.circuits, plan.shots) == (100 * each, 100 * each * 2500)
    assert plan.cost == pytest.approx(8 * 0.3 + plan.shots * 0.0004)
    # The same, counted by a layer that sends them.
    sent = []
    layer = ShotsLayer(chain_ansatz(8, 3), exact, precision=0.02, gradient=gradient)
    estimate = layer.estimate
    monkeypatch.setattr(layer, "estimate", lambda sets: (sent.append(sets[..., 0].size), estimate(sets))[1])
    layer(torch.zeros(2, 8)).sum().backward()
    assert sum(sent) == 2 * each


def test_fine_tuning_that_costs_more_than_a_day_allows_is_refused(monkeypatch):
    monkeypatch.setattr("qfundus.quantum.backends.read_backends", lambda *_: {"machine": {"price": {"shot": 1.0}}})
    monkeypatch.setattr("qfundus.quantum.jobs.queue.read_rules", lambda: Rules(site=Limit(cost=10.0)))
    recipe = str(checkout() / "configs" / "recipes" / "nightly.yaml")
    done = call("quantum", "plan", recipe, "--eyes", 10, "--backend", "machine")
    assert isinstance(done.exception, SetupError)
    assert "The limit is 10.00 a day" in str(done.exception)
    done = call("quantum", "plan", recipe, "--eyes", 10, "--backend", "nowhere")
    assert "Unknown quantum backend nowhere" in str(done.exception)
