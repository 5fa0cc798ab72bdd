"""Google's processors as a device: cirq-google wants protobuf 5, the rest of the house 6, so it runs apart.

Arguments: the processor, the Google Cloud project or `virtual` for the virtual engine, and the block's size.
"""

import sys
import warnings

import numpy as np
from driver_loop import CX, RY, Sample, serve

warnings.filterwarnings("ignore")  # Google's client warns of every Python

import cirq  # noqa: E402
import cirq_google  # noqa: E402


def open_processor(processor: str, project: str) -> Sample:
    """Return what runs circuits on a processor: routed on its grid, in its own gates."""
    make_virtual = cirq_google.engine.create_noiseless_virtual_engine_from_latest_templates
    engine = make_virtual() if project == "virtual" else cirq_google.get_engine(project)
    grid = engine.get_processor(processor).get_device().metadata.nx_graph
    router = cirq.RouteCQC(grid)
    willow = processor.startswith("willow")
    gateset = cirq.CZTargetGateset() if willow else cirq_google.SycamoreTargetGateset()

    def sample(qubits: int, gates: np.ndarray, angles: np.ndarray, shots: int) -> np.ndarray:
        """Run a circuit; bits `(shots, qubits)`."""
        line = cirq.LineQubit.range(qubits)
        circuit = cirq.Circuit()
        for (kind, qubit, target), angle in zip(gates.tolist(), angles.tolist(), strict=True):
            if kind == CX:
                circuit.append(cirq.CNOT(line[qubit], line[target]))
            else:
                circuit.append((cirq.ry if kind == RY else cirq.rz)(angle)(line[qubit]))
        circuit.append(cirq.measure(*line, key="all"))
        routed, _, _ = router.route_circuit(circuit)
        compiled = cirq.optimize_for_target_gateset(routed, gateset=gateset)
        return engine.get_sampler(processor).run(compiled, repetitions=shots).measurements["all"]

    return sample


if __name__ == "__main__":
    serve(open_processor(sys.argv[1], sys.argv[2]))
