"""Small models of every kind of input, each the smallest graph that does with its inputs what real exports do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["MODELS", "Made"]

FLOAT, INT64, INT32, UINT8, BOOL = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.UINT8,
    TensorProto.BOOL,
)
Size = int | str | None
Stored = NDArray[np.generic] | float | list[int]
Inputs = Mapping[str, tuple[Sequence[Size] | None, int]]
Made = tuple[ModelProto, Mapping[str, str]]  # and what each input is: a kind, or "ask"


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), name=f"{operator}_{outputs}", **attributes)


def array(*shape: int) -> NDArray[np.float32]:
    generator = np.random.default_rng([*shape])
    fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    return np.asarray(generator.standard_normal(shape) / np.sqrt(fan), np.float32)


def model(
    nodes: Sequence[NodeProto],
    inputs: Inputs,
    outputs: Sequence[str] | Mapping[str, Sequence[Size]] = ("y",),
    constants: Mapping[str, Stored] | None = None,
) -> ModelProto:
    shapes = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    arrays = {
        name: np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        for name, value in (constants or {}).items()
    }
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


POOLED = [node("GlobalAveragePool", "h", "p"), node("Flatten", "p", "q"), node("Gemm", "q wl", "y")]


def convolved(shape: Sequence[Size], channels: int, before: Sequence[NodeProto] = (), start: str = "x") -> ModelProto:
    """A classifier whose first layer is a convolution over as many axes as the weight has."""
    axes = len(shape) - 2 if start == "x" else 2
    weight = array(8, channels, *([3] * axes))
    nodes = [*before, node("Conv", f"{start} w", "c", pads=[1] * 2 * axes), node("Relu", "c", "h"), *POOLED]
    return model(nodes, {"x": (shape, FLOAT)}, constants={"w": weight, "wl": array(8, 5)})


def picture(channels: int, *sides: Size) -> Callable[[], Made]:
    kind = "picture" if channels in (1, 3, 6) else "map"
    return lambda: (convolved(["N", channels, *sides], channels), {"x": kind})


def picture_nhwc() -> Made:
    return convolved(["N", 32, 32, 3], 3, [node("Transpose", "x", "t", perm=[0, 3, 1, 2])], "t"), {"x": "picture"}


def picture_without_batch() -> Made:
    made = convolved([3, 32, 32], 3, [node("Unsqueeze", "x zero", "u")], "u")
    made.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    return made, {"x": "picture"}


def picture_uint8() -> Made:
    made, _ = picture_nhwc()
    made.graph.input[0].type.tensor_type.elem_type = UINT8
    made.graph.node.insert(0, node("Cast", "x", "f", to=FLOAT))
    made.graph.node[1].input[0] = "f"
    return made, {"x": "picture"}


def picture_uint8_nchw() -> Made:
    made = convolved(["N", 3, 32, 32], 3, [node("Cast", "x", "f", to=FLOAT)], "f")
    made.graph.input[0].type.tensor_type.elem_type = UINT8
    return made, {"x": "picture"}


def flow() -> Made:
    """Two pictures joined; the flow has the shape of neither."""
    nodes = [node("Concat", "first second", "j", axis=1), node("Conv", "j w", "y", pads=[1] * 4)]
    shape: Sequence[Size] = ["N", 3, 32, 32]
    return model(nodes, {"first": (shape, FLOAT), "second": (shape, FLOAT)}, constants={"w": array(2, 6, 3, 3)}), {
        "first": "picture",
        "second": "picture",
    }


def reference() -> Made:
    """A second picture shaped like the output is no state, not even beside a further output."""
    nodes = [
        node("Concat", "image reference", "j", axis=1),
        node("Conv", "j w", "c", pads=[1] * 4),
        node("Add", "c image", "y"),
        node("ReduceMean", "c", "quality"),
    ]
    shape: Sequence[Size] = ["N", 3, 32, 32]
    inputs: Inputs = {"image": (shape, FLOAT), "reference": (shape, FLOAT)}
    outputs: Mapping[str, Sequence[Size]] = {"y": shape, "quality": [1, 1, 1, 1]}
    return model(nodes, inputs, outputs, constants={"w": array(3, 6, 3, 3)}), {
        "image": "picture",
        "reference": "picture",
    }


def inpainting() -> Made:
    """A picture and what is missing of it."""
    nodes = [
        node("Sub", "one mask", "kept"),
        node("Mul", "image kept", "seen"),
        node("Concat", "seen mask", "j", axis=1),
        node("Conv", "j w", "y", pads=[1] * 4),
    ]
    inputs: Inputs = {"image": (["N", 3, 32, 32], FLOAT), "mask": (["N", 1, 32, 32], FLOAT)}
    return model(nodes, inputs, constants={"w": array(3, 4, 3, 3), "one": 1.0}), {"image": "picture", "mask": "mask"}


def diffusion() -> Made:
    """Latents, a time step whose sines are taken, and the text's hidden states."""
    nodes = [
        node("Cast", "timestep", "tf", to=FLOAT),
        node("Unsqueeze", "tf last", "tu"),
        node("Mul", "tu frequencies", "tw"),
        node("Sin", "tw", "ts"),
        node("Gemm", "ts wt", "te"),
        node("Unsqueeze", "te places", "tp"),
        node("Conv", "sample w", "c", pads=[1] * 4),
        node("Add", "c tp", "ct"),
        node("MatMul", "encoder_hidden_states wh", "hh"),
        node("ReduceMean", "hh", "hm", axes=[1], keepdims=0),
        node("Unsqueeze", "hm places", "hp"),
        node("Add", "ct hp", "s"),
        node("Conv", "s wo", "y", pads=[1] * 4),
    ]
    inputs: Inputs = {
        "sample": (["N", 4, 16, 16], FLOAT),
        "timestep": (["N"], INT64),
        "encoder_hidden_states": (["N", "length", 256], FLOAT),
    }
    made = model(
        nodes,
        inputs,
        {"y": ["N", 4, 16, 16]},
        constants={
            "last": [1],
            "places": [2, 3],
            "frequencies": np.exp(-np.arange(8, dtype=np.float32)),
            "wt": array(8, 8),
            "w": array(8, 4, 3, 3),
            "wh": array(256, 8),
            "wo": array(4, 8, 3, 3),
        },
    )
    return made, {"sample": "map", "timestep": "step", "encoder_hidden_states": "embeddings"}


def film() -> Made:
    return convolved(["N", 3, 8, 32, 32], 3), {"x": "video"}


def volume() -> Made:
    return convolved(["N", 1, 16, 16, 16], 1), {"x": "map"}


def detector_with_size() -> Made:
    """The picture's own size scales the boxes and meets no weights."""
    nodes = [
        node("Conv", "image w", "c", strides=[4, 4]),
        node("Reshape", "c rows", "r"),
        node("Unsqueeze", "im_shape one", "s"),
        node("Mul", "r s", "y"),
        node("Div", "y scale_factor", "z"),
    ]
    inputs: Inputs = {
        "image": (["N", 3, 32, 32], FLOAT),
        "im_shape": (["N", 2], FLOAT),
        "scale_factor": (["N", 2], FLOAT),
    }
    made = model(nodes, inputs, ("z",), constants={"w": array(2, 3, 4, 4), "rows": [0, -1, 2], "one": [1]})
    return made, {"image": "picture", "im_shape": "sizes", "scale_factor": "sizes"}


def suppression() -> Made:
    """Thresholds and a limit as inputs of NonMaxSuppression."""
    nodes = [
        node("Conv", "image wb", "cb", strides=[4, 4]),
        node("Reshape", "cb boxes_shape", "b"),
        node("Conv", "image ws", "cs", strides=[4, 4]),
        node("Reshape", "cs scores_shape", "s"),
        node("NonMaxSuppression", "b s most iou score", "kept"),
        node("Cast", "kept", "y", to=FLOAT),
    ]
    inputs: Inputs = {
        "image": ([1, 3, 32, 32], FLOAT),
        "most": ([1], INT64),
        "iou": ([1], FLOAT),
        "score": ([1], FLOAT),
    }
    stored: dict[str, Stored] = {"wb": array(4, 3, 4, 4), "ws": array(1, 3, 4, 4)}
    made = model(nodes, inputs, constants={**stored, "boxes_shape": [1, -1, 4], "scores_shape": [1, 1, -1]})
    return made, {"image": "picture", "most": "constant", "iou": "constant", "score": "constant"}


# ------------------------------------------------------------------------------------------------------------ sequences

PROJECTED = [node("MatMul", "e w", "m"), node("Relu", "m", "r"), node("MatMul", "r wl", "y")]


def tokens() -> Made:
    nodes = [node("Gather", "table ids", "e"), *PROJECTED]
    return model(
        nodes,
        {"ids": (["N", "S"], INT64)},
        constants={"table": array(1000, 16), "w": array(16, 16), "wl": array(16, 5)},
    ), {"ids": "tokens"}


def bert(mask: Sequence[NodeProto], constants: Mapping[str, Stored]) -> ModelProto:
    nodes = [
        node("Gather", "table input_ids", "et"),
        node("Gather", "segments token_type_ids", "es"),
        node("Add", "et es", "e"),
        node("MatMul", "e w", "m"),
        node("Transpose", "m", "mt", perm=[0, 2, 1]),
        node("MatMul", "m mt", "scores"),
        *mask,
        node("Softmax", "masked", "p", axis=-1),
        node("MatMul", "p m", "a"),
        node("MatMul", "a wl", "y"),
    ]
    axes: Sequence[Size] = ["batch", "sequence"]
    inputs: Inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (axes, INT64))
    weights = {"table": array(30522, 16), "segments": array(2, 16), "w": array(16, 16), "wl": array(16, 5)}
    return model(nodes, inputs, constants={**weights, **constants})


BERT = {"input_ids": "tokens", "attention_mask": "mask", "token_type_ids": "types"}


def bert_of_old() -> Made:
    """(1 - mask) times -10,000, added to the scores."""
    mask = [
        node("Unsqueeze", "attention_mask one", "u"),
        node("Cast", "u", "f", to=FLOAT),
        node("Sub", "unit f", "left"),
        node("Mul", "left far", "bias"),
        node("Add", "scores bias", "masked"),
    ]
    return bert(mask, constants={"one": [1], "unit": 1.0, "far": -10000.0}), BERT


def bert_of_today() -> Made:
    """Where the mask is true the scores, elsewhere the smallest number."""
    mask = [
        node("Unsqueeze", "attention_mask one", "u"),
        node("Cast", "u", "b", to=BOOL),
        node("Where", "b scores far", "masked"),
    ]
    return bert(mask, constants={"one": [1], "far": -3e38}), BERT


def pooled_sentence() -> Made:
    """A mask that only weighs the mean over places."""
    nodes = [
        node("Gather", "table input_ids", "e"),
        node("MatMul", "e w", "m"),
        node("Cast", "attention_mask", "f", to=FLOAT),
        node("Unsqueeze", "f two", "u"),
        node("Mul", "m u", "k"),
        node("ReduceSum", "k one", "s", keepdims=0),
        node("ReduceSum", "u one", "n", keepdims=0),
        node("Div", "s n", "y"),
    ]
    axes: Sequence[Size] = ["batch", "sequence"]
    inputs: Inputs = {"input_ids": (axes, INT64), "attention_mask": (axes, INT64)}
    made = model(nodes, inputs, constants={"table": array(500, 16), "w": array(16, 8), "one": [1], "two": [2]})
    return made, {"input_ids": "tokens", "attention_mask": "mask"}


def embeddings_with_bool_mask() -> Made:
    """True where attention must not go, as torch's key_padding_mask says it."""
    nodes = [
        node("MatMul", "h w", "m"),
        node("Transpose", "m", "mt", perm=[0, 2, 1]),
        node("MatMul", "m mt", "s"),
        node("Unsqueeze", "padding one", "u"),
        node("Where", "u far s", "masked"),
        node("Softmax", "masked", "p", axis=-1),
        node("MatMul", "p m", "y"),
    ]
    inputs: Inputs = {"h": (["N", "S", 256], FLOAT), "padding": (["N", "S"], BOOL)}
    return model(nodes, inputs, constants={"w": array(256, 16), "one": [1], "far": -1e9}), {
        "h": "embeddings",
        "padding": "mask",
    }


def positions() -> Made:
    """Positions choose rows of their own table, with two added as in OPT."""
    nodes = [
        node("Gather", "table input_ids", "et"),
        node("Add", "position_ids two", "shifted"),
        node("Gather", "places shifted", "ep"),
        node("Add", "et ep", "e"),
        *PROJECTED,
    ]
    axes: Sequence[Size] = ["batch", "sequence"]
    inputs: Inputs = {"input_ids": (axes, INT64), "position_ids": (axes, INT64)}
    stored: dict[str, Stored] = {
        "table": array(1000, 16),
        "places": array(130, 16),
        "w": array(16, 16),
        "wl": array(16, 5),
    }
    return model(nodes, inputs, constants={**stored, "two": np.array(2)}), {
        "input_ids": "tokens",
        "position_ids": "positions",
    }


def rotary() -> Made:
    """Positions whose sines are taken."""
    nodes = [
        node("Gather", "table input_ids", "et"),
        node("Cast", "position_ids", "pf", to=FLOAT),
        node("Unsqueeze", "pf two", "pu"),
        node("Mul", "pu frequencies", "pw"),
        node("Cos", "pw", "pc"),
        node("Mul", "et pc", "e"),
        *PROJECTED,
    ]
    axes: Sequence[Size] = ["batch", "sequence"]
    inputs: Inputs = {"input_ids": (axes, INT64), "position_ids": (axes, INT64)}
    stored: dict[str, Stored] = {
        "table": array(1000, 16),
        "frequencies": np.ones(16, np.float32),
        "w": array(16, 16),
        "wl": array(16, 5),
    }
    return model(nodes, inputs, constants={**stored, "two": [2]}), {"input_ids": "tokens", "position_ids": "positions"}


def recommender() -> Made:
    """Ids in vectors."""
    nodes = [
        node("Gather", "users user_id", "u"),
        node("Gather", "items item_id", "i"),
        node("Concat", "u i", "e", axis=1),
        node("Gemm", "e w", "m"),
        node("Relu", "m", "r"),
        node("Gemm", "r wl", "y"),
    ]
    inputs: Inputs = {"user_id": (["N"], INT64), "item_id": (["N"], INT64)}
    stored: dict[str, Stored] = {"users": array(300, 8), "items": array(200, 8), "w": array(16, 16), "wl": array(16, 1)}
    return model(nodes, inputs, constants=stored), {"user_id": "tokens", "item_id": "tokens"}


def speaker() -> Made:
    """Phonemes of one sentence, their number, the speaker and a rate, as voices are exported."""
    nodes = [
        node("Gather", "table input", "e0"),
        node("Gather", "speakers sid", "es"),
        node("Add", "e0 es", "e"),
        node("Shape", "input", "shape"),
        node("Gather", "shape one", "length"),
        node("Range", "zero length step", "places"),
        node("Unsqueeze", "input_lengths one", "il"),
        node("Less", "places il", "inside"),
        node("Cast", "inside", "f", to=FLOAT),
        node("Unsqueeze", "f two", "fu"),
        node("MatMul", "e w", "m"),
        node("Mul", "m fu", "mk"),
        node("Mul", "mk length_scale", "ms"),
        node("MatMul", "ms wl", "y"),
    ]
    inputs: Inputs = {
        "input": ([1, "phonemes"], INT64),
        "input_lengths": ([1], INT64),
        "sid": ([1], INT64),
        "length_scale": ([1], FLOAT),
    }
    stored: dict[str, Stored] = {
        "table": array(150, 16),
        "speakers": array(20, 16),
        "w": array(16, 16),
        "wl": array(16, 5),
    }
    made = model(
        nodes, inputs, constants={**stored, "one": np.array(1), "two": [2], "zero": np.array(0), "step": np.array(1)}
    )
    return made, {"input": "tokens", "input_lengths": "lengths", "sid": "tokens", "length_scale": "constant"}


def one_id() -> Made:
    nodes = [node("Gather", "table label", "e"), *PROJECTED]
    return model(
        nodes, {"label": ([1], INT64)}, constants={"table": array(10, 16), "w": array(16, 16), "wl": array(16, 5)}
    ), {"label": "tokens"}


def decoder() -> Made:
    nodes = [
        node("Gather", "table ids", "e"),
        node("MatMul", "e w", "k"),
        node("Concat", "past_key k", "present_key", axis=1),
        node("Transpose", "present_key", "kt", perm=[0, 2, 1]),
        node("MatMul", "e kt", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p present_key", "a"),
        node("MatMul", "a wl", "y"),
    ]
    inputs: Inputs = {"ids": (["batch", "length"], INT64), "past_key": (["batch", "past", 16], FLOAT)}
    outputs: Mapping[str, Sequence[Size]] = {"y": ["batch", "length", 5], "present_key": ["batch", "all", 16]}
    return model(
        nodes, inputs, outputs, constants={"table": array(1000, 16), "w": array(16, 16), "wl": array(16, 5)}
    ), {
        "ids": "tokens",
        "past_key": "cache",
    }


def recurrent() -> Made:
    """An LSTM that begins with given states, whatever they are called."""
    nodes = [
        node("LSTM", "x w r b  first second", "all next_a next_b", hidden_size=8),
        node("Squeeze", "all one", "h"),
        node("MatMul", "h wl", "y"),
    ]
    nodes[0].input[4] = ""
    inputs: Inputs = {
        "x": (["T", "N", 12], FLOAT),
        "first": ([1, "N", 8], FLOAT),
        "second": ([1, "N", 8], FLOAT),
    }
    outputs: Mapping[str, Sequence[Size]] = {"y": ["T", "N", 5], "next_a": [1, "N", 8], "next_b": [1, "N", 8]}
    nodes[0] = helper.make_node(
        "LSTM", ["x", "w", "r", "b", "", "first", "second"], ["all", "next_a", "next_b"], hidden_size=8
    )
    stored: dict[str, Stored] = {"w": array(1, 32, 12), "r": array(1, 32, 8), "b": array(1, 64), "wl": array(8, 5)}
    return model(nodes, inputs, outputs, constants={**stored, "one": [1]}), {
        "x": "features",
        "first": "state",
        "second": "state",
    }


def matting() -> Made:
    """Recurrent features of a film: r1i comes back as r1o."""
    nodes = [
        node("Conv", "src w", "c", pads=[1] * 4),
        node("Concat", "c r1i", "j", axis=1),
        node("Conv", "j wr", "r1o", pads=[1] * 4),
        node("Conv", "r1o wo", "y", pads=[1] * 4),
    ]
    state: Sequence[Size] = ["N", 8, 32, 32]
    inputs: Inputs = {"src": (["N", 3, 32, 32], FLOAT), "r1i": (state, FLOAT)}
    outputs: Mapping[str, Sequence[Size]] = {"y": ["N", 1, 32, 32], "r1o": state}
    stored: dict[str, Stored] = {"w": array(8, 3, 3, 3), "wr": array(8, 16, 3, 3), "wo": array(1, 8, 3, 3)}
    return model(nodes, inputs, outputs, constants=stored), {"src": "picture", "r1i": "state"}


# --------------------------------------------------------------------------------------------------- sound and features


def waveform() -> Made:
    return convolved(["N", 1, 16000], 1), {"x": "signal"}


def electrocardiogram() -> Made:
    return convolved(["N", 12, 1000], 12), {"x": "signal"}


def mel_frames() -> Made:
    return convolved(["N", 80, "frames"], 80), {"x": "spectrum"}


def cepstra() -> Made:
    return convolved(["N", 1, 49, 10], 1), {"x": "spectrum"}


def plane_of_frames() -> Made:
    """[n, frames, bands], made a plane by an Unsqueeze."""
    made = convolved(["N", 100, 64], 1, [node("Unsqueeze", "x axis", "u")], "u")
    made.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    return made, {"x": "spectrum"}


def hidden_states() -> Made:
    nodes = [node("MatMul", "h w", "m"), node("Relu", "m", "r"), node("MatMul", "r wl", "y")]
    return model(nodes, {"h": (["n", "length", 768], FLOAT)}, constants={"w": array(768, 16), "wl": array(16, 5)}), {
        "h": "embeddings"
    }


def tabular(width: int) -> Callable[[], Made]:
    def made() -> Made:
        nodes = [node("Gemm", "x w", "m"), node("Relu", "m", "r"), node("Gemm", "r wl", "y")]
        return model(nodes, {"x": (["N", width], FLOAT)}, constants={"w": array(width, 16), "wl": array(16, 5)}), {
            "x": "features"
        }

    return made


def features_with_factor() -> Made:
    """A temperature that divides the scores."""
    nodes = [node("Gemm", "x w", "m"), node("Relu", "m", "r"), node("Gemm", "r wl", "l"), node("Div", "l t", "y")]
    inputs: Inputs = {"x": (["N", 20], FLOAT), "t": ([], FLOAT)}
    return model(nodes, inputs, constants={"w": array(20, 16), "wl": array(16, 5)}), {"x": "features", "t": "constant"}


def sampling_rate() -> Made:
    nodes = [
        node("Equal", "rate known", "same"),
        node("Cast", "same", "f", to=FLOAT),
        node("Conv", "x w", "c", strides=[8]),
        node("Mul", "c f", "y"),
    ]
    inputs: Inputs = {"x": (["N", 1, 512], FLOAT), "rate": ([], INT64)}
    return model(nodes, inputs, constants={"w": array(8, 1, 16), "known": np.array(8000)}), {
        "x": "signal",
        "rate": "constant",
    }


# -------------------------------------------------------------------------------------------------------- to be asked


def unknown_rank() -> Made:
    nodes = [node("Relu", "x", "y")]
    return model(nodes, {"x": (None, FLOAT)}), {"x": "ask"}


def number_of_steps() -> Made:
    """An integer that decides how large something is: nothing tells how large."""
    nodes = [
        node("Range", "zero steps one", "places"),
        node("Cast", "places", "f", to=FLOAT),
        node("Unsqueeze", "f one_axis", "u"),
        node("MatMul", "u w", "y"),
    ]
    made = model(
        nodes,
        {"steps": ([], INT64)},
        constants={"w": array(1, 8), "zero": np.array(0), "one": np.array(1), "one_axis": [1]},
    )
    return made, {"steps": "ask"}


def integers_without_a_table() -> Made:
    """Counts, times, codes: integers that are only cast."""
    nodes = [node("Cast", "x", "f", to=FLOAT), node("Gemm", "f w", "y")]
    return model(nodes, {"x": (["N", 30], INT64)}, constants={"w": array(30, 8)}), {"x": "ask"}


MODELS: dict[str, Callable[[], Made]] = {
    "gray picture": picture(1, 28, 28),
    "colour picture": picture(3, 32, 32),
    "colour picture of open size": picture(3, "h", "w"),
    "latents": picture(4, 32, 32),
    "two pictures in six channels": picture(6, 32, 32),
    "feature map": picture(64, 14, 14),
    **{
        each.__name__: each
        for each in (
            *(picture_nhwc, picture_without_batch, picture_uint8, picture_uint8_nchw, flow, reference, inpainting),
            *(diffusion, film, volume, detector_with_size, suppression, tokens, bert_of_old, bert_of_today),
            *(pooled_sentence, embeddings_with_bool_mask, positions, rotary, recommender, speaker, one_id, decoder),
            *(recurrent, matting, waveform, electrocardiogram, mel_frames, cepstra, plane_of_frames, hidden_states),
            *(features_with_factor, sampling_rate, unknown_rank, number_of_steps, integers_without_a_table),
        )
    },
    "tabular": tabular(20),
    "flat digits": tabular(784),
    "many features": tabular(1024),
}
