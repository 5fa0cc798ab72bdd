import pytest
from pydantic import ValidationError

from qfundus.layout import checkout
from qfundus.recipe import Recipe, load_recipe

RECIPES = sorted((checkout() / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_sound_and_named_like_its_file(file):
    recipe = load_recipe(file)
    assert recipe.name == file.stem
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("splits", "train"), 0.9, "add up to 1"),
        (("quantum",), {"ansatz": "all_to_all", "qubits": 40}, "lower `qubits`"),
        (("quantum", "ansatz"), "chian", "'chain', 'ring'"),
        (("classical", "epochs"), 0, "greater than 0"),
    ],
)
def test_an_impossible_recipe_is_refused_with_the_remedy(path, value, said):
    data = load_recipe(RECIPES[0]).model_dump()
    part = data if len(path) == 1 else data[path[0]]
    part[path[-1]] = part[path[-1]] | value if isinstance(value, dict) else value
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(data)
