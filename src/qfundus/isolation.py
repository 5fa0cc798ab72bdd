"""Work in processes of their own: native decoders meet hostile files there, and a crash costs one item, not the run."""

import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from qfundus.errors import Discard

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
        self._pool.submit(int).result()  # the first task starts the processes
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Return what a function returns in another process.

        Raises:
            Discard: where its process dies, twice, the second time alone.
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
        return ProcessPoolExecutor(processes, initializer=self._prepare, initargs=self._arguments)
