"""Work for the queue of quantum jobs."""

import numpy as np

from qfundus.quantum import chain_ansatz
from qfundus.quantum.jobs.work import Work


def work_of(seed=0, qubits=3, sets=2, precision=0.05):
    circuit = chain_ansatz(qubits, 1)
    parameters = np.random.default_rng(seed).uniform(-3, 3, (sets, circuit.num_parameters))
    observables = tuple((("I" * (qubits - 1 - q) + "Z" + "I" * q, 1.0),) for q in range(qubits))
    return Work(circuit, observables, parameters, precision)
