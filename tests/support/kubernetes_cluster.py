"""The part of Kubeflow Trainer's controller on a real Kubernetes: TrainJobs become pods, which decide how they end."""

import socket
import threading
import time

import httpx
from kubernetes_trainer import GROUP, RUNTIME, VERSION, list_nodes

NAMESPACE, SECRET = "default", "site-settings"
WRITABLE = {"tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108  (in the pod)


class Controller:
    """Turns TrainJobs into pods, and tells of each how its pods ended."""

    def __init__(self, core, objects):
        self.core, self.objects = core, objects
        self.stop, self.submitted, self.failure = threading.Event(), [], None
        with_runtime = [GROUP, VERSION, "clustertrainingruntimes"]
        names = {one["metadata"]["name"] for one in objects.list_cluster_custom_object(*with_runtime)["items"]}
        if RUNTIME["metadata"]["name"] not in names:
            objects.create_cluster_custom_object(*with_runtime, RUNTIME)

    def run(self):
        while not self.stop.wait(0.5):
            try:
                self._look()
            except Exception as error:  # a thread's error would be seen by nobody
                self.failure = error
                raise

    def _look(self):
        trainjobs = self.objects.list_namespaced_custom_object(GROUP, VERSION, NAMESPACE, "trainjobs")["items"]
        there = {one["metadata"]["name"] for one in trainjobs}
        pods = self.core.list_namespaced_pod(NAMESPACE, label_selector="jobset.sigs.k8s.io/jobset-name").items
        for pod in pods:
            if pod.metadata.labels["jobset.sigs.k8s.io/jobset-name"] not in there:
                self.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE, grace_period_seconds=0)
        for trainjob in trainjobs:
            name = trainjob["metadata"]["name"]
            if name not in self.submitted:
                self.submitted.append(name)
                self._start(trainjob)
            elif "status" not in trainjob:
                mine = [pod for pod in pods if pod.metadata.labels["jobset.sigs.k8s.io/jobset-name"] == name]
                self._tell(trainjob, [pod.status.phase for pod in mine])

    def _start(self, trainjob):
        first, *others = list_nodes(trainjob, "", 29500)
        self._create(first, {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        wait_for(lambda: self.core.read_namespaced_pod(first.name, NAMESPACE).status.pod_ip, 60)
        where = self.core.read_namespaced_pod(first.name, NAMESPACE).status.pod_ip
        for node in others:
            self._create(node, {"value": where})

    def _create(self, node, master):
        variables = [{**one, **master} if one["name"] == "PET_MASTER_ADDR" else one for one in node.environment]
        for one in variables:
            if one["name"] == "PET_MASTER_ADDR" and "valueFrom" in one:
                one.pop("value", None)
        # There is no name service here: gloo would look for the pod's own name.
        variables.append({"name": "GLOO_SOCKET_IFNAME", "value": "eth0"})
        spec = make_pod(node.image, node.command, resources=node.resources, env=variables)
        self.core.create_namespaced_pod(
            NAMESPACE, {"metadata": {"name": node.name, "labels": node.labels}, "spec": spec}
        )

    def _tell(self, trainjob, phases):
        wanted = trainjob["spec"]["trainer"]["numNodes"]
        state = "Failed" if "Failed" in phases else "Complete" if phases == ["Succeeded"] * wanted else ""
        if not state:
            return
        condition = {"type": state, "status": "True", "reason": "Ended", "message": "as its pods did"}
        condition["lastTransitionTime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.objects.patch_namespaced_custom_object_status(
            GROUP,
            VERSION,
            NAMESPACE,
            "trainjobs",
            trainjob["metadata"]["name"],
            {"status": {"conditions": [condition]}},
        )


def make_pod(image, command, **more):
    """A pod as a careful site runs it: nobody in particular, nothing to write on but /tmp, no way to more rights."""
    container = {
        "name": "node",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in WRITABLE.items()],
        **more,
    }
    volumes = [{"name": name, "emptyDir": {}} for name in WRITABLE]
    return {"containers": [container], "volumes": volumes, "restartPolicy": "Never"}


def free_ports(address, count):
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind((address, 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def answers(url):
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def wait_for(done, seconds):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "It takes too long."
        time.sleep(0.5)
