"""One training loop for every head: full passes, early stopping on the validation loss, the best weights kept."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from torch import nn

from qfundus.features.snapshot import Split
from qfundus.grades import GRADES
from qfundus.recipe_parts import Training

_log = structlog.get_logger()


@dataclass(frozen=True)
class Trained:
    """What training a head came to."""

    epochs: int
    best_epoch: int
    train_loss: float
    validation_loss: float
    seconds: float
    parameters: int

    def to_metrics(self) -> dict[str, float]:
        """Return the figures by name."""
        return {name: float(value) for name, value in self.__dict__.items()}


def fit_head(model: nn.Module, train: Split, validation: Split, how: Training, seed: int) -> Trained:
    """Train a head from embeddings `(eyes, 1280)` to logits `(eyes, 5)`, in place."""
    torch.manual_seed(seed)
    begun = time.monotonic()
    loss_of = nn.CrossEntropyLoss(weight=_grade_weights(train.grades))
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    inputs, targets = torch.from_numpy(train.embeddings), torch.from_numpy(train.grades)
    held_inputs, held_targets = torch.from_numpy(validation.embeddings), torch.from_numpy(validation.grades)
    best, best_epoch, best_loss, train_loss, epoch = (
        copy.deepcopy(model.state_dict()),
        0,
        float("inf"),
        0.0,
        0,
    )
    for epoch in range(1, how.epochs + 1):
        train_loss = _one_epoch(model, optimiser, loss_of, inputs, targets, how.batch)
        model.eval()
        with torch.inference_mode():
            held_loss = float(loss_of(model(held_inputs), held_targets))
        _log.info("Epoch", epoch=epoch, of=how.epochs, train_loss=round(train_loss, 4), loss=round(held_loss, 4))
        if held_loss < best_loss:
            best, best_epoch, best_loss = copy.deepcopy(model.state_dict()), epoch, held_loss
        elif epoch - best_epoch >= how.patience:
            break
    model.load_state_dict(best)
    model.eval()
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Trained(epoch, best_epoch, train_loss, best_loss, time.monotonic() - begun, parameters)


def predict_logits(model: nn.Module, embeddings: np.ndarray) -> np.ndarray:
    """Run a head on embeddings `(eyes, 1280)`; return logits `(eyes, 5)`."""
    model.eval()
    with torch.inference_mode():
        return model(torch.from_numpy(embeddings)).numpy()


def _one_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    batch: int,
) -> float:
    model.train()
    total = 0.0
    for chosen in torch.randperm(len(inputs)).split(batch):
        optimiser.zero_grad()
        loss = loss_of(model(inputs[chosen]), targets[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
    return total / len(inputs)


def _grade_weights(grades: np.ndarray) -> torch.Tensor:
    """Weigh rare grades up by the root of their rarity: equal weights would drown the common ones."""
    counts = np.bincount(grades, minlength=GRADES).clip(min=1)
    weights = np.sqrt(counts.sum() / counts)
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))
