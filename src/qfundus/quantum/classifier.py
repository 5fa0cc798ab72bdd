"""A classifier around a circuit, as a PyTorch module."""

import torch
from qiskit import QuantumCircuit
from torch import nn

from qfundus.quantum.exact import Method
from qfundus.quantum.layer import QuantumLayer


class QuantumClassifier(nn.Module):
    """Features `(batch, features)` to logits `(batch, classes)` by way of a circuit's expectation values.

    The circuit stands between two small networks: one brings the features to its qubits, one reads its observables.
    """

    def __init__(self, n_features: int, circuit: QuantumCircuit, n_classes: int, method: Method = "auto") -> None:
        super().__init__()
        self.circuit = QuantumLayer(circuit, method)
        angles = self.circuit.n_features
        self.encode = nn.Sequential(nn.Linear(n_features, angles), nn.Tanh(), nn.Linear(angles, angles), nn.Tanh())
        self.read = nn.Sequential(
            nn.Linear(len(self.circuit.observables), 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, n_classes)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.read(self.circuit(self.encode(features)))
