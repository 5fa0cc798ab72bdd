"""The nightly retraining as a graph: snapshot, train both heads side by side, evaluate, judge, register."""

from kfp import dsl, kubernetes

from components.evaluate_ensemble import evaluate_ensemble
from components.judge_candidate import judge_candidate
from components.register_candidate import register_candidate
from components.snapshot_dataset import snapshot_dataset
from components.train_classical import train_classical
from components.train_quantum import train_quantum

# On a cluster each step reads its settings from this secret; in processes they stand in the environment.
SECRET = "qfundus-settings"  # noqa: S105  (its name, not its content)
SETTINGS = [
    *("QFUNDUS_SITE_KEY", "QFUNDUS_S3_ENDPOINT", "QFUNDUS_S3_ACCESS_KEY", "QFUNDUS_S3_SECRET_KEY"),
    *("QFUNDUS_MLFLOW_URI", "QFUNDUS_AIRFLOW_URL", "QFUNDUS_AIRFLOW_PASSWORD"),
    *("QFUNDUS_TRITON_HTTP", "QFUNDUS_TRITON_GRPC", "QFUNDUS_TRITON_REPOSITORY"),
]
# How networks are trained may be set in this config map: in the step, or by Kubeflow Trainer.
TRAINING = "qfundus-training"
TRAINING_SETTINGS = [
    f"QFUNDUS_TRAINING_{name}"
    for name in (
        *("LAUNCHER", "PROCESSES", "AT_ONCE"),
        *("KUBECONFIG", "NAMESPACE", "RUNTIME", "IMAGE", "SECRET", "CPUS", "GPUS", "MEMORY"),
    )
]


@dsl.pipeline(name="retraining", description=__doc__, display_name="Nightly retraining")
def retraining(recipe: str, as_of: str, champion: str = "") -> str:
    """Retrain the grader; return the verdict of the gate as JSON.

    The three parameters decide the outcome, so they are the cache's key: the champion is named because the verdict
    depends on it.

    Args:
        recipe: What to train, as JSON.
        as_of: The moment at which to snapshot what is known, in ISO 8601.
        champion: The version in service, empty where there is none.
    """
    snapshot = snapshot_dataset(recipe=recipe, as_of=as_of)
    snapshot.set_display_name("Snapshot the training set")
    dataset = snapshot.outputs["dataset"]

    classical = train_classical(recipe=recipe, dataset=dataset)
    classical.set_display_name("Train the classical form").set_cpu_limit("4").set_memory_limit("8G")
    quantum = train_quantum(recipe=recipe, dataset=dataset)
    quantum.set_display_name("Train the quantum circuit").set_cpu_limit("4").set_memory_limit("8G")

    evaluated = evaluate_ensemble(
        recipe=recipe,
        dataset=dataset,
        classical=classical.outputs["model"],
        quantum=quantum.outputs["model"],
    )
    evaluated.set_display_name("Evaluate the ensemble")
    grader = evaluated.outputs["grader"]

    judged = judge_candidate(recipe=recipe, champion=champion, dataset=dataset, grader=grader)
    judged.set_display_name("Judge the candidate")
    verdict = judged.outputs["Output"]

    registered = register_candidate(
        recipe=recipe,
        as_of=as_of,
        champion=champion,
        verdict=verdict,
        grader=grader,
        report=judged.outputs["report"],
        classical_figures=classical.outputs["figures"],
        quantum_figures=quantum.outputs["figures"],
    )
    registered.set_display_name("Register the candidate")
    for step in (snapshot, classical, quantum, evaluated, judged, registered):
        kubernetes.use_secret_as_env(step, SECRET, {name: name for name in SETTINGS})
    kubernetes.use_config_map_as_env(classical, TRAINING, {name: name for name in TRAINING_SETTINGS}, optional=True)
    return verdict
