"""Orthanc's feed of changes: what came or was overwritten since a number, without asking for the rest."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qfundus.errors import SetupError
from qfundus.pacs.dicomweb import Address, nameless_errors, open_session
from qfundus.settings import Settings

_PAGE = 1000


@dataclass(frozen=True)
class Changes:
    """A page of changes: the photographs that came, and the number to ask from next time."""

    photographs: list[Address]
    last: int


class ChangeFeed:
    """The feed of one Orthanc."""

    def __init__(self, settings: Settings) -> None:
        if settings.orthanc_url is None:
            raise SetupError("No Orthanc is configured: set QFUNDUS_ORTHANC_URL.")
        self._url = settings.orthanc_url.rstrip("/")
        self._modality = settings.dicomweb_modality
        self._session = open_session(settings)

    def since(self, last: int) -> Iterator[Changes]:
        """Yield pages of changes after a number, which is exclusive; numbers may be missing in between.

        Raises:
            Retry: if Orthanc does not answer as it should.
        """
        while True:
            with nameless_errors():
                page = self._get("/changes", since=last, limit=_PAGE)
                came = [c["ID"] for c in page["Changes"] if c["ChangeType"] == "NewInstance"]
                last = int(page["Last"])
                done = bool(page["Done"]) or not page["Changes"]
            # An object that came twice is fetched once, and one that is gone again not at all.
            addresses = [self._address(resource) for resource in dict.fromkeys(came)]
            yield Changes([address for address in addresses if address is not None], last)
            if done:
                return

    def newest(self) -> int:
        """Return the number of the newest change."""
        with nameless_errors():
            return int(self._session.get(f"{self._url}/changes?last").json()["Last"])

    def _address(self, resource: str) -> Address | None:
        with nameless_errors():
            answer = self._session.get(f"{self._url}/instances/{resource}/simplified-tags")
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            tags = answer.json()
            if self._modality and tags.get("Modality") != self._modality:
                return None
            return Address(tags["StudyInstanceUID"], tags["SeriesInstanceUID"], tags["SOPInstanceUID"])

    def _get(self, path: str, **parameters: int) -> Any:
        answer = self._session.get(self._url + path, params=parameters)
        answer.raise_for_status()
        return answer.json()
