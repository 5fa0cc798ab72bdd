"""Amazon Braket: devices by their ARN, or its local simulator."""

from typing import Any

from qiskit import QuantumCircuit
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit.result import Result
from qiskit_braket_provider import BraketLocalBackend, BraketProvider

from qfundus.errors import SetupError
from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.around import Around


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a device. Options: `device`, an ARN or `local`."""
    return _open(**options)


def _open(device: str = "local") -> Backend:
    backend: Any = BraketLocalBackend() if device == "local" else _remote(device)
    sampler = BackendSamplerV2(backend=_Placed(backend))
    return Backend(BackendEstimatorV2(backend=backend), sampler, backend.target)


class _Placed(Around):
    """A device whose bits stand where the circuit wants them: the provider closes up those that are not measured."""

    def run(self, run_input: Any, **options: Any) -> "_PlacedJob":  # pyright: ignore[reportIncompatibleMethodOverride]
        circuits = [run_input] if isinstance(run_input, QuantumCircuit) else list(run_input)
        return _PlacedJob(self._backend.run(circuits, **options), [_measured_bits(one) for one in circuits])


class _PlacedJob:
    def __init__(self, job: Any, measured: list[list[int]]) -> None:
        self._job, self._measured = job, measured

    def result(self) -> Result:
        result = self._job.result()
        for one, bits in zip(result.results, self._measured, strict=True):
            one.data.memory = [hex(_spread(int(shot, 16), bits)) for shot in one.data.memory]
        return result


def _measured_bits(circuit: QuantumCircuit) -> list[int]:
    """Return the places of the classical bits that a circuit measures into, lowest first."""
    measured = [one for one in circuit.data if one.operation.name == "measure"]
    return sorted({circuit.find_bit(one.clbits[0]).index for one in measured})


def _spread(closed_up: int, bits: list[int]) -> int:
    return sum((closed_up >> number & 1) << bit for number, bit in enumerate(bits))


def _remote(arn: str) -> Any:
    try:
        return BraketProvider().get_backend(arn.rsplit("/", maxsplit=1)[-1])
    except Exception as error:  # noqa: BLE001  (boto3's errors, and the provider's own, have no common kind)
        raise SetupError(
            f"Amazon Braket does not open the device ({type(error).__name__}): check AWS_PROFILE or AWS_ACCESS_KEY_ID, "
            "AWS_DEFAULT_REGION and the ARN."
        ) from None
