"""Keep a grader in MLflow, with all that `qfundus evaluate` needs to use it from there."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from qfundus.classical.description import describe_training
from qfundus.classical.evaluate import Measured
from qfundus.classical.grader import open_grader
from qfundus.classical.job import TrainingJob
from qfundus.classical.trackers import EXPERIMENT, find_run
from qfundus.mlflow_import import import_mlflow
from qfundus.onnx_graphs.run import GRADER_FILE

_KEPT = "mlflow_model"


def publish_grader(track: str, folder: Path, name: str, measured: Measured, jobs: Sequence[TrainingJob]) -> str:
    """Log a grader with its signature, an example and its figures, once; return its address.

    Its run says what its networks' `jobs` were, and which runs are theirs.
    """
    kept = folder / _KEPT
    if kept.exists():
        return kept.read_text()
    mlflow = import_mlflow()
    import onnx
    from mlflow import onnx as mlflow_onnx
    from mlflow.models import infer_signature

    grader = open_grader(str(folder))
    side = grader.card.images.side
    example = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    mlflow.set_tracking_uri(track)
    mlflow.set_experiment(EXPERIMENT)
    parameters, texts = describe_training(jobs[0], grader.card.photographs)
    runs = ",".join(filter(None, (find_run(job.results, track) for job in jobs)))
    with mlflow.start_run(run_name=name, tags={"networks": runs}) as run:
        mlflow.log_params({key: value for key, value in parameters.items() if key != "fold"})
        for file, text in texts.items():
            mlflow.log_text(text, file)
        mlflow.log_dict(asdict(grader.card), "grader.json")
        mlflow.log_metrics({key: value for key, value in measured.to_dict().items() if isinstance(value, float)})
        mlflow_onnx.log_model(
            onnx.load(folder / GRADER_FILE),
            name="grader",
            signature=infer_signature({"image": example}, {"probabilities": grader.grade(example)}),
            input_example={"image": example},
            metadata={"card": json.dumps(asdict(grader.card))},
            pip_requirements=["onnxruntime", "numpy"],
        )
    address = f"runs:/{run.info.run_id}/grader"
    kept.write_text(address)
    return address
