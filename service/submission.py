"""``zsq submit``: a conversion through a running service, as if it were done here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter import errors
from converter.console import emit, showing_progress
from converter.errors import ConversionError, Refusal
from converter.outputs import Outputs
from converter.progress import Progress, Stage
from service.client import Client, ClientError, Conversion, ConversionFailed

__all__ = ["submit_and_wait", "submit_only"]


def submit_only(
    url: str, api_key: str | None, source: Path, options: Mapping[str, Any], fresh: bool, as_json: bool
) -> None:
    """The model is with the service, and where to look for it is printed."""
    with _connected(url, api_key) as client:
        conversion = client.submit(source, options, fresh=fresh)
    if as_json:
        emit({"event": "submitted", **conversion.facts})
    else:
        print(f"{conversion.id}  {conversion.status}  {url.rstrip('/')}/v1/conversions/{conversion.id}")


def submit_and_wait(
    url: str,
    api_key: str | None,
    source: Path,
    options: Mapping[str, Any],
    fresh: bool,
    outputs: Outputs,
    as_json: bool,
) -> None:
    """The three files are at their places; raises what the converter would have raised here."""
    started = time.monotonic()
    with showing_progress(as_json) as show, _connected(url, api_key) as client:

        def moment(stage: Stage, progress: float, message: str, left: float | None = None) -> None:
            show(Progress(stage, 0.0, progress, message, time.monotonic() - started, left))

        def sent(done: int, total: int | None) -> None:
            moment(Stage.ADMISSION, 0.0, f"sent {done / 1e6:.1f} of {(total or done) / 1e6:.1f} MB")

        def progress(state: Conversion) -> None:
            if state.stage in set(Stage):
                left = state.facts.get("seconds_left")
                moment(Stage(state.stage), state.progress, str(state.facts.get("message") or ""), left)
            else:
                moment(
                    Stage.ADMISSION, state.progress, "waits for its turn" if state.status == "queued" else state.status
                )

        conversion = client.submit(source, options, fresh=fresh, sent=sent)
        client.wait(conversion.id, progress)
        for artefact, target in (("html", outputs.html), ("report", outputs.report), ("model", outputs.model)):
            client.download(conversion.id, artefact, target)
    if as_json:
        emit({"event": "result", "model": str(outputs.model), "report": str(outputs.report), "html": str(outputs.html)})
    else:
        print(f"model   {outputs.model}\nreport  {outputs.html}\n        {outputs.report}")


@contextlib.contextmanager
def _connected(url: str, api_key: str | None) -> Iterator[Client]:
    """A client whose errors are those of the converter, so that the exit codes are the same."""
    try:
        with Client(url, api_key, attempts=1) as once:
            once.health()  # a wrong address is told at once, not after the patience that a conversion deserves
        with Client(url, api_key) as client:
            yield client
    except ConversionFailed as failed:
        raise _as_here(failed.conversion) from failed
    except ClientError as problem:
        raise Refusal(f"{url}: {problem}") from problem


def _as_here(conversion: Conversion) -> ConversionError:
    """The error that the conversion would have ended with in this process."""
    facts = dict(conversion.error or {})
    if conversion.status == "cancelled":
        return errors.Cancelled("The conversion was cancelled.")
    kind = getattr(errors, str(facts.get("kind")), ConversionError)
    if not (isinstance(kind, type) and issubclass(kind, ConversionError)):
        kind = ConversionError
    places = ("node", "operator", "attribute", "tensor", "field", "remedy")
    given = {place: str(facts[place]) for place in places if facts.get(place)}
    return kind(str(facts.get("message") or "The conversion failed."), **given)
