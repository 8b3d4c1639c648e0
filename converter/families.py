"""Families of operators by what they do to values: the one table that every stage decides by."""

from __future__ import annotations

__all__ = ["CARRYING", "MOVING", "PASSING", "PRODUCTS", "RECTIFIERS", "RENAMING", "SIGMOIDS", "SOFTMAXES", "WEIGHTED"]

PRODUCTS = frozenset({"Gemm", "MatMul"})
"""Layers that multiply matrices."""

WEIGHTED = PRODUCTS | {"Conv"}
"""Layers whose weights onnxruntime multiplies in integers."""

RENAMING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""The same values in the same order; only the shape or the name is another."""

CARRYING = RENAMING | {"Transpose", "Cast"}
"""The same values, however they lie and of whatever type: a tensor on its way."""

MOVING = RENAMING | {"Transpose", "Slice", "Split", "Gather", "Concat", "DepthToSpace", "SpaceToDepth", "Expand"}
"""Every value they write is one that they read."""

PASSING = (MOVING - {"Identity", "Concat", "DepthToSpace", "SpaceToDepth", "Expand"}) | {"MaxPool"}
"""Integer kernels that move codes of one tensor: what they write has the range of what they read."""

RECTIFIERS = frozenset({"Relu", "Clip"})
"""They vanish into the range of the layer before them."""

SIGMOIDS = frozenset({"Sigmoid", "HardSigmoid"})
"""Scores become shares between 0 and 1, each for itself."""

SOFTMAXES = frozenset({"Softmax", "LogSoftmax"})
"""Scores become shares, or their logarithms, along one axis."""
