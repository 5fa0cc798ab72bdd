"""Cirq's simulator."""

from typing import Any

import cirq
import numpy as np

from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.simulator import open_simulator
from qfundus.quantum.gates import Gates


def open_backend(options: dict[str, Any]) -> Backend:
    """Open the simulator. Options: `qubits` (at most), `seed`."""
    return _open(**options)


def _open(qubits: int = 24, seed: int | None = None) -> Backend:
    simulator = cirq.Simulator(seed=seed)

    def sample(gates: Gates, angles: list[float], shots: int) -> np.ndarray:
        line = cirq.LineQubit.range(gates.n_qubits)
        circuit = cirq.Circuit()
        for gate in gates.gates:
            if gate.kind == "cx":
                circuit.append(cirq.CNOT(*(line[qubit] for qubit in gate.qubits)))
            else:
                circuit.append((cirq.ry if gate.kind == "ry" else cirq.rz)(angles[gate.angle])(line[gate.qubits[0]]))
        circuit.append(cirq.measure(*line, key="all"))
        return simulator.run(circuit, repetitions=shots).measurements["all"].astype(np.uint8)

    return open_simulator("cirq", qubits, sample)
