"""Comparisons, logic and choice."""

from __future__ import annotations

import torch
from torch import Tensor

from converter.operators.arithmetic import binary, elementwise, since_7
from converter.operators.signatures import Table


def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


TABLE: Table = {
    "And": since_7(torch.logical_and),
    "Equal": since_7(torch.eq),
    "Greater": since_7(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "IsInf": is_inf,
    "IsNaN": elementwise(torch.isnan),
    "Less": since_7(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Not": elementwise(torch.logical_not),
    "Or": since_7(torch.logical_or),
    "Where": where,
    "Xor": since_7(torch.logical_xor),
}
