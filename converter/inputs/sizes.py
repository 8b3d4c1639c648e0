"""How many numbers each tensor of a network holds for one sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from converter.graph import Graph
from converter.inputs.plans import tensors
from converter.reconstruction import Reconstruction
from converter.sessions import Feeds

__all__ = ["sizes"]


def sizes(network: Reconstruction, graph: Graph, feeds: Feeds) -> dict[str, int]:
    """The number of elements of every tensor of the main graph for one sample."""
    found: dict[str, int] = {}

    def look(name: str) -> Callable[[Tensor], Tensor]:
        def note(value: Tensor) -> Tensor:
            if isinstance(value, Tensor):  # and no sequence of them
                found[name] = value.numel() // max(value.shape[0] if value.dim() else 1, 1)
            return value

        return note

    names = [name for node in graph.nodes for name in node.output if name]
    with torch.no_grad():
        network.run(
            tensors(feeds),
            names[-1:] + [each.name for each in graph.outputs],
            edit={name: look(name) for name in names},
        )
    return found
