"""How strongly the two halves of a circuit's qubits are entangled."""

import numpy as np
from qiskit import QuantumCircuit, transpile
from qiskit_aer import AerSimulator

_GATES = ("ry", "rz", "h", "cx", "u")


def entanglement_entropy(circuit: QuantumCircuit, parameters: np.ndarray) -> float:
    """Return the mean entropy, in bits, between the halves of the qubits, over `parameters` `(sets, parameters)`.

    By Aer's matrix product states, whose middle bond holds the Schmidt coefficients: the cost grows with what is
    entangled, not with two to the number of qubits. A single qubit has none.
    """
    if circuit.num_qubits < 2:
        return 0.0
    compiled = transpile(circuit, basis_gates=list(_GATES), optimization_level=0)
    compiled.save_matrix_product_state()  # pyright: ignore[reportAttributeAccessIssue]  (Aer adds it)
    bound = [compiled.assign_parameters(dict(zip(circuit.parameters, row, strict=True))) for row in parameters]
    result = AerSimulator(method="matrix_product_state").run(bound, shots=1).result()
    bond = circuit.num_qubits // 2 - 1
    return float(np.mean([_entropy(result.data(n)["matrix_product_state"][1][bond]) for n in range(len(bound))]))


def _entropy(schmidt: np.ndarray) -> float:
    shares = np.asarray(schmidt) ** 2
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log2(shares)).sum())
