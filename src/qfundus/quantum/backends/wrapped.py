"""A backend of Qiskit around another, for what its vendor's provider leaves out."""

from typing import Any

from qiskit.providers import BackendV2, Options
from qiskit.transpiler import Target


class WrappedBackend(BackendV2):
    """What the inner `backend` is, until a method is overridden; `run` has to be."""

    def __init__(self, backend: Any) -> None:
        super().__init__(name=backend.name)
        self._backend = backend

    @property
    def target(self) -> Target:  # pyright: ignore[reportIncompatibleMethodOverride]  (the base says None)
        """What the inner backend can run."""
        return self._backend.target

    @property
    def max_circuits(self) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """How many circuits it takes at once."""
        return self._backend.max_circuits

    @classmethod
    def _default_options(cls) -> Options:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Options()
