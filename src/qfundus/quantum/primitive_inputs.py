"""What an estimator is asked for in one go, one of Qiskit's PUBs, taken apart."""

import numpy as np
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.quantum_info import SparsePauliOp


def parameter_sets(pub: EstimatorPub) -> np.ndarray:
    """Return all parameter sets `(sets, parameters)`, each in the order of the circuit's parameters."""
    values = np.asarray(pub.parameter_values.ravel().as_array(pub.circuit.parameters), np.float64)
    return values.reshape(pub.parameter_values.size, len(pub.circuit.parameters))


def observables_of(pub: EstimatorPub) -> list[SparsePauliOp]:
    """Return all observables in one row."""
    listed = np.ravel(np.asarray(pub.observables.tolist(), object))
    return [SparsePauliOp.from_list(list(observable.items())) for observable in listed]


def broadcast_origins(pub: EstimatorPub) -> tuple[np.ndarray, np.ndarray]:
    """Return which parameter set and which observable each value of the broadcast result comes from."""
    sets = np.arange(pub.parameter_values.size).reshape(pub.parameter_values.shape)
    observables = np.arange(pub.observables.size).reshape(pub.observables.shape)
    first, second = np.broadcast_arrays(sets, observables)
    return first, second
