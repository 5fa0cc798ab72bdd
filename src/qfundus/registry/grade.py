"""Grade photographs by the model in service."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qfundus.dicom.read import laterality, patient_of, read_eye
from qfundus.errors import Discard
from qfundus.features.extract import prepare_eye
from qfundus.registry.triton import Answer, grade_over_grpc, grade_over_http
from qfundus.site import Site

_BATCH = 16


@dataclass(frozen=True)
class GradedEye:
    """One eye as Triton grades it; `refused` says why it was not graded.

    `referred` eyes should be looked at by a person; None if the model in service has no referral rule.
    """

    eye: str
    sop_instance_uid: str
    grade: int
    probabilities: tuple[float, ...]
    version: str
    referred: bool | None = None
    refused: str = ""

    @property
    def referral(self) -> str:
        """Whether a person should look, as a table shows it."""
        if self.refused or self.referred:
            return "yes"
        return "no rule" if self.referred is None else ""


def grade_files(site: Site, files: list[Path], *, protocol: str = "http") -> list[GradedEye]:
    """Grade DICOM files over `http` or `grpc`; an unusable one is refused with its reason, the others are graded."""
    grade = {"http": grade_over_http, "grpc": grade_over_grpc}[protocol]
    names: list[tuple[str, str]] = []
    images: list[np.ndarray] = []
    refused: list[GradedEye] = []
    for number, file in enumerate(files, 1):
        try:
            eye = read_eye(file.read_bytes())
            images.append(prepare_eye(eye).image)
            names.append((f"{patient_of(eye, site.key)}-{laterality(eye)}", str(eye.SOPInstanceUID)))
        except Discard as why:
            # The file's name may hold a person's: it is named by its position.
            refused.append(GradedEye(f"file {number}", "", -1, (), "", refused=str(why)))
    graded: list[GradedEye] = []
    for first in range(0, len(images), _BATCH):
        answer = grade(site.settings, np.stack(images[first : first + _BATCH]))
        graded.extend(_to_eyes(answer, names[first : first + _BATCH]))
    return graded + refused


def _to_eyes(answer: Answer, names: list[tuple[str, str]]) -> list[GradedEye]:
    return [
        GradedEye(eye, uid, int(row.argmax()), tuple(float(p) for p in row), answer.version, answer.refers(row))
        for (eye, uid), row in zip(names, answer.probabilities, strict=True)
    ]
