"""What lands beside images: a grading sheet or a notice of erasure."""

from dataclasses import dataclass, field
from datetime import datetime

from qfundus.ingestion.curation import Curation


@dataclass(frozen=True)
class Document:
    """A sheet or a notice: landed by itself, or `part_of` a zip file that held its `data`."""

    source: str
    name: str = field(repr=False)
    landed_at: datetime
    part_of: str = ""
    data: bytes | None = field(default=None, repr=False)

    def read(self, curation: Curation) -> bytes | None:
        """Return the content, None where somebody took it away."""
        return self.data if self.part_of else curation.site.store.find(curation.site.settings.landing_bucket, self.name)
