import numpy as np
import torch
from conftest import separable

from qfundus.quantum.model import (
    QuantumHead,
    describe_training,
    fit_projection,
    load_quantum,
    save_quantum,
    train_quantum,
)
from qfundus.recipe import Quantum
from qfundus.training import predict_logits

HOW = Quantum(features=6, qubits=4, layers=2, epochs=30, patience=30, batch=32, learning_rate=0.03, weight_decay=0.0)


def test_the_circuit_learns_what_can_be_learned():
    head, trained = train_quantum(separable(200, 0), separable(80, 1), HOW, 0)
    test = separable(100, 2)
    right = (predict_logits(head, test.embeddings).argmax(axis=1) == test.grades).mean()
    assert right > 0.6
    assert trained.train_loss < 1.2


def test_the_same_seed_gives_the_same_head():
    heads = [train_quantum(separable(60, 0), separable(30, 1), HOW, 3)[0] for _ in range(2)]
    assert torch.equal(heads[0].classifier.circuit.weight, heads[1].classifier.circuit.weight)


def test_a_saved_head_answers_alike(tmp_path):
    torch.manual_seed(0)
    head, embeddings = QuantumHead(HOW).eval(), separable(10, 0).embeddings
    save_quantum(head, HOW, tmp_path / "head.pt")
    assert np.array_equal(
        predict_logits(load_quantum(tmp_path / "head.pt"), embeddings), predict_logits(head, embeddings)
    )


def test_fewer_eyes_than_features_leave_columns_of_zero():
    _, projection = fit_projection(separable(4, 0).embeddings, 6, 0)
    assert np.count_nonzero(projection.any(axis=0)) == 3


def test_the_size_of_the_circuit_and_the_spread_of_its_gradients_are_told():
    head, _ = train_quantum(separable(60, 0), separable(30, 1), HOW, 0)
    said = describe_training(head, HOW, separable(30, 1))
    assert (said["two_qubit_gates"], said["circuit_gates"]) == (2 * 4, 4 + 2 * (4 + 8))
    assert said["circuit_depth"] > 8
    assert 0 < said["gradient_variance"] < 1
    assert 0 < said["entanglement_bits"] <= 2
    assert (said["engine_is_state_vector"], said["engine_bits"]) == (1, 32)
