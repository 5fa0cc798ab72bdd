"""
### Retrain the grader

Takes a snapshot of every graded eye, trains the classical and the quantum head side by side, combines them, and measures all
three forms on patients held out from training. It compares the ensemble with the version in service and registers it if it passes
the gate. The steps are the Kubeflow pipeline `retraining`; it runs here, or on a Kubeflow endpoint if `QFUNDUS_KFP_ENDPOINT` is set.

**Runs** every night at 02:00 UTC, and whenever `ingest_fundus` brings new eyes. Skips if no eye is new, unless forced.

**Updates** the asset `candidate_model` if a version was registered; `promote_model` follows it.

| a task fails | what it means | what to do |
|---|---|---|
| Look for new eyes | the run was forced but no eye has been ingested, or the feature store does not answer | run `ingest_fundus` first; check `qfundus status` |
| Run the retraining pipeline | a step failed; its log is part of this task's log, or on the KFP page it names | fix the cause and clear the task: finished steps come from the cache |
| Search for the planted names | a planted name was found in a model, a tag, a metric or a log | the message and `qfundus planted` say where; no candidate is announced |
| Announce the candidate | MLflow does not answer | clear the task |
"""

from datetime import timedelta
from pathlib import Path

from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    Param,
    dag,
    task,
)
from retries import FAIL_WHAT_CANNOT_HEAL

EYE_FEATURES = Asset("eye_features")
CANDIDATE_MODEL = Asset("candidate_model")
RECIPES = sorted(file.stem for file in (Path(__file__).parents[1] / "configs" / "recipes").glob("*.yaml"))


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 2 * * *", timezone="UTC"), assets=[EYE_FEATURES]),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["fundus", "training"],
    dag_display_name="Retrain every night",
    default_args={
        "owner": "mlops",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": True,
        "retry_policy": FAIL_WHAT_CANNOT_HEAL,
        "execution_timeout": timedelta(hours=6),
    },
    params={
        "recipe": Param(
            None,
            type=["null", "string"],
            enum=[None, *RECIPES],
            title="Recipe",
            description="What to train: a name in configs/recipes/. Empty for the site's default, QFUNDUS_NIGHTLY_RECIPE.",
        ),
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description="Retrain even if no eye is new. Steps with unchanged inputs come from the cache.",
        ),
    },
)
def retrain_nightly():
    """Wire the steps."""

    @task(task_display_name="Look for new eyes")
    def look_for_new_eyes(params):
        from airflow.sdk.exceptions import AirflowSkipException

        from qfundus.steps import plan_retraining

        plan = plan_retraining.plan_retraining(params["recipe"], force=params["force"])
        if plan is None:
            raise AirflowSkipException("No eye is new since the last retraining with this recipe.")
        return plan

    @task(task_display_name="Run the retraining pipeline")
    def run_pipeline(plan):
        from qfundus.steps import run_pipeline

        run_pipeline.run_pipeline(plan)
        return plan

    @task(task_display_name="Search for the planted names")
    def search_planted(plan, run_id):
        from qfundus.steps import search_planted

        search_planted.search_planted("retrain_nightly", run_id)
        return plan

    @task(task_display_name="Announce the candidate", outlets=[CANDIDATE_MODEL])
    def announce_candidate(plan, run_id, outlet_events):
        from airflow.sdk.exceptions import AirflowSkipException

        from qfundus.platform.notes import write_run_note
        from qfundus.steps import conclude_retraining

        concluded = conclude_retraining.conclude_retraining(plan)
        write_run_note("retrain_nightly", run_id, concluded["note"])
        if not concluded["version"]:
            raise AirflowSkipException(concluded["note"])
        outlet_events[CANDIDATE_MODEL].extra = {"version": concluded["version"]}
        return concluded

    announce_candidate(search_planted(run_pipeline(look_for_new_eyes())))


retrain_nightly()
