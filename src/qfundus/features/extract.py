"""From curated objects to features: what tonight's eyes add to the feature store."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pydicom
import structlog
from pydicom.dataset import FileDataset

from qfundus.dicom.read import read_pixels
from qfundus.features.embed import BACKBONE, embed, load_backbone
from qfundus.features.photographs import forget_trainings
from qfundus.features.store import forget_eyes, write_part
from qfundus.imaging.disc import find_disc
from qfundus.imaging.normalise import crop_disc
from qfundus.imaging.quality import measure_quality
from qfundus.ingestion.curate import read_manifest
from qfundus.ingestion.instances import InstanceIndex
from qfundus.object_names import object_name
from qfundus.onnx_graphs.run import open_session
from qfundus.site import Site

_log = structlog.get_logger()
_GROUP = 128  # images in memory at a time


@dataclass(frozen=True)
class PreparedEye:
    """One curated image as the networks see it: `image` is `(side, side, 3)` of uint8."""

    image: np.ndarray
    acquisition: dict[str, object]


def extract_features(site: Site, run: str, manifest: str, known_at: datetime) -> dict[str, int]:
    """Write the features of a run's curated images and grades as parts of the feature store; return how many.

    The features of what the run erased go from all parts.

    Rows count as known from `known_at` on, the same at every try of a run.
    """
    outcomes = read_manifest(site, manifest)
    eyes = outcomes.query("status == 'curated'")
    embeddings, acquisitions = _eye_features(site, eyes)
    grades = _grade_features(outcomes.query("status == 'graded'"))
    parts = {"eye_embedding": embeddings, "study_acquisition": acquisitions, "eye_grade": grades}
    for view, rows in parts.items():
        write_part(site, view, run, known_at, rows)
    erased = outcomes.query("kind == 'erasure' and status == 'erased'")
    if len(erased):
        gone = set(erased["digest"]) | InstanceIndex(site).withdrawn()
        _log.info("Features forgotten", rows=forget_eyes(site, gone))
        forget_trainings(site)
    return {view: len(rows) for view, rows in parts.items()}


def prepare_eye(eye: FileDataset) -> PreparedEye:
    """Decode a photograph, cut out its disc and note how it was taken.

    Raises:
        Discard: if the pixels cannot be decoded or show no fundus.
    """
    pixels = read_pixels(eye)
    image = crop_disc(pixels, find_disc(pixels))
    return PreparedEye(image, {**_describe_acquisition(eye), **measure_quality(image).to_dict()})


def _eye_features(site: Site, eyes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = pd.DataFrame({"eye_id": eyes["eye"].to_numpy(), "study_id": eyes["study"].to_numpy()})
    backbone = open_session(load_backbone(site))
    vectors: list[np.ndarray] = []
    acquisitions: list[dict[str, object]] = []
    for group in _prepared_groups(site, list(eyes["digest"])):
        vectors.extend(embed(backbone, (eye.image for eye in group)))
        acquisitions.extend(eye.acquisition for eye in group)
        _log.info("Features extracted", done=len(vectors), of=len(eyes))
    embeddings = keys.assign(
        embedding=vectors,
        backbone=BACKBONE,
        instance_digest=eyes["digest"].to_numpy(),
        patient_id=eyes["patient"].to_numpy(),
    )
    return embeddings, pd.concat([keys, pd.DataFrame(acquisitions)], axis=1)


def _prepared_groups(site: Site, digests: list[str]) -> Iterator[list[PreparedEye]]:
    def prepare(content: str) -> PreparedEye:
        data = site.store.get(site.settings.curated_bucket, object_name(content))
        return prepare_eye(pydicom.dcmread(io.BytesIO(data)))

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(digests), _GROUP):
            yield list(pool.map(prepare, digests[start : start + _GROUP]))


def _describe_acquisition(eye: FileDataset) -> dict[str, object]:
    age = str(eye.get("PatientAge", "") or "")
    return {
        "camera": f"{eye.get('Manufacturer', '') or ''} {eye.get('ManufacturerModelName', '') or ''}".strip(),
        "age_years": int(age[:3]) if age.endswith("Y") else -1,
        "sex": str(eye.get("PatientSex", "") or ""),
        "field_of_view": float(eye.get("HorizontalFieldOfView", 0) or 0),
    }


def _grade_features(graded: pd.DataFrame) -> pd.DataFrame:
    # Of several grades for one eye and visit in one run, the one of the latest date holds.
    newest = graded.sort_values(["graded_on", "source"]).drop_duplicates(["eye", "study"], keep="last")
    return pd.DataFrame(
        {
            "eye_id": newest["eye"].to_numpy(),
            "study_id": newest["study"].to_numpy(),
            "grade": newest["grade"].to_numpy(np.int64),
            "grader": newest["grader"].to_numpy(),
            "graded_on": newest["graded_on"].to_numpy(),
        }
    )
