"""The quantum head: a fitted projection to a few features, the circuit, and a linear reading of its observables."""

import math
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.features.scaling import fit_scaling
from qfundus.features.snapshot import Split
from qfundus.quantum.statevector import expectations
from qfundus.recipe import Quantum
from qfundus.training import GRADES, Trained, fit_head


class QuantumHead(nn.Module):
    """Embeddings `(batch, 1280)` to logits `(batch, 5)` by way of `qubits` expectation values."""

    centre: torch.Tensor
    projection: torch.Tensor

    def __init__(self, features: int, qubits: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(EMBEDDING_SIZE))
        self.register_buffer("projection", torch.zeros(EMBEDDING_SIZE, features))
        self.encode = nn.Linear(features, qubits)
        self.weights = nn.Parameter(torch.randn(layers, 2, qubits) * 0.1)  # near identity: no barren plateau
        self.read = nn.Linear(qubits, GRADES)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.read(expectations(self.angles(embeddings), self.weights))

    def angles(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the encoding angles `(batch, qubits)`, within -pi to pi."""
        features = (embeddings - self.centre) @ self.projection
        return math.pi * torch.tanh(self.encode(features))


def train_quantum(train: Split, validation: Split, how: Quantum, seed: int) -> tuple[QuantumHead, Trained]:
    """Fit the projection on the training split, then train the circuit with exact gradients."""
    torch.manual_seed(seed)
    head = QuantumHead(how.features, how.qubits, how.layers)
    centre, projection = fit_projection(train.embeddings, how.features, seed)
    head.centre.copy_(torch.from_numpy(centre))
    head.projection.copy_(torch.from_numpy(projection))
    return head, fit_head(head, train, validation, how, seed)


def fit_projection(embeddings: np.ndarray, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit principal components; return the centre `(1280,)` and the projection `(1280, features)`.

    All features share the first one's scale: whitening would raise the noise of the last to the height of the first.
    With fewer eyes than features the last columns stay zero.
    """
    mean, spread = fit_scaling(embeddings)
    kept = min(features, len(embeddings) - 1)
    fitted = PCA(kept, random_state=seed).fit((embeddings - mean) / spread)
    scale = np.sqrt(np.asarray(fitted.explained_variance_)[0])
    projection = np.zeros((embeddings.shape[1], features), np.float32)
    projection[:, :kept] = np.asarray(fitted.components_).T / (spread[:, None] * scale)
    return mean, projection


def save_quantum(head: QuantumHead, how: Quantum, path: Path | str) -> None:
    """Write the head with the part of the recipe that shapes it."""
    torch.save({"recipe": how.model_dump(), "weights": head.state_dict()}, path)


def load_quantum(path: Path | str) -> QuantumHead:
    """Read a head; nothing but tensors and numbers is unpickled."""
    saved = torch.load(path, weights_only=True)
    how = Quantum.model_validate(saved["recipe"])
    head = QuantumHead(how.features, how.qubits, how.layers)
    head.load_state_dict(saved["weights"])
    return head.eval()
