"""Waiting for what happens in another process."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Look again every tenth of a second; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it has not happened within {seconds} seconds"
        time.sleep(0.1)
