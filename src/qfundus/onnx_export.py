"""Export PyTorch modules to ONNX and check that they still answer alike."""

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

OPSET = 18
_TOLERANCE = 1e-4
_TIMED = 20  # runs


def export_module(
    module: nn.Module, examples: Mapping[str, torch.Tensor], file: Path, outputs: tuple[str, ...]
) -> None:
    """Write a module as ONNX; `examples` are its inputs by name, in order, the batch their first axis.

    Raises:
        ValueError: where ONNX Runtime's answer to the examples is not PyTorch's.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # The exporter warns of each torchvision operator that it does without; none is used here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".isinstance.treespec", category=FutureWarning)  # torch's own affair
        torch.onnx.export(
            module.eval(),
            tuple(examples.values()),
            str(file),
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) * len(examples),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _compare(module, examples, file)


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX graph on the CPU."""
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"]
    )


def time_graphs(models: Sequence[Path], images: np.ndarray) -> list[float]:
    """Return the milliseconds that each ONNX graph takes for images: the least of twenty, as others only add to it.

    They are timed in turn: what else the machine does meets all of them.
    """
    sessions = [open_session(model) for model in models]
    times = np.empty((_TIMED, len(sessions)))
    for turn, which in np.ndindex(times.shape):
        begun = time.perf_counter()
        sessions[which].run(None, {"image": images})
        times[turn, which] = time.perf_counter() - begun
    return (1000 * times.min(axis=0)).tolist()


def _compare(module: nn.Module, examples: Mapping[str, torch.Tensor], file: Path) -> None:
    with torch.inference_mode():
        answer = module(*examples.values())
    wanted = answer if isinstance(answer, tuple) else (answer,)
    found = open_session(file).run(None, {name: example.numpy() for name, example in examples.items()})
    worst = max(float(np.abs(np.asarray(f) - w.numpy()).max()) for f, w in zip(found, wanted, strict=True))
    if worst > _TOLERANCE:
        raise ValueError(f"{file.name} answers differently from PyTorch, by {worst:.1e}.")
