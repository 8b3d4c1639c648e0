"""``zsq keys``: who may use a service that is reachable from elsewhere."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converter.cli import AsJson
from converter.console import DONE, emit
from converter.errors import InvalidOption, Refusal

if TYPE_CHECKING:
    from service.auth import Key, Keys
    from service.database import Database
    from service.settings import Settings

__all__ = ["app", "opened_database", "settings_of"]

app = typer.Typer(no_args_is_help=True, help="The API keys of a service.")

ELSEWHERE = frozenset({"ZSQ_URL", "ZSQ_API_KEY", "ZSQ_DEBUG", "ZSQ_ZOO", "ZSQ_FENCED_JOBS", "ZSQ_CONTAINER_TEST"})
"""Variables that other parts read."""

NEAR = (
    0.8  # of difflib: one or two letters, or a plural; Kubernetes' own ZSQ_SERVICE_HOST and the like are further away
)

DataDir = Annotated[Path | None, typer.Option(help="Where database and results are kept.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="sqlite:///PATH or postgresql://USER@HOST/NAME")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for your own eyes.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="convert, read, metrics or admin (sees all jobs); repeatable.  [default: convert and read]"),
    ] = None,
    active: Annotated[int | None, typer.Option(min=0, help="Most jobs at once; 0: no limit.")] = None,
    per_day: Annotated[int | None, typer.Option(min=0, help="Most jobs a day; 0: no limit.")] = None,
    stored_bytes: Annotated[int | None, typer.Option(min=0, help="Most bytes kept; 0: no limit.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=0, help="Most requests a minute; 0: no limit.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> int:
    """Make a key; it is shown this once and kept only as a hash."""
    from service.auth import Allowance, Scope

    unknown = set(scope or ()) - set(Scope)
    if unknown:
        raise InvalidOption(f"There is no scope {unknown.pop()!r}; there are {', '.join(Scope)}.", field="scope")
    allowance = Allowance(active, per_day, stored_bytes, requests_per_minute)
    with _keys(data_dir, database_url) as keys:
        made = keys.create(name, map(Scope, scope or ("convert", "read")), allowance)
    if as_json:
        emit({**_facts(made.key), "secret": made.secret})
    else:
        print(f"{made.secret}\nThis is the only time the key is shown. {_line(made.key)}")
    return DONE


@app.command("list")
def list_keys(data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: AsJson = False) -> int:
    """Show every key ever made, never the secret part."""
    with _keys(data_dir, database_url) as keys:
        for key in keys.list():
            if as_json:
                emit(_facts(key))
            else:
                print(_line(key))
    return DONE


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, or the part of it that is shown in the list.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """End a key at once; the jobs made with it stay."""
    with _keys(data_dir, database_url) as keys:
        revoked = keys.revoke(key)
    if revoked is None:
        raise InvalidOption(f"There is no key {key}.", remedy="See zsq keys list.")
    print(_line(revoked))
    return DONE


def settings_of(**given: Any) -> Settings:
    """The settings of the environment, overruled by those given; raises InvalidOption naming the one that is wrong."""
    from pydantic import ValidationError

    from service.settings import Settings

    _refuse_misspelt(Settings.model_fields)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as problem:
        first = problem.errors()[0]
        name = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise InvalidOption(f"The setting {name} is wrong: {why}.", field=name) from problem


@contextlib.contextmanager
def opened_database(settings: Settings) -> Iterator[Database]:
    """The database with its tables; raises Refusal where it does not answer."""
    from sqlalchemy.exc import OperationalError

    from service.database import Database, SchemaMismatch

    database = Database(settings)
    try:
        database.migrate()
        yield database
    except OperationalError as problem:
        raise Refusal(f"The database does not answer: {problem.orig}.", remedy="Check --database-url.") from problem
    except SchemaMismatch as problem:
        raise Refusal(str(problem)) from problem
    finally:
        database.dispose()


@contextlib.contextmanager
def _keys(data_dir: Path | None, database_url: str | None) -> Iterator[Keys]:
    from service.auth import Keys

    with opened_database(settings_of(data_dir=data_dir, database_url=database_url)) as database:
        yield Keys(database)


def _refuse_misspelt(known: Iterable[str]) -> None:
    """No variable is near to the name of a setting without being one: it would be ignored in silence."""
    names = [f"ZSQ_{name.upper()}" for name in known]
    for variable in sorted(os.environ):
        if variable.startswith("ZSQ_") and variable not in names and variable not in ELSEWHERE:
            for name in difflib.get_close_matches(variable, names, 1, NEAR):
                raise InvalidOption(
                    f"The variable {variable} is not a setting.", field=variable, remedy=f"Did you mean {name}?"
                )


def _facts(key: Key) -> dict[str, Any]:
    when = {"created": key.created_at.isoformat(), "revoked": key.revoked_at and key.revoked_at.isoformat()}
    return {"id": key.id, "prefix": key.prefix, "name": key.name, "scopes": sorted(key.scopes), **when}


def _line(key: Key) -> str:
    until = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
    return f"{key.prefix}  {','.join(sorted(key.scopes)):12}  {key.created_at:%Y-%m-%d %H:%M}  {until}  {key.name}"
