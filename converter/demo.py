"""A small real classifier, trained here in seconds, as something to try the converter on.

Eight by eight pictures of handwritten digits, which come with scikit-learn. The network is trained on three quarters of
them; the last quarter is held out and measures the INT8 model, which was made without seeing any picture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from converter.console import showing_progress
from converter.errors import InvalidOption
from converter.options import Options
from converter.outputs import Outputs, write_result

__all__ = ["demonstrate", "digits", "to_onnx", "train"]

Pictures = NDArray[np.float32]  # [n, 1, 8, 8] in 0..1
Labels = NDArray[np.int64]


def demonstrate(folder: Path) -> str:
    """The folder holds FP32 model, held-out pictures, INT8 model and report; returns what to look at."""
    if importlib.util.find_spec("sklearn") is None:
        raise InvalidOption(
            "The demonstration needs the pictures that come with scikit-learn.", remedy="pip install scikit-learn"
        )
    from converter.pipeline import convert

    folder.mkdir(parents=True, exist_ok=True)
    (pictures, labels), (held_out, truth) = digits()
    model, data = folder / "digits.onnx", folder / "digits-held-out.npz"
    onnx.save(to_onnx(train(pictures, labels)), model)
    np.savez(data, image=held_out, labels=truth)
    outputs = Outputs.beside(model)
    with showing_progress(as_json=False) as listener:
        result = convert(model, Options(validation=data), progress=listener)
    write_result(result, outputs)
    before, after = (right(path, held_out, truth) for path in (model, outputs.model))
    return "\n".join(
        (
            f"Trained on {len(labels)} pictures; of {len(truth)} others, held out, FP32 gets {before:.1%} right "
            f"and INT8, made without any picture, {after:.1%}.",
            f"model   {outputs.model}  ({outputs.model.stat().st_size} bytes; FP32 {model.stat().st_size})",
            f"report  {outputs.html}",
        )
    )


def digits() -> tuple[tuple[Pictures, Labels], tuple[Pictures, Labels]]:
    """The pictures and their labels: three quarters, and the rest."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    pictures = (found.images[order, None] / 16).astype(np.float32)
    labels = found.target[order].astype(np.int64)
    cut = 3 * len(order) // 4
    return (pictures[:cut], labels[:cut]), (pictures[cut:], labels[cut:])


def train(pictures: Pictures, labels: Labels, epochs: int = 12) -> nn.Sequential:
    """Three convolutions with batch normalization and a linear head, trained from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(*_block(1, 16), *_block(16, 32, stride=2), *_block(32, 32), *_head(32))
        optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
        steps = epochs * (len(labels) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        for _ in range(epochs):
            order = torch.randperm(len(labels))[: len(labels) // 64 * 64]
            for batch in torch.split(order, 64):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(
                    network(torch.from_numpy(pictures)[batch]), torch.from_numpy(labels)[batch]
                )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return network.eval()


def _block(channels: int, filters: int, stride: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
    yield nn.BatchNorm2d(filters)
    yield nn.ReLU()


def _head(filters: int) -> Iterator[nn.Module]:
    yield nn.AdaptiveAvgPool2d(1)
    yield nn.Flatten()
    yield nn.Linear(filters, 10)


def to_onnx(network: nn.Sequential) -> onnx.ModelProto:
    """The trained network as an ONNX file, with a free batch size; batch normalization is left in, as exporters do."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    tensor = "image"
    for index, module in enumerate(network):
        kind, parameters, attributes = _operator(module)
        names = [f"{index}.{name}" for name in parameters]
        weights += [
            numpy_helper.from_array(value.detach().numpy(), name)
            for name, value in zip(names, parameters.values(), strict=True)
        ]
        output = "digit" if index == len(network) - 1 else f"{index}.output"
        nodes.append(helper.make_node(kind, [tensor, *names], [output], name=f"{index}.{kind}", **attributes))
        tensor = output
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    digit = helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "digits", [image], [digit], weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="zsq demo")


def _operator(module: nn.Module) -> tuple[str, dict[str, torch.Tensor], dict[str, Any]]:
    """The ONNX operator of a module, its inputs after the first, and its attributes."""
    match module:
        case nn.Conv2d():
            return "Conv", {"weight": module.weight}, {"pads": [1, 1, 1, 1], "strides": list(module.stride)}
        case nn.BatchNorm2d():
            assert module.running_mean is not None
            assert module.running_var is not None
            statistics = {"mean": module.running_mean, "var": module.running_var}
            return "BatchNormalization", {"scale": module.weight, "bias": module.bias, **statistics}, {}
        case nn.ReLU():
            return "Relu", {}, {}
        case nn.AdaptiveAvgPool2d():
            return "GlobalAveragePool", {}, {}
        case nn.Flatten():
            return "Flatten", {}, {}
        case nn.Linear():
            return "Gemm", {"weight": module.weight, "bias": module.bias}, {"transB": 1}
    raise TypeError(type(module).__name__)


def right(model: Path, pictures: Pictures, labels: Labels) -> float:
    """The share of pictures that the model names right."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": pictures})
    return float((np.argmax(scores, axis=1) == labels).mean())
