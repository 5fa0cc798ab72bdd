"""Amazon Braket: devices by their ARN, or its local simulator."""

from typing import Any

from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit_braket_provider import BraketLocalBackend, BraketProvider

from qfundus.errors import SetupError
from qfundus.quantum.backends import Backend


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a device. Options: `device`, an ARN or `local`."""
    return _open(**options)


def _open(device: str = "local") -> Backend:
    backend: Any = BraketLocalBackend() if device == "local" else _remote(device)
    return Backend(BackendEstimatorV2(backend=backend), BackendSamplerV2(backend=backend), backend.target)


def _remote(arn: str) -> Any:
    try:
        return BraketProvider().get_backend(arn.rsplit("/", maxsplit=1)[-1])
    except Exception as error:  # noqa: BLE001  (boto3's errors, and the provider's own, have no common kind)
        raise SetupError(
            f"Amazon Braket does not open the device ({type(error).__name__}): check AWS_PROFILE or AWS_ACCESS_KEY_ID, "
            "AWS_DEFAULT_REGION and the ARN."
        ) from None
