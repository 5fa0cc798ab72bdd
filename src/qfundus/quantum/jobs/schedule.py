"""Where a job goes: by waiting time, error rate, price and what is left of the day's budget. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from qfundus.quantum.jobs.store import Job
from qfundus.quantum.jobs.vendors import Offer

_HOUR = 3600.0
_LOOK_AGAIN = 60.0  # seconds until a job that cannot be sent is thought about again


class Limit(BaseModel):
    """What may be spent in a day, in the money of the prices, and how many circuits may run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: float = Field(default=float("inf"), ge=0)
    circuits: float = Field(default=float("inf"), ge=0)


class Rules(BaseModel):
    """How to choose: limits for the site and for each user, and what a wrong gate and an hour are worth.

    Of several backends the one with the lowest price + `hour` x hours + `error` x circuits x error rate takes it. For
    `keep_days` after its end a job's result is found again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fallback: str = "exact"
    site: Limit = Limit()
    user: Limit = Limit()
    users: dict[str, Limit] = Field(default_factory=dict)
    hour: float = Field(default=1.0, ge=0)
    error: float = Field(default=1.0, ge=0)
    keep_days: float = Field(default=90.0, gt=1)


@dataclass(frozen=True)
class Spent:
    """What was spent in the last day, by user: money and circuits."""

    by_user: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, user: str, cost: float, circuits: int) -> "Spent":
        """Return the same with more spent."""
        money, ran = self.by_user.get(user, (0.0, 0))
        return Spent({**self.by_user, user: (money + cost, ran + circuits)})

    def within(self, rules: Rules, user: str, cost: float, circuits: int) -> str:
        """Return which limit so much more would break, or nothing."""
        after = self.add(user, cost, circuits).by_user
        own = rules.users.get(user, rules.user)
        site = sum(money for money, _ in after.values()), sum(ran for _, ran in after.values())
        for whose, limit, (money, ran) in ((f"{user}'s", own, after[user]), ("the site's", rules.site, site)):
            if money > limit.cost:
                return f"{whose} budget of {limit.cost:g} a day"
            if ran > limit.circuits:
                return f"{whose} {limit.circuits:g} circuits a day"
        return ""


@dataclass(frozen=True)
class Choice:
    """Where a job goes now, at what cost; or, without a backend, why it waits and until when, or can `never` run."""

    backend: str = ""
    cost: float = 0.0
    fallback: bool = False
    message: str = ""
    look_again: float = 0.0
    never: bool = False


def choose(job: Job, offers: Mapping[str, Offer | str], rules: Rules, spent: Spent, now: float) -> Choice:
    """Choose a backend for a job; an offer that is a sentence says why no backend suits.

    Where nothing that the job may run on would be done by its deadline, or may be paid for, it goes to the simulator.
    """
    objections = {
        name: _objection(job, offers.get(name, "It is not known."), rules, spent, now) for name in job.backends
    }
    able = {
        name: offer for name in job.backends if isinstance(offer := offers.get(name), Offer) and not objections[name]
    }
    if able:
        best = min(able, key=lambda name: _price(job, able[name], rules))
        return Choice(best, able[best].price.cost(job.circuits, job.shots))
    why = "; ".join(f"{name}: {objection}" for name, objection in objections.items())
    if job.deadline is not None:
        return Choice(rules.fallback, fallback=True, message=f"Simulated. {why}")
    if all(_is_for_ever(job, offers[name], rules) for name in job.backends):
        return Choice(message=why, never=True)
    return Choice(message=f"It waits. {why}", look_again=now + _LOOK_AGAIN)


def _is_for_ever(job: Job, offer: Offer | str, rules: Rules) -> bool:
    if isinstance(offer, str):
        return False
    alone = Spent().within(rules, job.user, offer.price.cost(job.circuits, job.shots), job.circuits)
    return job.qubits > offer.qubits or bool(alone)


def _objection(job: Job, offer: Offer | str, rules: Rules, spent: Spent, now: float) -> str:
    if isinstance(offer, str):
        return offer
    if job.qubits > offer.qubits:
        return f"It has {offer.qubits} qubits, the circuit {job.qubits}."
    if job.deadline is not None and now > job.deadline:
        return "The night's window is over."
    if job.deadline is not None and now + offer.wait > job.deadline:
        return f"Its queue takes {offer.wait / _HOUR:.1f} h, longer than the night's window."
    broken = spent.within(rules, job.user, offer.price.cost(job.circuits, job.shots), job.circuits)
    return f"It would break {broken}." if broken else ""


def _price(job: Job, offer: Offer, rules: Rules) -> float:
    price = offer.price.cost(job.circuits, job.shots)
    return price + rules.hour * offer.wait / _HOUR + rules.error * job.circuits * offer.error
