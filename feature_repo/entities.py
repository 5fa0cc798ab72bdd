"""Whom and what features belong to; both names are pseudonyms."""

from feast import Entity, ValueType

eye = Entity(
    name="eye",
    join_keys=["eye_id"],
    value_type=ValueType.STRING,
    description="One eye of one patient: the patient's pseudonym, a hyphen, R or L.",
)

study = Entity(
    name="study",
    join_keys=["study_id"],
    value_type=ValueType.STRING,
    description="One visit: the pseudonymous study instance UID.",
)
