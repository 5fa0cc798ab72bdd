"""A stand-in for Amazon Braket and its bucket on loopback; Braket's own simulator runs the tasks.

The client has checked each request by the service's own model before it comes here; so it does with the answers.
"""

import json
import threading
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from braket.default_simulator import StateVectorSimulator
from braket.ir.openqasm import Program, ProgramSet
from served import Answers

ARN = "arn:aws:braket:::device/quantum-simulator/amazon/sv1"
BUCKET = "amazon-braket-results"


class Stub(ThreadingHTTPServer):
    """Keeps tasks by their client's token, and their results; `expired` lets it refuse the key."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.made, self.results, self.asked, self.expired = {}, {}, 0, False
        self.takes = 1_000_000  # tasks, then it breaks off
        self.together = 1  # circuits in a task
        self.unwell = 0  # how many questions after tasks it does not answer
        self.status = "COMPLETED"  # of new tasks
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def create(self, asked):
        with self.lock:
            self.asked += 1
            token = asked["clientToken"]
            if token not in self.made:
                if len(self.made) >= self.takes:
                    return None
                number = len(self.made)
                folder = f"{asked['outputS3KeyPrefix']}/{number}"
                kind = Program if "source" in json.loads(asked["action"]) else ProgramSet
                found = StateVectorSimulator().run(kind.parse_raw(asked["action"]), shots=asked["shots"])
                self.results[f"/{asked['outputS3Bucket']}/{folder}/results.json"] = found.json().encode()
                self.made[token] = {
                    "quantumTaskArn": f"arn:aws:braket:us-east-1:123456789012:quantum-task/{number}",
                    "status": self.status,
                    "deviceArn": asked["deviceArn"],
                    "deviceParameters": asked.get("deviceParameters", "{}"),
                    "shots": asked["shots"],
                    "outputS3Bucket": asked["outputS3Bucket"],
                    "outputS3Directory": folder,
                    "createdAt": datetime.now(UTC).isoformat(),
                    "endedAt": datetime.now(UTC).isoformat(),
                    "tags": asked.get("tags", {}),
                    "queueInfo": {"queue": "QUANTUM_TASKS_QUEUE", "position": "1", "queuePriority": "Normal"},
                }
            return self.made[token]


class _Handler(Answers):
    server: Stub

    def _handle(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.expired or "AWS4-HMAC-SHA256" not in self.headers.get("Authorization", ""):
            self._refuse(403, "AccessDeniedException", "The key has expired.")
        elif path in self.server.results:
            self._answer(200, self.server.results[path])
        elif path == f"/device/{ARN}":
            self._answer(200, self._device())
        elif path == "/quantum-task":
            made = self.server.create(json.loads(body))
            if made:
                self._answer(201, {"quantumTaskArn": made["quantumTaskArn"]})
            else:
                self._refuse(400, "InternalServiceException", "It breaks off.")
        elif path == "/quantum-tasks":
            wanted = {one["name"]: one["values"] for one in json.loads(body)["filters"]}
            found = [task for task in self.server.made.values() if task["deviceArn"] in wanted["deviceArn"]]
            self._answer(200, {"quantumTasks": [task for task in found if task["createdAt"] > wanted["createdAt"][0]]})
        elif path.startswith("/quantum-task/") and self.server.unwell:
            self.server.unwell -= 1
            self._refuse(500, "InternalServiceException", "It is unwell.")
        elif path.endswith("/cancel"):
            [task] = [one for one in self.server.made.values() if path.endswith(f"{one['quantumTaskArn']}/cancel")]
            task["status"] = "CANCELLED"
            self._answer(200, {"quantumTaskArn": task["quantumTaskArn"], "cancellationStatus": "CANCELLED"})
        elif path.startswith("/quantum-task/"):
            [task] = [one for one in self.server.made.values() if path.endswith(one["quantumTaskArn"])]
            self._answer(200, task)
        else:
            self._refuse(404, "ResourceNotFoundException", path)

    do_GET = do_PUT = do_POST = do_HEAD = _handle  # noqa: N815  (the library's names)

    def _refuse(self, status, code, message):
        self._answer(status, {"code": code, "message": message}, x_amzn_ErrorType=code)

    def _device(self):
        can = json.loads(StateVectorSimulator().properties.json())
        several = can["action"].pop("braket.ir.openqasm.program_set")
        if self.server.together > 1:
            can["action"][several["actionType"]] = {**several, "maximumExecutables": self.server.together}
        return {
            "deviceArn": ARN,
            "deviceName": "SV1",
            "providerName": "Amazon Braket",
            "deviceType": "SIMULATOR",
            "deviceStatus": "ONLINE",
            "deviceCapabilities": json.dumps(can),
        }
