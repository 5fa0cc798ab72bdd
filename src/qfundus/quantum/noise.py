"""Noise for simulators, from a few numbers."""

from pydantic import BaseModel, ConfigDict, Field
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error, thermal_relaxation_error

ONE_QUBIT, TWO_QUBITS = ("ry", "rz", "h", "sx", "x"), ("cx", "cz", "ecr")


class NoiseNumbers(BaseModel):
    """Depolarising shares of one- and two-qubit gates, relaxation in seconds, and the share of bits read wrongly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    one_qubit: float = Field(default=0.001, ge=0, le=1)
    two_qubits: float = Field(default=0.01, ge=0, le=1)
    t1: float = Field(default=100e-6, gt=0)
    t2: float = Field(default=50e-6, gt=0)
    gate_time: float = Field(default=50e-9, ge=0)
    two_qubit_gate_time: float = Field(default=300e-9, ge=0)
    readout: float = Field(default=0.01, ge=0, le=0.5)


def make_noise(numbers: NoiseNumbers) -> NoiseModel:
    """Make a noise model: each gate depolarises, and its qubits relax for as long as it takes.

    Raises:
        ValueError: if T2 is more than twice T1, which no qubit's is.
    """
    if numbers.t2 > 2 * numbers.t1:
        raise ValueError("T2 is at most twice T1: lower t2.")
    model = NoiseModel()
    relaxing = thermal_relaxation_error(numbers.t1, numbers.t2, numbers.gate_time)
    longer = thermal_relaxation_error(numbers.t1, numbers.t2, numbers.two_qubit_gate_time)
    one = depolarizing_error(numbers.one_qubit, 1).compose(relaxing)
    two = depolarizing_error(numbers.two_qubits, 2).compose(longer.tensor(longer))
    model.add_all_qubit_quantum_error(one, list(ONE_QUBIT))
    model.add_all_qubit_quantum_error(two, list(TWO_QUBITS))
    wrong = numbers.readout
    model.add_all_qubit_readout_error(ReadoutError([[1 - wrong, wrong], [wrong, 1 - wrong]]))
    return model
