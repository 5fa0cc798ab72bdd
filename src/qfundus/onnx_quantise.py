"""ONNX graphs of images in whole numbers of 8 bits."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx

_CALIBRATED_ON = 128  # photographs
# From the input on: their ranges are wide, and what they round off every later layer sees.
_WHOLE_CONVOLUTIONS = 6
T = TypeVar("T")


def spread(photographs: list[T]) -> list[T]:
    """Choose what to read ranges off: 128 at most, evenly from all there are."""
    chosen = np.linspace(0, len(photographs) - 1, min(len(photographs), _CALIBRATED_ON)).astype(int)
    return [photographs[place] for place in chosen]


def is_quantised(file: Path) -> bool:
    """Tell whether any operation of a graph is on whole numbers."""
    graph = onnx.load(file, load_external_data=False).graph
    return any("Integer" in node.op_type or node.op_type == "DequantizeLinear" for node in graph.node)


def write_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights of matrix products; convolutions stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        prepared = _prepare(source, Path(scratch))
        quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def write_static(source: Path, target: Path, pictures: np.ndarray) -> None:
    """Quantise weights and activations, whose ranges are read off photographs `(n, side, side, 3)` of uint8."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Photographs(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(pictures[:, None])

        def get_next(self) -> dict[str, Any]:
            image = next(self.left, None)
            return {} if image is None else {"image": image}

    with tempfile.TemporaryDirectory() as scratch:
        prepared = _prepare(source, Path(scratch))
        quantize_static(
            prepared,
            target,
            Photographs(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],  # the rest takes little time, and its rounding costs accuracy
            nodes_to_exclude=first_convolutions(onnx.load(prepared).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def first_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Name the convolutions that have fewer than six before them, in each of the networks that a graph holds."""
    depths: dict[str, int] = {}  # of a value: the most convolutions on a way to it
    first: list[str] = []
    for node in graph.node:  # in order: what a node reads is known
        depth = max((depths.get(value, 0) for value in node.input), default=0)
        if node.op_type == "Conv":
            if depth < _WHOLE_CONVOLUTIONS:
                first.append(node.name)
            depth += 1
        depths.update(dict.fromkeys(node.output, depth))
    return first


def _prepare(source: Path, scratch: Path) -> Path:
    """Fold what can be folded, as ONNX Runtime's quantiser asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    prepared = scratch / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared
