"""The durable job store: one table of what is asked for, one of what was sent to a machine. PostgreSQL or SQLite."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from qfundus.errors import SetupError

State = Literal["queued", "running", "done", "failed", "cancelled"]
BatchState = Literal["submitting", "running", "done", "failed", "cancelled", "lost", "gone"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
_OPEN: tuple[BatchState, ...] = ("submitting", "running")
_DAY = 24 * 3600.0

_tables = sql.MetaData()
_jobs = sql.Table(
    "quantum_jobs",
    _tables,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("state", sql.String(16), nullable=False, index=True),
    sql.Column("user", sql.String(64), nullable=False),
    sql.Column("backends", sql.String, nullable=False),
    sql.Column("work", sql.LargeBinary, nullable=False),
    sql.Column("circuits", sql.Integer, nullable=False),
    sql.Column("shots", sql.BigInteger, nullable=False),
    sql.Column("qubits", sql.Integer, nullable=False),
    sql.Column("precision", sql.Float, nullable=False),
    sql.Column("deadline", sql.Float),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("not_before", sql.Float, nullable=False),
    sql.Column("attempts", sql.Integer, nullable=False),
    sql.Column("asked", sql.Integer, nullable=False),
    sql.Column("batch", sql.String(32), index=True),
    sql.Column("backend", sql.String(64)),
    sql.Column("fallback", sql.Boolean, nullable=False),
    sql.Column("said", sql.String, key="message", nullable=False),
    sql.Column("cost", sql.Float, nullable=False),
    sql.Column("started", sql.Float),
    sql.Column("ended", sql.Float),
    sql.Column("result", sql.LargeBinary),
)
_batches = sql.Table(
    "quantum_batches",
    _tables,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("state", sql.String(16), nullable=False, index=True),
    sql.Column("backend", sql.String(64), nullable=False),
    sql.Column("owner", sql.String(64), nullable=False),
    sql.Column("lease", sql.Float, nullable=False),
    sql.Column("jobs", sql.String, nullable=False),
    sql.Column("vendor_job", sql.String(256)),
    sql.Column("created", sql.Float, nullable=False),
)


@dataclass(frozen=True)
class Job:
    """A row of the job store, without its work and result. Times are in seconds since 1970.

    `message` is the latest status message. `asked` counts how often it was asked for: each time but
    the first was answered from what was known. `fallback` says that the simulator took the place of a machine.
    """

    id: str
    state: State
    user: str
    backends: tuple[str, ...]
    circuits: int
    shots: int
    qubits: int
    precision: float
    deadline: float | None
    created: float
    not_before: float
    attempts: int
    asked: int
    batch: str | None
    backend: str | None
    fallback: bool
    message: str
    cost: float
    started: float | None
    ended: float | None


@dataclass(frozen=True)
class Batch:
    """What was, or is about to be, sent to a machine at once; its id is the token that the vendor knows it by."""

    id: str
    state: BatchState
    backend: str
    vendor_job: str | None


@dataclass(frozen=True)
class Claim:
    """A job that is to be sent: what it will cost, and whether and why the simulator takes a machine's place."""

    job: str
    cost: float = 0.0
    fallback: bool = False
    message: str = ""


_SHOWN = [_jobs.c[field.name] for field in fields(Job)]


class JobStore:
    """The store behind a database's address, such as `sqlite:///jobs.db` or `postgresql+psycopg://host/name`."""

    def __init__(self, address: str) -> None:
        options: dict[str, Any] = {"connect_args": {"timeout": 30}} if address.startswith("sqlite") else {}
        try:
            self._engine = sql.create_engine(address, pool_pre_ping=True, **options)
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                _tables.create_all(connection)
        except SQLAlchemyError as error:
            raise SetupError(
                f"The job store cannot be opened ({type(error).__name__}): check QFUNDUS_JOBS_DATABASE."
            ) from None

    def submit(self, row: dict[str, Any]) -> Job:
        """Enter a job; one that is there already is only counted.

        It is queued again, for who asks now, if it had failed, or if the simulator had taken a machine's place.
        """
        now = time.time()
        whole = {
            "state": "queued",
            "created": now,
            "not_before": now,
            "attempts": 0,
            "asked": 1,
            "fallback": False,
            "message": "",
            "cost": 0.0,
            **row,
        }
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        new = dialect.insert(_jobs).values(**whole).on_conflict_do_nothing()
        with self._engine.begin() as connection:
            if connection.execute(new.returning(_jobs.c.id)).first() is None:
                own = _jobs.c.id == row["id"]
                connection.execute(_jobs.update().where(own).values(asked=_jobs.c.asked + 1))
                connection.execute(
                    _jobs.update().where(own, _jobs.c.state == "queued").values(deadline=row.get("deadline"))
                )
                again = {"state": "queued", "attempts": 0, "not_before": now, "message": "", "ended": None}
                whose = {"user": row["user"], "deadline": row.get("deadline"), "fallback": False}
                simulated = sql.and_(_jobs.c.fallback, _jobs.c.state == "done")
                unfinished = sql.or_(_jobs.c.state.in_(["failed", "cancelled"]), simulated)
                connection.execute(_jobs.update().where(own, unfinished).values(**again, **whose))
            return _job(connection.execute(sql.select(*_SHOWN).where(_jobs.c.id == row["id"])).one())

    def find(self, job: str) -> Job | None:
        """Return a job, or None."""
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(*_SHOWN).where(_jobs.c.id == job)).one_or_none()
        return None if row is None else _job(row)

    def jobs(self, states: Sequence[State] = (), limit: int = 1000) -> list[Job]:
        """Return jobs, those that were asked for last first."""
        query = sql.select(*_SHOWN).order_by(_jobs.c.created.desc()).limit(limit)
        if states:
            query = query.where(_jobs.c.state.in_(states))
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query)]

    def count(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        query = sql.select(_jobs.c.state, sql.func.count()).group_by(_jobs.c.state)
        with self._engine.connect() as connection:
            return {state: int(number) for state, number in connection.execute(query)}

    def count_asked(self) -> tuple[int, int]:
        """Return how often jobs were asked for anew, and how often one that was there already: a cache hit."""
        query = sql.select(sql.func.count(), sql.func.coalesce(sql.func.sum(_jobs.c.asked), 0))
        with self._engine.connect() as connection:
            jobs, asked = connection.execute(query).one()
        return int(jobs), int(asked) - int(jobs)

    def waiting(self, now: float, limit: int) -> list[Job]:
        """Return the queued jobs that may be sent now, the oldest first."""
        query = (
            sql.select(*_SHOWN)
            .where(_jobs.c.state == "queued", _jobs.c.not_before <= now)
            .order_by(_jobs.c.created, _jobs.c.id)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query)]

    def work(self, jobs: Iterable[str]) -> list[bytes]:
        """Return what some jobs ask for, in the order of their ids."""
        return self._blobs("work", jobs)

    def result(self, job: str) -> bytes | None:
        """Return what a job found, or None."""
        rows = self._blobs("result", [job])
        return rows[0] if rows else None

    def _blobs(self, column: str, jobs: Iterable[str]) -> list[bytes]:
        query = sql.select(_jobs.c.id, _jobs.c[column]).where(_jobs.c.id.in_(list(jobs))).order_by(_jobs.c.id)
        with self._engine.connect() as connection:
            return [row[1] for row in connection.execute(query)]

    def cancel(self, job: str) -> bool:
        """Cancel a job that has not ended; return whether it had not. What runs with it goes on, and is not kept."""
        change = (
            _jobs.update()
            .where(_jobs.c.id == job, _jobs.c.state.in_(["queued", "running"]))
            .values(state="cancelled", message="A person cancelled it.", ended=time.time())
        )
        with self._engine.begin() as connection:
            return connection.execute(change).rowcount == 1

    def say(self, job: str, message: str, not_before: float) -> None:
        """Note why a job still waits, and until when it need not be looked at."""
        change = _jobs.update().where(_jobs.c.id == job, _jobs.c.state == "queued")
        with self._engine.begin() as connection:
            connection.execute(change.values(message=message, not_before=not_before))

    def claim(self, batch: str, backend: str, chosen: Sequence[Claim], owner: str, lease: float) -> list[str]:
        """Take queued jobs into a new batch, in one transaction; return those that nobody else had taken."""
        now = time.time()
        taken = {"state": "running", "batch": batch, "backend": backend, "started": now}
        with self._engine.begin() as connection:
            claimed = 0
            for claim in chosen:
                own = _jobs.update().where(_jobs.c.id == claim.job, _jobs.c.state == "queued")
                changes = {"cost": _jobs.c.cost + claim.cost, "fallback": claim.fallback, "message": claim.message}
                claimed += connection.execute(own.values(**taken, **changes, attempts=_jobs.c.attempts + 1)).rowcount
            if not claimed:
                return []
            mine = sql.select(_jobs.c.id).where(_jobs.c.batch == batch).order_by(_jobs.c.id)
            members = [row.id for row in connection.execute(mine)]
            row = {"id": batch, "state": "submitting", "backend": backend, "owner": owner, "created": now}
            connection.execute(_batches.insert().values(**row, jobs=",".join(members), lease=now + lease))
            return members

    def adopt(self, owner: str, lease: float) -> list[Batch]:
        """Renew the lease of our open batches, take over those of workers that are gone, and return them all."""
        now = time.time()
        ours = sql.or_(_batches.c.owner == owner, _batches.c.lease < now)
        with self._engine.begin() as connection:
            mine = _batches.c.state.in_(_OPEN), ours
            connection.execute(_batches.update().where(*mine).values(owner=owner, lease=now + lease))
            query = sql.select(_batches).where(_batches.c.state.in_(_OPEN), _batches.c.owner == owner)
            rows = connection.execute(query.order_by(_batches.c.created)).all()
        return [Batch(row.id, row.state, row.backend, row.vendor_job) for row in rows]

    def renew(self, batch: str, owner: str, lease: float) -> bool:
        """Hold a batch for longer; return whether it is still ours."""
        mine = _batches.update().where(_batches.c.id == batch, _batches.c.owner == owner)
        with self._engine.begin() as connection:
            return connection.execute(mine.values(lease=time.time() + lease)).rowcount == 1

    def sent(self, batch: str, vendor_job: str) -> None:
        """Note under which name the vendor runs a batch: from here on a crash finds it."""
        with self._engine.begin() as connection:
            change = _batches.update().where(_batches.c.id == batch)
            connection.execute(change.values(state="running", vendor_job=vendor_job))

    def give_up(self, job: str, message: str) -> None:
        """Let a queued job fail that can never run."""
        change = _jobs.update().where(_jobs.c.id == job, _jobs.c.state == "queued")
        with self._engine.begin() as connection:
            connection.execute(change.values(state="failed", message=message, ended=time.time()))

    def members(self, batch: str) -> list[Job]:
        """Return the jobs that a batch was made of, in the order of their ids; some may be elsewhere by now."""
        with self._engine.connect() as connection:
            listed = connection.execute(sql.select(_batches.c.jobs).where(_batches.c.id == batch)).scalar_one()
            query = sql.select(*_SHOWN).where(_jobs.c.id.in_(listed.split(","))).order_by(_jobs.c.id)
            return [_job(row) for row in connection.execute(query)]

    def finish(self, batch: str, results: dict[str, bytes]) -> None:
        """Keep a batch's results; a job that was cancelled meanwhile keeps its state, and its cost."""
        now = time.time()
        with self._engine.begin() as connection:
            connection.execute(_batches.update().where(_batches.c.id == batch).values(state="done"))
            for job, result in results.items():
                own = _jobs.update().where(_jobs.c.id == job, _jobs.c.batch == batch, _jobs.c.state == "running")
                connection.execute(own.values(state="done", result=result, ended=now))

    def fail(self, batch: str, state: BatchState, message: str, *, retry_at: float | None, free: bool) -> None:
        """End a batch without results: its jobs are queued again, each to be tried at a time, or fail for good.

        What it was to cost is owed, unless it was `free` after all.
        """
        outcome: dict[str, Any] = (
            {"state": "failed", "ended": time.time()}
            if retry_at is None
            else {"state": "queued", "not_before": retry_at, "batch": None}
        )
        with self._engine.begin() as connection:
            connection.execute(_batches.update().where(_batches.c.id == batch).values(state=state))
            own = _jobs.update().where(_jobs.c.batch == batch, _jobs.c.state == "running")
            connection.execute(own.values(message=message, **({"cost": 0.0} if free else {}), **outcome))

    def forget(self, before: float) -> int:
        """Delete the jobs that ended before a moment, with their results; return how many there were."""
        with self._engine.begin() as connection:
            gone = connection.execute(_jobs.delete().where(_jobs.c.ended < before)).rowcount
            connection.execute(_batches.delete().where(_batches.c.state.not_in(_OPEN), _batches.c.created < before))
        return gone

    def spent(self, now: float) -> dict[str, tuple[float, int]]:
        """Return the cost and the circuits that each user had in the last day, those of running jobs with them."""
        query = (
            sql.select(_jobs.c.user, sql.func.sum(_jobs.c.cost), sql.func.sum(_jobs.c.circuits))
            .where(_jobs.c.started >= now - _DAY)
            .group_by(_jobs.c.user)
        )
        with self._engine.connect() as connection:
            return {user: (float(cost), int(circuits)) for user, cost, circuits in connection.execute(query)}


def _job(row: Any) -> Job:
    values: dict[str, Any] = dict(zip((column.key for column in _SHOWN), row, strict=True))
    backends = tuple(str(values.pop("backends")).split(","))
    return Job(backends=backends, **values)
