"""Put files into the landing bucket, as a hospital's gateway would."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qfundus.hospital.answers import KEY_NAME
from qfundus.settings import Settings
from qfundus.storage import ObjectStore

_THREADS = 8


def land_folder(settings: Settings, folder: Path, report: Callable[[int, int], None]) -> int:
    """Put every file below a folder into the landing bucket, under its path there; return how many.

    The answer key that `qfundus wrap` writes is not the hospital's, and is not landed.

    `report` gets how many files are done, and how many there are.
    """
    store = ObjectStore(settings)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != KEY_NAME)

    def put(file: Path) -> None:
        store.put(settings.landing_bucket, str(file.relative_to(folder)), file.read_bytes())

    with ThreadPoolExecutor(_THREADS) as pool:
        for done, _ in enumerate(pool.map(put, files), 1):
            report(done, len(files))
    return len(files)
