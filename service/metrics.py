"""What ``/metrics`` tells: HTTP from this process, queue and workers from the tables, and each conversion that ended.

Conversions end in worker processes. Each API process reads from the tables, at every scrape, which ended since its own
start; with several API processes, take one of them, not their sum.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import database as tables
from service.database import Database, now
from service.jobs import Jobs
from service.records import ACTIVE, JobStatus, Statistics

__all__ = ["Metrics"]

LATE = timedelta(minutes=2)  # how late a row may become visible, clocks of other machines included
HTTP_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 1, 2.5, 10, 60)
JOB_SECONDS = (1, 2, 5, 10, 20, 45, 90, 180, 600, 1800, 3600)
MEMORY_BYTES = tuple(float(1 << power) for power in range(27, 36))  # 128 MiB to 32 GiB


class Metrics:
    """The registry of one application, and what is observed into it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        self.http_seconds = histogram(
            "zsq_http_request_seconds",
            "Time until the answer was sent; event streams until their first byte.",
            ["method", "route", "status"],
            buckets=HTTP_SECONDS,
        )
        self.uploaded_bytes = counter("zsq_uploaded_bytes", "Bytes of models received.")
        self.downloaded_bytes = counter("zsq_downloaded_bytes", "Bytes of results sent.")
        self.conversions = counter("zsq_conversions", "Conversions that ended.", ["status"])
        self.failures = counter("zsq_conversion_failures", "Failed conversions by class.", ["kind"])
        self.conversion_seconds = histogram(
            "zsq_conversion_seconds", "From the first start to the end.", buckets=JOB_SECONDS
        )
        self.waiting_seconds = histogram(
            "zsq_conversion_waiting_seconds", "From submission to the first start.", buckets=JOB_SECONDS
        )
        self.stage_seconds = histogram("zsq_stage_seconds", "By stage.", ["stage"], buckets=JOB_SECONDS)
        self.child_bytes = histogram(
            "zsq_child_peak_memory_bytes", "Peak memory of a conversion's processes.", buckets=MEMORY_BYTES
        )
        self.model_bytes = counter("zsq_model_bytes", "Bytes of models of ended conversions.", ["side"])
        self._ended: Ended | None = None

    def watch(self, jobs: Jobs) -> None:
        """Queue, workers and ended conversions are told of from now on."""
        self._ended = Ended(jobs.database, self)
        self.registry.register(Tables(jobs))

    def render(self) -> bytes:
        """Everything in Prometheus' text format; reads the tables."""
        if self._ended is not None:
            self._ended.observe()
        return generate_latest(self.registry)


class Tables(Collector):
    """Gauges counted in the tables at each scrape."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> Sequence[Metric]:
        return ()  # else registering would read the tables

    def collect(self) -> Iterator[Metric]:
        known = self._jobs.statistics()
        by_status = GaugeMetricFamily("zsq_jobs", "Jobs in the tables.", labels=["status"])
        for status, count in known.by_status.items():
            by_status.add_metric([status], count)
        yield by_status
        yield from map(_gauge, *zip(*_gauges(known), strict=True))


def _gauges(known: Statistics) -> list[tuple[str, str, float]]:
    return [
        ("zsq_queue_depth", "Jobs that wait.", known.queued),
        ("zsq_queue_oldest_seconds", "How long the oldest of them has waited.", known.oldest_queued_seconds),
        ("zsq_running", "Jobs that run.", known.running),
        ("zsq_workers", "Workers that live.", len(known.workers)),
        ("zsq_worker_slots", "Conversions they can run at once.", sum(each.concurrency for each in known.workers)),
        ("zsq_stored_bytes", "Bytes of models and results in the store.", known.stored_bytes),
        ("zsq_webhooks_dead", "Webhook messages that were given up.", known.dead_deliveries),
    ]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class Ended:
    """Conversions that ended since this process began, each observed once."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database, self._metrics = database, metrics
        self._start = self._until = now()
        self._seen: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def observe(self) -> None:
        with self._lock, self._database.reading() as connection:
            since = max(self._start, self._until - LATE)
            self._until = now()
            jobs = tables.jobs.c
            query = sa.select(tables.jobs).where((jobs.finished_at >= since) & jobs.status.not_in(ACTIVE))
            for row in connection.execute(query).all():
                if row.id not in self._seen:
                    self._seen[row.id] = row.finished_at
                    self._observe(connection, row)
            self._seen = {each: at for each, at in self._seen.items() if at >= since - LATE}

    def _observe(self, connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> None:
        metrics = self._metrics
        metrics.conversions.labels("reused" if row.reused_from else row.status).inc()
        if row.reused_from:
            return
        if row.status == JobStatus.FAILED:
            metrics.failures.labels(str((row.error or {}).get("kind", "Bug"))).inc()
        peak = (row.isolation or {}).get("peak_memory")
        if isinstance(peak, int | float) and peak > 0:
            metrics.child_bytes.observe(peak)
        if row.started_at is not None:
            metrics.waiting_seconds.observe((row.started_at - row.created_at).total_seconds())
        if row.status == JobStatus.SUCCEEDED:
            metrics.conversion_seconds.observe((row.finished_at - row.started_at).total_seconds())
            metrics.model_bytes.labels("float").inc(row.model_bytes)
            metrics.model_bytes.labels("int8").inc(row.sizes.get("model", 0))
            for stage, seconds in _stages(connection, row.id, row.finished_at):
                metrics.stage_seconds.labels(stage).observe(seconds)


def _stages(connection: sa.Connection, job_id: str, finished_at: datetime) -> Iterator[tuple[str, float]]:
    """How long each stage lasted: until the first word of the next."""
    stage, at = tables.events.c.data["stage"].as_string(), tables.events.c.at
    condition = (tables.events.c.job_id == job_id) & (tables.events.c.kind == "progress")
    query = sa.select(stage, sa.func.min(at)).where(condition).group_by(stage).order_by(sa.func.min(at))
    begun = [(name, begin) for name, begin in connection.execute(query) if name]
    for (name, begin), (_, end) in pairwise([*begun, ("", finished_at)]):
        yield name, max(0.0, (end - begin).total_seconds())
