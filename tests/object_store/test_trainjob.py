"""Training by TrainJobs: a stand-in for the cluster, whose nodes are processes that share nothing but a real S3."""

import time
from dataclasses import replace

import pytest
from kubernetes_stub import running_stub
from trainings import losses, make_labelled, make_recipe

from qfundus.classical.launch import InPlace, train_all
from qfundus.classical.preparation import list_jobs
from qfundus.classical.shards import read_table, write_shards
from qfundus.classical.storage_folder import delete_folder
from qfundus.classical.trainjob import TrainJobs, name_trainjob, open_trainjobs
from qfundus.errors import Retry, SetupError, TrainingError
from qfundus.settings import TrainingSettings

HOW = TrainingSettings(launcher="trainjob", processes=2, cpus=1, memory="2Gi", secret="site-settings")  # noqa: S106  (its name)


@pytest.fixture
def cluster(settings, tmp_path):
    secret = {
        "QFUNDUS_S3_ENDPOINT": settings.s3_endpoint,
        "QFUNDUS_S3_ACCESS_KEY": settings.s3_access_key,
        "QFUNDUS_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
    }
    with running_stub(tmp_path, {"site-settings": secret}) as (stub, config):
        stub.training = HOW.model_copy(update={"kubeconfig": str(config)})
        yield stub


@pytest.fixture
def job(settings):
    """Two networks' worth of photographs in S3; the first network is trained."""
    work = f"s3://{settings.models_bucket}/trainjob"
    recipe = make_recipe(training__checkpoint_every=2)
    write_shards(make_labelled(60), recipe.images, f"{work}/eyes.lance")
    yield list_jobs(recipe, read_table(f"{work}/eyes.lance", recipe.images), work, seed=1)[0]
    delete_folder(work)


def wait_until_complete(cluster, job):
    until = time.monotonic() + 240
    while "status" not in cluster.look(name_trainjob(job)):
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_two_nodes_take_the_same_course_as_this_process_alone_whoever_comes_again(cluster, job, tmp_path):
    alone = replace(job, folder=str(tmp_path / "alone"))
    train_all([alone], InPlace())
    first = open_trainjobs(cluster.training, 1, poll=0.5).start(job)
    train_all([job], open_trainjobs(cluster.training, 1, poll=0.5))  # finds it, and submits no other
    assert losses(job) == [pytest.approx(epoch, abs=2e-4) for epoch in losses(alone)]
    assert cluster.submitted == [name_trainjob(job)]
    assert cluster.trainjobs == {}  # it is deleted when its result is there
    with pytest.raises(TrainingError, match="was deleted"):
        first.has_ended()
    logs = [cluster.folder / f"{name_trainjob(job)}-node-0-{rank}" for rank in range(2)]
    assert ["Epoch" in log.read_text() for log in logs] == [True, False]  # only the first node logs epochs


@pytest.mark.slow
def test_one_that_fails_says_why_and_is_submitted_anew_next_time(cluster, job):
    lost = replace(job, shards=job.shards.replace("eyes", "lost"))
    launcher = open_trainjobs(cluster.training.model_copy(update={"processes": 1}), 1, poll=0.5)
    with pytest.raises(TrainingError, match=r"its first node ends:\nNo shards were found at s3://"):
        train_all([lost], launcher)
    assert list(cluster.trainjobs) == [name_trainjob(lost)]  # for a person to look at
    launcher.start(lost).end()
    assert len(cluster.submitted) == 2
    assert cluster.trainjobs == {}


@pytest.mark.product
def test_a_trainjob_of_an_earlier_try_without_a_result_is_not_taken_for_one(cluster, job):
    launcher = open_trainjobs(cluster.training, 1, poll=0.5)
    launcher.start(job)
    wait_until_complete(cluster, job)
    delete_folder(job.folder)
    train_all([job], launcher)
    assert job.is_done
    assert len(cluster.submitted) == 2


@pytest.mark.product
def test_a_trainjob_is_deleted_though_nobody_looked_when_it_ended(cluster, job):
    open_trainjobs(cluster.training, 1, poll=0.5).start(job)
    wait_until_complete(cluster, job)
    train_all([job], open_trainjobs(cluster.training, 1, poll=0.5))
    assert cluster.trainjobs == {}
    assert len(cluster.submitted) == 1


@pytest.mark.slow
def test_an_api_server_that_is_silent_for_a_while_is_waited_for(cluster, job):
    running = open_trainjobs(cluster.training, 1, poll=0.5).start(job)
    cluster.silent = True
    time.sleep(0.6)
    assert not running.has_ended()
    with pytest.raises(Retry, match="does not answer"):
        open_trainjobs(cluster.training, 1, poll=0.5)
    with pytest.raises(Retry, match="does not take the TrainJob"):
        TrainJobs(running.client, cluster.training, 1, 0.5).start(job)
    running.end()  # says so, and raises nothing that would hide why it was asked to
    cluster.silent = False
    time.sleep(0.6)
    assert not running.has_ended()
    running.end()
    assert cluster.trainjobs == {}


@pytest.mark.slow
def test_missing_settings_are_reported_before_anything_starts(cluster, job, tmp_path):
    with pytest.raises(SetupError, match="no training runtime gpu-nodes"):
        open_trainjobs(cluster.training.model_copy(update={"runtime": "gpu-nodes"}), 1, poll=0.5)
    with pytest.raises(SetupError, match="share data only through S3"):
        open_trainjobs(cluster.training, 1, poll=0.5).start(replace(job, folder=str(tmp_path)))
    with pytest.raises(SetupError, match="no cluster was found"):
        open_trainjobs(HOW.model_copy(update={"kubeconfig": str(tmp_path / "none")}), 1)
