"""Files that must not stay: nobody finds them by a name, and they are gone with the process, even a killed one."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_in_memory() -> Generator[Path]:
    """Lend the path of an empty file in memory, for libraries that want a path; it is gone when it is left."""
    number = os.memfd_create("qfundus")
    try:
        yield Path(f"/proc/self/fd/{number}")
    finally:
        os.close(number)
