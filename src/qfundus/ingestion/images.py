"""Curate one image, in a process of its own: from its bytes to the curated object and its index entry."""

import io
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import pydicom

from qfundus.dicom.clean import clean_object
from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.deidentify import Handled
from qfundus.dicom.handling import made_by, name_handling, write_handling
from qfundus.dicom.photograph import is_photograph, make_object, sidecar_of
from qfundus.dicom.policy import Policy
from qfundus.dicom.read import laterality, read_eye, read_preview
from qfundus.dicom.recognise import is_no_image
from qfundus.errors import Discard
from qfundus.imaging.disc import find_disc
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.instances import Instance
from qfundus.object_names import handling_name, object_name
from qfundus.scratch import file_in_memory
from qfundus.security.keys import SiteKey, pseudonymise_uid
from qfundus.security.vault import Identified
from qfundus.settings import Settings
from qfundus.site import open_site
from qfundus.storage import digest

LARGEST = 256 << 20  # bytes of one image: each process holds three copies of it
_own: Curation | None = None  # of a process that curates
_own_trusting: Curation | None = None  # the same, for pixels that a person has looked at
_described: set[str] = set()  # the handlings whose tables it has stored


def begin_process(settings: Settings, key: SiteKey, policy: Policy, run: str) -> None:
    """Make ready the process that this runs in."""
    global _own, _own_trusting  # noqa: PLW0603  (a pool's initialiser has no other way to leave something for its tasks)
    _own = Curation(open_site(settings, key), CompiledPolicy(policy), run)
    _own_trusting = replace(_own, policy=CompiledPolicy(policy.trusting_pixels()))


def curate_landed_image(name: str, *, corrects: bool, released: bool) -> Instance | Literal["withdrawn", "ignored"]:
    """Curate a landed image in this process, from bucket to bucket; or say that it was taken away, or is not an image.

    Text in the pixels is not looked for where a person has seen them and `released` it.

    Raises:
        Discard: if it is unusable.
    """
    assert _own is not None  # noqa: S101  (set by the initialiser)
    assert _own_trusting is not None  # noqa: S101
    store, bucket = _own.site.store, _own.site.settings.landing_bucket
    data = store.find(bucket, name)
    if data is None:
        return "withdrawn"
    if is_no_image(name, data):
        return "ignored"
    if is_photograph(name):
        data = make_object(data, store.find(bucket, sidecar_of(name)))
    return curate_bytes(_own_trusting if released else _own, data, corrects=corrects)


def refuse_large(size: int) -> None:
    """Refuse what would take too much memory.

    Raises:
        Discard: if it does.
    """
    if size > LARGEST:
        raise Discard("too_large", f"One image takes more than {LARGEST >> 20} MB.")


def instance_of(name: str, data: bytes, sidecar: bytes | None) -> str:
    """Return the pseudonymous UID of what cannot be curated, as far as it can be read, or nothing."""
    assert _own is not None  # noqa: S101  (set by the initialiser)
    with suppress(Exception):  # a hostile file may raise anything
        whole = make_object(data, sidecar) if is_photograph(name) else data
        eye = pydicom.dcmread(io.BytesIO(whole), stop_before_pixels=True, specific_tags=["SOPInstanceUID"], force=True)
        return pseudonymise_uid(_own.site.key, str(eye.SOPInstanceUID))
    return ""


def curate_member(name: str, data: bytes, sidecar: bytes | None) -> Instance:
    """Curate a member of a zip file in this process.

    Raises:
        Discard: if it is unusable.
    """
    assert _own is not None  # noqa: S101  (set by the initialiser)
    return curate_bytes(_own, make_object(data, sidecar) if is_photograph(name) else data, corrects=False)


def curate_bytes(curation: Curation, data: bytes, *, corrects: bool) -> Instance:
    """De-identify one image, store it and enter it into the index; one that is known already is found there.

    Raises:
        Discard: if it is unusable, or another content of its UID came first and it `corrects` nothing.
    """
    eye = read_eye(data)
    uid = pseudonymise_uid(curation.site.key, str(eye.SOPInstanceUID))
    fingerprint = curation.site.key.mac("source", data).hex()
    known = curation.index.find(uid)
    if known is not None and known.fingerprint == fingerprint:
        return known
    find_disc(read_preview(eye))
    with file_in_memory() as draft:
        cleaned = clean_object(data, draft, curation.policy, curation.site.key)
        written = draft.read_bytes()
    # An archive writes a header of its own each time it sends: what is left once it is clean decides.
    if known is not None and known.digest == cleaned.digest:
        return known
    if known is not None and not corrects:
        raise Discard("conflicting_instance", "Another file with this SOP instance UID came first.")
    # A correction withdraws the old content with its vault entry before the new one's is written.
    if known is not None:
        curation.index.withdraw(known)
    patient = cleaned.deidentified.patient
    issuer = str(eye.get("IssuerOfPatientID", ""))
    who = Identified(str(eye.PatientID), issuer, str(eye.StudyInstanceUID), str(eye.SOPInstanceUID))
    curation.site.vault.put(patient, uid, who)
    # The object and its table come before its index entry: an entry never points at nothing.
    curation.site.store.put_if_absent(curation.site.settings.curated_bucket, object_name(cleaned.digest), written)
    instance = Instance(
        uid=uid,
        fingerprint=fingerprint,
        digest=cleaned.digest,
        eye=f"{patient}-{laterality(eye)}",
        study=cleaned.deidentified.study,
        patient=patient,
        run=curation.run,
        digest_before=digest(data),
        redacted=cleaned.redacted,
        handling=_describe_handling(curation, cleaned.deidentified.handled),
        corrects=known.digest if known else "",
        corrects_patient=known.patient if known else "",
    )
    return curation.index.correct(instance) if known else _enter(curation, instance)


def _enter(curation: Curation, instance: Instance) -> Instance:
    entered = curation.index.add(instance)
    if entered.digest != instance.digest:
        raise Discard("conflicting_instance", "Another file with this SOP instance UID came first.")
    return entered


def _describe_handling(curation: Curation, handled: tuple[Handled, ...]) -> str:
    """Store the table of a way of handling attributes once, and return its name: objects of one camera share it."""
    policy = curation.policy.policy
    handling = name_handling(handled, made_by(policy)["policy_digest"])
    if handling not in _described:
        table = write_handling(handling, handled, policy)
        curation.site.store.put_if_absent(curation.site.settings.curated_bucket, handling_name(handling), table)
        _described.add(handling)
    return handling
