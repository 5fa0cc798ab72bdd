import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import make_eye

from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.account import close_run
from qfundus.ingestion.curate import curate_landed
from qfundus.ingestion.quarantine import Quarantine
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey


@pytest.fixture
def trail(fresh):
    trail = fresh.site.trail
    for number in range(5):
        trail.append("110103", "R", f"ITEM{number}", "a test", count=number)
    return trail


def name(number):
    return f"records/{number:012d}.json"


def changed(fresh, number, **values):
    bucket = fresh.site.settings.audit_bucket
    record = fresh.site.store.find_json(bucket, name(number)) | values
    fresh.site.store.put(bucket, name(number), json.dumps(record).encode())


def test_a_sound_trail_has_no_findings(trail):
    assert trail.verify() == []
    assert [record.number for record in trail.records()] == [1, 2, 3, 4, 5]


def test_a_changed_record_is_found(trail, fresh):
    event = fresh.site.store.find_json(fresh.site.settings.audit_bucket, name(3))["event"]
    event["agent"][0]["who"]["identifier"]["value"] = "somebody else"
    changed(fresh, 3, event=event)
    assert [(f.number, f.what) for f in trail.verify()] == [(3, "was changed")]


def test_a_record_signed_by_another_site_is_found(trail, fresh):
    AuditTrail(fresh.site.store, fresh.site.settings.audit_bucket, SiteKey(b"f" * 32)).append(
        "110103", "R", "ITEM6", "forged"
    )
    found = " ".join(f.what for f in trail.verify())
    assert "is not signed by this site" in found
    assert "the head is not signed by this site" in found


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_missing_record_is_found(trail, fresh, number):
    fresh.site.store.delete(fresh.site.settings.audit_bucket, name(number))
    assert number in {f.number for f in trail.verify() if "missing" in f.what}


def test_reordered_records_are_found(trail, fresh):
    bucket = fresh.site.settings.audit_bucket
    second, third = (fresh.site.store.get(bucket, name(n)) for n in (2, 3))
    fresh.site.store.put(bucket, name(2), third)
    fresh.site.store.put(bucket, name(3), second)
    assert {f.number for f in trail.verify() if f.what == "stands in another's place"} == {2, 3}


def test_many_writers_make_one_chain(trail):
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: trail.append("110100", "E", f"T{n}", "at once"), range(24)))
    assert sorted(numbers) == list(range(6, 30))
    assert trail.verify() == []


def test_runs_looks_and_decisions_are_recorded(fresh, photographs):
    eyes = [make_eye(photographs, number) for number in range(3)]
    for number, eye in enumerate(eyes):
        del eye.PatientID
        fresh.site.store.put(fresh.site.settings.landing_bucket, f"{number}.dcm", to_bytes(eye))
    close_run(fresh.site, fresh.run, curate_landed(fresh).manifest)
    quarantine = Quarantine(fresh.site)
    first, second, third = (item.source for item in quarantine.list())
    quarantine.show(first, "to look")
    quarantine.drop(second, "no use")
    quarantine.release(third, "mended")
    with pytest.raises(LookupError):
        quarantine.drop(second, "again")
    trail = fresh.site.trail
    recorded = [(r.event["entity"][0]["what"]["identifier"]["value"], r.event["action"]) for r in trail.records()]
    assert recorded == [(fresh.run, "C"), (first, "R"), (second, "D"), (third, "U")]
    assert trail.verify() == []
    assert [item.source for item in quarantine.list()] == [first]


def test_a_trail_that_is_cut_together_with_its_head_stays_marked(trail, fresh):
    bucket = fresh.site.settings.audit_bucket
    for gone in (name(4), name(5), "head.json"):
        fresh.site.store.delete(bucket, gone)
    trail.append("110103", "R", "ITEM9", "as if nothing had been")
    assert [f.number for f in trail.verify() if "head was lost" in f.what] == [4]


def test_an_empty_trail_is_a_finding_and_a_noted_head_is_missed(trail, fresh):
    head = trail.head()
    assert trail.holds(head.number, head.digest[:12])
    fresh.site.store.delete_all(
        fresh.site.settings.audit_bucket, [o.name for o in fresh.site.store.list(fresh.site.settings.audit_bucket)]
    )
    assert [f.what for f in trail.verify()] == ["is missing: the trail holds no record at all"]
    trail.append("110103", "R", "ITEM9", "a new beginning")
    assert not trail.holds(head.number, head.digest)


@pytest.mark.parametrize("content", [b"garbage", b"[1]", b"{}", b'{"number": "1"}'])
@pytest.mark.parametrize("place", ["records/000000000003.json", "records/foo.json", "head.json"])
def test_what_is_no_record_is_a_finding(trail, fresh, place, content):
    fresh.site.store.put(fresh.site.settings.audit_bucket, place, content)
    assert trail.verify()


def test_a_retired_secret_signs_no_more(fresh):
    old, new = SiteKey(b"o" * 32), SiteKey(b"n" * 32, (b"o" * 32,))
    for key in (old, new):
        AuditTrail(fresh.site.store, fresh.site.settings.audit_bucket, key).append("110103", "R", "ITEM", "a test")
    trail = AuditTrail(fresh.site.store, fresh.site.settings.audit_bucket, new)
    assert trail.verify() == []
    AuditTrail(fresh.site.store, fresh.site.settings.audit_bucket, old).append("110103", "R", "ITEM", "forged")
    assert "retired" in " ".join(f.what for f in trail.verify())


def test_a_reviewer_needs_no_secret(trail, fresh):
    bucket = fresh.site.settings.audit_bucket
    assert AuditTrail(fresh.site.store, bucket, None, [trail.public_key]).verify() == []
    other = AuditTrail(fresh.site.store, bucket, SiteKey(b"f" * 32)).public_key
    assert AuditTrail(fresh.site.store, bucket, None, [other]).verify()
