"""Launch trainings on a cluster: a TrainJob of Kubeflow Trainer for each network."""

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from qfundus.classical.job import TrainingJob
from qfundus.classical.launch import JOB_FILE, KEPT_MEMORY, Running, last_words
from qfundus.errors import Retry, SetupError, TrainingError
from qfundus.settings import TrainingSettings

if TYPE_CHECKING:
    from kubeflow.trainer import TrainerClient

_log = structlog.get_logger()
_PATIENCE = 600.0  # seconds for which the API server may be silent
_GONE = 60.0
# What the nodes need to know of the store; the secret holds it under these names.
_STORE_SETTINGS = ("QFUNDUS_S3_ENDPOINT", "QFUNDUS_S3_ACCESS_KEY", "QFUNDUS_S3_SECRET_KEY")
_STORE_OPTIONAL = ("QFUNDUS_S3_REGION",)
_NODE = "node"  # what Kubeflow Trainer calls a TrainJob's nodes, and their container


def open_trainjobs(settings: TrainingSettings, networks: int, *, poll: float = 5.0) -> "TrainJobs":
    """Connect to the cluster that this process runs in, or that a file of settings names.

    Raises:
        SetupError: if no cluster answers, or it lacks the runtime.
        Retry: if it does not answer.
    """
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.trainer import TrainerClient
    from kubernetes.config import ConfigException

    # It says in many lines that a config map which nothing needs is not there.
    logging.getLogger("kubeflow.trainer").setLevel(logging.ERROR)
    try:
        namespace = settings.namespace or (settings.kubeconfig and _namespace_in(settings.kubeconfig))
        client = TrainerClient(KubernetesBackendConfig(namespace=namespace, config_file=settings.kubeconfig))
    except ConfigException as error:
        raise SetupError(f"QFUNDUS_TRAINING_LAUNCHER is trainjob, but no cluster was found: {error}") from None
    try:
        client.get_runtime(settings.runtime)
    except (RuntimeError, TimeoutError) as error:
        if not _is_missing(error):
            raise Retry(f"Kubernetes does not answer: {_cause(error)}") from None
        raise SetupError(
            f"The cluster has no training runtime {settings.runtime}: install Kubeflow Trainer, "
            "or name another by QFUNDUS_TRAINING_RUNTIME."
        ) from None
    return TrainJobs(client, settings, settings.at_once or networks, poll)


@dataclass(frozen=True)
class TrainJobs:
    """Trains on the nodes of a cluster, which decides when and where; looks at each TrainJob every `poll` seconds."""

    client: "TrainerClient"
    settings: TrainingSettings
    at_once: int
    poll: float

    @property
    def processes(self) -> int:
        """How many nodes, or GPUs of nodes, train one network."""
        return self.settings.processes * max(1, self.settings.gpus)

    def start(self, job: TrainingJob) -> Running:
        """Submit a training as a TrainJob, unless one is under way; one that has ended is submitted anew.

        Raises:
            SetupError: if the training is not in S3, which is all that nodes share.
            Retry: if Kubernetes does not answer.
        """
        if not job.results.remote or "://" not in job.shards:
            raise SetupError("A TrainJob's nodes share data only through S3: use s3:// for photographs and results.")
        name = name_trainjob(job)
        try:
            if find_state(self.client, name) in {"Failed", "Complete"}:  # of an earlier try: its result is not there
                self._delete(name)
            if find_state(self.client, name) is None:
                job.results.write(JOB_FILE, job.to_json().encode())
                self._submit(name, f"{job.folder}/{JOB_FILE}")
                _log.info("Submitted a TrainJob", trainjob=name, nodes=self.settings.processes)
        except (RuntimeError, TimeoutError) as error:
            raise Retry(f"Kubernetes does not take the TrainJob {name}: {_cause(error)}") from None
        return Followed(self.client, name, job, self.poll)

    def clear(self, job: TrainingJob) -> None:
        """Delete the TrainJob of a training whose result is there."""
        Followed(self.client, name_trainjob(job), job, self.poll).end()

    def _submit(self, name: str, job_file: str) -> None:
        from kubeflow.trainer import CustomTrainerContainer
        from kubeflow.trainer.options import Name, TrainerCommand

        settings = self.settings
        resources = {"cpu": settings.cpus, "memory": settings.memory} | (
            {"gpu": settings.gpus} if settings.gpus else {}
        )
        trainer = CustomTrainerContainer(
            image=settings.image,
            num_nodes=settings.processes,
            resources_per_node=resources,
            env={**KEPT_MEMORY, "OMP_NUM_THREADS": str(settings.cpus)},
        )
        # Which node is which, and where the first one listens, Kubeflow Trainer tells torchrun by PET_* variables.
        each = ["--nproc-per-node", "gpu" if settings.gpus else "1"]
        command = ["python", "-m", "torch.distributed.run", *each, "-m", "qfundus.classical.train", job_file]
        self.client.train(
            runtime=settings.runtime,
            trainer=trainer,
            options=[Name(name), TrainerCommand(command), give_store_settings(settings.secret)],
        )

    def _delete(self, name: str) -> None:
        self.client.delete_job(name)
        until = time.monotonic() + _GONE
        while find_state(self.client, name) is not None:
            if time.monotonic() > until:
                raise Retry(f"The old TrainJob {name} is not gone after {_GONE:.0f} s: look at its finalizers.")
            time.sleep(1)


@dataclass
class Followed:
    """A TrainJob that was submitted."""

    client: "TrainerClient"
    name: str
    job: TrainingJob
    poll: float
    _looked: float = 0.0
    _heard: float = 0.0
    _failed: bool = False

    def has_ended(self) -> bool:
        """Return whether it has ended well; it is deleted then."""
        now = time.monotonic()
        self._heard = self._heard or now
        if now - self._looked < self.poll:
            return False
        self._looked = now
        try:
            state = find_state(self.client, self.name)
        except (RuntimeError, TimeoutError) as error:
            if now - self._heard > _PATIENCE:
                raise Retry(f"Kubernetes has not answered for {_PATIENCE:.0f} s: {_cause(error)}") from None
            _log.warning("Kubernetes does not answer", why=_cause(error))
            return False
        self._heard = now
        match state:
            case "Complete":
                self.client.delete_job(self.name)
                if not self.job.is_done:
                    raise TrainingError(f"The TrainJob {self.name} is complete, but left no result at its address.")
                return True
            case "Failed":
                self._failed = True
                raise TrainingError(f"The TrainJob {self.name} failed; its first node ends:\n{self._last()}")
            case None:
                raise TrainingError(
                    f"The TrainJob {self.name} was deleted: start the run again; it resumes from its last checkpoint."
                )
            case _:
                return False

    def end(self) -> None:
        """Delete it with its pods; one that has failed stays for a person to look at, until it is tried again."""
        try:
            if not self._failed and find_state(self.client, self.name) is not None:
                self.client.delete_job(self.name)
        except (RuntimeError, TimeoutError) as error:
            _log.warning("Could not delete a TrainJob", trainjob=self.name, why=_cause(error))

    def _last(self) -> str:
        try:
            return last_words(list(self.client.get_job_logs(self.name)))
        except (RuntimeError, TimeoutError) as error:
            return f"(its pods are gone: {_cause(error)})"


def name_trainjob(job: TrainingJob) -> str:
    """Name a training's TrainJob by its address: the same training is never submitted twice."""
    return f"qfundus-{hashlib.sha256(job.folder.encode()).hexdigest()[:24]}"


def find_state(client: "TrainerClient", name: str) -> str | None:
    """Return a TrainJob's state, None if none has that name.

    Raises:
        RuntimeError, TimeoutError: where the API server does not answer.
    """
    try:
        return client.get_job(name).status
    except RuntimeError as error:
        if _is_missing(error):
            return None
        raise


def give_store_settings(secret: str) -> Any:
    """Let a TrainJob's nodes read the settings of S3 from a secret."""
    from kubeflow.trainer.options import (
        ContainerPatch,
        JobSetSpecPatch,
        JobSetTemplatePatch,
        JobSpecPatch,
        JobTemplatePatch,
        PodSpecPatch,
        PodTemplatePatch,
        ReplicatedJobPatch,
        RuntimePatch,
        TrainingRuntimeSpecPatch,
    )

    asked = [(name, False) for name in _STORE_SETTINGS] + [(name, True) for name in _STORE_OPTIONAL]
    read = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": optional}}}
        for name, optional in asked
    ]
    pod = PodTemplatePatch(spec=PodSpecPatch(containers=[ContainerPatch(name=_NODE, env=read)]))
    node = ReplicatedJobPatch(name=_NODE, template=JobTemplatePatch(spec=JobSpecPatch(template=pod)))
    jobs = JobSetTemplatePatch(spec=JobSetSpecPatch(replicated_jobs=[node]))
    return RuntimePatch(training_runtime_spec=TrainingRuntimeSpecPatch(template=jobs))


def _namespace_in(kubeconfig: str) -> str:
    """Return the namespace of a file's current context: the SDK looks for it in the default file."""
    from kubernetes.config import list_kube_config_contexts

    contexts: Any = list_kube_config_contexts(kubeconfig)
    return str(contexts[1]["context"].get("namespace", "default"))


def _is_missing(error: BaseException) -> bool:
    return getattr(error.__cause__, "status", None) == 404


def _cause(error: BaseException) -> str:
    """Return the first line of what lies behind an error of the SDK's."""
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:200]
