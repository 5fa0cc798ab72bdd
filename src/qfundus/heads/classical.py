"""The classical head: a small network on the embedding."""

from pathlib import Path

import torch
from torch import nn

from qfundus.features.embed import EMBEDDING_SIZE
from qfundus.features.snapshot import Split
from qfundus.grades import GRADES
from qfundus.heads.fit import HeadFit, fit_head
from qfundus.heads.scaling import fit_scaling
from qfundus.recipes.nightly import ClassicalHeadRecipe


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


def train_classical_head(
    train: Split, validation: Split, recipe: ClassicalHeadRecipe, seed: int
) -> tuple[ClassicalHead, HeadFit]:
    """Train the classical head."""
    torch.manual_seed(seed)
    head = ClassicalHead(recipe.hidden, recipe.dropout)
    mean, spread = fit_scaling(train.embeddings)
    head.mean.copy_(torch.from_numpy(mean))
    head.spread.copy_(torch.from_numpy(spread))
    return head, fit_head(head, train, validation, recipe, seed)


def save_classical_head(head: ClassicalHead, recipe: ClassicalHeadRecipe, path: Path | str) -> None:
    """Write the head with the section of the recipe that shapes it."""
    torch.save({"recipe": recipe.model_dump(), "weights": head.state_dict()}, path)


def load_classical_head(path: Path | str) -> ClassicalHead:
    """Read a head; nothing but tensors and numbers is unpickled."""
    saved = torch.load(path, weights_only=True)
    recipe = ClassicalHeadRecipe.model_validate(saved["recipe"])
    head = ClassicalHead(recipe.hidden, recipe.dropout)
    head.load_state_dict(saved["weights"])
    return head.eval()
