"""Serve a version after its smoke test, or roll back."""

from dataclasses import asdict

from qfundus.errors import SetupError
from qfundus.registry.promote import promote_version
from qfundus.settings import load_settings


def promote_candidate(version: str) -> dict[str, str]:
    """Promote a version; return which version serves, and why.

    Raises:
        SetupError: if the promotion was rolled back.
    """
    promotion = promote_version(load_settings(), version)
    if not promotion.succeeded:
        served = f"version {promotion.served} still serves" if promotion.served else "no version serves"
        raise SetupError(f"Version {version} was not promoted; {served}. {promotion.reason}")
    return asdict(promotion)
