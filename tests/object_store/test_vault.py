import secrets
from dataclasses import replace

import pytest
from conftest import make_eye
from pydantic import SecretStr

from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.curate import curate_landed
from qfundus.ingestion.quarantine import Quarantine
from qfundus.ingestion.resealing import reseal_site
from qfundus.security.keys import SiteKey, pseudonymise_patient, pseudonymise_uid


@pytest.fixture
def eye(fresh, photographs):
    """One curated eye, and one held in quarantine."""
    eye = make_eye(photographs, 1)
    fresh.site.store.put(fresh.site.settings.landing_bucket, "eye.dcm", to_bytes(eye))
    fresh.site.store.put(fresh.site.settings.landing_bucket, "Doe_Jane.dcm", b"no DICOM")
    curate_landed(fresh)
    return eye


def patient_of(curation, eye):
    return pseudonymise_patient(curation.site.key, eye.PatientID, eye.IssuerOfPatientID)


def test_who_is_behind_a_pseudonym_is_told_with_a_reason_that_is_recorded(fresh, eye):
    [who] = fresh.site.vault.reveal(patient_of(fresh, eye), "An incidental finding.")
    assert (who.patient_id, who.issuer, who.instance) == (eye.PatientID, "BRANNOC", eye.SOPInstanceUID)
    [asked] = [r.event for r in fresh.site.trail.records()]
    assert asked["purposeOfEvent"] == [{"text": "An incidental finding."}]
    assert asked["agent"][0]["who"]["identifier"]["value"]


def test_the_vault_shows_nothing_without_the_key(fresh, eye):
    [entry] = fresh.site.store.list(fresh.site.settings.vault_bucket)
    sealed = fresh.site.store.get(fresh.site.settings.vault_bucket, entry.name)
    assert str(eye.PatientID).encode() not in sealed
    stranger = replace(fresh.site, key=SiteKey(secrets.token_bytes(32))).vault
    with pytest.raises(ValueError, match="another key"):
        stranger.reveal(patient_of(fresh, eye), "No good reason.")


def test_a_vault_that_is_switched_off_keeps_nothing_and_a_vain_question_is_recorded(fresh, photographs):
    off = replace(
        fresh, site=replace(fresh.site, settings=fresh.site.settings.model_copy(update={"vault_bucket": None}))
    )
    off.site.store.put(off.site.settings.landing_bucket, "eye.dcm", to_bytes(make_eye(photographs, 1)))
    curate_landed(off)
    assert list(fresh.site.store.list(fresh.site.settings.vault_bucket)) == []
    with pytest.raises(LookupError):
        off.site.vault.reveal("X" * 16, "A question.")
    assert len(list(off.site.trail.records())) == 1


def test_what_is_erased_leaves_the_vault(fresh, eye):
    fresh.index.erase(pseudonymise_uid(fresh.site.key, eye.SOPInstanceUID), "run-2")
    assert list(fresh.site.store.list(fresh.site.settings.vault_bucket)) == []


def test_a_rotation_keeps_pseudonyms_and_signatures_and_seals_anew(fresh, eye):
    fresh.site.trail.append("110100", "E", "x", "Before.")
    rotated = SiteKey(secrets.token_bytes(32), (fresh.site.key.secret,))
    after = replace(fresh.site, key=rotated)
    assert patient_of(replace(fresh, site=after), eye) == patient_of(fresh, eye)
    assert reseal_site(after, "The yearly rotation.") == 2
    assert reseal_site(after, "Once more.") == 0
    assert after.vault.reveal(patient_of(fresh, eye), "A test.")
    [held] = Quarantine(after).list()
    assert Quarantine(after).show(held.source, "A test.") == b"no DICOM"
    assert after.trail.verify() == []
    with pytest.raises(ValueError, match="another key"):
        fresh.site.vault.reveal(patient_of(fresh, eye), "With the old secret alone.")
    assert any("retired" in finding.what for finding in after.trail.verify())


def test_the_platforms_own_secret_is_rotated_in_its_file(tmp_path, monkeypatch):
    from qfundus.platform.secrets import load_or_make_secrets, rotate_site_key

    before = load_or_make_secrets(tmp_path)["site_key"]
    rotate_site_key(tmp_path)
    after = load_or_make_secrets(tmp_path)["site_key"]
    assert after.endswith(f",{before}")
    assert SiteKey.from_hex(SecretStr(after).get_secret_value()).older == (bytes.fromhex(before),)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0
