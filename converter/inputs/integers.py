"""Recognizing inputs of whole numbers and of yes and no: indices into tables, masks, positions, lengths, switches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from converter.graph import Graph, attribute
from converter.inputs.dataflow import Use, stored
from converter.inputs.drawing import SAMPLING_RATE
from converter.inputs.evidence import Evidence, Finding, is_one, symbolic
from converter.inputs.naming import Hint
from converter.inputs.plans import InputKind

__all__ = ["ORDERING", "find_index", "find_mask", "find_step", "recognize_integers"]

FEW_TYPES = 8  # rows of a table that tells segments apart; BERT has 2, others up to 4
FORBIDDING = 100.0  # magnitude from which a factor of a mask forbids: exp(-100) is nothing in float32
STEPS = 1000  # of a diffusion process: DDPM (Ho et al. 2020) and nearly all that came after it
ORDERING = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
COMPARING = ("Equal", *ORDERING)
PARTS = frozenset({"Slice", "Split", "Gather"})  # behind which only a part of an input is left
MANY_BOXES = 100  # that a detector may find: COCO's evaluation counts so many
SPECIAL = {  # vocabulary: begin, end and padding, as their publishers' tokenizers number them
    30522: (101, 102, 0),  # BERT and its kin, uncased
    28996: (101, 102, 0),  # cased
    21128: (101, 102, 0),  # Chinese
    119547: (101, 102, 0),  # many languages
    50265: (0, 2, 1),  # RoBERTa, BART
    250002: (0, 2, 1),  # XLM-RoBERTa
    50257: (None, 50256, None),  # GPT-2
    49408: (49406, 49407, 49407),  # CLIP
    32000: (1, 2, None),  # Llama
    32128: (None, 1, 0),  # T5
}


def recognize_integers(evidence: Evidence) -> Finding | None:
    """What an input of integers or booleans is, or None where nothing in the graph tells."""
    boolean = evidence.value.dtype == "bool"
    if evidence.value.dtype in ("uint8", "int8") and len(evidence.shape) in (3, 4) and not _tables(evidence):
        return _bytes(evidence)
    if tables := _tables(evidence):
        return _index(evidence, tables)
    if evidence.used(("If", "Loop", "Where"), 0) and boolean and is_one(evidence.shape):
        return Finding(InputKind.CONSTANT, "it decides which branch runs; both are tried", choices=(1.0, 0.0))
    if (step := find_step(evidence)) is not None:
        return step
    mask = find_mask(evidence)
    if mask is not None and not is_one(evidence.shape):
        return mask
    return _number(evidence) if len(evidence.shape) <= 1 or is_one(evidence.shape) else None


def find_index(evidence: Evidence) -> Finding | None:
    """Rows of a table, if the graph makes whole numbers of the input's reals and looks them up, as Keras exports do."""
    whole = [each for each in _tables(evidence) if PARTS.isdisjoint(each[0].passed)]  # other columns may be numbers
    cast = [each for each in whole if "Cast" in each[0].passed]
    return _index(evidence, cast) if cast else None


def _bytes(evidence: Evidence) -> Finding | None:
    shape = evidence.shape
    if evidence.value.dtype == "uint8":
        if shape[-1] in (1, 3, 4) and not (len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]):
            return Finding(
                InputKind.PICTURE, "bytes with colours on the last axis are pictures", True, batched=len(shape) == 4
            )
        if shape[-3] in (1, 3, 4):
            return Finding(
                InputKind.PICTURE, "bytes with colours before two axes are pictures", batched=len(shape) == 4
            )
    return None


# -------------------------------------------------------------------------------------------------------------- indices


def _tables(evidence: Evidence) -> list[tuple[Use, int]]:
    """The constant tables that the input chooses rows of, with their number of rows."""
    found = []
    for use in evidence.uses:
        node, graph = use.node, evidence.graph
        if use.operator in ("Gather", "GatherElements", "GatherND") and use.place == 1:
            rows = _rows(node, graph)
            if rows is not None:
                found.append((use, rows))
        elif use.operator == "OneHot" and use.place == 0:
            depth = stored(graph, node.input[1])
            if depth is not None:
                found.append((use, int(depth.reshape(-1)[0])))
        elif use.operator == "Equal" and (count := _classes(stored(graph, node.input[1 - use.place]))) is not None:
            found.append((use, count))
    return found


def _classes(compared: NDArray[Any] | None) -> int | None:
    """How many classes a comparison with 0, 1, 2, ... on the last axis tells apart, which is a one-hot code."""
    if compared is None or compared.size < 2 or compared.shape[-1] != compared.size:
        return None
    return compared.size if np.array_equal(compared.reshape(-1), np.arange(compared.size)) else None


def _rows(node: NodeProto, graph: Graph) -> int | None:
    """The number of rows of a table of floats that has at least two axes or is a list."""
    table, axis = node.input[0], int(attribute(node, "axis", 0))
    if table in graph.initializers:
        if graph.initializers[table].dtype.kind != "f":
            return None
        return int(graph.initializers.shape(table)[axis])
    maker = graph.producer(table)
    shape = graph.shapes.get(table)
    moved = maker is not None and maker.op_type in ("Transpose", "Cast", "DequantizeLinear", "Identity", "Mul")
    if shape is None or not moved or maker is None or maker.input[0] not in graph.initializers:
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def _index(evidence: Evidence, tables: list[tuple[Use, int]]) -> Finding:
    rows = min(count - max(math.ceil(use.shift), 0) for use, count in tables)
    low = max(max(math.ceil(-use.shift) for use, _ in tables), 0)
    use, count = tables[0]
    bounds = (min(low, max(rows - 1, 0)), max(rows, low + 1))
    words = f"it chooses among the {count} rows of a table"
    shape = evidence.shape
    sequence = len(shape) >= 2 and shape[-1] != 1
    if sequence and Hint.POSITIONS in evidence.hints:
        return Finding(InputKind.POSITIONS, f"{words}, and its name speaks of positions", tokens=bounds)
    if sequence and rows <= FEW_TYPES and _larger_table(evidence, rows):
        return Finding(
            InputKind.TYPES, f"{words}, beside an input that chooses among many: segments of a text", tokens=bounds
        )
    if not sequence:
        return Finding(InputKind.TOKENS, f"{words}, one for each sample", tokens=bounds, batched=bool(shape))
    return Finding(
        InputKind.TOKENS, f"{words}, which is a vocabulary", tokens=bounds, special=_special(evidence, use, rows)
    )


def _larger_table(evidence: Evidence, rows: int) -> bool:
    neighbours = (
        Evidence(each, each.shape, evidence.graph)
        for each in evidence.others
        if each.shape is not None and each.dtype.startswith("int") and len(each.shape) == len(evidence.shape)
    )
    return any(count > FEW_TYPES and count > rows for each in neighbours for _, count in _tables(each))


def _special(evidence: Evidence, use: Use, rows: int) -> tuple[int | None, int | None, int | None]:
    """Begin, end and padding: as the graph compares, as a row of zeros tells, or as a known vocabulary numbers them."""
    begin, end, padding = SPECIAL.get(rows, (None, None, None))
    compared = evidence.used(("Equal",))
    if compared is not None:
        constant = stored(evidence.graph, compared.node.input[1 - compared.place])
        if constant is not None and constant.size == 1 and 0 <= int(constant.reshape(-1)[0]) < rows:
            padding = int(constant.reshape(-1)[0])
    elif padding is None and use.operator == "Gather" and use.node.input[0] in evidence.graph.initializers:
        table = evidence.graph.initializers[use.node.input[0]]
        empty: NDArray[np.intp] = np.flatnonzero(~np.any(table.reshape(len(table), -1), axis=1))
        padding = int(empty[0]) if len(empty) == 1 else None  # torch keeps the row of padding_idx at zero
    return begin, end, padding


# ---------------------------------------------------------------------------------------------------------------- masks


def find_mask(evidence: Evidence) -> Finding | None:
    """A mask, if the input decides yes or no place by place, or keeps attention away from what has no meaning."""
    graph = evidence.graph
    if _forbids(evidence):
        return Finding(InputKind.MASK, "where it is true, attention is forbidden", choices=(0.0, 1.0))
    if evidence.value.dtype == "bool":
        return Finding(InputKind.MASK, "it holds yes and no", value=1.0)
    whole = not evidence.value.dtype.startswith("float")
    ends = _compared_with_places(evidence)
    for use in evidence.uses:
        if ends and not set(ORDERING).isdisjoint(use.passed):
            continue  # it is a length, though what comes of the comparison is a mask
        other = (
            stored(graph, use.node.input[1 - use.place]) if len(use.node.input) == 2 and use.place in (0, 1) else None
        )
        if use.operator == "Sub" and use.place == 1 and other is not None and other.size == 1 and float(other) == 1.0:
            return Finding(InputKind.MASK, "the graph takes it from 1: what it masks is left out", value=1.0)
        factor = float(np.abs(other).max()) if other is not None and other.size and other.dtype.kind == "f" else 0.0
        if use.operator == "Mul" and factor >= FORBIDDING and (whole or "Sub" in use.passed):
            return Finding(InputKind.MASK, f"it is multiplied by {factor:g}, which forbids attention", value=1.0)
        if whole and use.operator == "Where" and use.place == 0:
            return Finding(InputKind.MASK, "it decides which of two values is taken at each place", value=1.0)
        if whole and use.operator == "Cast" and int(attribute(use.node, "to", 0)) == 9:
            return Finding(InputKind.MASK, "the graph makes yes and no of it", value=1.0)
        if whole and use.operator in ("And", "Not", "Or"):
            return Finding(InputKind.MASK, "the graph joins it with other conditions", value=1.0)
    if whole and len(evidence.shape) >= 2 and _counted(evidence):
        return Finding(InputKind.MASK, "its ones are counted or multiplied, and it is as long as the tokens", value=1.0)
    if not whole and Hint.MASK in evidence.hints and evidence.used(("Mul", "Concat", "Where", "Add")):
        return Finding(
            InputKind.MASK, "its name speaks of a mask, and it meets other tensors place by place", value=1.0
        )
    return None


def _compared_with_places(evidence: Evidence) -> bool:
    """Whether the input has one number a sample, and that is compared with more than a single constant."""
    if any(size != 1 for size in evidence.shape[1:]):
        return False
    others = [
        stored(evidence.graph, use.node.input[1 - use.place]) for use in evidence.uses if use.operator in ORDERING
    ]
    return any(other is None or other.size > 1 for other in others)


def _forbids(evidence: Evidence) -> bool:
    """Whether a Where puts a number that forbids attention where the input is true."""
    chosen = evidence.used(("Where",), 0)
    if chosen is None:
        return False
    taken = stored(evidence.graph, chosen.node.input[1])
    forbidden = taken is not None and taken.size > 0 and taken.dtype.kind == "f" and float(taken.max()) <= -FORBIDDING
    return forbidden != ("Not" in chosen.passed) and (forbidden or _spares(evidence, chosen))


def _spares(evidence: Evidence, chosen: Use) -> bool:
    """Whether the Where's other number forbids, with a Not before it."""
    other = stored(evidence.graph, chosen.node.input[2])
    return other is not None and other.size > 0 and other.dtype.kind == "f" and float(other.max()) <= -FORBIDDING


def _counted(evidence: Evidence) -> bool:
    """Whether integers without a table are summed or multiplied, next to an input of the same free axes."""
    alike = any(other.shape is not None and other.shape[-1] == evidence.shape[-1] for other in evidence.others)
    arithmetic = evidence.used(("Mul", "ReduceSum", "CumSum", "ReduceMax", "MatMul", "Div"))
    return arithmetic is not None and (alike or Hint.MASK in evidence.hints)


# -------------------------------------------------------------------------------------------------------------- numbers


def find_step(evidence: Evidence) -> Finding | None:
    """A time step or positions, whose sines and cosines the graph takes."""
    waved = evidence.used(("Sin", "Cos"))
    if waved is None:
        return None
    if (len(evidence.shape) >= 2 and symbolic(evidence.shape[-1])) or Hint.POSITIONS in evidence.hints:
        return Finding(InputKind.POSITIONS, "the graph takes sines of it place by place: positions", tokens=(0, STEPS))
    return Finding(
        InputKind.STEP, f"the graph takes sines of it: a step of a process of {STEPS}", tokens=(0, STEPS),
        batched=bool(evidence.shape),
    )  # fmt: skip


def _number(evidence: Evidence) -> Finding | None:
    """A length, a switch, or how many boxes to keep."""
    graph = evidence.graph
    if evidence.used(("LSTM", "GRU", "RNN"), 4):
        return Finding(InputKind.LENGTHS, "a recurrent layer reads it as the lengths of its sequences")
    boxes = evidence.used(("NonMaxSuppression",), 2)
    if boxes is not None:
        return Finding(
            InputKind.CONSTANT, "it limits the boxes that are kept of a class", value=MANY_BOXES, batched=False
        )
    multiplied = evidence.used(("Mul",))
    factor = None if multiplied is None else stored(graph, multiplied.node.input[1 - multiplied.place])
    if factor is not None and factor.size and not factor.any():
        value = SAMPLING_RATE if Hint.RATE in evidence.hints else 1
        words = "the graph multiplies it by zero, so its value does not matter"
        return Finding(InputKind.CONSTANT, words, value=value, batched=False)
    lengths = len(evidence.shape) == 1 and (symbolic(evidence.shape[0]) or Hint.LENGTHS in evidence.hints)
    compared = [use for use in evidence.uses if use.operator in COMPARING]
    constants = [stored(graph, use.node.input[1 - use.place]) for use in compared if use.place in (0, 1)]
    numbers = sorted({float(each.reshape(-1)[0]) for each in constants if each is not None and each.size == 1})
    if numbers and is_one(evidence.shape):
        listed = " and ".join(f"{number:g}" for number in numbers)
        words = f"the graph compares it with {listed}" + ("; the largest is taken" if len(numbers) > 1 else "")
        return Finding(InputKind.CONSTANT, words, value=numbers[-1], batched=False)
    if lengths and (compared or Hint.LENGTHS in evidence.hints):
        return Finding(InputKind.LENGTHS, "it is compared with places: the lengths of the samples")
    if Hint.RATE in evidence.hints and is_one(evidence.shape):
        words = "its name speaks of a sampling rate, and speech has 16,000 samples a second"
        return Finding(InputKind.CONSTANT, words, value=SAMPLING_RATE, batched=False)
    if not evidence.uses and is_one(evidence.shape):
        return Finding(InputKind.CONSTANT, "nothing in the graph reads it", value=1.0, batched=False)
    return None
