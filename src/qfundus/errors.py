"""Errors by their consequence: discard the item, try again later, or stop because it is a bug."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

ReasonCode = Literal[
    "not_dicom",
    "unreadable_file",
    "decoder_crashed",
    "truncated",
    "wrong_sop_class",
    "no_pixels",
    "encapsulated_document",
    "unsupported_transfer_syntax",
    "too_large",
    "unreadable_pixels",
    "several_frames",
    "missing_uid",
    "missing_patient_id",
    "missing_laterality",
    "unreadable_header",
    "conflicting_instance",
    "burned_in_text",
    "image_too_small",
    "no_fundus_disc",
    "unreadable_erasure",
    "unreadable_sidecar",
    "sidecar_without_photograph",
    "unreadable_sheet",
    "grade_out_of_range",
    "grade_without_image",
    "unreadable_grade_row",
]

REMEDIES: dict[ReasonCode, str] = {
    "not_dicom": "Send DICOM Part 10 files, photographs (.jpg, .png, .tif), or grading sheets (.csv).",
    "unreadable_file": "Check the file and its permissions; pack the archive again.",
    "decoder_crashed": "Export the image again from the viewer: its compressed stream is broken.",
    "truncated": "Send the file again: its end is missing.",
    "wrong_sop_class": "Send Ophthalmic Photography 8 Bit images only; check the modality's export filter.",
    "no_pixels": "Send the image itself, not a header or a report.",
    "encapsulated_document": "Send the images; documents have to be de-identified by hand.",
    "unsupported_transfer_syntax": "Export uncompressed, or as JPEG, JPEG-LS, JPEG 2000 or RLE: video stays out.",
    "too_large": "Split the object or export fewer frames; if it should be small, the file is corrupt or malicious.",
    "unreadable_pixels": "Export as JPEG baseline or uncompressed RGB; check the file in a viewer.",
    "several_frames": "Export each frame as an image of its own, or use `qfundus deidentify`: an eye is graded on one.",
    "missing_uid": "Repair the SOP, study or series instance UID at the source.",
    "missing_patient_id": "Add the patient ID at the source: without it an eye cannot be kept in one split.",
    "missing_laterality": "Add the image laterality (R or L) at the source.",
    "unreadable_header": "Check the header with a validator such as dciodvfy; export the file again.",
    "conflicting_instance": "Drop this one, or release it to let it take the place of the one that came first.",
    "burned_in_text": "Export the photograph without overlay text; or look at it, and release it if it shows no text.",
    "image_too_small": "Send the full-size photograph, not a thumbnail.",
    "no_fundus_disc": "Check the photograph: no lit fundus was found in it.",
    "unreadable_erasure": "Save the notice as UTF-8 CSV with the column SOPInstanceUID.",
    "unreadable_sidecar": "Write a JSON object of DICOM keywords with PatientID and ImageLaterality.",
    "sidecar_without_photograph": "Send the photograph, under the same name with its own ending, then release this.",
    "unreadable_sheet": "Save the sheet as UTF-8 CSV with the columns SOPInstanceUID, grade, grader, date.",
    "grade_out_of_range": "Grade on the ICDR scale 0-4 and send the row again.",
    "grade_without_image": "Send the image, then release the row.",
    "unreadable_grade_row": "Fill SOPInstanceUID, grade (0-4), grader and date (YYYY-MM-DD) and send the row again.",
}


@dataclass(eq=False)  # not frozen: an exception gets its traceback and cause after it is made
class Discard(Exception):  # noqa: N818  (named for its consequence)
    """This one item is unusable: put it into quarantine with its reason and go on.

    `detail` must never hold an attribute's value: it is logged and stored in the clear.
    """

    reason: ReasonCode
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail} {self.remedy}"

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        return REMEDIES[self.reason]


class Retry(Exception):  # noqa: N818  (named for its consequence)
    """A service did not answer: the same call may succeed later."""


class AccountError(Exception):
    """The outcomes of a run do not match what had landed: something was lost or counted twice."""


class LeakError(Exception):
    """A planted patient's name was found where no name may be."""


class NightError(Exception):
    """A DAG run failed; the message holds the task's name, its log's last lines and the remedy."""


class SetupError(Exception):
    """Something outside the code is missing or misplaced; the message names the remedy."""


class TrainingError(Exception):
    """A training cannot go on; the message says where it stopped, what is kept, and the remedy."""


def suggest(name: str, names: Iterable[str]) -> str:
    """Return the nearest of some names as a question to end an error message with, '' if none is near."""
    by_lower = {known.lower(): known for known in names}
    close = get_close_matches(name.lower(), list(by_lower), n=1)
    return f" Did you mean {by_lower[close[0]]}?" if close else ""
