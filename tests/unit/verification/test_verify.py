import hashlib
import io
import json
import shutil
from datetime import date
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from conftest import REAL_DATA, make_eye
from leaky_objects import LEAKS
from PIL import Image
from products import product
from pydicom.data import get_testdata_file

from qfundus.deidentify_folder.run import deidentify_folder
from qfundus.errors import SetupError
from qfundus.hospital.wrap import to_bytes
from qfundus.layout import policy_file
from qfundus.verification.identity import Identity
from qfundus.verification.leaks import _in_text
from qfundus.verification.verify import verify_folder

SAMPLES = REAL_DATA.parent / "dicom" / "samples"


@pytest.fixture
def deidentified(tmp_path, photographs, policy, key):
    """A folder of originals and the clean one made of it."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(to_bytes(make_eye(photographs, number)))
    deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy.trusting_pixels(), key)
    return tmp_path


def verify(folder):
    return verify_folder(folder / "out", folder / "in", policy_file())


def test_a_clean_folder_has_no_leak(deidentified):
    verdict = verify(deidentified)
    assert (verdict.files, verdict.unmatched, verdict.leaks) == (3, 0, [])


SPOILS = {
    "a birth date with two digits of the year": lambda eye, born: f"born {born:%d.%m.%y}",
    "a birth date in the American way": lambda eye, born: f"{born.month}/{born.day}/{born:%y}",
    "a birth date with a Roman month": lambda eye, born: f"{born.day}/{ROMAN[born.month - 1]}/{born.year}",
    "a birth date with a French month": lambda eye, born: f"{born.day}. {FRENCH[born.month - 1]} {born.year}",
    "a telephone number": lambda eye, born: f"call {eye.PatientTelephoneNumbers}",
    "a word of the institution": lambda eye, born: str(eye.InstitutionName).split()[1],
}
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
FRENCH = ("Janvier", "F\u00e9vrier", "Mars", "Avril", "Mai", "Juin", "Juillet")
FRENCH += ("Ao\u00fbt", "Septembre", "Octobre", "Novembre", "D\u00e9cembre")


def spoil(folder, change, number=0):
    """Change one clean file by hand, given its original, and let the manifest know its new digest."""
    manifest = folder / "out" / "manifest.parquet"
    table = pd.read_parquet(manifest)
    row = table.iloc[number]
    file = folder / "out" / "clean" / row["target"]
    originals = {hashlib.sha256(f.read_bytes()).hexdigest(): f for f in (folder / "in").iterdir()}
    clean = pydicom.dcmread(file)
    change(clean, pydicom.dcmread(originals[row["digest_before"]]))
    clean.save_as(file)
    table.loc[number, "digest_after"] = hashlib.sha256(file.read_bytes()).hexdigest()
    table.to_parquet(manifest)
    return [leak.kind for leak in verify(folder).leaks]


@pytest.mark.parametrize("write", SPOILS.values(), ids=SPOILS)
def test_a_leak_is_found_however_it_is_written(deidentified, write):
    def change(clean, original):
        original.InstitutionName = original.InstitutionName or "Saint Brannoc Infirmary"
        born = date.fromisoformat(original.PatientBirthDate)
        clean.SpecificCharacterSet = "ISO_IR 192"
        clean.ImageComments = write(original, born)

    assert spoil(deidentified, change)


def test_a_name_is_found_where_it_was_cut_off():
    elements = [
        pydicom.DataElement("SequenceName", "SH", text) for text in ("QUIBBLETHOR", "Quiet sequence", "contrast")
    ]
    identity = Identity(names={"quibblethorpe", "contrasterson"})
    found = [list(_in_text(str(one.value), one, identity, coded=False)) for one in elements]
    assert found == [["an identifier of the original, spelled"], [], []]


def test_two_patients_that_are_mixed_up_are_found(deidentified, photographs):
    other = make_eye(photographs, 2).PatientID

    def change(clean, _):
        clean.ImageComments = f"see {other}"

    assert "another patient's identifier" in spoil(deidentified, change)


def test_dates_that_are_moved_apart_are_found(deidentified):
    def change(clean, _):
        clean.SeriesDate = "20010101"

    assert "dates of one patient are moved by different numbers of days" in spoil(deidentified, change)


@pytest.mark.parametrize("statement", ["DeidentificationMethod", "DeidentificationMethodCodeSequence"])
def test_an_object_that_does_not_say_how_it_was_de_identified_is_found(deidentified, statement):
    def change(clean, _):
        clean[statement].value = [] if "Sequence" in statement else ""

    assert "does not say that it is de-identified, and how" in spoil(deidentified, change)


def test_a_file_that_cannot_be_compared_is_a_finding(deidentified):
    manifest = deidentified / "out" / "manifest.parquet"
    table = pd.read_parquet(manifest)
    file = deidentified / "out" / "clean" / table["target"][0]
    file.write_bytes(file.read_bytes()[:100])
    table.loc[0, "digest_after"] = hashlib.sha256(file.read_bytes()).hexdigest()
    table.to_parquet(manifest)
    assert any("cannot be compared" in leak.kind for leak in verify(deidentified).leaks)


def test_nothing_to_compare_with_is_an_error(deidentified):
    (deidentified / "empty").mkdir()
    with pytest.raises(SetupError, match="No originals"):
        verify_folder(deidentified / "out", deidentified / "empty", policy_file())


def test_who_is_on_a_plain_photograph_is_known_from_its_sidecar(tmp_path, photographs, policy, key):
    (tmp_path / "in").mkdir()
    Image.fromarray(photographs.images[0]).resize((280, 280)).save(tmp_path / "in" / "eye.jpg")
    sidecar = {"PatientID": "471100815", "PatientName": "Brandvold^Jane", "ImageLaterality": "R"}
    (tmp_path / "in" / "eye.json").write_text(json.dumps(sidecar))
    deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy.trusting_pixels(), key)
    verdict = verify(tmp_path)
    assert (verdict.files, verdict.unmatched, verdict.leaks) == (1, 0, [])
    [file] = (tmp_path / "out").rglob("*.dcm")
    clean = pydicom.dcmread(file)
    clean.ImageComments = "seen with brandvold"
    clean.save_as(file)
    (tmp_path / "out" / "manifest.parquet").unlink()
    assert any("identifi" in leak.kind for leak in verify(tmp_path).leaks)


def test_a_policy_that_is_none_is_one_clear_message(deidentified):
    with pytest.raises(SetupError, match="cannot be read"):
        verify_folder(deidentified / "out", deidentified / "in", deidentified / "out" / "manifest.parquet")


SPOILED = {
    "PatientBirthDate": ("PatientBirthDate", "19570312", "E.1-1 Z"),
    "PatientAddress": ("PatientAddress", "somewhere", "E.1-1 X"),
    "a comment": ("ImageComments", "seen with {PatientName}", "identifier"),
    "a UID": ("FrameOfReferenceUID", "{SOPInstanceUID}", "UID"),
    "a birth date among the visit's": ("SeriesDate", "{PatientBirthDate}", "date"),
    "a birth date in a comment": ("ImageComments", "born {PatientBirthDate}", "date"),
    "a birth date in words": ("ImageComments", "born {born:%d %B %Y}", "date"),
    "a birth date with a short year": ("ImageComments", "born {born:%b} {born.day}, '{born:%y}", "date"),
    "a visit's date in a comment": ("ImageComments", "since {StudyDate}", "date"),
    "a birth date as a number": ("InstanceNumber", "{PatientBirthDate}", "number"),
    "a record number as a number": ("AcquisitionDuration", "{digits}", "number"),
    "a record number in pieces": (
        "ImageComments",
        "record {digits[0]}/{digits[1]}-{digits[2]} {digits[3]}.{rest}",
        "number",
    ),
    "a name without a space": ("ImageComments", "by{family}", "spelled"),
    "a name letter by letter": ("ReceiveCoilName", "{spelled}", "spelled"),
    "a name as a term": ("BodyPartExamined", "{family}", "identifier"),
    "a name in capitals": ("ProtocolName", "{FAMILY}", "identifier"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_leak_is_found_in(deidentified, photographs, what):
    keyword, value, kind = SPOILED[what]
    original = make_eye(photographs)
    known = {e.keyword: str(e.value) for e in original if e.VR in {"PN", "UI", "DA"}}
    family, digits = str(original.PatientName.family_name), "".join(filter(str.isdigit, original.PatientID))
    known |= {"family": family, "FAMILY": family.upper(), "spelled": " ".join(family), "digits": digits}
    known |= {"rest": digits[4:], "born": date.fromisoformat(original.PatientBirthDate)}
    file = next(f for f in (deidentified / "out").rglob("*.dcm"))
    clean = pydicom.dcmread(file)
    leaked = value.format(**known)
    setattr(clean, keyword, float(leaked) if keyword == "AcquisitionDuration" else leaked)
    clean.save_as(file)
    (deidentified / "out" / "manifest.parquet").unlink()  # unmatched: anybody's identity counts
    [leak, *_] = verify(deidentified).leaks
    assert kind in leak.kind
    assert known["PatientName"] not in str(leak)


def test_a_date_that_was_not_shifted_is_found(deidentified, photographs):
    manifest = pd.read_parquet(deidentified / "out" / "manifest.parquet")
    for file in (deidentified / "out").rglob("*.dcm"):
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        clean = pydicom.dcmread(file)
        clean.StudyDate = make_eye(photographs).StudyDate
        clean.save_as(file)
        manifest = manifest.replace(before, hashlib.sha256(file.read_bytes()).hexdigest())
    manifest.to_parquet(deidentified / "out" / "manifest.parquet")
    assert {(leak.where, leak.kind) for leak in verify(deidentified).leaks} == {
        ("StudyDate", "a date of the original"),
        ("header", "dates of one patient are moved by different numbers of days"),
    }


def test_a_name_in_a_path_or_a_manifest_is_found(deidentified, photographs):
    family = str(make_eye(photographs).PatientName.family_name)
    file = next((deidentified / "out").rglob("*.dcm"))
    moved = file.with_name(f"{family}.dcm")
    file.rename(moved)
    (deidentified / "out" / "quarantine" / "x.json").write_text(f'{{"detail": "{family} cannot be read"}}')
    table = pd.read_parquet(deidentified / "out" / "manifest.parquet").assign(reason=family)
    table.to_parquet(deidentified / "out" / "manifest.parquet")
    places = {Path(leak.file).name for leak in verify(deidentified).leaks}
    assert places == {f"{family}.dcm", "x.json", "manifest.parquet"}


def test_nothing_to_look_at_is_an_error(tmp_path, deidentified):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SetupError, match="No files"):
        verify_folder(tmp_path / "nothing", deidentified / "in", policy_file())


@pytest.mark.parametrize(
    "leak", ["private blocks", "overlay data", "curve data", "JPEG comment", "XMP", "preamble", "group 0002"]
)
def test_what_the_writer_would_remove_is_found_where_it_stays(tmp_path, photographs, leak):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    data = LEAKS[leak](make_eye(photographs))
    (tmp_path / "in" / "x.dcm").write_bytes(data)
    (tmp_path / "out" / "x.dcm").write_bytes(data)
    clean = pydicom.dcmread(io.BytesIO(data))
    places = {found.where.split()[0] for found in verify(tmp_path).leaks}
    expected = {"JPEG comment": "frame", "XMP": "frame", "preamble": "preamble", "group 0002": "file"}
    expected |= {"private blocks": "(0099,0010)", "overlay data": "(6000,3000)", "curve data": "(5000,3000)"}
    assert clean.SOPInstanceUID
    assert expected[leak] in places


SHIPPED = Path(str(get_testdata_file("CT_small.dcm"))).parent


@pytest.mark.slow
@pytest.mark.parametrize(("source", "every"), [(SAMPLES, 12), product(SAMPLES, 1), product(SHIPPED, 1)])
@pytest.mark.skipif(not SAMPLES.exists(), reason="The 77 DICOM samples are not at hand")
def test_samples_and_test_files_are_clean_or_in_quarantine(source, every, tmp_path, policy, key):
    (tmp_path / "in").mkdir()
    for file in sorted(file for file in source.rglob("*") if file.is_file())[::every]:
        shutil.copy(file, tmp_path / "in" / file.relative_to(source).as_posix().replace("/", "_"))
    counts = deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy, key, workers=2)
    assert counts.read == counts.clean + counts.quarantined + counts.duplicates + counts.ignored
    assert counts.clean >= 50 // every
    verdict = verify_folder(tmp_path / "out", tmp_path / "in", policy_file())
    assert (verdict.files, verdict.unmatched) == (counts.clean, 0)
    assert verdict.leaks == []
