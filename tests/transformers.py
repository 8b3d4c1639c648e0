"""Small transformers in the forms that exporters write: masks of sentinels, and a decoder with its cache."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.networks import Array, biases, node, weights

WIDTH, HEADS, WORDS = 32, 2, 200
SIZE = WIDTH // HEADS


def _layer(mask: str | None, past: bool) -> list[NodeProto]:
    """Attention over ``normal`` and a feed-forward block after it, from ``stream`` to ``out``."""
    split = [
        made
        for name in "qkv"
        for made in (
            node("MatMul", ["normal", f"w{name}"], [f"{name}0"], name=f"{name}/MatMul"),
            node("Add", [f"{name}0", f"b{name}"], [f"{name}1"], name=f"{name}/Add"),
            node("Reshape", [f"{name}1", "apart"], [f"{name}2"]),
            node("Transpose", [f"{name}2"], [f"{name}3"], perm=[0, 2, 1, 3]),
        )
    ]
    cached = [
        node("Concat", ["past_key", "k3"], ["present_key"], axis=2),
        node("Concat", ["past_value", "v3"], ["present_value"], axis=2),
    ]
    keys, values = ("present_key", "present_value") if past else ("k3", "v3")
    return [
        node("LayerNormalization", ["stream", "gamma", "beta"], ["normal"], axis=-1),
        *split,
        *(cached if past else []),
        node("Transpose", [keys], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q3", "kt"], ["scores"], name="scores/MatMul"),
        *([node("Add", ["scores", mask], ["masked"])] if mask else [node("Identity", ["scores"], ["masked"])]),
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("MatMul", ["shares", values], ["mixed"], name="mixed/MatMul"),
        node("Transpose", ["mixed"], ["m1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["m1", "together"], ["m2"]),
        node("MatMul", ["m2", "wo"], ["o0"], name="o/MatMul"),
        node("Add", ["o0", "bo"], ["o1"]),
        node("Add", ["o1", "stream"], ["s1"]),
        node("LayerNormalization", ["s1", "gamma", "beta"], ["n1"], axis=-1),
        node("MatMul", ["n1", "wu"], ["u0"], name="up/MatMul"),
        node("Add", ["u0", "bu"], ["u1"]),
        node("Div", ["u1", "root"], ["u2"]),
        node("Erf", ["u2"], ["u3"]),
        node("Add", ["u3", "one"], ["u4"]),
        node("Mul", ["u1", "u4"], ["u5"]),
        node("Mul", ["u5", "half"], ["u6"]),
        node("MatMul", ["u6", "wd"], ["d0"], name="down/MatMul"),
        node("Add", ["d0", "bd"], ["d1"]),
        node("Add", ["d1", "s1"], ["out"]),
        node("MatMul", ["out", "head"], ["y"], name="head/MatMul"),
    ]


def _constants() -> dict[str, Array | np.ndarray]:
    gamma = np.ones(WIDTH, np.float32)
    gamma[[2, 9]] = 12  # channels that reach far, as trained ones have
    table = weights(WORDS, WIDTH) * 2
    return {
        "table": table,
        "head": table.T.copy(),
        "gamma": gamma,
        "beta": biases(WIDTH, 3),
        **{f"w{name}": weights(WIDTH, WIDTH, seed=seed).T.copy() for seed, name in enumerate("qkvo")},
        **{f"b{name}": biases(WIDTH, seed) for seed, name in enumerate("qkvo")},
        "wu": weights(4 * WIDTH, WIDTH, seed=7).T.copy(),
        "bu": biases(4 * WIDTH),
        "wd": weights(WIDTH, 4 * WIDTH, seed=8).T.copy(),
        "bd": biases(WIDTH, 8),
        "root": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "apart": np.array([0, 0, HEADS, SIZE]),
        "together": np.array([0, 0, WIDTH]),
    }


def _model(nodes: list[NodeProto], inputs: list[tuple[str, int, list[str | int]]], further: list[str]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", *further)],
        [numpy_helper.from_array(value, name) for name, value in _constants().items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def encoder(sentinel: float, batch: str | int = "N", length: str | int = "L") -> ModelProto:
    """Tokens and their mask; what is masked has ``sentinel`` added to its scores."""
    constants = {"sentinel": np.array(sentinel, np.float32), "axes": np.array([1, 2])}
    nodes = [
        node("Gather", ["table", "input_ids"], ["stream"]),
        node("Cast", ["attention_mask"], ["mf"], to=TensorProto.FLOAT),
        node("Sub", ["one", "mf"], ["hidden"]),
        node("Mul", ["hidden", "sentinel"], ["m"]),
        node("Unsqueeze", ["m", "axes"], ["mask"]),
        *_layer("mask", past=False),
    ]
    shape = [batch, length]
    model = _model(nodes, [(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")], [])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def decoder() -> ModelProto:
    """One step: tokens, keys and values of the steps before, and both with this step's appended."""
    cache: list[str | int] = ["N", HEADS, "past", SIZE]
    nodes = [node("Gather", ["table", "input_ids"], ["stream"]), *_layer(None, past=True)]
    inputs: list[tuple[str, int, list[str | int]]] = [("input_ids", TensorProto.INT64, ["N", "L"])]
    inputs += [(name, TensorProto.FLOAT, cache) for name in ("past_key", "past_value")]
    return _model(nodes, inputs, ["present_key", "present_value"])
