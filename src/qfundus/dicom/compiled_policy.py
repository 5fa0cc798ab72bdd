"""A de-identification policy made ready to apply: its rules for each SOP class, and what it states in each object."""

from functools import cache

from pydicom._uid_dict import UID_dictionary

from qfundus import __version__
from qfundus.dicom.encoding import Syntax, encode, encode_items
from qfundus.dicom.policy import OPTION_CODES, Policy
from qfundus.dicom.profile import Profile
from qfundus.dicom.tags import CODE_MEANING, CODE_VALUE, CODING_SCHEME

_BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")


class CompiledPolicy:
    """A policy with the rules that it has led to so far, for each SOP class."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._profiles: dict[str, Profile] = {}

    def profile(self, sop_class: str) -> Profile:
        """Return the rules for a SOP class."""
        known = sop_class if sop_class in UID_dictionary else ""  # what files claim is without end
        if known not in self._profiles:
            self._profiles[known] = Profile(self.policy, known)
        return self._profiles[known]

    @cache  # noqa: B019  (a process has one policy or two)
    def statements(self, syntax: Syntax) -> tuple[tuple[int, bytes], ...]:
        """Return what an object says of its own de-identification, ready to write (PS3.15 E.1.1, PS3.16 CID 7050)."""
        options = self.policy.options
        times = "MODIFIED" if options.retain_modified_dates else "REMOVED"
        codes = [
            b"".join(
                encode(tag, vr, text.encode(), syntax)
                for tag, vr, text in (
                    (CODE_VALUE, "SH", code),
                    (CODING_SCHEME, "SH", "DCM"),
                    (CODE_MEANING, "LO", meaning),
                )
            )
            for code, meaning in (_BASIC_PROFILE, *(OPTION_CODES[name] for name in options.chosen))
        ]
        method = f"qfundus {__version__}, {self.policy.name}, {self.policy.edition}"[:64]
        texts = [
            (0x00120062, "CS", "YES"),
            (0x00120063, "LO", method),
            (0x00280301, "CS", "NO" if options.clean_pixel_data else ""),
            (0x00280303, "CS", "UNMODIFIED" if options.retain_full_dates else times),
        ]
        statements = [(tag, encode(tag, vr, text.encode(), syntax)) for tag, vr, text in texts if text]
        return (*statements, (0x00120064, encode_items(0x00120064, codes, syntax)))
