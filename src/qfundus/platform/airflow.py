"""Airflow's public REST API, as a person's clicks use it."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import httpx

from qfundus.errors import Retry, SetupError
from qfundus.settings import Settings

ENDED = {"success", "failed"}
_TRIES = 6
_PAUSE = 1.0  # seconds


@dataclass(frozen=True)
class TaskState:
    """One task of a DAG run; `seconds` is how long it has run."""

    name: str
    display_name: str
    state: str
    seconds: float
    tries: int


class AirflowClient:
    """A logged-in user of Airflow's API (`/api/v2`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _http(self) -> httpx.Client:
        url = self._settings.airflow_url
        login = {
            "username": self._settings.airflow_user,
            "password": self._settings.airflow_password.get_secret_value(),
        }
        answer = httpx.post(f"{url}/auth/token", json=login, timeout=30)
        if not answer.is_success:
            raise SetupError(f"Airflow refused the login ({answer.status_code}): check QFUNDUS_AIRFLOW_PASSWORD.")
        token = answer.json()["access_token"]
        return httpx.Client(base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def trigger(self, dag: str, conf: dict[str, Any] | None = None, run: str | None = None) -> str:
        """Trigger a DAG run, under a name of its own where one is given; return its id."""
        asked = {"logical_date": None, "conf": conf or {}, "dag_run_id": run}
        return self._call("POST", f"/dags/{dag}/dagRuns", json=asked)["dag_run_id"]

    def run_state(self, dag: str, run: str) -> str:
        """Return the state of a DAG run."""
        return str(self._call("GET", _run_path(dag, run))["state"])

    def runs_since(self, dag: str, moment: str) -> list[str]:
        """Return the ids of a DAG's runs that were queued at or after a moment (ISO 8601), oldest first."""
        wanted = {"order_by": "run_after", "run_after_gte": moment}
        return [run["dag_run_id"] for run in self._pages(f"/dags/{dag}/dagRuns", "dag_runs", wanted)]

    def started_by(self, dag: str, run: str) -> list[tuple[str, str]]:
        """Return the DAG runs, as pairs of DAG and run id, that the assets of a run have started."""
        produced = self._call("GET", "/assets/events", params={"source_dag_id": dag, "source_run_id": run})
        return [
            (started["dag_id"], started["run_id"])
            for event in produced["asset_events"]
            for started in event["created_dagruns"]
        ]

    def produced_assets(self, dag: str, run: str) -> int:
        """Return how many asset events a run has made."""
        return int(
            self._call("GET", "/assets/events", params={"source_dag_id": dag, "source_run_id": run})["total_entries"]
        )

    def tasks(self, dag: str, run: str) -> list[TaskState]:
        """Return the tasks of a run in the order in which they started."""
        listed = self._call("GET", f"{_run_path(dag, run)}/taskInstances")["task_instances"]
        listed.sort(key=lambda task: (task["start_date"] or "~", task["task_id"]))
        return [
            TaskState(
                name=task["task_id"],
                display_name=task["task_display_name"],
                state=task["state"] or "waiting",
                seconds=task["duration"] or 0.0,
                tries=task["try_number"],
            )
            for task in listed
        ]

    def log(self, dag: str, run: str, task: TaskState) -> list[dict[str, Any]]:
        """Return what a task has logged in its newest try: entries with an `event` and its values."""
        path = f"{_run_path(dag, run)}/taskInstances/{task.name}/logs/{max(task.tries, 1)}"
        content = self._call("GET", path, headers={"Accept": "application/json"})["content"]
        return [entry for entry in content if isinstance(entry, dict) and entry.get("event")]

    def result(self, dag: str, run: str, task: str) -> Any:
        """Return what a task returned."""
        path = f"{_run_path(dag, run)}/taskInstances/{task}/xcomEntries/return_value"
        return self._call("GET", path, params={"deserialize": "true"})["value"]

    def everything_said(self, dag: str, run: str) -> Iterator[tuple[str, str]]:
        """Yield all text that a run has left with Airflow, each with where: the run, tasks, XComs and logs."""
        path = _run_path(dag, run)
        yield f"{dag} run", json.dumps(self._call("GET", path))
        for task in self.tasks(dag, run):
            own = f"{path}/taskInstances/{task.name}"
            yield f"{dag}.{task.name}", json.dumps(self._call("GET", own))
            for entry in self._pages(f"{own}/xcomEntries", "xcom_entries"):
                value = self._call("GET", f"{own}/xcomEntries/{quote(entry['key'], safe='')}", missing=True)
                yield f"{dag}.{task.name} XCom {entry['key']}", json.dumps(value)
            for attempt in range(1, task.tries + 1):
                # A task that waits for a person, or never began, may have left no log.
                log = self._call("GET", f"{own}/logs/{attempt}", headers={"Accept": "application/json"}, missing=True)
                yield f"{dag}.{task.name} log {attempt}", json.dumps(log, ensure_ascii=False)

    def approve(self, dag: str, run: str, task: str) -> None:
        """Give the answer Approve to a task that waits for a person."""
        path = f"{_run_path(dag, run)}/taskInstances/{task}/-1/hitlDetails"
        self._call("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})

    def note(self, dag: str, run: str) -> str:
        """Return the note of a run."""
        return str(self._call("GET", _run_path(dag, run))["note"] or "")

    def write_note(self, dag: str, run: str, note: str) -> None:
        """Write the note of a run, as its page shows it."""
        self._call("PATCH", _run_path(dag, run), params={"update_mask": "note"}, json={"note": note[:1000]})

    def dags(self) -> dict[str, bool]:
        """Return every DAG that Airflow has parsed, with whether it is paused."""
        return {dag["dag_id"]: dag["is_paused"] for dag in self._call("GET", "/dags")["dags"]}

    def import_errors(self) -> list[str]:
        """Return what Airflow could not import."""
        return [error["stack_trace"] for error in self._call("GET", "/importErrors")["import_errors"]]

    def _pages(self, path: str, what: str, wanted: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield all that is listed: Airflow gives no more than it likes at once."""
        offset = 0
        while page := self._call("GET", path, params={**(wanted or {}), "limit": 100, "offset": offset})[what]:
            yield from page
            offset += len(page)

    def _call(self, method: str, path: str, *, missing: bool = False, **request: Any) -> Any:
        """Return an answer; where it may be `missing`, None for what is not there."""
        # Reading may be tried again: Airflow answers 500 now and then while it is just starting a run.
        for left in reversed(range(_TRIES if method == "GET" else 1)):
            try:
                answer = self._http.request(method, path, **request)
            except httpx.HTTPError as error:
                failure = f"Airflow does not answer ({type(error).__name__}). See `qfundus status`."
            else:
                if answer.is_success:
                    return answer.json()
                if missing and answer.status_code == 404:
                    return None
                failure = f"Airflow refused {method} {path}: {answer.status_code} {answer.text[:300]}"
                if not answer.is_server_error:
                    raise SetupError(failure)
            if left:
                time.sleep(_PAUSE)
        raise Retry(failure)  # pyright: ignore[reportPossiblyUnboundVariable]


def _run_path(dag: str, run: str) -> str:
    return f"/dags/{dag}/dagRuns/{quote(run, safe='')}"
