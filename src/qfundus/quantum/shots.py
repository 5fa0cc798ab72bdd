"""The circuit as a layer whose values come from a machine's shots: for fine-tuning there, from exactly trained weights.

Gradients by the parameter-shift rule (Mitarai et al., Phys. Rev. A 98, 032309, 2018), all shifts of a batch in one call
of the primitive; or by simultaneous perturbation (SPSA; Spall, IEEE Trans. Autom. Control 37, 332, 1992), two circuits
a sample however many parameters.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from torch import nn

from qfundus.quantum.ansatz import build_observables
from qfundus.quantum.backends import Backend
from qfundus.quantum.gates import lower, split_parameters
from qfundus.quantum.once_differentiable import refuse_double_backward
from qfundus.quantum.transpile import compile_circuit

Gradient = Literal["parameter_shift", "spsa"]
_SHIFT = np.pi / 2
_PERTURBATION = 0.1  # radians


class ShotsLayer(nn.Module):
    """Angles `(batch, features)` to expectation values of Z on each qubit, estimated to `precision` by a backend.

    `weight` is that of `QuantumLayer` for the same circuit: load its state to start warm.
    """

    def __init__(
        self,
        ansatz: QuantumCircuit,
        backend: Backend,
        *,
        precision: float = 0.02,
        gradient: Gradient = "parameter_shift",
        level: int = 2,
    ) -> None:
        """Compile a circuit for a backend.

        Raises:
            ValueError: if a parameter turns more than one gate, or not by itself: the shift rule would be wrong; or
                for an unknown precision or way of differentiating.
        """
        super().__init__()
        if gradient not in get_args(Gradient):
            raise ValueError(f"Unknown gradient {gradient}: use {' or '.join(get_args(Gradient))}.")
        if not 0 < precision < 1:
            raise ValueError(f"The precision is a standard deviation between 0 and 1, not {precision}.")
        if gradient == "parameter_shift":
            refuse_what_cannot_be_shifted(ansatz)
        features, weights = split_parameters(ansatz)
        compiled = compile_circuit(ansatz, backend.target, level).circuit
        names = [parameter.name for parameter in (*features, *weights)]
        self.n_features, self.precision, self.gradient = len(features), precision, gradient
        self._order = [names.index(parameter.name) for parameter in compiled.parameters]
        self._circuit, self._estimator = compiled, backend.estimator
        self._observables = [_laid_out(observable, compiled) for observable in build_observables(ansatz.num_qubits)]
        self.weight = nn.Parameter(torch.randn((ansatz.metadata or {}).get("weight_shape", len(weights))) * 0.1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return expectation values `(batch, qubits)`, each with the backend's noise.

        Raises:
            ValueError: for angles of another shape, or one that is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ValueError(f"The circuit takes angles (batch, {self.n_features}), not {tuple(features.shape)}.")
        if not features.isfinite().all() or not self.weight.isfinite().all():
            raise ValueError("An angle is not a finite number.")
        return _Estimated.apply(self, features, self.weight.flatten())  # pyright: ignore[reportReturnType]

    def estimate(self, parameters: np.ndarray) -> np.ndarray:
        """Return expectation values `(..., qubits)` of parameter sets `(..., features + weights)`, in one call."""
        values = parameters[..., self._order]
        if not values.size:  # Aer crashes on it
            return np.zeros((*values.shape[:-1], len(self._observables)))
        pub: Any = (self._circuit, self._observables, values[..., None, :])
        result: Any = self._estimator.run([pub], precision=self.precision).result()[0]
        return np.asarray(result.data.evs)


def _laid_out(observable: SparsePauliOp, compiled: QuantumCircuit) -> SparsePauliOp:
    return observable.apply_layout(compiled.layout) if compiled.layout else observable


def refuse_what_cannot_be_shifted(ansatz: QuantumCircuit) -> None:
    """Refuse a circuit whose gradient the shift rule would get wrong.

    Raises:
        ValueError: if a parameter turns more than one gate, or not by itself.
    """
    gates = lower(ansatz, all_features=True)
    used = [place for polynomial in gates.by_feature for term in polynomial for place in term]
    plain = all(len(p) == 1 and all(len(t) == 1 and c == 1.0 for t, c in p.items()) for p in gates.by_feature)
    if not plain or len(used) != len(set(used)):
        raise ValueError(
            "The shift rule needs each parameter to turn one gate, by itself: take chain, ring or brick, or SPSA."
        )


class _Estimated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: ShotsLayer, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        parameters = torch.cat((features, weights.expand(len(features), -1)), dim=1).detach().cpu().double().numpy()
        ctx.layer, ctx.parameters = layer, parameters
        return torch.from_numpy(layer.estimate(parameters)).to(features)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer: ShotsLayer = ctx.layer
        weighed = upstream[0].detach().cpu().double().numpy()
        estimate_gradient = _shifted if layer.gradient == "parameter_shift" else _perturbed
        gradient = torch.from_numpy(estimate_gradient(layer, ctx.parameters, weighed)).to(upstream[0])
        return None, gradient[:, : layer.n_features], gradient[:, layer.n_features :].sum(dim=0)


def _shifted(layer: ShotsLayer, parameters: np.ndarray, upstream: np.ndarray) -> np.ndarray:
    """Return the gradient `(batch, parameters)` of each sample's values `(batch, qubits)` weighed by `upstream`."""
    steps = _SHIFT * np.eye(parameters.shape[1])
    values = layer.estimate(parameters[:, None, None] + np.stack((steps, -steps)))  # (batch, 2, parameters, qubits)
    return np.einsum("bpq,bq->bp", (values[:, 0] - values[:, 1]) / 2, upstream)


def _perturbed(layer: ShotsLayer, parameters: np.ndarray, upstream: np.ndarray) -> np.ndarray:
    """Return an estimate of the same by one random direction for each sample; right in the mean."""
    signs = np.where(torch.rand(parameters.shape).numpy() < 0.5, -1.0, 1.0)
    steps = _PERTURBATION * np.stack((signs, -signs), axis=1)
    values = layer.estimate(parameters[:, None] + steps)  # (batch, 2, qubits)
    slope = np.einsum("bq,bq->b", values[:, 0] - values[:, 1], upstream) / (2 * _PERTURBATION)
    return slope[:, None] * signs
