import numpy as np
import pytest
import torch
from circuits import by_qiskit, circuits, random_angles
from hypothesis import given, settings
from products import product
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import SparsePauliOp
from torch import nn

from benchmarks.contraction import contraction
from qfundus.quantum.ansatz import build_ansatz, chain_ansatz, layered_ansatz
from qfundus.quantum.exact import compile_exact, estimate_costs
from qfundus.quantum.gates import lower
from qfundus.quantum.kernel import Kernel
from qfundus.quantum.layer import QuantumLayer
from qfundus.quantum.network_plan import plan_contraction

METHODS = ("state_vector", "tensor_network")
ENGINES = (*METHODS, "auto")  # small circuits have a compiled kernel, too
NAMED = ("chain", "ring", "brick", "all_to_all", "reupload", "real_amplitudes", "zz_feature_map")


def layer_of(circuit, method, seed=0, **how):
    layer = QuantumLayer(circuit, method, **how).double()
    with torch.no_grad():
        layer.weight.copy_(random_angles(*layer.weight.shape, seed=seed))
    return layer


def assert_as_qiskit(circuit, method, batch=2):
    layer = layer_of(circuit, method)
    features = random_angles(batch, layer.n_features, seed=1)
    assert np.allclose(layer(features).detach(), by_qiskit(circuit, features, layer.weight.detach()), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ENGINES)
@settings(max_examples=60, deadline=None)
@given(circuits())
def test_random_circuits_have_the_values_of_qiskit(method, circuit):
    assert_as_qiskit(circuit, method)


@pytest.mark.parametrize("method", ENGINES)
@settings(max_examples=40, deadline=None)
@given(circuits(most_qubits=3, most_gates=12))
def test_random_circuits_have_the_gradients_of_finite_differences(method, circuit):
    layer = layer_of(circuit, method)
    features = random_angles(2, layer.n_features, seed=1).requires_grad_()

    def run(features, weights):
        return torch.func.functional_call(layer, {"weight": weights}, (features,))

    assert torch.autograd.gradcheck(run, (features, layer.weight.detach().requires_grad_()))


@pytest.mark.parametrize("method", ENGINES)
@pytest.mark.parametrize("name", NAMED)
def test_each_named_circuit_has_the_values_of_qiskit(name, method):
    assert_as_qiskit(build_ansatz(name, 4 if name != "zz_feature_map" else 3, 2), method)


@pytest.mark.parametrize("method", ENGINES)
@pytest.mark.parametrize(("qubits", "layers"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2), (5, 4), (9, 3)])
def test_the_requested_circuit_has_the_values_of_qiskit(qubits, layers, method):
    assert_as_qiskit(chain_ansatz(qubits, layers), method)


@pytest.mark.parametrize("method", ENGINES)
def test_gradients_are_those_of_the_parameter_shift_rule(method):
    layer, features = layer_of(chain_ansatz(4, 2), method), random_angles(3, 4, seed=1).requires_grad_()
    layer(features).sum().backward()
    for tensor in (features, layer.weight):
        for place in np.ndindex(tuple(tensor.shape)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    tensor[place] += sign * np.pi / 2
                    values.append(layer(features).sum())
                    tensor[place] -= sign * np.pi / 2
            assert torch.isclose(tensor.grad[place], (values[0] - values[1]) / 2, atol=1e-10)


@pytest.mark.parametrize("angle", [0.0, np.pi, -np.pi, np.pi / 2, 1e-9, 1e6])
@pytest.mark.parametrize("method", ENGINES)
def test_edge_angles_give_finite_gradients_and_right_values(method, angle):
    circuit = chain_ansatz(3, 2)
    layer, features = layer_of(circuit, method), torch.full((1, 3), angle, dtype=torch.float64, requires_grad=True)
    torch.nn.init.constant_(layer.weight, angle)
    values = layer(features)
    values.sum().backward()
    assert np.allclose(values.detach(), by_qiskit(circuit, features.detach(), layer.weight.detach()), atol=1e-9)
    assert features.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("method", ENGINES)
def test_products_of_z_are_observables_too(method):
    circuit, observables = layered_ansatz(4, 2, "ring"), ((0, 1), (1, 3), (0, 1, 2, 3))
    layer, features = layer_of(circuit, method, observables=observables), random_angles(2, 4, seed=1)
    paulis = [SparsePauliOp.from_sparse_list([("Z" * len(q), list(q), 1.0)], num_qubits=4) for q in observables]
    wanted = by_qiskit(circuit, features, layer.weight.detach(), paulis)
    assert np.allclose(layer(features).detach(), wanted, atol=1e-9)


def test_both_methods_agree_in_single_precision_where_qiskit_is_too_slow():
    first, second = (layer_of(chain_ansatz(13, 3), method).float() for method in METHODS)
    features = [random_angles(4, 13, seed=1).float().requires_grad_() for _ in METHODS]
    values = [layer(x) for layer, x in zip((first, second), features, strict=True)]
    for value in values:
        (value * torch.linspace(-1, 1, 13)).sum().backward()
    assert torch.allclose(*values, atol=1e-5)
    assert torch.allclose(features[0].grad, features[1].grad, atol=1e-4)
    assert torch.allclose(first.weight.grad, second.weight.grad, atol=1e-4)


def test_a_hundred_qubits_are_trained():
    layer = QuantumLayer(chain_ansatz(100, 3))
    layer(torch.rand(4, 100)).sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "qubits", "method"),
    [
        ("chain", 4, "state_vector"),
        ("chain", 20, "tensor_network"),
        ("all_to_all", 12, "state_vector"),
        ("reupload", 14, "tensor_network"),
    ],
)
def test_the_cheaper_method_is_chosen(name, qubits, method):
    layer = QuantumLayer(build_ansatz(name, qubits, 3))
    assert layer.method == method


FULL, DOUBLE = torch.float32, torch.float64


@pytest.mark.parametrize(
    ("batch", "kind"),
    [(1, FULL), (8, DOUBLE), (9, FULL), (200, FULL), *(product(n, kind) for n in (7, 40) for kind in (FULL, DOUBLE))],
)
def test_the_kernel_and_what_it_stands_for_agree_for_any_batch(batch, kind):
    layer, plain = (layer_of(build_ansatz("ring", 8, 2), method).to(kind) for method in ("auto", "state_vector"))
    assert isinstance(layer.engine, Kernel)
    features = [random_angles(batch, 8, seed=1).to(kind).requires_grad_() for _ in range(2)]
    values = [one(x) for one, x in zip((layer, plain), features, strict=True)]
    for value in values:
        (value * torch.linspace(-1, 1, 8)).sum().backward(retain_graph=True)
        (value**2).sum().backward()
    tolerance = 1e-4 if kind == torch.float32 else 1e-10
    assert torch.allclose(*values, atol=tolerance)
    assert torch.allclose(features[0].grad, features[1].grad, atol=tolerance)
    assert torch.allclose(layer.weight.grad, plain.weight.grad, atol=tolerance * batch)


@pytest.mark.parametrize("turned_by", ["nothing", "features", "weights"])
@pytest.mark.parametrize("batch", [0, 3])
def test_the_kernel_takes_circuits_that_lack_features_or_weights(turned_by, batch):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    if turned_by != "nothing":
        circuit.ry(ParameterVector("x" if turned_by == "features" else "w", 1)[0], 1)
    layer, plain = (layer_of(circuit, method) for method in ("auto", "state_vector"))
    features = [random_angles(batch, layer.n_features, seed=1).requires_grad_() for _ in range(2)]
    values = [one(x) for one, x in zip((layer, plain), features, strict=True)]
    assert torch.allclose(*values, atol=1e-12)
    for value in values:
        if value.requires_grad:
            value.sum().backward()
    for ours, theirs in ((features[0].grad, features[1].grad), (layer.weight.grad, plain.weight.grad)):
        assert ours is None or theirs is None or torch.allclose(ours, theirs, atol=1e-12)
    assert turned_by != "features" or features[0].grad.shape == (batch, 1)
    assert turned_by != "weights" or layer.weight.grad.shape == (1,)


def test_a_qubit_that_is_used_after_its_measurement_is_refused():
    circuit = QuantumCircuit(1, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.h(0)
    with pytest.raises(ValueError, match="used after it was measured"):
        QuantumLayer(circuit)


def test_a_circuit_of_no_qubit_is_refused_and_an_angle_that_cancels_out_is_none():
    with pytest.raises(ValueError, match="no qubit"):
        QuantumLayer(QuantumCircuit(0))
    x, circuit = ParameterVector("x", 1), QuantumCircuit(1)
    circuit.ry(x[0] - x[0], 0)
    circuit.ry(x[0], 0)
    assert_as_qiskit(circuit, "auto")


@pytest.mark.parametrize("method", ENGINES)
def test_values_may_be_changed_in_place_and_angles_be_views_or_huge(method):
    layer = layer_of(chain_ansatz(4, 2), method)
    values = nn.Sequential(layer, nn.ReLU(inplace=True))(random_angles(3, 4))
    values.sum().backward()
    assert layer.weight.grad.isfinite().all()
    angles = random_angles(3, 4)
    negated = torch.complex(angles, angles).conj().imag
    assert torch.allclose(layer(negated), layer(-angles))
    assert layer(torch.full((3, 4), 1e308, dtype=torch.float64)).isfinite().all()
    with pytest.raises(ValueError, match="real numbers"):
        layer(torch.complex(angles, angles))


def test_an_observable_or_a_method_that_is_none_is_refused():
    circuit = chain_ansatz(3, 1)
    for wrong in (((3,),), ((-1,),), ((1, 1),)):
        with pytest.raises(ValueError, match="once each"):
            QuantumLayer(circuit, observables=wrong)
    with pytest.raises(ValueError, match="Unknown method foo"):
        QuantumLayer(circuit, "foo")


def test_the_kernel_works_in_a_fork_of_a_process_that_has_used_it():
    import multiprocessing

    layer, features = QuantumLayer(chain_ansatz(9, 3)), torch.rand(16, 9)
    wanted = layer(features).detach()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(_run, (layer, features)).get(timeout=60)
    assert torch.allclose(found, wanted)


def _run(layer, features):
    return layer(features).detach()


def test_pennylane_says_the_same():
    import pennylane as qml

    circuit, qubits = chain_ansatz(5, 3), 5
    layer, features = layer_of(circuit, "auto"), random_angles(3, qubits, seed=1).requires_grad_()
    weights = layer.weight.detach().clone().requires_grad_()

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method="backprop")
    def node(angles, weights):
        for qubit in range(qubits):
            qml.RY(angles[qubit], wires=qubit)
        for turns_y, turns_z in weights:
            for qubit in range(qubits - 1):
                qml.CNOT(wires=(qubit, qubit + 1))
            for qubit in range(qubits):
                qml.RY(turns_y[qubit], wires=qubit)
                qml.RZ(turns_z[qubit], wires=qubit)
            qml.CNOT(wires=(qubits - 1, 0))
        return [qml.expval(qml.PauliZ(qubit)) for qubit in range(qubits)]

    wanted = torch.stack([torch.stack(node(row, weights)) for row in features])
    found, upstream = layer(features), torch.linspace(-1, 1, qubits)
    assert torch.allclose(found, wanted, atol=1e-6)
    ours = torch.autograd.grad((found * upstream).sum(), [features, layer.weight])
    theirs = torch.autograd.grad((wanted * upstream).sum(), [features, weights])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("library", [product("cotengra"), "opt_einsum"])
@pytest.mark.parametrize("circuit", [chain_ansatz(24, 3), layered_ansatz(20, 2, "brick"), chain_ansatz(2, 1)])
def test_libraries_for_general_networks_say_the_same_where_no_state_vector_fits(circuit, library):
    layer, features = layer_of(circuit, "auto"), random_angles(3, circuit.num_qubits, seed=1).requires_grad_()
    general, weights = contraction(circuit, 3, library), layer.weight.detach().flatten().requires_grad_()
    upstream = torch.linspace(-1, 1, circuit.num_qubits)
    same = features.detach().clone().requires_grad_()
    wanted, values = general(same, weights), layer(features)
    for found in (wanted, values):
        (found * upstream).sum().backward()
    assert torch.allclose(values, wanted, atol=1e-10)
    assert torch.allclose(features.grad, same.grad, atol=1e-10)
    assert torch.allclose(layer.weight.grad.flatten(), weights.grad, atol=1e-10)


def test_the_cost_of_the_requested_circuit_is_linear_in_its_qubits():
    products = []
    for qubits in (20, 40, 80):
        circuit = lower(chain_ansatz(qubits, 3))
        products.append(plan_contraction(circuit, tuple((k,) for k in range(qubits))).products)
    assert products[2] - products[1] == pytest.approx(2 * (products[1] - products[0]), rel=0.1)


def test_a_circuit_that_cannot_fit_is_refused_with_the_remedy():
    circuit = lower(build_ansatz("all_to_all", 40, 3))
    with pytest.raises(ValueError, match="lower the qubits or layers"):
        compile_exact(circuit, ((0,),))
    assert estimate_costs(circuit, plan_contraction(circuit, ((0,),)), 1)["state_vector"].bytes == 40 * 2**40
