"""Secrets and settings of the embedded platform: made once, kept in files that only their owner reads."""

import base64
import json
import os
import secrets
from pathlib import Path

import structlog

_log = structlog.get_logger()
SECRET_NAMES = (
    "site_key",
    "s3_access_key",
    "s3_secret_key",
    "airflow_password",
    "airflow_jwt_secret",
    "airflow_fernet_key",
    "mlflow_secret",
    "weed_jwt",
)


def load_or_make_secrets(folder: Path) -> dict[str, str]:
    """Return the platform's secrets, made on the first call."""
    file = folder / "secrets.json"
    if file.exists():
        return json.loads(file.read_text())
    made = {name: _make(name) for name in SECRET_NAMES}
    write_private(file, json.dumps(made, indent=1))
    _log.warning("Generated a new site key. Pseudonyms depend on it: back it up", file=str(file))
    return made


def rotate_site_key(folder: Path) -> None:
    """Put a new secret before the site's present ones, which still lead to its pseudonyms."""
    stored = load_or_make_secrets(folder)
    stored["site_key"] = f"{_make('site_key')},{stored['site_key']}"
    write_private(folder / "secrets.json", json.dumps(stored, indent=1))


def write_private(file: Path, text: str) -> None:
    """Write a file with mode 0600, complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    draft.replace(file)


def write_private_bytes(file: Path, data: bytes) -> None:
    """Write a new file with mode 0600.

    Raises:
        FileExistsError: if there is one of that name.
    """
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(data)


def _make(name: str) -> str:
    match name:
        case "airflow_fernet_key":
            return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        case "airflow_password":
            return secrets.token_urlsafe(12)
        case "s3_access_key":
            return secrets.token_hex(10)
        case _:
            return secrets.token_hex(32)
