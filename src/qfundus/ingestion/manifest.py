"""The manifest of a run over folders: what became of each input, and what was done with each attribute and why."""

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydicom.datadict import keyword_for_tag

from qfundus import __version__
from qfundus.dicom.deidentify import Handled
from qfundus.dicom.policy import Policy
from qfundus.storage import digest, to_json

_GROUP = 1000  # rows
_OUTCOMES = pa.schema(
    [
        pa.field(name, pa.int64() if name == "redacted" else pa.string())
        for name in (
            *("source", "status", "reason", "detail", "digest_before", "digest_after"),
            *("target", "sop_class", "redacted", "handling"),
        )
    ]
)
_HANDLING = pa.schema(
    [
        pa.field(name, pa.int64() if name in {"elements", "objects"} else pa.string())
        for name in ("handling", "path", "tag", "keyword", "action", "because", "elements", "objects")
    ]
)


@dataclass(frozen=True)
class FileOutcome:
    """What became of one input. `draft` is where the clean file waits, `target` where it belongs below `clean/`."""

    source: str
    status: str  # clean, quarantined, duplicate or ignored
    reason: str = ""
    detail: str = ""
    digest_before: str = ""
    digest_after: str = ""
    sop_class: str = ""
    redacted: int = 0
    draft: str = ""
    target: str = ""
    handling: str = ""
    handled: tuple[Handled, ...] = field(default=(), repr=False)


class ManifestWriter:
    """Writes `manifest.parquet`, a row for each input, and `handling.parquet`, what `handling` in it stands for.

    Objects of one camera are handled alike: the attributes are listed once for each way of handling, with the number
    of objects it was applied to.
    """

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._schema = _OUTCOMES.with_metadata(made_by(policy))
        self._folder = folder
        self._drafts = [folder / "manifest.parquet.draft", folder / "handling.parquet.draft"]
        self._rows: list[dict[str, Any]] = []
        self._handled: dict[str, Counter[Handled]] = {}
        self._objects: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._drafts[0], self._schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()
        if kind is None:
            pq.write_table(self._handling(), self._drafts[1], compression="zstd")
            for draft in self._drafts:
                draft.replace(draft.with_suffix(""))

    def write(self, outcome: FileOutcome) -> None:
        """Add one outcome."""
        self._rows.append({name: getattr(outcome, name) for name in _OUTCOMES.names})
        if outcome.handling:
            self._objects[outcome.handling] += 1
            if outcome.handled:
                self._handled[outcome.handling] = Counter(outcome.handled)
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []

    def _handling(self) -> pa.Table:
        rows = [
            {**row, "objects": self._objects[handling]}
            for handling, handled in self._handled.items()
            for row in _rows_of(handling, handled)
        ]
        return pa.Table.from_pylist(rows, _HANDLING)


def made_by(policy: Policy) -> dict[str, str]:
    """Return which software and which policy made something."""
    return {
        "qfundus": __version__,
        "policy": policy.name,
        "edition": policy.edition,
        # A set has another order in each process.
        "policy_digest": digest(to_json({**policy.model_dump(mode="json"), "words": sorted(policy.words)})),
    }


def name_handling(handled: tuple[Handled, ...], policy_digest: str = "") -> str:
    """Name a way of handling attributes by its content, and by the policy where several meet."""
    return digest((repr(handled) + policy_digest).encode())[:16]


def write_handling(handling: str, handled: tuple[Handled, ...], policy: Policy) -> bytes:
    """Write what a way of handling stands for, attribute by attribute, as Parquet; its metadata name the policy."""
    schema = _HANDLING.remove(_HANDLING.get_field_index("objects")).with_metadata(made_by(policy))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_rows_of(handling, Counter(handled)), schema), buffer, compression="zstd")
    return buffer.getvalue()


def _rows_of(handling: str, handled: Counter[Handled]) -> list[dict[str, Any]]:
    return [
        {
            "handling": handling,
            "path": path,
            "tag": f"{tag:08x}",
            "keyword": keyword_for_tag(tag),
            "action": action,
            "because": because,
            "elements": elements,
        }
        for (path, tag, action, because), elements in handled.items()
    ]
