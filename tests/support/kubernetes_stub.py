"""A stand-in for a cluster with Kubeflow Trainer on loopback: it checks TrainJobs by the SDK's own models, and runs
their nodes as processes of this machine.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from kubernetes_trainer import RUNTIME, list_nodes

_TRAINJOB = re.compile(r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/site/trainjobs(?:/(.+))?")
_LOG = re.compile(r"/api/v1/namespaces/site/pods/(.+)/log")


class Stub(ThreadingHTTPServer):
    """Keeps TrainJobs; `secrets` by name, `submitted` names every job that was ever taken, `silent` answers nothing."""

    def __init__(self, folder, secrets):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.secrets = folder, secrets
        self.trainjobs, self.processes, self.submitted, self.silent = {}, {}, [], False

    def submit(self, trainjob):
        assert TrainerV1alpha1TrainJob.from_dict(trainjob)
        name = trainjob["metadata"]["name"]
        trainjob["metadata"] |= {"namespace": "site", "creationTimestamp": "2026-01-01T00:00:00Z"}
        self.submitted.append(name)
        self.trainjobs[name] = trainjob
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes[name] = [self._run(node) for node in list_nodes(trainjob, "127.0.0.1", port)]

    def _run(self, node):
        read = {one["name"]: value for one in node.environment if (value := self._read(one)) is not None}
        # Nothing of this process's environment but where Python is: a node knows only what it is told.
        known = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.folder)}
        with (self.folder / node.name).open("wb") as value:
            return node, subprocess.Popen(
                node.command, env=known | read, stdout=value, stderr=value, start_new_session=True, cwd=self.folder
            )

    def _read(self, one):
        if "value" in one:
            return one["value"]
        reference = one["valueFrom"]["secretKeyRef"]
        secret = self.secrets[reference["name"]]
        return secret.get(reference["key"]) if reference.get("optional") else secret[reference["key"]]

    def look(self, name):
        """Return a TrainJob with its state now; a node that failed ends the others, as a JobSet would."""
        trainjob = self.trainjobs[name]
        codes = [process.poll() for _, process in self.processes[name]]
        if any(codes):
            self.end(name)
        state = "Failed" if any(codes) else "Complete" if codes == [0] * len(codes) else ""
        condition = {"type": state, "status": "True", "reason": "Ended", "message": ""}
        moment = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
        return trainjob | ({"status": {"conditions": [condition | moment]}} if state else {})

    def pods(self, name):
        return [
            {
                "metadata": {"name": node.name, "labels": node.labels, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [{"name": "node", "image": node.image}]},
                "status": {"phase": "Running"},
            }
            for node, _ in self.processes.get(name, [])
        ]

    def end(self, name):
        for _, process in self.processes[name]:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self):
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.silent:
            self._answer(503, {"message": "The server is not available."})
        elif found := _TRAINJOB.fullmatch(address.path):
            self._trainjob(found[1], body)
        elif address.path.endswith("/clustertrainingruntimes/torch-distributed"):
            self._answer(200, RUNTIME)
        elif address.path == "/api/v1/namespaces/site/pods":
            asked = parse_qs(address.query)["labelSelector"][0]
            name = re.match(r"jobset\.sigs\.k8s\.io/jobset-name=([^,]+),", asked)[1]
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.server.pods(name)})
        elif found := _LOG.fullmatch(address.path):
            self._answer(200, (self.server.folder / found[1]).read_bytes())
        else:
            self._answer(404, {"message": f"{address.path} is not there."})

    def _trainjob(self, name, body):
        if self.command == "POST":
            self.server.submit(json.loads(body))
            self._answer(201, {})
        elif name not in self.server.trainjobs:
            self._answer(404, {"message": f"{name} is not there."})
        elif self.command == "DELETE":
            self.server.end(name)
            del self.server.trainjobs[name]
            self._answer(200, {})
        else:
            self._answer(200, self.server.look(name))

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815  (http.server's names)


@contextmanager
def running_stub(folder, secrets):
    stub = Stub(folder, secrets)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    config = folder / "kubeconfig"
    here = {"cluster": "here", "user": "somebody", "namespace": "site"}
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{stub.server_port}"}}],
                "users": [{"name": "somebody", "user": {}}],
                "contexts": [{"name": "here", "context": here}],
            }
        )
    )
    try:
        yield stub, config
    finally:
        for name in stub.processes:
            stub.end(name)
        stub.shutdown()
