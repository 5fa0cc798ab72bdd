"""The circuit, as Qiskit draws, transpiles and runs it."""

from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import SparsePauliOp


def build_ansatz(qubits: int, layers: int) -> QuantumCircuit:
    """Build the circuit: RY encoding, then per layer a CX chain, RY and RZ on each qubit, and a closing CX.

    Parameters, in radians: `x[k]`, the angle that encodes feature k, and `w[(layer * 2 + axis) * qubits + k]` with axis
    0 for RY and 1 for RZ.
    """
    circuit = QuantumCircuit(qubits, name="qfundus")
    angles = ParameterVector("x", qubits)
    weights = ParameterVector("w", layers * 2 * qubits)
    for qubit in range(qubits):
        circuit.ry(angles[qubit], qubit)
    for layer in range(layers):
        for qubit in range(qubits - 1):
            circuit.cx(qubit, qubit + 1)
        for axis, gate in enumerate((circuit.ry, circuit.rz)):
            for qubit in range(qubits):
                gate(weights[(layer * 2 + axis) * qubits + qubit], qubit)
        circuit.cx(qubits - 1, 0)
    return circuit


def build_observables(qubits: int) -> list[SparsePauliOp]:
    """Return Z on each qubit, qubit 0 first."""
    return [SparsePauliOp.from_sparse_list([("Z", [k], 1.0)], num_qubits=qubits) for k in range(qubits)]
