"""Threads that hand work to processes, or wait for the store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

_log = structlog.get_logger()
_THREADS = 6  # enough that the processes never wait for work
_REPORT_EVERY = 200
_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


def in_threads(work: Callable[[_Item], list[_Done]], items: list[_Item], what: str) -> list[_Done]:
    """Return what the work finds in each item, in their order; the log says how far it is."""
    outcomes: list[_Done] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, result in enumerate(pool.map(work, items), 1):
            outcomes += result
            if done % _REPORT_EVERY == 0 or done == len(items):
                _log.info("De-identified", what=what, done=done, of=len(items))
    return outcomes
