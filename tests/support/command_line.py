"""The command line, in the test's own process."""

import structlog
from typer.testing import CliRunner

from qfundus.cli import app


def call(*words):
    """Call the command line; its logs are not to go to the closed file that stood for the terminal."""
    try:
        return CliRunner().invoke(app, [str(word) for word in words])
    finally:
        structlog.reset_defaults()
