import pytest

from qfundus.dicom.policy import load_policy
from qfundus.errors import SetupError
from qfundus.layout import policy_file


def write(tmp_path, rest):
    file = tmp_path / "policy.yaml"
    file.write_text(f"name: x\nedition: y\n{rest}\n")
    return file


def test_the_policy_of_the_project_is_sound():
    assert load_policy(policy_file()).attributes["PatientName"] == "replace"


@pytest.mark.parametrize(
    "rest",
    [
        "options: {}\nattributes: {PatientNmae: empty}",
        "options: {}\nattributes: {PatientName: kept}",
        "options: {clean_pixels: true}",
        "options: {retain_full_dates: true, retain_modified_dates: true}",
        "options: [",
        "options: {clean_descriptors: 'no'}",
        "options: {}\nattributes: {PatientName: keep}",
        "options: {}\nattributes: {AccessionNumber: keep}",
        "",
    ],
)
def test_what_is_unknown_or_contradicts_itself_is_refused(tmp_path, rest):
    with pytest.raises(SetupError, match="policy") as refused:
        load_policy(write(tmp_path, rest))
    assert "http" not in str(refused.value)


def test_a_missing_policy_is_an_error_that_says_so(tmp_path):
    with pytest.raises(SetupError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")
