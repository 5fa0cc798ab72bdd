"""The quantum head: a fitted projection to a few features, and the classifier around the circuit."""

from pathlib import Path

import numpy as np
import torch
from qiskit import QuantumCircuit
from sklearn.decomposition import PCA
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.features.scaling import fit_scaling
from qfundus.features.snapshot import Split
from qfundus.grades import GRADES
from qfundus.quantum.ansatz import build_ansatz
from qfundus.quantum.entanglement import entanglement_entropy
from qfundus.quantum.exact import Method
from qfundus.quantum.gates import split_parameters
from qfundus.quantum.layer import QuantumLayer
from qfundus.recipe import Quantum
from qfundus.training import Trained, fit_head

_ENTANGLED = 8  # eyes over which the entanglement is averaged


class QuantumClassifier(nn.Module):
    """Features `(batch, features)` to logits `(batch, classes)` by way of a circuit's expectation values.

    The circuit stands between two small networks: one brings the features to its qubits, one reads its observables.
    """

    def __init__(
        self, n_features: int, circuit: QuantumCircuit, n_classes: int = GRADES, method: Method = "auto"
    ) -> None:
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


class QuantumHead(nn.Module):
    """Embeddings `(batch, 1280)` to logits `(batch, 5)`: a projection that is fitted before, then the classifier."""

    centre: torch.Tensor
    projection: torch.Tensor

    def __init__(self, how: Quantum) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(EMBEDDING_SIZE))
        self.register_buffer("projection", torch.zeros(EMBEDDING_SIZE, how.features))
        self.classifier = QuantumClassifier(
            how.features, build_ansatz(how.ansatz, how.qubits, how.layers), method=how.method
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.classifier((embeddings - self.centre) @ self.projection)


def train_quantum(train: Split, validation: Split, how: Quantum, seed: int) -> tuple[QuantumHead, Trained]:
    """Fit the projection on the training split, then train the circuit with exact gradients."""
    torch.manual_seed(seed)
    head = QuantumHead(how)
    centre, projection = fit_projection(train.embeddings, how.features, seed)
    head.centre.copy_(torch.from_numpy(centre))
    head.projection.copy_(torch.from_numpy(projection))
    return head, fit_head(head, train, validation, how, seed)


def describe_training(head: QuantumHead, how: Quantum, validation: Split) -> dict[str, float]:
    """Return what is said of a circuit with each training: its size, entanglement and gradients, and what ran it.

    A variance of the gradients that falls with the qubits is a barren plateau (McClean et al., Nature Communications 9,
    4812, 2018); it is taken over the weights, at the end of training, for the mean of the first observable.
    """
    circuit, layer = build_ansatz(how.ansatz, how.qubits, how.layers), head.classifier.circuit
    embeddings = torch.from_numpy(validation.embeddings)
    with torch.no_grad():
        angles = head.classifier.encode((embeddings - head.centre) @ head.projection)
    (gradient,) = torch.autograd.grad(layer(angles)[:, 0].mean(), layer.weight)
    features, weights = split_parameters(circuit)
    places = [*features, *weights]
    few = angles[:_ENTANGLED].double().numpy()
    shared = layer.weight.detach().flatten().double().expand(len(few), -1).numpy()
    sets = np.concatenate((few, shared), axis=1)[:, [places.index(parameter) for parameter in circuit.parameters]]
    return {
        "entanglement_bits": entanglement_entropy(circuit, sets),
        "circuit_depth": float(circuit.depth()),
        "circuit_gates": float(circuit.size()),
        "two_qubit_gates": float(circuit.num_nonlocal_gates()),
        "gradient_variance": float(gradient.var(correction=0)),
        "engine_is_state_vector": float(layer.method == "state_vector"),
        "engine_bits": float(torch.finfo(layer.weight.dtype).bits),
        "engine_threads": float(torch.get_num_threads()),
    }


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
    head = QuantumHead(how)
    head.load_state_dict(saved["weights"])
    return head.eval()
