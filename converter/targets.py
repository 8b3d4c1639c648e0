"""The runtimes that an INT8 file can be written for, and the form of integers that each of them takes.

Onnxruntime's form is U8 activations with any zero point, biases of 32 bits on the product's step, and the result of
every layer rounded where it is written. OpenVINO's ONNX reader and CPU plugin take the same (`python -m
tests.bench.openvino`), but compute products with ranges found at run time in float.

TensorRT's explicit quantization (its developer's guide, "Explicit Quantization" and "Q/DQ Layer-Placement
Recommendations") is symmetric: INT8 with a zero point of 0, scales a channel for weights and a tensor for activations.
DequantizeLinear takes 8 bits, so that biases stay float. The inputs of layers are to be quantized and not their
results, which lets it fuse a sum and a rectifier into the layer before them; over operators that only move values it
carries the rounding itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from converter.families import PRODUCTS, WEIGHTED

__all__ = ["CONVENTIONS", "ONNXRUNTIME", "OTHERS", "SYMMETRIC", "Convention", "Precision", "Target"]

SYMMETRIC = 255  # codes around a zero point of 0: -127 to 127


class Precision(StrEnum):
    """What weights and activations become."""

    INT8 = "int8"
    W4A8 = "w4a8"
    W4A4 = "w4a4"
    MIXED = "mixed"
    DYNAMIC = "dynamic"
    WEIGHTS = "weights"


class Target(StrEnum):
    """What will run the result: onnxruntime on any x86-64, on one known to have VNNI (weights then use all of their
    codes) or on ARM; OpenVINO; TensorRT.
    """

    X64_VNNI = "x64-vnni"
    X64 = "x64"
    ARM64 = "arm64"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


@dataclass(frozen=True)
class Convention:
    """How a runtime wants integers written, and in words what that changes and gives up."""

    runs: str  # what runs the file
    activations: str = "U8"
    symmetric: bool = False  # a zero point of 0
    float_bias: bool = False  # instead of 32 bits on the product's step
    reads_only: bool = False  # layers' inputs are rounded, their results where another layer reads them
    pairs_saturate: bool = False  # products of bytes are added in pairs of 16 bits
    ranges_at_run_time: bool = True
    stored_weights: bool = True  # weights as integers of nodes that compute in float
    onnxruntime: bool = True  # runs it, so that its own tricks and times count
    precisions: frozenset[Precision] = frozenset(Precision)
    changes: str = ""
    gives_up: str = ""

    @property
    def float_results(self) -> frozenset[str]:
        """The layers whose results are not rounded where they are written."""
        return WEIGHTED if self.reads_only else PRODUCTS

    @property
    def levels(self) -> int:
        """Codes of an 8-bit activation."""
        return SYMMETRIC if self.symmetric else 256


CONVENTIONS: Mapping[Target, Convention] = MappingProxyType(
    {
        Target.X64_VNNI: Convention(
            "onnxruntime on x86-64 with VNNI",
            changes="Weights use all of their codes.",
            gives_up="On a processor without VNNI pairs of products overflow 16 bits, silently.",
        ),
        Target.X64: Convention(
            "onnxruntime on any x86-64",
            pairs_saturate=True,
            changes="Steps of weights are so large that no pair of products overflows 16 bits.",
            gives_up="A quarter to half a bit of the weights.",
        ),
        Target.ARM64: Convention(
            "onnxruntime on ARM",
            activations="S8",
            changes="Activations are signed, as its dot products are.",
            gives_up="Nothing known; times and layers in float are still reckoned for x86-64.",
        ),
        Target.OPENVINO: Convention(
            "OpenVINO on x86-64",
            pairs_saturate=True,
            ranges_at_run_time=False,
            onnxruntime=False,
            precisions=frozenset({Precision.INT8, Precision.WEIGHTS}),
            changes="Products that onnxruntime gives ranges at run time have fixed ones; nothing is written that only "
            "onnxruntime's optimizer needs.",
            gives_up="What ranges at run time save on transformers. Which layers stay in float is reckoned from "
            "multiply-adds, not from measured times.",
        ),
        Target.TENSORRT: Convention(
            "TensorRT 10 or newer on NVIDIA GPUs",
            activations="S8",
            symmetric=True,
            float_bias=True,
            reads_only=True,
            ranges_at_run_time=False,
            stored_weights=False,
            onnxruntime=False,
            precisions=frozenset({Precision.INT8}),
            changes="Activations are signed with a zero point of 0, biases are float, and only what layers read is "
            "rounded; sums, pools and joins take the rounding over from their neighbours.",
            gives_up="One bit of every activation that is never negative; tables and recurrent layers stay float in "
            "the file. It was not tried on a GPU: the file is checked against the documented rules.",
        ),
    }
)

ONNXRUNTIME = CONVENTIONS[Target.X64]

OTHERS: Mapping[str, Convention] = MappingProxyType(
    {
        "qnn": Convention(
            "QNN on Qualcomm NPUs",
            activations="U8 or U16",
            changes="Like onnxruntime's form, of fixed sizes, with every operator's inputs and results rounded: what "
            "stays in float runs on the CPU or not at all.",
            gives_up="Not written: there is no such target.",
        )
    }
)
"""Conventions that are told of and not written."""
