"""Wait for quantum jobs without holding a worker: Airflow's triggerer looks at the job store now and then."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent


class QuantumJobsTrigger(BaseTrigger):
    """Fires once every one of some jobs has ended, with the state of each."""

    def __init__(self, jobs: Sequence[str], pause: float = 5.0) -> None:
        super().__init__()
        self.jobs, self.pause = list(jobs), pause

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again, in whichever process watches it."""
        return "quantum_jobs.QuantumJobsTrigger", {"jobs": self.jobs, "pause": self.pause}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until all have ended; the database is asked in a thread, so that other triggers go on."""
        from qfundus.steps.find_ended_jobs import find_ended_jobs

        while (states := await asyncio.to_thread(find_ended_jobs, self.jobs)) is None:
            await asyncio.sleep(self.pause)
        yield TriggerEvent(states)


class WaitForQuantumJobs(BaseOperator):
    """Ends when every job of `jobs` has ended; returns the state of each. Hours of a machine's queue cost no worker."""

    template_fields = ("jobs",)

    def __init__(self, *, jobs: Sequence[str], **named: Any) -> None:
        super().__init__(**named)
        self.jobs = jobs

    def execute(self, context: Any) -> None:
        """Hand over to the triggerer."""
        self.defer(trigger=QuantumJobsTrigger(self.jobs), method_name="resume", timeout=self.execution_timeout)

    def resume(self, context: Any, event: dict[str, str]) -> dict[str, str]:
        """Go on: the jobs have ended."""
        return event
