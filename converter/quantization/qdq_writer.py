"""Hands our ranges, weight grids and choice of nodes to onnxruntime's static quantizer, and reads back what it made of
them.

Everything is decided before: ``quantize_static`` receives a calibration cache with our ranges instead of running its
own calibrators, whose histograms are unbounded or broken (shared findings: entropy through ``quantize_static`` is
min/max, percentile keeps every intermediate of every sample in memory).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

from converter.errors import VerificationFailed
from converter.families import RECTIFIERS
from converter.graph import Graph, in_order
from converter.quantization.product_biases import keep_products_on_integers
from converter.targets import ONNXRUNTIME, SYMMETRIC, Convention

__all__ = [
    "Plan",
    "QuantizedTensor",
    "Range",
    "WeightGrid",
    "float_name",
    "quantize",
    "quantized_activations",
]

CODES, STORED = "_QuantizeLinear_Output", "_quantized"
ROUNDED, DEQUANTIZED = "_QuantizeLinear_Input", "_DequantizeLinear_Output"
SHORT = {CODES: ":q", ROUNDED: ":in", DEQUANTIZED: ":dq", "_zero_point": ":z", "_scale": ":s", STORED: ":c"}
# what onnxruntime appends to names, and what stands in the file instead: in small ones names are a tenth


@dataclass(frozen=True)
class Range:
    """The interval of real numbers that the codes of a tensor cover, and how it was chosen."""

    low: float
    high: float
    method: str
    levels: int = 256  # codes: 16 at 4 bits, SYMMETRIC where zero is to be the middle one

    def widened(self) -> Range:
        """The same range as a grid needs it: zero in it, in the middle if it must be, and a width above zero."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if self.levels == SYMMETRIC:
            high = max(-low, high, 1e-8)
            low = -high
        return replace(self, low=low, high=high if high - low > 1e-8 else low + 1e-8)

    def scaled(self, factor: float) -> Range:
        """The same range, so many times as wide."""
        return self if factor == 1.0 else replace(self, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class WeightGrid:
    """Symmetric per-channel steps of one weight along ``axis``; the weight handed over lies on this grid already."""

    scale: NDArray[np.float32]  # [channels]
    axis: int
    bits: int = 8


@dataclass(frozen=True)
class Plan:
    """All that decides the integer model besides the float model itself."""

    nodes: frozenset[str]
    ranges: Mapping[str, Range]
    weights: Mapping[str, WeightGrid] = field(default_factory=dict)
    convention: Convention = ONNXRUNTIME


@dataclass(frozen=True)
class QuantizedTensor:
    """One QuantizeLinear of the result: tensors that share ``scale_name`` share one range."""

    tensor: str
    scale_name: str


def quantize(model: ModelProto, plan: Plan, reader: CalibrationDataReader | None) -> ModelProto:
    """The QDQ model in which exactly ``plan.nodes`` are quantized, with the plan's ranges and weight grids.

    Raises VerificationFailed when a tensor that needs a range has none.
    """
    convention = plan.convention
    eight_bit = QuantType.QInt8 if convention.activations == "S8" else QuantType.QUInt8
    overrides: dict[str, list[dict[str, object]]] = {
        name: [
            {
                "axis": grid.axis,
                "scale": np.float32(scale),
                "zero_point": np.int8(0),
                "quant_type": QuantType.QInt8,  # of fewer bits too: int4_packing packs them afterwards
            }
            for scale in grid.scale
        ]
        for name, grid in plan.weights.items()
    } | {name: [{"quant_type": QuantType.QUInt4}] for name, each in plan.ranges.items() if each.levels == 16}
    operators = sorted({node.op_type for node in model.graph.node if node.name in plan.nodes})
    if not operators:
        return model
    with tempfile.TemporaryDirectory(prefix="zsq-") as folder, _quiet():
        cache, target = Path(folder, "ranges.json"), Path(folder, "int8.onnx")
        ranges = {name: each.widened() for name, each in plan.ranges.items()}
        for node in model.graph.node:  # what a Relu or Clip swallows has its range
            if node.op_type in RECTIFIERS and node.output[0] in ranges:
                ranges.setdefault(node.input[0], ranges[node.output[0]])
        save_tensors_data(
            TensorsData(
                CalibrationMethod.MinMax,
                {
                    name: TensorData(lowest=np.array(each.low, np.float32), highest=np.array(each.high, np.float32))
                    for name, each in ranges.items()
                },
            ),
            cache,
        )
        try:
            quantize_static(
                model,
                target,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=operators,
                per_channel=True,
                activation_type=eight_bit,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=sorted(plan.nodes),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "TensorQuantOverrides": overrides,
                    "OpTypesToExcludeOutputQuantization": sorted(convention.float_results),
                    "ActivationSymmetric": convention.symmetric,
                    "QuantizeBias": not convention.float_bias,
                },
                calibration_cache_path=cache,
            )
        except ValueError as problem:
            raise VerificationFailed(f"onnxruntime's quantizer refused the plan: {problem}") from problem
        quantized = onnx.load(target)
    tidy = _tidied(quantized, model)
    return keep_products_on_integers(tidy, model) if convention.onnxruntime else tidy


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer prints and logs advice that is meant for its direct users."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def float_name(name: str, *roles: str) -> str:
    """The tensor of the float model that a tensor of the integer model was made of, by its name in either spelling.

    ``roles`` are the suffixes that it may have here: a float model's own names may end like any other.
    """
    suffix = next((each for role in roles for each in (role, SHORT[role]) if name.endswith(each)), "")
    return name.removesuffix(suffix)


def _tidied(quantized: ModelProto, source: ModelProto) -> ModelProto:
    """The result with only the opset imports it uses, the source's IR version where that suffices, stable metadata,
    short names, and each vector of zeros once.
    """
    used = {node.domain or "" for node in quantized.graph.node}
    imports = [entry for entry in quantized.opset_import if (entry.domain or "") in used or entry.domain == ""]
    del quantized.opset_import[:]
    quantized.opset_import.extend(imports)
    quantized.ir_version = max(source.ir_version, 10 if max(i.version for i in imports) >= 21 else 8)
    quantized.producer_name, quantized.producer_version = "zsq", ""
    for node in quantized.graph.node:
        if not node.domain:
            node.ClearField("domain")  # an empty one is written out: two bytes a node
    ordered = in_order(quantized.graph.node)  # onnxruntime's quantizer does not see what bodies read
    copies = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del quantized.graph.node[:]
    quantized.graph.node.extend(copies)
    _share_zero_points(quantized)
    _shorten_names(quantized, source)
    del quantized.graph.value_info[:]
    return quantized


def _shorten_names(model: ModelProto, source: ModelProto) -> None:
    """Tensors that onnxruntime added have short suffixes, QuantizeLinear and DequantizeLinear have no names."""
    graph = Graph(source)
    known = graph.initializers.keys() | graph.output_names | {each.name for each in graph.inputs}
    known |= {name for node in graph.nodes for name in node.output}
    names = dict.fromkeys(name for node in model.graph.node for name in (*node.input, *node.output))
    taken, new = known | names.keys(), dict[str, str]()
    for name in names:
        short = _shortened(name, known)
        if short not in taken:
            taken.add(short)
            new[name] = short
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new.get(name, name)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.ClearField("name")
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)


def _shortened(name: str, known: Set[str]) -> str:
    if name in known:
        return name
    for suffix, short in SHORT.items():
        if name.endswith(suffix):
            return _shortened(name.removesuffix(suffix), known) + short
    return name


def _share_zero_points(model: ModelProto) -> None:
    """Equal zero points are in the file once: otherwise they are a fifth of a small one."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for tensor in model.graph.initializer:
        if tensor.name.endswith("zero_point"):
            values = numpy_helper.to_array(tensor)
            known = first.setdefault((tensor.data_type, values.shape, values.tobytes()), tensor.name)
            if known != tensor.name:
                renamed[tensor.name] = known
                continue
        kept.append(tensor)
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def quantized_activations(quantized: ModelProto) -> dict[str, QuantizedTensor]:
    """Every activation that passes through QuantizeLinear, by its name in the float model."""
    found = {}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            name = float_name(node.input[0], ROUNDED)
            found[name] = QuantizedTensor(name, node.input[1])
    return found


def weight_values(quantized: ModelProto) -> dict[str, NDArray[np.float32]]:
    """The float values that each quantized weight stands for, by its name in the float model."""
    initializers = {each.name: each for each in quantized.graph.initializer}
    values = {}
    for node in quantized.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in initializers:
            continue
        codes = numpy_helper.to_array(initializers[node.input[0]]).astype(np.float32)
        scale = numpy_helper.to_array(initializers[node.input[1]])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if scale.ndim == 1:
            scale = scale.reshape([-1 if each == axis % codes.ndim else 1 for each in range(codes.ndim)])
        values[float_name(node.output[0], DEQUANTIZED)] = codes * scale
    return values
