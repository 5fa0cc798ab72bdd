"""Describe a candidate for the person who approves it."""

from qfundus.errors import SetupError
from qfundus.evaluation.metrics import Estimate
from qfundus.evaluation.predictions import FORMS
from qfundus.registry.versions import CANDIDATE, champion_version, find_alias, read_version, run_page
from qfundus.settings import load_settings

_SHOWN = {
    "quadratic_weighted_kappa": "quadratic weighted kappa",
    "accuracy": "accuracy",
    "auc_referable": "AUC, referable",
    "sensitivity_referable": "sensitivity, referable",
    "calibration_error": "calibration error",
}


def describe_candidate(version: str = "") -> dict[str, str] | None:
    """Describe a version, or the newest candidate, in Markdown; None if it is in service already.

    Raises:
        SetupError: if the candidate does not exist.
    """
    settings = load_settings()
    candidate = version or find_alias(settings, CANDIDATE)
    if not candidate:
        raise SetupError("No candidate is registered: run retrain_nightly first.")
    if candidate == champion_version(settings):
        return None
    recorded = read_version(settings, candidate)
    rows = [f"| {name} | {_format_figures(recorded.figures, metric)} |" for metric, name in _SHOWN.items()]
    phantom = "**Phantom eyes: drawn by a program, no real eye.**\n\n" if "PHANTOM" in recorded.cameras else ""
    body = (
        f"{phantom}{recorded.verdict.reason}\n\n"
        f"{recorded.eyes['eyes']} graded eyes of {recorded.eyes['patients']} patients, recipe {recorded.recipe}, "
        f"as of {recorded.as_of}. [Run and report in MLflow]({run_page(settings, recorded.run_id)})"
        f"\n\n| figure | {' | '.join(FORMS)} |\n|---|---|---|---|\n" + "\n".join(rows)
    )
    return {"version": candidate, "body": body}


def _format_figures(figures: dict[str, dict[str, dict[str, float]]], metric: str) -> str:
    return " | ".join(str(Estimate(**figures[form][metric])) for form in FORMS)
