"""Describe a training: its recipe, its code and the versions it runs on."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import structlog
import torch

from qfundus.classical.job import TrainingJob

_log = structlog.get_logger()


def _revision(folder: Path) -> str:
    """Return the commit that runs: what an image was built of, or a checkout's, '' where neither is known."""
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    built = os.environ.get("QFUNDUS_REVISION")
    if built or not (folder / ".git").exists() or not shutil.which("git"):
        return built or ""
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def describe_environment() -> dict[str, str]:
    """Return the versions of the code, and the lock file it was installed from."""
    import qfundus
    from qfundus.layout import checkout

    lock = checkout() / "requirements" / "qfundus.lock"
    return {
        "qfundus": f"{qfundus.__version__} {_revision(checkout())}".strip(),
        "torch": str(torch.__version__),
        "lock": lock.read_text() if lock.exists() else "",
    }


def describe_training(job: TrainingJob, digest: str) -> tuple[dict[str, str], dict[str, str]]:
    """Say what is trained, on photographs of a digest, by what code: values by name, and texts by file."""
    environment = describe_environment()
    parameters = flatten(job.recipe.model_dump())
    parameters |= {"recipe": job.recipe.name, "seed": str(job.seed), "fold": str(job.fold), "photographs": digest}
    parameters |= {"qfundus": environment["qfundus"], "torch": environment["torch"]}
    return parameters, {"recipe.json": job.recipe.model_dump_json(indent=1), "qfundus.lock": environment["lock"]}


def flatten(recipe: dict[str, Any]) -> dict[str, str]:
    """Name each setting of a recipe by its path: `fitting.epochs`."""
    parts = {part: values for part, values in recipe.items() if isinstance(values, dict)}
    return {f"{part}.{name}": str(value) for part, values in parts.items() for name, value in values.items()}
