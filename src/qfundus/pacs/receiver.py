"""Receive photographs that the hospital's archive or cameras push (DICOM C-STORE), straight into the landing bucket.

An association is taken from a peer that is listed, under our own title and for fundus photographs only. A sender may
ask for storage commitment (PS3.4 annex J): we commit to what has landed, is curated or is held in quarantine, and to
nothing else.
"""

import logging
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from socket import gethostbyname
from typing import Any, Literal, cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # pyright: ignore[reportAttributeAccessIssue]

from qfundus.dicom.read import OPHTHALMIC_PHOTOGRAPHY_8_BIT
from qfundus.errors import Retry, SetupError
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.landing import landed_photograph
from qfundus.ingestion.quarantine import Quarantine
from qfundus.security.audit import EventCode
from qfundus.security.keys import pseudonymise_uid
from qfundus.site import Site

_log = structlog.get_logger()
_NOT_THE_OBJECT = 0xA900  # the data set does not match what the request says of it (PS3.4 B.2.3)
_SUCCESS, _OUT_OF_RESOURCES, _PROCESSING_FAILURE, _NO_SUCH_INSTANCE = 0x0000, 0xA700, 0x0110, 0x0112
_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known instance of the push model
_ALL_COMMITTED, _SOME_FAILED = 1, 2
_MOST_ASSOCIATIONS = 10
_SYNTAXES = [
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    RLELossless,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
]


@dataclass(frozen=True)
class Peer:
    """Who may send, and where a report on storage commitment goes: without a host, over the sender's association."""

    title: str
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Read `TITLE` or `TITLE@host:port`.

        Raises:
            SetupError: if it is neither.
        """
        title, _, address = text.strip().partition("@")
        host, _, port = address.rpartition(":")
        if not 0 < len(title) <= 16 or (address and not (host and port.isdigit())):
            raise SetupError("QFUNDUS_RECEIVER_PEERS must be TITLE or TITLE@host:port, with commas between.")
        return cls(title, host, int(port or 0))


@dataclass
class _Count:
    """What one association brought."""

    landed: int = 0
    refused: int = 0


class Receiver:
    """The service; `listen` runs it."""

    def __init__(self, site: Site) -> None:
        self._store, self._settings, self._key = site.store, site.settings, site.key
        listed = [text for text in site.settings.receiver_peers.split(",") if text.strip()]
        self._peers = {peer.title: peer for peer in map(Peer.parse, listed)}
        if not self._peers:
            raise SetupError(
                "No sender is allowed: list the titles of the archive and cameras in QFUNDUS_RECEIVER_PEERS."
            )
        self._index = InstanceIndex(site)
        self._quarantine = Quarantine(site)
        self._trail = site.trail
        self._counts: dict[int, _Count] = {}

    @contextmanager
    def listen(self) -> Generator[int]:
        """Receive in the background until the end of the context; yield the port."""
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it writes headers and data sets out
        handlers: list[Any] = [
            (evt.EVT_ESTABLISHED, self._begin),
            (evt.EVT_REJECTED, self._refused),
            (evt.EVT_C_STORE, self._store_one),
            (evt.EVT_N_ACTION, self._commit),
            (evt.EVT_RELEASED, self._end),
            (evt.EVT_ABORTED, self._end),
            (evt.EVT_CONN_CLOSE, self._end),
        ]
        at = (self._settings.receiver_host, self._settings.receiver_port)
        try:
            server = self._entity().start_server(at, block=False, evt_handlers=handlers, ssl_context=self._tls())
        except OSError as error:
            raise SetupError(f"Port {at[1]} of {at[0]} cannot be opened for listening: {error.strerror}.") from None
        assert server is not None  # noqa: S101  (it is, unless it blocks)
        port = server.server_address[1]
        _log.info("Receiving", title=self._settings.receiver_title, host=at[0], port=port, peers=sorted(self._peers))
        try:
            yield port
        finally:
            server.shutdown()

    def _entity(self) -> AE:
        entity = AE(self._settings.receiver_title)
        entity.require_called_aet = True
        entity.require_calling_aet = sorted(self._peers)
        entity.maximum_associations = _MOST_ASSOCIATIONS
        entity.add_supported_context(OPHTHALMIC_PHOTOGRAPHY_8_BIT, _SYNTAXES)
        entity.add_supported_context(Verification)
        entity.add_supported_context(StorageCommitmentPushModel)
        return entity

    def _tls(self) -> ssl.SSLContext | None:
        chosen = self._settings
        if chosen.receiver_certificate is None:
            if not ip_address(gethostbyname(chosen.receiver_host)).is_loopback:
                _log.warning("Anyone on the network can read what is sent: set QFUNDUS_RECEIVER_CERTIFICATE")
            return None
        if chosen.receiver_ca is None:
            raise SetupError("QFUNDUS_RECEIVER_CA is needed: senders show certificates, too (DICOM PS3.15 B.9).")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(chosen.receiver_ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(chosen.receiver_certificate, chosen.receiver_certificate_key)
        return context

    def _begin(self, event: Event) -> None:
        self._counts[id(event.assoc)] = _Count()

    def _store_one(self, event: Event) -> int:
        count = self._counts[id(event.assoc)]
        try:
            uid = str(cast("C_STORE", event.request).AffectedSOPInstanceUID)
            if uid != str(event.dataset.SOPInstanceUID):  # it would land under another's name
                count.refused += 1
                return _NOT_THE_OBJECT
            self._store.put(self._settings.landing_bucket, landed_photograph(self._key, uid), event.encoded_dataset())
        except Retry as why:
            count.refused += 1
            _log.warning("Could not land a photograph", why=str(why))
            return _OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001  (a hostile peer may cause anything; its message may quote values)
            count.refused += 1
            _log.warning("Could not receive a photograph", why=type(error).__name__)
            return _PROCESSING_FAILURE
        count.landed += 1
        return _SUCCESS

    def _refused(self, event: Event) -> None:
        # Its title is what it says, and no proof; an address is one of a machine.
        address = str(event.assoc.requestor.address)
        _log.warning("An association was refused", peer=_title(event), address=address)
        self._record("110113", "E", _title(event), "A DICOM association was refused.", address=address)

    def _record(self, code: EventCode, action: Literal["C", "E"], what: str, why: str, **details: str | int) -> None:
        try:
            self._trail.append(code, action, what, why, **details)
        except Retry as error:  # only the log can be informed: the association is over
            _log.error("Could not write to the audit trail", what=what, why=str(error), **details)

    def _end(self, event: Event) -> None:
        count = self._counts.pop(id(event.assoc), None)
        if count is None or not (count.landed or count.refused):
            return
        peer = _title(event)
        _log.info("Received", peer=peer, landed=count.landed, refused=count.refused)
        self._record("110107", "C", peer, "Sent by DICOM C-STORE.", landed=count.landed, refused=count.refused)

    def _commit(self, event: Event) -> tuple[int, None]:
        try:
            asked = event.action_information
            report = self._report(str(asked.TransactionUID), list(asked.ReferencedSOPSequence))
        except Exception as error:  # noqa: BLE001  (as above)
            _log.warning("A request for storage commitment could not be read", why=type(error).__name__)
            return _PROCESSING_FAILURE, None
        # The report must follow the answer to the request: another thread sends it.
        threading.Timer(0.2, self._send_report, (event.assoc, self._peers[_title(event)], report)).start()
        return _SUCCESS, None

    def _report(self, transaction: str, asked: list[Dataset]) -> Dataset:
        report = Dataset()
        report.TransactionUID = transaction
        committed: list[Dataset] = []
        failed: list[Dataset] = []
        for item in asked:
            reference = Dataset()
            reference.ReferencedSOPClassUID = item.ReferencedSOPClassUID
            reference.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
            if self._holds(item.ReferencedSOPInstanceUID):
                committed.append(reference)
            else:
                reference.FailureReason = _NO_SUCH_INSTANCE
                failed.append(reference)
        if committed:
            report.ReferencedSOPSequence = committed
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _holds(self, uid: UID) -> bool:
        landed = landed_photograph(self._key, str(uid))
        return (
            next(self._store.list(self._settings.landing_bucket, landed), None) is not None
            or self._index.find(known := pseudonymise_uid(self._key, str(uid))) is not None
            or bool(self._quarantine.holding(known))
        )

    def _send_report(self, sender: Any, peer: Peer, report: Dataset) -> None:
        kind = _SOME_FAILED if "FailedSOPSequence" in report else _ALL_COMMITTED
        try:
            if peer.host:
                with self._associate(peer) as own:
                    status = _send(own, report, kind)
            else:
                status = _send(sender, report, kind)
        except (Retry, RuntimeError, ValueError) as error:
            _log.warning("The report on storage commitment could not be sent", peer=peer.title, why=str(error))
            return
        _log.info("Reported on storage commitment", peer=peer.title, complete=kind == _ALL_COMMITTED, status=status)

    @contextmanager
    def _associate(self, peer: Peer) -> Generator[Any]:
        entity = AE(self._settings.receiver_title)
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)  # the provider calls: roles are turned round
        association = entity.associate(peer.host, peer.port, ae_title=peer.title, ext_neg=[role])
        if not association.is_established:
            raise Retry("It accepts no association.")
        try:
            yield association
        finally:
            association.release()


def _send(association: Any, report: Dataset, kind: int) -> int:
    status, _ = association.send_n_event_report(report, kind, StorageCommitmentPushModel, _COMMITMENT_INSTANCE)
    return int(status.Status) if status else -1


def _title(event: Event) -> str:
    return str(event.assoc.requestor.ae_title).strip()
