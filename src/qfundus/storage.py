"""Objects in S3, or in a folder: created only if absent, read whole, listed in order; and manifests as Parquet."""

import hashlib
import io
import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from qfundus.errors import Retry
from qfundus.settings import Settings

_NOT_THERE = "An object that should be in bucket {} is not there."
_MOST_DELETED = 1000  # S3's limit for one request


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of an object."""

    name: str
    etag: str
    size: int
    modified: datetime


class Store(Protocol):
    """What holds objects by name in buckets, one after the other in the order of their names."""

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Store an object unless its name is taken; return whether this call created it."""
        ...

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store an object over whatever has its name."""
        ...

    def list(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Yield the objects below a prefix whose names come after `after`, in the order of their names."""
        ...

    def find_json(self, bucket: str, name: str) -> Any:
        """Read a JSON object, or return None if none has that name."""
        ...


class FolderStore:
    """A store in a folder, a subfolder for each bucket: for work without any server."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Store an object unless its name is taken; return whether this call created it."""
        draft = self._draft(bucket, name, data)
        try:
            os.link(draft, self._root / bucket / name)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store an object over whatever has its name."""
        self._draft(bucket, name, data).replace(self._root / bucket / name)

    def list(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Yield the objects below a prefix whose names come after `after`, in the order of their names."""
        folder = self._root / bucket
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            name, stat = str(file.relative_to(folder)), file.stat()
            if name.startswith(prefix) and name > after:
                yield StoredObject(name, "", stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def find_json(self, bucket: str, name: str) -> Any:
        """Read a JSON object, or return None if none has that name."""
        file = self._root / bucket / name
        return json.loads(file.read_bytes()) if file.is_file() else None

    def _draft(self, bucket: str, name: str, data: bytes) -> Path:
        place = self._root / bucket / name
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}.{os.getpid()}")
        draft.write_bytes(data)
        return draft


class ObjectStore:
    """One S3 store; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            aws_access_key_id=settings.s3_access_key,
            aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
            region_name=settings.s3_region,
            config=Config(
                retries={"mode": "standard", "max_attempts": 4},
                max_pool_connections=32,
                s3={"addressing_style": "path"},
            ),
        )

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket unless it exists."""
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError:
            self._client.create_bucket(Bucket=bucket)

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Store an object unless its name is taken; return whether this call created it."""
        with _nameless_errors(bucket):
            try:
                self._client.put_object(Bucket=bucket, Key=name, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in {"PreconditionFailed", "412"}:
                    return False
                raise
        return True

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store an object over whatever has its name."""
        with _nameless_errors(bucket):
            self._client.put_object(Bucket=bucket, Key=name, Body=data)

    def get(self, bucket: str, name: str) -> bytes:
        """Read an object whole.

        Raises:
            LookupError: if none has that name.
        """
        stored = self.find(bucket, name)
        if stored is None:
            raise LookupError(_NOT_THERE.format(bucket))
        return stored

    def find(self, bucket: str, name: str) -> bytes | None:
        """Read an object whole, or return None if none has that name."""
        with _nameless_errors(bucket):
            try:
                return self._client.get_object(Bucket=bucket, Key=name)["Body"].read()
            except ClientError as error:
                if _code(error) in {"NoSuchKey", "404"}:
                    return None
                raise

    def stream(self, bucket: str, name: str, part: int) -> Iterator[bytes]:
        """Yield an object in parts of so many bytes.

        Raises:
            LookupError: if none has that name.
        """
        with _nameless_errors(bucket):
            try:
                body = self._client.get_object(Bucket=bucket, Key=name)["Body"]
            except ClientError as error:
                if _code(error) in {"NoSuchKey", "404"}:
                    raise LookupError(_NOT_THERE.format(bucket)) from None
                raise
            with closing(body):
                while data := body.read(part):
                    yield data

    def put_stream(self, bucket: str, name: str, stream: IO[bytes]) -> None:
        """Store what a stream yields over whatever has its name, in parts where it is much."""
        with _nameless_errors(bucket):
            self._client.upload_fileobj(stream, bucket, name)

    def list(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Yield the objects below a prefix whose names come after `after`, in the order of their names."""
        listing = self._client.get_paginator("list_objects_v2")
        with _nameless_errors(bucket):
            for page in listing.paginate(Bucket=bucket, Prefix=prefix, StartAfter=after):
                for entry in page.get("Contents", ()):
                    yield StoredObject(entry["Key"], entry["ETag"].strip('"'), entry["Size"], entry["LastModified"])

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object; a missing one is not an error."""
        with _nameless_errors(bucket):
            self._client.delete_object(Bucket=bucket, Key=name)

    def delete_unchanged(self, bucket: str, stored: StoredObject) -> bool:
        """Delete an object that is still the one that was listed; return whether it was."""
        with _nameless_errors(bucket):
            try:
                self._client.delete_object(Bucket=bucket, Key=stored.name, IfMatch=stored.etag)
            except ClientError as error:
                if _code(error) in {"PreconditionFailed", "NoSuchKey"}:
                    return False
                raise
        return True

    def delete_all(self, bucket: str, names: Sequence[str]) -> None:
        """Remove many objects, a thousand a request; missing ones are not an error.

        Raises:
            Retry: if the store kept some of them.
        """
        for first in range(0, len(names), _MOST_DELETED):
            doomed = [{"Key": name} for name in names[first : first + _MOST_DELETED]]
            with _nameless_errors(bucket):
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": doomed, "Quiet": True})
            if answer.get("Errors"):
                raise Retry(f"The object store kept {len(answer['Errors'])} objects of bucket {bucket}.")

    def find_json(self, bucket: str, name: str) -> Any:
        """Read a JSON object, or return None if none has that name."""
        stored = self.find(bucket, name)
        return None if stored is None else json.loads(stored)


def digest(data: bytes) -> str:
    """Name bytes by their content: SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def to_parquet(table: pd.DataFrame, metadata: dict[str, str] | None = None) -> bytes:
    """Write a table as Parquet, what is `said` of the whole of it among the file's metadata."""
    written = pa.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(written.replace_schema_metadata({**(written.schema.metadata or {}), **(metadata or {})}), buffer)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pd.DataFrame:
    """Read a table from Parquet."""
    return pd.read_parquet(io.BytesIO(data))


def to_json(value: Any) -> bytes:
    """Write JSON with sorted keys, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1).encode()


@contextmanager
def _nameless_errors(bucket: str) -> Generator[None]:
    """Turn the client's errors into ones that name the bucket alone: a landed object's name may hold a person's."""
    try:
        yield
    except ClientError as error:
        raise Retry(f"The object store refused a request to bucket {bucket}: {_code(error)}.") from None
    except (Boto3Error, BotoCoreError, HTTPClientError) as error:
        raise Retry(f"The object store did not answer for bucket {bucket}: {type(error).__name__}.") from None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
