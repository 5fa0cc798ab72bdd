"""One training step of the quantum layer - values and all gradients - against its peers, as ratios of one run.

    python -m benchmarks.quantum_step            # all
    python -m benchmarks.quantum_step chain      # the requested circuit, up to 100 qubits
    python -m benchmarks.quantum_step state      # circuits that need a state vector, and the memory's speed
    python -m benchmarks.quantum_step small      # small circuits, with the compiled peer
    python -m benchmarks.quantum_step gpu        # what a GPU brings over the processor beside it
    python -m benchmarks.quantum_step figure     # time against qubits: docs/figures/quantum_step.png

A peer that would take too long is run on fewer samples or circuits, and the line says so.
"""

import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from benchmarks import run_named
from benchmarks.contraction import LIBRARIES, contraction
from qfundus.quantum.ansatz import chain_ansatz
from qfundus.quantum.gates import lower
from qfundus.quantum.layer import QuantumLayer
from qfundus.quantum.state_vector_program import count_passes

Step = Callable[[], object]
LAYERS = 3
LIGHTNING = "lightning.qubit, adjoint with device_vjp"
DEFAULT = "default.qubit, backprop"
COMPILED = "tensorcircuit-ng, jax, jit and vmap"
DRAFT = "EstimatorQNN + TorchConnector, parameter shift"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "quantum_step.png"


def main() -> None:
    """Run the benchmarks that are named, or all."""
    benchmarks: dict[str, Callable[[], None]] = {
        "chain": chain,
        "state": state,
        "small": small,
        "gpu": on_gpu,
        "figure": figure,
    }
    warnings.simplefilter("ignore")
    run_named(benchmarks, __doc__)


@dataclass(frozen=True)
class Gatelist:
    """A circuit as every peer can be told it: layers of CX pairs, then RY and RZ on each qubit, then more CX pairs."""

    qubits: int
    before: tuple[tuple[tuple[int, int], ...], ...]
    after: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def chain(cls, qubits: int) -> "Gatelist":
        """The requested circuit."""
        pairs = tuple((qubit, qubit + 1) for qubit in range(qubits - 1))
        return cls(qubits, (pairs,) * LAYERS, (((qubits - 1, 0),),) * LAYERS)

    @classmethod
    def random_ring(cls, qubits: int) -> "Gatelist":
        """A ring of CX through all qubits, in an order of its own in each layer: no cut is crossed by few."""
        rings: list[tuple[tuple[int, int], ...]] = []
        for layer in range(LAYERS):
            order = random.Random(layer).sample(range(qubits), qubits)
            rings.append(tuple(zip(order, order[1:] + order[:1], strict=True)))
        return cls(qubits, tuple(rings), ((),) * LAYERS)

    def to_qiskit(self) -> QuantumCircuit:
        """Return the circuit as the layer takes it."""
        circuit = QuantumCircuit(self.qubits)
        angles, weights = ParameterVector("x", self.qubits), iter(ParameterVector("w", LAYERS * 2 * self.qubits))
        for qubit in range(self.qubits):
            circuit.ry(angles[qubit], qubit)
        for before, after in zip(self.before, self.after, strict=True):
            for pair in before:
                circuit.cx(*pair)
            for gate in (circuit.ry, circuit.rz):
                for qubit in range(self.qubits):
                    gate(next(weights), qubit)
            for pair in after:
                circuit.cx(*pair)
        return circuit


def seconds(step: Step, most: float = 3.0) -> float:
    """Return the shortest of several runs of a step."""
    step()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < most:
        started = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - started)
    return best


def ours(circuit: Gatelist, batch: int, where: str = "cpu", *, recorded: bool = False) -> Step:
    """The layer, by the method that it chooses itself; `recorded` as one graph of a GPU's kernels."""
    layer = QuantumLayer(circuit.to_qiskit()).to(where)
    inputs = torch.rand(batch, circuit.qubits, device=where, requires_grad=True)
    if recorded:  # as a state vector can be, and a tensor network cannot
        torch.cuda.make_graphed_callables(layer, (torch.rand_like(inputs, requires_grad=True),))
    upstream = torch.rand(batch, circuit.qubits, device=where)

    def step() -> None:
        inputs.grad = layer.weight.grad = None
        layer(inputs).backward(upstream)
        _wait_for(where)

    return step


def _wait_for(where: str) -> None:
    if where == "cuda":
        torch.cuda.synchronize()


def pennylane(circuit: Gatelist, batch: int, device: str) -> Step:
    """PennyLane with PyTorch; lightning takes one sample after the other."""
    import pennylane as qml

    fast = device == "lightning.qubit"
    how = {"diff_method": "adjoint", "device_vjp": True} if fast else {"diff_method": "backprop"}

    @qml.qnode(qml.device(device, wires=circuit.qubits), interface="torch", **how)
    def node(inputs: Any, weights: Any) -> list[object]:
        for qubit in range(circuit.qubits):
            qml.RY(inputs[..., qubit], wires=qubit)
        for layer, (before, after) in enumerate(zip(circuit.before, circuit.after, strict=True)):
            for pair in before:
                qml.CNOT(wires=pair)
            for axis, gate in enumerate((qml.RY, qml.RZ)):
                for qubit in range(circuit.qubits):
                    gate(weights[layer, axis, qubit], wires=qubit)
            for pair in after:
                qml.CNOT(wires=pair)
        return [qml.expval(qml.PauliZ(qubit)) for qubit in range(circuit.qubits)]

    kind = torch.float64 if fast else torch.float32
    inputs = torch.rand(batch, circuit.qubits, dtype=kind, requires_grad=True)
    weights = torch.rand(LAYERS, 2, circuit.qubits, dtype=kind, requires_grad=True)

    def step() -> None:
        inputs.grad = weights.grad = None
        if fast:
            torch.stack([torch.stack(list(node(sample, weights))) for sample in inputs]).sum().backward()
        else:
            torch.stack(list(node(inputs, weights))).sum().backward()

    return step


def compiled(circuit: Gatelist, batch: int) -> Step:
    """tensorcircuit-ng's compiled step; compiling is not counted here, and takes its time in the first call."""
    import jax
    import tensorcircuit as tc

    backend = tc.set_backend("jax")

    def values(inputs: Any, weights: Any) -> Any:
        built: Any = tc.Circuit(circuit.qubits)
        for qubit in range(circuit.qubits):
            built.ry(qubit, theta=inputs[qubit])
        for layer, (before, after) in enumerate(zip(circuit.before, circuit.after, strict=True)):
            for pair in before:
                built.cnot(*pair)
            for axis, gate in enumerate((built.ry, built.rz)):
                for qubit in range(circuit.qubits):
                    gate(qubit, theta=weights[layer, axis, qubit])
            for pair in after:
                built.cnot(*pair)
        return backend.stack([backend.real(built.expectation_ps(z=[qubit])) for qubit in range(circuit.qubits)])

    def loss(inputs: object, weights: object) -> object:
        found = jax.vmap(values, in_axes=(0, None))(inputs, weights)
        return found.sum(), found

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    generator = np.random.default_rng(0)
    inputs = generator.random((batch, circuit.qubits), dtype=np.float32)
    weights = generator.random((LAYERS, 2, circuit.qubits), dtype=np.float32)
    return lambda: jax.block_until_ready(run(inputs, weights))


def general(circuit: Gatelist, batch: int, library: str) -> Step:
    """A library for general tensor networks; finding the order of contraction is not counted."""
    values = contraction(circuit.to_qiskit(), batch, library)
    inputs = torch.rand(batch, circuit.qubits, requires_grad=True)
    weights = torch.rand(LAYERS * 2 * circuit.qubits, requires_grad=True)

    def step() -> None:
        inputs.grad = weights.grad = None
        values(inputs, weights).sum().backward()

    return step


def draft(qubits: int, batch: int) -> Step:
    """The usual way: one circuit for each shift of each parameter of each sample."""
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_aer.primitives import EstimatorV2
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.gradients import ParamShiftEstimatorGradient
    from qiskit_machine_learning.neural_networks import EstimatorQNN

    circuit, estimator = chain_ansatz(qubits, LAYERS), EstimatorV2()
    names = list(circuit.parameters)
    network = EstimatorQNN(
        circuit=circuit,
        observables=[SparsePauliOp.from_sparse_list([("Z", [k], 1.0)], num_qubits=qubits) for k in range(qubits)],
        input_params=[p for p in names if p.vector.name == "x"],
        weight_params=[p for p in names if p.vector.name == "w"],
        estimator=estimator,
        gradient=ParamShiftEstimatorGradient(estimator),
        input_gradients=True,
    )
    layer, inputs = TorchConnector(network), torch.rand(batch, qubits, requires_grad=True)
    return lambda: layer(inputs).sum().backward()


def one_circuit(qubits: int) -> float:
    """Return the seconds that one circuit with all observables takes where the draft runs it."""
    from qiskit_aer.primitives import EstimatorV2

    circuit = chain_ansatz(qubits, LAYERS)
    bound = circuit.assign_parameters(np.random.default_rng(0).random(circuit.num_parameters))
    paulis = ["".join("Z" if place == k else "I" for place in range(qubits)) for k in range(qubits)]
    estimator = EstimatorV2()
    return seconds(lambda: estimator.run([(bound, paulis)]).result(), 5)


def chain() -> None:
    """Measure the requested circuit: against lightning and the draft, and how it grows with the qubits."""
    print("the requested circuit, 3 layers:")
    our = {size: seconds(ours(Gatelist.chain(size[0]), size[1])) for size in ((8, 16), (20, 16), (30, 16), (100, 64))}
    one = seconds(pennylane(Gatelist.chain(20), 1, "lightning.qubit"))
    print(f"  20 qubits, batch 16: {16 * one / our[20, 16]:8.0f} x {LIGHTNING} (1 sample measured, times 16)")
    shifts = 16 * (2 * (20 + LAYERS * 2 * 20) + 1)
    ratio = shifts * one_circuit(20) / our[20, 16]
    print(f"  20 qubits, batch 16: {ratio:8.0f} x {DRAFT} (1 of its {shifts} circuits measured)")
    for library in LIBRARIES:
        ratio = seconds(general(Gatelist.chain(20), 16, library)) / our[20, 16]
        print(f"  20 qubits, batch 16: {ratio:8.1f} x {library}, the network of each observable, by PyTorch")
    small = seconds(draft(4, 4), 1) / seconds(ours(Gatelist.chain(4), 4))
    print(f"   4 qubits, batch  4: {small:8.0f} x {DRAFT} (measured whole)")
    print(f"  30 qubits take {our[30, 16] / our[20, 16]:.2f} x as long as 20")
    print(f" 100 qubits, batch 64, take {our[100, 64] / our[20, 16]:.1f} x as long as 20 qubits, batch 16,", end=" ")
    print(f"and {_memory_of('benchmarks.quantum_step', 100, 64):.0f} MB more than importing the layer")


def _memory_of(module: str, qubits: int, batch: int) -> float:
    code = (
        f"from {module} import *; before = peak(); step = ours(Gatelist.chain({qubits}), {batch}); step(); step(); "
        "print(peak() - before)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(said.stdout)


def peak() -> float:
    """Return the most memory that this process has held, in MB; what its parent held does not count."""
    said = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()
    return int(said[0]) / 1024


def state() -> None:
    """Measure circuits that no cut makes cheap: per sample against lightning, and against the memory's speed."""
    bandwidth = _copied_bytes_a_second()
    print("a ring of CX in random orders, 3 layers, on state vectors:")
    for qubits, batch in ((12, 64), (16, 16), (18, 4), (20, 2)):
        circuit = Gatelist.random_ring(qubits)
        step = seconds(ours(circuit, batch))
        peer = seconds(pennylane(circuit, 1, "lightning.qubit"))
        print(
            f"  {qubits} qubits, batch {batch:2}: {batch * peer / step:6.1f} x {LIGHTNING}; "
            f"{_over_copying(circuit, batch, step, bandwidth)}"
        )


def _over_copying(circuit: Gatelist, batch: int, step: float, bandwidth: float) -> str:
    passes = count_passes(lower(circuit.to_qiskit()))
    # Forward each pass reads and writes the state, backward the state and its adjoint; the gradients read both.
    moved = (2 + 4 + 2) * passes * batch * 2**circuit.qubits * 8
    return f"{step / (moved / bandwidth):.2f} x what a copy takes to move as much ({passes} passes)"


def _copied_bytes_a_second(where: str = "cpu") -> float:
    source = torch.rand(2**26, device=where)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        _wait_for(where)

    return 2 * source.nbytes / seconds(copy)


def on_gpu() -> None:
    """Measure what a GPU brings over the processor beside it, step by step and recorded, and against its memory."""
    if not torch.cuda.is_available():
        print("there is no GPU: not measured")
        return
    print(f"{torch.cuda.get_device_name()}, against the processor beside it with {torch.get_num_threads()} threads:")
    bandwidth = _copied_bytes_a_second("cuda")
    chains = [(Gatelist.chain(qubits), batch) for qubits, batch in ((8, 64), (20, 64), (100, 64), (20, 1024))]
    rings = [(Gatelist.random_ring(qubits), batch) for qubits, batch in ((12, 64), (16, 64), (20, 16), (24, 1))]
    for circuit, batch in chains:
        ratio = seconds(ours(circuit, batch), 1) / seconds(ours(circuit, batch, "cuda"), 1)
        print(f"  the requested circuit, {circuit.qubits} qubits, batch {batch}: {ratio:.1f} x as fast")
    for circuit, batch in rings:
        step, recorded = (seconds(ours(circuit, batch, "cuda", recorded=how), 1) for how in (False, True))
        beside = seconds(ours(circuit, batch), 1)
        print(
            f"  a ring of CX in random orders, {circuit.qubits} qubits, batch {batch}: {beside / step:.1f} x as fast, "
            f"recorded {beside / recorded:.1f} x; {_over_copying(circuit, batch, step, bandwidth)}"
        )


def small() -> None:
    """Measure small circuits against each peer, the compiled one with the time that compiling takes."""
    print("small circuits, 3 layers:")
    for qubits, batch in ((4, 16), (4, 64), (8, 16), (8, 64)):
        circuit = Gatelist.chain(qubits)
        step = seconds(ours(circuit, batch))
        started = time.perf_counter()
        ready = compiled(circuit, batch)
        ready()
        compiling = time.perf_counter() - started
        peers = {
            LIGHTNING: seconds(pennylane(circuit, batch, "lightning.qubit"), 1),
            DEFAULT: seconds(pennylane(circuit, batch, "default.qubit"), 1),
            COMPILED: seconds(ready),
        }
        for name, took in peers.items():
            wait = f", after compiling for {compiling / step:.0f} of our steps" if name == COMPILED else ""
            print(f"  {qubits} qubits, batch {batch}: {took / step:7.1f} x {name}{wait}")


def figure() -> None:
    """Draw time against qubits for all peers; the times are divided by our own at 8 qubits."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ways: dict[str, tuple[Callable[[int], Step], tuple[int, ...], int]] = {
        "qfundus": (lambda n: ours(Gatelist.chain(n), 16), (2, 4, 8, 12, 16, 20, 30, 50, 100), 1),
        LIGHTNING: (lambda n: pennylane(Gatelist.chain(n), 1, "lightning.qubit"), (2, 4, 8, 12, 16, 18), 16),
        DEFAULT: (lambda n: pennylane(Gatelist.chain(n), 16, "default.qubit"), (2, 4, 8, 12, 14), 1),
        COMPILED: (lambda n: compiled(Gatelist.chain(n), 16), (2, 4, 8, 12), 1),
        DRAFT: (lambda n: draft(n, 1), (2, 4, 6), 16),
    }
    times = {name: [(n, seconds(make(n), 1) * scale) for n in sizes] for name, (make, sizes, scale) in ways.items()}
    unit = dict(times["qfundus"])[8]
    drawn, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for name, points in times.items():
        qubits, took = zip(*points, strict=True)
        axes.plot(qubits, [t / unit for t in took], "o-", label=name, linewidth=2.5 if name == "qfundus" else 1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = (2, 4, 8, 16, 30, 50, 100)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_xlabel("qubits of the requested circuit, 3 layers, batch 16")
    axes.set_ylabel("one step, in our steps at 8 qubits")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    FIGURE.parent.mkdir(exist_ok=True)
    drawn.savefig(FIGURE, dpi=130)
    print(f"drawn: {FIGURE.relative_to(FIGURE.parents[2])}")


if __name__ == "__main__":
    main()
