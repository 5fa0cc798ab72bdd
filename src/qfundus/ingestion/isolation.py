"""Work in processes of their own: native decoders meet hostile files there, and a crash costs one item, not the run."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from qfundus.errors import Discard

_LOOKED_EVERY = 0.5  # seconds
_forking = threading.Lock()
P = ParamSpec("P")
R = TypeVar("R")


class Isolation:
    """A pool of processes that many threads may use.

    Enter it before any thread is started: its processes are forked, and a fork copies locks that other threads hold.
    """

    def __init__(self, processes: int, prepare: Callable[..., None], *arguments: Any) -> None:
        self._processes = processes
        self._prepare = prepare
        self._arguments = arguments
        self._renewing = threading.Lock()

    def __enter__(self) -> Self:
        self._pool = self._make(self._processes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Return what a function returns in another process.

        Raises:
            Discard: if its process dies, twice, the second time alone.
        """
        pool = self._pool
        try:
            return pool.submit(work, *arguments, **named).result()
        except BrokenProcessPool:
            self._renew(pool)
        # The pool broke under this item or under another that ran beside it: alone it shows.
        with self._make(1) as own:
            try:
                return own.submit(work, *arguments, **named).result()
            except BrokenProcessPool:
                raise Discard("decoder_crashed", "A decoder crashed on its pixels.") from None

    def _renew(self, broken: ProcessPoolExecutor) -> None:
        with self._renewing:
            if self._pool is broken:
                self._pool = self._make(self._processes)

    def _make(self, processes: int) -> ProcessPoolExecutor:
        # One at a time: a process that is forked while another is being made inherits the end of the pipe by which the
        # other's death would be noticed, and nobody would.
        with _forking:
            pool = ProcessPoolExecutor(processes, initializer=_begin, initargs=(self._prepare, self._arguments))
            pool.submit(int)  # the first task starts the processes
        return pool


def _begin(prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    prepare(*arguments)


def end_with_parent() -> None:
    """Let this process end soon after its parent: a killed parent cannot tell its pool to."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOKED_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
