"""One night from a terminal: trigger the ingestion, follow what the assets start, give the approval, sum it up."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qfundus.errors import NightError
from qfundus.platform.airflow import ENDED, AirflowClient, TaskState
from qfundus.settings import Settings

Say = Callable[[str], None]
_POLL = 1.0  # seconds
_LOG_EVERY = 4  # polls
_PATIENCE = 120  # seconds for an asset's event to start the run that waits for it
_LOG_LINES = 20
_WAITING = {"awaiting_input", "deferred"}
_THOUGHT = 8.0  # seconds; the process that asked ends five after it has asked
_STEP = re.compile(r"Executing task \S*?'([\w-]+)'")
DAGS = ("ingest_fundus", "retrain_nightly", "promote_model")


@dataclass
class Night:
    """The result of a night; a part that did not run is empty."""

    counts: dict[str, int] = field(default_factory=dict)
    retrained: dict[str, str] = field(default_factory=dict)
    promoted: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def run_night(settings: Settings, say: Say, *, approve: bool = True) -> Night:
    """Trigger `ingest_fundus` and follow it, and what its assets start, to the end.

    With `approve` the candidate is approved through the API that a person's click uses; else the wait is left to one.

    Raises:
        NightError: if a run failed.
    """
    begun = time.monotonic()
    client, night = AirflowClient(settings), Night()
    _wait_for_dags(client)
    dag, run = "ingest_fundus", client.trigger("ingest_fundus")
    while run:
        follow_run(settings, dag, run, say, begun=begun, approve=approve)
        _note_result(client, night, dag, run)
        say(f"       {dag:<16} {client.note(dag, run)}")
        dag, run = _next_run(client, dag, run)
    night.seconds = time.monotonic() - begun
    return night


def follow_run(
    settings: Settings, dag: str, run: str, say: Say, *, begun: float | None = None, approve: bool = True
) -> None:
    """Follow one DAG run to its end, saying what its tasks do; times count from `begun` on the monotonic clock.

    Raises:
        NightError: if the run failed.
    """
    started = time.monotonic() if begun is None else begun
    _Follower(settings, AirflowClient(settings), say, started, approve=approve).to_the_end(dag, run)


class _Follower:
    """Follows DAG runs and says what their tasks are doing."""

    def __init__(self, settings: Settings, client: AirflowClient, say: Say, begun: float, *, approve: bool) -> None:
        self._url = settings.airflow_url
        self._client = client
        self._say = say
        self._begun = begun
        self._approve = approve

    def to_the_end(self, dag: str, run: str) -> None:
        """Follow one run until it has ended."""
        seen: dict[str, str] = {}
        last_line, polls = "", 0
        while True:
            state = self._client.run_state(dag, run)
            tasks = self._client.tasks(dag, run)
            for task in tasks:
                if seen.get(task.name) != task.state:
                    seen[task.name] = task.state
                    self._say_state(dag, task)
                    if self._approve and task.state in _WAITING:
                        # Airflow's scheduler fails a task that is answered before it has noted that it waits.
                        time.sleep(_THOUGHT)
                        self._client.approve(dag, run, task.name)
                        self._tell(dag, task, "approved through the API")
                if task.state == "running" and polls % _LOG_EVERY == 0:
                    line = describe_progress(self._client.log(dag, run, task))
                    if line and line != last_line:
                        last_line = line
                        self._tell(dag, task, line)
            if state in ENDED:
                break
            polls += 1
            time.sleep(_POLL)
        if state == "failed":
            raise NightError(self._describe_failure(dag, run, tasks))

    def _say_state(self, dag: str, task: TaskState) -> None:
        if task.state in {"success", "failed", "up_for_retry"}:
            self._tell(dag, task, f"{task.state.replace('_', ' ')} after {task.seconds:.0f} s")
        elif task.state in {"running", "skipped", "awaiting_input", "deferred"}:
            self._tell(dag, task, task.state.replace("_", " "))

    def _tell(self, dag: str, task: TaskState, what: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        self._say(f"{minutes:02d}:{seconds:02d}  {dag:<16} {task.display_name:<30} {what}")

    def _describe_failure(self, dag: str, run: str, tasks: list[TaskState]) -> str:
        failed = next((task for task in tasks if task.state == "failed"), None)
        if failed is None:
            return f"{dag} failed before a task began. Look at {self._url}/dags/{dag}/runs/{run}"
        entries = self._client.log(dag, run, failed)[-_LOG_LINES:]
        lines = "\n".join(f"    {describe_entry(entry)}" for entry in entries)
        return (
            f"The task “{failed.display_name}” ({dag}.{failed.name}) failed. Its log ends:\n{lines}\n"
            f"See the failure table at {self._url}/dags/{dag}, then clear the task there, "
            "or run `qfundus night` again: finished work is not repeated."
        )


def describe_progress(entries: list[dict[str, Any]]) -> str:
    """Find the newest progress in a task's log: `Features extracted: 256 of 1171`, or a pipeline's step."""
    for entry in reversed(entries):
        if "done" in entry and "of" in entry:
            what = f" ({entry['what']})" if "what" in entry else ""
            return f"{entry['event']}{what}: {entry['done']} of {entry['of']}"
        step = _STEP.search(entry["event"])
        if step:
            return f"step {step[1]}"
    return ""


def describe_entry(entry: dict[str, Any]) -> str:
    """Write one log entry as a line, with the exception that it may carry."""
    raised = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []]
    return " | ".join([str(entry["event"]).strip(), *raised])


def _wait_for_dags(client: AirflowClient) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if set(DAGS) <= set(client.dags()):
            return
        time.sleep(_POLL)
    errors = "\n".join(client.import_errors()) or "no import error"
    raise NightError(
        f"Airflow has not parsed the DAGs after {_PATIENCE} s ({errors}). See logs/airflow-dag-processor.log."
    )


def _next_run(client: AirflowClient, dag: str, run: str) -> tuple[str, str]:
    """Return the run that a run's asset has started, or two empty texts where it gave none."""
    end = time.monotonic() + _PATIENCE
    while client.produced_assets(dag, run) and time.monotonic() < end:
        started = client.started_by(dag, run)
        if started:
            return started[0]
        time.sleep(_POLL)
    return "", ""


def _note_result(client: AirflowClient, night: Night, dag: str, run: str) -> None:
    done = {task.name for task in client.tasks(dag, run) if task.state == "success"}
    match dag:
        case "ingest_fundus" if "close_run" in done:
            night.counts = client.result(dag, run, "close_run")
        case "retrain_nightly" if "announce_candidate" in done:
            night.retrained = client.result(dag, run, "announce_candidate")
        case "promote_model" if "promote" in done:
            night.promoted = client.result(dag, run, "promote")
        case _:
            pass
