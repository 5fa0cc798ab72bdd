"""What Kubeflow Trainer's controller makes of a TrainJob: which nodes there are, and what each runs."""

from dataclasses import dataclass

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
RUNTIME = {
    "apiVersion": f"{GROUP}/{VERSION}",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {f"{GROUP}/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {f"{GROUP}/trainjob-ancestor-step": "trainer"}},
                            "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "pytorch"}]}}},
                        },
                    }
                ]
            }
        },
    },
}


@dataclass(frozen=True)
class Node:
    """A node of a TrainJob: `environment` is as Kubernetes writes it, with what comes from secrets yet to be read."""

    name: str
    labels: dict[str, str]
    image: str
    command: list[str]
    environment: list[dict]
    resources: dict


def list_nodes(trainjob: dict, first_node: str, port: int) -> list[Node]:
    """List a TrainJob's nodes, the runtime's patches applied, each told who it is as the torch plugin does."""
    name, trainer = trainjob["metadata"]["name"], trainjob["spec"]["trainer"]
    [patch] = trainjob["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    [container] = job["template"]["spec"]["template"]["spec"]["containers"]
    assert job["name"] == container["name"] == "node"
    return [
        Node(
            name=f"{name}-node-0-{rank}",
            labels={
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(rank),
            },
            image=trainer["image"],
            command=trainer["command"],
            environment=[
                *trainer["env"],
                *container["env"],
                {"name": "PET_NNODES", "value": str(trainer["numNodes"])},
                {"name": "PET_NPROC_PER_NODE", "value": "auto"},
                {"name": "PET_NODE_RANK", "value": str(rank)},
                {"name": "PET_MASTER_ADDR", "value": first_node},
                {"name": "PET_MASTER_PORT", "value": str(port)},
            ],
            resources=trainer["resourcesPerNode"],
        )
        for rank in range(trainer["numNodes"])
    ]
