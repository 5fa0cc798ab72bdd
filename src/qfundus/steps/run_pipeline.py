"""Run the retraining graph, here or on a Kubeflow endpoint."""

import subprocess
import sys
import tempfile

from qfundus.errors import Retry
from qfundus.layout import checkout


def run_pipeline(plan: dict[str, str], *, cache: bool = True) -> None:
    """Run the graph in a process of its own: Airflow's process does not import KFP.

    Raises:
        Retry: if a step failed; its log is above.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as recipe:
        recipe.write(plan["recipe"])
        recipe.flush()
        command = [sys.executable, "-m", "pipelines.run", "--recipe", recipe.name, "--as-of", plan["as_of"]]
        command += ["--champion", plan["champion"]] + ([] if cache else ["--no-cache"])
        done = subprocess.run(command, cwd=checkout(), check=False)
    if done.returncode:
        raise Retry("A step of the retraining pipeline failed: see its log above.")
