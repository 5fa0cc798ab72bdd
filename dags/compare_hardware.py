"""
### Compare hardware with the simulator

Takes the quantum circuit of a registered grader with the angles of some eyes of its test split, runs it on the backends that you
name, and reports how far their values are from the exact ones it was trained with.

**Runs** when a person triggers it. **Waits** in Airflow's triggerer, if need be for hours, without occupying a worker.
Circuits that no machine ran within *Hours* are simulated, and the note says so. Asking the same question again costs nothing.

| a task fails | what it means | what to do |
|---|---|---|
| Submit the circuits | the version has no stored circuit, or a backend is unknown | retrain; see `qfundus quantum backends` |
| Wait for the machine | no result came within two days | `qfundus quantum jobs` shows where the jobs are; `qfundus quantum cancel` stops them |
| Compare | a job failed or was cancelled | the message says why; clear the first task to resubmit |
"""

from datetime import timedelta

from airflow.sdk import Param, dag, task
from quantum_jobs import WaitForQuantumJobs
from retries import FAIL_WHAT_CANNOT_HEAL


@dag(
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["fundus", "quantum"],
    dag_display_name="Compare a machine with the simulator",
    render_template_as_native_obj=True,  # the jobs that are waited for are a list
    default_args={
        "owner": "mlops",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": True,
        "retry_policy": FAIL_WHAT_CANNOT_HEAL,
        "execution_timeout": timedelta(minutes=30),
    },
    params={
        "version": Param(
            "", type="string", pattern=r"^\d*$", title="Version", description="Of fundus-grader; empty for the newest."
        ),
        "backends": Param(
            ["aer.noisy"],
            type="array",
            items={"type": "string"},
            title="Backends",
            description="From configs/quantum.yaml.",
        ),
        "eyes": Param(20, type="integer", minimum=1, maximum=1000, title="Eyes", description="How many to compare on."),
        "precision": Param(
            0.05,
            type="number",
            exclusiveMinimum=0,
            maximum=0.5,
            title="Precision",
            description="The standard deviation of each value; halving it takes four times the shots.",
        ),
        "hours": Param(8, type="number", exclusiveMinimum=0, title="Hours", description="How long a machine may take."),
    },
)
def compare_hardware():
    """Wire the steps."""

    @task(task_display_name="Submit the circuits")
    def ask_for_circuits(params, dag_run):
        from qfundus.steps import request_comparison

        user = dag_run.triggering_user_name or ""
        return request_comparison.request_comparison(
            params["version"], params["backends"], params["eyes"], params["precision"], params["hours"], user
        )

    @task(task_display_name="Compare")
    def compare(asked, run_id):
        from qfundus.platform.notes import write_run_note
        from qfundus.steps import compare_hardware

        compared = compare_hardware.compare_hardware(asked["version"], asked["jobs"])
        write_run_note("compare_hardware", run_id, compared["note"])
        return compared

    asked = ask_for_circuits()
    waited = WaitForQuantumJobs(
        task_id="wait_for_machine",
        task_display_name="Wait for the machine",
        jobs="{{ ti.xcom_pull(task_ids='ask_for_circuits')['jobs'].values() | list }}",
        execution_timeout=timedelta(days=2),
    )
    asked >> waited >> compare(asked)


compare_hardware()
