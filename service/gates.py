"""``zsq gate``: whether reports are good enough to go on, told to people, to pipelines and in JUnit's form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.etree import ElementTree

import typer

from converter.cli import judged_agreement
from converter.console import DISAPPOINTED, DONE
from converter.errors import InvalidOption
from converter.findings.gains import faster

if TYPE_CHECKING:
    from converter.report.schema import Report

__all__ = ["Check", "Wanted", "checks_of", "gate", "judge", "junit", "markdown"]


class Outcome(StrEnum):
    """What became of one check."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # nothing measured supports a verdict: not a pass


@dataclass(frozen=True)
class Wanted:
    """What a report must show; None is not asked for. Shares from 0 to 1, and times."""

    agreement: float | None = None
    drop: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Check:
    """One question to one report, and the answer in a sentence."""

    model: str
    name: str
    outcome: Outcome
    sentence: str


def checks_of(report: Report, wanted: Wanted) -> list[Check]:
    """Each thing that is wanted, looked for in the report."""
    found: list[Check] = []
    reason = report.predicted.reason or "nothing was measured"

    def check(name: str, value: float | None, least: float | None, said: str) -> None:
        if least is None:
            return
        if value is None:
            found.append(Check(report.model.name, name, Outcome.UNKNOWN, f"Not known: {reason}."))
        else:
            outcome = Outcome.PASSED if value >= least else Outcome.FAILED
            found.append(Check(report.model.name, name, outcome, said.format(value=value, least=least)))

    change = report.predicted.accuracy_change
    check("agreement", judged_agreement(report), wanted.agreement,
          "INT8 decides as FP32 on at least {value:.1%} of inputs; {least:.1%} were asked for.")  # fmt: skip
    check("accuracy", None if change is None else change.interval.low, None if wanted.drop is None else -wanted.drop,
          "The accuracy changes by {value:+.1%} at worst; {least:+.1%} is allowed.")  # fmt: skip
    words = "" if report.latency is None else faster(report.latency.speedup)
    check("speed", None if report.latency is None else report.latency.speedup, wanted.speedup,
          f"INT8 is {words}, {{value:.2f}} times FP32's speed; {{least:.2f}} were asked for.")  # fmt: skip
    return found


def junit(checks: Sequence[Check]) -> str:
    """The checks as a JUnit document: a suite for each model; what is unknown is a failure there."""
    root = ElementTree.Element("testsuites", name="zsq")
    for model in dict.fromkeys(each.model for each in checks):
        own = [each for each in checks if each.model == model]
        failed = sum(each.outcome is not Outcome.PASSED for each in own)
        suite = ElementTree.SubElement(root, "testsuite", name=model, tests=str(len(own)), failures=str(failed))
        for each in own:
            case = ElementTree.SubElement(suite, "testcase", classname=f"zsq.{model}", name=each.name)
            if each.outcome is not Outcome.PASSED:
                ElementTree.SubElement(case, "failure", message=each.sentence, type=str(each.outcome))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(checks: Sequence[Check]) -> str:
    """The checks as a table, such as for the summary of a job on GitHub."""
    rows = [f"| {_cell(each.model)} | {each.name} | {each.outcome} | {_cell(each.sentence)} |" for each in checks]
    return "\n".join(["| model | check | outcome | |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def judge(
    reports: Sequence[Path], wanted: Wanted, junit_file: Path | None, summary: Path | None, *, quiet: bool = False
) -> int:
    """The checks are written, and printed unless quiet; 3 unless all of them passed. Raises InvalidOption."""
    from pydantic import ValidationError

    from converter.report.schema import Report

    checks: list[Check] = []
    for path in reports:
        try:
            checks += checks_of(Report.model_validate_json(path.read_text()), wanted)
        except (OSError, ValueError, ValidationError) as problem:
            raise InvalidOption(f"{path} is not a report of this version of zsq.", field="report") from problem
    if junit_file is not None:
        junit_file.write_text(junit(checks))
    if summary is not None:
        with summary.open("a") as file:  # GitHub's summary file is added to by every step
            file.write(markdown(checks))
    for each in () if quiet else checks:
        print(f"{each.outcome:8}{each.model}  {each.name}: {each.sentence}")
    return DONE if all(each.outcome is Outcome.PASSED for each in checks) else DISAPPOINTED


def gate(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="Reports of conversions.")],
    min_agreement: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Least share of equal decisions.")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(metavar="SHARE", help="Most loss of accuracy.")] = None,
    min_speedup: Annotated[float | None, typer.Option(metavar="TIMES", help="Least speed over FP32.")] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="OUT.xml", help="The checks for a CI system.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="OUT.md", help="The checks as a table, added to what is there.")
    ] = None,
) -> int:
    """Check reports against what is wanted: 0 if all hold, 3 if one does not or is unknown."""
    wanted = Wanted(min_agreement, max_drop, min_speedup)
    if wanted == Wanted():
        raise InvalidOption("Nothing is asked for.", remedy="Give --min-agreement, --max-drop or --min-speedup.")
    return judge(reports, wanted, junit_file, summary)
