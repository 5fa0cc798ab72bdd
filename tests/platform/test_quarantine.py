"""A held object is decided in Airflow, and the audit trail names who did."""

import json

from qfundus.errors import Discard
from qfundus.ingestion.quarantine import Quarantine
from qfundus.platform.airflow import AirflowClient
from qfundus.platform.night import follow_run
from qfundus.security.keys import pseudonymise_source


def test_who_decides_in_airflow_is_named(settings, site_key, site):
    held = Quarantine(site)
    source = pseudonymise_source(site_key, "decided in Airflow")
    held.put(source, "eye.dcm", b"no image", Discard("not_dicom", "It is none."), "run-1")
    why = "nobody needs it: a test"
    run = AirflowClient(settings).trigger("decide_quarantined", {"source": source, "decision": "drop", "why": why})
    follow_run(settings, "decide_quarantined", run, lambda _: None, approve=False)
    [event] = [record.event for record in site.trail.records() if source in json.dumps(record.event)]
    assert event["agent"][0]["who"]["identifier"]["value"] == settings.airflow_user
    assert why in json.dumps(event)
    assert source not in {item.source for item in held.list()}
