"""A folder of checkpoints, as those who start trainings see it: this module loads nothing of PyTorch's."""

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qfundus.classical.storage_folder import open_folder

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

GRACE = 20.0  # seconds in which a training that is ended may write its last checkpoint: a pod has thirty
_NAME = re.compile(r"\d{5}-\d{6}")  # a position's: whatever else lies beside checkpoints is somebody's own


def forget_checkpoints(address: str) -> None:
    """Delete the checkpoints in a folder, and the folder where nothing else is in it."""
    fs, root = open_folder(address)
    fs.invalidate_cache()
    if not fs.exists(root):
        return
    for name in list_checkpoints(fs, root):
        fs.rm(f"{root}/{name}", recursive=True)
    if "://" not in address:  # S3 has no folders
        with suppress(OSError):
            Path(root).rmdir()


def list_checkpoints(fs: "AbstractFileSystem", root: str) -> list[str]:
    """List what in a folder has a checkpoint's name, whether it counts or not."""
    names = [str(entry).rstrip("/").rpartition("/")[2] for entry in fs.ls(root, detail=False)]
    return [name for name in names if _NAME.fullmatch(name)]
