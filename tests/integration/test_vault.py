import secrets
from dataclasses import replace

import pytest
from conftest import make_eye
from pydantic import SecretStr

from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.curate import curate_landed
from qfundus.ingestion.quarantine import Quarantine
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey, pseudonymise_patient, pseudonymise_uid
from qfundus.security.vault import Vault, reseal

pytestmark = pytest.mark.platform


@pytest.fixture
def eye(fresh, photographs):
    """One curated eye, and one held in quarantine."""
    eye = make_eye(photographs, 1)
    fresh.store.put(fresh.settings.landing_bucket, "eye.dcm", to_bytes(eye))
    fresh.store.put(fresh.settings.landing_bucket, "Doe_Jane.dcm", b"no DICOM")
    curate_landed(fresh)
    return eye


def patient_of(curation, eye):
    return pseudonymise_patient(curation.key, eye.PatientID, eye.IssuerOfPatientID)


def test_who_is_behind_a_pseudonym_is_told_with_a_reason_that_is_recorded(fresh, eye):
    [who] = Vault(fresh.store, fresh.settings, fresh.key).reveal(patient_of(fresh, eye), "An incidental finding.")
    assert (who.patient_id, who.issuer, who.instance) == (eye.PatientID, "BRANNOC", eye.SOPInstanceUID)
    [asked] = [r.event for r in AuditTrail(fresh.store, fresh.settings.audit_bucket, fresh.key).records()]
    assert asked["purposeOfEvent"] == [{"text": "An incidental finding."}]
    assert asked["agent"][0]["who"]["identifier"]["value"]


def test_the_vault_shows_nothing_without_the_key(fresh, eye):
    [entry] = fresh.store.list(fresh.settings.vault_bucket)
    sealed = fresh.store.get(fresh.settings.vault_bucket, entry.name)
    assert str(eye.PatientID).encode() not in sealed
    stranger = Vault(fresh.store, fresh.settings, SiteKey(secrets.token_bytes(32)))
    with pytest.raises(ValueError, match="another key"):
        stranger.reveal(patient_of(fresh, eye), "No good reason.")


def test_a_vault_that_is_switched_off_keeps_nothing_and_a_vain_question_is_recorded(fresh, photographs):
    off = replace(fresh, settings=fresh.settings.model_copy(update={"vault_bucket": None}))
    off.store.put(off.settings.landing_bucket, "eye.dcm", to_bytes(make_eye(photographs, 1)))
    curate_landed(off)
    assert list(fresh.store.list(fresh.settings.vault_bucket)) == []
    with pytest.raises(LookupError):
        Vault(off.store, off.settings, off.key).reveal("X" * 16, "A question.")
    assert len(list(AuditTrail(off.store, off.settings.audit_bucket, off.key).records())) == 1


def test_what_is_erased_leaves_the_vault(fresh, eye):
    fresh.index.erase(pseudonymise_uid(fresh.key, eye.SOPInstanceUID), "run-2")
    assert list(fresh.store.list(fresh.settings.vault_bucket)) == []


def test_a_rotation_keeps_pseudonyms_and_signatures_and_seals_anew(fresh, eye):
    AuditTrail(fresh.store, fresh.settings.audit_bucket, fresh.key).append("110100", "E", "x", "Before.")
    rotated = SiteKey(secrets.token_bytes(32), (fresh.key.secret,))
    assert patient_of(replace(fresh, key=rotated), eye) == patient_of(fresh, eye)
    assert reseal(fresh.store, fresh.settings, rotated, "The yearly rotation.") == 2
    assert reseal(fresh.store, fresh.settings, rotated, "Once more.") == 0
    assert Vault(fresh.store, fresh.settings, rotated).reveal(patient_of(fresh, eye), "A test.")
    [held] = Quarantine(fresh.store, fresh.settings, rotated).list()
    assert Quarantine(fresh.store, fresh.settings, rotated).show(held.source, "A test.") == b"no DICOM"
    trail = AuditTrail(fresh.store, fresh.settings.audit_bucket, rotated)
    assert trail.verify() == []
    with pytest.raises(ValueError, match="another key"):
        Vault(fresh.store, fresh.settings, fresh.key).reveal(patient_of(fresh, eye), "With the old secret alone.")
    assert any("retired" in finding.what for finding in trail.verify())


def test_the_platforms_own_secret_is_rotated_in_its_file(tmp_path, monkeypatch):
    from qfundus.platform.secrets import load_or_make_secrets, rotate_site_key

    before = load_or_make_secrets(tmp_path)["site_key"]
    rotate_site_key(tmp_path)
    after = load_or_make_secrets(tmp_path)["site_key"]
    assert after.endswith(f",{before}")
    assert SiteKey.from_hex(SecretStr(after).get_secret_value()).older == (bytes.fromhex(before),)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0
