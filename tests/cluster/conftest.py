"""A real Kubernetes with the custom resources of Kubeflow Trainer; its controller's part is played here.

The cluster has one node, and the tests run on it, in its network: they start an S3 server on the node's address. The
node holds the image that `make image` builds.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes_cluster import NAMESPACE, SECRET, Controller, answers, free_ports, wait_for


@pytest.fixture(scope="session")
def kubernetes():
    if "KUBECONFIG" not in os.environ:
        pytest.fail("KUBECONFIG must name a Kubernetes with one node, this machine.")
    config.load_kube_config()
    return client.CoreV1Api(), client.CustomObjectsApi()


@pytest.fixture(scope="session")
def address(kubernetes):
    [node] = kubernetes[0].list_node().items
    return next(one.address for one in node.status.addresses if one.type == "InternalIP")


@pytest.fixture(scope="session")
def store_settings(address, tmp_path_factory):
    """An S3 server that pods reach, and its settings."""
    folder = tmp_path_factory.mktemp("weed")
    access, secret, ports = secrets.token_hex(8), secrets.token_hex(16), iter(free_ports(address, 12))
    keys = [{"accessKey": access, "secretKey": secret}]
    (folder / "keys.json").write_text(
        json.dumps({"identities": [{"name": "site", "credentials": keys, "actions": ["Admin"]}]})
    )
    s3 = next(ports)
    named = ("master.port", "volume.port", "filer.port", "admin.port", "s3.port.grpc")
    named = (*named, "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "admin.port.grpc")
    command = [str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "mini", f"-dir={folder}"]
    command += [f"-ip={address}", f"-ip.bind={address}", f"-s3.port={s3}", f"-s3.config={folder / 'keys.json'}"]
    command += [f"-{name}={next(ports)}" for name in named]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false"]
    command += ["-master.telemetry=false", f"-admin.dataDir={folder / 'admin'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    endpoint = f"http://{address}:{s3}"
    wait_for(lambda: answers(f"{endpoint}/healthz"), 30)
    yield {
        "QFUNDUS_S3_ENDPOINT": endpoint,
        "QFUNDUS_S3_ACCESS_KEY": access,
        "QFUNDUS_S3_SECRET_KEY": secret,
    }
    server.terminate()
    server.wait(20)


@pytest.fixture
def cluster(kubernetes, store_settings, address, monkeypatch):
    core, objects = kubernetes
    for name, value in store_settings.items():
        monkeypatch.setenv(name, value)
    body = {"metadata": {"name": SECRET}, "stringData": store_settings}
    core.create_namespaced_secret(NAMESPACE, body)
    monkeypatch.setenv("NO_PROXY", "*")
    controller = Controller(core, objects)
    threading.Thread(target=controller.run, daemon=True).start()
    yield controller
    controller.stop.set()
    core.delete_namespaced_secret(SECRET, NAMESPACE)
    core.delete_collection_namespaced_pod(NAMESPACE, label_selector="jobset.sigs.k8s.io/jobset-name")
