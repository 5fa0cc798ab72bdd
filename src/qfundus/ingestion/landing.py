"""The landing bucket: what a hospital sent, named by pseudonym from here on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from qfundus.dicom.photograph import SIDECAR, is_photograph
from qfundus.object_names import landed_name
from qfundus.security.keys import SiteKey, pseudonymise_source, pseudonymise_uid
from qfundus.site import Site
from qfundus.storage import StoredObject, to_json

_THREADS = 8
ARCHIVE = "archive/"  # where what the hospital's picture archive sent lands
ERASURE = ".erase.csv"


@dataclass(frozen=True)
class LandedObject:
    """One landed object. Its `name` may hold a person's and never leaves this process; `source` stands for it.

    Of one that was `released` from quarantine a person has seen that no text is in its pixels. One that `corrects` may
    take the place of an image that came before it: the archive's word is the last.
    """

    name: str = field(repr=False)
    etag: str
    source: str
    landed_at: datetime
    size: int = 0
    planted: bool = False
    released: bool = False
    corrects: bool = False

    @property
    def is_sheet(self) -> bool:
        """Whether this is a grading sheet, by its name's ending."""
        return is_sheet(self.name)

    @property
    def is_photograph(self) -> bool:
        """Whether this is a plain photograph, by its name's ending."""
        return is_photograph(self.name)

    @property
    def is_sidecar(self) -> bool:
        """Whether this says of a plain photograph what a DICOM header would, by its name's ending."""
        return self.name.lower().endswith(SIDECAR)

    @property
    def is_image(self) -> bool:
        """Whether this is to become one curated object: anything that is nothing else."""
        return not (self.is_sheet or self.is_erasure or self.is_sidecar or self.is_archive)

    @property
    def is_erasure(self) -> bool:
        """Whether this names images to erase, by its name's ending."""
        return is_erasure(self.name)

    @property
    def is_archive(self) -> bool:
        """Whether this is a zip file, by its name's ending."""
        return self.name.lower().endswith(".zip")


def is_sheet(name: str) -> bool:
    """Return whether a name is a grading sheet's."""
    return name.lower().endswith(".csv") and not is_erasure(name)


def is_erasure(name: str) -> bool:
    """Return whether a name is a notice of erasure's."""
    return name.lower().endswith(ERASURE)


def landed_photograph(key: SiteKey, uid: str) -> str:
    """Name a photograph that the archive sent by its pseudonym: a later one of the same UID takes its place."""
    return f"{ARCHIVE}{pseudonymise_uid(key, uid)}.dcm"


def planted_prefix(key: SiteKey) -> str:
    """Name where invented patients land: nobody without the key can take a photograph for one of them."""
    return f"planted-{key.mac('plant', '')[:8].hex()}/"


def released_prefix(key: SiteKey) -> str:
    """Name where released photographs land: nobody without the key can pass one off as looked at."""
    return f"released-{key.mac('plant', 'released')[:8].hex()}/"


def list_landed(site: Site) -> list[LandedObject]:
    """List what has landed; an object sent again under its name with other bytes counts as another."""
    planted, released = planted_prefix(site.key), released_prefix(site.key)
    return [
        LandedObject(
            stored.name,
            stored.etag,
            pseudonymise_source(site.key, f"{stored.name}\x00{stored.etag}"),
            stored.modified,
            stored.size,
            planted=stored.name.startswith(planted),
            released=stored.name.startswith(released),
            corrects=stored.name.removeprefix(released).startswith(ARCHIVE),
        )
        for stored in site.store.list(site.settings.landing_bucket)
    ]


def fix_landed(site: Site, run: str) -> tuple[list[LandedObject], list[str]]:
    """Fix what a run is to account for: what has landed at its first try, whatever arrives later.

    Returns the objects, and the sources of those that somebody took away since the first try.
    """
    landed = list_landed(site)
    name = landed_name(run)
    site.store.put_if_absent(site.settings.curated_bucket, name, to_json(sorted(item.source for item in landed)))
    fixed = set(site.store.find_json(site.settings.curated_bucket, name))
    present = [item for item in landed if item.source in fixed]
    return present, sorted(fixed - {item.source for item in present})


def clear_landed(site: Site, sources: set[str]) -> int:
    """Delete the landed objects that are accounted for; return how many there were.

    One that is sent again under its name in the meantime stays: it is another object, and its run is the next.
    """
    bucket = site.settings.landing_bucket

    def clear(stored: StoredObject) -> bool:
        source = pseudonymise_source(site.key, f"{stored.name}\x00{stored.etag}")
        return source in sources and site.store.delete_unchanged(bucket, stored)

    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(clear, site.store.list(bucket)))
