"""A picture archive over DICOMweb (PS3.18): which photographs it holds, and each as it lies there."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from requests.adapters import HTTPAdapter
from requests_toolbelt import MultipartDecoder
from urllib3.util import Retry as Attempts

from qfundus.errors import Retry, SetupError
from qfundus.settings import Settings

_PAGE = 1000
_TIMEOUT = 60  # seconds without a byte
_PATIENT = "00100020"
_STUDY, _SERIES, _INSTANCE, _COUNT = "0020000D", "0020000E", "00080018", "00201208"


@dataclass(frozen=True)
class Address:
    """Where an object lies in an archive. Its UIDs identify a person's visit and stay out of every log."""

    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)


@dataclass(frozen=True)
class ListedStudy:
    """A study that an archive lists; `count` is how many objects it says the study holds, -1 where it says nothing."""

    uid: str = field(repr=False)
    count: int


class Archive:
    """One archive; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        if settings.dicomweb_url is None:
            raise SetupError("No archive is configured: set QFUNDUS_DICOMWEB_URL.")
        self._url = settings.dicomweb_url.rstrip("/")
        self._modality = settings.dicomweb_modality
        self._session = open_session(settings)

    def studies(self) -> list[ListedStudy]:
        """Return every study with a photograph (QIDO-RS)."""
        wanted = {"ModalitiesInStudy": self._modality}

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_studies(
                fields=["NumberOfStudyRelatedInstances"], search_filters=wanted, limit=_PAGE, offset=offset
            )

        # A study with two patient IDs is listed twice.
        counts: dict[str, int] = {}
        for study in _pages(page, _STUDY, _PATIENT):
            uid, count = str(_value(study, _STUDY)), _value(study, _COUNT)
            counts[uid] = -1 if count is None else counts.get(uid, 0) + int(count)
        return [ListedStudy(uid, count) for uid, count in counts.items()]

    def photographs(self, study: str) -> list[Address]:
        """Return where a study's photographs lie (QIDO-RS)."""
        wanted = {"Modality": self._modality}

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_instances(
                study_instance_uid=study, search_filters=wanted, limit=_PAGE, offset=offset
            )

        return [Address(study, str(_value(f, _SERIES)), str(_value(f, _INSTANCE))) for f in _pages(page, _INSTANCE)]

    def retrieve(self, address: Address) -> bytes | None:
        """Return an object as it lies in the archive (WADO-RS), or None where it is gone.

        Raises:
            Retry: if the archive does not answer as it should.
        """
        url = f"{self._url}/studies/{address.study}/series/{address.series}/instances/{address.instance}"
        # The client library would parse the object and write it anew: what reaches quarantine must be what was sent.
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with nameless_errors():
            answer = self._session.get(url, headers={"Accept": accept})
            if answer.status_code in {404, 410}:
                return None
            answer.raise_for_status()
            if not answer.headers.get("Content-Type", "").startswith("multipart/"):
                return answer.content
            parts: list[Any] = list(MultipartDecoder.from_response(answer).parts)
            return parts[0].content

    @cached_property
    def _client(self) -> DICOMwebClient:
        client = DICOMwebClient(self._url, session=self._session)
        client.set_http_retry_params(retry=False)  # the session does
        return client


def open_session(settings: Settings) -> requests.Session:
    """Open a session with the archive's credentials; its calls time out, and are tried again where that may help."""
    session = requests.Session()
    session.trust_env = False  # no proxy and no netrc may see what goes between archive and landing
    token, password = settings.dicomweb_token, settings.dicomweb_password
    if token is not None:
        session.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    elif password is not None:
        session.auth = (settings.dicomweb_user, password.get_secret_value())
    if settings.dicomweb_ca is not None:
        session.verify = str(settings.dicomweb_ca)
    attempts = Attempts(total=3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
    adapter = _TimedAdapter(max_retries=attempts, pool_maxsize=16)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@contextmanager
def nameless_errors() -> Generator[None]:
    """Turn what HTTP libraries raise, which quotes addresses with UIDs, into errors that name nothing.

    Raises:
        Retry: for everything but a refusal.
        SetupError: if the archive refuses the credentials.
    """
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code
        if status in {401, 403}:
            raise SetupError(
                f"The archive refuses access ({status}): check QFUNDUS_DICOMWEB_USER and _PASSWORD, or _TOKEN."
            ) from None
        raise Retry(f"The archive answered {status}.") from None
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
        raise Retry(f"The archive answered unexpectedly ({type(error).__name__}).") from None


class _TimedAdapter(HTTPAdapter):
    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        named["timeout"] = named.get("timeout") or _TIMEOUT
        return super().send(*arguments, **named)


def _pages(page: Callable[[int], list[dict[str, Any]]], *named_by: str) -> Iterator[dict[str, Any]]:
    """Yield what an archive lists, page by page, until a page holds nothing new.

    An archive may give fewer than it was asked for though it has more, or the same again whatever the offset.
    """
    offset, seen = 0, set[tuple[str, ...]]()
    while True:
        with nameless_errors():
            entries = page(offset)
        new = {tuple(str(_value(entry, tag)) for tag in named_by): entry for entry in entries}
        if new.keys() <= seen:
            return
        yield from (entry for name, entry in new.items() if name not in seen)
        seen |= new.keys()
        offset += len(entries)


def _value(entry: dict[str, Any], tag: str) -> Any:
    return (entry.get(tag, {}).get("Value") or [None])[0]
