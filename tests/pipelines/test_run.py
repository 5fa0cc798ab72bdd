"""The Kubeflow branch against a stand-in for its API (v2beta1), which cannot be had here and what a run here leaves."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from pipelines import run


class Kubeflow(BaseHTTPRequestHandler):
    ended = "SUCCEEDED"
    submitted: ClassVar[dict] = {}

    def do_GET(self):
        if "/experiments" in self.path:
            self.answer({"experiments": [{"experiment_id": "e1", "display_name": "qfundus"}]})
        elif "/runs/r1" in self.path:
            self.answer({"run_id": "r1", "state": self.ended})
        else:
            self.answer({})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/runs"):
            Kubeflow.submitted = body
            self.answer({"run_id": "r1", "state": "PENDING"})
        else:
            self.answer({"experiment_id": "e1", "display_name": "qfundus"})

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def kubeflow(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubeflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(run, "POLL_SECONDS", 0)
    monkeypatch.setattr(run, "_endpoint", lambda: f"http://127.0.0.1:{server.server_port}")
    yield Kubeflow
    server.shutdown()
    Kubeflow.ended = "SUCCEEDED"


def test_the_same_graph_is_submitted_with_its_parameters(kubeflow):
    run.run_retraining('{"name": "x"}', "2026-01-01T00:00:00+00:00", "3")
    assert kubeflow.submitted["runtime_config"]["parameters"] == {
        "recipe": '{"name": "x"}',
        "as_of": "2026-01-01T00:00:00+00:00",
        "champion": "3",
    }
    spec = kubeflow.submitted["pipeline_spec"]
    tasks = spec.get("pipeline_spec", spec)["root"]["dag"]["tasks"]
    assert {"train-classical", "train-quantum", "register-candidate"} <= set(tasks)


def test_a_failed_run_says_where_to_look(kubeflow):
    kubeflow.ended = "FAILED"
    with pytest.raises(RuntimeError, match=r"r1 ended as FAILED.*Kubeflow"):
        run.run_retraining("{}", "2026-01-01T00:00:00+00:00", "")


HERE = """
from pipelines import run
run._endpoint = lambda: None
run.run_retraining("no recipe", "2026-01-01T00:00:00+00:00", "", cache=False)
"""


@pytest.mark.slow
def test_a_run_here_leaves_no_program_of_its_steps(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    known = {**os.environ, "TMPDIR": str(scratch), "QFUNDUS_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", HERE], env=known, capture_output=True, text=True, check=False)
    assert "snapshot-dataset" in done.stdout + done.stderr  # a step was begun, and failed
    assert done.returncode
    assert not list(scratch.iterdir())
