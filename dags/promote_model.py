"""
### Promote a candidate

Shows a person how the candidate performs, waits for the answer, loads the version into Triton, tests it over HTTP and gRPC, and
only then points the alias `champion` to it. If the test fails, the previous version keeps serving.

**Runs** when `retrain_nightly` registers a candidate, or by hand for any registered version.

**Waits** up to seven days for a person: see *Required Actions* in this UI. Rejecting changes nothing.

| a task fails | what it means | what to do |
|---|---|---|
| Describe the candidate | the version does not exist, or MLflow does not answer | look up the model `fundus-grader` in MLflow |
| Approve the candidate | nobody answered in time | trigger this DAG with the version |
| Approve the candidate is up for retry | the answer came before Airflow had recorded the wait | nothing: it continues by itself |
| Promote | the smoke test failed and the promotion was rolled back, or Triton does not answer | the log says which; check `qfundus status` |
"""

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, Param, dag, task
from retries import FAIL_WHAT_CANNOT_HEAL

CANDIDATE_MODEL = Asset("candidate_model")


@dag(
    schedule=[CANDIDATE_MODEL],
    catchup=False,
    # A candidate that nobody has answered for must not keep the next night's from being shown.
    max_active_runs=10,
    doc_md=__doc__,
    tags=["fundus", "serving"],
    dag_display_name="Promote a model",
    default_args={
        "owner": "mlops",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": True,
        "retry_policy": FAIL_WHAT_CANNOT_HEAL,
    },
    params={
        "version": Param(
            "",
            type="string",
            pattern=r"^\d*$",
            title="Version",
            description="A registered version of fundus-grader; empty for the newest candidate.",
        )
    },
)
def promote_model():
    """Wire the steps."""

    @task(task_display_name="Describe the candidate", execution_timeout=timedelta(minutes=10))
    def describe_candidate(params, triggering_asset_events):
        from airflow.sdk.exceptions import AirflowSkipException

        from qfundus.steps import describe_candidate

        announced = [event.extra["version"] for event in triggering_asset_events.get(CANDIDATE_MODEL, [])]
        described = describe_candidate.describe_candidate(params["version"] or next(reversed(announced), ""))
        if described is None:
            raise AirflowSkipException("This version serves already.")
        return described

    @task(task_display_name="Promote", max_active_tis_per_dag=1, execution_timeout=timedelta(minutes=30))
    def promote(candidate, run_id):
        from qfundus.platform.notes import write_run_note
        from qfundus.steps import promote_candidate

        promoted = promote_candidate.promote_candidate(candidate["version"])
        write_run_note("promote_model", run_id, f"Version {promoted['version']} serves. {promoted['reason']}")
        return promoted

    candidate = describe_candidate()
    approval = ApprovalOperator(
        task_id="approve_candidate",
        task_display_name="Approve the candidate",
        subject="Promote version {{ ti.xcom_pull(task_ids='describe_candidate')['version'] }} of fundus-grader?",
        body="{{ ti.xcom_pull(task_ids='describe_candidate')['body'] }}",
        response_timeout=timedelta(days=7),
    )
    candidate >> approval >> promote(candidate)


promote_model()
