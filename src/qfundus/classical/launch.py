"""Start a training: in this process, or by torchrun on this machine."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qfundus.classical.train import TRAINED_FILE, Job
from qfundus.errors import TrainingError

JOB_FILE, OUTPUT_FILE = "job.json", "output.log"
_POLL, _SHOWN_LINES = 0.5, 12
_PDEATHSIG = 1  # prctl(2)
# A step's large arrays are the next step's: glibc would give them back to the kernel, and clear them again, each time.
_KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass
class Running:
    """A training that runs in processes of its own."""

    job: Job
    process: "subprocess.Popen[bytes]"

    @property
    def output(self) -> Path:
        """What it said."""
        return Path(self.job.folder) / OUTPUT_FILE


def command(job_file: Path, processes: int) -> list[str]:
    """Write the command that trains a job on this machine."""
    module = "qfundus.classical.train"
    if processes == 1:
        return [sys.executable, "-m", module, str(job_file)]
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *many, "-m", module, str(job_file)]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a training with that many threads to a process."""
    return {**_KEPT_MEMORY, **os.environ, "OMP_NUM_THREADS": str(threads)}


def start(job: Job, processes: int, threads: int) -> Running:
    """Start a training on this machine."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOB_FILE).write_text(job.to_json())
    with (folder / OUTPUT_FILE).open("ab") as output:
        process = subprocess.Popen(
            command(folder / JOB_FILE, processes),
            stdout=output,
            stderr=output,
            env=environment(threads),
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  (one call into the kernel, and no thread holds a lock yet)
        )
    return Running(job, process)


def _end_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone, even by kill -9."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


def train_all(
    jobs: Sequence[Job], processes: int, at_once: int, advanced: Callable[[Sequence[Job]], None] = lambda _: None
) -> None:
    """Train jobs, a few at once; one that has ended before is left as it is, one that was cut off is gone on with.

    Raises:
        TrainingError: with the last lines of a training that failed; the others are ended.
    """
    threads = max(1, (os.cpu_count() or 1) // (at_once * processes))
    waiting = [job for job in jobs if not (Path(job.folder) / TRAINED_FILE).exists()]
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(start(waiting.pop(0), processes, threads))
            time.sleep(_POLL)
            advanced(jobs)
            for one in running:
                if one.process.poll():
                    raise TrainingError(_describe_failure(one))
            running = [one for one in running if one.process.returncode is None]
    finally:
        for one in running:
            _end(one.process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a training with all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        # The group even where its leader is gone: what it started may be there yet.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _describe_failure(one: Running) -> str:
    said = one.output.read_text(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    return "\n".join([f"A training failed; the last lines of {one.output}:", *said])
