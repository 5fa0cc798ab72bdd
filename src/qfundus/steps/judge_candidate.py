"""Judge the candidate against the champion on the test split, and write the report."""

from pathlib import Path

import pandas as pd

from qfundus.evaluation.gate import judge
from qfundus.evaluation.predictions import read_predictions
from qfundus.features.snapshot import read_split
from qfundus.hybrid.grader_files import PREDICTIONS_FILE, SUMMARY_FILE, read_summary
from qfundus.hybrid.report import write_report
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.registry.champion import grade_by_version
from qfundus.site import open_site


def judge_candidate(recipe: str, grader: str, champion: str, dataset: str, report: str) -> str:
    """Write the report; return the verdict as JSON."""
    nightly, folder = NightlyRecipe.from_json(recipe), Path(grader)
    predictions, test = read_predictions(folder / PREDICTIONS_FILE), read_split(dataset, "test")
    # The candidate was not measured on eyes that were erased since the snapshot.
    test = test.only(_name_eyes(test.rows).isin(_name_eyes(predictions.eyes)).to_numpy())
    verdict = judge(
        predictions.hybrid,
        grade_by_version(open_site(), champion, test) if champion else None,
        predictions.grades,
        predictions.patients,
        nightly.gate,
        nightly.evaluation,
        nightly.seed,
        champion or None,
    )
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    write_report(Path(report), nightly, read_summary(folder / SUMMARY_FILE), predictions, verdict)
    return verdict.to_json()


def _name_eyes(rows: pd.DataFrame) -> pd.Series:
    return rows["eye_id"] + " " + rows["study_id"]
