"""Search every place that could hold a name for the marked words of the planted patients."""

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from qfundus.dicom.burned_in import find_burned_in_text
from qfundus.object_names import object_name
from qfundus.platform.airflow import AirflowClient
from qfundus.registry.versions import described_runs
from qfundus.site import Site

DAGS = ("ingest_fundus", "retrain_nightly", "promote_model", "decide_quarantined", "compare_hardware")
_CHUNK = 8 << 20  # bytes
_THREADS = 8
_GROUP = 256  # objects whose names are in memory at a time
_GRANULARITY = timedelta(seconds=5)  # stores and file systems round what they say of time
_QUEUED = timedelta(days=1)  # a run is dated by when it was queued, and may plant long after that
_NOT_SEARCHED = "seaweedfs"  # chunks are encrypted there, and what lies in them is searched through S3


@dataclass
class SearchedPlace:
    """A place that was searched: how many things were looked at, and where a mark was found, itself left out."""

    name: str
    looked: int = 0
    found: list[str] = field(default_factory=list)


class Search:
    """Looks for marked words in what was written since a moment."""

    def __init__(self, site: Site, words: list[str], since: datetime) -> None:
        self._store, self._settings = site.store, site.settings
        self._since = since - _GRANULARITY
        # Also as UTF-16, as some file formats and databases keep text.
        lower = [word.lower() for word in words]
        self._forms = [form for word in lower for form in (word.encode(), word.encode("utf-16-le"))]
        self._text = re.compile("|".join(words), re.IGNORECASE)
        self._overlap = max(map(len, self._forms))

    def everywhere(self, planted_objects: Iterable[str]) -> list[SearchedPlace]:
        """Search all places; `planted_objects` are the digests of the curated objects of the planted patients."""
        chosen = self._settings
        buckets = {
            "landing": chosen.landing_bucket,
            "curated": chosen.curated_bucket,
            "quarantine": chosen.quarantine_bucket,
            "features": chosen.features_bucket,
            "audit": chosen.audit_bucket,
            "vault": chosen.vault_bucket,
            "models": chosen.models_bucket,
            "mlflow": chosen.mlflow_bucket,
        }
        return [
            *(self._bucket(f"objects in S3: {name}", bucket) for name, bucket in buckets.items() if bucket),
            self._pixels(planted_objects),
            self._airflow(),
            self._mlflow(),
            self._files(),
        ]

    def _bucket(self, name: str, bucket: str) -> SearchedPlace:
        place = SearchedPlace(name)

        def is_marked(name: str) -> bool:
            content = self._store.find(bucket, name) or b""
            return bool(self._text.search(name)) or self._in_content(content)

        written = (found.name for found in self._store.list(bucket) if found.modified >= self._since)
        with ThreadPoolExecutor(_THREADS) as pool:
            while names := list(islice(written, _GROUP)):
                marked = pool.map(is_marked, names)
                place.found += [self._nameless(name) for name, hit in zip(names, marked, strict=True) if hit]
                place.looked += len(names)
        return place

    def _pixels(self, objects: Iterable[str]) -> SearchedPlace:
        place = SearchedPlace("letters in the pixels of the planted photographs")
        for content in objects:
            data = self._store.find(self._settings.curated_bucket, object_name(content))
            if data is None:
                continue
            place.looked += 1
            if find_burned_in_text(io.BytesIO(data)):
                place.found.append(object_name(content))
        return place

    def _airflow(self) -> SearchedPlace:
        place = SearchedPlace("Airflow: runs, notes, parameters, XComs, task logs")
        client = AirflowClient(self._settings)
        for dag in DAGS:
            for run in client.runs_since(dag, (self._since - _QUEUED).isoformat()):
                self._add_texts(place, client.everything_said(dag, run))
        return place

    def _mlflow(self) -> SearchedPlace:
        place = SearchedPlace("MLflow: names, parameters, tags, metrics, versions")
        self._add_texts(place, described_runs(self._settings, self._since))
        return place

    def _files(self) -> SearchedPlace:
        place = SearchedPlace("files of the platform: service logs, databases, feature store, served models")
        home = self._settings.home
        for file in sorted(home.rglob("*")) if home.is_dir() else []:
            inside = file.relative_to(home)
            if inside.parts[0] == _NOT_SEARCHED or not _is_newer(file, self._since):
                continue
            place.looked += 1
            if self._text.search(str(inside)) or self._in_file(file):
                place.found.append(self._nameless(str(inside)))
        return place

    def _add_texts(self, place: SearchedPlace, texts: Iterable[tuple[str, str]]) -> None:
        for where, text in texts:
            place.looked += 1
            if self._text.search(text):
                place.found.append(self._nameless(where))

    def _in_file(self, file: Path) -> bool:
        try:
            if file.suffix in {".parquet", ".npz", ".zip", ".gz"}:
                return self._in_content(file.read_bytes())
            with file.open("rb") as stream:
                tail = b""
                while chunk := stream.read(_CHUNK):
                    if self._in_bytes(tail + chunk):
                        return True
                    tail = chunk[-self._overlap :]
        except OSError:  # a log that was just rotated, a temporary file that is gone
            return False
        return False

    def _in_content(self, data: bytes) -> bool:
        return any(self._in_bytes(content) for content in _unpacked(data))

    def _in_bytes(self, data: bytes) -> bool:
        # Twenty times as fast as a pattern that ignores case: each form is found by a search of its own.
        lower = data.lower()
        return any(form in lower for form in self._forms)

    def _nameless(self, where: str) -> str:
        return self._text.sub("(a planted name)", where)


def _unpacked(data: bytes) -> Iterator[bytes]:
    """Yield an object's bytes, and those within where it is compressed."""
    yield data
    if data[:4] == b"PAR1":
        yield json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str).encode()
    elif data[:2] == b"\x1f\x8b":
        import gzip

        yield gzip.decompress(data)
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield member.encode()
                yield from _unpacked(archive.read(member))


def _is_newer(file: Path, moment: datetime) -> bool:
    try:
        return file.is_file() and not file.is_symlink() and file.stat().st_mtime >= moment.timestamp()
    except OSError:
        return False
