"""In which form a grader is served: as it was exported, or in whole numbers of 8 bits where the gate bears the loss."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qfundus.hybrid.gate import Loss
from qfundus.hybrid.grader import GRADER_FILE, HEAD_FILE
from qfundus.onnx_export import time_graphs
from qfundus.onnx_quantise import write_static

INT8_FILE = "model.int8.onnx"


@dataclass(frozen=True)
class Served:
    """`form` is float32 or int8; `reason` says what int8 costs and brings, '' where nobody asked for it."""

    form: str = "float32"
    reason: str = ""

    def __str__(self) -> str:
        return f"Served as {self.form}." + (f" int8 was {self.reason}." if self.reason else "")


def quantise_grader(folder: Path, discs: np.ndarray) -> Path:
    """Write a grader's int8 form beside it; `discs` `(n, 224, 224, 3)` of uint8 are what its ranges are read off."""
    write_static(folder / GRADER_FILE, folder / INT8_FILE, discs)
    return folder / INT8_FILE


def choose_form(folder: Path, loss: Loss, disc: np.ndarray) -> Served:
    """Put the int8 form in the grader's place where its loss is borne, and delete it where not.

    `disc` `(1, 224, 224, 3)` of uint8 is what both are timed on.
    """
    plain, small = folder / GRADER_FILE, folder / INT8_FILE
    before, after = time_graphs((plain, small), disc)
    size = small.stat().st_size / plain.stat().st_size
    reason = f"{loss}; it takes {after / before:.2f} of float32's time and {size:.2f} of its size"
    if not loss.borne:
        small.unlink()
        return Served("float32", reason)
    small.replace(plain)
    # Of stored embeddings it would tell what is not served: on later nights this grader is asked by its graph.
    (folder / HEAD_FILE).unlink(missing_ok=True)
    return Served("int8", reason)
