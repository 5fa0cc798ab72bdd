"""Qiskit Aer, with or without noise."""

from typing import Any

from qiskit_aer.primitives import EstimatorV2, SamplerV2

from qfundus.quantum.backends import Backend
from qfundus.quantum.noise import NoiseNumbers, make_noise


def open_backend(options: dict[str, Any]) -> Backend:
    """Open Aer.

    Options: `noise`, numbers as `quantum/noise.py` takes them, or `calibration`, the class of a fake machine of IBM's
    whose calibration the noise follows, and for which circuits are compiled then; `seed`.
    """
    return _open(**options)


def _open(noise: dict[str, float] | None = None, calibration: str | None = None, seed: int | None = None) -> Backend:
    if calibration is not None:
        return _calibrated(calibration)
    model = {} if noise is None else {"noise_model": make_noise(NoiseNumbers(**noise))}
    seeded = {} if seed is None else {"seed_simulator": seed}
    estimator = EstimatorV2(options={"backend_options": model, "run_options": seeded})
    return Backend(estimator, SamplerV2(seed=seed, options={"backend_options": model}))


def _calibrated(machine: str) -> Backend:
    from qfundus.quantum.backends.ibm import open_fake

    fake = open_fake(machine)
    return Backend(EstimatorV2.from_backend(fake), SamplerV2.from_backend(fake), fake.target)
