"""How an operator's Python signature is read: what is a tensor, what is a Python constant, which values are verified.

An operator is a plain function. Its positional parameters are the ONNX inputs, in order; its keyword-only parameters
are the ONNX attributes, by name and with ONNX's defaults. The annotation says how an argument arrives:

- ``Tensor``, ``list[Tensor]``, ``Value``: as it is;
- ``int``, ``float``, ``bool``, ``Number``, ``Ints``, ``Floats``: an *input* so annotated is read from its tensor;
- ``Literal[...]``: the values that are verified; any other value of the attribute refuses the model;
- ``Body``: a subgraph, as a function from its inputs to its outputs.

A keyword-only parameter named ``output_count`` is not an attribute: it receives how many outputs the node asks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

__all__ = [
    "REFUSALS",
    "Body",
    "Floats",
    "Ints",
    "Known",
    "Number",
    "Operator",
    "Parameter",
    "Reader",
    "Refused",
    "Signature",
    "Table",
    "Value",
    "refuses",
    "signature_of",
]

Ints: TypeAlias = tuple[int, ...]
Floats: TypeAlias = tuple[float, ...]
Number: TypeAlias = int | float
Value: TypeAlias = Any  # a tensor, a sequence (list) of tensors, or None for an absent optional
Operator: TypeAlias = Callable[..., Any]
Reader: TypeAlias = Callable[[Tensor], object]
Table: TypeAlias = Mapping[str, Operator | Mapping[int, Operator]]
Known: TypeAlias = Mapping[str, object]  # arguments by name; GIVEN for a tensor that only a run will show

Function = TypeVar("Function", bound=Callable[..., Any])

OUTPUT_COUNT = "output_count"
GIVEN = object()


@dataclass(frozen=True)
class Refused:
    """A combination of arguments that is not verified."""

    attribute: str
    applies: Callable[[Known], bool]
    what: str


REFUSALS: dict[Operator, tuple[Refused, ...]] = {}


def refuses(attribute: str, applies: Callable[[Known], bool], what: str) -> Callable[[Function], Function]:
    """The operator with a combination of arguments for which models are refused, before anything runs."""

    def register(function: Function) -> Function:
        REFUSALS[function] = (*REFUSALS.get(function, ()), Refused(attribute, applies, what))
        return function

    return register


def _many(tensor: Tensor) -> tuple[Number, ...]:
    return tuple(tensor.reshape(-1).tolist())


def _one(tensor: Tensor) -> Number:
    number: Number = tensor.item()
    return number


@dataclass(frozen=True, slots=True)
class Body:
    """A subgraph as a function from its inputs to its outputs."""

    execute: Callable[[tuple[Value, ...]], list[Value]]
    captured: Sequence[Value]
    nothing: tuple[Tensor, ...]  # its outputs stacked over no runs, as far as their types are declared

    def __call__(self, *values: Value) -> tuple[Value, ...]:
        return tuple(self.execute((*values, *self.captured)))


READERS: dict[object, Reader] = {
    Ints: _many,
    Floats: _many,
    int: lambda tensor: int(tensor.item()),
    float: lambda tensor: float(tensor.item()),
    bool: lambda tensor: bool(tensor.item()),
    Number: _one,
}


@dataclass(frozen=True)
class Parameter:
    """One input or attribute of an operator."""

    name: str
    reader: Reader | None  # of an input that is wanted as a Python constant
    verified: tuple[object, ...] | None  # the values of an attribute that are known to be right, None for any
    required: bool
    default: object
    boolean: bool


@dataclass(frozen=True)
class Signature:
    """What an operator's function takes."""

    inputs: tuple[Parameter, ...]
    variadic: bool
    attributes: dict[str, Parameter]
    counts_outputs: bool

    def reader(self, position: int) -> Reader | None:
        """How the input at this position is turned into a Python constant, None if it stays a tensor."""
        return self.inputs[position].reader if position < len(self.inputs) else None


def signature_of(function: Operator) -> Signature:
    """The signature of an operator's function, its annotations resolved."""
    hints = get_type_hints(function)
    inputs, attributes, variadic, counts = [], {}, False, False
    for name, parameter in inspect.signature(function).parameters.items():
        if name == OUTPUT_COUNT:
            counts = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            variadic = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            attributes[name] = _parameter(parameter, hints[name])
        else:
            inputs.append(_parameter(parameter, hints[name]))
    return Signature(tuple(inputs), variadic, attributes, counts)


def _parameter(parameter: inspect.Parameter, annotation: object) -> Parameter:
    kind = _without_none(annotation)
    return Parameter(
        name=parameter.name,
        reader=READERS.get(kind),
        verified=get_args(kind) if get_origin(kind) is Literal else None,
        required=parameter.default is parameter.empty,
        default=None if parameter.default is parameter.empty else parameter.default,
        boolean=kind is bool,
    )


def _without_none(annotation: object) -> object:
    if get_origin(annotation) not in (Union, UnionType) or annotation == Number:
        return annotation
    kept = tuple(each for each in get_args(annotation) if each is not NoneType)
    return kept[0] if len(kept) == 1 else Union[kept]  # noqa: UP007


def is_floating(value: Value) -> bool:
    """Whether a value is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or torch.is_complex(value))
