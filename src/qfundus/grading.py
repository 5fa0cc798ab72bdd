"""Grade photographs by the model in service."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qfundus.dicom.read import laterality, patient_of, read_eye
from qfundus.errors import Discard
from qfundus.features.extract import prepare_eye
from qfundus.registry.triton import Answer, grade_over_grpc, grade_over_http
from qfundus.security.keys import SiteKey
from qfundus.settings import Settings

_BATCH = 16


@dataclass(frozen=True)
class GradedEye:
    """One eye as Triton grades it; `refused` says why it was not asked.

    A person should look at what is `referred`; None, the model in service has no such rule.
    """

    eye: str
    sop_instance_uid: str
    grade: int
    probabilities: tuple[float, ...]
    version: str
    referred: bool | None = None
    refused: str = ""

    @property
    def to_a_person(self) -> str:
        """Say in a table's cell whether a person should look."""
        if self.refused or self.referred:
            return "yes"
        return "no rule" if self.referred is None else ""


def grade_files(settings: Settings, files: list[Path], *, protocol: str = "http") -> list[GradedEye]:
    """Grade DICOM files over `http` or `grpc`; an unusable one is refused with its reason, the others go on."""
    key = SiteKey.from_hex(settings.site_key.get_secret_value())
    ask = {"http": grade_over_http, "grpc": grade_over_grpc}[protocol]
    named: list[tuple[str, str]] = []
    images: list[np.ndarray] = []
    refused: list[GradedEye] = []
    for number, file in enumerate(files, 1):
        try:
            eye = read_eye(file.read_bytes())
            images.append(prepare_eye(eye).image)
            named.append((f"{patient_of(eye, key)}-{laterality(eye)}", str(eye.SOPInstanceUID)))
        except Discard as why:
            # The file's name may hold a person's: it is called by its place.
            refused.append(GradedEye(f"file {number}", "", -1, (), "", refused=str(why)))
    graded: list[GradedEye] = []
    for first in range(0, len(images), _BATCH):
        answer = ask(settings, np.stack(images[first : first + _BATCH]))
        graded.extend(_to_eyes(answer, named[first : first + _BATCH]))
    return graded + refused


def _to_eyes(answer: Answer, named: list[tuple[str, str]]) -> list[GradedEye]:
    return [
        GradedEye(eye, uid, int(told.argmax()), tuple(float(p) for p in told), answer.version, answer.refers(told))
        for (eye, uid), told in zip(named, answer.probabilities, strict=True)
    ]
