"""Mix both forms into a grader, export it, and measure what will be served on the test split."""

from pathlib import Path

import pandas as pd

from qfundus.evaluation.metrics import evaluate, find_threshold
from qfundus.evaluation.occlusion import choose_eyes, map_occlusion
from qfundus.evaluation.predictions import FORMS, Predictions
from qfundus.features.embed import load_backbone
from qfundus.features.photographs import read_discs
from qfundus.features.snapshot import count_eyes, read_split
from qfundus.heads.fit import predict_logits
from qfundus.heads.quantum import load_quantum_head, take_circuit
from qfundus.hybrid.classical_form import open_classical_form
from qfundus.hybrid.ensemble import Mixture, fit_mixture
from qfundus.hybrid.grader import write_smoke_test
from qfundus.hybrid.grader_files import CIRCUIT_FILE, PREDICTIONS_FILE, Figures, Summary
from qfundus.hybrid.serving import choose_served_form
from qfundus.onnx_graphs.run import GRADER_FILE
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.site import Site


def evaluate_grader(
    recipe: NightlyRecipe, dataset: Path, classical: Path, quantum: Path, folder: Path, site: Site
) -> Summary:
    """Fit the mixture on the validation split, export the grader, and measure all three forms on the test split.

    What is measured is what will be served. Writes into the folder the ONNX graphs, the circuit with its angles, the
    test split's predictions, a smoke test and the summary.
    """
    mixture, predictions, refer_below = _mix_and_export(recipe, dataset, classical, quantum, folder, site)
    trained_on = pd.read_parquet(dataset, columns=["instance_digest"], filters=[("split", "==", "train")])
    predictions, served = choose_served_form(recipe, folder, predictions, list(trained_on["instance_digest"]), site)
    write_smoke_test(folder, served.form)
    predictions.write(folder / PREDICTIONS_FILE)
    eyes = pd.read_parquet(dataset, columns=["patient_id", "camera"])
    summary = Summary(
        figures=measure_forms(recipe, predictions),
        mixture=mixture.to_dict(),
        refer_below=refer_below,
        served=served,
        occlusion=_map_occlusion(recipe, folder, predictions, site),
        eyes={**count_eyes(eyes), "cameras": ", ".join(sorted(eyes["camera"].unique()))},
    )
    summary.write(folder)
    return summary


def measure_forms(recipe: NightlyRecipe, predictions: Predictions) -> Figures:
    """Measure each form's predictions."""
    grades, patients = predictions.grades, predictions.patients
    measured = {
        form: evaluate(predictions.by_form[form], grades, patients, recipe.evaluation, recipe.seed) for form in FORMS
    }
    return {form: {name: its.to_dict() for name, its in figures.items()} for form, figures in measured.items()}


def _mix_and_export(
    recipe: NightlyRecipe, dataset: Path, classical: Path, quantum: Path, folder: Path, site: Site
) -> tuple[Mixture, Predictions, float]:
    """Return the mixture, the test split's predictions, and the probability below which an eye is referred."""
    form, quantum_head = open_classical_form(classical, site), load_quantum_head(quantum)
    classical_validation, validation = form.predict_validation(read_split(dataset, "validation"))
    classical_test, test = form.predict_test(read_split(dataset, "test"))
    quantum_validation = predict_logits(quantum_head, validation.embeddings)
    quantum_test = predict_logits(quantum_head, test.embeddings)
    mixture = fit_mixture(classical_validation, quantum_validation, validation.grades)
    folder.mkdir(parents=True, exist_ok=True)
    form.export(load_backbone(site), quantum_head, mixture, folder)
    take_circuit(quantum_head, recipe.quantum, test.embeddings).save(folder / CIRCUIT_FILE)
    refer_below = find_threshold(mixture.mix(classical_validation, quantum_validation), recipe.serving.referral_rate)
    return mixture, Predictions(test.rows, mixture.predict(classical_test, quantum_test)), refer_below


def _map_occlusion(
    recipe: NightlyRecipe, folder: Path, predictions: Predictions, site: Site
) -> dict[str, dict[str, object]]:
    """Show where on the disc the grades of the surest eyes come from."""
    chosen = choose_eyes(predictions.hybrid, recipe.evaluation.explained)
    eyes = predictions.eyes.iloc[chosen]
    return map_occlusion(
        folder / GRADER_FILE,
        read_discs(site, eyes["instance_digest"]),
        predictions.hybrid[chosen].argmax(axis=1),
        eyes["eye_id"].str.endswith("-L"),
    )
