"""Run several commands at the same time and say of each how long it took; `make test` calls this.

    python tests/lanes.py test-platform lint,test-alone

Each lane is a target of the Makefile, or several with commas between, one after another. What a target prints appears
when it ends, so that two do not mix; its last line so far is shown while it runs. The exit status is 1 if one has
failed.
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
class Target:
    """One target of the Makefile, running; `then` names those that follow it."""

    name: str
    folder: Path
    then: list[str]

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
        """Return whether it has ended; note when."""
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


def run_lanes(lanes: list[str]) -> bool:
    """Run all lanes; return whether all their targets have passed."""
    with tempfile.TemporaryDirectory() as folder:
        running = [_start(lane.split(","), folder) for lane in lanes]
        ran, shown = list(running), time.monotonic()
        try:
            while running:
                time.sleep(0.2)
                for target in [target for target in running if target.has_ended()]:
                    running.remove(target)
                    print(f"==== {target.name}: {target.result} in {target.seconds:.0f} s", flush=True)
                    print(target.output.read_text(errors="replace"), flush=True)
                    if target.then:
                        running.append(_start(target.then, folder))
                        ran.append(running[-1])
                if time.monotonic() - shown > _PROGRESS:
                    shown = time.monotonic()
                    for target in running:
                        print(f"{target.name}, {shown - target.begun:.0f} s: {target.last_line()}", flush=True)
        finally:
            for target in running:
                target.end()
        _summarise(ran)
        return all(target.process.returncode == 0 for target in ran)


def _start(names: list[str], folder: str) -> Target:
    return Target(names[0], Path(folder), names[1:])


def _summarise(ran: list[Target]) -> None:
    not_run: Counter[str] = Counter()
    for target in ran:
        if target.not_run.exists():
            counts = Counter(json.loads(target.not_run.read_text()))
            # What another target has run is not left out.
            not_run |= Counter({why: n for why, n in counts.items() if not any(f"`make {o.name}`" in why for o in ran)})
    print(f"\n{'Lane':<16}{'Result':<10}{'Seconds':>8}")
    for target in ran:
        print(f"{target.name:<16}{target.result:<10}{target.seconds:>8.0f}")
    print("\nNot run:")
    for why, count in not_run.most_common():
        print(f"{count:6d}  {why}")
    # What no lane collects has no count.
    print("        on a Kubernetes of your own: `make test-cluster`\n        on a GPU: `make test-gpu`")


def _end(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(not run_lanes(sys.argv[1:]))
