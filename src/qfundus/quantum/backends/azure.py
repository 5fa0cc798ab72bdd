"""Machines behind Azure Quantum, by the name of their target; its provider for Qiskit does the rest."""

import os
from collections.abc import Callable
from itertools import count
from typing import Any

os.environ.setdefault("QDK_PYTHON_TELEMETRY", "none")  # before it is imported: it would tell Microsoft of each run

from azure.quantum import Workspace
from azure.quantum.qiskit import AzureQuantumProvider
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit.result import Result

from qfundus.errors import SetupError
from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.wrapped import WrappedBackend
from qfundus.settings import QuantumSettings

_QUEUED = ("Queued", "Waiting")


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a target. Options: `target`, such as `ionq.simulator`, and `gates`, the gate set that it is sent."""
    return _open(**options)


def _open(target: str, gates: str = "qis") -> Backend:
    settings = QuantumSettings()
    if settings.azure_connection is None:
        raise SetupError(
            "Azure Quantum needs a workspace: set QFUNDUS_AZURE_CONNECTION to its connection string "
            "(Operations, Access keys)."
        )
    try:
        workspace = Workspace.from_connection_string(settings.azure_connection.get_secret_value())
    except ValueError:
        raise SetupError("QFUNDUS_AZURE_CONNECTION is not a workspace's connection string: copy it again.") from None
    return open_target(workspace, target, gates)


def open_target(workspace: Workspace, target: str, gates: str = "qis") -> Backend:
    """Open a target of a workspace.

    Raises:
        SetupError: if the workspace does not answer or does not have it, or takes our key no more.
    """
    provider = AzureQuantumProvider(workspace)
    try:
        backend: Any = provider.get_backend(target, gateset=gates)
    except Exception as error:  # noqa: BLE001  (Azure's and Qiskit's errors have no common kind)
        raise SetupError(
            f"Azure Quantum does not open {target} ({type(error).__name__}): the key may have expired; set "
            "QFUNDUS_AZURE_CONNECTION anew, and see which targets the workspace has."
        ) from None
    estimator, sampler = BackendEstimatorV2(backend=backend), BackendSamplerV2(backend=_Listed(backend))
    return Backend(estimator, sampler, backend.target, _Jobs(workspace, provider, backend))


class _Jobs:
    """The jobs of a workspace, by their names."""

    def __init__(self, workspace: Workspace, provider: AzureQuantumProvider, backend: Any) -> None:
        self._workspace, self._provider, self._backend = workspace, provider, backend

    def knows(self, name: str) -> bool:
        """Return whether a job's name begins so."""
        return bool(self._sent(name))

    def has_begun(self, name: str) -> bool:
        """Return whether a job of a name has left the queue."""
        return any(job.details.status not in _QUEUED for job in self._jobs(name))

    def cancel(self, name: str) -> None:
        """Cancel the jobs of a name that have not ended."""
        for job in self._jobs(name):
            if not job.has_completed():
                self._workspace.cancel_job(job)

    def estimator(self, name: str) -> BackendEstimatorV2:
        """Return an estimator whose jobs have a name and a number."""
        named = _Numbered(self._backend, name, self._sent(name), self._provider.get_job)
        return BackendEstimatorV2(backend=named)

    def _sent(self, name: str) -> dict[str, str]:
        return {str(job.details.name): str(job.id) for job in self._jobs(name)}

    def _jobs(self, name: str) -> list[Any]:
        return list(self._workspace.list_jobs(name_match=name))


class _Numbered(WrappedBackend):
    """One circuit a job, numbered in the order in which they are asked for; one that was `sent` is fetched instead."""

    def __init__(self, backend: Any, name: str, sent: dict[str, str], fetch: Callable[[str], Any]) -> None:
        super().__init__(backend)
        self._named, self._numbers, self._sent, self._fetch = name, count(), sent, fetch

    def run(self, run_input: Any, shots: int = 1024, **_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        name = f"{self._named}-{next(self._numbers)}"
        if name in self._sent:
            return self._fetch(self._sent[name])
        return self._backend.run(run_input, shots=shots, job_name=name)


class _Listed(WrappedBackend):
    """A backend that gives counts, as one that lists the shots: Qiskit's sampler takes what is not listed for zeros."""

    def run(self, run_input: Any, shots: int = 1024, **_: Any) -> "_ListedJob":  # pyright: ignore[reportIncompatibleMethodOverride]
        return _ListedJob(self._backend.run(run_input, shots=shots))


class _ListedJob:
    def __init__(self, job: Any) -> None:
        self._job = job

    def result(self) -> Result:
        result = self._job.result()
        for one in result.results:
            counts = one.data.counts if isinstance(one.data.counts, dict) else one.data.counts.to_dict()
            one.data.memory = [_hexadecimal(bits) for bits, number in counts.items() for _ in range(number)]
        return result


def _hexadecimal(bits: str) -> str:
    return bits if bits.startswith("0x") else hex(int(bits.replace(" ", ""), 2))
