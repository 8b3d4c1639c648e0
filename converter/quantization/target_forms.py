"""The table of targets: what each runtime's form would change of this model."""

from __future__ import annotations

from collections.abc import Mapping

from converter.findings import TargetForm
from converter.graph import Graph
from converter.options import Precision, Target
from converter.quantization.placement import place
from converter.targets import CONVENTIONS, OTHERS, Convention

__all__ = ["target_forms"]


def target_forms(
    graph: Graph, excluded: Mapping[str, str], chosen: Target, precision: Precision
) -> tuple[TargetForm, ...]:
    """One row a convention, with the nodes that could be integers of fixed ranges before accuracy has its say."""
    written = [
        _form(str(target), each, len(place(graph, excluded, each).nodes), target is chosen, precision)
        for target, each in CONVENTIONS.items()
    ]
    return (*written, *(_form(name, each, None, False, precision) for name, each in OTHERS.items()))


def _form(name: str, convention: Convention, nodes: int | None, chosen: bool, precision: Precision) -> TargetForm:
    refused = "" if precision in convention.precisions else f" Refuses the precision {precision}."
    return TargetForm(
        name=name,
        runs=convention.runs,
        chosen=chosen,
        activations=f"{convention.activations}, zero point {'0' if convention.symmetric else 'free'}",
        biases="float" if convention.float_bias else "32-bit integers",
        nodes=nodes,
        changes=convention.changes,
        gives_up=convention.gives_up + refused,
    )
