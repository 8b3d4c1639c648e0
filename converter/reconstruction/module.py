"""An ONNX model as a differentiable torch module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from onnx import GraphProto, ModelProto
from torch import Size, Tensor, nn

from converter.admission import admit
from converter.operators.casting import TORCH_TYPES
from converter.operators.signatures import Value
from converter.reconstruction.batching import Grown, NotBatched, SingleSamples, grown
from converter.reconstruction.execution import Edits, Plan, Program
from converter.reconstruction.reading import read_model

__all__ = ["Reconstruction", "reconstruct"]


def reconstruct(model: ModelProto | str | Path) -> Reconstruction:
    """The model, or that of a file, as a torch module that takes the graph's inputs in order and returns its outputs in
    order: one value where there is one.

    Raises UnsupportedModel or InvalidModel before anything is computed.
    """
    if not isinstance(model, ModelProto):
        model = admit(model).model
    program = read_model(model)
    return Reconstruction(program, _declared(model.graph, program.inputs))


@dataclass(frozen=True)
class Declared:
    """What the graph says of an input tensor; an open size is 0."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Reconstruction(nn.Module):
    """Runs the model's graph, or any part of it, in torch.

    ``weights`` are the initializers by name, those in Constant nodes too; they are to be read, and to try another value
    is to feed it under its name.
    ``without_gradient`` names the nodes through which no gradient passes.
    A graph made for a single sample takes batches too, and gives what single runs put together give.
    """

    def __init__(self, program: Program, declared: Mapping[str, Declared]) -> None:
        super().__init__()
        self.program = program
        self.weights: dict[str, Tensor] = dict(program.constants)
        self.declared = declared
        self.input_names = program.inputs
        self.output_names = program.outputs
        self.without_gradient = tuple(_without_gradient(program))
        self.single_samples = SingleSamples(program)
        leading = [each.shape[0] for each in declared.values() if each.shape]
        self.for_single_samples = set(leading) == {1} and len(declared) == len(program.inputs)
        self.inner_shapes: dict[str, Size] | None = None
        self.bound_to_one: set[Plan] = set()  # plans that failed for more than one sample
        self.device = torch.device("cpu")

    def forward(self, *inputs: Value) -> Value:
        """The graph's outputs in order, a single one by itself."""
        if len(inputs) != len(self.input_names):
            raise TypeError(f"the model takes {len(self.input_names)} inputs: {', '.join(self.input_names)}")
        outputs = self._execute(dict(zip(self.input_names, inputs, strict=True)), self.output_names, {})
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str], *, edit: Edits | None = None) -> dict[str, Value]:
        """The tensors named in ``fetch``, computed from those fed by as few nodes as it takes.

        Any tensor may be fed: an input, the result of a node, an initializer. ``edit[name]`` changes a tensor as soon
        as it is there, before anything reads it.
        """
        return dict(zip(fetch, self._execute(feeds, fetch, edit or {}), strict=True))

    def last_of(self, names: Iterable[str]) -> list[str]:
        """Those of the tensors that no other of them needs: whoever fetches these makes all of them on the way."""
        wanted, needed = list(dict.fromkeys(names)), set[str]()
        last = set(wanted) - self.program.producers.keys()
        for operation in reversed(self.program.operations):
            made = set(operation.outputs)
            last |= made.intersection(wanted) - needed
            if made & (needed | last):
                needed.update(operation.needs)
        return [name for name in wanted if name in last]

    def _execute(self, feeds: Mapping[str, Value], fetch: Sequence[str], edit: Edits) -> list[Value]:
        if self.device.type == "cpu":
            return self._compute(feeds, fetch, edit)
        with self.device:  # where operators put what they make from nothing
            return self._compute(feeds, fetch, edit)

    def _compute(self, feeds: Mapping[str, Value], fetch: Sequence[str], edit: Edits) -> list[Value]:
        if self.for_single_samples and (batched := self._batched(feeds)):
            return self.single_samples.run(feeds, batched, fetch, edit)
        plan = self.program.plan(feeds, fetch, edit)
        if plan not in self.bound_to_one or not self._traced(feeds):
            try:
                return plan.execute(tuple(feeds.values()), edit)
            except RuntimeError:
                if not self._traced(feeds):
                    raise
                self.bound_to_one.add(plan)
        return self.single_samples.run(feeds, self._traced(feeds), fetch, edit)

    def _traced(self, feeds: Mapping[str, Value]) -> dict[str, Grown]:
        """The inputs as batches of single samples, where the graph leaves their number open but may not mean it."""
        batches = {
            name: Grown(0, value.shape[0], Size([1, *value.shape[1:]]))
            for name, value in feeds.items()
            if name in self.declared and self.declared[name].shape[:1] == (0,)
        }
        sizes = {batch.times for batch in batches.values()}
        return batches if len(batches) == len(feeds) and len(sizes) == 1 and sizes != {1} else {}

    def _batched(self, feeds: Mapping[str, Value]) -> dict[str, Grown]:
        """The fed tensors that carry more samples than the one for which the graph was made."""
        found = {}
        for name, value in feeds.items():
            if not isinstance(value, Tensor) or name in self.program.constants:
                continue
            single = self._single_shape(name, value)
            if single is None:
                continue
            try:
                growth = grown(value.shape, single)
            except NotBatched:
                if name in self.declared:
                    raise
                continue  # a tensor inside whose shape depends on the data, such as what NonMaxSuppression keeps
            if growth is not None:
                found[name] = growth
        if len({growth.times for growth in found.values()}) > 1:
            raise ValueError("the fed tensors carry different numbers of samples")
        return found

    def _single_shape(self, name: str, value: Tensor) -> Size | None:
        """The shape that a tensor has for a single sample, as far as it is known."""
        if name not in self.declared:
            return self._inner_shapes().get(name)
        declared = self.declared[name].shape
        if len(declared) != value.dim():
            return None
        return Size([*declared[:1], *value.shape[1:]])

    def _inner_shapes(self) -> Mapping[str, Size]:
        """The shapes that nodes give for a single sample, from one run on zeros; none if a size of an input is open."""
        if self.inner_shapes is None:
            self.inner_shapes = {}
            if all(all(each.shape) for each in self.declared.values()):
                with torch.no_grad(), suppress(RuntimeError, IndexError):  # zeros are not valid to every model
                    self.inner_shapes = self._shapes_of_zeros()
        return self.inner_shapes

    def _shapes_of_zeros(self) -> dict[str, Size]:
        plan = self.program.plan(self.program.inputs, self.program.outputs)
        shapes: dict[str, Size] = {}

        def watch(number: int, _: Sequence[Value], result: Sequence[Value]) -> None:
            for name, value in zip(plan.steps[number].operation.outputs, result, strict=False):
                if isinstance(value, Tensor):
                    shapes[name] = value.shape

        plan.execute([torch.zeros(each.shape, dtype=each.dtype) for each in self.declared.values()], watch=watch)
        return shapes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the weights wherever ``to``, ``cuda`` or ``cpu`` want them."""
        self.program = self.program.moved(fn)
        self.weights = dict(self.program.constants)
        self.single_samples = SingleSamples(self.program)
        self.device = next((value.device for value in self.weights.values()), fn(torch.empty(0)).device)
        return self


def _declared(graph: GraphProto, inputs: Sequence[str]) -> dict[str, Declared]:
    """Shape and type of the inputs that are tensors of a declared rank."""
    return {
        each.name: Declared(
            tuple(size.dim_value if size.HasField("dim_value") else 0 for size in each.type.tensor_type.shape.dim),
            TORCH_TYPES[each.type.tensor_type.elem_type],
        )
        for each in graph.input
        if each.name in inputs and each.type.tensor_type.HasField("shape")
    }


def _without_gradient(program: Program) -> Iterator[str]:
    for operation in program.operations:
        if not operation.differentiable:
            yield operation.name
        for body in operation.bodies.values():
            yield from _without_gradient(body)
