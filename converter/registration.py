"""``zsq mlflow register``: a converted model becomes a version of a registered model in MLflow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from converter.cli import AsJson, read_report
from converter.console import DONE, emit, run
from converter.errors import InvalidOption
from converter.outputs import Outputs, existing_model
from converter.tracking import ALIAS, EXPERIMENT, Place
from converter.tracking import register as register_model

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Converted models in MLflow.")


@app.callback()
def commands() -> None:
    """More commands come with the service."""


@app.command()
def register(
    int8: Annotated[Path, typer.Argument(metavar="INT8.onnx", help="What zsq convert wrote.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="The registered model.")],
    uri: Annotated[str, typer.Option("--uri", envvar="MLFLOW_TRACKING_URI", help="Where MLflow is.")],
    alias: Annotated[str, typer.Option(help="The alias to put on the version.")] = ALIAS,
    experiment: Annotated[str, typer.Option(help="Whose run it becomes.")] = EXPERIMENT,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="REPORT.json", help="[default: beside the model]")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Of run and version.")] = None,
    as_json: AsJson = False,
) -> int:
    """Log an INT8 model, its report and figures, and register it; doing it twice leaves one version.

    Credentials are MLflow's own variables, such as MLFLOW_TRACKING_TOKEN.
    """
    place = Place(uri, name, alias, experiment)
    files = Outputs.beside(existing_model(int8), int8, report)
    tags = dict(map(_pair, tag or ()))
    done = register_model(files.model, read_report(files.report), place, tags)
    if as_json:
        emit({"event": "registered", "name": done.name, "version": done.version, "run": done.run, "new": done.new})
    else:
        print(f"{done.name} version {done.version}{'' if done.new else ', as before'}, run {done.run}")
    return DONE


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidOption(f"--tag {text!r} is not NAME=VALUE.", field="tag")
    return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ran; returns its exit code."""
    return run(app, sys.argv[1:] if arguments is None else arguments, "zsq mlflow")


if __name__ == "__main__":
    raise SystemExit(main())
