"""A circuit as an ordinary layer of PyTorch."""

from math import isfinite

import torch
from qiskit import QuantumCircuit
from torch import nn

from qfundus.quantum.angles import Angles
from qfundus.quantum.exact import Method, compile_exact
from qfundus.quantum.gates import lower
from qfundus.quantum.kernel import Kernel
from qfundus.quantum.observables import Observable
from qfundus.quantum.state_vector import StateVector


class QuantumLayer(nn.Module):
    """Angles `(batch, features)` in radians to expectation values `(batch, observables)`, differentiable in both.

    `weight` has the shape that the circuit's metadata names (for `chain_ansatz` layers, RY and RZ, qubits), else one
    number for each weight. Numbers of less than 32 bits are computed in 32 bits.
    """

    def __init__(
        self, ansatz: QuantumCircuit, method: Method = "auto", observables: tuple[Observable, ...] | None = None
    ) -> None:
        """Compile a circuit; `observables` name the qubits whose Z are multiplied, unless given each qubit alone.

        Raises:
            ValueError: if the engine does not know a gate or an angle, or the circuit would not fit into memory.
        """
        super().__init__()
        circuit = lower(ansatz)
        self.n_features = circuit.n_features
        self.observables = observables or tuple((qubit,) for qubit in range(circuit.n_qubits))
        self.weight = nn.Parameter(torch.randn((ansatz.metadata or {}).get("weight_shape", circuit.n_weights)) * 0.1)
        self.shared = Angles(circuit.shared, n_features=circuit.n_features, by_feature=False)
        self.by_feature = Angles(circuit.by_feature, n_features=circuit.n_features, by_feature=True)
        self.engine = compile_exact(circuit, self.observables, method)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return expectation values of Z, between -1 and 1.

        Raises:
            ValueError: for another shape, or where an angle is not a finite number.
        """
        if features.is_complex():
            raise ValueError("Angles are real numbers.")
        if features.dim() != 2 or features.shape[1] != self.n_features:
            raise ValueError(f"The layer takes (batch, {self.n_features}) angles, not {tuple(features.shape)}.")
        kind = torch.promote_types(features.dtype, torch.promote_types(self.weight.dtype, torch.float32))
        # Half precision would be lost in the products of amplitudes.
        with torch.autocast(features.device.type, enabled=False):
            inputs, weights = features.to(kind), self.weight.flatten().to(kind)
            # Neither a compiled graph nor one of a GPU's kernels can stop to look at numbers.
            recorded = features.is_cuda and torch.cuda.is_current_stream_capturing()
            if not (torch.compiler.is_compiling() or recorded):
                self._refuse_what_is_not_finite(inputs, weights)
            values = self.engine(self.shared(inputs, weights), self.by_feature(inputs, weights))
        return values.to(torch.promote_types(features.dtype, self.weight.dtype))

    def _refuse_what_is_not_finite(self, features: torch.Tensor, weights: torch.Tensor) -> None:
        if not isfinite(float(features.detach().sum() + weights.detach().sum())):
            bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
            if not bad and weights.isfinite().all():  # their sum is too large alone
                return
            where = (
                f"in {len(bad)} of {len(features)} samples, first in sample {bad[0]}" if bad else "among the weights"
            )
            raise ValueError(
                f"An angle is not a finite number, {where}: look for a learning rate that is too high, "
                "or for features that were divided by zero."
            )

    @property
    def method(self) -> Method:
        """The method that was named, or chosen for its cost."""
        engine = self.engine.engine if isinstance(self.engine, Kernel) else self.engine
        return "state_vector" if isinstance(engine, StateVector) else "tensor_network"

    def extra_repr(self) -> str:
        """Say what was compiled."""
        return f"{self.n_features} features, {len(self.observables)} observables, {type(self.engine).__name__}"
