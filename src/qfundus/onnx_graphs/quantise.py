"""Quantise ONNX graphs of images to int8."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx

_CALIBRATION_PHOTOGRAPHS = 128  # photographs
# Counted from the input: their ranges are wide, and every later layer sees their rounding.
_FLOAT_CONVOLUTIONS = 6
T = TypeVar("T")


def choose_calibration(photographs: list[T]) -> list[T]:
    """Choose the photographs to calibrate ranges on: at most 128, evenly spaced."""
    chosen = np.linspace(0, len(photographs) - 1, min(len(photographs), _CALIBRATION_PHOTOGRAPHS)).astype(int)
    return [photographs[index] for index in chosen]


def is_quantised(file: Path) -> bool:
    """Return whether any operation of a graph is an integer operation."""
    graph = onnx.load(file, load_external_data=False).graph
    return any("Integer" in node.op_type or node.op_type == "DequantizeLinear" for node in graph.node)


def write_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights of matrix products; convolutions stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        prepared = _prepare(source, Path(scratch))
        quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def write_static(source: Path, target: Path, photographs: np.ndarray) -> None:
    """Quantise weights and activations, calibrated on photographs `(n, side, side, 3)` of uint8."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class CalibrationPhotographs(CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining: Iterator[np.ndarray] = iter(photographs[:, None])

        def get_next(self) -> dict[str, Any]:
            image = next(self.remaining, None)
            return {} if image is None else {"image": image}

    with tempfile.TemporaryDirectory() as scratch:
        prepared = _prepare(source, Path(scratch))
        quantize_static(
            prepared,
            target,
            CalibrationPhotographs(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],  # the rest takes little time, and its rounding costs accuracy
            nodes_to_exclude=first_convolutions(onnx.load(prepared).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def first_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the convolutions that follow fewer than six others, in each network of a graph."""
    depths: dict[str, int] = {}  # by value: the most convolutions on a path to it
    first: list[str] = []
    for node in graph.node:  # in topological order
        depth = max((depths.get(value, 0) for value in node.input), default=0)
        if node.op_type == "Conv":
            if depth < _FLOAT_CONVOLUTIONS:
                first.append(node.name)
            depth += 1
        depths.update(dict.fromkeys(node.output, depth))
    return first


def _prepare(source: Path, scratch: Path) -> Path:
    """Fold constants, as ONNX Runtime's quantiser expects."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    prepared = scratch / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared
