"""Launch trainings: in this process, by torchrun on this machine, or by what a cluster has for it."""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from qfundus.classical.checkpoint_folder import GRACE
from qfundus.classical.job import LAST_WORD, TrainingJob
from qfundus.classical.storage_folder import StorageFolder
from qfundus.errors import Retry, SetupError, TrainingError

JOB_FILE, OUTPUT_FILE = "job.json", "output.log"
_POLL, _TELL_REMOTE, _SHOWN_LINES = 0.5, 15.0, 12  # seconds, seconds
_ELASTIC = re.compile(r"[EW]\d{4} .*torch/distributed/elastic|=+$")
_FULL = 1 << 20  # bytes: with less, a disk takes nothing that is written here
_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)  # opened here: between fork and exec, another thread's lock on the loader would last forever
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroups(7), version 2
# A step's large arrays are the next step's: glibc would give them back to the kernel, and clear them again, each time.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


class Running(Protocol):
    """A training that was launched."""

    def has_ended(self) -> bool:
        """Return whether it has ended well.

        Raises:
            TrainingError: if it failed; the message ends with the last lines that the training printed.
        """
        ...

    def end(self) -> None:
        """End it and everything it started; if it has ended already, do nothing."""
        ...


class Launcher(Protocol):
    """Launches trainings, a limited number at once."""

    @property
    def at_once(self) -> int:
        """How many trainings may run side by side."""
        ...

    @property
    def processes(self) -> int:
        """How many processes train one network."""
        ...

    def start(self, job: TrainingJob) -> Running:
        """Start a training, or find again the one that was started before."""
        ...

    def clear(self, job: TrainingJob) -> None:
        """Remove what an earlier try of a finished training has left behind."""
        ...


def train_all(
    jobs: Sequence[TrainingJob], launcher: Launcher, advanced: Callable[[Sequence[TrainingJob]], None] = lambda _: None
) -> None:
    """Train jobs; a finished one is left as it is, an interrupted one is resumed.

    Raises:
        TrainingError: saying why a training failed; the others are ended.
    """
    waiting = [job for job in jobs if not job.is_done]
    for job in jobs:
        if job not in waiting:
            launcher.clear(job)
    running: list[Running] = []
    tell_at = 0.0
    try:
        while waiting or running:
            while waiting and len(running) < launcher.at_once:
                running.append(launcher.start(waiting.pop(0)))
            time.sleep(_POLL)
            if time.monotonic() > tell_at:
                with contextlib.suppress(OSError):  # how far they are may stay unknown for a while
                    advanced(jobs)
                tell_at = time.monotonic() + (_TELL_REMOTE if jobs[0].results.remote else _POLL)
            running = [training for training in running if not training.has_ended()]
    except Retry:
        running.clear()  # they go on by themselves: the next try finds them
        raise
    finally:
        if running:  # together: ending this process does not take long then
            with ThreadPoolExecutor(len(running)) as pool:
                list(pool.map(lambda training: training.end(), running))


@dataclass(frozen=True)
class InPlace:
    """Trains one after another in this process."""

    at_once: int = 1
    processes: int = 1

    def start(self, job: TrainingJob) -> Running:
        """Train to the end."""
        from qfundus.classical.train import train  # other launchers leave that to other processes

        job.results.write(JOB_FILE, job.to_json().encode())
        train(job)
        return Ended()

    def clear(self, job: TrainingJob) -> None:
        """Do nothing: a training in this process leaves nothing behind."""


class Ended:
    """A training that has ended well."""

    def has_ended(self) -> bool:
        """Say so."""
        return True

    def end(self) -> None:
        """Leave it alone."""


@dataclass(frozen=True)
class Torchrun:
    """Trains in processes of this machine, `processes` to a network; one GPU each if there are GPUs.

    `scratch` holds what the processes of a training in S3 read and say.
    """

    processes: int
    at_once: int
    scratch: Path
    free_gpus: list[str] = field(default_factory=list)  # in lots of `processes`

    @classmethod
    def open(cls, networks: int, processes: int, at_once: int, scratch: Path) -> "Torchrun":
        """Fit a number of networks to this machine; with `at_once` 0, as many as fit are trained at once.

        Raises:
            SetupError: if there are GPUs, and too few of them for one network.
        """
        gpus = visible_gpus()
        if 0 < len(gpus) < processes:
            raise SetupError(f"There are {len(gpus)} GPUs for {processes} processes a network: ask for fewer.")
        places = len(gpus) or usable_cpus()
        fitting = max(1, min(networks, places // processes))
        wanted = min(at_once, fitting) if at_once and gpus else at_once or fitting
        firsts = range(0, len(gpus) // processes * processes, processes)
        return cls(processes, wanted, scratch, [",".join(gpus[first : first + processes]) for first in firsts])

    def start(self, job: TrainingJob) -> Running:
        """Start a training on this machine."""
        place = StorageFolder(job.folder)
        folder = self.scratch / Path(job.folder).name if place.remote else Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JOB_FILE).write_text(job.to_json())
        gpus = self.free_gpus.pop(0) if self.free_gpus else ""
        with (folder / OUTPUT_FILE).open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                command(folder / JOB_FILE, self.processes),
                stdout=output,
                stderr=output,
                env=environment(self.threads) | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (one call into the kernel)
            )
        return Processes(process, folder / OUTPUT_FILE, begin, lambda: self.free_gpus.append(gpus) if gpus else None)

    def clear(self, job: TrainingJob) -> None:
        """Do nothing: its output stays for people to read."""

    @property
    def threads(self) -> int:
        """How many threads each process has."""
        return max(1, usable_cpus() // (self.at_once * self.processes))


@dataclass(frozen=True)
class Processes:
    """A training in processes of this machine, the file with their output, and how to give back their GPUs.

    The output of earlier tries comes before `begin` in that file.
    """

    process: "subprocess.Popen[bytes]"
    output: Path
    begin: int
    give_back: Callable[[], None]

    def has_ended(self) -> bool:
        """Return whether it has ended well."""
        if self.process.poll():
            message = last_words(self.output.read_bytes()[self.begin :].decode(errors="replace").splitlines())
            if shutil.disk_usage(self.output.parent).free < _FULL:
                message += "\n(The disk is full: free some space and start it again.)"
            if self.process.returncode < 0:
                name = signal.Signals(-self.process.returncode).name
                message += f"\n(It was ended by {name}; by SIGKILL the kernel ends what takes too much memory.)"
            raise TrainingError(f"A training failed; {self.output} ends:\n{message}")
        if self.process.returncode is None:
            return False
        self.give_back()
        return True

    def end(self) -> None:
        """End it with all that it started."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            # The group even where its leader is gone: what it started may be there yet.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE + 5)


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, limited by its control group's quota."""
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # the file is missing, or says `max`
        return bound


def visible_gpus() -> list[str]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES does."""
    import torch

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return allowed.split(",")[:count] if allowed else [str(number) for number in range(count)]


def last_words(lines: Sequence[str]) -> str:
    """Return why a training failed: its own error message, else the end of its output before torchrun's."""
    own = [line for line in lines if line.startswith(LAST_WORD)]
    if own:
        return own[-1].removeprefix(LAST_WORD)
    before = list(takewhile(lambda line: not _ELASTIC.match(line), lines))
    return "\n".join((before or list(lines))[-_SHOWN_LINES:]).strip() or "(it printed nothing)"


def command(job_file: Path, processes: int) -> list[str]:
    """Write the command that trains a job on this machine."""
    module = "qfundus.classical.train"
    if processes == 1:
        return [sys.executable, "-m", module, str(job_file)]
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    beside = ["--log-dir", str(job_file.parent / "torchrun")]  # else it leaves a new folder in /tmp each time
    return [sys.executable, *many, *beside, "-m", module, str(job_file)]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a training with that many threads to a process."""
    return {**KEPT_MEMORY, **os.environ, "OMP_NUM_THREADS": str(threads)}


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent is gone, even by kill -9."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGTERM)
