"""A folder on this machine or in S3, by its address."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from qfundus.errors import SetupError
from qfundus.settings import fsspec_options

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@dataclass(frozen=True)
class StorageFolder:
    """A folder that files are read from and written to alike, wherever it lies."""

    address: str

    @property
    def remote(self) -> bool:
        """Whether it lies in S3."""
        return "://" in self.address

    def read(self, name: str) -> bytes:
        """Return a file's content, b'' if it does not exist."""
        fs, root = self._opened
        try:
            return cast("bytes", fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return b""

    def write(self, name: str, content: bytes) -> None:
        """Write a file; it is there whole or not at all."""
        fs, root = self._opened
        if self.remote:
            fs.pipe_file(f"{root}/{name}", content)
            return
        draft = Path(root) / f".{name}.new"
        draft.write_bytes(content)
        draft.replace(Path(root) / name)

    def append(self, name: str, text: str) -> None:
        """Add to a file's end."""
        fs, root = self._opened
        if self.remote:  # objects cannot be appended to
            fs.pipe_file(f"{root}/{name}", self.read(name) + text.encode())
            return
        with (Path(root) / name).open("a") as file:
            file.write(text)

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        fs, root = self._opened
        fs.invalidate_cache()
        return fs.exists(f"{root}/{name}")

    @cached_property
    def _opened(self) -> "tuple[AbstractFileSystem, str]":
        return open_folder(self.address)


def open_folder(address: str) -> "tuple[AbstractFileSystem, str]":
    """Open a folder's file system; return it and the folder's path there.

    Raises:
        SetupError: if the address is neither a path on this machine nor in S3.
    """
    import fsspec

    if "://" in address and not address.startswith("s3://"):
        raise SetupError(
            f"{address} cannot be opened: give a path on this machine, or an address that begins with s3://."
        )
    fs, root = fsspec.core.url_to_fs(address, **fsspec_options(address))
    if "://" not in address:
        Path(address).mkdir(parents=True, exist_ok=True)
    return fs, root


def delete_folder(address: str) -> None:
    """Delete a folder with all that is in it, if it is there."""
    fs, root = open_folder(address)
    fs.invalidate_cache()
    if fs.exists(root):
        fs.rm(root, recursive=True)
