"""Judge what became of the planted photographs: against their answer key, and by the verifier."""

from qfundus.hospital.answers import Consistency, Score, score_object
from qfundus.layout import policy_file
from qfundus.object_names import object_name
from qfundus.planted.patients import planted_eyes, planted_photograph
from qfundus.planted.search import SearchedPlace
from qfundus.site import Site
from qfundus.storage import digest
from qfundus.verification.verify import verify_object


def judge_photographs(site: Site, curated: dict[str, list[dict[str, str]]]) -> tuple[Score, SearchedPlace]:
    """Score the planted photographs that each run curated, and verify them; erased ones count as not looked at.

    The score counts actions of de-identification (what went, what was kept for research, see `hospital/answers.py`) as
    the shipped policy asks for them; the verifier follows the policy in force.
    """
    score, place = Score(), SearchedPlace("planted photographs, by the verifier")
    for run, outcomes in curated.items():
        eyes = planted_eyes(site.key, run)
        answers = {digest(eye.data): eye.answers for eye in eyes}
        originals = {digest(data): data for data in (*(eye.data for eye in eyes), planted_photograph(site.key, run))}
        consistent = Consistency()
        for outcome in outcomes:
            name, before = object_name(outcome["digest"]), outcome["digest_before"]
            clean = site.store.find(site.settings.curated_bucket, name)
            if before not in originals or clean is None:
                continue
            if before in answers:  # a plain photograph has no key
                score_object(score, consistent, originals[before], clean, answers[before])
            place.looked += 1
            place.found += [f"{name}, {leak}" for leak in verify_object(clean, originals[before], policy_file())]
    return score, place
