"""Look for eyes that are new since the last retraining."""

from qfundus.errors import SetupError
from qfundus.features.snapshot import latest_knowledge
from qfundus.layout import network_recipes, recipe_file
from qfundus.object_names import last_trained_name
from qfundus.planted.leaks import forget_planted
from qfundus.recipes.nightly import NightlyRecipe, load_nightly_recipe
from qfundus.registry.versions import champion_version
from qfundus.settings import Settings
from qfundus.site import open_site


def plan_retraining(recipe_name: str | None = None, *, force: bool = False) -> dict[str, str] | None:
    """Return what a retraining with a recipe, or the site's nightly one, would work on; None if no eye is new.

    Raises:
        SetupError: if no recipe has that name, or a retraining is forced before any eye was ingested.
    """
    site = open_site()
    recipe_name = recipe_name or site.settings.nightly_recipe
    recipe = _load_recipe(recipe_name, site.settings)
    # A run of ingestion that failed before its search has left its invented patients behind.
    forget_planted(site)
    as_of = latest_knowledge(site)
    if as_of is None and force:
        raise SetupError("No eye has been ingested yet: run ingest_fundus first.")
    if as_of is None:  # a new platform's first night
        return None
    last = site.store.find_json(site.settings.models_bucket, last_trained_name(recipe_name))
    if not force and last is not None and last["as_of"] == as_of.isoformat():
        return None
    return {"recipe": recipe.to_json(), "as_of": as_of.isoformat(), "champion": champion_version(site.settings)}


def _load_recipe(name: str, settings: Settings) -> NightlyRecipe:
    file = recipe_file(name)
    if not file.exists():
        raise SetupError(f"No recipe named {name} in configs/recipes/: add {name}.yaml there, or choose another.")
    recipe = load_nightly_recipe(file, network_recipes())
    if recipe.serving.form == "int8" and settings.triton_accelerator != "cpu":
        raise SetupError(
            f"The recipe {name} serves int8, which is for the CPU, and QFUNDUS_TRITON_ACCELERATOR is "
            f"{settings.triton_accelerator}: set `serving.form` to float32, or the accelerator to cpu."
        )
    return recipe
