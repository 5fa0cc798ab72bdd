import numpy as np
import pytest
import torch
from qiskit.quantum_info import Statevector

from qfundus.quantum.ansatz import build_ansatz, build_observables
from qfundus.quantum.statevector import expectations


def by_qiskit(angles, weights):
    qubits, layers = angles.shape[1], weights.shape[0]
    circuit, observables = build_ansatz(qubits, layers), build_observables(qubits)
    values = []
    for row in angles:
        named = {p: row[p.index] if p.vector.name == "x" else weights.ravel()[p.index] for p in circuit.parameters}
        state = Statevector(circuit.assign_parameters(named))
        values.append([state.expectation_value(observable).real for observable in observables])
    return np.array(values)


def random_case(qubits, layers, batch=3):
    rng = np.random.default_rng(qubits * 10 + layers)
    return rng.uniform(-3, 3, (batch, qubits)), rng.uniform(-3, 3, (layers, 2, qubits))


@pytest.mark.parametrize(("qubits", "layers"), [(2, 1), (3, 2), (5, 3), (8, 3), (9, 2)])
def test_the_values_are_those_of_qiskit(qubits, layers):
    angles, weights = random_case(qubits, layers)
    ours = expectations(torch.from_numpy(angles), torch.from_numpy(weights)).numpy()
    assert np.allclose(ours, by_qiskit(angles, weights), atol=1e-12)


def test_the_gradients_are_those_of_the_parameter_shift_rule():
    angles, weights = (torch.from_numpy(a).requires_grad_() for a in random_case(4, 2))
    expectations(angles, weights).sum().backward()
    for tensor in (angles, weights):
        for place in np.ndindex(tuple(tensor.shape)):
            shifted = []
            for sign in (1, -1):
                moved = tensor.detach().clone()
                moved[place] += sign * np.pi / 2
                case = (moved, weights.detach()) if tensor is angles else (angles.detach(), moved)
                shifted.append(expectations(*case).sum())
            assert torch.isclose(tensor.grad[place], (shifted[0] - shifted[1]) / 2, atol=1e-10)
