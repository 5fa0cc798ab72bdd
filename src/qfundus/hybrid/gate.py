"""The gate: a candidate is promoted on evidence, against the champion, on the same eyes."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from qfundus.hybrid.metrics import Estimate, accuracy, interval, patient_resamples, quadratic_weighted_kappa
from qfundus.recipe import Evaluation, Gate


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
    gate: Gate,
    how: Evaluation,
    seed: int,
    champion_version: str | None = None,
) -> Verdict:
    """Judge probabilities `(eyes, 5)` of the candidate, and of the champion on the same eyes where there is one.

    Not worse beyond a margin: the paired difference in kappa, patients resampled, must lie above minus the margin with
    its whole interval. Better than chance: so must the candidate's own kappa lie above the floor.
    """
    weights = patient_resamples(patients, how.resamples, seed)
    own = _kappa(candidate, grades, weights, how.confidence)
    if not own.low > gate.floor:
        reason = f"Refused: the candidate's kappa is {own}, and its lower end must lie above {gate.floor}."
        return Verdict(passed=False, reason=reason, candidate_kappa=own.value, champion_version=champion_version)
    if champion is None:
        reason = f"Passed: there is no champion yet, and the candidate's kappa is {own}."
        return Verdict(passed=True, reason=reason, candidate_kappa=own.value)
    other = _kappa(champion, grades, weights, how.confidence)
    resampled = quadratic_weighted_kappa(candidate, grades, weights) - quadratic_weighted_kappa(
        champion, grades, weights
    )
    low, high = interval(resampled, how.confidence)
    difference = Estimate(own.value - other.value, low, high)
    passed = low > -gate.margin
    reason = (
        f"{'Passed' if passed else 'Refused'}: on {len(grades)} eyes of {len(np.unique(patients))} patients the "
        f"candidate's kappa is {own}, version {champion_version}'s {other}; the paired difference is {difference}, "
        f"{'above' if passed else 'not above'} the margin of -{gate.margin} with its whole interval."
    )
    return Verdict(passed, reason, own.value, champion_version, other.value, difference.value, low, high)


@dataclass(frozen=True)
class Loss:
    """By how much a figure falls with a cheaper form of a grader, and by how much it may."""

    figure: str
    lost: Estimate
    allowed: float

    @property
    def borne(self) -> bool:
        """Whether it falls by no more than is allowed, to the end of the interval."""
        return self.lost.high <= self.allowed

    def __str__(self) -> str:
        if self.borne:
            return f"kept: {self.figure} falls by {self.lost}"
        said = f"refused: {self.figure} falls by {self.lost}, and {self.allowed} is allowed"
        more = "; on more photographs the interval is narrower" if self.lost.value <= self.allowed else ""
        return said + more


def judge_form(
    form: np.ndarray,
    plain: np.ndarray,
    grades: np.ndarray,
    patients: np.ndarray,
    most_lost: float,
    how: Evaluation,
    seed: int,
) -> Loss:
    """Judge probabilities `(n, 5)` of a cheaper form of a grader against its own, of the same photographs.

    It may cost `most_lost` of accuracy and of kappa, to the end of the interval of the paired loss, patients resampled.
    """
    whole, resampled = np.ones((1, len(grades))), patient_resamples(patients, how.resamples, seed)
    losses: list[Loss] = []
    for name, metric in (("accuracy", accuracy), ("kappa", quadratic_weighted_kappa)):
        value, lost = (metric(plain, grades, w) - metric(form, grades, w) for w in (whole, resampled))
        losses.append(Loss(name, Estimate(float(value[0]), *interval(lost, how.confidence)), most_lost))
    # A kappa is not defined where all photographs are of one grade: then accuracy decides.
    return max(losses, key=lambda loss: -np.inf if np.isnan(loss.lost.high) else loss.lost.high)


def _kappa(probabilities: np.ndarray, grades: np.ndarray, weights: np.ndarray, confidence: float) -> Estimate:
    whole = quadratic_weighted_kappa(probabilities, grades, np.ones((1, len(grades))))[0]
    return Estimate(float(whole), *interval(quadratic_weighted_kappa(probabilities, grades, weights), confidence))
