"""Two pods of a real Kubernetes train one network, sharing nothing but S3."""

from dataclasses import replace

import boto3
import pytest
from kubernetes_cluster import NAMESPACE, SECRET
from trainings import losses, make_labelled, make_recipe

from qfundus.classical.launch import InPlace, train_all
from qfundus.classical.preparation import list_jobs
from qfundus.classical.shards import write_shards
from qfundus.classical.trainjob import open_trainjobs
from qfundus.errors import TrainingError
from qfundus.settings import TrainingSettings

pytestmark = pytest.mark.cluster
HOW = TrainingSettings(launcher="trainjob", namespace=NAMESPACE, processes=2, cpus=1, memory="3Gi", secret=SECRET)


@pytest.fixture
def job(cluster, store_settings):
    s3 = boto3.client(
        "s3",
        endpoint_url=store_settings["QFUNDUS_S3_ENDPOINT"],
        aws_access_key_id=store_settings["QFUNDUS_S3_ACCESS_KEY"],
        aws_secret_access_key=store_settings["QFUNDUS_S3_SECRET_KEY"],
        region_name="us-east-1",
    )
    if not s3.list_buckets()["Buckets"]:
        s3.create_bucket(Bucket="models")
    recipe = make_recipe()
    write_shards(make_labelled(60), recipe.images, "s3://models/eyes.lance")
    return list_jobs(recipe, "s3://models/eyes.lance", "s3://models/run", seed=1)[0]


def test_two_pods_take_the_same_course_as_this_process_alone(cluster, job, tmp_path):
    alone = replace(job, folder=str(tmp_path / "alone"))
    train_all([alone], InPlace())
    before = len(cluster.submitted)
    train_all([job], open_trainjobs(HOW, 1))
    assert losses(job) == [pytest.approx(epoch, abs=2e-4) for epoch in losses(alone)]
    assert len(cluster.submitted) == before + 1
    assert cluster.failure is None


def test_a_pod_that_fails_says_why(cluster, job):
    lost = replace(job, folder="s3://models/lost", shards="s3://models/lost.lance")
    with pytest.raises(TrainingError, match=r"its first node ends:\nThere are no shards at s3://"):
        train_all([lost], open_trainjobs(HOW, 1))
    assert cluster.failure is None
