"""Record the retraining in MLflow, and register the grader if the gate passed it."""

import shutil
import tempfile
from pathlib import Path

from qfundus.evaluation.gate import Verdict
from qfundus.hybrid.grader_files import REPORT_FILE, SUMMARY_FILE, read_summary
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.registry.naming import flatten_figures, flatten_recipe, flatten_training, retraining_key
from qfundus.registry.versions import record_retraining
from qfundus.settings import load_settings


def register_candidate(
    recipe: str,
    as_of: str,
    champion: str,
    verdict: str,
    grader: str,
    report: str,
    trained: dict[str, dict[str, float]],
) -> str:
    """Record the retraining once; return the grader's version, '' if the gate refused it."""
    nightly = NightlyRecipe.from_json(recipe)
    summary = read_summary(Path(grader) / SUMMARY_FILE)
    with tempfile.TemporaryDirectory() as folder:
        named_report = Path(shutil.copy(report, Path(folder) / REPORT_FILE))
        recorded = record_retraining(
            load_settings(),
            key=retraining_key(recipe, as_of, champion),
            folder=Path(grader),
            report=named_report,
            verdict=Verdict.from_json(verdict),
            parameters={
                **flatten_recipe(nightly),
                "as_of": as_of,
                "champion": champion or "none",
                "served": summary.served.form,
            },
            metrics={**flatten_training(trained), **flatten_figures(summary.figures), **summary.mixture},
        )
    return recorded.version
