"""The steps of a night's retraining around the pipeline: is there news, run it, what came of it."""

import subprocess
import sys
import tempfile

from qfundus.errors import Retry, SetupError
from qfundus.features.snapshot import latest_knowledge
from qfundus.layout import checkout, recipe_file
from qfundus.planted.verdict import forget_planted
from qfundus.recipe import Recipe, load_recipe
from qfundus.registry.versions import champion_version, find_retraining
from qfundus.security.keys import SiteKey
from qfundus.settings import load_settings
from qfundus.steps.retraining import retraining_key
from qfundus.storage import ObjectStore, to_json


def plan_retraining(recipe_name: str | None = None, *, force: bool = False) -> dict[str, str] | None:
    """Say what a retraining with a recipe, or the site's nightly one, would work on; None where no eye is new.

    Raises:
        SetupError: where there is no recipe of that name, or no eye yet to train on though it is forced.
    """
    settings = load_settings()
    recipe_name = recipe_name or settings.nightly_recipe
    file = recipe_file(recipe_name)
    if not file.exists():
        raise SetupError(f"There is no recipe {recipe_name}: put it into configs/recipes/.")
    recipe = load_recipe(file)
    if recipe.serving.form == "int8" and settings.triton_accelerator != "cpu":
        raise SetupError(
            f"The recipe {recipe_name} serves int8, which is for the CPU, and QFUNDUS_TRITON_ACCELERATOR is "
            f"{settings.triton_accelerator}: set `serving.form` to float32, or the accelerator to cpu."
        )
    store = ObjectStore(settings)
    # A run of ingestion that failed before its search has left its invented patients behind.
    forget_planted(store, settings, SiteKey.from_hex(settings.site_key.get_secret_value()))
    as_of = latest_knowledge(store, settings)
    if as_of is None and force:
        raise SetupError("No eye is known yet: run ingest_fundus first.")
    if as_of is None:  # a new platform's first night has nothing to do
        return None
    trained = store.find_json(settings.models_bucket, _last_trained(recipe_name))
    if not force and trained is not None and trained["as_of"] == as_of.isoformat():
        return None
    return {
        "recipe": recipe.to_json(),
        "as_of": as_of.isoformat(),
        "champion": champion_version(settings),
    }


def run_pipeline(plan: dict[str, str], *, cache: bool = True) -> None:
    """Run the retraining graph in a process of its own: Airflow's knows nothing of KFP.

    Raises:
        Retry: where a step failed; its log stands above.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as recipe:
        recipe.write(plan["recipe"])
        recipe.flush()
        command = [sys.executable, "-m", "pipelines.run", "--recipe", recipe.name, "--as-of", plan["as_of"]]
        command += ["--champion", plan["champion"]] + ([] if cache else ["--no-cache"])
        done = subprocess.run(command, cwd=checkout(), check=False)
    if done.returncode:
        raise Retry("A step of the retraining pipeline failed: its log stands above.")


def conclude_retraining(plan: dict[str, str]) -> dict[str, str]:
    """Say what a retraining came to, and note that its eyes are no longer new; the version is '' where refused.

    Raises:
        SetupError: where MLflow has no record of it.
    """
    settings = load_settings()
    recorded = find_retraining(settings, retraining_key(plan["recipe"], plan["as_of"], plan["champion"]))
    if recorded is None:
        raise SetupError("MLflow has no record of this retraining: clear the task before this one.")
    name = Recipe.from_json(plan["recipe"]).name
    ObjectStore(settings).put(
        settings.models_bucket,
        _last_trained(name),
        to_json({"as_of": plan["as_of"], "run_id": recorded.run_id}),
    )
    registered = f"Registered as version {recorded.version}." if recorded.version else "Not registered."
    note = (
        f"{recorded.eyes['eyes']} eyes of {recorded.eyes['patients']} patients. {recorded.verdict.reason} {registered}"
    )
    return {"version": recorded.version, "run_id": recorded.run_id, "note": note}


def _last_trained(recipe: str) -> str:
    return f"last_trained/{recipe}.json"
