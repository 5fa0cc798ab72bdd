"""The files of a grader's folder, and the summary of its evaluation."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEAD_FILE, SMOKE_FILE, SUMMARY_FILE = "head.onnx", "smoke.npz", "summary.json"
PREDICTIONS_FILE, CIRCUIT_FILE, REPORT_FILE = "predictions.parquet", "circuit.npz", "report.html"
OUTPUTS = ("probabilities", "classical", "quantum")  # of the graph
Figures = dict[str, dict[str, dict[str, float]]]  # by form, metric, and value, low or high


@dataclass(frozen=True)
class ServedForm:
    """`form` is float32 or int8; `reason` says what int8 costs and gains, '' if the recipe does not ask for it."""

    form: str = "float32"
    reason: str = ""

    def __str__(self) -> str:
        return f"Served as {self.form}." + (f" int8 was {self.reason}." if self.reason else "")


@dataclass(frozen=True)
class Summary:
    """The evaluation of a grader.

    `refer_below` is the highest probability below which an eye is referred to a person; NaN for a grader
    without such a rule.
    """

    figures: Figures
    eyes: dict[str, Any]
    mixture: dict[str, float] = field(default_factory=dict[str, float])
    refer_below: float = math.nan
    served: ServedForm = ServedForm()
    occlusion: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def write(self, folder: Path) -> None:
        """Write the summary into a grader's folder."""
        (folder / SUMMARY_FILE).write_text(json.dumps(asdict(self), indent=1, sort_keys=True))


def read_summary(file: Path) -> Summary:
    """Read a summary."""
    stored: dict[str, Any] = json.loads(file.read_text())
    return Summary(**{**stored, "served": ServedForm(**stored.get("served", {}))})  # pyright: ignore[reportArgumentType]
