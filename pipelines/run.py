"""Run a pipeline: here as processes, or on a Kubeflow endpoint, by the one setting `QFUNDUS_KFP_ENDPOINT`."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from kfp import local

from pipelines.compile import compiled_file
from pipelines.retraining import retraining
from qfundus.settings import load_settings, state_folder

POLL_SECONDS = 10


def run_retraining(recipe: str, as_of: str, champion: str, *, cache: bool = True) -> None:
    """Run the retraining graph to its end.

    Raises:
        RuntimeError: where a step failed; its log is on standard output.
    """
    endpoint = _endpoint()
    arguments = {"recipe": recipe, "as_of": as_of, "champion": champion}
    if endpoint:
        _run_on_kubeflow(endpoint, arguments, cache=cache)
    else:
        _run_here(arguments, cache=cache)


def _endpoint() -> str | None:
    return load_settings().kfp_endpoint


def _run_here(arguments: dict[str, str], *, cache: bool) -> None:
    root = state_folder() / "kfp"
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root),
        workspace_root=str(root / "workspace"),
        enable_caching=cache,
        cache_root=str(root / "cache"),
    )
    with tempfile.TemporaryDirectory(prefix="qfundus-") as scratch:
        os.environ["TMPDIR"] = scratch  # each step leaves its program there
        retraining(**arguments)


def _run_on_kubeflow(endpoint: str, arguments: dict[str, str], *, cache: bool) -> None:
    from kfp import Client

    client = Client(host=endpoint)
    run = client.create_run_from_pipeline_package(
        str(compiled_file("retraining")),
        arguments=arguments,
        run_name=f"retraining {arguments['as_of']}",
        experiment_name="qfundus",
        enable_caching=cache,
    )
    print(f"KFP run: {endpoint}/#/runs/details/{run.run_id}", flush=True)  # noqa: T201
    ended = client.wait_for_run_completion(run.run_id, timeout=6 * 3600, sleep_duration=POLL_SECONDS)
    if str(ended.state).upper() != "SUCCEEDED":
        raise RuntimeError(f"The KFP run {run.run_id} ended as {ended.state}: look at its failed step in Kubeflow.")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.run", description=__doc__)
    parser.add_argument("--recipe", required=True, type=Path, help="the recipe as a JSON file")
    parser.add_argument("--as-of", required=True, help="the moment to snapshot at, in ISO 8601")
    parser.add_argument("--champion", default="", help="the version in service")
    parser.add_argument("--no-cache", action="store_true", help="run every step again")
    asked = parser.parse_args()
    run_retraining(asked.recipe.read_text(), asked.as_of, asked.champion, cache=not asked.no_cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
