"""The steps of the nightly retraining, from files to files: what a pipeline component calls, and nothing else."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qfundus.classical.recipe import NetworkRecipe
from qfundus.errors import SetupError
from qfundus.hybrid.gate import Verdict
from qfundus.recipe import Recipe
from qfundus.security.keys import SiteKey
from qfundus.settings import load_settings
from qfundus.storage import ObjectStore, digest

if TYPE_CHECKING:
    from qfundus.features.snapshot import Split
    from qfundus.hybrid.ensemble import Mixture
    from qfundus.hybrid.serving import Served

SUMMARY_FILE, PREDICTIONS_FILE = "summary.json", "predictions.parquet"
# What decides which photographs a network is trained on.
KEYS = ("eye_id", "study_id", "patient_id", "split", "grade", "instance_digest")
REPORT_FILE = "report.html"
FORMS = ("classical", "quantum", "hybrid")


def retraining_key(recipe: str, as_of: str, champion: str) -> str:
    """Name a retraining by everything that decides its outcome."""
    return digest(f"{recipe}\n{as_of}\n{champion}".encode())[:32]


def snapshot_dataset(recipe: str, as_of: str, dataset: str) -> dict[str, float]:
    """Write every graded eye with its features as of a moment as Parquet; return the eyes and patients per split."""
    from qfundus.features.snapshot import SPLITS, snapshot_dataset

    settings = load_settings()
    key = SiteKey.from_hex(settings.site_key.get_secret_value())
    splits = Recipe.from_json(recipe).splits
    table = snapshot_dataset(ObjectStore(settings), settings, key, splits, datetime.fromisoformat(as_of))
    _parent(dataset)
    table.to_parquet(dataset, index=False)
    return {
        f"{split}_{what}": float(count)
        for split in SPLITS
        for what, count in _sizes(table.query("split == @split")).items()
    }


def train_classical(recipe: str, dataset: str, model: str, figures: str) -> dict[str, float]:
    """Train the classical form on a snapshot; return its training figures.

    A head on the embedding is written as a file, networks on photographs as a folder.
    """
    from qfundus.classical.model import save_classical, train_classical
    from qfundus.classical.retrain import retrain
    from qfundus.features.snapshot import read_split

    plan = Recipe.from_json(recipe)
    if isinstance(plan.classical, NetworkRecipe):
        settings = load_settings()
        eyes = pd.read_parquet(dataset, columns=list(KEYS))
        return _write_figures(figures, retrain(plan.classical, eyes, Path(model), ObjectStore(settings), settings))
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    head, trained = train_classical(train, validation, plan.classical, plan.seed)
    _parent(model)
    save_classical(head, plan.classical, model)
    return _write_figures(figures, trained.to_metrics())


def train_quantum(recipe: str, dataset: str, model: str, figures: str) -> dict[str, float]:
    """Train the quantum head on a snapshot and write it; return its training figures and its circuit's."""
    from qfundus.features.snapshot import read_split
    from qfundus.quantum.model import describe_training, save_quantum, train_quantum

    plan = Recipe.from_json(recipe)
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    head, trained = train_quantum(train, validation, plan.quantum, plan.seed)
    _parent(model)
    save_quantum(head, plan.quantum, model)
    said = describe_training(head, plan.quantum, validation)
    return _write_figures(figures, {**trained.to_metrics(), **said})


def evaluate_ensemble(
    recipe: str, dataset: str, classical: str, quantum: str, grader: str, figures: str
) -> dict[str, float]:
    """Fit the mixture on the validation split, export the grader, and measure all three forms on the test split.

    What is measured is what will be served: the int8 form's own answers, where the recipe asks for it and the gate
    bears what it costs. Writes into the folder `grader`: the ONNX graphs, the circuit with its angles, the test split's
    predictions, a smoke test and `summary.json`.
    """
    from qfundus.hybrid.serving import Served

    plan, folder = Recipe.from_json(recipe), Path(grader)
    mixture, told, refer_below = _export_mixture(plan, dataset, classical, quantum, folder)
    served = Served()
    if plan.serving.form == "int8":
        told, served = _serve_int8(plan, dataset, folder, told)
    _write_smoke_test(folder, served)
    _write_predictions(folder, told)
    table = pd.read_parquet(dataset, columns=["split", "patient_id", "camera"])
    measured = _measure_forms(plan, told)
    summary = {
        "figures": measured,
        "mixture": mixture.to_dict(),
        "refer_below": refer_below,
        "served": asdict(served),
        "occlusion": _map_occlusion(plan, folder, told),
        "eyes": {**_sizes(table), "cameras": ", ".join(sorted(table["camera"].unique()))},
    }
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1, sort_keys=True))
    return _write_figures(figures, flatten_figures(measured) | mixture.to_dict())


@dataclass(frozen=True)
class Told:
    """What each form tells of the test split's eyes: probabilities `(eyes, 5)` by form."""

    eyes: "Split"
    by_form: dict[str, np.ndarray]

    def only(self, chosen: np.ndarray) -> "Told":
        """Return what is told of the eyes where `chosen` `(eyes,)` is true."""
        return Told(self.eyes.only(chosen), {form: told[chosen] for form, told in self.by_form.items()})


def _export_mixture(
    plan: Recipe, dataset: str, classical: str, quantum: str, folder: Path
) -> tuple["Mixture", Told, float]:
    """Mix both forms, write graphs and circuit, and tell the test split's grades.

    Returns as well the probability of the likeliest grade below which a person should look. An eye that photographs are
    needed of and whose photograph has been erased since the snapshot is left out.
    """
    from scipy.special import softmax

    from qfundus.classical.model import load_classical
    from qfundus.classical.retrain import predict
    from qfundus.features.embed import load_backbone
    from qfundus.features.snapshot import read_split
    from qfundus.hybrid.ensemble import fit_mixture
    from qfundus.hybrid.grader import GRADER_FILE, export_grader, export_network_grader
    from qfundus.hybrid.metrics import find_threshold
    from qfundus.quantum.kept import CIRCUIT_FILE, KeptCircuit
    from qfundus.quantum.model import load_quantum
    from qfundus.training import predict_logits

    settings = load_settings()
    store = ObjectStore(settings)
    backbone, cold = load_backbone(store, settings), load_quantum(quantum)
    held, test = read_split(dataset, "validation"), read_split(dataset, "test")
    if Path(classical).is_file():
        warm = load_classical(classical)
        classical_held, classical_test = predict_logits(warm, held.embeddings), predict_logits(warm, test.embeddings)
        export = partial(export_grader, backbone, warm)
    else:
        classical_held, held, classical_test, test = predict(Path(classical), held, test, store, settings)
        export = partial(export_network_grader, backbone, Path(classical) / GRADER_FILE)
    quantum_held, quantum_test = predict_logits(cold, held.embeddings), predict_logits(cold, test.embeddings)
    mixture = fit_mixture(classical_held, quantum_held, held.grades)
    export(cold, mixture, folder)
    KeptCircuit.of(cold, plan.quantum, test.embeddings).save(folder / CIRCUIT_FILE)
    told = {
        "classical": softmax(classical_test / mixture.classical_temperature, axis=1),
        "quantum": softmax(quantum_test / mixture.quantum_temperature, axis=1),
        "hybrid": mixture.mix(classical_test, quantum_test),
    }
    refer_below = find_threshold(mixture.mix(classical_held, quantum_held), plan.serving.referred)
    return mixture, Told(test, told), refer_below


def _serve_int8(plan: Recipe, dataset: str, folder: Path, told: Told) -> tuple[Told, "Served"]:
    """Choose the form that is served; return what it tells, of the eyes whose photographs are still there."""
    from qfundus.classical.retrain import grade_photographs
    from qfundus.features.photographs import read_discs
    from qfundus.hybrid.gate import judge_form
    from qfundus.hybrid.grader import OUTPUTS
    from qfundus.hybrid.serving import choose_form, quantise_grader
    from qfundus.onnx_quantise import spread

    settings = load_settings()
    store = ObjectStore(settings)
    trained = pd.read_parquet(dataset, columns=["instance_digest"], filters=[("split", "==", "train")])
    read = read_discs(store, settings, spread(list(trained["instance_digest"])))
    discs = [disc for disc in read if disc is not None]
    if not discs:
        raise SetupError("The photographs of the training split are gone: start the retraining again.")
    (hybrid, classical, quantum), there = grade_photographs(
        quantise_grader(folder, np.stack(discs)), told.eyes, store, settings, OUTPUTS
    )
    told = told.only(there)
    loss = judge_form(
        hybrid,
        told.by_form["hybrid"],
        told.eyes.grades,
        told.eyes.patients,
        plan.serving.most_lost,
        plan.evaluation,
        plan.seed,
    )
    served = choose_form(folder, loss, discs[0][None])
    if served.form == "int8":
        told = Told(told.eyes, {"classical": classical, "quantum": quantum, "hybrid": hybrid})
    return told, served


def _measure_forms(plan: Recipe, told: Told) -> dict[str, dict[str, dict[str, float]]]:
    from qfundus.hybrid.metrics import evaluate

    return {
        form: {
            name: estimate.to_dict()
            for name, estimate in evaluate(
                told.by_form[form], told.eyes.grades, told.eyes.patients, plan.evaluation, plan.seed
            ).items()
        }
        for form in FORMS
    }


def _map_occlusion(plan: Recipe, folder: Path, told: Told) -> dict[str, dict[str, object]]:
    """Show where on the disc the grades of the surest eyes come from."""
    from qfundus.features.photographs import read_discs
    from qfundus.hybrid.grader import GRADER_FILE
    from qfundus.hybrid.occlusion import choose_eyes, map_occlusion

    settings, hybrid = load_settings(), told.by_form["hybrid"]
    chosen = choose_eyes(hybrid, plan.evaluation.explained)
    shown = told.eyes.rows.iloc[chosen]
    return map_occlusion(
        folder / GRADER_FILE,
        read_discs(ObjectStore(settings), settings, shown["instance_digest"]),
        hybrid[chosen].argmax(axis=1),
        shown["eye_id"].str.endswith("-L"),
    )


def judge_candidate(recipe: str, grader: str, champion: str, dataset: str, report: str) -> str:
    """Judge the candidate against the champion on the test split, write the report; return the verdict as JSON."""
    from qfundus.features.snapshot import read_split
    from qfundus.hybrid.gate import judge
    from qfundus.hybrid.report import write_report

    plan, test = Recipe.from_json(recipe), read_split(dataset, "test")
    predictions = pd.read_parquet(Path(grader) / PREDICTIONS_FILE)
    # What has been erased since the snapshot, the candidate may not have been measured on.
    test = test.only(_name_eyes(test.rows).isin(_name_eyes(predictions)).to_numpy())
    defended = _ask_champion(champion, test) if champion else None
    verdict = judge(
        _probabilities(predictions, "hybrid"),
        defended,
        test.grades,
        test.patients,
        plan.gate,
        plan.evaluation,
        plan.seed,
        champion or None,
    )
    summary = json.loads((Path(grader) / SUMMARY_FILE).read_text())
    _parent(report)
    write_report(Path(report), plan, summary, predictions, verdict)
    return verdict.to_json()


def _name_eyes(rows: pd.DataFrame) -> pd.Series:
    return rows["eye_id"] + " " + rows["study_id"]


def _ask_champion(champion: str, test: "Split") -> np.ndarray:
    """Return the champion's probabilities `(eyes, 5)`, from embeddings or, where a network is in it, photographs."""
    import tempfile

    from qfundus.classical.retrain import grade_photographs
    from qfundus.hybrid.grader import GRADER_FILE, HEAD_FILE, run_head
    from qfundus.registry.versions import download_file, has_file

    settings = load_settings()
    with tempfile.TemporaryDirectory() as folder:
        if has_file(settings, champion, HEAD_FILE):
            head = download_file(settings, champion, HEAD_FILE, Path(folder))
            return run_head(head, test.embeddings).probabilities
        graph = download_file(settings, champion, GRADER_FILE, Path(folder))
        (told,), there = grade_photographs(graph, test, ObjectStore(settings), settings)
    if not there.all():
        raise SetupError(f"{(~there).sum()} photographs of the test split are gone: start the retraining again.")
    return told


def register_candidate(
    recipe: str,
    as_of: str,
    champion: str,
    verdict: str,
    grader: str,
    report: str,
    trained: dict[str, dict[str, float]],
) -> str:
    """Record the retraining in MLflow and register the grader where the gate passed it; return its version or ''."""
    import shutil
    import tempfile

    from qfundus.registry.versions import record_retraining

    plan = Recipe.from_json(recipe)
    summary = json.loads((Path(grader) / SUMMARY_FILE).read_text())
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / REPORT_FILE
        shutil.copy(report, named)
        recorded = record_retraining(
            load_settings(),
            key=retraining_key(recipe, as_of, champion),
            folder=Path(grader),
            report=named,
            verdict=Verdict.from_json(verdict),
            parameters={
                **flatten_recipe(plan),
                "as_of": as_of,
                "champion": champion or "none",
                "served": summary["served"]["form"],
            },
            metrics={
                **_flatten_training(trained),
                **flatten_figures(summary["figures"]),
                **summary["mixture"],
            },
        )
    return recorded.version


def flatten_figures(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Name each figure by form, metric and end: `hybrid_accuracy_low`; the value itself has no ending."""
    return {
        f"{form}_{metric}{'' if part == 'value' else '_' + part}": value
        for form, metrics in figures.items()
        for metric, estimate in metrics.items()
        for part, value in estimate.items()
        if not math.isnan(value)  # undefined on so few eyes
    }


def _flatten_training(trained: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{form}_{name}": float(value) for form, figures in trained.items() for name, value in figures.items()}


def flatten_recipe(recipe: Recipe) -> dict[str, str]:
    """Name each setting of a recipe by its path: `quantum.qubits`."""
    return dict(_flatten("", recipe.model_dump()))


def _flatten(prefix: str, said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in said.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(value)


def _write_figures(path: str, figures: dict[str, float]) -> dict[str, float]:
    # A cache takes an artifact without a file for a lost one, and would run the step again.
    _parent(path)
    Path(path).write_text(json.dumps(figures, indent=1, sort_keys=True))
    return figures


def _write_smoke_test(folder: Path, served: "Served") -> None:
    """Keep a few images and the graph's own answers, for Triton to repeat before it serves."""
    from qfundus.hybrid.grader import GRADER_FILE, OUTPUTS, SMOKE_FILE
    from qfundus.imaging.normalise import SIDE
    from qfundus.onnx_export import open_session

    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    answers = open_session(folder / GRADER_FILE).run(list(OUTPUTS), {"image": images})
    np.savez_compressed(folder / SMOKE_FILE, images=images, probabilities=np.asarray(answers[0]), form=served.form)


def _write_predictions(folder: Path, told: Told) -> None:
    columns = {f"{form}_{grade}": told.by_form[form][:, grade] for form in FORMS for grade in range(5)}
    told.eyes.rows.drop(columns="instance_digest").assign(**columns).to_parquet(folder / PREDICTIONS_FILE, index=False)


def _probabilities(predictions: pd.DataFrame, form: str) -> np.ndarray:
    return predictions[[f"{form}_{grade}" for grade in range(5)]].to_numpy()


def _sizes(table: pd.DataFrame) -> dict[str, int]:
    return {"eyes": len(table), "patients": int(table["patient_id"].nunique())}


def _parent(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
