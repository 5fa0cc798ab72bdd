"""
### Ingest fundus photographs

Fetches new photographs from the hospital's archive (where one is configured), reads the landing bucket, de-identifies every
photograph, quarantines what cannot be used with a reason, extracts features, and fills the feature store. The run ends by
accounting for every landed object: if one has no outcome, or two, the run fails and nothing is cleared. Each run also carries a
few invented patients with marked names; at its end every store, log and database is searched for those names.

**Runs** when triggered, by a person or by the feed. One run at a time.

**Updates** the asset `eye_features` if an eye or a grade is new; `retrain_nightly` follows it.

| a task fails | what it means | what to do |
|---|---|---|
| Fetch from the archive | the archive does not answer, a photograph could not be fetched, or many are no longer listed | read the message; this run ingests what was fetched, and the next run tries the rest again |
| Fail if the fetch failed | the fetch failed, so the run fails too, although everything else was done | see above |
| Plant invented patients | the object store does not answer | run `qfundus status`, then clear the task |
| De-identify what has landed | the object store does not answer, or fewer objects landed than `at_least` | run `qfundus status`, then clear the task: finished objects are not done again |
| Extract features | the object store does not answer | clear the task |
| Push to the feature store | Feast could not register or load the features | read the end of the log, then clear the task: loaded chunks are skipped |
| Account for every object | an object was lost or counted twice | nothing was deleted; clear the whole run to repeat it |
| Search for the planted names | a planted name was found where no name may be | the message and `qfundus planted` say where; close the leak before anything uses this run |
| Announce new eyes | this task only updates the asset | clear the task |

List quarantined items and their remedies with `qfundus quarantine list`; release one with `qfundus quarantine release <source>`.
"""

from datetime import timedelta

from airflow.sdk import Asset, Param, dag, task
from retries import FAIL_WHAT_CANNOT_HEAL

EYE_FEATURES = Asset("eye_features")


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["fundus", "ingestion"],
    dag_display_name="Ingest fundus photographs",
    default_args={
        "owner": "data-engineering",
        "retries": 3,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": True,
        "retry_policy": FAIL_WHAT_CANNOT_HEAL,
        "execution_timeout": timedelta(hours=2),
    },
    params={
        "at_least": Param(
            0,
            type="integer",
            minimum=0,
            title="At least",
            description="Fail if fewer objects than this have landed: a silent feed is usually a broken one.",
        )
    },
)
def ingest_fundus():  # noqa: C901  (one function for each task)
    """Wire the steps."""

    @task(task_display_name="Fetch from the archive")
    def fetch_archive():
        from qfundus.steps import fetch_archive

        return fetch_archive.fetch_archive()

    @task(task_display_name="Fail if the fetch failed", trigger_rule="one_failed")
    def say_fetch_failed():
        from qfundus.errors import SetupError

        raise SetupError("Not all could be fetched from the archive: see the task `fetch_archive`.")

    @task(task_display_name="Plant invented patients", trigger_rule="all_done")
    def plant_patients(run_id):
        from qfundus.steps import plant_patients

        return plant_patients.plant_patients(run_id)

    @task(task_display_name="De-identify what has landed")
    def deidentify_landed(params, run_id):
        from qfundus.steps import deidentify_landed

        return deidentify_landed.deidentify_landed(run_id, params["at_least"])

    @task(task_display_name="Extract features")
    def extract_features(curated, run_id, dag_run):
        from qfundus.steps import extract_features

        return extract_features.extract_features(run_id, curated["manifest"], dag_run.run_after.isoformat())

    @task(task_display_name="Push to the feature store")
    def push_features(rows):
        from qfundus.steps import push_features

        return push_features.push_features(rows)

    @task(task_display_name="Account for every object")
    def close_run(curated, run_id):
        from qfundus.ingestion.account import describe_counts
        from qfundus.platform.notes import write_run_note
        from qfundus.steps import close_run

        counts = close_run.close_run(run_id, curated["manifest"])
        write_run_note("ingest_fundus", run_id, describe_counts(counts))
        return counts

    @task(task_display_name="Search for the planted names")
    def search_planted(run_id):
        from qfundus.steps import search_planted

        return search_planted.search_planted("ingest_fundus", run_id)

    @task(task_display_name="Announce new eyes", outlets=[EYE_FEATURES])
    def announce_eyes(counts):
        from airflow.sdk.exceptions import AirflowSkipException

        from qfundus.ingestion.outcome import has_news

        if not has_news(counts):
            raise AirflowSkipException("No eye and no grade is new.")

    curated = deidentify_landed()
    fetched = fetch_archive()
    fetched >> say_fetch_failed()
    fetched >> plant_patients() >> curated
    counts = close_run(curated)
    push_features(extract_features(curated)) >> counts >> search_planted() >> announce_eyes(counts)


ingest_fundus()
