"""Put files into the landing bucket, as a hospital's gateway would."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qfundus.settings import Settings
from qfundus.storage import ObjectStore

_THREADS = 8


def land_folder(settings: Settings, folder: Path, report: Callable[[int, int], None]) -> int:
    """Put every DICOM file and grading sheet of a folder into the landing bucket; return how many.

    `report` is told how many of how many are done.
    """
    store = ObjectStore(settings)
    files = sorted(file for file in folder.iterdir() if file.suffix in {".dcm", ".csv"})

    def put(file: Path) -> None:
        store.put(settings.landing_bucket, file.name, file.read_bytes())

    with ThreadPoolExecutor(_THREADS) as pool:
        for done, _ in enumerate(pool.map(put, files), 1):
            report(done, len(files))
    return len(files)
