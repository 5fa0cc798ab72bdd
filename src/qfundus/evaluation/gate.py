"""The gate: a candidate is promoted on evidence, against the champion, on the same eyes."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from qfundus.evaluation.metrics import Estimate, accuracy, interval, patient_resamples, quadratic_weighted_kappa
from qfundus.recipes.nightly import EvaluationRecipe, GateRecipe


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may be proposed to a person, and why, in one paragraph."""

    passed: bool
    reason: str
    candidate_kappa: float
    champion_version: str | None = None
    champion_kappa: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    def to_json(self) -> str:
        """Write the verdict for travel."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Read a verdict."""
        return cls(**json.loads(text))


def judge(
    candidate: np.ndarray,
    champion: np.ndarray | None,
    grades: np.ndarray,
    patients: np.ndarray,
    gate: GateRecipe,
    evaluation: EvaluationRecipe,
    seed: int,
    champion_version: str | None = None,
) -> Verdict:
    """Judge probabilities `(eyes, 5)` of the candidate, and of the champion on the same eyes if one is in service.

    Not worse by more than a margin: the whole interval of the paired difference in kappa, patients resampled, must lie
    above minus the margin. Better than chance: the whole interval of the candidate's own
    kappa must lie above the floor.
    """
    weights = patient_resamples(patients, evaluation.resamples, seed)
    own = _kappa(candidate, grades, weights, evaluation.confidence)
    if not own.low > gate.floor:
        reason = f"Refused: the candidate's kappa is {own}, and its whole interval must exceed {gate.floor}."
        return Verdict(passed=False, reason=reason, candidate_kappa=own.value, champion_version=champion_version)
    if champion is None:
        reason = f"Passed: no version is in service yet, and the candidate's kappa is {own}."
        return Verdict(passed=True, reason=reason, candidate_kappa=own.value)
    other = _kappa(champion, grades, weights, evaluation.confidence)
    resampled = quadratic_weighted_kappa(candidate, grades, weights) - quadratic_weighted_kappa(
        champion, grades, weights
    )
    low, high = interval(resampled, evaluation.confidence)
    difference = Estimate(own.value - other.value, low, high)
    passed = low > -gate.margin
    reason = (
        f"{'Passed' if passed else 'Refused'}: on {len(grades)} eyes of {len(np.unique(patients))} patients the "
        f"candidate's kappa is {own} and version {champion_version}'s is {other}; the whole interval of their paired "
        f"difference, {difference}, {'lies' if passed else 'does not lie'} above the margin of -{gate.margin}."
    )
    return Verdict(passed, reason, own.value, champion_version, other.value, difference.value, low, high)


@dataclass(frozen=True)
class Drop:
    """By how much a figure drops with a cheaper form of a grader, and by how much it may."""

    figure: str
    drop: Estimate
    allowed: float

    @property
    def accepted(self) -> bool:
        """Whether the whole interval of the drop lies within what is allowed."""
        return self.drop.high <= self.allowed

    def __str__(self) -> str:
        if self.accepted:
            return f"kept: {self.figure} drops by {self.drop}"
        hint = "; more photographs would narrow the interval" if self.drop.value <= self.allowed else ""
        return f"refused: {self.figure} drops by {self.drop}; at most {self.allowed} is allowed{hint}"


def judge_form(
    form: np.ndarray,
    plain: np.ndarray,
    grades: np.ndarray,
    patients: np.ndarray,
    max_drop: float,
    evaluation: EvaluationRecipe,
    seed: int,
) -> Drop:
    """Judge probabilities `(n, 5)` of a cheaper form of a grader against its own, of the same photographs.

    Neither accuracy nor kappa may drop by more than `max_drop`, up to the end of the interval of the paired drop,
    patients resampled.
    """
    whole, resampled = np.ones((1, len(grades))), patient_resamples(patients, evaluation.resamples, seed)
    drops: list[Drop] = []
    for name, metric in (("accuracy", accuracy), ("kappa", quadratic_weighted_kappa)):
        value, resampled_drop = (metric(plain, grades, w) - metric(form, grades, w) for w in (whole, resampled))
        drops.append(Drop(name, Estimate(float(value[0]), *interval(resampled_drop, evaluation.confidence)), max_drop))
    # A kappa is not defined where all photographs are of one grade: then accuracy decides.
    return max(drops, key=lambda drop: -np.inf if np.isnan(drop.drop.high) else drop.drop.high)


def _kappa(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray, confidence: float) -> Estimate:
    whole = quadratic_weighted_kappa(probabilities, grades, np.ones((1, len(grades))))[0]
    return Estimate(float(whole), *interval(quadratic_weighted_kappa(probabilities, grades, weights), confidence))
