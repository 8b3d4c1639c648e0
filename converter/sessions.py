"""Runs models in onnxruntime for measuring: the CPU provider, few threads, any tensor as a further output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, ValueInfoProto

from converter.process_memory import return_freed_memory

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort  # after the switch above, which it reads when it is loaded

__all__ = ["Array", "Feeds", "open_session", "output_names", "serialize", "split"]

Array = NDArray[Any]
Feeds = Mapping[str, Array]
QUIET = 4  # fatal: onnxruntime warns about every initializer its own optimizer leaves unused


def serialize(model: ModelProto | bytes) -> bytes:
    """The model as bytes."""
    return model if isinstance(model, bytes) else model.SerializeToString()


def open_session(
    model: ModelProto | bytes,
    threads: int = 1,
    *,
    also: Sequence[str] = (),
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    optimized_path: str | None = None,
    spinning: bool = False,
) -> ort.InferenceSession:
    """A session on the CPU whose outputs are the model's and then the tensors in ``also``.

    Its threads sleep while they wait unless ``spinning``, which is onnxruntime's default and what latency is of.
    """
    return_freed_memory()  # a session takes several times its model's size
    content = _with_outputs(model, also) if also else serialize(model)
    options = ort.SessionOptions()
    if also:  # for looking inside once, not for speed: packed weights would be one more copy of them
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not spinning:  # two threads that spin beside other work take twice the time of one
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    options.graph_optimization_level = level
    if optimized_path is not None:
        options.optimized_model_filepath = optimized_path
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _with_outputs(model: ModelProto | bytes, also: Sequence[str]) -> bytes:
    """The model's bytes with further outputs, for which no weights are copied."""
    further = [ValueInfoProto(name=name) for name in also]
    if isinstance(model, bytes):  # protobuf merges repeated messages
        return model + serialize(ModelProto(graph=GraphProto(output=further)))
    count = len(model.graph.output)
    model.graph.output.extend(further)
    try:
        return serialize(model)
    finally:
        del model.graph.output[count:]


def output_names(session: ort.InferenceSession) -> list[str]:
    """The names of the outputs in order, each once though a model may list it twice."""
    return list(dict.fromkeys(entry.name for entry in session.get_outputs()))


def split(
    session: ort.InferenceSession, feeds: Iterable[Feeds], share: float = 1.0
) -> Iterator[tuple[dict[str, Array], int]]:
    """The feeds, each with the number of its samples, cut into the model's own batch where that is fixed and smaller.

    Where the batch is open, each is cut into pieces of at most ``share`` of it. The inputs with the batch axis are
    those whose first size equals that of the first array; others, such as a sampling rate, go along with every piece.
    """
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    for feed in feeds:
        given = {name: value for name, value in feed.items() if name in shapes}
        count = next((len(value) for value in given.values() if value.ndim > 0), 1)
        batched = {name for name, value in given.items() if value.ndim > 0 and len(value) == count}
        fixed = {shapes[name][0] for name in batched if shapes[name] and isinstance(shapes[name][0], int)}
        step = max(1, int(count * share)) if not fixed else min(fixed)
        if step >= count or len(fixed) > 1 or (fixed and count % step):
            yield given, count
            continue
        for start in range(0, count, step):
            end = min(start + step, count)
            yield {name: value[start:end] if name in batched else value for name, value in given.items()}, end - start


def rows(value: Array, samples: int) -> Array:
    """[samples, values] in float64 where the first axis counts samples, else [1, values]."""
    flat = np.asarray(value)
    leading = samples if flat.ndim > 0 and samples > 0 and len(flat) == samples else 1
    return flat.reshape(leading, -1)
