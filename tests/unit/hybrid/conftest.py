import pytest
import torch

from qfundus.heads.classical import ClassicalHead
from qfundus.heads.quantum import QuantumHead
from qfundus.hybrid.ensemble import Mixture
from qfundus.hybrid.grader import export_grader
from qfundus.recipes.nightly import QuantumHeadRecipe

MIXTURE = Mixture(1.3, 0.8, 0.4)
HOW = QuantumHeadRecipe(
    features=30, qubits=4, layers=2, epochs=1, patience=1, batch=8, learning_rate=0.01, weight_decay=0.0
)


@pytest.fixture(scope="session")
def exported(backbone, tmp_path_factory):
    torch.manual_seed(0)
    classical, quantum = ClassicalHead(16, 0.1).eval(), QuantumHead(HOW).eval()
    quantum.projection.normal_()
    folder = tmp_path_factory.mktemp("grader")
    export_grader(backbone, classical, quantum, MIXTURE, folder)
    return folder, backbone, classical, quantum, MIXTURE
