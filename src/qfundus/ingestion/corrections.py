"""Let the grades of an image follow it when the archive corrects it."""

from dataclasses import asdict, replace
from datetime import date, timedelta

from qfundus.ingestion.curation import Curation
from qfundus.ingestion.instances import Instance
from qfundus.ingestion.outcome import Outcome
from qfundus.security.keys import date_shift


def move_grades(curation: Curation, outcome: Outcome, instance: Instance) -> list[Outcome]:
    """Give a corrected image the grades that its old content had: their dates move with the patient it has now."""
    if outcome.status != "curated" or not instance.corrects:
        return []
    moved = date_shift(curation.site.key, instance.corrects_patient) - date_shift(curation.site.key, instance.patient)
    followed: list[Outcome] = []
    for number, old in enumerate(curation.index.grades(instance.uid, instance.corrects), 1):
        graded_on = (date.fromisoformat(old.graded_on) + timedelta(days=moved)).isoformat()
        given = replace(old, graded_on=graded_on)
        first = curation.index.add_grade(instance.uid, instance.digest, given, curation.run)
        graded = replace(
            outcome,
            source=f"{outcome.source}-{number}",
            kind="grade",
            status="graded" if curation.owns(first) else "duplicate",
            part_of=outcome.source,
            **asdict(given),
        )
        followed.append(graded)
    return followed
