import copy
import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from circuits import by_qiskit, fit, random_angles
from data_parallel import BATCH, QUBITS, differentiate_in_two, gradient_of, make_layer
from products import product
from torch import nn

from qfundus.onnx_graphs.export import export_module
from qfundus.quantum import QuantumClassifier, QuantumLayer, chain_ansatz
from qfundus.quantum.ansatz import build_ansatz

METHODS = ("state_vector", "tensor_network")


@pytest.fixture(params=METHODS)
def layer(request):
    torch.manual_seed(0)
    return QuantumLayer(chain_ansatz(5, 3), request.param)


def test_the_weights_are_ry_angles_then_rz_angles_by_layer(layer):
    assert layer.weight.shape == (3, 2, 5)
    features = random_angles(2, 5).float()
    wanted = by_qiskit(chain_ansatz(5, 3), features, layer.weight.detach())
    assert np.allclose(layer(features).detach(), wanted, atol=1e-5)


def test_features_that_are_fewer_than_qubits_leave_hadamards(layer):
    circuit = chain_ansatz(5, 2, n_features=3)
    assert circuit.count_ops()["h"] == 2
    features = random_angles(2, 3)
    fewer = QuantumLayer(circuit, "auto").double()
    assert np.allclose(fewer(features).detach(), by_qiskit(circuit, features, fewer.weight.detach()), atol=1e-9)


def test_an_empty_batch_has_no_values(layer):
    features = torch.zeros((0, 5), requires_grad=True)
    layer(features).sum().backward()
    assert layer(features).shape == (0, 5)
    assert layer.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type_goes(layer, kind):
    features = random_angles(3, 5).to(kind)
    values = layer.to(kind)(features)
    assert values.dtype == kind
    wanted = copy.deepcopy(layer).double()(features.double())
    assert torch.allclose(values.double(), wanted, atol={torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(kind, 1e-5))


def test_autocast_does_not_lower_the_precision(layer):
    features = random_angles(3, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = layer(features)
    assert torch.equal(values, layer(features))


def test_it_trains_as_any_layer(layer):
    model = nn.Sequential(nn.Linear(4, 5), layer, nn.Linear(5, 2))
    torch.manual_seed(1)
    inputs = torch.randn(64, 4)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    losses = fit(model, inputs, targets, 0.05)
    assert losses[-1] < 0.6 * losses[0]


def test_it_pickles_and_its_state_is_the_weight(layer):
    features = random_angles(3, 5).float()
    assert list(layer.state_dict()) == ["weight"]
    assert torch.equal(pickle.loads(pickle.dumps(layer))(features), layer(features))  # noqa: S301
    other = QuantumLayer(chain_ansatz(5, 3))
    other.load_state_dict(layer.state_dict())
    assert torch.allclose(other(features), layer(features), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("tensor_network", "chain"),
        ("state_vector", "reupload"),
        *(product(method, name) for method in METHODS for name in ("ring", "real_amplitudes")),
        product("tensor_network", "reupload"),
        product("state_vector", "chain"),
    ],
)
def test_onnx_runtime_gives_the_same_values(method, name, tmp_path):
    layer = QuantumLayer(build_ansatz(name, 4, 2), method)
    export_module(layer, {"x": random_angles(2, 4).float()}, tmp_path / "layer.onnx", ("y",))
    features = random_angles(7, 4, seed=3).float()
    (values,) = onnxruntime.InferenceSession(tmp_path / "layer.onnx").run(None, {"x": features.numpy()})
    assert np.allclose(values, layer(features).detach(), atol=1e-5)


@pytest.mark.slow
def test_a_compiled_layer_gives_the_same_values_and_gradients(layer):
    # Without Inductor, which needs a C++ compiler where it runs.
    compiled = torch.compile(layer, backend="aot_eager")
    gradients = []
    for run in (layer, compiled):
        features = random_angles(3, 5).float().requires_grad_()
        values = run(features)
        values.square().sum().backward()
        gradients.append((values, features.grad))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["state_vector", product("tensor_network")])
def test_two_processes_share_a_batch_in_distributed_data_parallel(method, tmp_path):
    whole = gradient_of(make_layer(method), random_angles(BATCH, QUBITS).float())
    for shared in differentiate_in_two(tmp_path, method):
        assert torch.allclose(shared, whole, atol=1e-6)
    assert whole.abs().sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_angle_that_is_no_number_is_an_error_that_says_where(layer, bad):
    features = torch.zeros((4, 5))
    features[2, 1] = bad
    with pytest.raises(ValueError, match="in 1 of 4 samples, first in sample 2"):
        layer(features)


def test_a_weight_that_is_no_number_is_an_error_that_says_so(layer):
    nn.init.constant_(layer.weight, float("nan"))
    with pytest.raises(ValueError, match="among the weights"):
        layer(torch.zeros(1, 5))


@pytest.mark.parametrize(("name", "qubits"), [("chain", 4), ("ring", 4), ("ring", 12), ("zz_feature_map", 12)])
def test_what_cannot_be_differentiated_twice_says_so(name, qubits):
    layer = QuantumLayer(build_ansatz(name, qubits, 1), method="auto").double()
    features = torch.rand(2, qubits, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(layer(features).sum(), features, create_graph=True)


def test_a_tensor_network_can_be_differentiated_twice():
    layer = QuantumLayer(chain_ansatz(3, 1), method="tensor_network").double()
    features = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (features,))


def test_another_number_of_features_is_refused(layer):
    with pytest.raises(ValueError, match=r"takes \(batch, 5\) angles, not \(3, 4\)"):
        layer(torch.zeros(3, 4))


def test_the_classifier_is_the_requested_one():
    model = QuantumClassifier(30, chain_ansatz(8, 3), 5)
    kinds = [type(module).__name__ for module in (*model.encode, model.circuit, *model.read)]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "QuantumLayer", "Linear", "ReLU", "Dropout", "Linear"]
    assert model(torch.zeros(3, 30)).shape == (3, 5)


@pytest.mark.parametrize(("qubits", "layers", "features"), [(0, 1, 0), (2, 0, 2), (2, 1, 3)])
def test_a_circuit_that_is_none_is_refused(qubits, layers, features):
    with pytest.raises(ValueError, match="make no circuit"):
        chain_ansatz(qubits, layers, n_features=features)
