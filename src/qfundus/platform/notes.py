"""Notes on Airflow's DAG runs."""

import structlog

from qfundus.errors import Retry, SetupError
from qfundus.platform.airflow import AirflowClient
from qfundus.settings import load_settings

_log = structlog.get_logger()


def write_run_note(dag: str, run: str, note: str) -> None:
    """Write a run's note; a run does not fail because its note could not be written."""
    try:
        AirflowClient(load_settings()).write_note(dag, run, note)
    except (Retry, SetupError) as error:
        _log.warning("Could not write the run's note", why=str(error))
    _log.info("Run note", note=note)
