"""Time and memory of conversions, and latency of what they give against onnxruntime's own INT8 of the same model.

    python -m tests.bench.speed                                  # all, written into RESULTS.md
    python -m tests.bench.speed --only cifar10_resnet20 --no-large --dry

FP32, our INT8 and onnxruntime's U8/S8 build with real data run in turns, so that a busy moment hits all of them.
ResNet-50 has random weights and, for want of data, a build calibrated on noise.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime

from tests.bench.architectures import resnet50
from tests.bench.bars import MIB
from tests.bench.clock import medians
from tests.bench.evaluator import baseline_model, open_zoo, zoo_folder
from tests.bench.results import publish, table
from tests.bench.static import build_static
from tests.bench.zoo import Conversion, convert

TITLE = "Speed: conversions, and latency against onnxruntime's own INT8"
HEADER = ["model", "s", "MiB", "FP32 ms", "zsq ms", "U8/S8 ms", "zsq / FP32", "speed against U8/S8", "size", "bars"]
DEFAULT = (
    "imagenet_squeezenet1_1",
    "imagenet_mobilenetv1_025",
    "imagenet_vit_tiny_patch16",
    "cifar10_resnet20",
    "cifar10_resnet56_bn",
    "cifar10_resnet8_mlperftiny",
    "vww_mobilenetv1_025_96",
    "kws_dscnn",
    "coco_nanodet_m_320",
    "face_ultralight_rfb320",
    "superres_espcn_x3",
)


@dataclass(frozen=True)
class Row:
    """One model: the conversion, and milliseconds of the three builds on the given number of threads."""

    name: str
    conversion: Conversion
    size: float = 0.0
    milliseconds: tuple[float, float, float] | None = None  # FP32, ours, U8/S8
    allowed_seconds: int | None = None

    @property
    def against(self) -> float | None:
        """The other build's time over ours."""
        return self.milliseconds[2] / self.milliseconds[1] if self.milliseconds else None

    def unmet(self) -> Iterator[str]:
        """The bars that were missed, in words."""
        seconds, peak = self.conversion.seconds, self.conversion.peak_bytes
        if seconds is not None and self.allowed_seconds is not None and seconds > self.allowed_seconds:
            yield f"{self.allowed_seconds} s allowed"
        if peak is not None and peak > 1536 * MIB:
            yield "1536 MiB allowed"
        if self.against is not None and self.against < 0.95:
            yield "0.95 of U8/S8's speed demanded"

    def cells(self) -> list[str]:
        if self.conversion.failure is not None:
            return [self.name, *[""] * (len(HEADER) - 2), self.conversion.failure]
        seconds, peak = self.conversion.seconds or 0.0, self.conversion.peak_bytes or 0
        times = self.milliseconds or (0.0, 0.0, 0.0)
        return [
            self.name,
            f"{seconds:.1f}",
            f"{peak / MIB:.0f}",
            *(f"{value:.3f}" for value in times),
            f"{times[1] / times[0]:.2f}" if times[0] else "-",
            f"{self.against:.2f}" if self.against else "-",
            f"{self.size:.2f}",
            ", ".join(f"**{each}**" for each in self.unmet()) or "met",
        ]


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def compare(files: Sequence[Path], feed: Mapping[str, Any], threads: int) -> tuple[float, float, float]:
    """Median milliseconds of FP32, ours and the other build, run in turns."""
    first, ours, other = medians([session(file, threads) for file in files], feed, seconds=3.0)
    return 1e3 * first, 1e3 * ours, 1e3 * other


def zoo_row(name: str, folder: Path, options: argparse.Namespace) -> Row:
    """A zoo model against the build with real data."""
    zoo = open_zoo()
    spec, target = zoo.specs[name], folder / f"{name}.int8.onnx"
    conversion = convert(spec.file, target, options.extra, options.threads)
    if conversion.failure is not None:
        return Row(name, conversion)
    feed = next(zoo.inference.feeds(zoo.inference.open_session(spec.file), spec, spec.dataset.evaluation().first(1)))
    times = compare((spec.file, target, baseline_model(zoo, name)), feed, options.latency_threads)
    allowed = 15 if name.startswith("cifar10_") else 45 if name.startswith(("imagenet_m", "imagenet_s")) else None
    return Row(name, conversion, spec.file.stat().st_size / target.stat().st_size, times, allowed)


def large_row(folder: Path, options: argparse.Namespace) -> Row:
    """ResNet-50 with random weights against onnxruntime's build calibrated on noise."""
    source, target, other = (folder / f"resnet50{kind}.onnx" for kind in ("", ".int8", ".u8s8"))
    onnx.save(resnet50(), source)
    conversion = convert(source, target, options.extra, options.threads)
    if conversion.failure is not None:
        return Row("ResNet-50, random weights", conversion)
    noise = (np.random.default_rng(seed).normal(size=(1, 3, 224, 224)) for seed in range(3, -1, -1))
    build_static(source, other, ({"image": each.astype(np.float32)} for each in noise))
    feed = {"image": np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)}
    times = compare((source, target, other), feed, options.latency_threads)
    return Row("ResNet-50, random weights", conversion, source.stat().st_size / target.stat().st_size, times, 150)


def memory_against_samples(folder: Path, options: argparse.Namespace) -> str:
    """Whether more samples cost more memory."""
    zoo, name = open_zoo(), "cifar10_resnet20"
    peaks = []
    for samples in (64, 512):
        flags = [*options.extra, "--samples", str(samples)]
        done = convert(zoo.specs[name].file, folder / f"{samples}.onnx", flags, options.threads)
        if done.failure or done.peak_bytes is None:
            return f"Memory against samples: failed ({done.failure})."
        peaks.append(done.peak_bytes / MIB)
    return f"Peak memory of {name} with 64 samples {peaks[0]:.0f} MiB, with 512 samples {peaks[1]:.0f} MiB."


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    rows, notes = [], []
    with tempfile.TemporaryDirectory(prefix="zsq-speed-") as scratch:
        folder = Path(scratch)
        if zoo_folder() is not None:
            rows += [zoo_row(name, folder, options) for name in options.only]
            if options.memory:
                notes.append(memory_against_samples(folder, options))
        if options.large:
            rows.append(large_row(folder, options))
    text = "\n\n".join([table(HEADER, [row.cells() for row in rows]), *notes])
    about = (
        f"Medians of runs in turns, {options.latency_threads} thread(s). `s`, `MiB`: the conversion with report, "
        "peak of the process tree. U8/S8: onnxruntime's static quantization with real data (noise for ResNet-50)."
    )
    publish(TITLE, "speed", given, about, text, dry=options.dry)
    return 0 if all(row.conversion.failure is None for row in rows) else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(DEFAULT), metavar="NAME", help="these zoo models")
    parser.add_argument("--no-large", dest="large", action="store_false", help="leave ResNet-50 out")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave memory against samples out")
    parser.add_argument("--threads", type=int, default=2, help="for converting")
    parser.add_argument("--latency-threads", type=int, default=1, help="for measuring latency")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="the rest goes to zsq convert as it is")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
