"""Erase what notices of erasure name."""

from dataclasses import replace

from qfundus.errors import Discard
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.documents import Document
from qfundus.ingestion.erasures import read_erasures
from qfundus.ingestion.landing import ARCHIVE, LandedObject
from qfundus.ingestion.outcome import Outcome


def erase_named(curation: Curation, notice: Document, landed: list[LandedObject]) -> list[Outcome]:
    """Erase the images that a notice names: one outcome for the notice and one for each of its rows.

    What the archive sent again after its notice stays: it was deleted there, and is there again.
    """
    data = notice.read(curation)
    if data is None:
        return [Outcome(notice.source, "notice", "withdrawn")]
    try:
        uids = read_erasures(data, curation.site.key)
    except Discard as why:
        curation.hold(notice.source, notice.name, data, why)
        return [Outcome(notice.source, "notice", "quarantined", why.reason, part_of=notice.part_of)]
    back = {item.name for item in landed if item.corrects and item.landed_at > notice.landed_at}
    erased = [
        _erase(curation, uid, f"{notice.source}-{number}", notice.source, back) for number, uid in enumerate(uids, 1)
    ]
    return [Outcome(notice.source, "notice", "read", part_of=notice.part_of), *erased]


def _erase(curation: Curation, uid: str, source: str, notice: str, back: set[str]) -> Outcome:
    known, held = curation.index.find(uid), curation.quarantine.holding(uid)
    if held:
        curation.index.note_erasure(uid, curation.run)
    if f"{ARCHIVE}{uid}.dcm" in back or not curation.index.erase(uid, curation.run):
        return Outcome(source, "erasure", "ignored", part_of=notice, instance=uid)
    curation.site.trail.append(
        "110103", "D", uid, "A notice of erasure named it.", run=curation.run, notice=notice, held=len(held)
    )
    for item in held:
        curation.quarantine.forget(item)
    erased = Outcome(source, "erasure", "erased", part_of=notice, instance=uid)
    # Where a run is done again after a crash, the index has forgotten it: its features are known by their digest only.
    return replace(erased, digest=known.digest, eye=known.eye, study=known.study) if known else erased
