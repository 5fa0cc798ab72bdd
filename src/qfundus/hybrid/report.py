"""The report of a retraining: one HTML file with its figures inside, for the person who approves."""

import base64
import io
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from qfundus.evaluation.gate import Verdict
from qfundus.evaluation.metrics import (
    Estimate,
    accuracy_by_coverage,
    interval,
    patient_resamples,
    quadratic_weighted_kappa,
    referable_score,
    roc_curve,
)
from qfundus.evaluation.predictions import FORMS, Predictions
from qfundus.grades import REFERABLE
from qfundus.hybrid.grader_files import Summary
from qfundus.recipes.nightly import NightlyRecipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"classical": "#1f77b4", "quantum": "#9467bd", "hybrid": "#2ca02c"}
NAMES = {
    "quadratic_weighted_kappa": "Quadratic weighted kappa",
    "accuracy": "Accuracy",
    "auc_one_vs_rest": "AUC, one grade against the rest",
    "auc_referable": "AUC, referable retinopathy",
    "sensitivity_referable": "Sensitivity, referable, at fixed specificity",
    "calibration_error": "Calibration error (lower is better)",
}
_SMALLEST_GROUP = 10


def write_report(
    path: Path, recipe: NightlyRecipe, summary: Summary, predictions: Predictions, verdict: Verdict
) -> None:
    """Write the report from the test split's predictions."""
    by_form, hybrid, grades = predictions.by_form, predictions.hybrid, predictions.grades
    weights = patient_resamples(predictions.patients, recipe.evaluation.resamples, recipe.seed)
    plots = {
        "Metrics of each form on the test eyes": _draw_forms(summary.figures),
        "Hybrid: predicted grades against human grades": _draw_confusion(hybrid, grades),
        "Referable retinopathy: ROC": _draw_roc(by_form, grades, weights, recipe.evaluation.confidence),
        "Hybrid: calibration": _draw_calibration(hybrid, grades),
        "Accuracy when the least certain eyes are referred": draw_coverage(by_form, grades),
        "Hybrid: where on the disc grades come from": draw_occlusion(summary.occlusion),
        "The circuit": _draw_circuit(recipe),
    }
    environment = Environment(loader=PackageLoader("qfundus.hybrid"), autoescape=select_autoescape())
    page = environment.get_template("report.html").render(
        recipe=recipe,
        verdict=verdict,
        eyes=summary.eyes,
        phantom="PHANTOM" in str(summary.eyes["cameras"]),
        mixture=summary.mixture,
        served=summary.served,
        referral=_describe_referral(hybrid, grades, summary.refer_below),
        names=NAMES,
        figures={
            form: {name: str(Estimate(**value)) for name, value in summary.figures[form].items()} for form in FORMS
        },
        subgroups=_measure_subgroups(predictions, weights, recipe),
        plots={title: _to_png(figure) for title, figure in plots.items()},
        tested=len(grades),
    )
    path.write_text(page)


def _describe_referral(probabilities: np.ndarray, grades: np.ndarray, refer_below: float) -> str:
    confident = probabilities.max(axis=1) >= refer_below
    correct = (probabilities.argmax(axis=1) == grades)[confident]
    accuracy = f"; its accuracy on the others is {correct.mean():.3f}" if confident.any() else ""
    return (
        f"The grader refers an eye to a person if the most probable grade's probability is below {refer_below:.2f}: "
        f"{1 - confident.mean():.0%} of the eyes measured here{accuracy}."
    )


def _measure_subgroups(predictions: Predictions, weights: np.ndarray, recipe: NightlyRecipe) -> list[dict[str, object]]:
    eyes, probabilities, grades = predictions.eyes, predictions.hybrid, predictions.grades
    groups = {
        "right eyes": eyes["eye_id"].str.endswith("-R"),
        "left eyes": eyes["eye_id"].str.endswith("-L"),
        "women": eyes["sex"] == "F",
        "men": eyes["sex"] == "M",
        "under 60 years": eyes["age_years"].between(0, 59),
        "60 years and over": eyes["age_years"] >= 60,
    }
    rows: list[dict[str, object]] = []
    for name, chosen in groups.items():
        inside = chosen.to_numpy(bool)
        if inside.sum() < _SMALLEST_GROUP:
            rows.append({"name": name, "eyes": int(inside.sum()), "kappa": "too few eyes"})
            continue
        whole = quadratic_weighted_kappa(probabilities[inside], grades[inside], np.ones((1, int(inside.sum()))))[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled = quadratic_weighted_kappa(probabilities[inside], grades[inside], weights[:, inside])
        low, high = interval(resampled, recipe.evaluation.confidence)
        rows.append({"name": name, "eyes": int(inside.sum()), "kappa": str(Estimate(float(whole), low, high))})
    return rows


def _draw_forms(figures: dict[str, dict[str, dict[str, float]]]) -> "Figure":
    figure, axes = _canvas(7, 3.6)
    for position, (form, colour) in enumerate(COLOURS.items()):
        for row, metric in enumerate(NAMES):
            estimate = figures[form][metric]
            height = row + (position - 1) * 0.22
            axes.plot([estimate["low"], estimate["high"]], [height, height], color=colour, linewidth=2)
            axes.plot(estimate["value"], height, "o", color=colour, label=form if row == 0 else None)
    axes.set_yticks(range(len(NAMES)), list(NAMES.values()), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("figure with its confidence interval")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _draw_confusion(probabilities: np.ndarray, grades: np.ndarray) -> "Figure":
    figure, axes = _canvas(4.2, 3.8)
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (grades, probabilities.argmax(axis=1)), 1)
    axes.imshow(counts / counts.sum(axis=1, keepdims=True).clip(min=1), cmap="Greens", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9)
    axes.set_xlabel("predicted grade")
    axes.set_ylabel("human grade")
    return figure


def _draw_roc(by_form: dict[str, np.ndarray], grades: np.ndarray, weights: np.ndarray, confidence: float) -> "Figure":
    figure, axes = _canvas(4.4, 3.8)
    grid = np.linspace(0, 1, 101)
    for form, colour in COLOURS.items():
        scores, positive = referable_score(by_form[form]), grades >= REFERABLE
        sensitivity, false_alarms = roc_curve(scores, positive, np.ones((1, len(grades))))
        axes.step(false_alarms[0], sensitivity[0], where="post", color=colour, label=form)
        if form == "hybrid":
            curves = zip(*roc_curve(scores, positive, weights[:300]), strict=True)
            band = np.array([np.interp(grid, alarms, hits) for hits, alarms in curves])
            tail = (1 - confidence) / 2
            axes.fill_between(grid, *np.nanquantile(band, (tail, 1 - tail), axis=0), color=colour, alpha=0.15)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(fontsize=8)
    return figure


def _draw_calibration(probabilities: np.ndarray, grades: np.ndarray) -> "Figure":
    figure, axes = _canvas(4.2, 3.8)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == grades
    edges = np.linspace(0, 1, 11)
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            size = 20 + 200 * inside.mean()
            axes.scatter(confidence[inside].mean(), correct[inside].mean(), s=size, color=COLOURS["hybrid"], alpha=0.7)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share of correct grades")
    return figure


def draw_coverage(by_form: dict[str, np.ndarray], grades: np.ndarray) -> "Figure":
    """Draw the accuracy on the eyes that are not referred to a person against their share, for each form."""
    figure, axes = _canvas(4.2, 3.8)
    for form, probabilities in by_form.items():
        share, accuracy = accuracy_by_coverage(probabilities, grades)
        enough = share * len(grades) >= _SMALLEST_GROUP  # on fewer it jumps
        axes.plot(share[enough], accuracy[enough], color=COLOURS.get(form), label=form)
    axes.set_xlabel("share of eyes graded, most certain first")
    axes.set_ylabel("accuracy on them")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def draw_occlusion(by_grade: dict[str, dict[str, Any]]) -> "Figure":
    """Draw for each grade by how much its probability drops when a part of the disc is covered, in red."""
    figure, axes = _canvas(8.2, 2.2)
    axes.remove()
    highest = max((np.abs(shown["fall"]).max() for shown in by_grade.values()), default=0) or 1
    for grade in range(5):
        panel = figure.add_subplot(1, 5, grade + 1)
        shown = by_grade.get(str(grade))
        if shown is None:
            panel.set_title(f"grade {grade}: not predicted", fontsize=8)
        else:
            panel.set_title(f"grade {grade} ({shown['eyes']} eye{'s' if shown['eyes'] > 1 else ''})", fontsize=8)
            panel.imshow(shown["fall"], cmap="RdBu_r", vmin=-highest, vmax=highest, extent=(-1, 1, -1, 1))
        panel.add_patch(_circle())
        panel.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal")
    figure.supxlabel(
        f"drop in the grade's probability when a part is covered, up to {highest:.2f}; left eyes are mirrored",
        fontsize=8,
    )
    return figure


def _circle() -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), 1, fill=False, color="black", linewidth=1)


def _draw_circuit(recipe: NightlyRecipe) -> "Figure":
    from qfundus.quantum.ansatz import build_ansatz

    circuit = build_ansatz(recipe.quantum.ansatz, recipe.quantum.qubits, 1)
    return circuit.draw("mpl", fold=60, scale=0.6)  # pyright: ignore[reportReturnType]


def _canvas(width: float, height: float) -> tuple["Figure", Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def _to_png(figure: "Figure") -> str:
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()
