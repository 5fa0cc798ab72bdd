"""What is known of an archive: which photographs of which studies were fetched, by pseudonym."""

from dataclasses import asdict, dataclass, field

import pandas as pd

from qfundus.object_names import ARCHIVE_CURSOR, ARCHIVE_KNOWN
from qfundus.site import Site
from qfundus.storage import from_parquet, to_json, to_parquet

UNSURE = -2  # no count that an archive reports: a study to look at again


@dataclass
class FetchedStudy:
    """A study's fetched photographs; `count` is how many objects the archive said that it holds.

    What is `stale` was named again by the feed and could not be fetched then.
    """

    count: int = UNSURE
    photographs: set[str] = field(default_factory=set[str])
    stale: set[str] = field(default_factory=set[str])


@dataclass(frozen=True)
class Cursor:
    """How far the feed of changes was followed, -1 for never, and on which day the whole archive was last compared."""

    last: int = -1
    compared: str = ""


class FetchedArchive:
    """The photographs fetched so far, by pseudonymous study, and the cursor."""

    def __init__(self, site: Site) -> None:
        self._store = site.store
        self._bucket = site.settings.curated_bucket
        stored = site.store.find(self._bucket, ARCHIVE_KNOWN)
        rows = [] if stored is None else from_parquet(stored).to_dict("records")
        self.studies = {
            str(row["study"]): FetchedStudy(int(row["count"]), set(row["photographs"]), set(row.get("stale", ())))
            for row in rows
        }
        self.cursor = Cursor(**(site.store.find_json(self._bucket, ARCHIVE_CURSOR) or {}))

    def save(self, cursor: Cursor) -> None:
        """Write all of it, the cursor last: what it stands for is known by then."""
        rows = [
            {
                "study": name,
                "count": study.count,
                "photographs": sorted(study.photographs),
                "stale": sorted(study.stale),
            }
            for name, study in sorted(self.studies.items())
        ]
        self._store.put(self._bucket, ARCHIVE_KNOWN, to_parquet(pd.DataFrame(rows)))
        self._store.put(self._bucket, ARCHIVE_CURSOR, to_json(asdict(cursor)))
        self.cursor = cursor
