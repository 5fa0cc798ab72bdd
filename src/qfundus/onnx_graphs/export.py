"""Export PyTorch modules to ONNX, and check that the graph answers as the module does."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qfundus.onnx_graphs.run import open_session

OPSET = 18
_TOLERANCE = 1e-4


def export_module(
    module: nn.Module, examples: Mapping[str, torch.Tensor], file: Path, outputs: tuple[str, ...]
) -> None:
    """Write a module as ONNX; `examples` are its inputs by name, in order, the batch their first axis.

    Raises:
        ValueError: if ONNX Runtime's answer to the examples differs from PyTorch's.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # The exporter warns of each torchvision operator that it cannot find; none is used here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".isinstance.treespec", category=FutureWarning)  # of torch's own code
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


def _compare(module: nn.Module, examples: Mapping[str, torch.Tensor], file: Path) -> None:
    with torch.inference_mode():
        answer = module(*examples.values())
    expected = answer if isinstance(answer, tuple) else (answer,)
    actual = open_session(file).run(None, {name: example.numpy() for name, example in examples.items()})
    worst = max(float(np.abs(np.asarray(a) - e.numpy()).max()) for a, e in zip(actual, expected, strict=True))
    if worst > _TOLERANCE:
        raise ValueError(f"{file.name} differs from PyTorch by {worst:.1e}.")
