"""API keys: who may ask for what. Only the SHA-256 of a key is kept; a key has 256 random bits, so that is enough."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from service.database import Database, now
from service.database import keys as table
from service.records import Quota

__all__ = ["LOCAL", "Allowance", "CreatedKey", "Key", "Keys", "Principal", "Scope", "shown_part"]


class Scope(StrEnum):
    """What a key may do; ``admin`` includes the others and sees the jobs of all, ``metrics`` reads counts alone."""

    CONVERT = "convert"
    READ = "read"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True)
class Allowance:
    """The quotas of one key, counted in the database, and how fast it may ask; 0 and None are no limit."""

    active: int | None = None
    per_day: int | None = None
    stored_bytes: int | None = None
    requests_per_minute: int | None = None

    @property
    def quota(self) -> Quota:
        return Quota(self.active or None, self.per_day or None, self.stored_bytes or None)

    def over(self, default: Allowance) -> Allowance:
        """This allowance, with the default's number wherever it has none of its own; 0 is a number: no limit."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(default, **own)


@dataclass(frozen=True)
class Key:
    """What is known of a key; the key itself is not."""

    id: str
    prefix: str
    name: str
    scopes: frozenset[Scope]
    allowance: Allowance
    created_at: datetime
    revoked_at: datetime | None

    def principal(self, default: Allowance) -> Principal:
        """Whoever sends the key; what the operator made no limit for gets the default, unless the key is an admin's."""
        allowance = self.allowance if Scope.ADMIN in self.scopes else self.allowance.over(default)
        return Principal(self.id, self.scopes, allowance)


@dataclass(frozen=True)
class CreatedKey:
    """A new key, and the only moment at which ``secret`` can be read."""

    key: Key
    secret: str


@dataclass(frozen=True)
class Principal:
    """Whoever sent a request: ``owner`` is what their jobs belong to."""

    owner: str
    scopes: frozenset[Scope]
    allowance: Allowance = Allowance()

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def sees(self) -> str | None:
        """The owner whose jobs are visible, or None for those of all."""
        return None if self.may(Scope.ADMIN) else self.owner


LOCAL = Principal("local", frozenset(Scope))
"""Everybody, where no keys are asked for."""


class Keys:
    """The table of keys; synchronous and safe to call from many threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, scopes: Iterable[Scope] = (Scope.CONVERT, Scope.READ), allowance: Allowance = Allowance()
    ) -> CreatedKey:
        """A new key that works from now on."""
        prefix = f"zsq_{secrets.token_hex(4)}"
        secret = f"{prefix}_{secrets.token_urlsafe(32)}"
        key = Key(secrets.token_hex(8), prefix, name, frozenset(scopes), allowance, now(), None)
        row = {
            "id": key.id,
            "prefix": prefix,
            "sha256": _digest(secret),
            "name": name,
            "scopes": sorted(key.scopes),
            "quotas": asdict(allowance),
            "created_at": key.created_at,
        }
        with self._database.writing() as connection:
            connection.execute(table.insert().values(**row))
        return CreatedKey(key, secret)

    def list(self) -> list[Key]:
        """Every key ever made, the newest last."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.created_at)).all()
        return [_key_of(row) for row in rows]

    def revoke(self, id_or_prefix: str) -> Key | None:
        """The key works no longer; its jobs stay. None if there is no such key."""
        named = (table.c.id == id_or_prefix) | (table.c.prefix == id_or_prefix)
        with self._database.writing() as connection:
            row = connection.execute(sa.select(table).where(named)).one_or_none()
            if row is None:
                return None
            key = _key_of(row)
            if key.revoked_at is None:
                key = replace(key, revoked_at=now())
                connection.execute(sa.update(table).where(named).values(revoked_at=key.revoked_at))
        return key

    def find(self, secret: str) -> Key | None:
        """The key if it is one of ours and not revoked."""
        prefix = "_".join(secret.split("_", 2)[:2])
        with self._database.reading() as connection:
            row = connection.execute(sa.select(table).where(table.c.prefix == prefix)).one_or_none()
        if row is None or not hmac.compare_digest(row.sha256, _digest(secret)) or row.revoked_at is not None:
            return None
        return _key_of(row)


def shown_part(secret: str) -> str | None:
    """What may be logged of a key that somebody sent: the prefix that lists show, if it has the form of ours."""
    found = re.match(r"zsq_[0-9a-f]{8}(?=_)", secret)
    return None if found is None else found[0]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _key_of(row: sa.Row[Any]) -> Key:
    known = set(Allowance.__dataclass_fields__)
    return Key(
        id=row.id,
        prefix=row.prefix,
        name=row.name,
        scopes=frozenset(map(Scope, row.scopes)),
        allowance=Allowance(**{name: value for name, value in row.quotas.items() if name in known}),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
