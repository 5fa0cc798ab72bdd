import numpy as np
import pytest
import torch

from qfundus.classical.model import ClassicalHead
from qfundus.features.embed import embed, export_backbone
from qfundus.hybrid.ensemble import Mixture
from qfundus.hybrid.grader import GRADER_FILE, HEAD_FILE, OUTPUTS, export_grader, run_head
from qfundus.onnx_export import open_session
from qfundus.quantum.model import QuantumHead
from qfundus.recipe import Quantum
from qfundus.training import predict_logits

MIXTURE = Mixture(1.3, 0.8, 0.4)
HOW = Quantum(features=30, qubits=4, layers=2, epochs=1, patience=1, batch=8, learning_rate=0.01, weight_decay=0.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    classical, quantum = ClassicalHead(16, 0.1).eval(), QuantumHead(HOW).eval()
    quantum.projection.normal_()
    folder, backbone = tmp_path_factory.mktemp("grader"), export_backbone()
    export_grader(backbone, classical, quantum, MIXTURE, folder)
    return folder, backbone, classical, quantum


def test_the_head_answers_as_pytorch_does(exported):
    folder, _, classical, quantum = exported
    embeddings = np.random.default_rng(0).uniform(size=(7, 1280)).astype(np.float32)
    told = run_head(folder / HEAD_FILE, embeddings).probabilities
    wanted = MIXTURE.mix(predict_logits(classical, embeddings), predict_logits(quantum, embeddings))
    assert np.allclose(told, wanted, atol=1e-5)


def test_the_grader_is_the_backbone_and_the_head_joined(exported):
    folder, backbone, *_ = exported
    images = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    whole = open_session(folder / GRADER_FILE).run(list(OUTPUTS), {"image": images})
    parts = run_head(folder / HEAD_FILE, embed(open_session(backbone), images))
    assert np.allclose(whole[0], parts.probabilities, atol=1e-5)
    assert not np.allclose(whole[1], whole[2], atol=1e-3)
