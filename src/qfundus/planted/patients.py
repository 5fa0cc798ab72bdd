"""The invented patients of a run: their names are words that stand nowhere else in the world."""

import io
import random
import string
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from PIL import Image
from PIL.ExifTags import Base

from qfundus.dicom.photograph import make_object
from qfundus.hospital.people import Clinic, Patient, invent_patient
from qfundus.hospital.photographs import draw_phantoms
from qfundus.hospital.wrap import WrappedEye, answers_about, to_bytes, wrap_eye
from qfundus.ingestion.landing import list_landed, planted_prefix
from qfundus.object_names import PLANTED_RECENT
from qfundus.security.keys import SiteKey
from qfundus.site import Site
from qfundus.storage import to_json

_LETTERS = 12
_REMEMBERED = 10  # runs
_SEARCHED_FOR = timedelta(days=2)
_GRADES = (2, 7, 0, 1)  # 7 is not a grade
_COLUMNS = "SOPInstanceUID,grade,grader,date"
WHERE = (
    "name, ID, address, telephone and comments of the patient",
    "names of physician, operator and grader",
    "descriptions and request numbers, in sequences too",
    "a private block",
    "letters in the pixels, and a comment in their JPEG",
    "file names, in a zip file too",
    "what lies beside a plain photograph, and in its EXIF",
    "a file that is cut short, and a row with a grade of 7: what is said of them when they go to quarantine",
)


@dataclass(frozen=True)
class Planting:
    """When a run's patients were planted."""

    run: str
    at: datetime


def marks(key: SiteKey, run: str) -> list[str]:
    """Return the marked words of a run: from the key, so that nothing has to keep them."""
    stream = key.mac("plant", run)
    letters = "".join(string.ascii_uppercase[byte % 26] for byte in stream)
    return [letters[:_LETTERS], letters[_LETTERS : 2 * _LETTERS]]


def plant_patients(site: Site, run: str) -> bool:
    """Land a run's invented patients beside what the hospital sent; where it sent nothing, plant nothing."""
    landed = [item for item in list_landed(site) if not item.planted]
    if not landed:
        return False
    _remember(site, run)
    for name, data in _files(planted_eyes(site.key, run), " ".join(marks(site.key, run))).items():
        site.store.put(site.settings.landing_bucket, f"{planted_prefix(site.key)}{name}", data)
    return True


def recent_plantings(site: Site) -> list[Planting]:
    """Return the runs whose marks are searched for: those of the last two days."""
    found = site.store.find_json(site.settings.curated_bucket, PLANTED_RECENT) or []
    plantings = [Planting(entry["run"], datetime.fromisoformat(entry["at"])) for entry in found]
    return [p for p in plantings if datetime.now(UTC) - p.at < _SEARCHED_FOR]


def _remember(site: Site, run: str) -> None:
    known = site.store.find_json(site.settings.curated_bucket, PLANTED_RECENT) or []
    if any(entry["run"] == run for entry in known):
        return
    known.append({"run": run, "at": datetime.now(UTC).isoformat(timespec="seconds")})
    site.store.put(site.settings.curated_bucket, PLANTED_RECENT, to_json(known[-_REMEMBERED:]))


def planted_eyes(key: SiteKey, run: str) -> list[WrappedEye]:
    """Make a run's photographs, each with its answer key: the same at each call, so that nothing has to keep them."""
    family, given = marks(key, run)
    rng = random.Random(family)  # noqa: S311  (people are invented by it, no secrets)
    return [_eye(_patient(family, given, number, rng), number, rng) for number in range(len(_GRADES))]


def planted_photograph(key: SiteKey, run: str) -> bytes:
    """Return the object that a run's plain photograph becomes before it is de-identified."""
    words = " ".join(marks(key, run))
    return make_object(_photograph(words), _sidecar(words))


def _files(eyes: list[WrappedEye], words: str) -> dict[str, bytes]:
    """Return each way in: objects by themselves, one cut short, one in a zip file, a plain photograph, a sheet."""
    sheet = [_COLUMNS, *(f"{eye.sop_instance_uid},{eye.grade},{words},2026-07-01" for eye in eyes[:2])]
    whole, short, packed = eyes[:2], eyes[2], eyes[3]
    return {
        **{eye.file_name: eye.data for eye in whole},
        short.file_name: short.data[:-2000],
        f"{words}.zip": _zipped(f"{words}/{packed.file_name}", packed.data),
        f"{words}.jpg": _photograph(words),
        f"{words}.json": _sidecar(words),
        f"{words}.csv": "\n".join(sheet).encode(),
    }


def _zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), data)  # without the time, so that each call makes the same
    return buffer.getvalue()


def _photograph(words: str) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[Base.Artist] = exif[Base.ImageDescription] = words
    Image.fromarray(draw_phantoms(1, seed=len(_GRADES)).images[0]).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def _sidecar(words: str) -> bytes:
    name = words.replace(" ", "^")
    labels = {"PatientID": words, "PatientName": name, "ImageLaterality": "L", "StudyDate": "20260301"}
    return to_json({**labels, "OperatorsName": name, "ImageComments": f"{words} came alone"})


def _patient(family: str, given: str, number: int, rng: random.Random) -> Patient:
    visited = datetime(2026, 3, 1, tzinfo=UTC).date()
    return replace(
        invent_patient(rng, visited),
        family=family,
        given=given,
        record_number=f"{family}{number}",
        address=f"{number} {given} Lane",
        phone=f"{given}-{number}",
        physician=f"{family}^{given}^^Dr",
        operator=f"{given}^{family}",
    )


def _eye(patient: Patient, number: int, rng: random.Random) -> WrappedEye:
    burned_in = number == 1
    eye = wrap_eye(
        draw_phantoms(1, seed=number).images[0],
        patient,
        Clinic(institution=f"{patient.family} Infirmary", manufacturer="PHANTOM", model="DRAWN EYE"),
        laterality="R",
        study_uid=f"2.25.{rng.getrandbits(120)}",
        entropy=f"{patient.family}/{number}",
        burned_in=burned_in,
    )
    data = to_bytes(eye) if burned_in else _with_comment(to_bytes(eye), patient.family)
    return WrappedEye(
        file_name=f"{patient.family}_{patient.given}_{number}.dcm",
        data=data,
        sop_instance_uid=str(eye.SOPInstanceUID),
        grade=_GRADES[number],
        burned_in=burned_in,
        answers=answers_about(data, patient, burned_in=burned_in),
    )


def _with_comment(data: bytes, words: str) -> bytes:
    """Put a comment segment into the JPEG of an object, right after its start."""
    import pydicom
    from pydicom.encaps import encapsulate, generate_frames

    eye = pydicom.dcmread(io.BytesIO(data))
    frame = next(generate_frames(eye.PixelData, number_of_frames=1))
    comment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words.encode()
    eye.PixelData = encapsulate([frame[:2] + comment + frame[2:]])
    eye["PixelData"].is_undefined_length = True
    return to_bytes(eye)


def words_of(key: SiteKey, plantings: Sequence[Planting]) -> list[str]:
    """Return the marked words of several runs."""
    return [word for planting in plantings for word in marks(key, planting.run)]
