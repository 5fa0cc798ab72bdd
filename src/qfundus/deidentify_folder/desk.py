"""One input at a time: de-identified into a draft, or put into quarantine."""

import hashlib
import json
from dataclasses import dataclass, replace
from mmap import MADV_DONTNEED, mmap
from pathlib import Path

from qfundus.deidentify_folder.inputs import Input
from qfundus.deidentify_folder.journal import TRUST
from qfundus.deidentify_folder.manifest import FileOutcome
from qfundus.dicom.clean import RELEASED_EVERY, clean_object
from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.handling import name_handling
from qfundus.dicom.photograph import is_photograph, make_object
from qfundus.dicom.policy import Policy
from qfundus.dicom.recognise import is_no_image
from qfundus.errors import Discard
from qfundus.security.keys import SiteKey
from qfundus.security.sealing import seal

_ZIPPED = b"PK\3\4"
_LARGEST_SEALED = 256 << 20  # bytes; a larger original stays only where it came from


@dataclass(frozen=True)
class Entry:
    """One input on its way: its place in the order, what was `known` of it before, and what a person decided."""

    number: int
    item: Input
    source: str
    stamp: str
    known: FileOutcome | None
    decision: str


class Desk:
    """Where one input after the other is worked on; each process has its own."""

    def __init__(self, policy: Policy, key: SiteKey, drafts: Path, quarantine: Path) -> None:
        self.policy = CompiledPolicy(policy)
        self.trusting = CompiledPolicy(policy.trusting_pixels())
        self.key = key
        self.drafts = drafts
        self.quarantine = quarantine
        self.known: set[str] = set()

    def process(self, entry: Entry) -> FileOutcome:
        """De-identify one input into a draft, or put it into quarantine."""
        item, source = entry.item, entry.source
        if entry.decision == "drop":
            return FileOutcome(source, "ignored", "dropped")
        try:
            if not item.is_plain or is_no_image(item.name, data := item.read()):
                return FileOutcome(source, "ignored")
        except Discard as why:
            return self.hold(source, item, None, why)
        if data[:4] == _ZIPPED:
            why = Discard("unreadable_file", "The zip file is broken, or is inside another one.")
            return self.hold(source, item, data, why)
        before = digest_of(data)
        draft = self.drafts / f"{entry.number}.dcm"
        try:
            if is_photograph(item.name):
                data = make_object(bytes(data), item.read_sidecar())
            policy = self.trusting if entry.decision == TRUST else self.policy
            cleaned = clean_object(data, draft, policy, self.key)
        except Discard as why:
            draft.unlink(missing_ok=True)
            return replace(self.hold(source, item, data, why), digest_before=before)
        deidentified = cleaned.deidentified
        handling = name_handling(deidentified.handled)
        new = handling not in self.known
        self.known.add(handling)
        return FileOutcome(
            source,
            "clean",
            digest_before=before,
            digest_after=cleaned.digest,
            sop_class=deidentified.sop_class,
            redacted=cleaned.redacted,
            draft=str(draft),
            target=f"{deidentified.patient}/{deidentified.study}/{deidentified.instance}.dcm",
            handling=handling,
            handled=deidentified.handled if new else (),
        )

    def hold(self, source: str, item: Input, data: bytes | mmap | None, why: Discard) -> FileOutcome:
        """Put an input into quarantine: its reason in the clear, its name and bytes sealed."""
        sealed = data is not None and len(data) <= _LARGEST_SEALED
        if data is not None and sealed:
            content = json.dumps(item.name).encode() + b"\n" + bytes(data)
            (self.quarantine / f"{source}.sealed").write_bytes(seal(self.key, content, source))
        note = {"source": source, "reason": why.reason, "detail": why.detail, "remedy": why.remedy, "sealed": sealed}
        (self.quarantine / f"{source}.json").write_text(json.dumps(note, indent=1))
        return FileOutcome(source, "quarantined", why.reason, why.detail)


def digest_of(data: bytes | mmap) -> str:
    """Return the SHA-256 of a file's bytes; of a mapped file no more than a part stays in memory."""
    if not isinstance(data, mmap):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    for start in range(0, len(data), RELEASED_EVERY):
        digest.update(data[start : start + RELEASED_EVERY])
        data.madvise(MADV_DONTNEED)
    return digest.hexdigest()
