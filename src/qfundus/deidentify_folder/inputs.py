"""What lies in a folder or a zip file: each plain file and each zip member, one after the other."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from qfundus.dicom.photograph import is_photograph, sidecar_of
from qfundus.dicom.recognise import NEVER_IMAGES
from qfundus.errors import Discard
from qfundus.ingestion.zip_members import SMALL, find_member, read_member


@dataclass(frozen=True)
class Input:
    """A plain file, or a member of a zip file. Its `name` may hold a person's and never goes into a log."""

    name: str = field(repr=False)
    path: Path = field(repr=False)
    member: int = -1

    def read(self) -> bytes | mmap:
        """Return the content; a large plain file is mapped, not read.

        Raises:
            Discard: if it cannot be read, or a zip member is too large for what it is.
        """
        if self.member >= 0:
            return read_member(_archive(self.path), self.member)
        try:
            with open(self.path, "rb", opener=_open_plain) as stream:
                if os.fstat(stream.fileno()).st_size <= SMALL:
                    return stream.read()
                return mmap(stream.fileno(), 0, access=ACCESS_READ)
        except OSError as error:
            raise Discard("unreadable_file", f"It cannot be opened ({type(error).__name__}).") from None

    @property
    def is_plain(self) -> bool:
        """Whether this is a file's own content: no symbolic link, pipe or device."""
        return self.member >= 0 or _is_plain(self.path)

    def stamp(self) -> str:
        """Return what changes when the content does: size and time of change, of a zip member also its checksum."""
        try:
            stat = self.path.lstat()
        except OSError:
            return ""
        stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        if self.member >= 0:
            return f"{stamp} {_archive(self.path).infolist()[self.member].CRC}"
        if is_photograph(self.name):  # what it shows is said beside it
            with suppress(OSError):
                beside = Path(sidecar_of(str(self.path))).lstat()
                return f"{stamp} {beside.st_size} {beside.st_mtime_ns}"
        return stamp

    def read_sidecar(self) -> bytes | None:
        """Return what lies beside a plain photograph and says what it shows, or None."""
        if self.member < 0:
            beside = Path(sidecar_of(str(self.path)))
            return beside.read_bytes() if beside.is_file() and not beside.is_symlink() else None
        archive = _archive(self.path)
        return find_member(archive, sidecar_of(archive.infolist()[self.member].filename))


def find_inputs(source: Path) -> Iterator[Input]:
    """Yield what lies below a folder or in a zip file, in the order of names.

    Symbolic links are not followed; they, and folders that cannot be read, are yielded themselves.
    """
    if source.is_file():
        yield from _inputs_of(source.resolve(), source.name)
        return
    hidden: list[Path] = []
    for folder, folders, files in os.walk(source, onerror=lambda error: hidden.append(Path(str(error.filename)))):
        folders.sort()
        links = (path for name in folders if (path := Path(folder, name)).is_symlink())
        for path in (*links, *hidden):
            yield Input(str(path.relative_to(source)), path)
        hidden.clear()
        for name in sorted(files):
            path = Path(folder, name)
            yield from _inputs_of(path, str(path.relative_to(source)))
    for path in hidden:
        yield Input(str(path.relative_to(source)), path)


def _inputs_of(path: Path, name: str) -> Iterator[Input]:
    if not _is_archive(path):
        yield Input(name, path)
        return
    try:
        members = _archive(path).infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        yield Input(name, path)
        return
    seen: set[str] = set()
    for number, member in enumerate(members):
        if not member.is_dir():
            again = f"#{number}" if member.filename in seen else ""  # a name may stand twice, each for another file
            seen.add(member.filename)
            yield Input(f"{name}/{member.filename}{again}", path, number)


def _is_archive(path: Path) -> bool:
    # What lies behind a photograph may look like a zip file, and office documents are zip files.
    if not _is_plain(path) or path.suffix.lower() in NEVER_IMAGES:
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] != b"DICM" and zipfile.is_zipfile(stream)
    except OSError:
        return False


def _is_plain(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
        return S_ISREG(mode) or S_ISDIR(mode)  # a folder is yielded only where it cannot be read
    except OSError:
        return True  # it is gone, or hidden: who reads it hears so


def _open_plain(path: str, flags: int) -> int:
    # Whatever a name has become since it was looked at: no link is followed, and no pipe waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@lru_cache(maxsize=4)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
