"""The served grader: backbone, both forms and their mixture in one ONNX graph."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import torch
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.grades import GRADES
from qfundus.hybrid.ensemble import Mixture
from qfundus.onnx_export import export_module, open_session

GRADER_FILE = "model.onnx"
HEAD_FILE = "head.onnx"
SMOKE_FILE = "smoke.npz"
OUTPUTS = ("probabilities", "classical", "quantum")
LEAST = 1e-12  # of a probability, before its logarithm
_BATCH = 64


class Head(nn.Module):
    """Embeddings `(batch, 1280)` to the probabilities of the mixture and of each head alone, `(batch, 5)` each."""

    def __init__(self, classical: nn.Module, quantum: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.classical = classical
        self.quantum = quantum
        self.mixture = mixture

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three probabilities."""
        return mix(self.classical(embeddings), self.quantum(embeddings), self.mixture)


class HeadBesideNetwork(nn.Module):
    """A classical network's probabilities `(batch, 5)` and embeddings `(batch, 1280)` to the same as `Head`."""

    def __init__(self, quantum: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.quantum = quantum
        self.mixture = mixture

    def forward(
        self, embeddings: torch.Tensor, network: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three probabilities."""
        return mix(network.clamp_min(LEAST).log(), self.quantum(embeddings), self.mixture)


def mix(
    classical: torch.Tensor, quantum: torch.Tensor, mixture: Mixture
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix both forms' logits `(batch, 5)`; return the probabilities of the mixture and of each form alone."""
    warm, cold = classical / mixture.classical_temperature, quantum / mixture.quantum_temperature
    weight = mixture.classical_weight
    mixed = weight * warm + (1 - weight) * cold
    return mixed.softmax(dim=1), warm.softmax(dim=1), cold.softmax(dim=1)


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
    export_module(Head(classical, quantum, mixture), {"embedding": _example()}, folder / HEAD_FILE, OUTPUTS)
    onnx.save(_join_backbone(backbone, onnx.load(folder / HEAD_FILE)), folder / GRADER_FILE)


def export_network_grader(backbone: bytes, network: Path, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
    """Write the grader of images that joins a classical network's graph with the backbone and the quantum head.

    Raises:
        ValueError: where ONNX Runtime's answer is not PyTorch's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = {"embedding": _example(), "network": torch.full((2, GRADES), 1 / GRADES)}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / HEAD_FILE
        export_module(HeadBesideNetwork(quantum, mixture), examples, file, OUTPUTS)
        head = onnx.load(file)
    head = _merge(
        onnx.compose.add_prefix(onnx.load(network), "network/"),
        onnx.compose.add_prefix(head, "head/", rename_inputs=False, rename_outputs=False),
        ("network/probabilities", "network"),
    )
    joined = _join_backbone(backbone, head)
    _share_input(joined.graph, "network/image", "image")
    onnx.checker.check_model(joined)
    onnx.save(joined, folder / GRADER_FILE)


def _example() -> torch.Tensor:
    return torch.rand((2, EMBEDDING_SIZE), generator=torch.Generator().manual_seed(0))


def _join_backbone(backbone: bytes, head: onnx.ModelProto) -> onnx.ModelProto:
    return _merge(
        onnx.compose.add_prefix(
            onnx.load_from_string(backbone), "backbone/", rename_inputs=False, rename_outputs=False
        ),
        onnx.compose.add_prefix(head, "head/", rename_inputs=False, rename_outputs=False),
        ("embedding", "embedding"),
    )


def _merge(first: onnx.ModelProto, second: onnx.ModelProto, joint: tuple[str, str]) -> onnx.ModelProto:
    merged = onnx.compose.merge_models(first, second, io_map=[joint])
    # Both bring their operators' version, and a graph that names it twice cannot be quantised.
    versions = {one.domain: one.version for one in merged.opset_import}
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    return merged


def _share_input(graph: onnx.GraphProto, one: str, other: str) -> None:
    """Let what reads one input of a graph read the other."""
    for node in graph.node:
        node.input[:] = [other if name == one else name for name in node.input]
    graph.input.remove(next(value for value in graph.input if value.name == one))


def run_head(file: Path, embeddings: np.ndarray) -> Graded:
    """Grade stored embeddings `(eyes, 1280)` by a head's ONNX graph."""
    answer = open_session(file).run(list(OUTPUTS), {"embedding": embeddings.astype(np.float32)})
    return Graded(*(np.asarray(a) for a in answer))


def run_graph(file: Path, images: Iterable[np.ndarray], outputs: Sequence[str] = OUTPUTS[:1]) -> np.ndarray:
    """Grade cropped discs `(224, 224, 3)` of uint8, a few at a time, by a graph of images.

    Returns probabilities `(outputs, images, 5)`.
    """
    session, left = open_session(file), iter(images)
    told: list[np.ndarray] = [np.empty((len(outputs), 0, GRADES), np.float32)]
    while group := list(islice(left, _BATCH)):
        answers = session.run(list(outputs), {"image": np.stack(group)})
        told.append(np.stack([np.asarray(answer) for answer in answers]))
    return np.concatenate(told, axis=1)
