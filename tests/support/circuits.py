"""Circuits for tests, and what Qiskit says of them."""

import numpy as np
import torch
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import Statevector

from qfundus.quantum.ansatz import build_observables
from qfundus.quantum.gates import split_parameters

ROTATIONS = ("rx", "ry", "rz", "p")


@st.composite
def circuits(draw, most_qubits=5, most_gates=24):
    """Draw a circuit of the gates that any circuit comes down to, turned by features, weights, both or neither."""
    n_qubits = draw(st.integers(1, most_qubits))
    features, weights = ParameterVector("x", 3), ParameterVector("w", 3)
    angles = (*features, *weights, 2 * features[0] + 1, features[1] * weights[1], features[2] * features[0], 0.7, np.pi)
    circuit = QuantumCircuit(n_qubits)
    for _ in range(draw(st.integers(1, most_gates))):
        qubits = draw(st.permutations(range(n_qubits)))
        gate = draw(st.sampled_from(("cx", "cx", "cz", "h", "x", *ROTATIONS, *ROTATIONS)))
        if gate in ROTATIONS:
            getattr(circuit, gate)(draw(st.sampled_from(angles)), qubits[0])
        elif gate in ("h", "x"):
            getattr(circuit, gate)(qubits[0])
        elif n_qubits > 1:
            getattr(circuit, gate)(*qubits[:2])
    return circuit


def by_qiskit(circuit, features, weights, observables=None):
    """Return expectation values `(batch, observables)` by Qiskit's state vector; each Z alone unless given."""
    observables = observables or build_observables(circuit.num_qubits)
    named_features, named_weights = split_parameters(circuit)
    values = []
    for row in np.asarray(features):
        numbers = dict(zip((*named_features, *named_weights), (*row, *np.ravel(weights)), strict=True))
        state = Statevector(circuit.assign_parameters(numbers))
        values.append([state.expectation_value(observable).real for observable in observables])
    return np.array(values).reshape(len(features), len(observables))


def random_angles(*shape, seed=0):
    """Return angles in radians, in 64 bits."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * np.pi


def fit(model, inputs, targets, rate):
    """Train a classifier for sixty steps; return the loss of each."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
