"""Whether onnxruntime, which runs the model and its INT8 version, takes it."""

from __future__ import annotations

import onnxruntime
from onnx import ModelProto

from converter.errors import InvalidModel, UnsupportedModel
from converter.sessions import open_session

__all__ = ["load"]


def load(model: ModelProto, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """A session of one thread; what onnxruntime does not load is refused with its own words."""
    levels = onnxruntime.GraphOptimizationLevel
    level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    try:
        return open_session(model, level=level)
    except Exception as problem:  # boundary: onnxruntime's exceptions have no base class of their own
        words = " ".join(str(problem).split())
        missing = "NOT_IMPLEMENTED" in words
        kind = UnsupportedModel if missing else InvalidModel
        raise kind(
            f"onnxruntime does not load the model: {words[:300].rstrip('.')}.",
            field="graph",
            remedy="Check it with onnx.checker.check_model(model, full_check=True) and export it again.",
        ) from None
