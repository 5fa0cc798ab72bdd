"""The manifest of a folder's run: what became of each input, and what was done with each attribute and why."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from qfundus.dicom.deidentify import Handled
from qfundus.dicom.handling import HANDLING_SCHEMA, handling_rows, made_by
from qfundus.dicom.policy import Policy

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
            for row in handling_rows(handling, handled)
        ]
        return pa.Table.from_pylist(rows, HANDLING_SCHEMA)
