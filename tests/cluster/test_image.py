"""The image of the pipeline's steps, run as a careful site runs it."""

import pkgutil

import pytest
from kubernetes_cluster import NAMESPACE, make_pod, wait_for

import qfundus.steps
from components import IMAGE

pytestmark = pytest.mark.cluster
_UNPACKED = 600  # seconds for a pod to end; the first one's node unpacks 4 GB
STEPS = [f"qfundus.steps.{module.name}" for module in pkgutil.iter_modules(qfundus.steps.__path__)]
# What Kubeflow puts into a step's container runs this; the recipes and the policy come with the image.
LOOK = f"""
import os, kfp.dsl.executor_main, kfp.kubernetes, torch, {", ".join(STEPS)}
from qfundus.recipes.network import find_recipe
from qfundus.layout import policy_file
from pipelines.compile import compiled_file
assert os.getuid() == 10001
assert find_recipe("retinamnist") and policy_file().exists() and compiled_file("retraining").exists()
print("It is whole.")
"""


def run_pod(core, name, command):
    """Run a pod to its end; return its phase and what it printed."""
    core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": name}, "spec": make_pod(IMAGE, command)})
    try:
        wait_for(lambda: core.read_namespaced_pod(name, NAMESPACE).status.phase in {"Succeeded", "Failed"}, _UNPACKED)
        return core.read_namespaced_pod(name, NAMESPACE).status.phase, core.read_namespaced_pod_log(name, NAMESPACE)
    finally:
        core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)


def test_the_image_holds_what_the_steps_need(kubernetes):
    phase, printed = run_pod(kubernetes[0], "look", ["python3", "-c", LOOK])
    assert (phase, printed.splitlines()[-1]) == ("Succeeded", "It is whole.")


def test_the_image_holds_no_airflow_no_tests_and_no_installer(kubernetes):
    code = "import importlib.util as u; print([n for n in ('airflow', 'pytest', 'pip', 'uv') if u.find_spec(n)])"
    phase, printed = run_pod(kubernetes[0], "lacks", ["python3", "-c", code])
    assert (phase, printed.strip()) == ("Succeeded", "[]")
