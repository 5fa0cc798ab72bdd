"""The quantum head: a fitted projection to a few features, and the classifier around the circuit."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.features.snapshot import Split
from qfundus.grades import GRADES
from qfundus.heads.fit import HeadFit, fit_head
from qfundus.heads.saved_circuit import SavedCircuit
from qfundus.heads.scaling import fit_scaling
from qfundus.quantum.ansatz import build_ansatz
from qfundus.quantum.classifier import QuantumClassifier
from qfundus.quantum.entanglement import entanglement_entropy
from qfundus.quantum.gates import split_parameters
from qfundus.recipes.nightly import QuantumHeadRecipe

_ENTANGLEMENT_EYES = 8  # eyes over which the entanglement is averaged


class QuantumHead(nn.Module):
    """Embeddings `(batch, 1280)` to logits `(batch, 5)`: a projection that is fitted before, then the classifier."""

    centre: torch.Tensor
    projection: torch.Tensor

    def __init__(self, recipe: QuantumHeadRecipe) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(EMBEDDING_SIZE))
        self.register_buffer("projection", torch.zeros(EMBEDDING_SIZE, recipe.features))
        self.classifier = QuantumClassifier(
            recipe.features, build_ansatz(recipe.ansatz, recipe.qubits, recipe.layers), GRADES, recipe.method
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.classifier((embeddings - self.centre) @ self.projection)


def train_quantum_head(
    train: Split, validation: Split, recipe: QuantumHeadRecipe, seed: int
) -> tuple[QuantumHead, HeadFit]:
    """Fit the projection on the training split, then train the circuit with exact gradients."""
    torch.manual_seed(seed)
    head = QuantumHead(recipe)
    centre, projection = fit_projection(train.embeddings, recipe.features, seed)
    head.centre.copy_(torch.from_numpy(centre))
    head.projection.copy_(torch.from_numpy(projection))
    return head, fit_head(head, train, validation, recipe, seed)


def describe_circuit(head: QuantumHead, recipe: QuantumHeadRecipe, validation: Split) -> dict[str, float]:
    """Return the figures of a trained circuit: its size, entanglement and gradients, and what computed it.

    A variance of the gradients that falls with the qubits is a barren plateau (McClean et al., Nature Communications 9,
    4812, 2018); it is taken over the weights, at the end of training, for the mean of the first observable.
    """
    circuit, layer = build_ansatz(recipe.ansatz, recipe.qubits, recipe.layers), head.classifier.circuit
    embeddings = torch.from_numpy(validation.embeddings)
    with torch.no_grad():
        angles = head.classifier.encode((embeddings - head.centre) @ head.projection)
    (gradient,) = torch.autograd.grad(layer(angles)[:, 0].mean(), layer.weight)
    features, weights = split_parameters(circuit)
    order = [*features, *weights]
    first = angles[:_ENTANGLEMENT_EYES].double().numpy()
    shared = layer.weight.detach().flatten().double().expand(len(first), -1).numpy()
    sets = np.concatenate((first, shared), axis=1)[:, [order.index(parameter) for parameter in circuit.parameters]]
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


def take_circuit(head: QuantumHead, recipe: QuantumHeadRecipe, embeddings: np.ndarray) -> SavedCircuit:
    """Take a trained head's circuit, with the angles to which it turns some embeddings `(eyes, 1280)`."""
    layer = head.classifier.circuit
    with torch.no_grad():
        angles = head.classifier.encode((torch.from_numpy(embeddings) - head.centre) @ head.projection)
        exact = layer(angles)
    return SavedCircuit(recipe, layer.weight.detach().flatten().numpy(), angles.numpy(), exact.numpy())


def fit_projection(embeddings: np.ndarray, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit principal components; return the centre `(1280,)` and the projection `(1280, features)`.

    All features share the first one's scale: whitening would raise the noise of the last to the height of the first.
    With fewer eyes than features the last columns stay zero.
    """
    from sklearn.decomposition import PCA  # takes as long to import as PyTorch, and only training needs it

    mean, spread = fit_scaling(embeddings)
    components = min(features, len(embeddings) - 1)
    fitted = PCA(components, random_state=seed).fit((embeddings - mean) / spread)
    scale = np.sqrt(np.asarray(fitted.explained_variance_)[0])
    projection = np.zeros((embeddings.shape[1], features), np.float32)
    projection[:, :components] = np.asarray(fitted.components_).T / (spread[:, None] * scale)
    return mean, projection


def save_quantum_head(head: QuantumHead, recipe: QuantumHeadRecipe, path: Path | str) -> None:
    """Write the head with the section of the recipe that shapes it."""
    torch.save({"recipe": recipe.model_dump(), "weights": head.state_dict()}, path)


def load_quantum_head(path: Path | str) -> QuantumHead:
    """Read a head; nothing but tensors and numbers is unpickled."""
    saved = torch.load(path, weights_only=True)
    recipe = QuantumHeadRecipe.model_validate(saved["recipe"])
    head = QuantumHead(recipe)
    head.load_state_dict(saved["weights"])
    return head.eval()
