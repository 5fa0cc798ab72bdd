"""What Airflow reads when it starts: its scheduler imports the steps, and the tasks that it forks find them there.

Each task would import them anew for two to four seconds, which is longer than most take.
"""

import sys
from importlib import import_module

__all__: list[str] = []  # Airflow would take any name here for a setting of its own

_STEPS = (
    *("plant_patients", "deidentify_landed", "extract_features", "push_features", "close_run", "search_planted"),
    *("plan_retraining", "conclude_retraining", "describe_candidate", "promote_candidate"),
)

if "scheduler" in sys.argv:
    for _step in _STEPS:
        import_module(f"qfundus.steps.{_step}")
    import_module("qfundus.mlflow_import").import_mlflow()
    import_module("qfundus.features.feast_import").import_feast()
