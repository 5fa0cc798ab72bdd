import numpy as np
import torch
from conftest import separable

from qfundus.heads.fit import predict_logits
from qfundus.heads.quantum import (
    QuantumHead,
    describe_circuit,
    fit_projection,
    load_quantum_head,
    save_quantum_head,
    train_quantum_head,
)
from qfundus.recipes.nightly import QuantumHeadRecipe

RECIPE = QuantumHeadRecipe(
    features=6, qubits=4, layers=2, epochs=30, patience=30, batch=32, learning_rate=0.03, weight_decay=0.0
)


def test_the_circuit_learns_what_can_be_learned():
    head, trained = train_quantum_head(separable(200, 0), separable(80, 1), RECIPE, 0)
    test = separable(100, 2)
    right = (predict_logits(head, test.embeddings).argmax(axis=1) == test.grades).mean()
    assert right > 0.6
    assert trained.train_loss < 1.2


def test_the_same_seed_gives_the_same_head():
    heads = [train_quantum_head(separable(60, 0), separable(30, 1), RECIPE, 3)[0] for _ in range(2)]
    assert torch.equal(heads[0].classifier.circuit.weight, heads[1].classifier.circuit.weight)


def test_a_saved_head_answers_alike(tmp_path):
    torch.manual_seed(0)
    head, embeddings = QuantumHead(RECIPE).eval(), separable(10, 0).embeddings
    save_quantum_head(head, RECIPE, tmp_path / "head.pt")
    assert np.array_equal(
        predict_logits(load_quantum_head(tmp_path / "head.pt"), embeddings), predict_logits(head, embeddings)
    )


def test_fewer_eyes_than_features_leave_columns_of_zero():
    _, projection = fit_projection(separable(4, 0).embeddings, 6, 0)
    assert np.count_nonzero(projection.any(axis=0)) == 3


def test_the_size_of_the_circuit_and_the_spread_of_its_gradients_are_reported():
    head, _ = train_quantum_head(separable(60, 0), separable(30, 1), RECIPE, 0)
    figures = describe_circuit(head, RECIPE, separable(30, 1))
    assert (figures["two_qubit_gates"], figures["circuit_gates"]) == (2 * 4, 4 + 2 * (4 + 8))
    assert figures["circuit_depth"] > 8
    assert 0 < figures["gradient_variance"] < 1
    assert 0 < figures["entanglement_bits"] <= 2
    assert (figures["engine_is_state_vector"], figures["engine_bits"]) == (1, 32)
