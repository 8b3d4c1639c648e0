"""FP32 ONNX to INT8 ONNX without data: ``convert``, ``reconstruct`` and what they take and return."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from converter.errors import ConversionError, Refusal, Stopped
from converter.options import Effort, InputSpec, Method, Options, OutputKind, Precision, Prefer, Step, Target

if TYPE_CHECKING:
    from converter.pipeline import Result, convert
    from converter.reconstruction import reconstruct
    from converter.report import Report

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "ConversionError",
    "Effort",
    "InputSpec",
    "Method",
    "Options",
    "OutputKind",
    "Precision",
    "Prefer",
    "Refusal",
    "Report",
    "Result",
    "Step",
    "Stopped",
    "Target",
    "convert",
    "reconstruct",
]

_LAZY = {  # these bring torch and onnxruntime, which the service's API process must never load
    "Report": "converter.report",
    "Result": "converter.pipeline",
    "convert": "converter.pipeline",
    "reconstruct": "converter.reconstruction",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
