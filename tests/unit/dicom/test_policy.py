import pytest
from pydantic import ValidationError

from qfundus.dicom.policy import load_policy
from qfundus.layout import policy_file


def write(tmp_path, attributes):
    file = tmp_path / "policy.yaml"
    file.write_text(f"name: x\nedition: y\nattributes:\n  {attributes}\n")
    return file


def test_the_policy_of_the_project_is_sound():
    assert load_policy(policy_file()).attributes["PatientName"].action == "patient"


@pytest.mark.parametrize(
    "attributes",
    ["PatientNmae: {action: empty}", "PatientName: {action: keep}", "PatientName: {action: empty, terms: [a]}"],
)
def test_an_unknown_attribute_action_or_setting_is_refused(tmp_path, attributes):
    with pytest.raises((ValidationError, ValueError)):
        load_policy(write(tmp_path, attributes))
