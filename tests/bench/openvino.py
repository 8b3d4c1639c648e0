"""Files of ``--target openvino`` in OpenVINO's CPU plugin beside onnxruntime: agreement, integer layers and latency.

    python -m tests.bench.openvino                           # three small models, written into RESULTS.md
    python -m tests.bench.openvino --only kws_dscnn --dry

Needs the package ``openvino``. Both runtimes get one thread; OpenVINO is held to float32 where it does not run on
integers, so that what differs is the integers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tests.bench.clock import medians
from tests.bench.evaluator import open_zoo
from tests.bench.results import publish, table
from tests.bench.speed import session
from tests.bench.zoo import convert

TITLE = "OpenVINO"
DEFAULT = ("kws_dscnn", "cifar10_resnet8_mlperftiny", "vww_mobilenetv1_025_96")
HEADER = [
    "model",
    "integer layers",
    "same decision: OpenVINO and onnxruntime, INT8",
    "OpenVINO INT8 and FP32",
    "onnxruntime INT8 and FP32",
    "FP32 ms: onnxruntime, OpenVINO",
    "INT8 ms: onnxruntime (x64), OpenVINO",
]
LAYERS = ("Convolution", "FullyConnected", "MatMul")


@dataclass(frozen=True)
class Compiled:
    """A model in OpenVINO's CPU plugin, called as an onnxruntime session is."""

    model: Any
    layers: int
    integer_layers: int

    def run(self, _: object, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs, in the graph's order."""
        return [np.array(value) for value in self.model(dict(feeds)).values()]


def open_openvino(model: bytes | Path, feeds: Mapping[str, Any], threads: int = 1) -> Compiled:
    """The model compiled for this CPU and the sizes of ``feeds``, with how many of its layers multiply bytes."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape({name: list(value.shape) for name, value in feeds.items()})
    compiled = core.compile_model(read, "CPU", settings)
    kinds = [_kind(op) for op in compiled.get_runtime_model().get_ordered_ops()]
    layers = [precision for layer, precision in kinds if layer in LAYERS]
    return Compiled(compiled, len(layers), sum(precision in ("u8", "i8") for precision in layers))


def _kind(op: Any) -> tuple[str, str]:
    """An executed operator's layer and the type that it computes with."""
    info = op.get_rt_info()
    layer, precision = (info[key] for key in ("layerType", "runtimePrecision"))
    return str(layer.astype(str)), str(precision.astype(str))


def row(name: str, folder: Path, samples: int) -> list[str]:
    """One model: converted for both runtimes, run by both on real samples."""
    zoo = open_zoo()
    spec = zoo.specs[name]
    theirs, ours = folder / f"{name}.openvino.onnx", folder / f"{name}.x64.onnx"
    for file, target in ((theirs, "openvino"), (ours, "x64")):
        conversion = convert(spec.file, file, ["--target", target, "--time-budget", "10"], 1)
        if conversion.failure is not None:
            return [name, conversion.failure, *[""] * (len(HEADER) - 2)]
    original, integer, onnx_ov = session(spec.file, 1), session(ours, 1), session(theirs, 1)
    feeds = list(zoo.inference.feeds(original, spec, spec.dataset.evaluation().first(samples)))
    compiled, compiled_float = (open_openvino(file, feeds[0]) for file in (theirs, spec.file))
    choices = [
        _choices(each, feeds)
        for each in (original, onnx_ov, compiled)  # FP32, INT8 in onnxruntime, the same file in OpenVINO
    ]
    runs = [original, compiled_float, integer, compiled]
    times = [f"{1e3 * each:.3f}" for each in medians(runs, feeds[0], seconds=3.0)]
    return [
        name,
        f"{compiled.integer_layers} of {compiled.layers}",
        _same(choices[1], choices[2]),
        _same(choices[0], choices[2]),
        _same(choices[0], choices[1]),
        ", ".join(times[:2]),
        ", ".join(times[2:]),
    ]


def _choices(run: onnxruntime.InferenceSession | Compiled, feeds: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([run.run(None, dict(feed))[0].argmax() for feed in feeds])


def _same(one: np.ndarray, other: np.ndarray) -> str:
    return f"{100 * (one == other).mean():.1f} % of {len(one)}"


def main(arguments: Sequence[str]) -> int:
    """Prints and publishes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", help="a model of the zoo; may be repeated")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, Path(folder), given.samples) for name in given.only or DEFAULT]
    import openvino

    words = f"OpenVINO {openvino.get_version()}, one thread each, `--time-budget 10`; classifiers only."
    publish(TITLE, "openvino", arguments, words, table(HEADER, rows), dry=given.dry)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
