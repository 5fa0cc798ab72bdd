"""Progress of long work on a terminal; elsewhere a line in the log now and then."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import structlog
from rich.console import Console

_log = structlog.get_logger()
_REDRAWN_EVERY, _LOGGED_EVERY = 0.1, 10.0  # seconds


class Counts(Protocol):
    """Counts that can say themselves in a sentence."""

    def describe(self) -> str:
        """Say the counts."""
        ...


@contextmanager
def counting() -> Generator[Callable[[Counts], None]]:
    """Yield a function that shows the counts it is given."""
    console = Console(stderr=True)
    started = last = time.monotonic()
    if not sys.stderr.isatty():

        def log(counts: Counts) -> None:
            nonlocal last
            if time.monotonic() - last > _LOGGED_EVERY:
                last = time.monotonic()
                _log.info(counts.describe(), seconds=round(last - started))

        yield log
        return
    with console.status("Reading ...") as shown:

        def show(counts: Counts) -> None:
            nonlocal last
            if time.monotonic() - last > _REDRAWN_EVERY:
                last = time.monotonic()
                shown.update(counts.describe())

        yield show
