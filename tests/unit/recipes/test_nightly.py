import pytest
import yaml
from pydantic import ValidationError

from qfundus.errors import SetupError
from qfundus.layout import checkout, network_recipes
from qfundus.recipes.network import NetworkRecipe
from qfundus.recipes.nightly import NightlyRecipe, load_nightly_recipe

RECIPES = sorted((checkout() / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_sound_and_named_like_its_file(file):
    recipe = load_nightly_recipe(file)
    assert recipe.name == file.stem
    assert NightlyRecipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("splits", "train"), 0.9, "add up to 1"),
        (("quantum",), {"ansatz": "all_to_all", "qubits": 40}, "lower `qubits`"),
        (("quantum",), {"ansatz": "zz_feature_map", "qubits": 1}, "two `qubits` or more"),
        (("quantum", "ansatz"), "chian", "'chain', 'ring'"),
        (("classical",), {"hidde": 3}, "hidde"),
        (("classical", "epochs"), 0, "greater than 0"),
    ],
)
def test_an_impossible_recipe_is_refused_with_the_remedy(path, value, message):
    data = load_nightly_recipe(RECIPES[0]).model_dump()
    part = data if len(path) == 1 else data[path[0]]
    part[path[-1]] = part[path[-1]] | value if isinstance(value, dict) else value
    with pytest.raises(ValidationError, match=message):
        NightlyRecipe.model_validate(data)


NETWORK = """
name: eyes
seed: 1
images: {side: 224, preparation: [disc]}
network: {}
augmentation: {}
training: {epochs: 5, patience: 5, batch: 16, learning_rate: 0.003, weight_decay: 0.01}
grading: {}
"""


@pytest.mark.parametrize(
    ("wrong", "put", "message"),
    [
        ("network: {}", "network: {backbne: x}", "Unknown setting classical.network.backbne. Did you mean backbone?"),
        ("side: 224", "side: 96", "network eyes must be trained on what is served"),
        ("grading: {}", "", "The setting classical.grading is missing"),
    ],
)
def test_a_network_for_the_classical_form_is_refused_where_it_is_wrong(wrong, put, message, tmp_path):
    def written(network):
        data = load_nightly_recipe(RECIPES[0]).model_dump()
        file = tmp_path / "other.yaml"
        file.write_text(yaml.safe_dump({**data, "classical": yaml.safe_load(network)}))
        return file

    assert isinstance(load_nightly_recipe(written(NETWORK)).classical, NetworkRecipe)
    with pytest.raises(SetupError, match=message):
        load_nightly_recipe(written(NETWORK.replace(wrong, put)))


def test_a_network_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    data = load_nightly_recipe(RECIPES[0]).model_dump()
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**data, "classical": "fundos"}))
    with pytest.raises(SetupError, match=r"No recipe named fundos .* Did you mean fundus\?"):
        load_nightly_recipe(tmp_path / "other.yaml", network_recipes())
