"""Judge what became of the planted photographs: against their answer key, and by the verifier."""

from qfundus.hospital.answers import Consistency, Score, score_object
from qfundus.ingestion.names import object_name
from qfundus.layout import policy_file
from qfundus.planted.patients import planted_eyes
from qfundus.planted.search import Place
from qfundus.security.keys import SiteKey
from qfundus.settings import Settings
from qfundus.storage import ObjectStore, digest
from qfundus.verify import verify_object


def judge_photographs(
    store: ObjectStore, settings: Settings, key: SiteKey, curated: dict[str, list[dict[str, str]]]
) -> tuple[Score, Place]:
    """Score the planted photographs that each run curated, and verify them; erased ones count as not looked at.

    The score counts actions of de-identification (what went, what was kept for research, see `hospital/answers.py`) as
    the shipped policy asks for them; the verifier follows the policy in force.
    """
    score, place = Score(), Place("planted photographs, by the verifier")
    for run, outcomes in curated.items():
        originals, consistent = {digest(eye.data): eye for eye in planted_eyes(key, run)}, Consistency()
        for outcome in outcomes:
            name, original = object_name(outcome["digest"]), originals.get(outcome["digest_before"])
            clean = store.find(settings.curated_bucket, name)
            if original is None or clean is None:
                continue
            score_object(score, consistent, original.data, clean, original.answers)
            place.looked += 1
            place.found += [f"{name}, {leak}" for leak in verify_object(clean, original.data, policy_file())]
    return score, place
