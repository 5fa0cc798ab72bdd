"""MLflow, imported without Feast."""

import os
from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def import_mlflow() -> ModuleType:
    """Import MLflow, its telemetry and progress bars off unless the environment asks for them.

    Feast registers a provider of request headers with MLflow, for servers of its own. Each process that speaks to
    MLflow would load all of Feast for it, which takes three times as long as MLflow itself: it is left out.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would stand among our own lines
    import mlflow
    from mlflow.utils import plugins

    all_entry_points = plugins.get_entry_points
    plugins.get_entry_points = lambda group: [
        entry for entry in all_entry_points(group) if not entry.value.startswith("feast.")
    ]
    try:
        import_module("mlflow.tracking.request_header.registry")  # it asks for the providers when it is imported
    finally:
        plugins.get_entry_points = all_entry_points
    return mlflow
