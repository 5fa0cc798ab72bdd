"""The training loop of both heads: early stopping on the validation loss, the best weights kept."""

import copy
import time
from dataclasses import asdict, dataclass

import numpy as np
import structlog
import torch
from torch import nn

from qfundus.features.snapshot import Split
from qfundus.grades import GRADES
from qfundus.recipes.reading import Training

_log = structlog.get_logger()


@dataclass(frozen=True)
class HeadFit:
    """The figures of a head's training."""

    epochs: int
    best_epoch: int
    train_loss: float
    validation_loss: float
    seconds: float
    parameters: int

    def to_metrics(self) -> dict[str, float]:
        """Return the figures by name."""
        return {name: float(value) for name, value in asdict(self).items()}


def fit_head(model: nn.Module, train: Split, validation: Split, training: Training, seed: int) -> HeadFit:
    """Train a head from embeddings `(eyes, 1280)` to logits `(eyes, 5)`, in place."""
    torch.manual_seed(seed)
    begun = time.monotonic()
    loss_of = nn.CrossEntropyLoss(weight=_grade_weights(train.grades))
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    inputs, targets = torch.from_numpy(train.embeddings), torch.from_numpy(train.grades)
    validation_inputs, validation_targets = (
        torch.from_numpy(array) for array in (validation.embeddings, validation.grades)
    )
    best, best_epoch, best_loss = copy.deepcopy(model.state_dict()), 0, float("inf")
    train_loss, epoch = 0.0, 0
    for epoch in range(1, training.epochs + 1):
        train_loss = _train_epoch(model, optimiser, loss_of, inputs, targets, training.batch)
        model.eval()
        with torch.inference_mode():
            loss = float(loss_of(model(validation_inputs), validation_targets))
        _log.info("Epoch", epoch=epoch, of=training.epochs, train_loss=round(train_loss, 4), loss=round(loss, 4))
        if loss < best_loss:
            best, best_epoch, best_loss = copy.deepcopy(model.state_dict()), epoch, loss
        elif epoch - best_epoch >= training.patience:
            break
    model.load_state_dict(best)
    model.eval()
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return HeadFit(epoch, best_epoch, train_loss, best_loss, time.monotonic() - begun, parameters)


def predict_logits(model: nn.Module, embeddings: np.ndarray) -> np.ndarray:
    """Run a head on embeddings `(eyes, 1280)`; return logits `(eyes, 5)`."""
    model.eval()
    with torch.inference_mode():
        return model(torch.from_numpy(embeddings)).numpy()


def _train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    batch: int,
) -> float:
    model.train()
    total = 0.0
    for rows in torch.randperm(len(inputs)).split(batch):
        optimiser.zero_grad()
        loss = loss_of(model(inputs[rows]), targets[rows])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimiser.step()
        total += float(loss.detach()) * len(rows)
    return total / len(inputs)


def _grade_weights(grades: np.ndarray) -> torch.Tensor:
    """Weigh rare grades up by the root of their rarity: equal weights would drown them among the common ones."""
    counts = np.bincount(grades, minlength=GRADES).clip(min=1)
    weights = np.sqrt(counts.sum() / counts)
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))
