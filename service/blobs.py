"""Which job needs which stored object: objects are shared by content, and go when nobody needs them any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.database import Database, blob_uses, blobs, now
from service.storage import Artefacts, Missing

__all__ = ["Blobs"]


class Blobs:
    """Uses are counted by rows; the row of an object is the lock between using it and removing it."""

    def __init__(self, database: Database, artefacts: Artefacts) -> None:
        self.database = database
        self.artefacts = artefacts

    def use(self, connection: sa.Connection, job_id: str, key: str, size: int) -> None:
        """The object stays until the job goes; raises Missing if it was removed just before."""
        insert = sqlite.insert if self.database.is_sqlite else postgresql.insert
        values = {"key": key, "size": size, "at": now()}
        # the upsert waits for a removal under way, and makes a later one wait for us
        statement = (
            insert(blobs).values(**values).on_conflict_do_update(index_elements=["key"], set_={"at": values["at"]})
        )
        connection.execute(statement)
        if not self.artefacts.exists(key):
            raise Missing(f"The object {key!r} is no longer stored.")
        connection.execute(insert(blob_uses).values(job_id=job_id, key=key).on_conflict_do_nothing())

    def used_by(self, connection: sa.Connection, job_ids: Sequence[str]) -> list[str]:
        query = sa.select(blob_uses.c.key).where(blob_uses.c.job_id.in_(job_ids)).distinct()
        return list(connection.execute(query).scalars())

    def drop_uses(self, connection: sa.Connection, job_id: str, keys: Sequence[str]) -> None:
        condition = (blob_uses.c.job_id == job_id) & blob_uses.c.key.in_(keys)
        connection.execute(blob_uses.delete().where(condition))

    def collect(self, keys: Iterable[str]) -> int:
        """Those of the objects that no job uses are gone from the store; how many."""
        removed = 0
        for key in keys:
            with self.database.writing() as connection:
                row = connection.execute(sa.select(blobs).where(blobs.c.key == key).with_for_update()).one_or_none()
                if row is None:
                    continue
                used = sa.select(sa.func.count()).where(blob_uses.c.key == key)
                if connection.execute(used).scalar():
                    continue
                self.artefacts.delete_now(key)
                connection.execute(blobs.delete().where(blobs.c.key == key))
                removed += 1
        return removed

    def unused(self, limit: int = 1000) -> list[str]:
        """Keys of objects that lost their last job while the process that should collect them died."""
        used = sa.select(blob_uses.c.key).where(blob_uses.c.key == blobs.c.key).exists()
        with self.database.reading() as connection:
            return list(connection.execute(sa.select(blobs.c.key).where(~used).limit(limit)).scalars())

    def total(self) -> int:
        with self.database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.sum(blobs.c.size))).scalar() or 0)
