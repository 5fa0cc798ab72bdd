"""The served grader: backbone, both forms and their mixture in one ONNX graph."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import torch
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.grades import GRADES
from qfundus.hybrid.ensemble import SMALLEST_PROBABILITY, Mixture
from qfundus.hybrid.grader_files import HEAD_FILE, OUTPUTS, SMOKE_FILE
from qfundus.imaging.normalise import SIDE
from qfundus.onnx_graphs.export import export_module
from qfundus.onnx_graphs.run import GRADER_FILE, open_session


class BothHeads(nn.Module):
    """Embeddings `(batch, 1280)` to the probabilities of the mixture and of each head alone, `(batch, 5)` each."""

    def __init__(self, classical: nn.Module, quantum: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.classical = classical
        self.quantum = quantum
        self.mixture = mixture

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three probabilities."""
        return mix(self.classical(embeddings), self.quantum(embeddings), self.mixture)


class NetworkAndQuantumHead(nn.Module):
    """A classical network's probabilities `(batch, 5)` and embeddings `(batch, 1280)` to the same as `BothHeads`."""

    def __init__(self, quantum: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.quantum = quantum
        self.mixture = mixture

    def forward(
        self, embeddings: torch.Tensor, network: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three probabilities."""
        return mix(network.clamp_min(SMALLEST_PROBABILITY).log(), self.quantum(embeddings), self.mixture)


def mix(
    classical: torch.Tensor, quantum: torch.Tensor, mixture: Mixture
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix both forms' logits `(batch, 5)`; return the probabilities of the mixture and of each form alone."""
    scaled_classical = classical / mixture.classical_temperature
    scaled_quantum = quantum / mixture.quantum_temperature
    weight = mixture.classical_weight
    mixed = weight * scaled_classical + (1 - weight) * scaled_quantum
    return mixed.softmax(dim=1), scaled_classical.softmax(dim=1), scaled_quantum.softmax(dim=1)


def export_grader(backbone: bytes, classical: nn.Module, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
    """Write the head that works on stored embeddings and, joined to the backbone, the grader of images.

    Raises:
        ValueError: if ONNX Runtime's answer differs from PyTorch's.
    """
    export_module(BothHeads(classical, quantum, mixture), {"embedding": _example()}, folder / HEAD_FILE, OUTPUTS)
    onnx.save(_join_backbone(backbone, onnx.load(folder / HEAD_FILE)), folder / GRADER_FILE)


def export_network_grader(backbone: bytes, network: Path, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
    """Write the grader of images that joins a classical network's graph with the backbone and the quantum head.

    Raises:
        ValueError: if ONNX Runtime's answer differs from PyTorch's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = {"embedding": _example(), "network": torch.full((2, GRADES), 1 / GRADES)}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / HEAD_FILE
        export_module(NetworkAndQuantumHead(quantum, mixture), examples, file, OUTPUTS)
        head = onnx.load(file)
    head = _merge(
        onnx.compose.add_prefix(onnx.load(network), "network/"),
        onnx.compose.add_prefix(head, "head/", rename_inputs=False, rename_outputs=False),
        ("network/probabilities", "network"),
    )
    joined = _join_backbone(backbone, head)
    _replace_input(joined.graph, "network/image", "image")
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
    versions = {imported.domain: imported.version for imported in merged.opset_import}
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    return merged


def _replace_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let the nodes that read one input of a graph read another."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    graph.input.remove(next(value for value in graph.input if value.name == old))


def write_smoke_test(folder: Path, form: str) -> None:
    """Keep a few images and the graph's own answers, which Triton must repeat before the version serves."""
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    answers = open_session(folder / GRADER_FILE).run(["probabilities"], {"image": images})
    np.savez_compressed(folder / SMOKE_FILE, images=images, probabilities=np.asarray(answers[0]), form=form)
