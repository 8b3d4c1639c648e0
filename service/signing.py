"""The secrets that webhook messages are signed with: one for each key, shown once, and changed without a gap."""

from __future__ import annotations

import base64
import json
import secrets as randomness
from datetime import datetime, timedelta

import sqlalchemy as sa

from service import database as tables
from service.database import Database, now
from service.settings import Settings

__all__ = ["OVERLAP", "Secrets"]

OVERLAP = timedelta(days=1)
"""For so long after a change, messages carry a signature by the former secret too."""

OF_ALL = "webhook"  # the row of the one secret that earlier versions had


class Secrets:
    """Secrets by the owner of the jobs, kept in the database: to sign takes the secret itself, so no hash would do."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._configured = settings.webhook_secret

    def of(self, owner: str) -> list[str]:
        """What messages to this owner are signed with, the newest first.

        Before the owner has asked for one: the configured one, or one that nobody has seen yet.
        """
        with self._database.reading() as connection:
            found = self._read(connection, owner)
        if found is None:
            return [self._configured or self._of_all()]
        current, former, changed = found
        return [current, former] if former and now() - changed < OVERLAP else [current]

    def make(self, owner: str) -> str:
        """A new secret of this owner, and the only time that it is told; the former one holds for a day more."""
        made = _new()
        with self._database.writing() as connection:
            self._database.lock_owner(connection, owner)
            found = self._read(connection, owner)
            value = json.dumps([made, found and found[0], now().isoformat()])
            self._write(connection, _row_name(owner), value, is_new=found is None)
        return made

    def _read(self, connection: sa.Connection, owner: str) -> tuple[str, str | None, datetime] | None:
        query = sa.select(tables.secrets.c.value).where(tables.secrets.c.name == _row_name(owner))
        value = connection.execute(query).scalar()
        if value is None:
            return None
        current, former, changed = json.loads(value)
        return current, former, datetime.fromisoformat(changed)

    def _of_all(self) -> str:
        query = sa.select(tables.secrets.c.value).where(tables.secrets.c.name == OF_ALL)
        with self._database.writing() as connection:
            self._database.lock_owner(connection, OF_ALL)
            known = connection.execute(query).scalar()
            if known is None:
                known = _new()
                self._write(connection, OF_ALL, known, is_new=True)
        return str(known)

    def _write(self, connection: sa.Connection, name: str, value: str, *, is_new: bool) -> None:
        if is_new:
            connection.execute(tables.secrets.insert().values(name=name, value=value))
        else:
            connection.execute(sa.update(tables.secrets).where(tables.secrets.c.name == name).values(value=value))


def _new() -> str:
    return "whsec_" + base64.b64encode(randomness.token_bytes(32)).decode()


def _row_name(owner: str) -> str:
    return f"webhook {owner}"[:64]
