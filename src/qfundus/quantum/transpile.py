"""Compile a circuit for a machine once; its parameters are bound afterwards."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit.circuit.library import get_standard_gate_name_mapping
from qiskit.transpiler import Target

_STANDARD = frozenset(get_standard_gate_name_mapping())
_KEPT = 64  # compiled circuits
_SEED = 0  # routing draws lots: the same circuit shall become the same


@dataclass(frozen=True)
class Compiled:
    """A circuit as a machine takes it, and what compiling did to it."""

    circuit: QuantumCircuit
    depth: tuple[int, int]  # before, after
    two_qubit_gates: tuple[int, int]

    def describe(self) -> str:
        """Say what compiling did in one sentence."""
        return (
            f"depth {self.depth[0]} became {self.depth[1]}, "
            f"{self.two_qubit_gates[0]} two-qubit gates became {self.two_qubit_gates[1]}"
        )


class Task:
    """A circuit to compile for a target at a level: equal where the circuits' content is, and the target the same."""

    def __init__(self, circuit: QuantumCircuit, target: Target, level: int) -> None:
        self.circuit, self.target, self.level = circuit, target, level
        self._content = (level, id(target), content_of(circuit))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


def content_of(circuit: QuantumCircuit) -> tuple[object, ...]:
    """Return what makes a circuit: two built alike differ in nothing but the identities of their parameters."""
    gates = (
        (
            instruction.operation.name,
            getattr(instruction.operation, "ctrl_state", None),
            tuple(_plain(parameter) for parameter in instruction.operation.params),
            tuple(circuit.find_bit(bit).index for bit in (*instruction.qubits, *instruction.clbits)),
            _definition(instruction.operation),
        )
        for instruction in circuit.data
    )
    registers = tuple((register.name, register.size) for register in circuit.cregs)
    return circuit.num_qubits, circuit.num_clbits, registers, str(circuit.global_phase), tuple(gates)


def _plain(parameter: Any) -> object:
    if isinstance(parameter, QuantumCircuit):
        return content_of(parameter)
    if isinstance(parameter, np.ndarray):  # as words, the middle of a large one would be left out
        return parameter.shape, parameter.dtype.str, parameter.tobytes()
    return str(parameter)


def _definition(operation: Any) -> object:
    """Return what a gate stands for whose name does not say it."""
    if operation.name in _STANDARD or operation.definition is None:
        return None
    return content_of(operation.definition)


def compile_circuit(circuit: QuantumCircuit, target: Target | None, level: int = 2) -> Compiled:
    """Compile a circuit with free parameters for a target; a circuit of the same content is found again.

    Bind the result's parameters by order or by name.

    Raises:
        ValueError: for a level other than 0 to 3, or a circuit wider than the target.
    """
    if level not in range(4):
        raise ValueError(f"Qiskit compiles at the levels 0 to 3, not {level}.")
    if target is None:
        return _counted(circuit, circuit)
    if target.num_qubits is not None and circuit.num_qubits > target.num_qubits:
        raise ValueError(f"The circuit has {circuit.num_qubits} qubits, the machine {target.num_qubits}.")
    return _compile(Task(circuit, target, level))


@lru_cache(maxsize=_KEPT)
def _compile(task: Task) -> Compiled:
    manager = generate_preset_pass_manager(task.level, target=task.target, seed_transpiler=_SEED)
    return _counted(task.circuit, manager.run(task.circuit))


def _counted(before: QuantumCircuit, after: QuantumCircuit) -> Compiled:
    counts = [circuit.num_nonlocal_gates() for circuit in (before, after)]
    return Compiled(after, (before.depth(), after.depth()), (counts[0], counts[1]))
