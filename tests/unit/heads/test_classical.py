import numpy as np
from conftest import separable

from qfundus.heads.classical import ClassicalHead, load_classical_head, save_classical_head, train_classical_head
from qfundus.heads.fit import predict_logits
from qfundus.recipes.nightly import ClassicalHeadRecipe

RECIPE = ClassicalHeadRecipe(
    hidden=16, dropout=0.1, epochs=30, patience=30, batch=32, learning_rate=0.0003, weight_decay=0.1
)


def test_the_head_learns_and_keeps_its_best_weights():
    train, validation, test = (separable(n, seed) for seed, n in enumerate((400, 80, 100)))
    head, trained = train_classical_head(train, validation, RECIPE, 0)
    assert (predict_logits(head, test.embeddings).argmax(axis=1) == test.grades).mean() > 0.9
    assert trained.best_epoch <= trained.epochs


def test_a_value_that_hardly_ever_changes_does_not_blow_up():
    train = separable(100, 0)
    train.embeddings[:, 7] = 0.5
    head, _ = train_classical_head(train, separable(40, 1), RECIPE, 0)
    odd = separable(1, 2).embeddings
    odd[:, 7] = 3.0
    assert np.abs(predict_logits(head, odd)).max() < 30


def test_a_saved_head_answers_alike(tmp_path):
    head, embeddings = ClassicalHead(16, 0.1).eval(), separable(10, 0).embeddings
    save_classical_head(head, RECIPE, tmp_path / "head.pt")
    loaded = load_classical_head(tmp_path / "head.pt")
    assert np.array_equal(predict_logits(loaded, embeddings), predict_logits(head, embeddings))
