"""FP32 ONNX to INT8 ONNX without data: ``convert``, ``inspect``, ``samples``, ``reconstruct`` and what they take and
return."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from converter.errors import (
    Cancelled,
    ConversionError,
    InvalidModel,
    InvalidOption,
    OutOfMemory,
    OutOfTime,
    OutputNotWritable,
    Refusal,
    Stopped,
    TooLarge,
    UnsupportedModel,
    VerificationFailed,
)
from converter.options import Effort, Method, Options, OutputKind, Precision, Prefer, Step, Target
from converter.progress import Progress, Stage
from converter.specifications import ChannelOrder, InputSpec, Layout, StatedKind

if TYPE_CHECKING:
    from converter.inputs.plans import InputPlan
    from converter.inspection import Inspection, inspect
    from converter.pipeline import Result, convert, samples
    from converter.reconstruction import reconstruct
    from converter.report import Report

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Cancelled",
    "ChannelOrder",
    "ConversionError",
    "Effort",
    "InputPlan",
    "InputSpec",
    "Inspection",
    "InvalidModel",
    "InvalidOption",
    "Layout",
    "Method",
    "Options",
    "OutOfMemory",
    "OutOfTime",
    "OutputKind",
    "OutputNotWritable",
    "Precision",
    "Prefer",
    "Progress",
    "Refusal",
    "Report",
    "Result",
    "Stage",
    "StatedKind",
    "Step",
    "Stopped",
    "Target",
    "TooLarge",
    "UnsupportedModel",
    "VerificationFailed",
    "convert",
    "inspect",
    "reconstruct",
    "samples",
]

_LAZY = {  # these bring torch and onnxruntime, which the service's API process must never load
    "InputPlan": "converter.inputs.plans",
    "Inspection": "converter.inspection",
    "Report": "converter.report",
    "Result": "converter.pipeline",
    "convert": "converter.pipeline",
    "inspect": "converter.inspection",
    "reconstruct": "converter.reconstruction",
    "samples": "converter.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
