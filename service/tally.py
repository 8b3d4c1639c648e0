"""Counts that outlive processes: what metrics tell of attempts, conversions and messages, in the same transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from converter import errors
from service import database as tables
from service.records import JobStatus

__all__ = ["BOUNDS", "COUNT", "SUM", "add", "of_ended"]

JOB_SECONDS = (1, 2, 5, 10, 20, 45, 90, 180, 600, 1800, 3600)
BOUNDS: Mapping[str, Sequence[float]] = {
    "conversion_seconds": JOB_SECONDS,
    "conversion_waiting_seconds": JOB_SECONDS,
    "stage_seconds": JOB_SECONDS,
    "child_peak_memory_bytes": tuple(float(1 << power) for power in range(27, 36)),  # 128 MiB to 32 GiB
}
"""The upper bounds of each histogram's buckets."""

SUM, COUNT = "sum", "count"
KINDS = frozenset(
    ("WorkerLost", "Crashed", "BadOutput", "Bug", "OutOfDisk", "DiskFull", "ModelLost", "ServiceUnavailable")
)
Increments = Counter[tuple[str, str]]


def add(connection: sa.Connection, increments: Mapping[tuple[str, str], float]) -> None:
    """Each count, by name and label, has grown by so much when this transaction commits.

    Call it once in a transaction: rows are taken in one order, so that two transactions do not wait for each other.
    """
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    for (name, label), amount in sorted(increments.items()):
        statement = insert(tables.counters).values(name=name, label=label[:64], value=amount)
        grown = tables.counters.c.value + statement.excluded.value
        connection.execute(statement.on_conflict_do_update(index_elements=["name", "label"], set_={"value": grown}))


def of_ended(connection: sa.Connection, row: sa.Row[Any]) -> Increments:
    """What the row of a conversion that has just ended adds to the counts."""
    found: Increments = Counter()
    if row.kind != "conversion":
        return found
    found["conversions", "reused" if row.reused_from else str(row.status)] += 1
    if row.reused_from:
        return found
    if row.status == JobStatus.FAILED:
        kind = str((row.error or {}).get("kind", "Bug"))
        known = kind in KINDS or hasattr(errors, kind)  # the child's word is not to be a new series each time
        found["conversion_failures", kind if known else "Other"] += 1
    peak = (row.isolation or {}).get("peak_memory")
    if isinstance(peak, int | float) and peak > 0:
        found += _observed("child_peak_memory_bytes", "", peak)
    if row.started_at is not None:
        found += _observed("conversion_waiting_seconds", "", (row.started_at - row.created_at).total_seconds())
    if row.status == JobStatus.SUCCEEDED:
        found += _observed("conversion_seconds", "", (row.finished_at - row.started_at).total_seconds())
        found["model_bytes", "float"] += row.model_bytes
        found["model_bytes", "int8"] += row.sizes.get("model", 0)
        for stage, seconds in _stages(connection, row.id, row.finished_at):
            found += _observed("stage_seconds", stage, seconds)
    return found


def _observed(name: str, label: str, value: float) -> Increments:
    """One more value of a histogram: in its bucket, its sum and its count, by labels ``LABEL|BOUND``."""
    bound = next((f"{each:g}" for each in BOUNDS[name] if value <= each), "+Inf")
    found: Increments = Counter()
    found[name, f"{label}|{bound}"] += 1
    found[name, f"{label}|{COUNT}"] += 1
    found[name, f"{label}|{SUM}"] += max(0.0, value)  # type: ignore[assignment]  # a Counter adds what can be added
    return found


def _stages(connection: sa.Connection, job_id: str, finished_at: datetime) -> Iterator[tuple[str, float]]:
    """How long each stage lasted: until the first word of the next."""
    stage, at = tables.events.c.data["stage"].as_string(), tables.events.c.at
    condition = (tables.events.c.job_id == job_id) & (tables.events.c.kind == "progress")
    query = sa.select(stage, sa.func.min(at)).where(condition).group_by(stage).order_by(sa.func.min(at))
    begun = [(name, begin) for name, begin in connection.execute(query) if name]
    for (name, begin), (_, end) in pairwise([*begun, ("", finished_at)]):
        yield name, max(0.0, (end - begin).total_seconds())
