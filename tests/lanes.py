"""Run several commands at the same time and say of each how long it took; `make test` calls this.

    python tests/lanes.py lint test-fast test-platform

Each lane is a target of the Makefile. A lane's output appears when the lane ends, so that two do not mix; its last line
so far is shown while it runs. The exit status is 1 if a lane has failed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROGRESS = 30  # seconds between two lines that say what still runs


@dataclass
class Lane:
    """One target of the Makefile, running."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        """Start it."""
        self.begun = time.monotonic()
        self.seconds = 0.0
        self.output = self.folder / f"{self.name}.txt"
        self.not_run = self.folder / f"{self.name}.json"
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                ["make", "--no-print-directory", self.name],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "QFUNDUS_TESTS_NOT_RUN": str(self.not_run)},
                start_new_session=True,
            )

    def end(self) -> None:
        """End it with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()

    def has_ended(self) -> bool:
        """Say whether it has ended; note when."""
        if self.process.poll() is None:
            return False
        self.seconds = self.seconds or time.monotonic() - self.begun
        return True

    @property
    def result(self) -> str:
        """Its result in a word."""
        return "passed" if self.process.returncode == 0 else "FAILED"

    def last_line(self) -> str:
        """Return the end of what it has written so far."""
        lines = self.output.read_text(errors="replace").split("\n")
        return next((line.strip()[-100:] for line in reversed(lines) if line.strip()), "")


def run_lanes(names: list[str]) -> bool:
    """Run all lanes; return whether all have passed."""
    with tempfile.TemporaryDirectory() as folder:
        lanes = [Lane(name, Path(folder)) for name in names]
        running, shown = list(lanes), time.monotonic()
        try:
            while running:
                time.sleep(0.2)
                for lane in [lane for lane in running if lane.has_ended()]:
                    running.remove(lane)
                    print(f"==== {lane.name}: {lane.result} in {lane.seconds:.0f} s", flush=True)
                    print(lane.output.read_text(errors="replace"), flush=True)
                if time.monotonic() - shown > _PROGRESS:
                    shown = time.monotonic()
                    for lane in running:
                        print(f"{lane.name}, {shown - lane.begun:.0f} s: {lane.last_line()}", flush=True)
        finally:
            for lane in running:
                lane.end()
        _summarise(lanes)
        return all(lane.process.returncode == 0 for lane in lanes)


def _summarise(lanes: list[Lane]) -> None:
    not_run: Counter[str] = Counter()
    for lane in lanes:
        if lane.not_run.exists():
            counts = Counter(json.loads(lane.not_run.read_text()))
            # What another lane has run is not left out.
            not_run |= Counter(
                {why: n for why, n in counts.items() if not any(f"`make {o.name}`" in why for o in lanes)}
            )
    print(f"\n{'Lane':<16}{'Result':<10}{'Seconds':>8}")
    for lane in lanes:
        print(f"{lane.name:<16}{lane.result:<10}{lane.seconds:>8.0f}")
    print("\nNot run:" if not_run else "\nEvery test has run.")
    for why, count in not_run.most_common():
        print(f"{count:6d}  {why}")


def _end(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(not run_lanes(sys.argv[1:]))
