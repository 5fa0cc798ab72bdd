"""Azure Quantum's client against a stand-in on loopback, which checks each request by the SDK's own models."""

import time
from contextlib import suppress

import numpy as np
import pytest
from azure.core.credentials import AzureKeyCredential
from azure.quantum import Workspace
from azure_stub import Stub
from dead_worker import assert_nothing_is_sent_twice
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp, Statevector
from served import served

from qfundus.errors import SetupError
from qfundus.quantum import chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.backends.azure import open_target
from qfundus.quantum.jobs import vendors
from qfundus.quantum.transpile import compile_circuit

SHOTS = 4096


@pytest.fixture
def stub():
    with served(Stub()) as running:
        yield running


@pytest.fixture
def workspace(stub):
    return Workspace(
        subscription_id="11111111-2222-3333-4444-555555555555",
        resource_group="hospital",
        name="quantum",
        location="westeurope",
        credential=AzureKeyCredential("a key"),
        _from_connection_string=True,
        _quantum_endpoint=stub.url,
    )


def test_a_circuit_runs_there_and_comes_back(workspace):
    backend = open_target(workspace, "ionq.simulator")
    circuit = QuantumCircuit(3)
    circuit.ry(2 * np.pi / 3, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    compiled = compile_circuit(circuit, backend.target).circuit
    [result] = backend.sampler.run([compiled], shots=SHOTS).result()
    counts = result.data.meas.get_counts()
    assert abs(counts.get("011", 0) / SHOTS - 0.75) < 5 * np.sqrt(0.25 * 0.75 / SHOTS)


def test_expectation_values_are_within_shot_noise(workspace):
    backend = open_target(workspace, "ionq.simulator")
    circuit, observable = chain_ansatz(3, 1), SparsePauliOp("ZIZ")
    angles = np.random.default_rng(0).uniform(-3, 3, circuit.num_parameters)
    bound = circuit.assign_parameters(angles)
    compiled = compile_circuit(bound, backend.target).circuit
    turned = observable.apply_layout(compiled.layout) if compiled.layout else observable
    [result] = backend.estimator.run([(compiled, turned)], precision=SHOTS**-0.5).result()
    assert abs(result.data.evs - np.real(Statevector(bound).expectation_value(observable))) < 5 * SHOTS**-0.5


def test_a_key_that_has_expired_and_a_target_that_is_not_there_are_named(stub, workspace):
    with pytest.raises(SetupError, match=r"does not open ionq\.nowhere"):
        open_target(workspace, "ionq.nowhere")
    stub.expired = True
    with pytest.raises(SetupError, match="expired"):
        open_target(workspace, "ionq.simulator")


def test_without_a_workspace_it_says_which_variable(monkeypatch):
    monkeypatch.delenv("QFUNDUS_AZURE_CONNECTION", raising=False)
    with pytest.raises(SetupError, match="QFUNDUS_AZURE_CONNECTION"):
        open_backend("azure")
    monkeypatch.setenv("QFUNDUS_AZURE_CONNECTION", "nonsense")
    with pytest.raises(SetupError, match="copy it again"):
        open_backend("azure")


@pytest.mark.parametrize("sent", [0, 1, 3])
def test_what_a_dead_worker_had_sent_is_found_there_and_not_sent_twice(stub, workspace, monkeypatch, tmp_path, sent):
    priced = {"azure": {"through": "azure", "target": "ionq.simulator", "price": {"task": 1.0, "circuits": 1}}}
    monkeypatch.setattr(vendors, "read_backends", lambda: priced)
    monkeypatch.setattr(vendors, "open_backend", lambda _: open_target(workspace, "ionq.simulator"))
    assert_nothing_is_sent_twice(tmp_path, "azure", stub, 3, sent)


def test_a_job_that_waits_has_not_begun_and_can_be_called_back(stub, workspace):
    stub.status = "Waiting"
    named = open_target(workspace, "ionq.simulator").named
    circuit = chain_ansatz(2, 1)
    running = named.estimator("a-token").run([(circuit, SparsePauliOp("IZ"), [0.0] * circuit.num_parameters)])
    until = time.time() + 30
    while not stub.made and time.time() < until:
        time.sleep(0.02)
    assert not named.has_begun("a-token")
    named.cancel("a-token")
    assert [job["status"] for job in stub.made.values()] == ["Cancelled"]
    with suppress(Exception):  # of the SDK's own, which finds no reason to tell
        running.result()
