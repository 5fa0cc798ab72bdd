"""The quantum side: circuits, the exact engine that trains them, and their execution elsewhere."""

from qfundus.quantum.ansatz import build_ansatz, chain_ansatz, layered_ansatz
from qfundus.quantum.classifier import QuantumClassifier
from qfundus.quantum.layer import QuantumLayer

__all__ = ["QuantumClassifier", "QuantumLayer", "build_ansatz", "chain_ansatz", "layered_ansatz"]
