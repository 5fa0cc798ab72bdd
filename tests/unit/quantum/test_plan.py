from qfundus.quantum.plan import NightPlan, Refusal, plan_night
from qfundus.recipe import Quantum

HOW = Quantum(features=6, qubits=8, layers=3, epochs=60, patience=12, batch=32, learning_rate=0.01, weight_decay=0.0)


def test_a_night_is_predicted_from_one_step():
    plan = plan_night(HOW, eyes=1000, window=3600)
    assert isinstance(plan, NightPlan)
    assert plan.steps == 60 * 32
    assert plan.night_seconds > plan.steps * plan.step_seconds > 0
    assert plan.method in {"state_vector", "tensor_network"}


def test_a_circuit_that_takes_too_long_is_refused_and_a_smaller_one_proposed():
    plan = plan_night(HOW.model_copy(update={"ansatz": "all_to_all", "qubits": 16}), eyes=1000, window=60)
    assert isinstance(plan, Refusal)
    assert "the window is 0.0 h" in plan.why
    assert plan.proposal is not None
    assert plan.proposal.qubits < 16


def test_a_circuit_that_fits_nowhere_is_refused_before_it_is_measured():
    plan = plan_night(HOW.model_copy(update={"ansatz": "all_to_all", "qubits": 40, "batch": 1}), eyes=1, window=0.0)
    assert isinstance(plan, Refusal)
    assert "GiB" in plan.why
