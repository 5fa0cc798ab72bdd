"""Promote a version: load it, try it, and only then call it champion; or put back what served before."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import structlog

from qfundus.errors import Retry
from qfundus.hybrid.grader_files import SMOKE_FILE
from qfundus.onnx_graphs.run import GRADER_FILE
from qfundus.registry.triton import (
    SmokeTestError,
    remove_version,
    serve_version,
    smoke_test,
    stop_serving,
    write_version,
)
from qfundus.registry.versions import champion_version, download_file, move_alias, read_version
from qfundus.settings import Settings

_log = structlog.get_logger()


@dataclass(frozen=True)
class Promotion:
    """The result of a promotion; after a rollback, `served` is still the previous version, '' if there was none."""

    version: str
    served: str
    reason: str

    @property
    def succeeded(self) -> bool:
        """Whether the version serves now."""
        return self.version == self.served


def promote_version(settings: Settings, version: str) -> Promotion:
    """Serve a version in place of the champion; a second call finds it serving and tries it once more.

    A version that does not load or answers wrongly is taken out again, and the champion goes on serving.
    """
    champion = champion_version(settings)
    # Known before anything is changed: to put the champion back must need Triton alone.
    rules = {version: read_version(settings, version).refer_below for version in {version, champion} if version}
    with tempfile.TemporaryDirectory() as folder:
        graph = download_file(settings, version, GRADER_FILE, Path(folder))
        smoke = download_file(settings, version, SMOKE_FILE, Path(folder))
        write_version(settings, version, graph)
        try:
            serve_version(settings, version, rules[version])
            smoke_test(settings, version, smoke)
        except (SmokeTestError, Retry) as failure:
            _roll_back(settings, version, champion, rules)
            _log.error("Promotion rolled back", version=version, champion=champion or "none", reason=str(failure))
            return Promotion(version, champion, f"Rolled back: {failure}")
    move_alias(settings, version)
    _log.info("Promoted", version=version, before=champion or "none")
    return Promotion(version, version, "Serving after its smoke test.")


def _roll_back(settings: Settings, version: str, champion: str, rules: dict[str, float]) -> None:
    if champion and champion != version:
        serve_version(settings, champion, rules[champion])
        remove_version(settings, version)
    elif not champion:
        stop_serving(settings)
        remove_version(settings, version)
