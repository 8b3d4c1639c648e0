"""The same float function in the one form that the later stages know: passes over the graph, each named and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnx import ModelProto

from converter.graph import copied
from converter.normalization.affine import BatchNormStatistics, fold_affine
from converter.normalization.bodies import fold_body_constants, lift_body_weights, lift_invariants
from converter.normalization.branches import take_known_branches
from converter.normalization.captures import copy_captures
from converter.normalization.constants import (
    hoist_constants,
    name_nodes,
    remove_unused,
    separate_inputs,
    strip_annotations,
)
from converter.normalization.equivalence import probe, verify_equivalence
from converter.normalization.expansion import expand_new_operators
from converter.normalization.folding import fold_constants, fold_shapes
from converter.normalization.identities import merge_transposes, remove_identities
from converter.normalization.layer_norm import restore_layer_norm
from converter.normalization.opsets import unify_opset
from converter.normalization.padding import absorb_padding
from converter.normalization.pooling import restore_global_pooling
from converter.normalization.products import unify_gemm
from converter.normalization.rewriting import Change
from converter.normalization.softmax import restore_softmax

__all__ = ["BatchNormStatistics", "Change", "Normalized", "normalize", "probe", "verify_equivalence"]

Pass = Callable[[ModelProto], tuple[ModelProto, Change]]

FIRST: tuple[Pass, ...] = (strip_annotations, separate_inputs, expand_new_operators, unify_opset, hoist_constants)
REPEATED: tuple[Pass, ...] = (
    hoist_constants,
    fold_constants,
    fold_shapes,
    take_known_branches,
    remove_identities,
    merge_transposes,
    remove_unused,
)
LAST: tuple[Pass, ...] = (
    unify_gemm,
    restore_global_pooling,
    lift_invariants,
    fold_body_constants,
    lift_body_weights,
    copy_captures,
    remove_unused,
    name_nodes,
)
MOST_ROUNDS = 8


@dataclass(frozen=True)
class Normalized:
    """A float model equal in function to the admitted one, what its normalizations knew, and what was changed."""

    model: ModelProto
    batch_norms: tuple[BatchNormStatistics, ...]
    changes: tuple[Change, ...]


def normalize(model: ModelProto) -> Normalized:
    """The model with opset 17 to 21, constants as initializers, named nodes, no no-ops, normalizations folded."""
    work = copied(model)
    changes: list[Change] = []

    def apply(*passes: Pass) -> int:
        nonlocal work
        before = len(changes)
        for each in passes:
            work, change = each(work)
            changes.append(change)
        return sum(change.count for change in changes[before:])

    apply(*FIRST, name_nodes)
    for _ in range(MOST_ROUNDS):
        if not apply(*REPEATED):
            break
    apply(restore_layer_norm, restore_softmax, absorb_padding, unify_gemm)
    work, change, statistics = fold_affine(work)
    changes.append(change)
    apply(*LAST)
    compact = copied(work)  # protobuf frees the room of removed weights only with the whole message
    return Normalized(compact, statistics, _summed(changes))


def _summed(changes: list[Change]) -> tuple[Change, ...]:
    """One change per pass that did something, in the order of first effect."""
    sums: dict[str, Change] = {}
    for change in changes:
        if change.count:
            before = sums.get(change.name)
            sums[change.name] = replace(change, count=change.count + (before.count if before else 0))
    return tuple(sums.values())
