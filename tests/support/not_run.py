"""A pytest plugin: it says at the end which tests did not run, and why."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

WHY = {
    "product": "left out, as another takes the same path: `make test-all`",
    "slow": "takes more than some seconds: `make test-slow`",
    "platform": "needs the whole platform: `make test-platform`",
    "cluster": "needs a Kubernetes: `make test-cluster`",
    "gpu": "needs a GPU: `make test-gpu`",
}
LEFT_OUT = pytest.StashKey[Counter]()


def pytest_configure(config):
    config.stash[LEFT_OUT] = Counter()


def pytest_deselected(items):
    for item in items:
        marks = [name for name in WHY if item.get_closest_marker(name)]
        if marks:
            item.config.stash[LEFT_OUT][WHY[marks[0]]] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take one worker's counts: all workers collect the same tests."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


def pytest_terminal_summary(terminalreporter, config):
    left_out = Counter(config.stash[LEFT_OUT])
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            left_out[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if left_out:
        terminalreporter.section("not run")
        for why, count in left_out.most_common():
            terminalreporter.write_line(f"{count:5d}  {why}")
    if file := os.environ.get("QFUNDUS_TESTS_NOT_RUN"):
        Path(file).write_text(json.dumps(left_out))
