"""A conversion from file to INT8 model and report, as one function that can be read aloud."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from onnx import ModelProto

from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.errors import InvalidOption
from converter.evaluation.stage import measure
from converter.expectation import expected_seconds
from converter.files import write_whole
from converter.inputs.calibration_data import Calibration, prepared_data, read_data
from converter.inputs.description import describe_task
from converter.inputs.own_data import find_data
from converter.inputs.plans import InputPlan
from converter.interface import restore_types
from converter.normalization import normalize
from converter.options import RANGELESS, Options, Precision
from converter.process_memory import return_freed_memory
from converter.progress import Listener, Reporter, Stage, silent
from converter.provenance import Provenance, digest
from converter.quantization.calibration import SampleReader
from converter.quantization.int4_packing import raise_opset
from converter.quantization.stage import Integers, make_integers
from converter.reconstruction import reconstruct
from converter.report import Report
from converter.report.assembly import Facts, assemble_report
from converter.synthesis.stage import make_samples

__all__ = ["Result", "convert", "samples"]

Source = str | Path | bytes | ModelProto


@dataclass(frozen=True)
class Result:
    """An INT8 model and the report of what it cost."""

    model: ModelProto
    report: Report
    inputs: tuple[InputPlan, ...] = ()  # what each input was taken for

    def save(self, path: str | Path) -> None:
        """The model is at ``path``, whole or not at all; raises OutputNotWritable."""
        write_whole({Path(path): self.model.SerializeToString()})


@dataclass
class Clock:
    """Seconds spent in each stage."""

    reporter: Reporter
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, stage: Stage, message: str) -> Iterator[None]:
        """Announces a stage, counts its time, and gives back what it freed."""
        started = time.monotonic()
        self.reporter(stage, 0.0, message)
        yield
        return_freed_memory()
        self.stages[stage] = self.stages.get(stage, 0.0) + time.monotonic() - started


def convert(
    source: Source,
    options: Options | None = None,
    progress: Listener = silent,
    checkpoints: str | Path | Checkpoints | None = None,
    calibration: Calibration | str | Path | None = None,
) -> Result:
    """The INT8 model of an FP32 model, made without data, and its report.

    ``source`` is a path, the file's bytes or a ModelProto; ``progress`` hears of every step; in the folder
    ``checkpoints`` finished stages are kept, so that the same call goes on where it was cut off. ``calibration`` is
    data of yours to take ranges from instead: a CalibrationDataReader, batches of network inputs by name, one array
    [N, ...] for each input, or the path of an .npz or of a folder of pictures.

    Raises ConversionError, which says in a sentence what is wrong, where, and what to do.
    """
    options = options or Options()
    kept = checkpoints if isinstance(checkpoints, Checkpoints) else Checkpoints(_folder(checkpoints))
    started, clock = datetime.now(UTC), Clock(Reporter(progress))
    with one_thread_each(options.threads):
        with clock.stage(Stage.ADMISSION, "checking the model"):
            admitted = admit(source)
        with clock.stage(Stage.NORMALIZATION, "normalizing the graph"):
            normalized = normalize(admitted.model)
            if options.precision not in RANGELESS | {Precision.INT8}:
                normalized = replace(normalized, model=raise_opset(normalized.model))
        with clock.stage(Stage.RECONSTRUCTION, "rebuilding the network in torch"):
            network = reconstruct(normalized.model)
            given = _only_one(calibration, options.calibration)
            own = read_data(admitted.model, given)
            task = describe_task(admitted.model, normalized, network, options, own.feeds if own else ())
            if own is None and isinstance(given, Path):
                own = prepared_data(admitted.model, task.plans, given)
            data = find_data(admitted.model, task.plans, options.validation, kinds=options.outputs)
            kept = kept.of(task.model, options, own.digest if own else "")
        clock.reporter.expect(expected_seconds(task, options))
        with clock.stage(Stage.SYNTHESIS, f"making {'' if own else 'calibration '}data ({options.method})"):
            made = make_samples(task, options, clock.reporter, kept, own)
        with clock.stage(Stage.OPTIMIZATION, "deciding ranges, rounding and precision"):
            integers: Integers = make_integers(task, made, options, clock.reporter, kept)
            Provenance.of(digest(source), options, own.digest if own else "").write(integers.model)
        with clock.stage(Stage.FIDELITY, "measuring INT8 against FP32"):
            measured = measure(
                admitted.model,
                task,
                made,
                integers,
                options,
                data,
                lambda share, message: clock.reporter(Stage.FIDELITY, share, message),
            )
        with clock.stage(Stage.REPORT, "writing the report"):
            facts = Facts(source, started, clock.stages, admitted, normalized)
            report = assemble_report(facts, task, made, integers, measured, options)
        restore_types(integers.model, admitted.types)
    clock.reporter(Stage.REPORT, 1.0, "done")
    return Result(integers.model, report, task.plans)


def samples(
    source: Source, options: Options | None = None, progress: Listener = silent, batch: int = 8
) -> SampleReader:
    """The synthesized data that ``convert`` would calibrate with, as onnxruntime's CalibrationDataReader.

    Each batch holds network inputs by name, at most ``batch`` samples of them; ``rewind`` starts over. Raises
    ConversionError.
    """
    options, reporter = options or Options(), Reporter(progress)
    with one_thread_each(options.threads):
        admitted = admit(source)
        normalized = normalize(admitted.model)
        task = describe_task(admitted.model, normalized, reconstruct(normalized.model), options)
        made = make_samples(task, options, reporter, Checkpoints(None))
    return SampleReader(lambda: made.feeds(batch))


def _folder(checkpoints: str | Path | None) -> Path | None:
    """The folder, which need not exist yet; raises InvalidOption for what can be none."""
    if checkpoints is None:
        return None
    folder = Path(checkpoints)
    if folder.exists() and not folder.is_dir():
        raise InvalidOption(f"{folder} is no folder.", field="checkpoints", remedy="Name one for finished stages.")
    return folder


def _only_one(calibration: Calibration | str | Path | None, path: Path | None) -> Calibration | Path | None:
    if calibration is not None and path is not None:
        raise InvalidOption(
            "Calibration data were given twice, as an argument and in the options.",
            field="calibration",
            remedy="Leave one out.",
        )
    if isinstance(calibration, str | Path):
        return Path(calibration)
    return path if calibration is None else calibration


@contextmanager
def one_thread_each(threads: int) -> Iterator[None]:
    """Torch uses as many threads as were asked for while this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
