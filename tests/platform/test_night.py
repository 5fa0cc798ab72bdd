"""One whole night through Airflow's API, with a poisoned study in it: it ends at a Triton answer and leaks nothing."""

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from command_line import call
from conftest import make_eye
from faults import FAULTS
from poison import MARK, marks, poison

from qfundus.errors import NightError, Retry, SetupError
from qfundus.features.snapshot import latest_knowledge, snapshot_dataset
from qfundus.features.store import KEYS, blank_online, online_row, open_feature_store, read_keys
from qfundus.hospital.photographs import Photographs
from qfundus.hospital.wrap import to_bytes, wrap_photographs, write_hospital
from qfundus.hybrid.grader import OUTPUTS
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.landing import fix_landed
from qfundus.ingestion.outcome import Outcome, to_table
from qfundus.layout import recipe_file
from qfundus.object_names import manifest_name
from qfundus.onnx_graphs.quantise import is_quantised
from qfundus.onnx_graphs.run import open_session
from qfundus.planted.leaks import newest_page
from qfundus.platform.airflow import AirflowClient
from qfundus.platform.night import follow_run, run_night
from qfundus.platform.supervision import platform_status
from qfundus.recipes.nightly import SERVED_IMAGES, NightlyRecipe, Splits, load_nightly_recipe
from qfundus.registry import promote
from qfundus.registry.grade import grade_files
from qfundus.registry.naming import retraining_key
from qfundus.registry.promote import promote_version
from qfundus.registry.triton import SERVED_MODEL, grade_over_http
from qfundus.registry.versions import (
    MODEL,
    champion_version,
    connect,
    download_file,
    download_report,
    find_retraining,
    has_file,
    read_version,
)
from qfundus.security.keys import pseudonymise_uid
from qfundus.steps.conclude_retraining import conclude_retraining
from qfundus.steps.judge_candidate import judge_candidate
from qfundus.steps.plan_retraining import plan_retraining
from qfundus.steps.register_candidate import register_candidate
from qfundus.steps.request_comparison import request_comparison
from qfundus.steps.run_pipeline import run_pipeline
from qfundus.storage import to_parquet

EYES = 60


@pytest.fixture(scope="module")
def hospital(photographs, settings, store, tmp_path_factory):
    """Sixty graded eyes, four poisoned ones, a poisoned sheet and every fault, all in the landing bucket."""
    folder = tmp_path_factory.mktemp("hospital")
    few = Photographs(photographs.images[:EYES], photographs.grades[:EYES], "test")
    write_hospital(wrap_photographs(few, burned_share=0.1), folder)
    for number in range(4):
        (folder / f"{MARK}_Jane_{number}.dcm").write_bytes(poison(make_eye(photographs, 900 + number), number))
    (folder / f"{MARK}_cut.dcm").write_bytes(poison(make_eye(photographs, 910), 10)[:-2000])
    (folder / f"{MARK}_letter.dcm").write_bytes(MARK.encode() * 50)
    rows = [f"1.2.826.0.1.3680043.10.424242.1.{number},{number},{MARK},2026-07-01" for number in (0, 1, 7, 8)]
    (folder / f"{MARK}.csv").write_text("SOPInstanceUID,grade,grader,date\n" + "\n".join(rows) + "\n")
    for reason, fault in FAULTS.items():
        (folder / f"{MARK}_{reason}.dcm").write_bytes(fault(make_eye(photographs, 950)))
    for file in folder.iterdir():
        store.put(settings.landing_bucket, file.name, file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def night(hospital, settings):
    lines = []
    done = run_night(settings, lines.append)
    return done, lines


def test_the_night_ends_with_a_model_in_service(night, settings):
    done, lines = night
    assert done.promoted["reason"] == "Serving after its smoke test."
    assert champion_version(settings) == done.promoted["version"]
    assert any("approved through the API" in line for line in lines)


def test_every_landed_object_is_in_the_account(night, hospital):
    counts = night[0].counts
    images = sum(n for name, n in counts.items() if name.startswith("images "))
    sheets = sum(n for name, n in counts.items() if name.startswith("sheets "))
    assert images + sheets == counts["landed"] == len(list(hospital.iterdir()))
    assert counts["grades quarantined"] >= 2


def test_the_runs_and_what_became_of_each_object_can_be_listed(night, hospital):
    runs = [json.loads(line) for line in call("runs", "--json").stdout.splitlines()]
    first = next(run for run in runs if "images quarantined" in run["counts"])  # later ones may have found nothing
    listed = call("runs", first["run"], "--json").stdout
    rows = [json.loads(line) for line in listed.splitlines() if '"source"' in line]
    real = [row for row in rows if not row["planted"]]
    held = sum(row["status"] == "quarantined" and row["kind"] == "image" for row in real)
    assert (first["closed"], first["counts"]["images quarantined"]) == (True, held)
    assert MARK not in listed
    assert "No outcomes found for run nothing" in str(call("runs", "nothing").exception)


def test_unseen_eyes_are_graded_over_http_and_grpc_alike(night, site, photographs, tmp_path):
    few = Photographs(photographs.images[100:106], photographs.grades[100:106], "test")
    write_hospital(wrap_photographs(few, seed=5, burned_share=0), tmp_path)
    files = sorted(tmp_path.glob("*.dcm"))
    (tmp_path / "zz_letter.dcm").write_bytes(b"Dear Jane")
    over_http = grade_files(site, [*files, tmp_path / "zz_letter.dcm"], protocol="http")
    over_grpc = grade_files(site, files, protocol="grpc")
    assert [eye.version for eye in over_http[:6]] == [night[0].promoted["version"]] * 6
    assert np.allclose([e.probabilities for e in over_http[:6]], [e.probabilities for e in over_grpc], atol=1e-6)
    assert np.allclose(np.sum([e.probabilities for e in over_grpc], axis=1), 1, atol=1e-5)
    assert "not_dicom" in over_http[6].refused
    refer_below = read_version(site.settings, over_http[0].version).refer_below
    assert 0.2 < refer_below < 1
    for eyes in (over_http[:6], over_grpc):
        assert [eye.referred for eye in eyes] == [max(eye.probabilities) < refer_below for eye in eyes]


def test_invented_patients_travelled_with_the_night_and_were_looked_for(night, settings, store, site):
    assert night[0].counts["planted curated"] == 4
    page = newest_page(site).decode()
    assert "No: in none of" in page
    looked = dict(re.findall(r"<td>([^<]+)</td>\s*<td class=\"number\">(\d+)</td>", page))
    for place in ("curated", "quarantine", "features", "vault", "pixels", "Airflow", "files"):
        assert any(int(number) for name, number in looked.items() if place in name), place
    client = AirflowClient(settings)
    for dag in ("ingest_fundus", "retrain_nightly"):
        # Between two and half past four Airflow makes up for the night's run, which finds no eye.
        runs = client.runs_since(dag, "2000-01-01T00:00:00Z")
        assert "success" in {t.state for run in runs for t in client.tasks(dag, run) if t.name == "search_planted"}


def test_a_second_night_with_nothing_new_ends_at_once(night, settings):
    again = run_night(settings, lambda _: None)
    assert "images curated" not in again.counts
    assert again.retrained == {}
    assert again.seconds < night[0].seconds / 2


def test_a_forced_retraining_finds_its_steps_in_the_cache(night, settings, capfd):
    plan = plan_retraining("tiny", force=True)
    assert plan["champion"] == champion_version(settings)
    run_pipeline(plan)
    steps = re.findall(r"Executing task \S*?'([a-z-]+)'", "".join(capfd.readouterr()))
    # The champion is new since the last retraining: the verdict and its record are, the training is not.
    assert {step.split("-")[0] for step in steps} == {"judge", "register"}
    assert conclude_retraining(plan)["version"]


def test_a_candidate_below_the_floor_is_recorded_and_not_registered(night, settings, platform, tmp_path):
    """The night's own grader, judged by a gate that no grader passes."""
    folder = next((platform / "state" / "kfp").rglob("predictions.parquet")).parent
    [dataset] = {file.resolve() for file in (platform / "state" / "kfp").rglob("snapshot*/dataset")}
    tiny = load_nightly_recipe(recipe_file("tiny"))
    strict = NightlyRecipe.model_validate(tiny.model_dump() | {"gate": {"margin": 0.0, "floor": 0.99}}).to_json()
    plan = {"recipe": strict, "as_of": "2026-01-01T00:00:00+00:00", "champion": ""}
    report = tmp_path / "report.html"
    verdict = judge_candidate(strict, str(folder), "", str(dataset), str(report))
    version = register_candidate(**plan, verdict=verdict, grader=str(folder), report=str(report), trained={})
    assert version == ""
    concluded = conclude_retraining(plan)
    assert concluded["version"] == ""
    assert re.search(r"Refused: the candidate's kappa is .* must exceed 0\.99\. Not registered\.$", concluded["note"])
    assert "The gate refused the candidate" in report.read_text()
    assert find_retraining(settings, retraining_key(**plan)).verdict.passed is False
    assert champion_version(settings) == night[0].promoted["version"]


def test_a_machine_is_compared_with_the_simulator_and_holds_no_worker(night, settings):
    client = AirflowClient(settings)
    asked = {"backends": ["exact", "aer.noisy"], "eyes": 3, "precision": 0.1}
    run = client.trigger("compare_hardware", asked)
    follow_run(settings, "compare_hardware", run, lambda _: None, approve=False)
    compared = client.result("compare_hardware", run, "compare")
    assert compared["off"]["exact"] < 1e-5
    assert 1e-5 < compared["off"]["aer.noisy"] < 0.3
    assert "aer.noisy: mean error 0." in client.note("compare_hardware", run)
    [waited] = [t for t in client.tasks("compare_hardware", run) if t.name == "wait_for_machine"]
    assert waited.state == "success"
    jobs = client.result("compare_hardware", run, "ask_for_circuits")["jobs"]
    assert client.result("compare_hardware", run, "wait_for_machine") == dict.fromkeys(jobs.values(), "done")
    # What was asked before is not sent again.
    again = request_comparison("", asked["backends"], asked["eyes"], asked["precision"], hours=1, user="")
    assert again["jobs"] == jobs
    shown = subprocess.run(
        [Path(sys.executable).parent / "qfundus", "quantum", "jobs", "--all", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    jobs = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(job["state"], job["cache_hits"]) for job in jobs] == [("done", 1)] * 2
    metrics = httpx.get(quantum_metrics(settings)).text
    assert 'qfundus_quantum_jobs{state="done"} 2.0' in metrics
    assert "qfundus_quantum_run_seconds_count" in metrics


def quantum_metrics(settings):
    ports = json.loads((settings.home / "ports.json").read_text())
    return f"http://127.0.0.1:{ports['quantum_metrics']}/metrics"


def test_a_lost_object_fails_the_dag_which_names_the_task_its_logs_end_and_the_remedy_and_clears_nothing(
    night, settings, store, photographs, site
):
    names = ["account_1.dcm", "account_2.dcm"]
    for number, name in enumerate(names):
        store.put(settings.landing_bucket, name, to_bytes(make_eye(photographs, 980 + number)))
    landed, _ = fix_landed(site, "one-is-lost")
    one = to_table([Outcome(landed[0].source, "image", "quarantined", "no_pixels")])
    store.put(settings.curated_bucket, manifest_name("one-is-lost"), to_parquet(one))
    client = AirflowClient(settings)
    try:
        run = client.trigger("ingest_fundus", run="one-is-lost")
        with pytest.raises(NightError) as failed:
            follow_run(settings, "ingest_fundus", run, lambda _: None)
        assert set(names) <= {found.name for found in store.list(settings.landing_bucket)}
    finally:
        store.delete_all(settings.landing_bucket, [found.name for found in store.list(settings.landing_bucket)])
    message = str(failed.value)
    assert "“Account for every object” (ingest_fundus.close_run) failed" in message
    assert "AccountError: 2 objects landed, 1 have an outcome: 1 lost" in message
    assert f"{settings.airflow_url}/dags/ingest_fundus" in message
    [task] = [task for task in client.tasks("ingest_fundus", run) if task.name == "close_run"]
    assert task.tries == 1  # to try again would not find it


def test_the_online_store_knows_the_eye(night, settings, store, site):
    known = read_keys(site, "eye_grade", latest_knowledge(site))
    row = online_row(settings, "hybrid_grader", known["eye_id"][0], known["study_id"][0])
    assert len(row["embedding"]) == 1280
    assert row["grade"] in range(5)


def test_what_is_erased_is_blank_in_the_online_store(night, settings):
    key = ("PATIENT-R", "2.25.1")
    known = dict(zip(KEYS, key, strict=True)) | {"grade": 3, "grader": "somebody", "graded_on": "2026-01-01"}
    rows = pd.DataFrame([known | {"event_timestamp": pd.Timestamp.now(UTC)}])
    open_feature_store(settings).write_to_online_store("eye_grade", df=rows)
    assert online_row(settings, "hybrid_grader", *key)["grade"] == 3
    blank_online(settings, [key])
    row = online_row(settings, "hybrid_grader", *key)
    assert (row["grade"], row["grader"], row["patient_id"]) == (-1, "", "")


def test_a_training_set_of_an_earlier_moment_does_not_know_what_came_later(night, settings, store, site_key, site):
    splits = Splits(train=0.5, validation=0.25, test=0.25)
    now = latest_knowledge(site)
    first, again = (snapshot_dataset(site, splits, now) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(SetupError):
        snapshot_dataset(site, splits, now - timedelta(seconds=1))


def test_the_run_notes_say_what_happened(night, settings):
    client = AirflowClient(settings)
    for dag, word in (("ingest_fundus", "landed"), ("retrain_nightly", "kappa"), ("promote_model", "serves")):
        notes = [client.note(dag, run) for run in client.runs_since(dag, "2000-01-01T00:00:00Z")]
        assert any(word in note for note in notes), dag


def test_a_version_that_answers_wrongly_is_rolled_back(night, settings, monkeypatch):
    champion = champion_version(settings)
    client = connect(settings)
    run = client.get_model_version(MODEL, champion).run_id
    broken = client.create_model_version(MODEL, f"runs:/{run}/grader", run_id=run).version

    def download(settings, version, name, folder):
        file = download_file(settings, champion, name, folder)
        if name.endswith(".npz"):
            kept = dict(np.load(file))
            np.savez_compressed(file, images=kept["images"], probabilities=kept["probabilities"][:, ::-1])
        return file

    monkeypatch.setattr(promote, "download_file", download)
    done = promote.promote_version(settings, broken)
    assert not done.succeeded
    assert "differs" in done.reason
    assert champion_version(settings) == champion
    assert not (settings.triton_repository / SERVED_MODEL / broken).exists()
    images = np.zeros((1, 224, 224, 3), np.uint8)
    assert grade_over_http(settings, images).version == champion


def test_a_triton_that_dies_comes_back_with_the_champion(night, settings, platform):
    [triton] = [s for s in platform_status() if s.name == "triton"]
    os.kill(triton.pid, signal.SIGKILL)
    images = np.zeros((1, 224, 224, 3), np.uint8)
    for _ in range(120):
        try:
            assert grade_over_http(settings, images).version == champion_version(settings)
            break
        except Retry:
            time.sleep(0.5)
    else:
        pytest.fail("Triton did not come back")


def test_the_report_shows_figures_and_the_verdict(night, settings, tmp_path):
    page = download_report(settings, night[0].retrained["run_id"], tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 7
    assert "The gate passed the candidate" in page
    assert "The grader refers an eye to a person if" in page


class TestNothingOfThePoisonedStudyIsAnywhere:
    """Each hop after the landing bucket, which holds the originals until their run is closed."""

    def assert_clean(self, where, data):
        for mark in marks():
            assert mark not in data, f"{mark} is in {where}"

    def test_in_no_object_and_no_objects_name(self, night, settings, store):
        assert [o.name for o in store.list(settings.landing_bucket)] == []
        looked_at = 0
        for bucket in ("curated", "quarantine", "features", "models", "mlflow"):
            for found in store.list(bucket):
                data = store.get(bucket, found.name)
                self.assert_clean(f"{bucket}/{found.name}", found.name.encode())
                self.assert_clean(f"{bucket}/{found.name}", data)
                if found.name.endswith(".parquet"):
                    self.assert_clean(found.name, pd.read_parquet(io.BytesIO(data)).to_csv().encode())
                looked_at += 1
        assert looked_at > 100

    def test_in_no_xcom_parameter_or_other_row_of_airflow(self, night, platform):
        with sqlite3.connect(platform / "state" / "airflow" / "airflow.db") as database:
            dump = "\n".join(database.iterdump())
        assert "runs/manual__" in dump
        self.assert_clean("Airflow's database", dump.encode())

    def test_in_no_run_tag_parameter_or_metric_of_mlflow(self, night, platform):
        with sqlite3.connect(platform / "state" / "mlflow" / "mlflow.db") as database:
            dump = "\n".join(database.iterdump())
        assert "qfundus.gate" in dump
        self.assert_clean("MLflow's database", dump.encode())

    def test_in_no_log_pipeline_artifact_or_other_file(self, night, platform):
        store_of_the_originals = platform / "state" / "seaweedfs"
        looked_at = set()
        for file in (platform / "state").rglob("*"):
            if file.is_file() and store_of_the_originals not in file.parents:
                self.assert_clean(file, file.name.encode())
                self.assert_clean(file, file.read_bytes())
                looked_at.add(file.suffix)
        assert {".log", ".json", ".onnx", ".db"} <= looked_at

    def test_the_originals_lie_encrypted_in_the_store(self, night, platform):
        chunks = list((platform / "state" / "seaweedfs").rglob("*.dat"))
        assert chunks
        for file in chunks:
            self.assert_clean(file, file.read_bytes())

    def test_what_was_poisoned_was_still_used(self, night, settings, store, site_key, site):
        found = InstanceIndex(site).find(pseudonymise_uid(site_key, "1.2.826.0.1.3680043.10.424242.1.0"))
        assert found is not None
        assert json.dumps(found.__dict__)


@pytest.fixture(scope="module")
def network_plan(night, settings, store, site):
    """The night's eyes with a network on photographs for the classical form, served as int8: one, for an epoch."""
    tiny = load_nightly_recipe(recipe_file("tiny"))
    training = {"epochs": 1, "patience": 1, "batch": 16, "learning_rate": 0.001, "weight_decay": 0.01, "warm_up": 0}
    network = {
        "name": "one_epoch",
        "seed": 3,
        "images": SERVED_IMAGES,
        "network": {},
        "augmentation": {},
        "training": training,
        "grading": {},
    }
    changes = {
        "name": "tiny_network",
        "classical": network,
        "serving": {"form": "int8", "max_drop": 1.0},
        "gate": {"margin": 1.0, "floor": -1.0},  # one epoch's kappa is chance: what follows the gate is tested here
    }
    recipe = NightlyRecipe.model_validate(tiny.model_dump() | changes)
    as_of = latest_knowledge(site)
    return {"recipe": recipe.to_json(), "as_of": as_of.isoformat(), "champion": night[0].promoted["version"]}


@pytest.fixture(scope="module")
def network_trained(network_plan):
    """Trained by the pipeline, each network in a process beside the step, as the platform's settings say."""
    run_pipeline(network_plan)
    return conclude_retraining(network_plan)


def test_networks_on_photographs_are_trained_mixed_judged_and_registered(network_trained, network_plan, settings):
    recorded = read_version(settings, network_trained["version"])
    assert recorded.recipe == "tiny_network"
    assert recorded.verdict.champion_version == network_plan["champion"]
    run = connect(settings).get_run(recorded.run_id)
    assert run.data.metrics["classical_networks"] == 1
    assert run.data.metrics["classical_photographs_per_second"] > 0
    assert run.data.params["classical.training.epochs"] == "1"


def test_the_graph_of_a_network_answers_as_its_parts_do(network_trained, settings, tmp_path):
    assert not has_file(settings, network_trained["version"], "head.onnx")
    graph = open_session(download_file(settings, network_trained["version"], "model.onnx", tmp_path))
    with np.load(download_file(settings, network_trained["version"], "smoke.npz", tmp_path)) as smoke:
        mixed, classical, quantum = graph.run(list(OUTPUTS), {"image": smoke["images"]})
        assert np.allclose(mixed, smoke["probabilities"], atol=1e-6)
    assert np.abs(classical - quantum).max() > 1e-3


def test_what_networks_were_trained_on_is_gone_when_they_are_trained(network_trained, store, settings, platform):
    assert list(store.list(settings.models_bucket, "trainings/")) == []
    assert list((platform / "state" / "trainings").iterdir()) == []


def test_a_network_in_service_is_asked_about_photographs(network_trained, network_plan, platform, tmp_path):
    pipelines = platform / "state" / "kfp"
    grader = max(pipelines.rglob("predictions.parquet"), key=lambda file: file.stat().st_mtime).parent
    dataset, version = next(pipelines.rglob("snapshot*/dataset")), network_trained["version"]
    verdict = judge_candidate(network_plan["recipe"], str(grader), version, str(dataset), str(tmp_path / "report.html"))
    # The same grader against itself.
    assert json.loads(verdict)["champion_version"] == version
    assert json.loads(verdict)["difference"] == pytest.approx(0, abs=1e-6)


def test_whole_numbers_are_judged_and_served_as_they_were_measured(network_trained, network_plan, settings, tmp_path):
    version = network_trained["version"]
    recorded = read_version(settings, version)
    assert connect(settings).get_run(recorded.run_id).data.params["served"] == "int8"
    assert "Served as int8. int8 was kept: " in download_report(settings, recorded.run_id, tmp_path).read_text()
    assert is_quantised(download_file(settings, version, "model.onnx", tmp_path))
    try:
        assert promote_version(settings, version).succeeded
        with np.load(download_file(settings, version, "smoke.npz", tmp_path)) as smoke:
            answer = grade_over_http(settings, smoke["images"])
            assert answer.version == version
            assert np.allclose(answer.probabilities, smoke["probabilities"], atol=1e-4)
    finally:
        assert promote_version(settings, network_plan["champion"]).succeeded


def test_int8_on_a_gpu_is_refused_before_anything_is_trained(night, settings, monkeypatch, tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(recipe_file("tiny").read_text() + "serving: {form: int8}\n")
    monkeypatch.setattr("qfundus.steps.plan_retraining.recipe_file", lambda _: recipe)
    monkeypatch.setenv("QFUNDUS_TRITON_ACCELERATOR", "gpu")
    with pytest.raises(SetupError, match=r"serves int8, which is for the CPU.*set `serving\.form` to float32"):
        plan_retraining("small")
