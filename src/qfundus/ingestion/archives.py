"""De-identify what a zip file holds, as if each member had landed by itself."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, cast
from zipfile import BadZipFile, ZipFile

import structlog

from qfundus.dicom.photograph import is_photograph, sidecar_of
from qfundus.dicom.recognise import is_no_image
from qfundus.errors import Discard, ReasonCode
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.documents import Document
from qfundus.ingestion.images import curate_member, instance_of, refuse_large
from qfundus.ingestion.isolation import Isolation
from qfundus.ingestion.landing import ERASURE, LandedObject, is_erasure, is_sheet
from qfundus.ingestion.outcome import Outcome
from qfundus.ingestion.quarantine import PART
from qfundus.ingestion.threads import in_threads
from qfundus.ingestion.zip_members import find_member, read_member
from qfundus.storage import digest

_log = structlog.get_logger()


def curate_archive(
    curation: Curation, isolation: Isolation, item: LandedObject
) -> tuple[list[Outcome], list[Document]]:
    """De-identify the images in a zip file: one outcome for the archive and one for each member.

    The sheets and notices in it are returned as they are: they come after all images.
    """
    with _landed_file(curation, item.name) as file:
        if file is None:
            return [Outcome(item.source, "archive", "withdrawn")], []
        try:
            archive = ZipFile(file)
        except (BadZipFile, OSError, ValueError):
            return [_hold(curation, item, Discard("unreadable_file", "The file is not a zip file."))], []
        members = [number for number, member in enumerate(archive.infolist()) if not member.is_dir()]
        with archive:
            read = in_threads(
                lambda number: [_curate_member(curation, isolation, item, archive, number)], members, "members"
            )
    outcomes = [result for result in read if isinstance(result, Outcome)]
    documents = [result for result in read if isinstance(result, Document)]
    unread = [outcome.reason for outcome in outcomes if outcome.status == "quarantined" and not outcome.digest_before]
    if unread:  # nothing of such a member could be held by itself
        why = Discard(cast("ReasonCode", unread[0]), f"{len(unread)} of its members cannot be read.")
        return [_hold(curation, item, why), *outcomes], documents
    return [Outcome(item.source, "archive", "read"), *outcomes], documents


def _hold(curation: Curation, item: LandedObject, why: Discard) -> Outcome:
    before = curation.hold_landed(item, why)
    return Outcome(item.source, "archive", "quarantined", why.reason, digest_before=before)


@contextmanager
def _landed_file(curation: Curation, name: str) -> Generator[IO[bytes] | None]:
    """Yield a landed object as a file, None where somebody took it away: an archive may be larger than memory."""
    with tempfile.TemporaryFile() as file:
        try:
            for part in curation.site.store.stream(curation.site.settings.landing_bucket, name, PART):
                file.write(part)
        except LookupError:
            there = False
        else:
            there = True
        yield file if there else None


def _curate_member(
    curation: Curation, isolation: Isolation, item: LandedObject, archive: ZipFile, number: int
) -> Outcome | Document:
    member = archive.infolist()[number]
    source, name = f"{item.source}-{number + 1}", member.filename
    try:
        refuse_large(member.file_size)
        data = read_member(archive, number)
    except Discard as why:
        _log.warning(
            "Could not read a zip member", source=source, reason=why.reason, detail=why.detail, remedy=why.remedy
        )
        return Outcome(source, "image", "quarantined", why.reason, part_of=item.source)
    if is_sheet(name) or is_erasure(name):
        ending = ERASURE if is_erasure(name) else ".csv"
        return Document(source, f"{item.name}.member{number + 1}{ending}", item.landed_at, item.source, data)
    if is_no_image(name, data):
        return Outcome(source, "image", "ignored", part_of=item.source)
    # Of the member's own name nothing is kept but its ending: it may climb out of any folder.
    safe = f"{item.name}.member{number + 1}{Path(name).suffix[:8]}"
    sidecar = find_member(archive, sidecar_of(name)) if is_photograph(name) else None
    try:
        instance = isolation.run(curate_member, safe, data, sidecar)
    except Discard as why:
        held = isolation.run(instance_of, safe, data, sidecar)
        curation.hold(source, safe, data, why, held)
        if sidecar is not None:
            curation.hold(f"{source}-sidecar", sidecar_of(safe), sidecar, why, held)
        before = digest(data)
        return Outcome(
            source, "image", "quarantined", why.reason, part_of=item.source, instance=held, digest_before=before
        )
    return replace(Outcome.of(source, instance, curated=curation.owns(instance.run)), part_of=item.source)
