"""``zsq mlflow``: what a service has registered or could not, beside the converter's own command."""

from __future__ import annotations

from typing import Annotated

import typer

from converter.cli import AsJson
from converter.console import DONE, emit
from converter.registration import app
from service.hookring import opened_jobs, try_again
from service.keyring import DatabaseUrl, DataDir

__all__ = ["app"]

MOST = 500


@app.command("list")
def list_registrations(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> int:
    """Show the newest registrations of a service's conversions."""
    with opened_jobs(data_dir, database_url) as jobs:
        for each in jobs.registrations("dead" if dead else None, MOST):
            if as_json:
                facts = {"id": each.id, "job": each.job_id, "name": each.name, "version": each.version}
                emit({**facts, "status": each.status, "attempts": each.attempts, "error": each.last_error})
            else:
                what = f"{each.name} version {each.version}" if each.version else each.name
                when = f"{each.updated_at:%Y-%m-%d %H:%M}"
                print(f"{each.id}  {each.status:9}  {when}  tried {each.attempts}  {what}  {each.last_error or ''}")
    return DONE


@app.command()
def resend(
    registration: Annotated[str, typer.Argument(help="Its id, as zsq mlflow list shows it.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Try a registration once more."""
    from service.outbox import REGISTRATIONS

    return try_again(REGISTRATIONS, registration, "registration", "zsq mlflow list --dead", data_dir, database_url)
