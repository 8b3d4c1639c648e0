"""``zsq webhooks``: the secret that a key's messages are signed with, and the messages that could not be delivered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.cli import AsJson
from converter.console import DONE, emit
from converter.errors import InvalidOption
from service.keyring import DatabaseUrl, DataDir, opened_database, settings_of

if TYPE_CHECKING:
    from service.jobs import Jobs
    from service.outbox import Box

__all__ = ["app", "opened_jobs", "try_again"]

app = typer.Typer(no_args_is_help=True, help="Webhook messages of a service.")
LOCAL = "local"


@app.command()
def secret(
    key: Annotated[str, typer.Argument(help="The key's id or prefix; without keys, local.")] = LOCAL,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> int:
    """Make a new signing secret, shown this once; the former one holds for a day more."""
    from service.auth import Keys
    from service.signing import Secrets

    settings = settings_of(data_dir=data_dir, database_url=database_url)
    with opened_database(settings) as database:
        owner = key
        if key != LOCAL:
            found = [each for each in Keys(database).list() if key in (each.id, each.prefix)]
            if not found:
                raise InvalidOption(f"There is no key {key}.", remedy="See zsq keys list.")
            owner = found[0].id
        made = Secrets(database, settings).make(owner)
    if as_json:
        emit({"key": owner, "secret": made})
    else:
        print(
            f"{made}\nThis is the only time the secret is shown. Messages carry the former one's signature for a day."
        )
    return DONE


@app.command("list")
def list_deliveries(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> int:
    """Show the newest messages of all keys."""
    with opened_jobs(data_dir, database_url) as jobs:
        for each in jobs.all_deliveries(None, "dead" if dead else None, 500):
            if as_json:
                emit(
                    {
                        "id": each.id,
                        "job": each.job_id,
                        "url": each.url,
                        "status": each.status,
                        "error": each.last_error,
                    }
                )
            else:
                when = f"{each.updated_at:%Y-%m-%d %H:%M}"
                print(f"{each.id}  {each.status:9}  {when}  tried {each.attempts}  {each.url}  {each.last_error or ''}")
    return DONE


@app.command()
def resend(
    message: Annotated[str, typer.Argument(help="Its id, as zsq webhooks list shows it.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Try a message once more."""
    from service.outbox import WEBHOOKS

    return try_again(WEBHOOKS, message, "message", "zsq webhooks list --dead", data_dir, database_url)


def try_again(
    box: Box, identifier: str, noun: str, listing: str, data_dir: Path | None, database_url: str | None
) -> int:
    """The exit code once what the outbox has under this id is to be sent again; raises InvalidOption if it has none."""
    from service.outbox import resend

    with opened_jobs(data_dir, database_url) as jobs:
        if not resend(jobs.database, jobs.engine, box, identifier, None):
            raise InvalidOption(f"There is no {noun} {identifier} to send again.", remedy=f"See {listing}.")
    print(f"{identifier} is tried again by the next worker")
    return DONE


@contextlib.contextmanager
def opened_jobs(data_dir: Path | None, database_url: str | None) -> Iterator[Jobs]:
    """The jobs of a service, seen from the command line; raises Refusal where its database does not answer."""
    from service.jobs import Jobs

    settings = settings_of(data_dir=data_dir, database_url=database_url)
    with opened_database(settings):
        jobs = Jobs.open(settings)
        try:
            yield jobs
        finally:
            jobs.close()
