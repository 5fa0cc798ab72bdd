"""What is pulled from a picture archive, and what it pushes: a real Orthanc and dcmtk's own sender."""

import io
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import orthanc_server
import pytest
import structlog
from conftest import make_eye
from debian import needs
from dicomweb_client.api import DICOMwebClient
from pydantic import SecretStr
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel

from qfundus.errors import Retry, SetupError
from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.account import close_run
from qfundus.ingestion.curate import curate_landed
from qfundus.pacs import dicomweb
from qfundus.pacs.fetch import fetch_archive
from qfundus.pacs.receiver import Peer, Receiver

pytestmark = needs(*orthanc_server.NEEDED)
MONDAY, TUESDAY, WEDNESDAY = date(2026, 11, 23), date(2026, 11, 24), date(2026, 11, 25)
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def server():
    folder = Path(tempfile.mkdtemp(prefix="orth-"))
    with orthanc_server.run_orthanc(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def archive(server):
    server.empty()
    return server


@pytest.fixture(params=["any archive", "an Orthanc"])
def curation(request, fresh, archive):
    return replace(
        fresh,
        site=replace(
            fresh.site, settings=archive.settings(fresh.site.settings, with_feed=request.param == "an Orthanc")
        ),
    )


def fetch(curation, today):
    done = fetch_archive(curation.site, today)
    return done.landed, done.erased


def take_in(curation, run):
    curated = curate_landed(replace(curation, run=run))
    counts = close_run(curation.site, run, curated.manifest)
    return {name: count for name, count in counts.items() if name != "landed"}


def eye_of(photographs, number, study=None):
    eye = make_eye(photographs, number)
    if study:
        eye.StudyInstanceUID, eye.PatientID = study, "one-patient"
    return eye


def landed(curation):
    bucket = curation.site.settings.landing_bucket
    return {found.name: curation.site.store.get(bucket, found.name) for found in curation.site.store.list(bucket)}


def test_what_is_new_is_fetched_once_as_it_lies_there_and_nothing_else(curation, archive, photographs):
    eyes = [to_bytes(eye_of(photographs, n)) for n in range(3)]
    for data in eyes:
        archive.send(data)
    scan = eye_of(photographs, 9)
    scan.Modality = "CT"
    archive.send(to_bytes(scan))
    assert fetch(curation, MONDAY) == (3, 0)
    assert sorted(landed(curation).values()) == sorted(eyes)
    assert take_in(curation, "n1") == {"images curated": 3}
    assert fetch(curation, MONDAY) == (0, 0)
    assert fetch(curation, TUESDAY) == (0, 0)
    assert landed(curation) == {}


def test_a_study_split_over_two_nights_and_a_late_instance_come_once_each(curation, archive, photographs):
    study = "1.2.826.0.1.3680043.8.498.77"
    for day, number in zip((MONDAY, TUESDAY, WEDNESDAY), range(3), strict=True):
        archive.send(to_bytes(eye_of(photographs, number, study)))
        assert fetch(curation, day) == (1, 0)
        assert take_in(curation, day.isoformat()) == {"images curated": 1}


def test_a_study_that_is_sent_again_changes_nothing(curation, archive, photographs):
    data = to_bytes(eye_of(photographs, 1))
    archive.send(data)
    fetch(curation, MONDAY)
    take_in(curation, "n1")
    archive.empty()
    archive.send(data)
    fetch(curation, TUESDAY)
    assert take_in(curation, "n2") in ({"images duplicate": 1}, {})


def test_what_is_deleted_there_is_erased_here(curation, archive, photographs):
    study = "1.2.826.0.1.3680043.8.498.77"
    ids = [archive.send(to_bytes(eye_of(photographs, n, study))) for n in range(3)]
    alone = archive.send(to_bytes(eye_of(photographs, 7)))
    fetch(curation, MONDAY)
    assert take_in(curation, "n1") == {"images curated": 4}
    archive.delete(ids[1])
    archive.delete(alone)
    assert fetch(curation, TUESDAY) == (0, 2)
    assert take_in(curation, "n2") == {"notices read": 1, "erasures erased": 2}
    assert fetch(curation, WEDNESDAY) == (0, 0)
    assert len(curation.index.withdrawn()) == 2


def test_a_study_of_two_patient_ids_is_one_study(curation, archive, photographs):
    for number in (1, 2):
        eye = eye_of(photographs, number)
        eye.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.79"
        archive.send(to_bytes(eye))
    assert fetch(curation, MONDAY) == (2, 0)
    assert fetch(curation, TUESDAY) == (0, 0)


def test_a_photograph_that_moves_to_another_study_is_corrected_and_not_erased(curation, archive, photographs):
    wrong = archive.send(to_bytes(eye_of(photographs, 1)))
    fetch(curation, MONDAY)
    take_in(curation, "n1")
    archive.delete(wrong)
    archive.send(to_bytes(eye_of(photographs, 1, "1.2.826.0.1.3680043.8.498.78")))
    assert fetch(curation, TUESDAY) == (1, 0)
    assert take_in(curation, "n2") == {"images curated": 1}


def test_an_overwritten_photograph_is_found_by_the_feed(fresh, archive, photographs):
    curation = replace(fresh, site=replace(fresh.site, settings=archive.settings(fresh.site.settings, with_feed=True)))
    eye = eye_of(photographs, 1)
    archive.send(to_bytes(eye))
    fetch(curation, MONDAY)
    take_in(curation, "n1")
    eye.StudyDate = "20200101"
    archive.send(to_bytes(eye))
    assert fetch(curation, MONDAY) == (1, 0)
    assert take_in(curation, "n2") == {"images curated": 1}
    assert len(curation.index.withdrawn()) == 1


@pytest.mark.slow
def test_an_archive_that_seems_empty_erases_nothing(curation, archive, photographs):
    for number in range(11):
        archive.send(to_bytes(eye_of(photographs, number)))
    assert fetch(curation, MONDAY) == (11, 0)
    take_in(curation, "n1")
    archive.empty()
    with pytest.raises(SetupError, match="11 of 11 photographs"):
        fetch(curation, TUESDAY)
    assert landed(curation) == {}


def test_what_is_gone_is_in_doubt_until_a_person_decides(fresh, archive, photographs):
    curation = replace(fresh, site=replace(fresh.site, settings=archive.settings(fresh.site.settings, with_feed=False)))
    study = "1.2.826.0.1.3680043.8.498.81"
    ids = [archive.send(to_bytes(eye_of(photographs, n, study))) for n in range(12)]
    assert fetch(curation, MONDAY) == (12, 0)
    for gone in ids[:11]:
        archive.delete(gone)
    for day in (TUESDAY, WEDNESDAY):
        with pytest.raises(SetupError, match="11 of 12 photographs"):
            fetch(curation, day)


def test_a_correction_that_could_not_be_fetched_is_fetched_the_next_time(fresh, archive, photographs, monkeypatch):
    curation = replace(fresh, site=replace(fresh.site, settings=archive.settings(fresh.site.settings, with_feed=True)))
    eye = eye_of(photographs, 1)
    archive.send(to_bytes(eye))
    fetch(curation, MONDAY)
    take_in(curation, "n1")
    eye.StudyDate = "20200101"
    archive.send(to_bytes(eye))

    def fail(self, address):
        raise Retry("The archive answered 503.")

    with monkeypatch.context() as broken:
        broken.setattr(dicomweb.Archive, "retrieve", fail)
        with pytest.raises(Retry, match="1 photographs could not be fetched"):
            fetch(curation, MONDAY)
    assert fetch(curation, MONDAY) == (1, 0)


def test_one_photograph_that_cannot_be_had_does_not_stop_the_feed(fresh, archive, photographs, monkeypatch):
    curation = replace(fresh, site=replace(fresh.site, settings=archive.settings(fresh.site.settings, with_feed=True)))
    fetch(curation, MONDAY)
    for number in (1, 2):
        archive.send(to_bytes(eye_of(photographs, number)))
    bad, retrieve = str(eye_of(photographs, 1).SOPInstanceUID), dicomweb.Archive.retrieve

    def fail_one(self, address):
        if address.instance == bad:
            raise Retry("The archive answered 500.")
        return retrieve(self, address)

    with monkeypatch.context() as broken:
        broken.setattr(dicomweb.Archive, "retrieve", fail_one)
        for expected in ("1 have landed", "0 have landed"):
            with pytest.raises(Retry, match=expected):
                fetch(curation, MONDAY)
    assert fetch(curation, MONDAY) == (1, 0)


def test_an_archive_that_gives_small_pages_is_read_to_its_end(fresh, archive, photographs, monkeypatch):
    curation = replace(fresh, site=replace(fresh.site, settings=archive.settings(fresh.site.settings, with_feed=False)))
    for number in range(5):
        archive.send(to_bytes(eye_of(photographs, number, study="1.2.826.0.1.3680043.8.498.7")))
    search = DICOMwebClient.search_for_instances

    def few(self, *arguments, limit, **named):
        return search(self, *arguments, limit=min(limit, 2), **named)

    monkeypatch.setattr(DICOMwebClient, "search_for_instances", few)
    assert fetch(curation, MONDAY) == (5, 0)
    assert fetch(curation, MONDAY) == (0, 0)


def test_an_archive_made_anew_is_compared_again(fresh, archive, photographs):
    curation = replace(fresh, site=replace(fresh.site, settings=archive.settings(fresh.site.settings, with_feed=True)))
    archive.send(to_bytes(eye_of(photographs, 1)))
    fetch(curation, MONDAY)
    from qfundus.pacs.fetched import FetchedArchive

    known = FetchedArchive(curation.site)
    known.save(replace(known.cursor, last=10**9))
    archive.send(to_bytes(eye_of(photographs, 2)))
    assert fetch(curation, MONDAY) == (1, 0)


def test_a_refusal_and_a_silence_are_named_and_name_nobody(fresh, archive):
    settings = archive.settings(fresh.site.settings, with_feed=False)
    for wrong in ({"dicomweb_password": SecretStr("x")}, {"dicomweb_url": "http://127.0.0.1:9/dicom-web"}):
        with pytest.raises((SetupError, Retry)) as failed:
            fetch_archive(replace(fresh.site, settings=settings.model_copy(update=wrong)), MONDAY)
        assert "archive" in str(failed.value)
        assert failed.value.__suppress_context__


@pytest.fixture
def receiving(fresh, archive):
    settings = fresh.site.settings.model_copy(
        update={
            "receiver_port": archive.receiver_port,
            "receiver_peers": f"CAMERA,TESTPACS@127.0.0.1:{archive.dicom_port}",
        }
    )
    with Receiver(replace(fresh.site, settings=settings)).listen() as port:
        yield port


def storescu(port, *arguments, calling="CAMERA", called="QFUNDUS"):
    files = [str(argument) for argument in arguments if str(argument).endswith(".dcm")]
    options = [str(argument) for argument in arguments if not str(argument).endswith(".dcm")]
    command = ["storescu", "-aet", calling, "-aec", called, "-xy", *options, "127.0.0.1", str(port)]
    return subprocess.run([*command, *files], capture_output=True, text=True, check=False)


def test_what_a_camera_sends_lands_and_who_sent_it_is_in_the_trail(fresh, receiving, photographs, tmp_path):
    eyes = [make_eye(photographs, n) for n in range(3)]
    files = [tmp_path / f"Doe_Jane_{n}.dcm" for n in range(3)]
    for file, eye in zip(files, eyes, strict=True):
        file.write_bytes(to_bytes(eye))
    assert storescu(receiving, *files).returncode == 0
    assert storescu(receiving, *files).returncode == 0
    assert all(name.startswith("archive/2.25.") for name in landed(fresh))
    assert take_in(fresh, "n1") == {"images curated": 3}
    for _ in range(50):
        sent = [r.event for r in fresh.site.trail.records()]
        sent = [event for event in sent if event["entity"][0]["what"]["identifier"]["value"] == "CAMERA"]
        if len(sent) == 2:
            break
        time.sleep(0.1)
    assert [e["entity"][0]["detail"] for e in sent] == [
        [{"type": "landed", "valueString": "3"}, {"type": "refused", "valueString": "0"}]
    ] * 2


@pytest.fixture
def certificates(tmp_path):
    """One certificate that signs itself: both sides trust it, and nobody else has its key."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return key, certificate


def test_over_tls_a_sender_without_a_certificate_is_refused(fresh, photographs, tmp_path, certificates):
    key, certificate = certificates
    wanted = {"receiver_port": 0, "receiver_peers": "CAMERA", "receiver_certificate": certificate}
    settings = fresh.site.settings.model_copy(update={**wanted, "receiver_certificate_key": key})
    with pytest.raises(SetupError, match="RECEIVER_CA"), Receiver(replace(fresh.site, settings=settings)).listen():
        pass
    settings = settings.model_copy(update={"receiver_ca": certificate})
    file = tmp_path / "eye.dcm"
    file.write_bytes(to_bytes(make_eye(photographs, 1)))
    with Receiver(replace(fresh.site, settings=settings)).listen() as port:
        assert storescu(port, file).returncode != 0
        assert storescu(port, "+tla", "+cf", certificate, file).returncode != 0
        assert landed(fresh) == {}
        assert storescu(port, "+tls", key, certificate, "+cf", certificate, file).returncode == 0
    assert len(landed(fresh)) == 1


@pytest.mark.parametrize("titles", [{"calling": "STRANGER"}, {"called": "ANOTHER"}])
def test_a_stranger_and_a_wrong_title_are_refused(fresh, receiving, photographs, tmp_path, titles):
    file = tmp_path / "eye.dcm"
    file.write_bytes(to_bytes(make_eye(photographs, 1)))
    assert storescu(receiving, file, **titles).returncode != 0
    assert landed(fresh) == {}


def test_other_objects_than_photographs_are_refused_before_a_byte_is_sent(fresh, receiving, photographs, tmp_path):
    scan = make_eye(photographs, 1)
    scan.SOPClassUID = scan.file_meta.MediaStorageSOPClassUID = CT
    (tmp_path / "scan.dcm").write_bytes(to_bytes(scan))
    assert storescu(receiving, tmp_path / "scan.dcm").returncode != 0
    assert landed(fresh) == {}


def test_an_archive_that_asks_gets_its_commitment(fresh, archive, receiving, photographs):
    instances = [archive.send(to_bytes(make_eye(photographs, n))) for n in range(2)]
    archive.post("/modalities/qfundus/store", {"Resources": instances})
    assert len(landed(fresh)) == 2
    asked = archive.post("/modalities/qfundus/storage-commitment", {"Resources": instances})
    assert commitment(archive, asked["ID"])["Status"] == "Success"
    take_in(fresh, "n1")
    asked = archive.post("/modalities/qfundus/storage-commitment", {"Resources": instances})
    assert commitment(archive, asked["ID"])["Status"] == "Success"
    asked = archive.post("/modalities/qfundus/storage-commitment", {"DicomInstances": [[CT, "1.2.3.4"]]})
    assert commitment(archive, asked["ID"])["Status"] == "Failure"


def test_what_is_in_quarantine_is_committed_to(fresh, archive, receiving, photographs):
    eye = make_eye(photographs, 5)
    eye.ImageLaterality = ""
    instance = archive.send(to_bytes(eye))
    archive.post("/modalities/qfundus/store", {"Resources": [instance]})
    assert take_in(fresh, "n1") == {"images quarantined": 1, "quarantined: missing_laterality": 1}
    asked = archive.post("/modalities/qfundus/storage-commitment", {"Resources": [instance]})
    assert commitment(archive, asked["ID"])["Status"] == "Success"


def test_an_object_that_is_not_the_one_announced_is_refused(fresh, receiving, photographs):
    eye = make_eye(photographs, 1)
    entity = AE("CAMERA")
    entity.add_requested_context(eye.SOPClassUID, eye.file_meta.TransferSyntaxUID)
    own = entity.associate("127.0.0.1", receiving, ae_title="QFUNDUS")
    context = own.accepted_contexts[0].context_id
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = eye.SOPClassUID, "1.2.3.4"
    request.DataSet = io.BytesIO(encode(eye, is_implicit_vr=False, is_little_endian=True))
    # The association's own thread would take the answer: it is made to pause, as the library's own requests do.
    own._reactor_checkpoint.clear()  # noqa: SLF001
    while not own._is_paused:  # noqa: SLF001
        time.sleep(0.01)
    own.dimse.send_msg(request, context)
    _, answer = own.dimse.get_msg(block=True)
    own._reactor_checkpoint.set()  # noqa: SLF001
    own.release()
    assert answer.Status == 0xA900
    assert landed(fresh) == {}


def test_who_is_refused_is_in_the_trail(fresh, receiving, photographs, tmp_path):
    file = tmp_path / "eye.dcm"
    file.write_bytes(to_bytes(make_eye(photographs, 1)))
    storescu(receiving, file, calling="STRANGER")
    for _ in range(50):
        events = [r.event for r in fresh.site.trail.records()]
        refused = [e for e in events if e["entity"][0]["what"]["identifier"]["value"] == "STRANGER"]
        if refused:
            break
        time.sleep(0.1)
    assert refused[0]["entity"][0]["detail"] == [{"type": "address", "valueString": "127.0.0.1"}]


def test_a_receiver_in_the_clear_warns_where_others_can_listen(fresh):
    settings = fresh.site.settings.model_copy(update={"receiver_peers": "CAMERA", "receiver_host": "0.0.0.0"})  # noqa: S104
    with structlog.testing.capture_logs() as logged:
        Receiver(replace(fresh.site, settings=settings))._tls()  # noqa: SLF001  (nothing is to listen there)
    assert "QFUNDUS_RECEIVER_CERTIFICATE" in logged[0]["event"]


def commitment(archive, transaction):
    for _ in range(100):
        report = archive.get(f"/storage-commitment/{transaction}")
        if report["Status"] != "Pending":
            return report
        time.sleep(0.1)
    return report


def test_a_sender_without_an_address_gets_the_report_over_its_own_association(receiving):
    reports = []

    def note(event):
        reports.append((event.event_type, event.event_information))
        return 0x0000, None

    entity = AE("CAMERA")
    entity.add_requested_context(StorageCommitmentPushModel)
    own = entity.associate("127.0.0.1", receiving, ae_title="QFUNDUS", evt_handlers=[(evt.EVT_N_EVENT_REPORT, note)])
    item, asked = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, "1.2.3"
    asked.TransactionUID, asked.ReferencedSOPSequence = "1.2.3.4.5", [item]
    status, _ = own.send_n_action(asked, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    assert status.Status == 0x0000
    for _ in range(50):
        if reports:
            break
        time.sleep(0.1)
    own.release()
    [(kind, report)] = reports
    assert (kind, report.TransactionUID, len(report.FailedSOPSequence)) == (2, "1.2.3.4.5", 1)


def test_a_receiver_that_nobody_may_send_to_does_not_start(fresh):
    with pytest.raises(SetupError, match="RECEIVER_PEERS"):
        Receiver(fresh.site)
    for wrong in ("A@host", "@host:1", "A" * 17, "A@:104"):
        with pytest.raises(SetupError):
            Peer.parse(wrong)
