"""PennyLane's simulators; `device` is a name that PennyLane knows, such as lightning.qubit."""

from typing import Any

import numpy as np
import pennylane as qml

from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.simulator import open_simulator
from qfundus.quantum.gates import Gates


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a device. Options: `device`, `qubits` (at most), `seed`."""
    return _open(**options)


def _open(device: str = "default.qubit", qubits: int = 24, seed: int | None = None) -> Backend:
    try:
        qml.device(device, wires=1)
    except qml.exceptions.DeviceError as error:
        raise ValueError(str(error)) from None
    seeds = np.random.default_rng(seed)

    def sample(gates: Gates, angles: list[float], shots: int) -> np.ndarray:
        simulator = qml.device(device, wires=gates.n_qubits, seed=int(seeds.integers(2**31)))

        @qml.set_shots(shots)
        @qml.qnode(simulator)
        def node() -> Any:
            for gate in gates.gates:
                if gate.kind == "cx":
                    qml.CNOT(wires=gate.qubits)
                else:
                    (qml.RY if gate.kind == "ry" else qml.RZ)(angles[gate.angle], wires=gate.qubits[0])
            return qml.sample(wires=range(gates.n_qubits))

        return np.asarray(node(), np.uint8).reshape(shots, gates.n_qubits)

    return open_simulator(f"pennylane {device}", qubits, sample)
