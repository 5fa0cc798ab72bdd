"""What release 0.1 stored is read by this one; the files beside were written by it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from qfundus.classical.card import read_card
from qfundus.classical.claim import claim_folder
from qfundus.classical.job import TrainingJob
from qfundus.errors import SetupError
from qfundus.heads.classical import load_classical_head
from qfundus.heads.quantum import load_quantum_head
from qfundus.heads.saved_circuit import SavedCircuit
from qfundus.hybrid.grader_files import read_summary
from qfundus.layout import checkout
from qfundus.recipes.network import NetworkRecipe
from qfundus.recipes.nightly import NightlyRecipe, load_nightly_recipe
from qfundus.recipes.spelling import RENAMED, to_former_names

STORED = Path(__file__).parent / "stored"


def test_a_job_is_read_and_its_checkpoints_are_still_its_own():
    job = TrainingJob.from_json((STORED / "job.json").read_text())
    assert job.recipe.training.soft_labels == 0.5
    assert job.fingerprint("0" * 64) == (STORED / "fingerprint.txt").read_text()
    assert replace(job, seed=4).fingerprint("0" * 64) != (STORED / "fingerprint.txt").read_text()


def test_a_graders_card_says_how_its_photographs_are_prepared():
    card = read_card(STORED)
    assert (card.images.side, card.refer_below) == (32, 0.4)
    assert not RENAMED.keys() & card.recipe.keys()


def test_a_claimed_folder_is_gone_on_with_and_a_change_is_named_as_it_is_spelt_now(tmp_path, monkeypatch):
    shutil.copy(STORED / "recipe.json", tmp_path)
    monkeypatch.setattr("qfundus.classical.claim.digest_data", lambda *_: "d" * 64)
    recipe = TrainingJob.from_json((STORED / "job.json").read_text()).recipe
    claim_folder(tmp_path, recipe, "eyes.lance", 0)
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"soft_labels": 0.7})})
    with pytest.raises(SetupError, match=r"training\.soft_labels was 0\.5 and is 0\.7"):
        claim_folder(tmp_path, other, "eyes.lance", 0)


def test_heads_circuits_and_summaries_are_read():
    assert load_classical_head(STORED / "classical.pt").network[1].out_features == 4
    assert load_quantum_head(STORED / "quantum.pt").classifier.circuit.n_features == 2
    assert SavedCircuit.load(STORED / "circuit.npz").angles.shape == (4, 2)
    assert read_summary(STORED / "summary.json").eyes["patients"] == 30


def test_a_recipe_that_travels_keeps_its_meaning():
    recipe = NightlyRecipe.from_json((STORED / "nightly.json").read_text())
    assert isinstance(recipe.classical, NetworkRecipe)
    assert recipe == load_nightly_recipe(checkout() / "configs" / "recipes" / "nightly_network.yaml")


def test_a_recipe_with_former_names_is_read_and_each_is_named_once_in_the_log(tmp_path):
    data = load_nightly_recipe(checkout() / "configs" / "recipes" / "nightly_network.yaml").model_dump(mode="json")
    file = tmp_path / "site.yaml"
    file.write_text(json.dumps({**to_former_names(data), "name": "site"}))  # JSON is YAML
    with structlog.testing.capture_logs() as logs:
        recipe = load_nightly_recipe(file)
    assert recipe.classical.images.side == 224
    assert {(line["old"], line["new"]) for line in logs} == RENAMED.items()
