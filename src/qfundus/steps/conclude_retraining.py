"""Summarise a retraining, and note that its eyes are no longer new."""

from qfundus.errors import SetupError
from qfundus.object_names import last_trained_name
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.registry.naming import retraining_key
from qfundus.registry.versions import find_retraining
from qfundus.settings import load_settings
from qfundus.storage import ObjectStore, to_json


def conclude_retraining(plan: dict[str, str]) -> dict[str, str]:
    """Return the version, '' if the gate refused it, the MLflow run, and a note.

    Raises:
        SetupError: if MLflow has no record of the retraining.
    """
    settings = load_settings()
    recorded = find_retraining(settings, retraining_key(plan["recipe"], plan["as_of"], plan["champion"]))
    if recorded is None:
        raise SetupError("MLflow has no record of this retraining: clear the task before this one.")
    name = NightlyRecipe.from_json(plan["recipe"]).name
    last_trained = {"as_of": plan["as_of"], "run_id": recorded.run_id}
    ObjectStore(settings).put(settings.models_bucket, last_trained_name(name), to_json(last_trained))
    registered = f"Registered as version {recorded.version}." if recorded.version else "Not registered."
    eyes = f"{recorded.eyes['eyes']} eyes of {recorded.eyes['patients']} patients."
    note = f"{eyes} {recorded.verdict.reason} {registered}"
    return {"version": recorded.version, "run_id": recorded.run_id, "note": note}
