"""The quantum side: circuits, the exact engine that trains them, and their execution elsewhere."""

from typing import TYPE_CHECKING, Any

from qfundus.quantum.ansatz import build_ansatz, chain_ansatz, layered_ansatz

if TYPE_CHECKING:
    from qfundus.quantum.classifier import QuantumClassifier
    from qfundus.quantum.layer import QuantumLayer

__all__ = ["QuantumClassifier", "QuantumLayer", "build_ansatz", "chain_ansatz", "layered_ansatz"]


def __getattr__(name: str) -> Any:
    # What only sends circuits to a machine needs no PyTorch, which takes seconds to import.
    match name:
        case "QuantumClassifier":
            from qfundus.quantum.classifier import QuantumClassifier

            return QuantumClassifier
        case "QuantumLayer":
            from qfundus.quantum.layer import QuantumLayer

            return QuantumLayer
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
