"""How each attribute of an object was handled, and why, as a table; objects of one camera share it."""

import io
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydicom.datadict import keyword_for_tag

from qfundus import __version__
from qfundus.dicom.deidentify import Handled
from qfundus.dicom.policy import Policy
from qfundus.storage import digest, to_json

HANDLING_SCHEMA = pa.schema(
    [
        pa.field(name, pa.int64() if name in {"elements", "objects"} else pa.string())
        for name in ("handling", "path", "tag", "keyword", "action", "because", "elements", "objects")
    ]
)


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
    schema = HANDLING_SCHEMA.remove(HANDLING_SCHEMA.get_field_index("objects")).with_metadata(made_by(policy))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(handling_rows(handling, Counter(handled)), schema), buffer, compression="zstd")
    return buffer.getvalue()


def handling_rows(handling: str, handled: Counter[Handled]) -> list[dict[str, Any]]:
    """Return the rows of the table, one for each attribute and action."""
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
