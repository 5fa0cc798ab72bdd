"""A stand-in for Azure Quantum on loopback: it checks requests by the SDK's own models, and runs IonQ's circuits."""

import json
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from azure.quantum._client.models import BlobDetails, JobDetails, ProviderStatus, SasUriResponse
from qiskit import QuantumCircuit
from qiskit.quantum_info import Statevector
from served import Answers

_GATES = {
    "ry": "ry",
    "rz": "rz",
    "rx": "rx",
    "h": "h",
    "x": "x",
    "z": "z",
    "s": "s",
    "v": "sx",
    "vi": "sxdg",
    "si": "sdg",
}


class Stub(ThreadingHTTPServer):
    """Keeps jobs and blobs; `expired` lets it refuse the key, `seen` counts what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs, self.made, self.seen, self.expired = {}, {}, [], False
        self.takes = 1_000_000  # jobs, then it breaks off
        self.status = "Succeeded"  # of new jobs

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(Answers):
    server: Stub

    def _handle(self):
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {path.rsplit('/', maxsplit=2)[-2]}")
        if path.startswith("/blobs/"):
            self._blob(path, body)
        elif self.server.expired or not self.headers.get("x-ms-quantum-api-key"):
            self._answer(401, {"error": {"code": "Unauthorized", "message": "The key has expired."}})
        elif path.endswith("/providerStatus"):
            target = {"id": "ionq.simulator", "currentAvailability": "Available", "averageQueueTime": 0}
            status = {"id": "ionq", "currentAvailability": "Available", "targets": [target]}
            ProviderStatus(status)
            self._answer(200, {"value": [status]})
        elif path.endswith("/storage/sasUri"):
            asked = BlobDetails(json.loads(body))
            name = f"/{asked.blob_name}" if asked.blob_name else ""
            answer = SasUriResponse({"sasUri": f"{self.server.url}/blobs/{asked.container_name}{name}?sig=x"})
            self._answer(200, dict(answer))
        elif path.endswith("/jobs"):
            begins = parse_qs(urlsplit(self.path).query)["filter"][0].split("'")[1]
            self._answer(200, {"value": [job for job in self.server.made.values() if job["name"].startswith(begins)]})
        elif "/jobs/" in path:
            self._job(path.rsplit("/", 1)[-1], body)
        else:
            self._answer(404, {"error": {"code": "NotFound", "message": path}})

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815  (the library's names)

    def _blob(self, path, body):
        if self.command == "PUT":
            self.server.blobs[path] = body
            self._answer(201, ETag='"1"', Last_Modified="Wed, 25 Nov 2026 00:00:00 GMT")
        elif path in self.server.blobs or path.count("/") == 2:
            data = self.server.blobs.get(path, b"")
            headers = {"ETag": '"1"', "Last_Modified": "Wed, 25 Nov 2026 00:00:00 GMT", "x_ms_blob_type": "BlockBlob"}
            whole = {"Content_Range": f"bytes 0-{len(data) - 1}/{len(data)}"} if self.headers.get("x-ms-range") else {}
            self._answer(206 if whole else 200, data, "application/octet-stream", **headers, **whole)
        else:
            self._answer(404, x_ms_error_code="BlobNotFound")

    def _job(self, name, body):
        if self.command == "PUT":
            job = JobDetails(json.loads(body))
            if len(self.server.made) >= self.server.takes:
                self._answer(400, {"error": {"code": "Broken", "message": "It breaks off."}})
                return
            assert job.provider_id == "ionq"
            assert job.target == "ionq.simulator"
            assert job.input_data_format == "ionq.circuit.v1"
            assert job.output_data_format == "ionq.quantum-results.v1"
            container = urlsplit(job.container_uri).path
            asked = json.loads(self.server.blobs[urlsplit(job.input_data_uri).path])
            self.server.blobs[f"{container}/rawOutputData"] = json.dumps(run(asked)).encode()
            output = f"{self.server.url}{container}/rawOutputData?sig=x"
            done = {"id": name, "status": self.server.status, "outputDataUri": output}
            self.server.made[name] = {**json.loads(body), **done}
        if name.endswith(":cancel"):
            name = name.removesuffix(":cancel")
            self.server.made[name]["status"] = "Cancelled"
        if name in self.server.made:
            self._answer(200, self.server.made[name])
        else:
            self._answer(404, {"error": {"code": "NotFound", "message": "no such job"}})


def run(asked):
    """Run a circuit in IonQ's JSON exactly; return the histogram that its simulator gives."""
    circuit = QuantumCircuit(asked["qubits"])
    for gate in asked["circuit"]:
        if gate["gate"] in {"cnot", "x"} and (gate.get("controls") or "control" in gate):
            control = gate["control"] if "control" in gate else gate["controls"][0]
            circuit.cx(control, gate.get("target", gate.get("targets", [0])[0] if "targets" in gate else 0))
            continue
        target = gate["target"] if "target" in gate else gate["targets"][0]
        angles = [gate["rotation"]] if "rotation" in gate else []
        getattr(circuit, _GATES[gate["gate"]])(*angles, target)
    chances = np.abs(Statevector(circuit).data) ** 2
    return {"histogram": {str(n): float(p) for n, p in enumerate(chances) if p > 1e-12}}
