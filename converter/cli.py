"""``convert`` and ``inspect``: what the command line may be given, checked before anything heavy is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converter.console import DISAPPOINTED, DONE, REFUSED, emit, one_line, run, showing_progress
from converter.errors import InvalidOption
from converter.options import Effort, Method, Options, Precision, Prefer, Step, Target
from converter.outputs import Outputs, existing_model, write_result
from converter.process_memory import prepare_process
from converter.progress import Stage

if TYPE_CHECKING:
    from converter.findings import Metric
    from converter.report import Report

__all__ = ["app", "convert", "inspect", "main", "read_options"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="FP32 ONNX to INT8 ONNX without any data.")

Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The FP32 model.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON for every event, on stdout.")]


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"zsq {version('zsq')}")
        raise typer.Exit


@app.callback()
def options_of_all(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version and end.")
    ] = False,
) -> None:
    """What every command shares."""


@app.command()
def convert(
    model: Model,
    output: Annotated[Path | None, typer.Option("-o", metavar="OUT.onnx", help="The INT8 model.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="OUT.json", help="The report for machines.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT.html", help="The report for people.")] = None,
    method: Annotated[Method | None, typer.Option(help="How calibration data come about.  [default: auto]")] = None,
    precision: Annotated[Precision | None, typer.Option(help="What weights and activations become.")] = None,
    samples: Annotated[int | None, typer.Option(metavar="N", help="Synthetic samples, at most.  [default: 64]")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same bytes.  [default: 0]")] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For synthesis and optimization.  [default: 60]")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads to use.  [default: 1]")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Exit code 3 if INT8 agrees with FP32 less often, e.g. 0.99.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Loss of accuracy the report is to exclude, e.g. 0.01.")
    ] = None,
    expected_accuracy: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The FP32 model's own accuracy, if you know it, e.g. 0.76.")
    ] = None,
    prefer: Annotated[
        Prefer | None, typer.Option(help="What decides where they disagree.  [default: accuracy]")
    ] = None,
    effort: Annotated[Effort | None, typer.Option(help="Time for the last bit of quality.  [default: normal]")] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DATA", help=".npz or image folder of yours, only to measure the result on.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help=".npz or picture folder of yours, to take ranges from instead of synthesis."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Nodes (name, pattern or operator type) to leave in float; repeatable."),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="The only nodes that may become integers; repeatable.")
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="NAME=KIND",
            help="What an output is: classes, detections, embedding, picture or sequence.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=SPEC", help="What you know of an input: range=0:255, kind=tokens ..."),
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(
            help="What will run it: onnxruntime on one of three processors, OpenVINO or TensorRT.  [default: x64]"
        ),
    ] = None,
    skip: Annotated[list[Step] | None, typer.Option(help="Leave this step out; may be repeated.")] = None,
    size_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Mixed precision: a share of INT8's, or 1.5MiB.  [default: 0.75]"),
    ] = None,
    options_file: Annotated[
        Path | None, typer.Option("--options", metavar="FILE.json", help="Options as a file; flags go before it.")
    ] = None,
    checkpoints: Annotated[Path | None, typer.Option(metavar="DIR", hidden=True)] = None,
    as_json: AsJson = False,
) -> int:
    """Turn an FP32 model into an INT8 model, with a report of what that cost.

    Exit codes: 0 done, 2 refused, 3 converted but --min-agreement not met, 4 stopped by a limit, 1 a bug.
    """
    source = existing_model(model)
    given = {
        "method": method, "precision": precision, "samples": samples, "seed": seed, "time_budget": time_budget,
        "threads": threads, "min_agreement": min_agreement, "validation": validation, "target": target,
        "inputs": input_specs(inputs or []) or None, "skip": skip or None, "size_budget": size_budget,
        "max_drop": max_drop, "expected_accuracy": expected_accuracy, "prefer": prefer, "effort": effort,
        "calibration": calibration, "exclude": exclude or None, "include": include or None,
        "outputs": output_kinds(outputs or []) or None,
    }  # fmt: skip
    options = read_options(options_file, given)
    files = Outputs.beside(source, output, report, html)
    files.check(source)
    machine = sys.stdout
    prepare_process()

    def announce(stage: Stage, kept: list[str]) -> None:
        if as_json:
            emit({"event": "checkpoint", "stage": stage, "files": kept}, machine)

    with showing_progress(as_json) as listener:
        from converter.checkpoints import Checkpoints  # these bring torch and onnxruntime: seconds, so only now
        from converter.pipeline import convert as convert_model

        result = convert_model(source, options, listener, Checkpoints(checkpoints, announce))
        write_result(result, files)
    if as_json:
        emit({"event": "result", "model": str(files.model), "report": str(files.report), "html": str(files.html)})
    else:
        print(closing_lines(result.report, files))
    return verdict(result.report, options.min_agreement)


@app.command()
def inspect(model: Model, as_json: AsJson = False) -> int:
    """Show what is in a model, what would be quantized, and what would be refused and why."""
    source = existing_model(model)
    from converter.inspection import inspect as inspect_model

    inspection = inspect_model(source)
    if as_json:
        emit({"event": "inspection", **inspection.to_dict()})
    else:
        print(inspection)
    if not inspection.refusals:
        return DONE
    print(f"zsq: {one_line(inspection.refusals[0])}", file=sys.stderr)
    return REFUSED


@app.command()
def verify(
    int8: Annotated[Path, typer.Argument(metavar="INT8.onnx", help="What zsq convert wrote.", show_default=False)],
    float32: Annotated[Path, typer.Argument(metavar="FP32.onnx", help="What it was made from.", show_default=False)],
    calibration: Annotated[
        Path | None, typer.Option(metavar="DATA", help="The data it was calibrated on, if it was on data of yours.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make an INT8 model again as it says it was made, and compare byte by byte.

    Exit codes: 0 the same bytes, 3 others, 2 refused.
    """
    given, source = existing_model(int8), existing_model(float32)
    prepare_process()
    with showing_progress(as_json) as listener:
        from converter.verification import verify as verify_model

        found = verify_model(given, source, calibration, listener)
    if as_json:
        emit({"event": "verification", "same": found.same, "differences": list(found.differences)})
    elif found.same:
        print(f"{given} is, byte for byte, what zsq makes of {source}.")
    if found.same:
        return DONE
    print(f"zsq: {given} is not what zsq makes of {source} here. {' '.join(found.differences)}", file=sys.stderr)
    return DISAPPOINTED


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="A report.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="Another.", show_default=False)],
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write the table as a page.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show two reports side by side, and by how much they differ."""
    reports = [read_report(path) for path in (first, second)]
    from converter.files import write_whole
    from converter.report.comparison import compare as compare_reports

    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    comparison = compare_reports(reports[0], reports[1], names)
    if html is not None:
        write_whole({html: comparison.to_html().encode()})
    if as_json:
        emit({"event": "comparison", **comparison.to_dict()})
    else:
        print(comparison)
    return DONE


@app.command()
def schema() -> int:
    """Print the JSON schema of reports, with its version."""
    from converter.report import Report

    print(json.dumps(Report.json_schema(), indent=1))
    return DONE


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where everything goes.")] = Path("zsq-demo"),
) -> int:
    """Train a small real classifier, convert it, and say where the report is."""
    from converter.demo import demonstrate

    print(demonstrate(folder))
    return DONE


def read_report(path: Path) -> Report:
    """The report in a file; raises InvalidOption saying why there is none."""
    from pydantic import ValidationError

    from converter.report import Report

    try:
        return Report.from_json(path.read_bytes())
    except OSError as problem:
        raise InvalidOption(f"{path} cannot be read: {problem.strerror}.", field="report") from problem
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise InvalidOption(
            f"{path} is no report of this version of zsq: {place}: {first['msg']}.",
            field="report",
            remedy="Give the .report.json that zsq convert wrote.",
        ) from problem


def read_options(file: Path | None, given: dict[str, Any]) -> Options:
    """The options of the file, overruled by those given; raises InvalidOption."""
    stored: Any = {}
    if file is not None:
        try:
            stored = json.loads(file.read_text())
        except (OSError, ValueError) as problem:
            raise InvalidOption(f"{file} cannot be read as JSON: {problem}.", field="options") from problem
        if not isinstance(stored, dict):
            raise InvalidOption(f"{file} does not hold a JSON object.", field="options")
    options = Options.from_dict(stored | {name: value for name, value in given.items() if value is not None})
    for name, path in (("validation", options.validation), ("calibration", options.calibration)):
        if path is not None and not path.exists():
            raise InvalidOption(f"There is no {name} data at {path}.", field=name)
    return options


def input_specs(given: Sequence[str]) -> dict[str, str]:
    """NAME=SPEC, several times, as a mapping."""
    specs: dict[str, str] = {}
    for text in given:
        name, equals, spec = text.partition("=")
        if not (name and equals and spec):
            raise InvalidOption(
                f"--input {text!r} is not NAME=SPEC.", field="input", remedy="For example --input image=range=0:255."
            )
        specs[name] = f"{specs[name]};{spec}" if name in specs else spec
    return specs


def output_kinds(given: Sequence[str]) -> dict[str, str]:
    """NAME=KIND, several times, as a mapping; raises InvalidOption."""
    kinds: dict[str, str] = {}
    for text in given:
        name, equals, kind = text.rpartition("=")
        if not (name and equals and kind):
            raise InvalidOption(
                f"--output {text!r} is not NAME=KIND.",
                field="outputs",
                remedy="For example --output scores=classes; the file to write is named with -o.",
            )
        kinds[name] = kind
    return kinds


def verdict(report: Report, wanted: float | None) -> int:
    """The exit code of a conversion whose INT8 model should decide as FP32 on a share ``wanted``, and why, printed."""
    if wanted is None:
        return DONE
    shown = judged_agreement(report)
    if shown is None:
        print(
            f"zsq: --min-agreement could not be compared: {report.predicted.reason or 'nothing was measured'}.",
            file=sys.stderr,
        )
        return DONE
    if shown >= wanted:
        return DONE
    print(
        f"zsq: INT8 may agree with FP32 on {shown:.1%} of inputs only, where {wanted:.1%} were asked for; see the "
        "report.",
        file=sys.stderr,
    )
    return DISAPPOINTED


def closing_lines(report: Report, outputs: Outputs) -> str:
    """What a person wants to know when it is over; the page says the rest."""
    from converter.findings.gains import faster, smaller

    size = report.size
    lines = [
        f"verdict {report.verdict.sentence}",
        f"model   {outputs.model}  ({size.int8_bytes / 1e6:.2f} MB, {smaller(size.ratio)})",
        f"report  {outputs.html}",
        f"        {outputs.report}",
    ]
    if report.validation is not None:
        lines += [f"yours   {_metric(metric)}" for metric in report.validation.metrics]
    expected, change = report.predicted.agreement, report.predicted.accuracy_change
    if expected is not None and change is not None:
        lines.append(
            f"expect  the same decision as FP32 on {expected.interval.low:.1%} to {expected.interval.high:.1%} of real "
            f"inputs, accuracy {change.interval.low * 100:+.1f} to {change.interval.high * 100:+.1f} points "
            f"({report.predicted.level:.0%} of cases)"
        )
    else:
        ratios = [each.sqnr_db for each in report.fidelity.outputs if each.sqnr_db is not None]
        if ratios:
            lines.append(f"signal  {min(ratios):.1f} dB above the error, on synthetic inputs, in the worst output")
    if report.latency is not None:
        before, after = report.latency.float32.median_ms, report.latency.int8.median_ms
        lines.append(f"time    {faster(report.latency.speedup)} on this processor ({before:.3g} ms, {after:.3g} ms)")
    return "\n".join([*lines, *(f"note    {caution.message}" for caution in report.warnings)])


def _metric(metric: Metric) -> str:
    error = f"{metric.standard_error:.4g}"
    return f"{metric.name}: FP32 {metric.float32:.4g}, INT8 {metric.int8:.4g} (±{error}, {metric.n} samples)"


def judged_agreement(report: Report) -> float | None:
    """The lower end of the interval of agreement, on the owner's data if there are any, else expected on real data.

    None where the model has no decisions to agree on.
    """
    if report.validation is not None and report.validation.decisions is not None:
        return report.validation.decisions.agreement.interval.low
    expected = report.predicted.agreement
    return None if expected is None else expected.interval.low


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ran; returns its exit code."""
    return run(app, sys.argv[1:] if arguments is None else arguments, "zsq")


if __name__ == "__main__":
    raise SystemExit(main())
