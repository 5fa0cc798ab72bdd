"""The exact engine: expectation values and their gradients without shots, by the cheaper of two methods."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from qfundus.quantum.gates import Gates
from qfundus.quantum.kernel import Kernel
from qfundus.quantum.network_plan import Plan, plan_contraction
from qfundus.quantum.observables import Observable
from qfundus.quantum.state_vector import StateVector
from qfundus.quantum.state_vector_program import weigh_passes
from qfundus.quantum.tensor_network import TensorNetwork

Method = Literal["auto", "state_vector", "tensor_network"]

MEMORY = 2**33  # bytes that one step may take
_BATCH = 32  # samples in the step for which a method is chosen
_TOO_MANY = 10**30
_SMALL = 10  # qubits

# Seconds, as benchmarks/quantum_step.py measures them on one core: what decides is their ratio.
_PER_PASS, _PER_NUMBER = 1e-4, 4e-9  # a state vector's: for each pass, and for each amplitude that it reads and writes
_PER_SITE, _PER_PRODUCT, _PER_KEPT = 5e-4, 4e-11, 6e-9  # a network's: for each qubit, multiplication, and number kept


@dataclass(frozen=True)
class Cost:
    """What one step - values and all gradients - is estimated to take: seconds on one core, and bytes."""

    seconds: float
    bytes: int


def compile_exact(circuit: Gates, observables: tuple[Observable, ...], method: Method = "auto") -> nn.Module:
    """Compile a circuit by a method, or by the one whose step is estimated to be faster; a small one has a kernel, too.

    Raises:
        ValueError: for an unknown method or qubit, or where a step of one sample would not fit into memory.
    """
    if method not in get_args(Method):
        raise ValueError(f"Unknown method {method}: use one of {', '.join(get_args(Method))}.")
    for one in observables:
        if not all(0 <= qubit < circuit.n_qubits for qubit in one) or len(set(one)) < len(one):
            raise ValueError(f"An observable names some of the {circuit.n_qubits} qubits, once each; {one} does not.")
    plan, by_name = plan_contraction(circuit, observables), method != "auto"
    if method == "auto":
        costs = estimate_costs(circuit, plan, _BATCH)
        method = min(costs, key=lambda name: (costs[name].bytes > MEMORY, costs[name].seconds))
    needed = estimate_costs(circuit, plan, 1)[method].bytes
    if needed > MEMORY:
        raise ValueError(
            f"A circuit of {circuit.n_qubits} qubits and {len(circuit.gates)} gates would take "
            f"{needed / 2**30:.3g} GiB for each sample ({method}): "
            "lower the qubits or layers, or entangle neighbours in a chain."
        )
    engine = StateVector(circuit, observables) if method == "state_vector" else TensorNetwork(plan)
    return engine if by_name or circuit.n_qubits > _SMALL else Kernel(circuit, observables, engine)


def estimate_costs(circuit: Gates, plan: Plan, batch: int) -> dict[Method, Cost]:
    """Estimate one step by each method."""
    amplitudes = batch * 2**circuit.n_qubits
    products, numbers = (batch * min(count, _TOO_MANY) for count in (plan.products, plan.numbers))
    return {
        "state_vector": Cost(weigh_passes(circuit) * (_PER_PASS + amplitudes * _PER_NUMBER), 40 * amplitudes),
        "tensor_network": Cost(
            _PER_SITE * circuit.n_qubits + products * _PER_PRODUCT + numbers * _PER_KEPT, 8 * numbers
        ),
    }
