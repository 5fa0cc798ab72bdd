"""Metrics of predicted grades, each with a bootstrap interval over patients.

Every metric takes weights `(resamples, eyes)` and answers `(resamples,)`: a resample of patients is a row of counts, so
that two thousand resamples are a few matrix products.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from qfundus.grades import GRADES, REFERABLE
from qfundus.recipes.nightly import EvaluationRecipe

_BINS = 10
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def to_dict(self) -> dict[str, float]:
        """Return the three figures by name."""
        return asdict(self)


def evaluate(
    probabilities: np.ndarray, grades: np.ndarray, patients: np.ndarray, evaluation: EvaluationRecipe, seed: int
) -> dict[str, Estimate]:
    """Measure probabilities `(eyes, 5)` against grades `(eyes,)`; percentile intervals, patients resampled."""
    weights = patient_resamples(patients, evaluation.resamples, seed)
    whole = np.ones((1, len(grades)))
    estimates: dict[str, Estimate] = {}
    for name, metric in metrics(evaluation.specificity).items():
        low, high = interval(metric(probabilities, grades, weights), evaluation.confidence)
        estimates[name] = Estimate(float(metric(probabilities, grades, whole)[0]), low, high)
    return estimates


def find_threshold(probabilities: np.ndarray, referred: float) -> float:
    """Return the threshold under which the highest probability of a share `referred` of `(eyes, 5)` lies."""
    return float(np.quantile(probabilities.max(axis=1), referred))


def accuracy_by_coverage(probabilities: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of eyes, the surest first, and the accuracy on each share `(eyes,)`.

    One minus it is the risk of a risk-coverage curve (R. El-Yaniv and Y. Wiener, JMLR 11, 2010).
    """
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = (probabilities.argmax(axis=1) == grades)[surest]
    count = np.arange(1, len(grades) + 1)
    return count / len(grades), right.cumsum() / count


def metrics(specificity: float) -> dict[str, Metric]:
    """Return every metric by name."""
    return {
        "quadratic_weighted_kappa": quadratic_weighted_kappa,
        "accuracy": accuracy,
        "auc_one_vs_rest": auc_one_vs_rest,
        "auc_referable": auc_referable,
        "sensitivity_referable": partial(sensitivity_referable, specificity=specificity),
        "calibration_error": calibration_error,
    }


def patient_resamples(patients: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw patients with replacement; return how often each eye counts, `(resamples, eyes)`."""
    _, patient_of_eye = np.unique(patients, return_inverse=True)
    count = patient_of_eye.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, patient_of_eye].astype(np.float64)


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of the resamples in which a figure is defined."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, (tail, 1 - tail)) if not np.isnan(values).all() else (np.nan, np.nan)
    return float(low), float(high)


def quadratic_weighted_kappa(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cohen's kappa with quadratic weights (Psychological Bulletin 70, 1968) of the most probable grade."""
    cells = np.eye(GRADES * GRADES)[grades * GRADES + probabilities.argmax(axis=1)]
    confusion = (weights @ cells).reshape(-1, GRADES, GRADES)
    distance = np.subtract.outer(np.arange(GRADES), np.arange(GRADES)) ** 2
    total = confusion.sum(axis=(1, 2))
    expected = confusion.sum(axis=2)[:, :, None] * confusion.sum(axis=1)[:, None, :] / total[:, None, None]
    disagreement = (expected * distance).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (confusion * distance).sum(axis=(1, 2)) / disagreement


def accuracy(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of eyes whose most probable grade is right."""
    return weights @ (probabilities.argmax(axis=1) == grades) / weights.sum(axis=1)


def auc_one_vs_rest(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean area under the ROC curve of each grade against the others; absent grades do not count."""
    areas = np.stack([_auc(probabilities[:, g], grades == g, weights) for g in range(GRADES)])
    counted = ~np.isnan(areas)
    with np.errstate(invalid="ignore"):
        return np.where(counted, areas, 0).sum(axis=0) / counted.sum(axis=0)


def auc_referable(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for referable retinopathy (grade 2 and above)."""
    return _auc(referable_score(probabilities), grades >= REFERABLE, weights)


def sensitivity_referable(
    probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray, *, specificity: float
) -> np.ndarray:
    """Read the sensitivity for referable retinopathy off the ROC curve at a specificity."""
    sensitivity, false_alarms = _roc(referable_score(probabilities), grades >= REFERABLE, weights)
    allowed = false_alarms <= 1 - specificity + 1e-12
    return np.where(allowed, sensitivity, 0).max(axis=1)


def calibration_error(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of the most probable grade in ten bins (AAAI 2015, Naeini et al.)."""
    confidence = probabilities.max(axis=1)
    bins = np.eye(_BINS)[np.minimum((confidence * _BINS).astype(int), _BINS - 1)]
    gap = confidence - (probabilities.argmax(axis=1) == grades)
    return np.abs(weights @ (bins * gap[:, None])).sum(axis=1) / weights.sum(axis=1)


def referable_score(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of grade 2 and above, `(eyes,)`."""
    return probabilities[:, REFERABLE:].sum(axis=1)


def roc_curve(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sensitivity and false alarm rate `(resamples, thresholds + 1)`, from the highest threshold down."""
    return _roc(scores, positive, weights)


def _roc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    # Equal scores share a threshold: only the last of each run of ties is a point of the curve.
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    sensitivity = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last_of_ties]
    alarms = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, last_of_ties]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = sensitivity / sensitivity[:, -1:], alarms / alarms[:, -1:]
    start = np.zeros((len(weights), 1))
    return np.hstack((start, rates[0])), np.hstack((start, rates[1]))


def _auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    sensitivity, alarms = _roc(scores, positive, weights)
    return np.asarray(np.trapezoid(sensitivity, alarms, axis=1))
