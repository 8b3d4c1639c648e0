"""A model while a pass changes it: who makes and who reads each tensor, kept current, and written back at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from converter.graph import Array, attribute, captures, set_nodes, subgraphs, walk

__all__ = ["Change", "Rewriting", "put_constants", "rename_captured", "tensor_of"]


@dataclass(frozen=True)
class Change:
    """What a pass did, to how many things, and both as one sentence for the report."""

    name: str
    count: int
    what: str

    @property
    def sentence(self) -> str:
        """For people: what was done and how often."""
        return f"{self.what}: {self.count}."


class Rewriting:
    """The main graph of a model, to be changed in place by one pass and brought back by ``finish``."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.inputs = {value.name for value in model.graph.input}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers: dict[str, NodeProto] = {}
        self._readers: dict[str, dict[int, NodeProto]] = {}
        self._captured: set[str] = set()
        self._replaced: dict[int, list[NodeProto]] = {}
        self._beside: dict[int, tuple[list[NodeProto], list[NodeProto]]] = {}
        self._names = {name for node, _ in walk(model.graph) for name in (*node.input, *node.output)}
        self._names |= self.inputs | self.outputs | self._tensors.keys()
        for node in self.nodes:
            self._enter(node)

    def _enter(self, node: NodeProto) -> None:
        for name in filter(None, node.output):
            self._makers[name] = node
            self._names.add(name)
        inner = captures(node)
        self._captured |= inner
        for name in {*node.input, *inner}:
            self._readers.setdefault(name, {})[id(node)] = node

    def _leave(self, node: NodeProto) -> None:
        for name in node.output:
            if self._makers.get(name) is node:
                del self._makers[name]
        for name in {*node.input, *captures(node)}:
            self._readers[name].pop(id(node), None)

    # reading

    def is_present(self, node: NodeProto) -> bool:
        """Whether the node has not been removed or replaced by this pass."""
        return id(node) not in self._replaced

    def maker(self, tensor: str) -> NodeProto | None:
        """The node that makes the tensor; None for inputs and constants."""
        return self._makers.get(tensor)

    def readers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read the tensor, those whose bodies capture it included, each once."""
        return list(self._readers.get(tensor, {}).values())

    def sole_reader(self, tensor: str) -> NodeProto | None:
        """The one node that reads the tensor, if it is one and nobody else can see the tensor."""
        readers = self.readers(tensor)
        hidden = tensor not in self.outputs and tensor not in self._captured
        return readers[0] if hidden and len(readers) == 1 else None

    def is_seen(self, tensor: str) -> bool:
        """Whether the tensor is an output, or read by the body of some node."""
        return tensor in self.outputs or tensor in self._captured

    def is_constant(self, tensor: str) -> bool:
        """Whether the tensor is an initializer."""
        return tensor in self._tensors

    def constant_shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of an initializer, without decoding it."""
        return tuple(self._tensors[tensor].dims)

    def constant(self, tensor: str) -> Array | None:
        """The value of an initializer; None if the tensor is not one."""
        return numpy_helper.to_array(self._tensors[tensor]) if tensor in self._tensors else None

    def constant_input(self, node: NodeProto, index: int) -> Array | None:
        """The value of the node's input if it is given and constant."""
        return self.constant(node.input[index]) if len(node.input) > index and node.input[index] else None

    def reduced_axes(self, node: NodeProto) -> list[int] | None:
        """The axes that a reduction names, as attribute or as constant input; None where it names none."""
        axes = attribute(node, "axes")
        if axes is None and (constant := self.constant_input(node, 1)) is not None:
            axes = constant.reshape(-1).tolist()
        return list(axes) if axes else None

    # changing

    def fresh(self, hint: str) -> str:
        """A tensor name that nobody uses, deterministic in the order of calls."""
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def add_constant(self, hint: str, array: Array) -> str:
        """The name of a new initializer with this value."""
        name = self.fresh(hint)
        self.make_constant(name, array)
        return name

    def set_constant(self, tensor: str, array: Array, reader: NodeProto) -> str:
        """The name under which ``reader`` finds the new value: the old one unless others read that too."""
        if self.sole_reader(tensor) is reader and list(reader.input).count(tensor) == 1:
            self._tensors[tensor].CopyFrom(tensor_of(tensor, array))
            return tensor
        return self.add_constant(tensor, array)

    def make_constant(self, tensor: str, array: Array) -> None:
        """The tensor, so far made by a node that is about to be removed, becomes an initializer of the same name."""
        self.model.graph.initializer.append(tensor_of(tensor, array))
        self._tensors[tensor] = self.model.graph.initializer[-1]

    def adopt(self, tensor: TensorProto, name: str) -> None:
        """A copy of the tensor is an initializer of this name."""
        self.model.graph.initializer.append(tensor)
        self.model.graph.initializer[-1].name = name
        self._tensors[name] = self.model.graph.initializer[-1]

    def set_inputs(self, node: NodeProto, inputs: Iterable[str]) -> None:
        """The node reads these tensors."""
        self._leave(node)
        del node.input[:]
        node.input.extend(inputs)
        self._enter(node)

    def set_output(self, node: NodeProto, name: str) -> None:
        """The node's first output has this name, which no present node makes."""
        self._leave(node)
        node.output[0] = name
        self._enter(node)

    def insert(self, node: NodeProto, before: Sequence[NodeProto] = (), after: Sequence[NodeProto] = ()) -> None:
        """Others come right before and right after the node, next to it what was inserted last."""
        first, last = self._beside.setdefault(id(node), ([], []))
        first.extend(before)
        last[:0] = after
        for other in (*before, *after):
            self._enter(other)

    def remove(self, node: NodeProto) -> None:
        """The node is gone; its readers must have been redirected."""
        self.replace(node)

    def replace(self, node: NodeProto, *others: NodeProto) -> None:
        """The node's place is taken by others, in this order."""
        self._leave(node)
        self._replaced[id(node)] = list(others)
        for other in others:
            self._enter(other)

    def bypass(self, node: NodeProto) -> bool:
        """The node is gone and its first output is its first input under either name; False if interfaces forbid it."""
        source, result = node.input[0], node.output[0]
        if result not in self.outputs:
            self._leave(node)
            self._replaced[id(node)] = []
            self.redirect(result, source)
            return True
        maker = self._makers.get(source)
        if maker is None or source in self.outputs or source in self.inputs:
            return False
        self._leave(node)
        self._replaced[id(node)] = []
        self._leave(maker)
        place = list(maker.output).index(source)
        maker.output[place] = result
        self._enter(maker)
        self.redirect(source, result)
        return True

    def redirect(self, old: str, new: str) -> None:
        """Whoever reads the old tensor reads the new one."""
        for reader in self.readers(old):
            self._leave(reader)
            for index, name in enumerate(reader.input):
                if name == old:
                    reader.input[index] = new
            for body in subgraphs(reader):
                rename_captured(body, old, new)
            self._enter(reader)

    def finish(self) -> ModelProto:
        """The model with the changes written into its graph."""
        nodes = list(self._written(self.nodes))
        if self._replaced or self._beside or len(nodes) != len(self.model.graph.node):
            set_nodes(self.model.graph, nodes)
        return self.model

    def _written(self, nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
        for node in nodes:
            before, after = self._beside.get(id(node), ([], []))
            yield from self._written(before)
            if id(node) in self._replaced:
                yield from self._written(self._replaced[id(node)])
            else:
                yield node
            yield from self._written(after)


def rename_captured(graph: GraphProto, old: str, new: str) -> None:
    """Inside a body the outer tensor goes by the new name, unless the body defines the old name itself."""
    defined = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    if old in defined or any(old in node.output for node in graph.node):
        return
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for body in subgraphs(node):
            rename_captured(body, old, new)
    for value in graph.output:
        if value.name == old:  # a body's output is named by place, so an Identity would serve as well
            value.name = new


def put_constants(model: ModelProto, values: Mapping[str, Array]) -> None:
    """The initializers of these names have these values, as float32."""
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(tensor_of(tensor.name, np.asarray(values[tensor.name], np.float32)))


def tensor_of(name: str, array: Array) -> TensorProto:
    """The array as an initializer of this name."""
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
