"""What a night's training of a circuit will take, measured on one step before anything starts."""

import math
import time
from dataclasses import dataclass

import psutil
import torch

from qfundus.errors import SetupError
from qfundus.quantum.ansatz import build_ansatz
from qfundus.quantum.backends import describe_backend
from qfundus.quantum.exact import estimate_costs
from qfundus.quantum.gates import lower
from qfundus.quantum.jobs.price import Price
from qfundus.quantum.layer import QuantumLayer
from qfundus.quantum.network_plan import plan_contraction
from qfundus.quantum.shots import Gradient, refuse_what_cannot_be_shifted
from qfundus.recipes.nightly import QuantumHeadRecipe

_STEPS = 3  # measured; the shortest counts
_CORRECTIONS = 3  # qubits by which an estimate may be too high
_ROOM = 0.8  # of the free memory that a step may take


@dataclass(frozen=True)
class NightPlan:
    """What one recipe's circuit takes: seconds to compile, for a step and a night at most; bytes for a step."""

    method: str
    compile_seconds: float
    step_seconds: float
    steps: int
    bytes: int

    @property
    def night_seconds(self) -> float:
        """The time if training is never stopped early."""
        return self.compile_seconds + self.steps * self.step_seconds


@dataclass(frozen=True)
class Refusal:
    """Why a circuit is not started, and a smaller one of its kind that could be, if any."""

    why: str
    proposal: QuantumHeadRecipe | None


@dataclass(frozen=True)
class ShotsPlan:
    """What fine-tuning on a machine takes: bound circuits, shots, and money by the backend's prices."""

    circuits: int
    shots: int
    cost: float


def plan_shots(
    recipe: QuantumHeadRecipe, eyes: int, backend: str, *, precision: float, gradient: Gradient, epochs: int = 1
) -> ShotsPlan:
    """Count what fine-tuning a recipe's circuit on a backend of `configs/quantum.yaml` would send and cost.

    Each sample is estimated once forward, and twice for each angle backward (parameter shift) or twice in all (SPSA),
    to a standard deviation of `precision`. All of a batch is one task on the way there, and one on the way back, unless
    the entry's `price` says how many `circuits` go into one.

    Raises:
        SetupError: if no backend has that name, or the shift rule would be wrong for the circuit.
    """
    price = Price.of(describe_backend(backend))
    circuit = build_ansatz(recipe.ansatz, recipe.qubits, recipe.layers)
    if gradient == "parameter_shift":
        try:
            refuse_what_cannot_be_shifted(circuit)
        except ValueError as why:
            raise SetupError(str(why)) from None
    angles = circuit.num_parameters
    circuits = epochs * eyes * (1 + 2 * (angles if gradient == "parameter_shift" else 1))
    shots = circuits * math.ceil(precision**-2)
    batches = epochs * -(-eyes // recipe.batch)
    forward, backward = epochs * eyes, circuits - epochs * eyes
    tasks = sum(max(batches, math.ceil(sent / price.circuits)) for sent in (forward, backward))
    return ShotsPlan(circuits, shots, tasks * price.task + shots * price.shot)


def plan_night(recipe: QuantumHeadRecipe, eyes: int, window: float) -> NightPlan | Refusal:
    """Measure a recipe's circuit and predict a night with so many eyes, in a window of so many seconds."""
    plan = _measure(recipe, eyes)
    why = plan if isinstance(plan, str) else _objection(plan, window)
    if why is None and isinstance(plan, NightPlan):
        return plan
    return Refusal(str(why), _propose(recipe, eyes, window))


def _measure(recipe: QuantumHeadRecipe, eyes: int) -> NightPlan | str:
    circuit = build_ansatz(recipe.ansatz, recipe.qubits, recipe.layers)
    gates = lower(circuit)
    contraction = plan_contraction(gates, tuple((qubit,) for qubit in range(recipe.qubits)))
    started = time.perf_counter()
    try:
        layer = QuantumLayer(circuit, recipe.method)
    except ValueError as error:
        return str(error)
    compiled = time.perf_counter() - started
    needed = estimate_costs(gates, contraction, recipe.batch)[layer.method].bytes
    free = psutil.virtual_memory().available
    if needed > _ROOM * free:
        return f"A step would take {needed / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB that are free."
    angles = torch.rand(recipe.batch, layer.n_features)
    took = min(_step(layer, angles) for _ in range(_STEPS))
    steps = recipe.epochs * -(-eyes // recipe.batch)
    return NightPlan(layer.method, compiled, took, steps, needed)


def _step(layer: QuantumLayer, angles: torch.Tensor) -> float:
    started = time.perf_counter()
    layer(angles).sum().backward()
    return time.perf_counter() - started


def _objection(plan: NightPlan, window: float) -> str | None:
    if plan.night_seconds <= window:
        return None
    return f"The night would take {plan.night_seconds / 3600:.3g} h, the window is {window / 3600:.3g} h."


def _propose(recipe: QuantumHeadRecipe, eyes: int, window: float) -> QuantumHeadRecipe | None:
    """Return the widest smaller circuit that fits, measured; with fewer layers only where no width would do."""
    for layers in range(recipe.layers, 0, -1):
        qubits = _widest(recipe.model_copy(update={"layers": layers}), eyes, window)
        for narrower in range(qubits, max(0, qubits - _CORRECTIONS), -1):
            smaller = recipe.model_copy(update={"qubits": narrower, "layers": layers})
            plan = _measure(smaller, eyes)
            if isinstance(plan, NightPlan) and _objection(plan, window) is None:
                return smaller
    return None


def _widest(recipe: QuantumHeadRecipe, eyes: int, window: float) -> int:
    """Return the most qubits, fewer than the recipe's, of which a night is estimated to fit; 0 for none."""
    fits, too_many = 0, recipe.qubits
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _estimated_to_fit(recipe.model_copy(update={"qubits": middle}), eyes, window):
            fits = middle
        else:
            too_many = middle
    return fits


def _estimated_to_fit(recipe: QuantumHeadRecipe, eyes: int, window: float) -> bool:
    gates = lower(build_ansatz(recipe.ansatz, recipe.qubits, recipe.layers))
    contraction = plan_contraction(gates, tuple((qubit,) for qubit in range(recipe.qubits)))
    steps = recipe.epochs * -(-eyes // recipe.batch)
    free = _ROOM * psutil.virtual_memory().available
    costs = estimate_costs(gates, contraction, recipe.batch).values()
    return any(cost.bytes <= free and steps * cost.seconds <= window for cost in costs)
