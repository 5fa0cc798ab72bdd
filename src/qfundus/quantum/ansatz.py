"""The circuits, as Qiskit draws, transpiles and runs them.

A circuit's features are the parameters named `x`; all others are weights, in the order in which Qiskit lists them.
Where weights have a shape, the circuit's metadata says it.
"""

from collections.abc import Iterator
from typing import Literal

from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.circuit.library import real_amplitudes, zz_feature_map
from qiskit.quantum_info import SparsePauliOp

Entanglement = Literal["chain", "ring", "brick", "all_to_all"]


def chain_ansatz(n_qubits: int, n_layers: int, n_features: int | None = None) -> QuantumCircuit:
    """Build the requested circuit: RY encoding, then per layer a CX chain, RY and RZ on each qubit, and a closing CX.

    `n_features`, as many as qubits unless given, are encoded; qubits beyond them start with a Hadamard gate.
    Parameters, in radians: `x[k]`, the angle that encodes feature k, and `w[(layer * 2 + axis) * n_qubits + k]` with
    axis 0 for RY and 1 for RZ.
    """
    return layered_ansatz(n_qubits, n_layers, n_features=n_features)


def layered_ansatz(
    n_qubits: int,
    n_layers: int,
    entanglement: Entanglement = "chain",
    *,
    n_features: int | None = None,
    reupload: bool = False,
) -> QuantumCircuit:
    """Build a circuit of layers that entangle and rotate; with `reupload` each layer encodes the features again.

    Source of data re-uploading: Pérez-Salinas et al., Quantum 4, 226 (2020).

    Raises:
        ValueError: for no qubit, no layer, or more features than qubits.
    """
    features = n_qubits if n_features is None else n_features
    if n_qubits < 1 or n_layers < 1 or not 0 <= features <= n_qubits:
        raise ValueError(
            f"{n_qubits} qubits, {n_layers} layers and {features} features make no circuit: "
            "give at least one qubit and one layer, and no more features than qubits."
        )
    circuit = QuantumCircuit(n_qubits, name=entanglement, metadata={"weight_shape": (n_layers, 2, n_qubits)})
    angles = ParameterVector("x", features)
    weights = ParameterVector("w", n_layers * 2 * n_qubits)
    for layer in range(n_layers):
        if layer == 0 or reupload:
            for qubit in range(features):
                circuit.ry(angles[qubit], qubit)
        if layer == 0 and features < n_qubits:
            circuit.h(range(features, n_qubits))
        for control, target in _pairs(n_qubits, entanglement):
            circuit.cx(control, target)
        for axis, gate in enumerate((circuit.ry, circuit.rz)):
            for qubit in range(n_qubits):
                gate(weights[(layer * 2 + axis) * n_qubits + qubit], qubit)
        if entanglement == "chain" and n_qubits > 1:
            circuit.cx(n_qubits - 1, 0)
    return circuit


def _pairs(n_qubits: int, entanglement: Entanglement) -> Iterator[tuple[int, int]]:
    neighbours = [(qubit, qubit + 1) for qubit in range(n_qubits - 1)]
    match entanglement:
        case "chain":
            yield from neighbours
        case "ring":
            yield from neighbours
            if n_qubits > 2:
                yield n_qubits - 1, 0
        case "brick":
            yield from neighbours[::2]
            yield from neighbours[1::2]
        case "all_to_all":
            yield from ((first, second) for first in range(n_qubits) for second in range(first + 1, n_qubits))


def build_ansatz(name: str, n_qubits: int, n_layers: int) -> QuantumCircuit:
    """Build the circuit that a recipe names; `reupload` is the chain with the features in each layer.

    Raises:
        ValueError: for a name that no circuit has.
    """
    match name:
        case "chain" | "ring" | "brick" | "all_to_all":
            return layered_ansatz(n_qubits, n_layers, name)
        case "reupload":
            return layered_ansatz(n_qubits, n_layers, reupload=True)
        case "real_amplitudes":
            return _encoded_real_amplitudes(n_qubits, n_layers)
        case "zz_feature_map":
            return _zz_with_real_amplitudes(n_qubits, n_layers)
        case _:
            raise ValueError(f"Unknown circuit {name}: use one that `quantum.ansatz` in the recipe allows.")


def _encoded_real_amplitudes(n_qubits: int, n_layers: int) -> QuantumCircuit:
    circuit = QuantumCircuit(n_qubits, name="real_amplitudes")
    for qubit, angle in enumerate(ParameterVector("x", n_qubits)):
        circuit.ry(angle, qubit)
    circuit.compose(real_amplitudes(n_qubits, reps=n_layers, parameter_prefix="w"), inplace=True)
    return circuit


def _zz_with_real_amplitudes(n_qubits: int, n_layers: int) -> QuantumCircuit:
    if n_qubits < 2:
        raise ValueError("zz_feature_map joins pairs of qubits: it needs two at least.")
    circuit = zz_feature_map(n_qubits, reps=1, parameter_prefix="x")
    circuit.compose(real_amplitudes(n_qubits, reps=n_layers, parameter_prefix="w"), inplace=True)
    return circuit


def build_observables(n_qubits: int) -> list[SparsePauliOp]:
    """Return Z on each qubit, qubit 0 first."""
    return [SparsePauliOp.from_sparse_list([("Z", [k], 1.0)], num_qubits=n_qubits) for k in range(n_qubits)]
