"""The loss of each photograph: soft targets, and weights by rarity."""

import numpy as np
import torch

from qfundus.grades import GRADES
from qfundus.recipes.network import NetworkTraining


class Objective:
    """The loss of each photograph, by soft targets and weights that a recipe asks for."""

    def __init__(self, training: NetworkTraining, grades: np.ndarray, device: torch.device) -> None:
        self.of = {"likelihood": likelihood_loss, "ranks": rank_loss}[training.loss]
        self.targets = soft_targets(training.soft_labels, training.label_smoothing).to(device)
        self.weights = grade_weights(grades, training.balance).to(device)

    def __call__(self, logits: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """Return losses `(batch,)` of logits `(batch, 5)`."""
        return self.of(logits.float().log_softmax(dim=1), self.targets[grades]) * self.weights[grades]


def likelihood_loss(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy `(batch,)` of log-likelihoods and targets `(batch, 5)`."""
    return -(targets * log_probabilities).sum(dim=1)


def rank_loss(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropies of "this grade or worse", summed over the grades, `(batch,)`.

    CORAL's loss (W. Cao et al., arXiv 1901.07884), on any log-likelihoods and targets `(batch, 5)`: a grade that is far
    off costs more than its neighbour.
    """
    worse = log_probabilities.flip(1).logcumsumexp(dim=1).flip(1)[:, 1:]
    better = log_probabilities.logcumsumexp(dim=1)[:, :-1]
    wanted = targets.flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return -(wanted * worse + (1 - wanted) * better).sum(dim=1)


def soft_targets(soften: float, smoothing: float) -> torch.Tensor:
    """Return each grade's target, `(5, 5)`: a bell of width `soften`, then a share of `smoothing` to all."""
    apart = torch.arange(GRADES).float()[:, None] - torch.arange(GRADES).float()
    bell = torch.exp(-(apart**2) / (2 * soften**2)) if soften else torch.eye(GRADES)
    return (1 - smoothing) * bell / bell.sum(dim=1, keepdim=True) + smoothing / GRADES


def grade_weights(grades: np.ndarray, balance: float) -> torch.Tensor:
    """Weigh grades by their rarity to the power of `balance`, `(5,)`, so that a photograph's mean weight is one."""
    counts = np.bincount(grades, minlength=GRADES).astype(np.float64)
    weights = counts.clip(min=1) ** -balance  # a grade without photographs counts in no mean
    return torch.from_numpy(weights / (weights * counts).sum() * counts.sum()).float()
