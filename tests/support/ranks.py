"""Processes that train together, as torchrun starts them, forked from one that has imported PyTorch already."""

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")  # not a fork of this process, whose threads may hold locks
_CONTEXT.set_forkserver_preload(["qfundus.classical.train", "torch._dynamo"])
_LONGEST = 100  # seconds


class Ranks:
    """Processes of one work, running; what they write to stdout and stderr goes to a file."""

    def __init__(
        self,
        work: Callable[..., Any],
        arguments: tuple,
        count: int,
        output: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.output = output
        output.write_bytes(b"")
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        joined = shared if count > 1 else {}
        self._processes: list[BaseProcess] = []
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            known = {**os.environ, **joined, **own, **environment}
            process = _CONTEXT.Process(target=_take_part, args=(work, arguments, output, known))
            process.start()
            self._processes.append(process)

    @property
    def ended(self) -> bool:
        """Whether all have ended, or one has failed."""
        codes = [process.exitcode for process in self._processes]
        return None not in codes or any(codes)

    def wait(self) -> int:
        """Wait for the end; return the first exit status that is not 0. One that fails ends the others."""
        until = time.monotonic() + _LONGEST
        while not self.ended and time.monotonic() < until:
            time.sleep(0.02)
        status = next((code for process in self._processes if (code := process.exitcode) != 0), 0)
        self.kill()
        assert status is not None, f"they have not ended within {_LONGEST} seconds: {self.output.read_text()[-3000:]}"
        return status

    def kill(self) -> None:
        """End them as `kill -9` does."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _take_part(work: Callable[..., Any], arguments: tuple, output: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with output.open("ab", 0) as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    # The server's own lead to where they led when it was started.
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1, closefd=False), os.fdopen(2, "w", 1, closefd=False)
    torch.set_num_threads(1)
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(work(*arguments))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
