"""The vault: who is behind a pseudonym, sealed, and opened only with a reason that is recorded."""

import json
from dataclasses import asdict, dataclass

from qfundus.object_names import vault_name
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey
from qfundus.security.sealing import is_current, seal, unseal
from qfundus.storage import ObjectStore


@dataclass(frozen=True)
class Identified:
    """Whose photograph one instance is, in the hospital's own words."""

    patient_id: str
    issuer: str
    study: str
    instance: str


class Vault:
    """The vault bucket: one sealed object an instance; without a vault, nothing is kept."""

    def __init__(self, store: ObjectStore, bucket: str | None, key: SiteKey, trail: AuditTrail) -> None:
        self._store = store
        self._bucket = bucket
        self._key = key
        self._trail = trail

    def put(self, patient: str, uid: str, who: Identified) -> None:
        """Keep who is behind a patient's pseudonym and an instance's; a second time changes nothing."""
        if self._bucket:
            name = vault_name(patient, uid)
            self._store.put_if_absent(self._bucket, name, seal(self._key, json.dumps(asdict(who)).encode(), name))

    def reveal(self, patient: str, why: str) -> list[Identified]:
        """Return who is behind a patient's pseudonym, for each photograph, and record who asked and why.

        Raises:
            LookupError: if the vault knows nothing of it; the question is recorded all the same.
        """
        listed = self._store.list(self._bucket, vault_name(patient, "")) if self._bucket else ()
        names = [stored.name for stored in listed]
        self._trail.append("110103", "R", patient, why, decision="reveal", revealed=len(names))
        if not names:
            raise LookupError("The vault has no entry for this pseudonym.")
        return [Identified(**json.loads(self._open(name))) for name in names]

    def _open(self, name: str) -> bytes:
        assert self._bucket  # noqa: S101  (there would be no name)
        return unseal(self._key, self._store.get(self._bucket, name), name)


def reseal(store: ObjectStore, bucket: str, key: SiteKey, ending: str = "") -> int:
    """Seal a bucket's `.sealed` objects again, with the newest secret, where an older one sealed them.

    An object is bound to its name without the `ending`. Returns how many objects were sealed again.
    """
    resealed = 0
    for stored in store.list(bucket):
        if not stored.name.endswith(".sealed"):
            continue
        name = stored.name.removesuffix(ending)
        sealed = store.get(bucket, stored.name)
        if not is_current(key, sealed, name):
            store.put(bucket, stored.name, seal(key, unseal(key, sealed, name), name))
            resealed += 1
    return resealed
