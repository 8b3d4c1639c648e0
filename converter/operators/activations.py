"""Activation functions: one tensor in, the same shape out."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.operators.signatures import Number, Table


def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def prelu_1(x: Tensor, slope: Tensor) -> Tensor:
    """Before opset 7 the slope has one value a channel and is not broadcast from the right."""
    if slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return prelu(x, slope)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * elu(x, alpha=alpha)


def selu_1(x: Tensor, *, alpha: float = 1.6732, gamma: float = 1.0507) -> Tensor:
    return selu(x, alpha=alpha, gamma=gamma)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, 0)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return F.hardtanh(x * alpha + beta, 0, 1)


def hard_swish(x: Tensor) -> Tensor:
    return F.hardswish(x)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def swiglu(gate: Tensor, linear: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(gate, alpha=alpha) * linear


def mish(x: Tensor) -> Tensor:
    return F.mish(x)


def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0)).to(x.dtype)


def clip(x: Tensor, low: Number | None = None, high: Number | None = None) -> Tensor:
    if low is None and high is None:
        return x
    if low == 0 and high is None:
        return torch.relu(x)
    if low is not None and high is not None and low <= high and x.is_floating_point():
        return F.hardtanh(x, low, high)  # half the time of clamp in the backward pass
    return x.clamp(low, high)


def clip_1(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002
    return clip(x, min, max)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13 everything from the axis on is one distribution."""
    return softmax(x.flatten(axis)).reshape(x.shape)


def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return log_softmax(x.flatten(axis)).reshape(x.shape)


def hardmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return hardmax(x.flatten(axis)).reshape(x.shape)


TABLE: Table = {
    "Celu": celu,
    "Clip": {1: clip_1, 11: clip},
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Hardmax": {1: hardmax_1, 13: hardmax},
    "LeakyRelu": leaky_relu,
    "LogSoftmax": {1: log_softmax_1, 13: log_softmax},
    "Mish": mish,
    "PRelu": {1: prelu_1, 7: prelu},
    "Relu": relu,
    "Selu": {1: selu_1, 6: selu},
    "Shrink": shrink,
    "Sigmoid": sigmoid,
    "Softmax": {1: softmax_1, 13: softmax},
    "Softplus": softplus,
    "Softsign": softsign,
    "SwiGLU": swiglu,
    "Swish": swish,
    "Tanh": tanh,
    "ThresholdedRelu": thresholded_relu,
}
