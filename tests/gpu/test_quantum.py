"""The quantum layer on a GPU: the numbers of the processor, whatever the method and the circuit."""

import pytest
import torch
from circuits import circuits, fit, random_angles
from hypothesis import given, settings

from qfundus.quantum import QuantumClassifier, QuantumLayer, chain_ansatz
from qfundus.quantum.ansatz import build_ansatz

pytestmark = pytest.mark.gpu
METHODS = ("state_vector", "tensor_network", "auto")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


def values_and_gradients(layer, features, upstream):
    """On the processor whatever they were computed on."""
    inputs = features.clone().requires_grad_()
    values = layer(inputs)
    of = (inputs, layer.weight)
    slopes = [torch.zeros_like(one) for one in of]
    if values.requires_grad:  # else they are the same whatever the angles
        slopes = torch.autograd.grad(values, of, upstream.to(values), allow_unused=True, materialize_grads=True)
    return [found.detach().cpu().double() for found in (values, *slopes)]


def assert_alike(circuit, method, kind, batch=4):
    torch.manual_seed(0)
    layer = QuantumLayer(circuit, method).double()
    features = random_angles(batch, layer.n_features)
    upstream = random_angles(batch, len(layer.observables), seed=1)
    wanted = values_and_gradients(layer, features, upstream)
    there = layer.to(device="cuda", dtype=kind)
    found = values_and_gradients(there, features.to(device="cuda", dtype=kind), upstream)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=TOLERANCE[kind]), (one - other).abs().max()


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("qubits", [1, 5, 12])
def test_the_requested_circuit(qubits, method, kind):
    assert_alike(chain_ansatz(qubits, 3), method, kind)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["ring", "brick", "all_to_all", "reupload", "real_amplitudes", "zz_feature_map"])
def test_the_other_circuits(name, method):
    assert_alike(build_ansatz(name, 3, 2), method, torch.float64)


@given(circuits(most_qubits=4, most_gates=16))
@settings(max_examples=25, deadline=None)
def test_any_circuit(circuit):
    assert_alike(circuit, "auto", torch.float64, batch=2)


def test_many_qubits_by_either_method():
    torch.manual_seed(0)
    by_state, by_network = (QuantumLayer(chain_ansatz(20, 3), name).cuda() for name in METHODS[:2])
    by_state.load_state_dict(by_network.state_dict())
    features, upstream = random_angles(8, 20).float().cuda(), random_angles(8, 20, seed=1)
    pairs = zip(*(values_and_gradients(one, features, upstream) for one in (by_state, by_network)), strict=True)
    for one, other in pairs:
        assert torch.allclose(one, other, atol=1e-4), (one - other).abs().max()


def test_autocast_does_not_lower_the_precision():
    layer, features = QuantumLayer(chain_ansatz(5, 3)).cuda(), random_angles(3, 5).float().cuda()
    with torch.autocast("cuda", dtype=torch.float16):
        values = layer(features)
    assert torch.equal(values, layer(features))


def test_what_is_no_number_is_refused():
    layer, features = QuantumLayer(chain_ansatz(5, 3)).cuda(), random_angles(3, 5).float().cuda()
    features[1, 2] = float("nan")
    with pytest.raises(ValueError, match="in 1 of 3 samples, first in sample 1"):
        layer(features)


def test_it_compiles_and_its_numbers_stay():
    layer, features = QuantumLayer(chain_ansatz(4, 2)).cuda(), random_angles(3, 4).float().cuda()
    assert torch.allclose(torch.compile(layer)(features), layer(features), atol=1e-5)


def test_a_graph_of_its_kernels_has_its_numbers():
    """As torch.cuda.make_graphed_callables records it: then a small circuit does not wait for Python."""
    layer = QuantumLayer(chain_ansatz(8, 3), "state_vector").cuda()
    features, upstream = random_angles(4, 8).float().cuda(), random_angles(4, 8, seed=1)
    wanted = values_and_gradients(layer, features, upstream)
    graphed = torch.cuda.make_graphed_callables(layer, (features.clone().requires_grad_(),))
    for one, other in zip(values_and_gradients(graphed, features, upstream), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_classifier_learns_there_and_grades_here():
    torch.manual_seed(1)
    model = QuantumClassifier(16, chain_ansatz(6, 2), 5).cuda()
    inputs = torch.randn(64, 16, device="cuda")
    targets = (inputs[:, 0] > 0).long() * 3
    losses = fit(model, inputs, targets, 0.02)
    assert losses[-1] < 0.5 * losses[0]
    model.eval()
    there = model(inputs).detach().cpu()
    assert torch.allclose(model.cpu()(inputs.cpu()), there, atol=1e-4)
