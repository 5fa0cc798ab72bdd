"""Run ONNX graphs on the CPU, and time them."""

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime

from qfundus.grades import GRADES

_TIMED_RUNS = 20
_BATCH = 64
GRADER_FILE = "model.onnx"  # by this name a graph of images lies in its grader's folder


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX graph on the CPU."""
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"]
    )


def grade_images(graph: Path, images: Iterable[np.ndarray], outputs: Sequence[str] = ("probabilities",)) -> np.ndarray:
    """Grade cropped discs `(224, 224, 3)` of uint8, a few at a time, by a graph of images.

    Returns probabilities `(outputs, images, 5)`.
    """
    session, remaining = open_session(graph), iter(images)
    probabilities: list[np.ndarray] = [np.empty((len(outputs), 0, GRADES), np.float32)]
    while batch := list(islice(remaining, _BATCH)):
        answers = session.run(list(outputs), {"image": np.stack(batch)})
        probabilities.append(np.stack([np.asarray(answer) for answer in answers]))
    return np.concatenate(probabilities, axis=1)


def grade_embeddings(graph: Path, embeddings: np.ndarray) -> np.ndarray:
    """Return the probabilities `(eyes, 5)` of stored embeddings `(eyes, 1280)`, by a head's graph."""
    answer = open_session(graph).run(["probabilities"], {"embedding": embeddings.astype(np.float32)})
    return np.asarray(answer[0])


def time_graphs(models: Sequence[Path], images: np.ndarray) -> list[float]:
    """Return the milliseconds that each ONNX graph takes for images: the least of twenty, as others only add to it.

    They are timed in turn: what else the machine does meets all of them.
    """
    sessions = [open_session(model) for model in models]
    times = np.empty((_TIMED_RUNS, len(sessions)))
    for run, graph in np.ndindex(times.shape):
        begun = time.perf_counter()
        sessions[graph].run(None, {"image": images})
        times[run, graph] = time.perf_counter() - begun
    return (1000 * times.min(axis=0)).tolist()
