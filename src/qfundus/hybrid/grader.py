"""The served grader: backbone, both heads and their mixture in one ONNX graph."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import torch
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.hybrid.ensemble import Mixture
from qfundus.onnx_export import export_module, open_session

GRADER_FILE = "model.onnx"
HEAD_FILE = "head.onnx"
SMOKE_FILE = "smoke.npz"
OUTPUTS = ("probabilities", "classical", "quantum")


class Head(nn.Module):
    """Embeddings `(batch, 1280)` to the probabilities of the mixture and of each head alone, `(batch, 5)` each."""

    def __init__(self, classical: nn.Module, quantum: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.classical = classical
        self.quantum = quantum
        self.mixture = mixture

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three probabilities."""
        classical = self.classical(embeddings) / self.mixture.classical_temperature
        quantum = self.quantum(embeddings) / self.mixture.quantum_temperature
        weight = self.mixture.classical_weight
        mixed = weight * classical + (1 - weight) * quantum
        return mixed.softmax(dim=1), classical.softmax(dim=1), quantum.softmax(dim=1)


@dataclass(frozen=True)
class Graded:
    """Probabilities `(eyes, 5)` of the mixture and of each head alone."""

    probabilities: np.ndarray
    classical: np.ndarray
    quantum: np.ndarray


def export_grader(backbone: bytes, classical: nn.Module, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
    """Write the head that works on stored embeddings and, joined to the backbone, the grader of images.

    Raises:
        ValueError: where ONNX Runtime's answer is not PyTorch's.
    """
    example = torch.rand((2, EMBEDDING_SIZE), generator=torch.Generator().manual_seed(0))
    export_module(Head(classical, quantum, mixture), example, folder / HEAD_FILE, "embedding", OUTPUTS)
    first, second = onnx.load_from_string(backbone), onnx.load(folder / HEAD_FILE)
    joined = onnx.compose.merge_models(
        onnx.compose.add_prefix(first, "backbone/", rename_inputs=False, rename_outputs=False),
        onnx.compose.add_prefix(second, "head/", rename_inputs=False, rename_outputs=False),
        io_map=[("embedding", "embedding")],
    )
    onnx.save(joined, folder / GRADER_FILE)


def run_head(file: Path, embeddings: np.ndarray) -> Graded:
    """Grade stored embeddings `(eyes, 1280)` by a head's ONNX graph."""
    answer = open_session(file).run(list(OUTPUTS), {"embedding": embeddings.astype(np.float32)})
    return Graded(*(np.asarray(a) for a in answer))
