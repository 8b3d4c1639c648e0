"""The command ``zsq``, with or without what the service needs: a plain installation converts, and says what is missing
for the rest.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import typer

from converter import cli, registration, trial
from converter.console import REFUSED, run

__all__ = ["main"]

SERVICE = ("serve", "worker", "submit", "keys")
PACKAGES = (
    *("anyio", "dbos", "fastapi", "httpx2", "limits", "obstore", "prometheus_client", "psycopg", "pydantic_settings"),
    *("python_multipart", "sqlalchemy", "standardwebhooks", "structlog", "uvicorn"),
)


def main() -> int:
    """The command ran; returns its exit code."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        return run(_converter_alone(missing), sys.argv[1:], "zsq")
    from service.cli import main as whole

    return whole()


def _converter_alone(missing: list[str]) -> typer.Typer:
    """The converter's commands, and in place of the service's own ones that say what to install."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, help=cli.app.info.help)
    app.callback()(cli.options_of_all)
    for command in (cli.convert, cli.inspect, cli.verify, trial.validate, cli.compare, cli.demo):
        app.command()(command)
    app.add_typer(registration.app, name="mlflow")
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

    def refuse(context: typer.Context) -> int:
        print(
            f"zsq: {context.info_name} needs packages that are not here ({', '.join(missing)}). "
            "Install them with pip install 'zsq[service]'.",
            file=sys.stderr,
        )
        return REFUSED

    for name in SERVICE:
        app.command(name, context_settings=settings, help="Needs zsq[service].")(refuse)
    return app
