"""``zsq validate``: a converted model tried on data of its owner's."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.cli import AsJson
from converter.console import DISAPPOINTED, DONE, emit, run
from converter.files import write_whole
from converter.outputs import existing_model
from converter.process_memory import prepare_process

if TYPE_CHECKING:
    from converter.findings import Validation

__all__ = ["validate"]

app = typer.Typer(add_completion=False)


@app.command()
def validate(
    int8: Annotated[Path, typer.Argument(metavar="INT8.onnx", help="What zsq convert wrote.", show_default=False)],
    float32: Annotated[Path, typer.Argument(metavar="FP32.onnx", help="What it was made from.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help=".npz, picture folder, or .zip of pictures.", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option("-o", metavar="OUT.json", help="What was measured, as JSON.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Exit code 3 if INT8 may agree with FP32 less often.")
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads to use.")] = 1,
    as_json: AsJson = False,
) -> int:
    """Measure an INT8 model on your own data, labelled or not, after it was converted.

    Exit codes: 0 done, 2 refused, 3 the agreement's interval begins below --min-agreement.
    """
    given, source = existing_model(int8), existing_model(float32)
    prepare_process()
    from converter.validation import validate as validate_model  # brings torch and onnxruntime: seconds

    found = validate_model(given, source, data, threads)
    facts = found.model_dump(mode="json")
    if output is not None:
        write_whole({output: json.dumps(facts, indent=1).encode()})
    if as_json:
        emit({"event": "result", "validation": facts})
    else:
        print("\n".join(lines_of(found)))
    low = None if found.decisions is None else found.decisions.agreement.interval.low
    if min_agreement is None or low is None or low >= min_agreement:
        return DONE
    print(f"zsq: INT8 may agree with FP32 on {low:.1%} of such inputs only.", file=sys.stderr)
    return DISAPPOINTED


def lines_of(found: Validation) -> list[str]:
    """What a person wants to know of it."""
    lines = [f"data    {found.source}, {found.samples} samples, {found.preparation}"]
    if found.decisions is not None:
        share = found.decisions.agreement
        lines.append(
            f"agree   the same decision as FP32 on {share.value:.1%} "
            f"({share.interval.low:.1%} to {share.interval.high:.1%} of such inputs)"
        )
    for each in found.metrics:
        lines.append(
            f"{each.name:7} FP32 {each.float32:.1%}, INT8 {each.int8:.1%} "
            f"({each.difference * 100:+.1f} ± {each.standard_error * 100:.1f} points)"
        )
    if found.decisions is None:
        ratios = [each.sqnr_db for each in found.outputs if each.sqnr_db is not None]
        lines += [f"signal  {min(ratios):.1f} dB above the error in the worst output"] if ratios else []
    return [*lines, *(f"note    {note}" for note in found.notes)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ran; returns its exit code."""
    return run(app, sys.argv[1:] if arguments is None else arguments, "zsq")


if __name__ == "__main__":
    raise SystemExit(main())
