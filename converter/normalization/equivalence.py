"""Whether two models compute the same, found out by running both in onnxruntime."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, numpy_helper

from converter.admission.loading import load
from converter.errors import UnsupportedModel, VerificationFailed
from converter.graph import Array, Graph, Value, constant_tensor
from converter.specifications import input_option

__all__ = ["probe", "verify_equivalence"]

TOLERANCE = 1e-5  # of the largest magnitude of each output
ROUNDING = 4.0  # times what rounding does: a change of the inputs in their last bit, or onnxruntime's order of sums;
# chaotic models differ more than TOLERANCE
MOST_MENTIONED = 16
MOST_ELEMENTS = 2**24  # of an input that some sizes are guessed of
BOUNDED = {"Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf"}  # outputs on the scale of 1, however small they are
SIZES = (64, 32, 224, 16, 128, 96, 256, 512, 8, 4, 1)  # tried for axes of unknown size, then what the graph mentions


def verify_equivalence(before: ModelProto, after: ModelProto, feeds: Sequence[Mapping[str, Array]]) -> float:
    """The largest relative difference of any output over all feeds; raises VerificationFailed where it is too large.

    Beyond TOLERANCE it is too large if it exceeds what the model makes of rounding, with onnxruntime's own rewriting of
    either graph and without: a fused kernel that only one of the two graphs gets is no change of the function.
    """
    graph = Graph(before)
    makers = [graph.producer(value.name) for value in graph.outputs]
    least = [1.0 if maker is not None and maker.op_type in BOUNDED else 0.0 for maker in makers]
    found = _run_after(before, after, feeds)  # one session at a time: each holds the weights twice
    session = load(before)
    worst = 0.0
    for feed, results in zip(feeds, found, strict=True):
        expected = session.run(None, dict(feed))
        errors = _differences(expected, results, least)
        if max(errors, default=0.0) > TOLERANCE:
            nudged = session.run(None, {name: _nudge(array) for name, array in feed.items()})
            plain = load(before, optimized=False).run(None, dict(feed))
            noise = zip(_differences(expected, nudged, least), _differences(expected, plain, least), strict=True)
            allowed = [max(TOLERANCE, ROUNDING * max(each)) for each in noise]
            if any(error > most for error, most in zip(errors, allowed, strict=True)):
                errors = _differences(plain, load(after, optimized=False).run(None, dict(feed)), least)
            for value, error, most in zip(graph.outputs, errors, allowed, strict=True):
                if error > most:
                    raise _changed(f"changed the output {value.name!r} by {error:.2g} of its magnitude", value.name)
        worst = max(worst, *errors, 0.0)
    return worst


def _differences(expected: Sequence[Array], found: Sequence[Array], least: Sequence[float]) -> list[float]:
    return [difference(*each) for each in zip(expected, found, least, strict=True)]


def _run_after(before: ModelProto, after: ModelProto, feeds: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
    """The outputs of the model after; raises VerificationFailed, or UnsupportedModel if neither model runs."""
    try:
        session = load(after)
        return [session.run(None, dict(feed)) for feed in feeds]
    except Exception as problem:  # boundary: onnxruntime's exceptions have no base class of their own
        words = " ".join(str(problem).split())[:300]
        failure = _changed(f"made a model that does not run ({words})", None)
        session = load(before)
        try:
            for feed in feeds:
                session.run(None, dict(feed))
        except Exception as same:  # boundary: as above; the model itself does not take these inputs
            raise _does_not_run(feeds, same) from None
        raise failure from problem


def _does_not_run(feeds: Sequence[Mapping[str, Array]], problem: Exception) -> UnsupportedModel:
    sizes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feeds[0].items())
    return UnsupportedModel(
        f"The model does not run on inputs of the sizes {sizes}: {' '.join(str(problem).split())[:200]}.",
        field="input",
        remedy="State the sizes it was made for, such as "
        f"{input_option(next(iter(feeds[0]), 'NAME'), 'shape=1x3x224x224')}.",
    )


def _changed(what: str, tensor: str | None) -> VerificationFailed:
    return VerificationFailed(
        f"Normalization {what}.",
        tensor=tensor,
        remedy="This is a defect of zsq; please report it with the model.",
    )


def difference(expected: Array, found: Array, least: float = 0.0) -> float:
    """The largest difference relative to the largest magnitude, or to ``least``; of other than floats the share."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return np.inf
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f":
        return float(np.mean(expected != found))
    same = np.isclose(expected, found, rtol=0, atol=0, equal_nan=True)  # infinities and NaN in their places
    if same.all():
        return 0.0
    finite = np.isfinite(expected) & np.isfinite(found)
    if not (finite | same).all():
        return np.inf
    largest = max(float(np.abs(expected[finite]).max()), least, float(np.finfo(np.float32).tiny))
    return float(np.abs(expected[finite] - found[finite]).max()) / largest


def _nudge(array: Array) -> Array:
    return np.nextafter(array, np.float32(np.inf)) if array.dtype == np.float32 else array


def probe(model: ModelProto, count: int = 2) -> list[dict[str, Array]]:
    """A few deterministic inputs on which the model runs; empty if none were found."""
    graph = Graph(model)
    runner = load(model)
    for sizes in _sizes(graph.inputs, (*SIZES, *_mentioned(graph))):
        if sizes and max(math.prod(_shape(value, sizes)) for value in graph.inputs) > MOST_ELEMENTS:
            continue
        feeds = [_feed(graph.inputs, sizes, seed) for seed in range(count)]
        try:
            runner.run(None, feeds[0])
        except Exception:  # boundary: the sizes do not go together; the next ones may
            continue
        return feeds
    return []


def _mentioned(graph: Graph) -> list[int]:
    """The sizes that the graph's small integer constants speak of, commonest first."""
    stored = [numpy_helper.to_array(tensor) for node in graph.nodes if (tensor := constant_tensor(node)) is not None]
    stored += [
        graph.initializers[name] for name in graph.initializers if math.prod(graph.initializers.shape(name)) <= 8
    ]
    counts = Counter(
        int(size)
        for array in stored
        if array.dtype == np.int64 and array.size <= 8
        for size in array.reshape(-1)
        if 1 < size <= 4096 and size not in SIZES
    )
    return [size for size, _ in counts.most_common(MOST_MENTIONED)]


def _sizes(inputs: tuple[Value, ...], tried: tuple[int, ...]) -> Iterator[dict[tuple[str, int], int]]:
    """One size for every axis without a number, the first axis being a batch of 2 or 1."""
    free = [
        (value, axis) for value in inputs for axis, size in enumerate(value.shape or ()) if not isinstance(size, int)
    ]
    if not free:
        yield {}
        return
    for batch in (2, 1):
        for size in tried:
            yield {(value.name, axis): batch if _is_batch(value, axis, inputs) else size for value, axis in free}


def _is_batch(value: Value, axis: int, inputs: tuple[Value, ...]) -> bool:
    symbol = value.shape[axis] if value.shape else None
    if axis == 0:
        return True
    return symbol is not None and any(other.shape and other.shape[0] == symbol for other in inputs)


def _shape(value: Value, sizes: Mapping[tuple[str, int], int]) -> list[int]:
    return [size if isinstance(size, int) else sizes[value.name, axis] for axis, size in enumerate(value.shape or ())]


def _feed(inputs: tuple[Value, ...], sizes: Mapping[tuple[str, int], int], seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for value in inputs:
        shape = _shape(value, sizes)
        if value.dtype.startswith("float"):
            array = random.standard_normal(shape).astype(value.dtype)
        else:
            array = random.integers(0, 2, shape).astype(value.dtype)
        feed[value.name] = np.asarray(array)
    return feed
