"""Fetch from the hospital's archive what is new, corrected or gone there, into the landing bucket."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import islice
from typing import Literal

import structlog

from qfundus.errors import Retry, SetupError
from qfundus.ingestion.erasures import write_erasures
from qfundus.ingestion.landing import ARCHIVE, ERASURE, landed_photograph
from qfundus.pacs.dicomweb import Address, Archive, ListedStudy
from qfundus.pacs.fetched import UNSURE, Cursor, FetchedArchive, FetchedStudy
from qfundus.pacs.orthanc import ChangeFeed
from qfundus.security.keys import pseudonymise_uid
from qfundus.site import Site
from qfundus.storage import digest

_log = structlog.get_logger()
_THREADS = 6
_GROUP = 100  # studies between two saves: what a crash costs
_FEW = 10  # photographs that may go in one night, whatever their share
_MANY = 0.05  # the share of all photographs that may go in one night


@dataclass
class Fetched:
    """What one fetch did: photographs landed, named for erasure, failed, and studies looked at."""

    landed: int = 0
    erased: int = 0
    failed: int = 0
    studies: int = 0


def fetch_archive(site: Site, today: date) -> Fetched:
    """Land every photograph that is new or corrected, and a notice that names those that are gone.

    An Orthanc's feed of changes is followed at each call, and the whole archive compared once a day; any other
    archive is compared at each call. A photograph that fails is tried again at the next.

    Raises:
        Retry: if the archive does not answer, or some photographs could not be fetched; the others have landed.
        SetupError: if so much is gone at once that a wrong setting is likelier; nothing is erased then.
    """
    fetch = _Fetch(site)
    due = site.settings.orthanc_url is None or fetch.known.cursor.compared != today.isoformat()
    if site.settings.orthanc_url is not None:
        due = not fetch.follow(ChangeFeed(site.settings)) or due
    if due:
        fetch.compare(today)
    _log.info("Archive fetched", **asdict(fetch.done))
    if any(asdict(fetch.done).values()):
        trail = site.trail
        trail.append("110107", "C", "archive", "Fetched from the archive.", **asdict(fetch.done))
    if fetch.done.failed:
        raise Retry(f"{fetch.done.failed} photographs could not be fetched; {fetch.done.landed} have landed.")
    return fetch.done


class _Fetch:
    def __init__(self, site: Site) -> None:
        self._store, self._key = site.store, site.key
        self._bucket = site.settings.landing_bucket
        self._archive = Archive(site.settings)
        self.known = FetchedArchive(site)
        self.done = Fetched()

    def follow(self, feed: ChangeFeed) -> bool:
        """Land what the feed names; a photograph that it names again may be a correction, and is fetched again.

        Returns whether the feed goes on from where it was followed to; otherwise only comparing finds everything.
        """
        newest, cursor = feed.newest(), self.known.cursor
        if cursor.last < 0 or newest < cursor.last:
            # The first time, or an archive made anew.
            self.known.save(Cursor(newest))
            return False
        for page in feed.since(cursor.last):
            # What fails is stale, and looked for at the next comparison: the feed must not stop at it.
            complete = self._land(page.photographs)
            cursor = replace(cursor, last=page.last, compared=cursor.compared if complete else "")
            self.known.save(cursor)
        return True

    def compare(self, today: date) -> None:
        """Compare all studies of the archive with those known, look into each that differs, and note what is gone."""
        unseen = dict(self.known.studies)
        listed_now: set[str] = set()
        gone: set[str] = set()
        differing = (study for study in self._archive.studies() if self._differs(study, unseen))
        while group := list(islice(differing, _GROUP)):
            for study in group:
                now, before = self._look_into(study)
                listed_now |= now
                gone |= before - now
            self.known.save(self.known.cursor)
        gone = gone.union(*(study.photographs for study in unseen.values())) - listed_now
        self._erase(gone, unseen)
        # What failed is due again at the next call.
        self.known.save(replace(self.known.cursor, compared="" if self.done.failed else today.isoformat()))

    def _differs(self, study: ListedStudy, unseen: dict[str, FetchedStudy]) -> bool:
        known = unseen.pop(pseudonymise_uid(self._key, study.uid), None)
        return known is None or study.count < 0 or known.count != study.count

    def _look_into(self, study: ListedStudy) -> tuple[set[str], set[str]]:
        """Land what is new in a study; return the photographs that it has, and those known of it before."""
        known = self._known(study.uid)
        before = set(known.photographs)
        there = {pseudonymise_uid(self._key, a.instance): a for a in self._archive.photographs(study.uid)}
        wanted = (address for name, address in there.items() if name not in before or name in known.stale)
        complete = self._land(wanted)
        # What is gone stays in doubt until it is erased: the notice may fail, or a person may have to decide.
        known.count = study.count if complete and before <= set(there) else UNSURE
        self.done.studies += 1
        return set(there), before

    def _known(self, study: str) -> FetchedStudy:
        return self.known.studies.setdefault(pseudonymise_uid(self._key, study), FetchedStudy())

    def _land(self, addresses: Iterable[Address]) -> bool:
        """Land photographs; return whether all that are there could be fetched."""
        wanted = list(addresses)
        with ThreadPoolExecutor(_THREADS) as pool:
            landed = list(pool.map(self._land_one, wanted))
        for address, result in zip(wanted, landed, strict=True):
            known = self._known(address.study)
            name = pseudonymise_uid(self._key, address.instance)
            known.stale.discard(name)
            if result == "landed":
                known.photographs.add(name)
            elif result == "failed":
                known.stale.add(name)
                known.count = UNSURE
        self.done.landed += landed.count("landed")
        self.done.failed += landed.count("failed")
        return "failed" not in landed

    def _land_one(self, address: Address) -> Literal["landed", "gone", "failed"]:
        try:
            data = self._archive.retrieve(address)
        except Retry as why:
            _log.warning("Could not fetch a photograph", why=str(why))
            return "failed"
        if data is None:
            return "gone"
        self._store.put(self._bucket, landed_photograph(self._key, address.instance), data)
        return "landed"

    def _erase(self, gone: set[str], unseen: dict[str, FetchedStudy]) -> None:
        everything = sum(len(study.photographs) for study in self.known.studies.values())
        if len(gone) > max(_FEW, _MANY * everything):
            raise SetupError(
                f"The archive no longer lists {len(gone)} of {everything} photographs: nothing was erased. Check "
                "QFUNDUS_DICOMWEB_URL and _MODALITY; if they are meant to go, land a notice of erasure (*.erase.csv)."
            )
        if gone:
            notice = write_erasures(sorted(gone))
            self._store.put(self._bucket, f"{ARCHIVE}{digest(notice)[:16]}{ERASURE}", notice)
        # Forgotten only once the notice has landed.
        for name in unseen:
            del self.known.studies[name]
        for study in self.known.studies.values():
            study.photographs -= gone
            study.stale -= gone
        self.done.erased = len(gone)
