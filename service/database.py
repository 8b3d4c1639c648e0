"""The tables of the service and the two ways to touch them, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic_core import from_json

from service.settings import Settings
from service.turns import take_turns

__all__ = [
    "SCHEMA_VERSION",
    "Database",
    "SchemaMismatch",
    "blob_uses",
    "blobs",
    "counters",
    "deliveries",
    "events",
    "idempotency",
    "jobs",
    "keys",
    "now",
    "registrations",
    "secrets",
    "submissions",
    "workers",
]

SCHEMA_VERSION = 2
OLDEST = 1
"""The oldest version of the tables whose processes may work on beside this one: what came since are additions."""

BUSY_SECONDS = 30  # how long a writer waits for others on SQLite
MENDING_SECONDS = 2  # how long a reader, who may be the event loop, waits for who mends the file after a crash


class SchemaMismatch(Exception):
    """The tables are of a version that this zsq cannot work with; the message says what to do."""


def now() -> datetime:
    return datetime.now(UTC)


class Moment(sa.types.TypeDecorator[datetime]):
    """A point in time: UTC going in, aware and UTC coming out, also on SQLite, which forgets time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData()
BigInt = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER keys count up by themselves on SQLite

jobs = sa.Table(
    "zsq_jobs",
    metadata,
    sa.Column("number", BigInt, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, default=1),  # raised by every change: the ETag
    sa.Column("stage", sa.String(32)),
    sa.Column("stage_progress", sa.Float, nullable=False, default=0.0),
    sa.Column("progress", sa.Float, nullable=False, default=0.0),
    sa.Column("message", sa.Text),
    sa.Column("seconds_left", sa.Float),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_key", sa.Text, nullable=False),
    sa.Column("model_sha256", sa.String(64), nullable=False),
    sa.Column("model_bytes", sa.BigInteger, nullable=False),
    sa.Column("archive", sa.Boolean, nullable=False, default=False),
    sa.Column("result_key", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),  # the fencing token: only the newest may write
    sa.Column("strikes", sa.Integer, nullable=False, default=0),  # attempts that took their worker with them
    sa.Column("worker", sa.String(128)),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("finished_at", Moment),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("artefacts", sa.JSON, nullable=False, default=dict),
    sa.Column("sizes", sa.JSON, nullable=False, default=dict),
    sa.Column("checkpoints", sa.JSON, nullable=False, default=dict),
    sa.Column("isolation", sa.JSON(none_as_null=True)),
    sa.Column("webhook", sa.Text),
    sa.Column("reused_from", sa.String(64)),
    sa.Column("kind", sa.String(16), nullable=False, server_default="conversion"),
    sa.Index("zsq_jobs_owner", "owner", "number"),
    sa.Index("zsq_jobs_status", "status", "created_at"),
    sa.Index("zsq_jobs_result", "owner", "result_key", "status"),
    sa.Index("zsq_jobs_model_key", "model_key"),
)

events = sa.Table(
    "zsq_events",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey("zsq_jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index("zsq_events_job", "job_id", "id"),
    sqlite_autoincrement=True,  # an id is never given twice, so that Last-Event-ID stays true after a delete
)

blobs = sa.Table(
    "zsq_blobs",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("at", Moment, nullable=False),
)

blob_uses = sa.Table(
    "zsq_blob_uses",
    metadata,
    sa.Column("job_id", sa.ForeignKey("zsq_jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.ForeignKey("zsq_blobs.key"), primary_key=True),
    sa.Index("zsq_blob_uses_key", "key"),
)

idempotency = sa.Table(
    "zsq_idempotency",
    metadata,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("job_id", sa.ForeignKey("zsq_jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("at", Moment, nullable=False),
)

keys = sa.Table(
    "zsq_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("prefix", sa.String(32), nullable=False, unique=True),  # shown to people; not secret
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("quotas", sa.JSON, nullable=False),  # see jobs.Quota
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("revoked_at", Moment),
)

workers = sa.Table(
    "zsq_workers",
    metadata,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("isolation", sa.JSON, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("version", sa.String(32)),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
)

submissions = sa.Table(  # what was asked for today, also of what is deleted since
    "zsq_submissions",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Index("zsq_submissions_owner", "owner", "at"),
)

counters = sa.Table(  # what metrics count over all processes and restarts
    "zsq_counters",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("label", sa.String(64), primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
)


def _outbox(name: str, *own: sa.Column[str]) -> sa.Table:
    """A table of messages to somebody else's server: what ``service.outbox`` reads, and columns of its own."""
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        *own,
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        sa.Index(f"{name}_job", "job_id"),
        sa.Index(f"{name}_status", "status"),
    )


deliveries = _outbox(
    "zsq_deliveries", sa.Column("url", sa.Text, nullable=False), sa.Column("body", sa.Text, nullable=False)
)
registrations = _outbox(  # conversions on their way to MLflow
    "zsq_registrations", sa.Column("name", sa.Text, nullable=False), sa.Column("version", sa.String(32))
)

secrets = sa.Table(
    "zsq_secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

schema = sa.Table(
    "zsq_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("oldest", sa.Integer, nullable=False, server_default="1"),
)

MIGRATIONS = {
    2: (
        "ALTER TABLE zsq_schema ADD COLUMN oldest INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE zsq_jobs ADD COLUMN kind VARCHAR(16) NOT NULL DEFAULT 'conversion'",
        "ALTER TABLE zsq_workers ADD COLUMN version VARCHAR(32)",
        "ALTER TABLE zsq_workers ADD COLUMN draining BOOLEAN NOT NULL DEFAULT FALSE",
    ),
}
"""What makes tables of the version before into those of this one; tables that are new are made without being named."""


class Database:
    """``reading()`` sees committed rows; ``writing()`` is one transaction that may write."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url
        self.is_sqlite = settings.is_sqlite
        if self.is_sqlite:
            path = Path(settings.database_url.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.engine = sa.create_engine(settings.database_url, pool_size=24, max_overflow=16)
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            take_turns(self.engine, path.with_name(f"{path.name}-turn"), BUSY_SECONDS)
            # apart from the writers, who keep their connections while they wait: reading waits for nobody
            self._readers = sa.create_engine(
                settings.database_url, pool_size=8, max_overflow=-1, json_deserializer=from_json
            )
            sa.event.listen(self._readers, "connect", _prepare_reader)
        else:
            self.engine = sa.create_engine(
                settings.database_url,
                pool_size=8,
                max_overflow=16,
                pool_pre_ping=True,
                pool_timeout=10,
                connect_args={
                    "connect_timeout": 5,
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                    "application_name": "zsq",
                },
            )
            self._readers = self.engine

    def migrate(self) -> None:
        """The tables are there and of this version, or a newer one that it may use; many may call this at once.

        Raises SchemaMismatch.
        """
        if self.is_sqlite:
            with self.engine.connect() as connection:  # from now on, who reads does not wait for who writes
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7237811)"))
            metadata.create_all(connection)
            found = connection.execute(sa.select(schema.c.version)).scalar()
            if found is None:
                connection.execute(schema.insert().values(version=SCHEMA_VERSION, oldest=OLDEST))
            elif found > SCHEMA_VERSION:
                oldest = connection.execute(sa.select(schema.c.oldest)).scalar_one()
                if oldest > SCHEMA_VERSION:
                    raise SchemaMismatch(
                        f"The database has schema {found}, made by a newer zsq, and this one knows schema "
                        f"{SCHEMA_VERSION}. Install the newer zsq."
                    )
            elif found < SCHEMA_VERSION:
                for version in range(found + 1, SCHEMA_VERSION + 1):
                    for statement in MIGRATIONS[version]:
                        connection.execute(sa.text(statement))
                connection.execute(sa.update(schema).values(version=SCHEMA_VERSION, oldest=OLDEST))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._readers.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self.engine.begin() as connection:
            if self.is_sqlite:  # else two readers that both mean to write would deadlock on the upgrade
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def lock_owner(self, connection: sa.Connection, owner: str) -> None:
        """Until this transaction ends no other one passes here for ``owner``; counts of their jobs stay true."""
        if not self.is_sqlite:
            statement = sa.text("SELECT pg_advisory_xact_lock(7237812, hashtext(:owner))")
            connection.execute(statement, {"owner": owner})

    def dispose(self) -> None:
        self.engine.dispose()
        self._readers.dispose()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute(f"PRAGMA busy_timeout={1000 * BUSY_SECONDS}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _prepare_reader(connection: Any, _: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={1000 * MENDING_SECONDS}")
    connection.execute("PRAGMA query_only=ON")
