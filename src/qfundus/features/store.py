"""The feature store: parts in S3 (offline), the newest values in SQLite (online), both through Feast."""

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import structlog

from qfundus.errors import Retry
from qfundus.features.feast_import import import_feast
from qfundus.layout import feature_repo
from qfundus.settings import Settings
from qfundus.site import Site
from qfundus.storage import digest, from_parquet, to_json, to_parquet

if TYPE_CHECKING:
    from feast import FeatureStore

_log = structlog.get_logger()
VIEWS = ("eye_embedding", "study_acquisition", "eye_grade")
KEYS = ("eye_id", "study_id")
_NOTHING: dict[str, dict[str, Any]] = {
    "eye_embedding": {"embedding": None, "backbone": "", "instance_digest": "", "patient_id": ""},
    "study_acquisition": {
        "camera": "",
        "age_years": -1,
        "sex": "",
        **dict.fromkeys(("field_of_view", "brightness", "contrast", "sharpness"), 0.0),
    },
    "eye_grade": {"grade": -1, "grader": "", "graded_on": ""},
}
WATERMARK = "materialised.json"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LONGEST_CHUNK = timedelta(hours=24)


@dataclass(frozen=True)
class Chunk:
    """A window of time, start excluded, end included."""

    start: datetime
    end: datetime


def open_feature_store(settings: Settings) -> "FeatureStore":
    """Open the feature store; Feast reads its endpoints and keys from the environment."""
    os.environ.update(_feast_environment(settings))
    settings.online_store.parent.mkdir(parents=True, exist_ok=True)
    return import_feast().FeatureStore(repo_path=str(feature_repo()))


def write_part(site: Site, view: str, run: str, known_at: datetime, rows: pd.DataFrame) -> bool:
    """Add a run's rows to a view's parts; a second time changes nothing. Return whether this call wrote them."""
    if rows.empty:
        return False
    stamped = rows.assign(event_timestamp=pd.Timestamp(known_at))
    return site.store.put_if_absent(
        site.settings.features_bucket, f"{view}/{part_name(run, known_at)}", to_parquet(stamped)
    )


def part_name(run: str, known_at: datetime) -> str:
    """Name a part by when its rows became known and by its run."""
    return f"{known_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest(run.encode())[:12]}.parquet"


def part_time(name: str) -> datetime:
    """Read from a part's name when its rows became known."""
    stamp = name.rsplit("/", 1)[-1].split("-", 1)[0]
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def apply_definitions(settings: Settings) -> None:
    """Register the definitions in `feature_repo/`, as `feast apply` would.

    Raises:
        Retry: if Feast fails; the message ends with its error.
    """
    feature_store = open_feature_store(settings)
    from feast.repo_operations import apply_total

    sys.path.append(str(feature_repo()))  # where the definitions import one another from
    try:
        with chdir(feature_repo()):
            apply_total(feature_store.config, feature_repo(), skip_source_validation=True)
    except Exception as error:  # noqa: BLE001  (whatever Feast and its registry raise)
        raise Retry(f"`feast apply` failed: {type(error).__name__}: {str(error)[-1500:]}") from None
    finally:
        sys.path.remove(str(feature_repo()))


def materialise_new(site: Site, until: datetime) -> list[Chunk]:
    """Bring the online store up to `until`, a day's rows at a time; return the chunks that were loaded.

    The watermark is ours: Feast's own is reset by `feast apply`, and it loads a whole window at once. It moves after
    each chunk, so that a crash costs one chunk. Days without a part are passed over.
    """
    feature_store = open_feature_store(site.settings)
    watermark = _read_watermark(site)
    chunks = plan_chunks(watermark, until, _part_times(site, watermark))
    for number, chunk in enumerate(chunks, 1):
        feature_store.materialize(start_date=chunk.start, end_date=chunk.end, feature_views=list(VIEWS))
        site.store.put(site.settings.features_bucket, WATERMARK, to_json({"until": chunk.end.isoformat()}))
        _log.info("Materialised", chunk=number, of=len(chunks), until=chunk.end.isoformat())
    return chunks


def plan_chunks(
    watermark: datetime, until: datetime, times: list[datetime], longest: timedelta = LONGEST_CHUNK
) -> list[Chunk]:
    """Cut the time after the watermark into chunks no longer than `longest` that hold at least one of `times`."""
    due = sorted(time for time in times if watermark < time <= until)
    chunks: list[Chunk] = []
    for time in due:
        if not chunks or time > chunks[-1].end:
            # Feast's window includes its start: step past the row that the chunk before may have ended on.
            start = max(watermark, time - timedelta(seconds=1))
            chunks.append(Chunk(start, min(until, start + longest)))
    return chunks


def training_rows(settings: Settings, service: str, samples: pd.DataFrame) -> pd.DataFrame:
    """Join the features that were known at each sample's time (point-in-time correct).

    `samples` has the columns `eye_id`, `study_id` and `event_timestamp`.
    """
    feature_store = open_feature_store(settings)
    job = feature_store.get_historical_features(entity_df=samples, features=feature_store.get_feature_service(service))
    return job.to_df()


def online_row(settings: Settings, service: str, eye: str, study: str) -> dict[str, Any]:
    """Return the newest features of one eye at one visit from the online store."""
    feature_store = open_feature_store(settings)
    answer = feature_store.get_online_features(
        features=feature_store.get_feature_service(service), entity_rows=[{"eye_id": eye, "study_id": study}]
    )
    return {name: values[0] for name, values in answer.to_dict().items()}


def forget_eyes(site: Site, gone: set[str]) -> int:
    """Take the rows of withdrawn content out of every part, and out of the online store; return how many went.

    `gone` are digests of curated objects. What a visit's other photographs of the same eye share with them stays.
    """
    dropped = _drop_rows(site, "eye_embedding", lambda rows: rows["instance_digest"].isin(list(gone)))
    if dropped.empty:
        return 0
    left = read_keys(site, "eye_embedding", datetime.max.replace(tzinfo=UTC))
    keys = dropped[list(KEYS)].drop_duplicates()
    alone = set(keys.itertuples(index=False, name=None)) - set(left.itertuples(index=False, name=None))
    for view in ("study_acquisition", "eye_grade"):
        _drop_rows(site, view, lambda rows: pd.Series([k in alone for k in _keys_of(rows)], rows.index))
    if alone and site.settings.online_store.exists():
        blank_online(site.settings, sorted(alone))
    return len(dropped)


def _drop_rows(site: Site, view: str, doomed: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    bucket, dropped = site.settings.features_bucket, [pd.DataFrame({name: [] for name in KEYS})]
    for part in list(site.store.list(bucket, f"{view}/")):
        rows = from_parquet(site.store.get(bucket, part.name))
        chosen = doomed(rows).astype(bool)
        if not chosen.any():
            continue
        dropped.append(rows.loc[chosen])
        if chosen.all():
            site.store.delete(bucket, part.name)
        else:
            site.store.put(bucket, part.name, to_parquet(rows.loc[~chosen]))
    return pd.concat(dropped)


def _keys_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(rows[list(KEYS)].itertuples(index=False, name=None))


def blank_online(settings: Settings, keys: list[tuple[str, str]]) -> None:
    """Write nothing over what the online store knows of some eyes: Feast deletes no single row."""
    feature_store = open_feature_store(settings)
    for view, nothing in _NOTHING.items():
        rows = pd.DataFrame([dict(zip(KEYS, key, strict=True)) | nothing for key in keys])
        rows["event_timestamp"] = pd.Timestamp.now(UTC)
        if "embedding" in nothing:
            rows["embedding"] = [[0.0]] * len(rows)
        feature_store.write_to_online_store(view, df=rows)


def newest_part(site: Site) -> datetime | None:
    """Return when the newest part became known, or None if none exists."""
    times = _part_times(site, EARLIEST)
    return times[-1] if times else None


def read_keys(site: Site, view: str, as_of: datetime) -> pd.DataFrame:
    """Return the eyes and studies that a view knew at a moment, once each."""
    parts = [
        pd.read_parquet(
            io.BytesIO(site.store.get(site.settings.features_bucket, part.name)), columns=["eye_id", "study_id"]
        )
        for part in site.store.list(site.settings.features_bucket, f"{view}/")
        if part_time(part.name) <= as_of
    ]
    keys = pd.concat(parts) if parts else pd.DataFrame({"eye_id": [], "study_id": []}, dtype=str)
    return keys.drop_duplicates(ignore_index=True)


def _read_watermark(site: Site) -> datetime:
    stored = site.store.find(site.settings.features_bucket, WATERMARK)
    return datetime.fromisoformat(json.loads(stored)["until"]) if stored else EARLIEST


def _part_times(site: Site, watermark: datetime) -> list[datetime]:
    # Parts are named by time, so a listing that starts at the watermark costs what is new, not what was ever stored.
    after = f"{watermark:%Y%m%dT%H%M%SZ}"
    return sorted(
        {
            part_time(part.name)
            for view in VIEWS
            for part in site.store.list(site.settings.features_bucket, f"{view}/", after=f"{view}/{after}")
        }
    )


def _feast_environment(settings: Settings) -> dict[str, str]:
    secret = settings.s3_secret_key.get_secret_value()
    return {
        "QFUNDUS_S3_ENDPOINT": settings.s3_endpoint,
        "QFUNDUS_FEATURES_BUCKET": settings.features_bucket,
        "QFUNDUS_FEAST_REGISTRY": settings.feast_registry,
        "QFUNDUS_FEAST_ONLINE_STORE": str(settings.online_store.resolve()),
        "FEAST_S3_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": settings.s3_region,
    }
