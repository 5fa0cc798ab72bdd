"""What a backend's entry in `configs/quantum.yaml` says that running there costs."""

import math
from dataclasses import dataclass
from typing import Any

from qfundus.errors import SetupError


@dataclass(frozen=True)
class Price:
    """The price of a task and of a shot, and how many circuits go into one task: all of a job unless it is said."""

    task: float = 0.0
    shot: float = 0.0
    circuits: float = math.inf

    @classmethod
    def of(cls, described: dict[str, Any]) -> "Price":
        """Read the price in a backend's entry; no entry means no cost.

        Raises:
            SetupError: if it says anything else, or no number.
        """
        entry = described.get("price", {})
        try:
            price = cls(**{name: float(value) for name, value in entry.items()})
        except (TypeError, ValueError, AttributeError):
            price = None
        if price is None or min(price.task, price.shot) < 0 or not price.circuits >= 1:
            raise SetupError(
                f"Invalid price {entry} in configs/quantum.yaml: give `task`, `shot` and `circuits` as numbers."
            )
        return price

    @property
    def is_free(self) -> bool:
        """Whether it costs nothing."""
        return not (self.task or self.shot)

    def cost(self, circuits: int, shots: int) -> float:
        """Return what so many circuits cost, asked for at once, with so many shots in all."""
        return max(1, math.ceil(circuits / self.circuits)) * self.task + shots * self.shot
