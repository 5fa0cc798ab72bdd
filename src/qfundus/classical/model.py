"""The classical head: a small network on the embedding."""

from pathlib import Path

import torch
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.features.scaling import fit_scaling
from qfundus.features.snapshot import Split
from qfundus.grades import GRADES
from qfundus.recipe import Classical
from qfundus.training import Trained, fit_head


class ClassicalHead(nn.Module):
    """Embeddings `(batch, 1280)` to logits `(batch, 5)`; the scaling is fitted on the training split."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(EMBEDDING_SIZE))
        self.register_buffer("spread", torch.ones(EMBEDDING_SIZE))
        self.network = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(EMBEDDING_SIZE, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, GRADES),
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.network((embeddings - self.mean) / self.spread)


def train_classical(train: Split, validation: Split, how: Classical, seed: int) -> tuple[ClassicalHead, Trained]:
    """Train the classical head."""
    torch.manual_seed(seed)
    head = ClassicalHead(how.hidden, how.dropout)
    mean, spread = fit_scaling(train.embeddings)
    head.mean.copy_(torch.from_numpy(mean))
    head.spread.copy_(torch.from_numpy(spread))
    return head, fit_head(head, train, validation, how, seed)


def save_classical(head: ClassicalHead, how: Classical, path: Path | str) -> None:
    """Write the head with the part of the recipe that shapes it."""
    torch.save({"recipe": how.model_dump(), "weights": head.state_dict()}, path)


def load_classical(path: Path | str) -> ClassicalHead:
    """Read a head; nothing but tensors and numbers is unpickled."""
    saved = torch.load(path, weights_only=True)
    how = Classical.model_validate(saved["recipe"])
    head = ClassicalHead(how.hidden, how.dropout)
    head.load_state_dict(saved["weights"])
    return head.eval()
