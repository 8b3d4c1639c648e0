"""The metrics of one worker process, on a port of its own where one is set: what no table can tell."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import psutil
import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.auth import Keys, Scope
from service.engine import Handler, Kind
from service.settings import Settings
from service.startup import CannotStart

__all__ = ["Metrics", "Vitals"]

SECONDS = 5.0  # for one request: whoever dawdles holds a thread no longer


@dataclass(frozen=True)
class Vitals:
    """How a worker is at this moment."""

    running: int
    draining: bool
    lock_lost: float


class Metrics:
    """What a worker counts of itself, and whoever may ask for it."""

    def __init__(self, worker_id: str, level: str, settings: Settings, keys: Keys, look: Callable[[], Vitals]) -> None:
        self._settings, self._keys = settings, keys
        self._registry = CollectorRegistry()
        self._registry.register(_Now(worker_id, level, settings, look))
        ProcessCollector(registry=self._registry)
        self._tasks = Counter(
            "zsq_worker_tasks", "Tasks taken by this process.", ["kind", "outcome"], registry=self._registry
        )
        self._failures = Counter(
            "zsq_worker_duty_failures", "Duties of this process that failed once.", ["duty"], registry=self._registry
        )
        for kind in Kind:
            for outcome in ("ended", "broke_off"):
                self._tasks.labels(str(kind), outcome)  # there from the start: a first failure is an increase

    def counted(self, kind: Kind, handler: Handler) -> Handler:
        """The handler, whose calls are counted."""

        def run(subject: str) -> None:
            outcome = "broke_off"
            try:
                handler(subject)
                outcome = "ended"
            finally:
                self._tasks.labels(str(kind), outcome).inc()

        return run

    def failed(self, duty: str) -> None:
        self._failures.labels(duty).inc()

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def may_read(self, secret: str | None) -> bool:
        """Whether this key reads metrics; on loopback nobody is asked for one, as at the API."""
        if not self._settings.asks_for_keys(self._settings.worker_metrics_host):
            return True
        key = None if secret is None else self._keys.find(secret)
        return key is not None and not key.scopes.isdisjoint({Scope.METRICS, Scope.ADMIN})

    def serve(self) -> None:
        """``/metrics`` is answered from now on, if a port is set; raises CannotStart where it cannot be had."""
        port = self._settings.worker_metrics_port
        if port is None:
            return
        try:
            server = ThreadingHTTPServer((self._settings.worker_metrics_host, port), _handler(self))
        except (OSError, OverflowError) as problem:
            raise CannotStart(
                f"The worker's metrics cannot be had at {self._settings.worker_metrics_host}:{port}: {problem}. "
                "Check ZSQ_WORKER_METRICS_HOST and ZSQ_WORKER_METRICS_PORT."
            ) from problem
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Now(Collector):
    """What is looked at when somebody asks."""

    def __init__(self, worker_id: str, level: str, settings: Settings, look: Callable[[], Vitals]) -> None:
        self._labels = {"worker": worker_id, "version": version("zsq"), "isolation": level}
        self._settings, self._look = settings, look

    def describe(self) -> Sequence[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._look()
        info = GaugeMetricFamily("zsq_worker_info", "Who this is.", labels=list(self._labels))
        info.add_metric(list(self._labels.values()), 1)
        yield info
        for name, text, value in (
            ("running", "Jobs that run here.", now.running),
            ("draining", "1 once it was told to end.", now.draining),
            ("lock_lost_seconds", "For how long it could not be sure of its lock.", now.lock_lost),
            ("children_memory_bytes", "Memory of the processes it runs.", _memory_of_children()),
            (
                "disk_free_bytes",
                "Free where its jobs have their folders.",
                shutil.disk_usage(self._settings.data_dir).free,
            ),
        ):
            yield GaugeMetricFamily(f"zsq_worker_{name}", text, value=float(value))


def _memory_of_children() -> int:
    total = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += child.memory_info().rss
    return total


def _handler(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            bearer = self.headers.get("authorization", "").removeprefix("Bearer ").strip()
            try:
                allowed = metrics.may_read(bearer or self.headers.get("x-api-key"))
            except sa.exc.SQLAlchemyError:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain="The database does not answer.")
                return
            if not allowed:
                self.send_error(HTTPStatus.UNAUTHORIZED, explain="A key of the scope metrics is needed.")
                return
            body = metrics.render()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            return "zsq"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    return Answer
