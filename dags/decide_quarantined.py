"""
### Release or drop a quarantined item

An item that could not be used waits in quarantine, sealed, with a reason and a remedy. Once you have fixed the cause, release it:
it returns to the landing bucket, and the next `ingest_fundus` takes it in. Drop what nobody needs.

**Runs** when a person triggers it. **Needs** the item's pseudonym, as the run note, the log or `qfundus quarantine list` shows it;
the decision; and the reason, which goes into the audit trail with your name.

| a task fails | what it means | what to do |
|---|---|---|
| Decide | nothing with that pseudonym is in quarantine | look it up with `qfundus quarantine list` |
"""

from datetime import timedelta

from airflow.sdk import Param, dag, task
from retries import FAIL_WHAT_CANNOT_HEAL


@dag(
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["fundus", "ingestion"],
    dag_display_name="Decide about a quarantined item",
    default_args={
        "owner": "data-engineering",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": True,
        "retry_policy": FAIL_WHAT_CANNOT_HEAL,
        "execution_timeout": timedelta(minutes=10),
    },
    params={
        "source": Param(
            "", type="string", minLength=16, maxLength=30, title="Item", description="Its pseudonym, such as QF3K…"
        ),
        "decision": Param(
            "release",
            type="string",
            enum=["release", "drop"],
            title="Decision",
            description="Release it into the landing bucket, or delete it for good.",
        ),
        "why": Param("", type="string", minLength=5, title="Reason", description="The reason, for the audit trail."),
    },
)
def decide_quarantined():
    """Wire the step."""

    @task(task_display_name="Decide")
    def decide(params, dag_run):
        from qfundus.steps import decide_quarantined

        who = dag_run.triggering_user_name or ""
        decide_quarantined.decide_quarantined(params["source"], params["decision"], params["why"], who)

    decide()


decide_quarantined()
