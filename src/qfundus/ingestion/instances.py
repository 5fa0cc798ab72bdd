"""The index of SOP instances: which eye an instance shows, from which bytes it was made, in which run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from qfundus.object_names import (
    WITHDRAWN,
    erasure_name,
    grade_name,
    grades_prefix,
    instance_name,
    object_name,
    vault_name,
    withdrawn_name,
)
from qfundus.site import Site
from qfundus.storage import to_json


@dataclass(frozen=True)
class Instance:
    """One curated SOP instance. `fingerprint` is a keyed hash of the original, `digest` names the curated object.

    `handling` names the table of what was done with each attribute. A correction says which content it `corrects`, and
    whose that was.
    """

    uid: str
    fingerprint: str
    digest: str
    eye: str
    study: str
    patient: str
    run: str
    digest_before: str = ""
    redacted: int = 0
    handling: str = ""
    corrects: str = ""
    corrects_patient: str = ""


@dataclass(frozen=True)
class KnownGrade:
    """A grade that one content of an instance was given; its date is moved as the patient's others."""

    grade: int
    grader: str
    graded_on: str


class InstanceIndex:
    """One small object for each instance, so that a lookup costs the same however much was ever stored."""

    def __init__(self, site: Site) -> None:
        self._store = site.store
        self._bucket = site.settings.curated_bucket
        self._vault = site.settings.vault_bucket

    def add(self, instance: Instance) -> Instance:
        """Enter an instance unless its UID is taken; return the one that stands in the index then."""
        if instance.digest in self._withdrawn_before:  # it may come back after an erasure
            self._store.delete(self._bucket, withdrawn_name(instance.digest))
        if self._store.put_if_absent(self._bucket, instance_name(instance.uid), to_json(asdict(instance))):
            return instance
        return self.find(instance.uid) or instance

    def correct(self, new: Instance) -> Instance:
        """Let a correction take the place of an instance that was withdrawn before; a second time changes nothing."""
        self._store.delete(self._bucket, withdrawn_name(new.digest))
        self._store.put(self._bucket, instance_name(new.uid), to_json(asdict(new)))
        return new

    def erase(self, uid: str, run: str) -> bool:
        """Forget an instance, its image and its grades; return whether there was one, or this run erased it."""
        instance = self.find(uid)
        if instance is None:
            return self._store.find(self._bucket, erasure_name(uid)) == run.encode()
        self.note_erasure(uid, run)
        self.withdraw(instance)
        self._store.delete_all(
            self._bucket, [stored.name for stored in self._store.list(self._bucket, grades_prefix(uid))]
        )
        self._store.delete(self._bucket, instance_name(uid))
        return True

    def note_erasure(self, uid: str, run: str) -> None:
        """Note which run erases an instance: the same run, done again after a crash, says the same of it."""
        self._store.put(self._bucket, erasure_name(uid), run.encode())

    @cached_property
    def _withdrawn_before(self) -> set[str]:
        # Erasures come at a run's end: what was withdrawn at its begin is all that can come back in it.
        return self.withdrawn()

    def withdrawn(self) -> set[str]:
        """Return the digests of all content that was erased or corrected."""
        return {stored.name.removeprefix(WITHDRAWN) for stored in self._store.list(self._bucket, WITHDRAWN)}

    def withdraw(self, instance: Instance) -> None:
        """Mark an instance's content as withdrawn, and delete it and what the vault knows of it.

        Its index entry stays until it is corrected or erased: a crash in between leads here again.
        """
        self._store.put(self._bucket, withdrawn_name(instance.digest), b"")
        self._store.delete(self._bucket, object_name(instance.digest))
        if self._vault:
            self._store.delete(self._vault, vault_name(instance.patient, instance.uid))

    def find(self, uid: str) -> Instance | None:
        """Return the instance of a pseudonymous UID, or None."""
        stored = self._store.find_json(self._bucket, instance_name(uid))
        return None if stored is None else Instance(**stored)

    def grades(self, uid: str, content: str) -> Iterator[KnownGrade]:
        """Yield the grades that one content of an instance was given."""
        prefix = grades_prefix(uid, content)
        for stored in self._store.list(self._bucket, prefix):
            grade, grader, graded_on = stored.name.removeprefix(prefix).split("-", 2)
            yield KnownGrade(int(grade), grader, graded_on)

    def add_grade(self, uid: str, content: str, given: KnownGrade, run: str) -> str:
        """Enter a grade unless the same is known already; return the run that entered it first."""
        name = grade_name(uid, content, given.grade, given.grader, given.graded_on)
        if self._store.put_if_absent(self._bucket, name, run.encode()):
            return run
        return self._store.get(self._bucket, name).decode()
