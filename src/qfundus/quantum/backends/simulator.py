"""Any simulator that can sample RY, RZ and CX, as a backend of Qiskit: its primitives do the rest."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit.providers import BackendV2, JobV1, Options
from qiskit.providers.jobstatus import JobStatus
from qiskit.result import Result
from qiskit.transpiler import Target

from qfundus.quantum.backends import Backend
from qfundus.quantum.gates import Gates, lower

_TAKEN = ("rx", "ry", "rz", "p", "h", "x", "z", "cx")  # what `lower` makes RY, RZ and CX of

# Takes a bound circuit's gates with the angle of each rotation, and the shots; returns bits `(shots, qubits)`.
Sample = Callable[[Gates, list[float], int], np.ndarray]


class GateSimulator(BackendV2):
    """A simulator behind `sample`."""

    def __init__(self, name: str, n_qubits: int, sample: Sample) -> None:
        super().__init__(name=name)
        self._sample = sample
        self._n_qubits = n_qubits
        self._target = Target.from_configuration([*_TAKEN, "measure"], num_qubits=n_qubits)

    @property
    def target(self) -> Target:  # pyright: ignore[reportIncompatibleMethodOverride]  (the base says None)
        """What the simulator can run."""
        return self._target

    @property
    def max_circuits(self) -> None:
        """As many circuits as one likes."""
        return

    @classmethod
    def _default_options(cls) -> Options:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Options(shots=1024, seed_simulator=None, memory=False)

    def run(self, run_input: Any, **options: Any) -> "_Done":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run circuits at once.

        Raises:
            ValueError: for a circuit that is wider than the simulator, measures before its end, or no shots.
        """
        circuits = [run_input] if isinstance(run_input, QuantumCircuit) else list(run_input)
        shots = int(options.get("shots", 1024))
        if shots < 1:
            raise ValueError("A circuit needs at least one shot.")
        return _Done(self, [self._run(circuit, shots) for circuit in circuits])

    def _run(self, circuit: QuantumCircuit, shots: int) -> dict[str, Any]:
        if circuit.num_qubits > self._n_qubits:
            raise ValueError(f"{self.name} takes {self._n_qubits} qubits, the circuit has {circuit.num_qubits}.")
        gates = lower(circuit)
        angles = [terms.get((), 0.0) for terms in gates.shared]
        bits = self._sample(gates, angles, shots)
        measured = np.zeros((shots, circuit.num_clbits), np.uint8)
        for instruction in circuit.data:
            if instruction.operation.name == "measure":
                qubit, bit = (circuit.find_bit(b).index for b in (*instruction.qubits, *instruction.clbits))
                measured[:, bit] = bits[:, qubit]
        memory = [hex(int("".join(map(str, row[::-1])) or "0", 2)) for row in measured.tolist()]
        header = {
            "name": circuit.name,
            "memory_slots": circuit.num_clbits,
            "creg_sizes": [[register.name, register.size] for register in circuit.cregs],
            "metadata": circuit.metadata,
        }
        return {
            "shots": shots,
            "success": True,
            "header": header,
            "data": {"counts": dict(Counter(memory)), "memory": memory},
        }


class _Done(JobV1):
    """A job that has run already."""

    def __init__(self, backend: GateSimulator, results: list[dict[str, Any]]) -> None:
        super().__init__(backend, f"{backend.name}-{datetime.now(UTC).isoformat()}")
        self._name, self._results = backend.name, results

    def submit(self) -> None:
        """Do nothing: it ran when it was made."""

    def status(self) -> JobStatus:
        """Say that it is done."""
        return JobStatus.DONE

    def result(self) -> Result:
        """Return what was found."""
        return Result.from_dict(
            {
                "backend_name": self._name,
                "job_id": self.job_id(),
                "success": True,
                "results": self._results,
            }
        )


def open_simulator(name: str, n_qubits: int, sample: Sample) -> Backend:
    """Wrap a simulator in Qiskit's primitives."""
    backend = GateSimulator(name, n_qubits, sample)
    return Backend(BackendEstimatorV2(backend=backend), BackendSamplerV2(backend=backend), backend.target)
