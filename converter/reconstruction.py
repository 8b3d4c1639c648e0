"""An ONNX model as a differentiable torch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from onnx import ModelProto
from torch import Tensor, nn

from converter.execution import Edits, Program
from converter.operators.signatures import Value
from converter.reading import read_model

__all__ = ["Reconstruction", "reconstruct"]


def reconstruct(model: ModelProto) -> Reconstruction:
    """The model as a torch module; raises UnsupportedModel or InvalidModel before anything is computed."""
    return Reconstruction(read_model(model))


class Reconstruction(nn.Module):
    """Runs the model's graph, or any part of it, in torch.

    ``weights`` are the initializers by name, to be read; to try another value, feed it under its name.
    ``without_gradient`` names the nodes through which no gradient passes.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.input_names = program.inputs
        self.output_names = program.outputs
        self.without_gradient = tuple(_without_gradient(program))

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.program.constants

    def forward(self, *inputs: Value) -> Value:
        """The graph's outputs in order, a single one by itself."""
        if len(inputs) != len(self.input_names):
            raise TypeError(f"the model takes {len(self.input_names)} inputs ({', '.join(self.input_names)})")
        outputs = self._execute(dict(zip(self.input_names, inputs, strict=True)), self.output_names, {})
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str], *, edit: Edits | None = None) -> dict[str, Value]:
        """The tensors named in ``fetch``, computed from those fed by as few nodes as it takes.

        Any tensor may be fed: an input, the result of a node, an initializer. ``edit[name]`` changes a tensor as soon
        as it is there, before anything reads it.
        """
        return dict(zip(fetch, self._execute(feeds, fetch, edit or {}), strict=True))

    def _execute(self, feeds: Mapping[str, Value], fetch: Sequence[str], edit: Edits) -> list[Value]:
        plan = self.program.plan(feeds, fetch, edit)
        return plan.execute(tuple(feeds.values()), edit)



def _without_gradient(program: Program) -> Iterator[str]:
    for operation in program.operations:
        if not operation.differentiable:
            yield operation.name
        for body in operation.bodies.values():
            yield from _without_gradient(body)
