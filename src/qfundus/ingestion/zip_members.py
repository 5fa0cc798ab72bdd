"""Read the members of zip files, which may be hostile."""

import zipfile

from qfundus.errors import Discard

_LARGEST_MEMBER = 4 << 30  # bytes
_MOST_INFLATED = 200  # times; photographs do not compress, and no header compresses so well
SMALL = 1 << 20  # bytes up to which compression is not looked at, and a file is read rather than mapped


def find_member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """Return the member of a zip file that has a name, or None.

    Raises:
        Discard: if it cannot be read.
    """
    member = archive.NameToInfo.get(name)
    return None if member is None else _read(archive, member)


def read_member(archive: zipfile.ZipFile, number: int) -> bytes:
    """Return a member of a zip file, by its place in the directory.

    Raises:
        Discard: if it cannot be read, or is too large for what it is.
    """
    return _read(archive, archive.infolist()[number])


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    size = member.file_size
    if size > _LARGEST_MEMBER or (size > SMALL and size > _MOST_INFLATED * max(1, member.compress_size)):
        raise Discard("too_large", "A zip member inflates to more than the limit.")
    try:
        with archive.open(member) as stream:
            data = stream.read(size + 1)
    except Exception as error:  # noqa: BLE001  (a broken archive may raise anything; its message may quote names)
        raise Discard("unreadable_file", f"The zip member cannot be read ({type(error).__name__}).") from None
    if len(data) != size:
        raise Discard("too_large", "A zip member is larger than its directory says.")
    return data
