"""Check that MLflow and Weights & Biases answer before a training starts."""

import os
import re

import httpx
import structlog

from qfundus.errors import SetupError

_log = structlog.get_logger()


def check_trackers(track: str) -> None:
    """Check that the MLflow server answers: its client would retry for minutes without a message.

    Raises:
        SetupError: naming the server, or what Weights & Biases lacks.
    """
    check_wandb()
    if not track:
        return
    if not track.startswith(("http://", "https://")):
        scheme = track.partition(":")[0]
        raise SetupError(
            f"--track {scheme}:… is not the address of an MLflow server: it must begin with http:// or https://."
        )
    try:
        httpx.get(f"{track.rstrip('/')}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        where = re.sub(r"//[^/]*@", "//", track)  # a password may stand before its host
        raise SetupError(f"MLflow does not answer at {where} ({type(error).__name__}): check --track.") from None


def check_wandb() -> None:
    """Check that Weights & Biases, if asked for, is installed and logged in: else it would end each training.

    Raises:
        SetupError: saying how to log in, or how to do without it.
    """
    if not os.environ.get("WANDB_PROJECT") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    try:
        import wandb
    except ImportError:
        raise SetupError(
            "WANDB_PROJECT is set, but wandb is not installed: run `pip install qfundus[wandb]`."
        ) from None
    if not wandb.api.api_key:
        raise SetupError(
            "WANDB_PROJECT is set, and nobody is logged in to Weights & Biases: set WANDB_API_KEY or "
            "WANDB_MODE=offline, or unset WANDB_PROJECT."
        )
