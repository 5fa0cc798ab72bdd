import json
from itertools import product

import pytest
from conftest import REAL_DATA

from qfundus.dicom.policy import Policy
from qfundus.dicom.profile import Profile, attribute_type, confidentiality_table

ORACLE = REAL_DATA.parent / "dicom" / "ps3.15-table-e1-1.json"
OPTIONS = {
    "retain_safe_private": "rtnSafePrivOpt",
    "retain_uids": "rtnUIDsOpt",
    "retain_device_identity": "rtnDevIdOpt",
    "retain_institution_identity": "rtnInstIdOpt",
    "retain_patient_characteristics": "rtnPatCharsOpt",
    "retain_full_dates": "rtnLongFullDatesOpt",
    "retain_modified_dates": "rtnLongModifDatesOpt",
    "clean_descriptors": "cleanDescOpt",
    "clean_structured_content": "cleanStructContOpt",
    "clean_graphics": "cleanGraphOpt",
}
FUNDUS = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
ACTIONS = {"X": {"remove"}, "Z": {"empty"}, "D": {"replace"}, "U": {"uid"}, "U*": {"uid"}}


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.exists():
        pytest.skip("The machine-readable Table E.1-1 is not at hand")
    rows = json.loads(ORACLE.read_text())
    assert len(rows) == 621
    return [row for row in rows if "x" not in row["id"] and "WHERE" not in row["tag"]]


def in_data_set(row):
    """Return whether an attribute stands in the data set: the file meta information is made anew."""
    return int(row["id"], 16) >= 0x00080000


def profile(**options):
    return Profile(Policy(name="x", edition="y", options=options), FUNDUS)


def test_the_table_is_the_standards(oracle):
    table = confidentiality_table()
    assert len(table) == len(oracle) == 617
    for row in oracle:
        ours = table[int(row["id"], 16)]
        assert ours.basic == row["basicProfile"]
        assert ours.options == {name: row[key] for name, key in OPTIONS.items() if key in row}


def test_every_attribute_of_the_table_is_handled_as_it_says(oracle):
    plain = profile()
    for row in filter(in_data_set, oracle):
        allowed = set().union(*(ACTIONS[code] for code in row["basicProfile"].split("/")))
        assert plain.make_rule(int(row["id"], 16), "").action in allowed


@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "retain_safe_private"])
def test_an_option_changes_the_attributes_that_it_names_and_no_other(oracle, option):
    plain, chosen = profile(), profile(**{option: True})
    for row in filter(in_data_set, oracle):
        tag, code = int(row["id"], 16), row.get(OPTIONS[option])
        rule = chosen.make_rule(tag, "")
        if code is None:
            assert rule == plain.make_rule(tag, "")
        else:
            in_words = option == "retain_patient_characteristics" and rule.action == "clean"
            assert in_words or rule.action in ({"keep"} if code == "K" else {"clean", "shift"})
            assert option in rule.because


@pytest.mark.parametrize(("group", "path"), product([0x0009, 0x0019, 0x5000, 0x501E, 0x6000, 0x601E], ["", "A/B"]))
def test_private_curve_and_overlay_groups_go_at_every_depth(group, path):
    rule = profile().make_rule(group << 16 | 0x3000, path)
    assert rule.action == ("private" if group & 1 else "remove")


@pytest.mark.parametrize("tag", [0x00120099, 0x00080000, 0x00040001])
def test_unknown_attributes_group_lengths_and_commands_go(tag):
    assert profile().make_rule(tag, "").action == "remove"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("DeviceSerialNumber", "3"), ("StationName", "3"), ("PatientID", "2"), ("AcquisitionDateTime", "1")],
)
def test_the_type_of_an_attribute_is_that_of_the_strictest_module(path, kind):
    assert attribute_type(FUNDUS, path) == kind


def test_an_unknown_class_of_object_gets_values_that_fit_any_type():
    unknown = Profile(Policy(name="x", edition="y", options={}), "1.2.3.4")
    assert unknown.make_rule(0x00181000, "").action == "replace"
