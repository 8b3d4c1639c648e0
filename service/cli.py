"""The command ``zsq``: the converter's own commands, and those of the service."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import converter.cli
import converter.trial
import service.gates
import service.hookring
import service.keyring
import service.registrar
from converter.console import DONE, run
from converter.options import Effort, Method, Precision, Prefer, Step, Target
from converter.outputs import Outputs, existing_model
from service.keyring import DatabaseUrl, DataDir, settings_of

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help=converter.cli.app.info.help)
app.command()(converter.cli.convert)
app.command()(converter.cli.inspect)
app.command()(converter.cli.verify)
app.command()(converter.trial.validate)
app.command()(converter.cli.compare)
app.command()(converter.cli.schema)
app.command()(converter.cli.demo)
app.callback()(converter.cli.options_of_all)
app.command()(service.gates.gate)
app.add_typer(service.keyring.app, name="keys")
app.add_typer(service.hookring.app, name="webhooks")
app.add_typer(service.registrar.app, name="mlflow")

StoreUrl = Annotated[str | None, typer.Option(help="file:///FOLDER or s3://BUCKET/PREFIX")]
NOT_STARTED = 1
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; keys are asked for beyond loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    store_url: StoreUrl = None,
    auth: Annotated[bool | None, typer.Option("--auth/--no-auth", help="Whether requests need an API key.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes to run beside the API.")] = 1,
    worker_concurrency: Annotated[int | None, typer.Option(help="Conversions at once in each worker.")] = None,
    keep_days: Annotated[float | None, typer.Option(help="How long results are kept.")] = None,
    log_level: LogLevel = None,
) -> int:
    """Run the service: API, page and worker, nothing else needed.

    Every other setting is an environment variable ZSQ_..., see the README.
    """
    settings = settings_of(
        host=host, port=port, data_dir=data_dir, database_url=database_url, store_url=store_url, auth=auth,
        worker=workers > 0, worker_concurrency=worker_concurrency, keep_days=keep_days, log_level=log_level,
    )  # fmt: skip
    from service.serving import serve as serve_until_told

    return _started(lambda: serve_until_told(settings, workers))


@app.command()
def worker(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    store_url: StoreUrl = None,
    worker_concurrency: Annotated[int | None, typer.Option(help="Conversions at once.")] = None,
    log_level: LogLevel = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run one more worker for the same database and store."""
    settings = settings_of(
        data_dir=data_dir, database_url=database_url, store_url=store_url, worker_concurrency=worker_concurrency,
        log_level=log_level,
    )  # fmt: skip
    from service.serving import die_with_parent
    from service.worker import run_worker

    if parent is not None:
        die_with_parent(parent)
    return _started(lambda: run_worker(settings))


def _started(work: Callable[[], None]) -> int:
    """The exit code of a service's process: 1, and a sentence, if its surroundings did not let it begin."""
    from service.startup import CannotStart

    try:
        work()
    except CannotStart as problem:
        print(f"zsq: {problem}", file=sys.stderr)
        return NOT_STARTED
    return DONE


@app.command()
def submit(
    model: converter.cli.Model,
    url: Annotated[str, typer.Option(envvar="ZSQ_URL", help="Where the service is.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="ZSQ_API_KEY", help="Better given in the environment.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is done and fetch the files.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", metavar="DIR", help="Put the files here.  [default: beside the model]"),
    ] = None,
    method: Annotated[Method | None, typer.Option(help="How calibration data come about.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="What weights and activations become.")] = None,
    samples: Annotated[int | None, typer.Option(metavar="N")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N")] = None,
    time_budget: Annotated[float | None, typer.Option(metavar="SECONDS")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Exit code 3 below it, with --wait.")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(metavar="SHARE")] = None,
    expected_accuracy: Annotated[float | None, typer.Option(metavar="SHARE")] = None,
    prefer: Annotated[Prefer | None, typer.Option(help="What decides where they disagree.")] = None,
    effort: Annotated[Effort | None, typer.Option(help="Time for the last bit of quality.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Nodes to leave in float.")] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="The only ones to make integer.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", metavar="NAME=SPEC")] = None,
    kinds: Annotated[list[str] | None, typer.Option("--output", metavar="NAME=KIND")] = None,
    target: Annotated[
        Target | None,
        typer.Option(
            help="What will run it: onnxruntime on one of three processors, OpenVINO or TensorRT.  [default: x64]"
        ),
    ] = None,
    skip: Annotated[list[Step] | None, typer.Option(help="Leave this step out; may be repeated.")] = None,
    size_budget: Annotated[str | None, typer.Option(metavar="SIZE", help="Of mixed precision.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Convert again, even if there is a result already.")] = False,
    as_json: converter.cli.AsJson = False,
) -> int:
    """Convert a model through a running service."""
    source = existing_model(model)
    given = {
        "method": method, "precision": precision, "samples": samples, "seed": seed, "time_budget": time_budget,
        "inputs": converter.cli.input_specs(inputs or []) or None, "target": target, "skip": skip or None,
        "min_agreement": min_agreement, "max_drop": max_drop, "expected_accuracy": expected_accuracy,
        "prefer": prefer, "effort": effort, "exclude": exclude or None, "include": include or None,
        "outputs": converter.cli.output_kinds(kinds or []) or None, "size_budget": size_budget,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    converter.cli.read_options(None, options)  # refused here rather than after an upload
    outputs = Outputs.beside(source if output is None else output / source.name)
    if wait:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        outputs.check(source)
    from service.submission import submit_and_wait, submit_only

    if wait:
        submit_and_wait(url, api_key, source, options, fresh, outputs, as_json)
        if min_agreement is not None:
            return converter.cli.verdict(converter.cli.read_report(outputs.report), min_agreement)
    else:
        submit_only(url, api_key, source, options, fresh, as_json)
    return DONE


def main() -> int:
    """The command ran; returns its exit code."""
    return run(app, sys.argv[1:], "zsq")
