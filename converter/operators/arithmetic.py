"""Elementwise arithmetic and matrix products."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.operators.signatures import Operator, Table

# ---------------------------------------------------------------- one tensor


def elementwise(function: Operator) -> Operator:
    """The function as an operator of one input."""

    def operator(x: Tensor) -> Tensor:
        result: Tensor = function(x)
        return result

    return operator


def bit_not(x: Tensor) -> Tensor:
    return torch.bitwise_not(x)


# ---------------------------------------------------------------- two tensors


def binary(function: Operator) -> Operator:
    """The function as an operator of two inputs."""

    def operator(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = function(a, b)
        return result

    return operator


def binary_1(function: Operator) -> Operator:
    """The function with the broadcasting of opset 6 and before: b is aligned with a at an axis."""

    def operator(a: Tensor, b: Tensor, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
        if broadcast and axis is not None:
            b = b.reshape(*b.shape, *[1] * (a.dim() - axis % a.dim() - b.dim()))
        result: Tensor = function(a, b)
        return result

    return operator


def since_7(function: Operator) -> dict[int, Operator]:
    return {1: binary_1(function), 7: binary(function)}


def div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def mod(a: Tensor, b: Tensor, *, fmod: Literal[0, 1] = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def power(a: Tensor, b: Tensor) -> Tensor:
    """The result has the base's type; integers with a float or negative exponent go through float64."""
    if a.is_floating_point():
        return torch.pow(a, b).to(a.dtype)
    if b.is_floating_point() or bool((b < 0).any()):
        return torch.pow(a.double(), b.double()).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


def bit_shift(x: Tensor, shift: Tensor, *, direction: Literal["LEFT", "RIGHT"]) -> Tensor:
    """A shift by as many bits as the type has, or more, leaves the sign alone."""
    bits = x.element_size() * 8
    inside = (shift >= 0) & (shift < bits)
    amount = torch.where(inside, shift, 0)
    if direction == "LEFT":
        return torch.where(inside, torch.bitwise_left_shift(x, amount), 0)
    return torch.where(inside, torch.bitwise_right_shift(x, amount), torch.where(x < 0, -1, 0).to(x.dtype))


# ---------------------------------------------------------------- many tensors


def add_all(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors)


def mean_all(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors) / len(tensors)


def max_all(*tensors: Tensor) -> Tensor:
    return reduce(torch.maximum, tensors)


def min_all(*tensors: Tensor) -> Tensor:
    return reduce(torch.minimum, tensors)


# ---------------------------------------------------------------- products


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    left, right = a.int(), b.int()
    if a_zero_point is not None:
        left = left - (a_zero_point.int().unsqueeze(-1) if a_zero_point.dim() == 1 else a_zero_point.int())
    if b_zero_point is not None:
        right = right - b_zero_point.int()
    return torch.matmul(left, right)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    if transA:
        a = a.t()
    if alpha == 1 and (c is None or (beta == 1 and c.dim() == 1 and a.is_floating_point())):
        return F.linear(a, b if transB else b.t(), c)
    product = a @ (b.t() if transB else b)
    if alpha != 1:
        product = (alpha * product).to(a.dtype)
    return product if c is None else product + (c if beta == 1 else (beta * c).to(a.dtype))


def gemm_1(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    return gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


def einsum(*tensors: Tensor, equation: str) -> Tensor:
    result: Tensor = torch.einsum(equation.replace(" ", ""), *tensors)
    return result


def det(x: Tensor) -> Tensor:
    result: Tensor = torch.linalg.det(x)
    return result


# ---------------------------------------------------------------- running sums


def cumsum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _running(torch.cumsum, 0, x, axis, exclusive, reverse)


def cumprod(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _running(torch.cumprod, 1, x, axis, exclusive, reverse)


def _running(function: Operator, start: int, x: Tensor, axis: int, exclusive: int, reverse: int) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), start)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    result: Tensor = function(x, axis, dtype=x.dtype)
    return result.flip(axis) if reverse else result


TABLE: Table = {
    **{
        name: elementwise(getattr(torch, name.lower()))
        for name in (
            *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp"),
            *("Floor", "Log", "Neg", "Reciprocal", "Round", "Sign", "Sin", "Sinh", "Sqrt", "Tan"),
        )
    },
    "Add": since_7(torch.add),
    "BitShift": bit_shift,
    "BitwiseAnd": binary(torch.bitwise_and),
    "BitwiseNot": bit_not,
    "BitwiseOr": binary(torch.bitwise_or),
    "BitwiseXor": binary(torch.bitwise_xor),
    "CumProd": cumprod,
    "CumSum": cumsum,
    "Det": det,
    "Div": since_7(div),
    "Einsum": einsum,
    "Gemm": {1: gemm_1, 7: gemm},
    "MatMul": matmul,
    "MatMulInteger": matmul_integer,
    "Max": max_all,
    "Mean": mean_all,
    "Min": min_all,
    "Mod": mod,
    "Mul": since_7(torch.mul),
    "Pow": since_7(power),
    "Sub": since_7(torch.sub),
    "Sum": add_all,
}
