"""What is known of an eye, from when on, and for how long it holds.

`event_timestamp` is when a fact became known to qfundus, not when the eye was photographed: a training set of a past
night can then be made again exactly, and a correction that came later is not seen too early.
"""

import os
from datetime import timedelta

from entities import eye, study
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32, Int64, String

_endpoint = os.environ["QFUNDUS_S3_ENDPOINT"]
_bucket = os.environ["QFUNDUS_FEATURES_BUCKET"]


def _source(name: str) -> FileSource:
    return FileSource(
        name=f"{name}_parts",
        path=f"s3://{_bucket}/{name}/",
        s3_endpoint_override=_endpoint,
        timestamp_field="event_timestamp",
    )


eye_embedding = FeatureView(
    name="eye_embedding",
    entities=[eye, study],
    ttl=timedelta(days=5 * 365),
    source=_source("eye_embedding"),
    schema=[
        Field(
            name="embedding",
            dtype=Array(Float32),
            description="1280 values of the frozen EfficientNet-Lite0.",
        ),
        Field(name="backbone", dtype=String, description="Which network, with which weights."),
        Field(name="instance_digest", dtype=String, description="The curated DICOM object it was computed from."),
        Field(name="patient_id", dtype=String, description="The patient's pseudonym."),
    ],
)

study_acquisition = FeatureView(
    name="study_acquisition",
    entities=[eye, study],
    ttl=timedelta(days=5 * 365),
    source=_source("study_acquisition"),
    schema=[
        Field(name="camera", dtype=String, description="Manufacturer and model."),
        Field(name="age_years", dtype=Int64, description="At most 90; -1 where unknown."),
        Field(name="sex", dtype=String, description="F, M, O, or empty."),
        Field(name="field_of_view", dtype=Float32, description="Degrees; 0 where unknown."),
        Field(name="brightness", dtype=Float32, description="Mean of the green channel, 0 to 1."),
        Field(name="contrast", dtype=Float32, description="Spread of the green channel, 0 to 1."),
        Field(name="sharpness", dtype=Float32, description="Variance of the Laplacian."),
    ],
)

eye_grade = FeatureView(
    name="eye_grade",
    entities=[eye, study],
    ttl=timedelta(days=10 * 365),
    source=_source("eye_grade"),
    schema=[
        Field(name="grade", dtype=Int64, description="ICDR scale: 0 none to 4 proliferative."),
        Field(name="grader", dtype=String, description="The grader's pseudonym."),
        Field(name="graded_on", dtype=String, description="Moved by the patient's own number of days."),
    ],
)
