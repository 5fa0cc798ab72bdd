"""Recognise what is certainly not an image, so that it may be passed over."""

from mmap import mmap
from pathlib import Path

NEVER_IMAGES = frozenset(
    {
        ".csv",
        ".htm",
        ".html",
        ".ini",
        ".inf",
        ".json",
        ".md",
        ".log",
        ".parquet",
        ".pdf",
        ".txt",
        ".xml",
        ".yaml",
        ".yml",
    }
    | {".exe", ".dll", ".jar", ".css", ".js", ".ico", ".py", ".db", ".bat", ".tsv", ".doc", ".docx", ".xls", ".xlsx"}
)
_DIRECTORY_CLASS = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"  # the media storage SOP class of a DICOMDIR


def is_no_image(name: str, data: bytes | mmap) -> bool:
    """Return whether something is not an image at all and may be passed over: a readme, a DICOMDIR, an empty file."""
    if not data:
        return True
    if data[128:132] == b"DICM":
        return _DIRECTORY_CLASS in data[132:400]
    return Path(name).suffix.lower() in NEVER_IMAGES or Path(name).name.upper() in {"README", "LICENSE", "DICOMDIR"}
