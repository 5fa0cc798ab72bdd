"""One port to every simulator and machine: Qiskit's V2 primitives, opened by a name in `configs/quantum.yaml`.

What stands behind `through` in that file is an entry point of the group `qfundus.backends`: a module, or any object,
with `open_backend(options) -> Backend`. A site's own machine joins by naming one in its own package.
"""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import ValidationError
from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2
from qiskit.transpiler import Target

from qfundus.errors import SetupError
from qfundus.layout import checkout

_GROUP = "qfundus.backends"


class Named(Protocol):
    """A machine that keeps each job under a name of ours, so that it is found again after a crash."""

    def knows(self, name: str) -> bool:
        """Return whether anything was sent under a name."""
        ...

    def has_begun(self, name: str) -> bool:
        """Return whether the machine has begun with anything that was sent under a name."""
        ...

    def cancel(self, name: str) -> None:
        """Call back what was sent under a name and has not ended."""
        ...

    def estimator(self, name: str) -> BaseEstimatorV2:
        """Return an estimator for one call under a name; asked the same once more, it sends nothing twice."""
        ...


@dataclass(frozen=True)
class Backend:
    """A place where circuits run; with a `target` they must be compiled for it first.

    `named` is there where the machine remembers by name what it was sent.
    """

    estimator: BaseEstimatorV2
    sampler: BaseSamplerV2
    target: Target | None = None
    named: Named | None = None


def open_backend(name: str, file: Path | None = None) -> Backend:
    """Open what `configs/quantum.yaml`, or another file, describes under a name.

    Raises:
        SetupError: if no backend has that name, a package or a credential is missing, or an option is unknown.
    """
    options = dict(describe_backend(name, file) or {})
    through = str(options.pop("through", name))
    options.pop("price", None)  # the queue's affair
    mitigation = options.pop("mitigation", None)
    points = {point.name: point for point in entry_points(group=_GROUP)}
    if through not in points:
        raise SetupError(f"{name} runs through {through}, which no installed package provides ({_GROUP}).")
    plugin = _load(points[through])
    try:
        backend = plugin.open_backend(options)
        return backend if mitigation is None else _mitigated(backend, mitigation)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SetupError(f"The options of {name} in configs/quantum.yaml are wrong: {wrong}.") from None
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        message = str(error).removeprefix("_open() got an ").removesuffix(".")
        raise SetupError(f"The options of {name} in configs/quantum.yaml are wrong: {message}.") from None


def _mitigated(backend: Backend, mitigation: dict[str, Any]) -> Backend:
    from qfundus.quantum.mitigation import MitigatedEstimator, Mitigation

    # It compiles by itself.
    settings = Mitigation.model_validate(mitigation)
    return Backend(MitigatedEstimator(backend.sampler, backend.target, settings), backend.sampler)


def open_estimator(name: str) -> BaseEstimatorV2:
    """Open the estimator of a named backend: expectation values of observables."""
    return open_backend(name).estimator


def open_sampler(name: str) -> BaseSamplerV2:
    """Open the sampler of a named backend: bit strings."""
    return open_backend(name).sampler


def describe_backend(name: str, file: Path | None = None) -> dict[str, Any]:
    """Return what `configs/quantum.yaml`, or another file, says of a backend.

    Raises:
        SetupError: if none has that name.
    """
    described = read_backends(file)
    if name not in described:
        raise SetupError(f"Unknown quantum backend {name}: use one of {', '.join(sorted(described))}.")
    return described[name]


def read_backends(file: Path | None = None) -> dict[str, dict[str, Any]]:
    """Read which backends there are, by name."""
    file = file or checkout() / "configs" / "quantum.yaml"
    try:
        return yaml.safe_load(file.read_text())["backends"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise SetupError(f"{file.name} does not describe quantum backends ({type(error).__name__}).") from None


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except ImportError as error:
        raise SetupError(
            f"{point.name} needs a package that is not installed ({error.name}): pip install 'qfundus[{point.name}]'."
        ) from None
