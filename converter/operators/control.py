"""Control flow, sequences and optional values."""

from __future__ import annotations

import torch
from torch import Tensor

from converter.operators.casting import DataType
from converter.operators.signatures import Body, Ints, Table, Value, refuses

# ---------------------------------------------------------------- control flow


def if_(condition: bool, *, then_branch: Body, else_branch: Body) -> tuple[Value, ...]:
    return then_branch() if condition else else_branch()


def loop(trips: int | None, condition: bool | None, *state: Value, body: Body, output_count: int) -> tuple[Value, ...]:
    """The body runs until it says stop or the trips are used up; what it yields each time is stacked."""
    carried = list(state)
    scanned: list[list[Tensor]] = [[] for _ in range(output_count - len(carried))]
    going = True if condition is None else condition
    trip = 0
    while going and (trips is None or trip < trips):
        result = body(torch.tensor(trip), torch.tensor(going), *carried)
        going = bool(result[0])
        carried = list(result[1 : 1 + len(carried)])
        for values, value in zip(scanned, result[1 + len(carried) :], strict=False):
            values.append(value)
        trip += 1
    if not trip:
        return (*carried, *body.nothing[1 + len(carried) :])
    return (*carried, *(torch.stack(values) for values in scanned))


def scan(
    *values: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: Ints | None = None,
    scan_input_directions: Ints | None = None,
    scan_output_axes: Ints | None = None,
    scan_output_directions: Ints | None = None,
) -> tuple[Tensor, ...]:
    """The body runs once for each slice of the scanned inputs, carrying its state along."""
    count = len(values) - num_scan_inputs
    state, scanned = values[:count], values[count:]
    axes = scan_input_axes or (0,) * num_scan_inputs
    backward = scan_input_directions or (0,) * num_scan_inputs
    slices = [
        x.flip(axis).unbind(axis) if reverse else x.unbind(axis)
        for x, axis, reverse in zip(scanned, axes, backward, strict=True)
    ]
    yielded: list[tuple[Tensor, ...]] = []
    for inputs in zip(*slices, strict=True):
        result = body(*state, *inputs)
        state = result[:count]
        yielded.append(result[count:])
    if not yielded:
        return (*state, *body.nothing[count:])
    outputs = []
    for position, column in enumerate(zip(*yielded, strict=True)):
        axis = scan_output_axes[position] if scan_output_axes else 0
        reverse = scan_output_directions[position] if scan_output_directions else 0
        outputs.append(torch.stack(column[::-1] if reverse else column, axis))
    return (*state, *outputs)


@refuses("sequence_lens", lambda known: known["lengths"] is not None, "given")
def scan_8(
    lengths: Tensor | None, *values: Tensor, body: Body, directions: Ints | None = None, num_scan_inputs: int
) -> tuple[Tensor, ...]:
    """At opset 8 everything has a leading batch axis, and each sequence may be given its own length."""
    results = []
    for sample in range(values[0].shape[0]):
        results.append(
            scan(
                *(x[sample] for x in values),
                body=body,
                num_scan_inputs=num_scan_inputs,
                scan_input_directions=directions,
            )
        )
    return tuple(torch.stack(column) for column in zip(*results, strict=True))


# ---------------------------------------------------------------- sequences


def sequence_construct(*tensors: Tensor) -> list[Tensor]:
    return list(tensors)


def sequence_empty(*, dtype: DataType = 1) -> list[Tensor]:
    return []


def sequence_at(sequence: list[Tensor], position: int) -> Tensor:
    return sequence[position]


def sequence_insert(sequence: list[Tensor], tensor: Tensor, position: int | None = None) -> list[Tensor]:
    longer = list(sequence)
    longer.insert(len(longer) if position is None else position, tensor)
    return longer


def sequence_erase(sequence: list[Tensor], position: int | None = None) -> list[Tensor]:
    shorter = list(sequence)
    del shorter[-1 if position is None else position]
    return shorter


def sequence_length(sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence))


def concat_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


def split_to_sequence(data: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    if sizes is None:
        return list(torch.split(data, 1, axis) if keepdims else data.unbind(axis))
    return list(torch.split(data, int(sizes) if sizes.dim() == 0 else sizes.tolist(), axis))


# ---------------------------------------------------------------- optional values


def optional_has_element(value: Value = None) -> Tensor:
    return torch.tensor(value is not None)


def optional_get_element(value: Value) -> Value:
    return value


TABLE: Table = {
    "ConcatFromSequence": concat_from_sequence,
    "If": if_,
    "Loop": loop,
    "OptionalGetElement": optional_get_element,
    "OptionalHasElement": optional_has_element,
    "Scan": {8: scan_8, 9: scan},
    "SequenceAt": sequence_at,
    "SequenceConstruct": sequence_construct,
    "SequenceEmpty": sequence_empty,
    "SequenceErase": sequence_erase,
    "SequenceInsert": sequence_insert,
    "SequenceLength": sequence_length,
    "SplitToSequence": split_to_sequence,
}
