"""Value representations (VR), and what DICOM's data dictionary says of each attribute (PS3.5, PS3.6)."""

from functools import cache

from pydicom._dicom_dict import DicomDictionary
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

_UNBOUNDED = 200_000  # values, where the dictionary sets no limit
LONG_VRS = frozenset(vr.value for vr in EXPLICIT_VR_LENGTH_32)
VRS = {vr.value.encode(): vr.value for vr in STANDARD_VR}
ALLOWED_VRS: dict[int, frozenset[str]] = {
    tag: frozenset(entry[0].split(" or ")) for tag, entry in DicomDictionary.items()
}
DICTIONARY_VRS: dict[int, str] = {tag: entry[0].split(" or ")[0] for tag, entry in DicomDictionary.items()}


@cache
def most_values(tag: int) -> int:
    """Return how many values an attribute may have at most."""
    most = DicomDictionary[tag][1].rsplit("-", maxsplit=1)[-1] if tag in DicomDictionary else ""
    return int(most) if most.isdecimal() else _UNBOUNDED
