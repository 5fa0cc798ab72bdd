"""The index of SOP instances: which eye an instance shows, from which bytes it was made, in which run."""

from dataclasses import asdict, dataclass

from qfundus.ingestion.names import grade_name, instance_name
from qfundus.settings import Settings
from qfundus.storage import ObjectStore, to_json


@dataclass(frozen=True)
class Instance:
    """One curated SOP instance. `fingerprint` is a keyed hash of the original, `digest` names the curated object."""

    uid: str
    fingerprint: str
    digest: str
    eye: str
    study: str
    patient: str
    run: str


class InstanceIndex:
    """One small object for each instance, so that a lookup costs the same however much was ever stored."""

    def __init__(self, store: ObjectStore, settings: Settings) -> None:
        self._store = store
        self._bucket = settings.curated_bucket

    def add(self, instance: Instance) -> Instance:
        """Enter an instance unless its UID is taken; return the one that stands in the index then."""
        if self._store.put_if_absent(self._bucket, instance_name(instance.uid), to_json(asdict(instance))):
            return instance
        return self.find(instance.uid) or instance

    def find(self, uid: str) -> Instance | None:
        """Return the instance of a pseudonymous UID, or None."""
        found = self._store.find_json(self._bucket, instance_name(uid))
        return None if found is None else Instance(**found)

    def add_grade(self, uid: str, grade: int, grader: str, graded_on: str, run: str) -> str:
        """Enter a grade unless the same is known already; return the run that entered it first."""
        name = grade_name(uid, grade, grader, graded_on)
        if self._store.put_if_absent(self._bucket, name, run.encode()):
            return run
        return self._store.get(self._bucket, name).decode()
