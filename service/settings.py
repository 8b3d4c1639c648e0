"""What an operator may decide, each from ``ZSQ_...`` in the environment or a command-line option."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import memory

__all__ = ["GIB", "Settings"]

GIB = 1 << 30


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "zsq"


def _default_memory_limit() -> int:
    there = memory.available()
    return max(64 << 20, min(8 * GIB, there * 3 // 4, there - memory.RESERVE))


def _default_database_url(fields: dict[str, Any]) -> str:
    return f"sqlite:///{fields['data_dir']}/zsq.sqlite3"


def _default_store_url(fields: dict[str, Any]) -> str:
    return f"file://{fields['data_dir']}/artefacts"


class Settings(BaseSettings):
    """The whole configuration of API and worker; immutable, and complete without any variable set."""

    model_config = SettingsConfigDict(env_prefix="ZSQ_", frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Field(default_factory=_default_data_dir)
    database_url: str = Field(default_factory=_default_database_url)
    """``sqlite:///path`` or ``postgresql://user@host/name``; DBOS keeps its own tables there too."""
    store_url: str = Field(default_factory=_default_store_url)
    """``file:///folder`` or ``s3://bucket/prefix``; credentials come from the environment."""

    auth: bool | None = None
    """None: keys are asked for unless ``host`` is a loopback address."""
    startup_wait: float = Field(default=60.0, ge=0)
    """Seconds for which ``zsq serve`` waits for a database that does not answer yet."""
    drain_wait: float = Field(default=5.0, ge=0)
    """Seconds for which an API told to end by SIGTERM still serves, and says that it is not ready."""
    max_upload_bytes: PositiveInt = GIB
    queue_limit: PositiveInt = 2000

    quota_active: NonNegativeInt = 20
    """Jobs of one key that wait or run at once; of keys made without a number of their own, and 0 is no limit."""
    quota_per_day: NonNegativeInt = 500
    quota_stored_bytes: NonNegativeInt = 20 * GIB
    quota_requests_per_minute: NonNegativeInt = 1200
    requests_per_key: PositiveInt = 256
    """Requests of one key under way at once in one process, event streams among them."""
    streams_per_key: PositiveInt = 100
    max_connections: PositiveInt = 4096
    """Open connections of one process; less where the system lets it open fewer files."""
    connections_per_address: PositiveInt = 256
    """From one address that is neither this machine nor a trusted proxy."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed, joined by commas."""

    worker: bool = True
    """Whether ``zsq serve`` starts a worker beside the API."""
    worker_concurrency: PositiveInt = 1
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where a worker process tells its own metrics; of several on one machine, each takes the next. None: nowhere."""
    worker_metrics_host: str = "127.0.0.1"
    """Beyond loopback a key of the scope metrics is asked for, as by the API."""
    worker_grace: float = Field(default=20.0, ge=0)
    """How long a worker that was asked to end lets running jobs finish before it hands them back."""
    job_time_limit: PositiveFloat = 3600.0
    job_memory_limit: PositiveInt = Field(default_factory=_default_memory_limit)
    """8 GiB, or three quarters of the machine's or container's memory, or what API and worker leave of that."""
    job_disk_limit: PositiveInt = 8 * GIB
    job_threads: PositiveInt = 1
    job_device: Literal["cpu", "cuda"] = "cpu"
    """With ``cuda`` the address-space limit is off: CUDA reserves far more than it uses."""
    max_attempts: PositiveInt = 3
    fence_after: PositiveFloat = 10.0
    """A worker cut off from its lock for this many seconds kills its jobs and starts anew."""
    sweep_every: PositiveFloat = 3.0

    keep_days: PositiveFloat = 30.0
    keep_bytes: PositiveInt = 50 * GIB
    """Finished jobs are removed, oldest first, beyond either."""

    webhook_secret: str | None = None
    """``whsec_...``; without one, a secret is made at the first start and kept in the database."""
    webhook_allow_http: bool = False
    webhook_allow_private: bool = False

    mlflow_uri: str | None = None
    """``http://HOST:PORT`` of an MLflow server to which every succeeded conversion is told; none without it."""
    mlflow_name: str = "{name}"
    """The registered model; ``{name}`` is the model file's own name."""
    mlflow_alias: str = "candidate"
    mlflow_experiment: str = "zsq"

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: str) -> str:
        for scheme in ("postgres://", "postgresql://"):
            if url.startswith(scheme):
                return "postgresql+psycopg://" + url.removeprefix(scheme)
        if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError("the database is sqlite:///PATH or postgresql://USER@HOST/NAME")
        return url

    @field_validator("store_url")
    @classmethod
    def _known_store(cls, url: str) -> str:
        if not url.startswith(("file:///", "s3://")):
            raise ValueError("the store is file:///FOLDER or s3://BUCKET/PREFIX")
        return url

    @field_validator("mlflow_uri")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        if uri is not None and (not uri.startswith(("http://", "https://")) or "@" in uri):
            raise ValueError(
                "MLflow is at http://HOST:PORT or https://...; who we are is said by MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.startswith("sqlite")

    @property
    def requires_keys(self) -> bool:
        """Whether a request without a key is refused."""
        return self.asks_for_keys(self.host)

    def asks_for_keys(self, host: str) -> bool:
        """Whether whoever listens there asks for keys."""
        is_loopback = host in ("localhost", "::1") or host.startswith("127.")
        return not is_loopback if self.auth is None else self.auth
