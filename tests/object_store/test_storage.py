from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from qfundus.errors import Retry
from qfundus.storage import ObjectStore


def test_of_many_who_create_one_object_one_wins(store, fresh):
    bucket = fresh.site.settings.curated_bucket
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: store.put_if_absent(bucket, "x", str(n).encode()), range(16)))
    assert sum(won) == 1
    assert store.get(bucket, "x") == str(won.index(True)).encode()


def test_objects_are_listed_in_order_from_a_name_on(store, fresh):
    bucket = fresh.site.settings.curated_bucket
    for name in ("p/a", "p/b", "p/c", "q/a"):
        store.put(bucket, name, b"x")
    assert [o.name for o in store.list(bucket, "p/", after="p/a")] == ["p/b", "p/c"]


def test_a_missing_object_is_no_error_until_it_must_be_there(store, fresh):
    assert store.find(fresh.site.settings.curated_bucket, "nothing") is None
    with pytest.raises(LookupError):
        store.get(fresh.site.settings.curated_bucket, "nothing")


@pytest.mark.slow
def test_an_error_names_the_bucket_and_never_the_object(settings):
    nowhere = ObjectStore(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    with pytest.raises(Retry) as failed:
        nowhere.put("landing", "Doe_Jane_19500101.dcm", b"x")
    assert "landing" in str(failed.value)
    assert "Doe" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


def test_a_wrong_secret_opens_nothing(settings):
    stranger = ObjectStore(settings.model_copy(update={"s3_secret_key": SecretStr("wrong")}))
    with pytest.raises((Retry, ClientError)):
        stranger.put("landing", "x", b"x")


def test_nothing_is_read_or_written_without_a_key(seaweedfs, settings):
    assert httpx.get(f"{settings.s3_endpoint}/landing").status_code == 403
    assert httpx.put(f"{settings.s3_endpoint}/landing/x", content=b"x").status_code == 403
    filer = seaweedfs.platform.url("weed_filer")
    assert httpx.post(f"{filer}/buckets/landing/x", files={"file": b"x"}).status_code == 401
    assert httpx.get(f"{filer}/buckets/landing/").status_code == 401
