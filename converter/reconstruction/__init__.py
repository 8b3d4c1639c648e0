"""An ONNX model as a differentiable torch module."""

from __future__ import annotations

from converter.reconstruction.module import Reconstruction, reconstruct

__all__ = ["Reconstruction", "reconstruct"]
