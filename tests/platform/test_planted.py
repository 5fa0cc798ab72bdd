"""The planted patients: they are found wherever their names are put by hand, and nowhere else."""

import gzip
import io
import secrets
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pydicom
import pytest
from conftest import make_eye

from qfundus.errors import LeakError
from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.account import close_run
from qfundus.ingestion.curate import curate_landed, read_manifest
from qfundus.ingestion.quarantine import Quarantine
from qfundus.object_names import object_name, planted_name
from qfundus.planted.leaks import forget_planted, newest_page, search_planted
from qfundus.planted.patients import marks, plant_patients, planted_eyes, recent_plantings
from qfundus.planted.search import Search
from qfundus.registry.versions import connect
from qfundus.storage import digest


@pytest.fixture
def run(fresh, photographs):
    """A run of one eye with its planted patients, closed."""
    curation = replace(fresh, run=f"run-{secrets.token_hex(4)}")
    curation.site.store.put(curation.site.settings.landing_bucket, "eye.dcm", to_bytes(make_eye(photographs, 1)))
    assert plant_patients(curation.site, curation.run)
    return curation


def close(curation):
    curated = curate_landed(curation)
    return close_run(curation.site, curation.run, curated.manifest)


def search(curation):
    return search_planted(curation.site, "ingest_fundus", curation.run)


def test_where_nothing_has_landed_nothing_is_planted(fresh):
    assert not plant_patients(fresh.site, "run-1")
    assert recent_plantings(fresh.site) == []
    assert search(fresh) == {"places": 0, "looked": 0}


def test_planted_patients_travel_are_searched_for_and_leave_nothing(run):
    assert plant_patients(run.site, run.run)  # a second try of the task
    counts = close(run)
    assert counts == {
        "landed": 1,
        "images curated": 1,
        "planted curated": 4,
        "planted graded": 1,
        "planted quarantined": 2,
        "planted read": 3,
    }
    looked = search(run)
    assert looked["places"] >= 10
    assert looked["looked"] > 20
    assert looked["actions"] > 100
    assert looked["missed"] == 0
    page = newest_page(run.site).decode()
    assert "No: in none of" in page
    assert "100.00 %" in page
    assert not any(mark in page for mark in marks(run.site.key, run.run))
    forget_planted(run.site)
    forget_planted(run.site)
    assert Quarantine(run.site).list() == []
    left = [o.name for o in run.site.store.list(run.site.settings.curated_bucket, "objects/")]
    assert len(left) == 1
    assert run.site.trail.verify() == []


def parquet(mark):
    packed = io.BytesIO()
    pd.DataFrame({"name": [mark]}).to_parquet(packed)
    return packed.getvalue()


def zipped(mark):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", mark * 50)
    return packed.getvalue()


def leak_everywhere(s, mark):
    """Put a mark wherever a name could get to; return what a search is to say of each place."""
    chosen, logs, mlflow = s.settings, s.settings.home / "logs", connect(s.settings)
    s.store.put(chosen.models_bucket, f"leak/{mark.lower()}", b"x")
    s.store.put(chosen.models_bucket, "leak/plain", mark.encode())
    s.store.put(chosen.models_bucket, "leak/utf16", mark.encode("utf-16-le"))
    s.store.put(chosen.features_bucket, "leak/parquet", parquet(mark))
    s.store.put(chosen.mlflow_bucket, "leak/zip", zipped(mark))
    s.store.put(chosen.audit_bucket, "leak/gzip", gzip.compress(mark.encode()))
    (logs / "leak.log").write_text("x" * 100 + mark)
    (logs / f"{mark}.log").write_text("x")
    tagged, measured = mlflow.create_run("0", tags={"patient": mark}), mlflow.create_run("0")
    mlflow.log_metric(measured.info.run_id, f"kappa_{mark}", 1.0)
    names = [f"leak/{name}" for name in ("(a planted name)", "plain", "utf16", "parquet", "zip", "gzip")]
    files = ["logs/leak.log", "logs/(a planted name).log"]
    return [*names, *files, f"run {tagged.info.run_id}", f"run {measured.info.run_id}"]


@pytest.fixture
def undo(run):
    yield
    for leak in (run.site.settings.home / "logs").glob("*.log"):
        if leak.stem == "leak" or leak.stem in marks(run.site.key, run.run):
            leak.unlink()
    chosen = run.site.settings
    for bucket in (chosen.models_bucket, chosen.mlflow_bucket, chosen.features_bucket, chosen.audit_bucket):
        run.site.store.delete_all(bucket, [o.name for o in run.site.store.list(bucket, "leak/")])


def test_a_planted_name_is_found_wherever_it_leaks(run, undo):
    close(run)
    leaked = [where for mark in marks(run.site.key, run.run) for where in leak_everywhere(run.site, mark)]
    with pytest.raises(LeakError) as found:
        search(run)
    page = run.site.store.get(run.site.settings.curated_bucket, planted_name(run.run)).decode()
    assert "Yes, in" in page
    assert [where for where in leaked if where not in page] == []
    assert not any(mark.lower() in (page + str(found.value)).lower() for mark in marks(run.site.key, run.run))


def test_letters_left_in_the_pixels_are_found(run, photographs):
    close(run)
    manifest = read_manifest(run.site, f"runs/{run.run}/outcomes.parquet")
    content = manifest.query("planted and status == 'curated'")["digest"].iloc[0]
    burned = to_bytes(make_eye(photographs, 3, burned_in=True))
    run.site.store.put(run.site.settings.curated_bucket, object_name(content), burned)
    with pytest.raises(LeakError, match="letters in the pixels"):
        search(run)


def test_a_planted_photograph_that_is_badly_deidentified_is_found_and_each_miss_listed(run):
    close(run)
    manifest = read_manifest(run.site, f"runs/{run.run}/outcomes.parquet")
    keyed = {digest(eye.data) for eye in planted_eyes(run.site.key, run.run)}
    content = object_name(manifest.loc[manifest["digest_before"].isin(keyed), "digest"].iloc[0])
    spoiled = pydicom.dcmread(io.BytesIO(run.site.store.get(run.site.settings.curated_bucket, content)))
    spoiled.DeviceSerialNumber = "SN-7734-20981"
    del spoiled.PupilDilated
    run.site.store.put(run.site.settings.curated_bucket, content, to_bytes(spoiled))
    with pytest.raises(LeakError, match="DeviceSerialNumber"):
        search(run)
    page = newest_page(run.site).decode()
    assert "gone, DeviceSerialNumber of" in page
    assert "kept, PupilDilated of" in page


def test_a_name_in_airflow_is_found(settings, store, site):
    from qfundus.platform.airflow import AirflowClient

    mark, since = f"QX{secrets.token_hex(9).upper()}", datetime.now(UTC) - timedelta(seconds=1)
    AirflowClient(settings).trigger("decide_quarantined", {"source": mark, "decision": "drop", "why": "a test"})
    places = Search(site, [mark], since).everywhere([])
    assert next(p.name for p in places if p.found).startswith("Airflow")
