import hashlib
import shutil

import pandas as pd
import pydicom
import pytest

from qfundus.deidentify_folder.run import deidentify_folder
from qfundus.hospital.answers import describe, score_folder
from qfundus.hospital.photographs import Photographs
from qfundus.hospital.wrap import wrap_photographs, write_hospital

EYES = 40
PIXELS = {
    "PixelData",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
}
PIXELS |= {"PhotometricInterpretation", "PlanarConfiguration"}


@pytest.fixture(scope="module")
def hospital(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    few = Photographs(photographs.images[:EYES], photographs.grades[:EYES], "test", phantom=photographs.phantom)
    write_hospital(wrap_photographs(few, burned_share=0.3), folder)
    return folder


@pytest.fixture(scope="module")
def deidentified_hospital(hospital, policy, key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    deidentify_folder(hospital, folder, policy.policy, key, workers=2)
    return folder


def pretend(hospital, folder, change):
    """Write a clean folder with what somebody else would have made of each original."""
    rows = []
    for number, file in enumerate(sorted(hospital.glob("*.dcm"))):
        dataset = pydicom.dcmread(file)
        change(dataset)
        (folder / "clean").mkdir(exist_ok=True)
        dataset.save_as(folder / "clean" / f"{number}.dcm")
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append({"digest_before": before, "target": f"{number}.dcm", "status": "clean"})
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    return folder


def test_every_action_of_the_key_is_done(hospital, deidentified_hospital, photographs):
    score = score_folder(deidentified_hospital, hospital)
    # The detector takes some phantoms for text: they have edges as sharp as letters, and go to quarantine.
    assert score.share >= (0.9 if photographs.phantom else 0.9995)
    # Of a photograph in quarantine every action is missed; of one that is clean, only a false alarm on a bright eye.
    assert photographs.phantom or {category for _, category, _ in score.misses} <= {"pixels kept"}
    assert score.actions.total() > EYES * 70
    assert set(score.actions) == {
        *("gone", "nowhere", "kept", "shifted", "mapped"),
        *("patient", "words lost", "words kept", "hidden", "pixels kept"),
    }


def test_who_empties_everything_scores_badly(hospital, tmp_path):
    def empty(dataset):
        for element in list(dataset):
            if element.keyword not in PIXELS:
                del dataset[element.tag]

    score = score_folder(pretend(hospital, tmp_path, empty), hospital)
    assert score.share < 0.5
    assert score.correct["gone"] == score.actions["gone"]
    assert score.correct["kept"] < 0.3 * score.actions["kept"]


def test_a_name_anywhere_is_a_miss(hospital, deidentified_hospital, tmp_path):
    spoiled = shutil.copytree(deidentified_hospital, tmp_path / "spoiled")
    names = {
        hashlib.sha256(file.read_bytes()).hexdigest(): str(pydicom.dcmread(file).PatientName.family_name)
        for file in hospital.glob("*.dcm")
    }
    manifest = pd.read_parquet(spoiled / "manifest.parquet").query("status == 'clean'")
    row = next(row for row in manifest.itertuples() if len(names[row.digest_before]) >= 4)
    file = spoiled / "clean" / row.target
    dataset = pydicom.dcmread(file)
    dataset.EthnicGroup = names[row.digest_before]
    dataset.save_as(file)
    score = score_folder(spoiled, hospital)
    assert [miss[1] for miss in score.misses if miss[1] == "nowhere"]


def test_who_does_nothing_scores_badly(hospital, tmp_path):
    score = score_folder(pretend(hospital, tmp_path, lambda _: None), hospital)
    undone = ("gone", "nowhere", "shifted", "mapped", "patient", "words lost", "hidden")
    assert [score.correct[c] for c in undone] == [0] * 7


def test_a_miss_is_named_by_its_place(hospital, deidentified_hospital, tmp_path):
    before = set(score_folder(deidentified_hospital, hospital).misses)
    spoiled = shutil.copytree(deidentified_hospital, tmp_path / "spoiled")
    file = next(spoiled.rglob("clean/*/*/*.dcm"))
    dataset = pydicom.dcmread(file)
    dataset.Manufacturer = "SOMEBODY"
    dataset.save_as(file)
    score = score_folder(spoiled, hospital)
    [miss] = set(score.misses) - before
    assert miss[1:] == ("kept", "Manufacturer")
    assert "missed: kept, Manufacturer" in "\n".join(describe(score))
