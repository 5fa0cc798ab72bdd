"""IBM's machines through Qiskit Runtime; their fake backends, with real calibrations, run here."""

from typing import Any, Literal

from qiskit_ibm_runtime import Batch, EstimatorV2, QiskitRuntimeService, SamplerV2, Session, fake_provider

from qfundus.errors import SetupError
from qfundus.quantum.backends import Backend
from qfundus.settings import QuantumSettings

_CHANNEL = "ibm_quantum_platform"


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a machine.

    Options: `machine` (its name, `least_busy`, or the class of a fake one), `qubits` (at least), `shots`, and `mode`:
    each call a `job` of its own, all of one opening a `batch`, or a `session`, which keeps the machine for a training
    that needs each answer before it asks again.
    """
    return _open(**options)


def _open(
    machine: str = "least_busy", qubits: int = 1, shots: int = 4096, mode: Literal["job", "batch", "session"] = "job"
) -> Backend:
    backend = open_fake(machine) if machine.startswith("Fake") else choose_machine(open_service(), machine, qubits)
    options = {"default_shots": shots}
    modes = {"job": lambda: backend, "batch": lambda: Batch(backend), "session": lambda: Session(backend)}
    opened: Any = modes[mode]()
    estimator, sampler = EstimatorV2(mode=opened, options=options), SamplerV2(mode=opened, options=options)
    return Backend(estimator, sampler, backend.target)


def open_fake(machine: str) -> Any:
    """Open a fake machine, which has a real one's calibration, by its class in `qiskit_ibm_runtime.fake_provider`."""
    kind = getattr(fake_provider, machine, None)
    if kind is None:
        raise SetupError(f"IBM has no fake backend {machine}: see qiskit_ibm_runtime.fake_provider.")
    return kind()


def open_service() -> QiskitRuntimeService:
    """Open IBM's service.

    Raises:
        SetupError: without a token, or where the service refuses it.
    """
    settings = QuantumSettings()
    if settings.ibm_token is None:
        raise SetupError("IBM's machines need a token: set QFUNDUS_IBM_TOKEN (and QFUNDUS_IBM_INSTANCE).")
    token = settings.ibm_token.get_secret_value()
    try:
        return QiskitRuntimeService(channel=_CHANNEL, token=token, instance=settings.ibm_instance)
    except Exception as error:  # noqa: BLE001  (the client's and requests' errors have no common kind)
        raise SetupError(
            f"IBM's service rejected the login ({type(error).__name__}): the token may have expired; "
            "renew QFUNDUS_IBM_TOKEN and QFUNDUS_IBM_INSTANCE, and check this network's outbound access."
        ) from None


def choose_machine(service: Any, machine: str = "least_busy", qubits: int = 1) -> Any:
    """Return a machine by its name, or the least busy one of so many qubits."""
    if machine == "least_busy":
        return service.least_busy(operational=True, simulator=False, min_num_qubits=qubits)
    return service.backend(machine)
