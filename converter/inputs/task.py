"""What is to be quantized: the float network, its inputs with their scales, its class scores if it has any, and its
size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto

from converter.graph import Graph
from converter.inputs.plans import InputPlan
from converter.normalization import BatchNormStatistics
from converter.reconstruction import Reconstruction
from converter.scores import ClassOutput

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """A normalized model and all that is known of it before data are made."""

    model: ModelProto
    graph: Graph
    network: Reconstruction
    plans: tuple[InputPlan, ...]
    batch_norms: tuple[BatchNormStatistics, ...]
    classes: ClassOutput | None
    logits: str | None  # the class scores before any softmax
    multiply_adds: int  # of one sample
    elements: int  # of all tensors of one sample
    rewriting_error: float
    excluded: Mapping[str, str] = field(default_factory=dict)  # nodes that the owner keeps in float, and why
