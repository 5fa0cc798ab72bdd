"""Amazon Braket: devices by their ARN, or its local simulator."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

from braket.aws import AwsDevice, AwsQuantumTask
from braket.device_schema import DeviceActionType
from qiskit import QuantumCircuit
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit.result import Result
from qiskit_braket_provider import BraketAwsBackend, BraketLocalBackend
from qiskit_braket_provider.providers.braket_quantum_task import BraketQuantumTask

from qfundus.errors import SetupError
from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.wrapped import WrappedBackend

_TAG = "qfundus"  # of a task: the name under which it was sent
_QUEUED = frozenset({"CREATED", "QUEUED"})
_LOOKED_BACK = timedelta(days=30)  # how long after it was sent a task is found again


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a device. Options: `device`, an ARN or `local`."""
    return _open(**options)


def _open(device: str = "local") -> Backend:
    machine = None if device == "local" else _remote(device)
    backend: Any = BraketLocalBackend() if machine is None else BraketAwsBackend(device=machine)
    placed = _Placed(backend)
    named = None if machine is None else _Tasks(machine, backend)
    return Backend(BackendEstimatorV2(backend=placed), BackendSamplerV2(backend=placed), backend.target, named)


class _Machine(AwsDevice):
    """A device that creates the tasks of a batch by its own session: the SDK would by copies that know no token."""

    def run_batch(self, task_specifications: list[Any], **options: Any) -> SimpleNamespace:  # pyright: ignore[reportIncompatibleMethodOverride]
        return SimpleNamespace(tasks=[self.run(member, **options) for member in task_specifications])


class _Tasks:
    """The tasks of a machine, by a tag; the same tag is their idempotency token, so none is created twice."""

    def __init__(self, machine: _Machine, backend: Any) -> None:
        self._machine, self._backend = machine, backend
        self._client: Any = machine.aws_session.braket_client
        self._client.meta.events.register("provide-client-params.braket.CreateQuantumTask", _tag_as_token)

    def knows(self, name: str) -> bool:
        """Return whether a task's tag begins so."""
        return bool(self._sent(name))

    def has_begun(self, name: str) -> bool:
        """Return whether a task of a name has left the queue."""
        return any(task.state() not in _QUEUED for task in self._tasks(name))

    def cancel(self, name: str) -> None:
        """Cancel the tasks of a name that have not ended."""
        for task in self._tasks(name):
            if task.state() not in AwsQuantumTask.TERMINAL_STATES:
                task.cancel()

    def _tasks(self, name: str) -> list[AwsQuantumTask]:
        return [AwsQuantumTask(arn, self._machine.aws_session) for arn in self._sent(name).values()]

    def estimator(self, name: str) -> BackendEstimatorV2:
        """Return an estimator whose tasks are tagged with a name and a number."""
        return BackendEstimatorV2(backend=_Numbered(self._machine, self._backend, name, self._sent(name)))

    def _sent(self, name: str) -> dict[str, str]:
        since = (datetime.now(UTC) - _LOOKED_BACK).isoformat()
        filters = [
            {"name": "deviceArn", "operator": "EQUAL", "values": [self._machine.arn]},
            {"name": "createdAt", "operator": "GT", "values": [since]},
        ]
        pages = self._client.get_paginator("search_quantum_tasks").paginate(filters=filters)
        tasks = [task for page in pages for task in page["quantumTasks"]]
        tagged = {str(task.get("tags", {}).get(_TAG, "")): str(task["quantumTaskArn"]) for task in tasks}
        return {tag: arn for tag, arn in tagged.items() if tag.startswith(f"{name}-")}


def _tag_as_token(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    tag = params.get("tags", {}).get(_TAG)
    return {**params, "clientToken": tag} if tag else params


class _Numbered(WrappedBackend):
    """Tasks numbered in the order in which they are asked for; one that was `sent` is fetched instead.

    A machine that takes several circuits as one task, at the price of one, is given as many as it takes.
    """

    def __init__(self, machine: _Machine, backend: Any, name: str, sent: dict[str, str]) -> None:
        super().__init__(backend)
        self._machine, self._named, self._sent, self._numbers = machine, name, sent, count()
        together: Any = machine.properties.action.get(DeviceActionType.OPENQASM_PROGRAM_SET)
        self._most = together.maximumExecutables if together else 1

    def run(self, run_input: Any, shots: int = 1024, **_: Any) -> "_Jobs":  # pyright: ignore[reportIncompatibleMethodOverride]
        circuits = [run_input] if isinstance(run_input, QuantumCircuit) else list(run_input)
        return _Jobs(list(self._start(circuits, shots)))

    def _start(self, circuits: list[QuantumCircuit], shots: int) -> Iterator[Any]:
        for first in range(0, len(circuits), self._most):
            part, tag = circuits[first : first + self._most], f"{self._named}-{next(self._numbers)}"
            if tag in self._sent:
                task = AwsQuantumTask(self._sent[tag], self._machine.aws_session)
                yield BraketQuantumTask(task.id, self._backend, task if len(part) > 1 else [task])
            else:
                yield self._backend.run(part, shots=shots, tags={_TAG: tag})


class _Jobs:
    """Several jobs, whose results are one."""

    def __init__(self, jobs: list[Any]) -> None:
        self._jobs = jobs

    def result(self) -> Result:
        first, *others = [job.result() for job in self._jobs]
        first.results = [member for result in (first, *others) for member in result.results]
        return first


class _Placed(WrappedBackend):
    """A device whose bits stand where the circuit wants them: the provider closes up those that are not measured."""

    def run(self, run_input: Any, shots: int = 1024, **_: Any) -> "_PlacedJob":  # pyright: ignore[reportIncompatibleMethodOverride]
        circuits = [run_input] if isinstance(run_input, QuantumCircuit) else list(run_input)
        return _PlacedJob(self._backend.run(circuits, shots=shots), [_measured_bits(member) for member in circuits])


class _PlacedJob:
    def __init__(self, job: Any, measured: list[list[int]]) -> None:
        self._job, self._measured = job, measured

    def result(self) -> Result:
        result = self._job.result()
        for member, bits in zip(result.results, self._measured, strict=True):
            member.data.memory = [hex(_spread(int(shot, 16), bits)) for shot in member.data.memory]
        return result


def _measured_bits(circuit: QuantumCircuit) -> list[int]:
    """Return the places of the classical bits that a circuit measures into, lowest first."""
    measured = [member for member in circuit.data if member.operation.name == "measure"]
    return sorted({circuit.find_bit(member.clbits[0]).index for member in measured})


def _spread(closed_up: int, bits: list[int]) -> int:
    return sum((closed_up >> number & 1) << bit for number, bit in enumerate(bits))


def _remote(arn: str) -> _Machine:
    try:
        return _Machine(arn)
    except Exception as error:  # noqa: BLE001  (boto3's errors, and the provider's own, have no common kind)
        raise SetupError(
            f"Amazon Braket does not open the device ({type(error).__name__}): check AWS_PROFILE or AWS_ACCESS_KEY_ID, "
            "AWS_DEFAULT_REGION and the ARN."
        ) from None
