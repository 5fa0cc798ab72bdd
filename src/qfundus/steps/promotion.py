"""The steps of promotion: what a DAG task calls, and nothing else."""

from dataclasses import asdict

from qfundus.errors import SetupError
from qfundus.settings import load_settings

_SHOWN = {
    "quadratic_weighted_kappa": "quadratic weighted kappa",
    "accuracy": "accuracy",
    "auc_referable": "AUC, referable",
    "sensitivity_referable": "sensitivity, referable",
    "calibration_error": "calibration error",
}


def describe_candidate(version: str = "") -> dict[str, str] | None:
    """Describe a version, or the newest candidate, in Markdown for the person who is to approve it.

    Returns None where it serves already.

    Raises:
        SetupError: where there is no candidate.
    """
    from qfundus.registry.versions import CANDIDATE, champion_version, find_alias, read_version, run_page

    settings = load_settings()
    asked = version or find_alias(settings, CANDIDATE)
    if not asked:
        raise SetupError("There is no candidate: run retrain_nightly first.")
    if asked == champion_version(settings):
        return None
    recorded = read_version(settings, asked)
    rows = [f"| {name} | {_figures(recorded.figures, metric)} |" for metric, name in _SHOWN.items()]
    phantom = "**Phantom eyes: drawn by a program, no real eye.**\n\n" if "PHANTOM" in recorded.cameras else ""
    body = (
        f"{phantom}{recorded.verdict.reason}\n\n"
        f"{recorded.eyes['eyes']} graded eyes of {recorded.eyes['patients']} patients, recipe {recorded.recipe}, "
        f"as of {recorded.as_of}. [Run and report in MLflow]({run_page(settings, recorded.run_id)})"
        "\n\n| figure | classical | quantum | hybrid |\n|---|---|---|---|\n" + "\n".join(rows)
    )
    return {"version": asked, "body": body}


def promote_candidate(version: str) -> dict[str, str]:
    """Serve a version after its smoke test, or roll back; return what it came to.

    Raises:
        SetupError: where it was rolled back.
    """
    from qfundus.registry.promote import promote_version

    promotion = promote_version(load_settings(), version)
    if not promotion.succeeded:
        raise SetupError(
            f"Version {version} does not serve; version {promotion.served or 'none'} does. {promotion.reason}"
        )
    return asdict(promotion)


def _figures(figures: dict[str, dict[str, dict[str, float]]], metric: str) -> str:
    from qfundus.hybrid.metrics import Estimate

    return " | ".join(str(Estimate(**figures[form][metric])) for form in ("classical", "quantum", "hybrid"))
