"""Qiskit Aer, with or without noise."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.transpiler import Target
from qiskit_aer.primitives import EstimatorV2, SamplerV2

from qfundus.quantum.backends import Backend
from qfundus.quantum.noise import ONE_QUBIT, TWO_QUBITS, NoiseNumbers, make_noise
from qfundus.quantum.primitive_inputs import parameter_sets

_WIDEST = 30  # qubits of a state vector in memory


class _Estimator(EstimatorV2):
    """Aer's estimator; an empty set of parameters, which crashes Aer, and a NaN, which it accepts, are refused."""

    def run(self, pubs: Iterable[Any], *, precision: float | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        for sets in map(parameter_sets, coerced):
            if not len(sets):
                raise ValueError("No parameter set given: give at least one.")
            if not np.isfinite(sets).all():
                raise ValueError("A parameter is not a finite number.")
        return super().run(coerced, precision=precision)


def open_backend(options: dict[str, Any]) -> Backend:
    """Open Aer.

    Options: `noise`, numbers as `quantum/noise.py` takes them, or `calibration`, the class of a fake machine of IBM's
    whose calibration the noise follows, and for which circuits are compiled then; `seed`.
    """
    return _open(**options)


def _open(noise: dict[str, float] | None = None, calibration: str | None = None, seed: int | None = None) -> Backend:
    if calibration is not None:
        if noise is not None:
            raise ValueError("a machine's calibration is its noise: give `noise` or `calibration`")
        return _calibrated(calibration, seed)
    model = {} if noise is None else {"noise_model": make_noise(NoiseNumbers(**noise))}
    # A gate that the noise does not know would be free of it: circuits are compiled to those that it knows.
    target = None if noise is None else Target.from_configuration([*ONE_QUBIT, *TWO_QUBITS, "measure"], _WIDEST)
    estimator = _Estimator(options={"backend_options": model, "run_options": _seeded(seed)})
    return Backend(estimator, SamplerV2(seed=seed, options={"backend_options": model}), target)


def _seeded(seed: int | None) -> dict[str, int]:
    return {} if seed is None else {"seed_simulator": seed}


def _calibrated(machine: str, seed: int | None) -> Backend:
    from qfundus.quantum.backends.ibm import open_fake

    fake = open_fake(machine)
    estimator = _Estimator.from_backend(fake, options={"run_options": _seeded(seed)})
    return Backend(estimator, SamplerV2.from_backend(fake, seed=seed), fake.target)
