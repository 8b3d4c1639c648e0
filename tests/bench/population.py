"""A population of small networks trained under known preprocessing, as ONNX files with what is true of each beside it.

    python -m tests.bench.population --data ZOO/data --out FOLDER [--first N] [--only NAME ...]

Each network is NAME.onnx with NAME.json beside it; those that are there already are left alone, so an interrupted run
goes on where it stopped. The JSON has

- ``name``, ``kind`` (picture or signal), ``architecture``, ``activation``, ``dataset``, ``classes``;
- ``output``: classes (scores), probabilities (softmax), places (sigmoid at every place) or picture;
- ``batch_norm``: none, folded or kept (in the file as nodes of its own);
- ``layout`` (nchw or nhwc) and ``normalizes_itself`` (the file begins with the arithmetic of preprocessing);
- ``scaling``: ``name``, ``scale``, ``offset`` and ``order`` (rgb or bgr). What the file takes is ``raw * scale +
  offset``, raw pictures lying in [0, 1] with channels in that order, raw waveforms in [-1, 1] ("unit deviation":
  each waveform less its mean, over its deviation);
- ``score``: the share of right decisions (decibels for output picture) on data it was not trained on;
- ``evaluation``: the .npz file in the same folder with those data, uint8 ``pictures`` [N, 3 or 1, H, W] in RGB or float
  ``waves`` [N, samples], and ``labels`` ([N]; [N, H, W] for places).

``networks(FOLDER)`` lists them and ``evaluation_inputs(sidecar, FOLDER, limit)`` makes what the file takes, and labels.
Training on one half of each data set, judging on the other. Two to sixteen epochs: some have hardly
learnt, some too much.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.bench.population_networks import PICTURE_NETWORKS, SIGNAL_NETWORKS, Style, build_picture, build_signal

__all__ = ["SCALINGS", "Recipe", "evaluation_inputs", "export", "networks", "recipes", "train"]

Array = NDArray[Any]
DEEP = ("depthwise", "inverted", "shuffled", "csp")  # do not learn from torch's own start without normalization
TRAINED = 1.5  # times chance, below which a network has learnt nothing and is trained once more, longer


@dataclass(frozen=True)
class Known:
    """A preprocessing that a network is trained under."""

    name: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    order: str = "rgb"


SCALINGS = {
    each.name: each
    for each in (
        Known("imagenet", (1 / 0.229, 1 / 0.224, 1 / 0.225), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)),
        Known("0..255", (255.0,), (0.0,)),
        Known("-1..1", (2.0,), (-1.0,)),
        Known("caffe", (255.0,), (-103.939, -116.779, -123.68), "bgr"),
        Known("0..1", (1.0,), (0.0,)),
        Known("0..255 minus mean", (255.0,), (-123.68, -116.779, -103.939)),
    )
}
GREY = {
    "imagenet": Known("imagenet", (1 / 0.226,), (-0.449 / 0.226,)),
    "caffe": Known("0..255 minus mean", (255.0,), (-114.0,)),
    "0..255 minus mean": Known("0..255 minus mean", (255.0,), (-114.0,)),
}
WAVES = {
    each.name: each
    for each in (
        Known("-1..1", (1.0,), (0.0,)),
        Known("unit deviation", (1.0,), (0.0,)),
        Known("int16", (32768.0,), (0.0,)),
    )
}


@dataclass(frozen=True)
class Recipe:
    """How one network is made."""

    kind: str
    architecture: str
    activation: str
    normalized: bool
    scaling: str
    dataset: str
    output: str = "classes"
    kept: bool = False
    layout: str = "nchw"
    normalizes_itself: bool = False
    epochs: int = 2
    optimizer: str = "adam"
    width: int = 8

    @property
    def name(self) -> str:
        """Unique, and readable."""
        scaling = {
            "0..255 minus mean": "mean",
            "unit deviation": "unit",
            "0..255": "raw",
            "-1..1": "sym",
            "0..1": "one",
        }
        norm = "kept" if self.kept else "bn" if self.normalized else "plain"
        words = [self.architecture, self.activation, norm, scaling.get(self.scaling, self.scaling), self.dataset]
        words += [self.output] * (self.output != "classes") + [self.layout] * (self.layout != "nchw")
        return "_".join([*words, *["self"] * self.normalizes_itself, f"{self.optimizer}{self.epochs}"])


def recipes() -> list[Recipe]:
    """Every network of the population; each stretch of 13 has every architecture once and every scaling twice."""
    made: list[Recipe] = []
    activations = ("relu", "silu", "relu6", "hardswish", "leaky", "gelu", "relu")
    for turn in range(6):
        for index, name in enumerate(PICTURE_NETWORKS):
            step = len(made)
            data = "digits" if step % 11 == 9 else "vww" if step % 13 == 7 else "cifar10"
            output = ("classes", "probabilities", "classes", "places", "classes")[step % 5]
            normalized = name not in ("convnext", "vit", "mixer") and (step % 3 != 1)
            made.append(
                Recipe(
                    "picture",
                    name,
                    "gelu" if name in ("convnext", "vit", "mixer") else activations[(step * 2 + turn) % 7],
                    normalized,
                    list(SCALINGS)[(index + turn * 5) % 6],
                    data,
                    output if data == "cifar10" or output != "places" else "classes",
                    kept=normalized and step % 7 == 3,
                    layout="nhwc" if step % 9 == 4 else "nchw",
                    normalizes_itself=step % 17 == 12,
                    epochs=(4, 2, 5, 3, 8)[(step + turn) % 5] * (6 if data == "vww" else 2 if data == "digits" else 1),
                    optimizer=("adam", "sgd", "adamw")[(step + turn) % 3],
                    width=(8, 8, 12)[step % 3],
                )
            )
    for index, scaling in enumerate(("0..1", "0..255", "-1..1", "0..1")):
        made.append(
            Recipe("picture", "restorer", activations[index], index == 3, scaling, "cifar10", "picture", epochs=1)
        )
    waves = []
    for turn in range(4):
        for index, (name, scaling) in enumerate((n, s) for n in SIGNAL_NETWORKS for s in WAVES):
            normalized = name == "late_norm" or (index + turn) % 3 != 1
            if (index + turn) % 4 == 0:
                activation = ("relu", "gelu", "leaky", "relu")[turn]
                waves.append(
                    Recipe(
                        "signal", name, activation, normalized, scaling, "pitches", epochs=3 + turn, kept=turn % 2 == 1
                    )
                )
    every: list[Recipe] = []
    for index, each in enumerate(made):  # a waveform every seven pictures, so that an early stop has some of both
        every.append(each)
        if index % 7 == 6 and waves:
            every.append(waves.pop(0))
    return every + waves


# ---------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Data:
    """Raw samples with labels: the half that trains and the half that judges."""

    train: Array
    labels: NDArray[np.int64]
    judged: Array
    judged_labels: NDArray[np.int64]
    classes: int


@cache
def load(name: str, folder: Path) -> Data:
    """Pictures uint8 [N, C, H, W] in RGB, or waveforms float32 [N, samples]."""
    if name == "cifar10":
        stored = np.load(folder / "cifar10_test_jpeg.npz")
        bounds, data = stored["offsets"], stored["jpeg"]
        files = (data[low:high].tobytes() for low, high in pairwise(bounds))
        pictures = np.stack([np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in files])
        return _halves(pictures.transpose(0, 3, 1, 2), stored["labels"], 10)
    if name == "vww":
        stored = np.load(folder / "vww_coco256.npz")
        pictures = stored["images"].transpose(0, 3, 1, 2).reshape(-1, 3, 48, 2, 48, 2).mean((3, 5)).astype(np.uint8)
        return _halves(pictures, stored["labels"], 2)
    if name == "digits":
        from sklearn.datasets import load_digits

        pictures, labels = load_digits(return_X_y=True)
        small = (pictures.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        return _halves(small.repeat(4, 2).repeat(4, 3), labels, 10)
    return _pitches()


def _halves(samples: Array, labels: Array, classes: int) -> Data:
    """As the zoo parts them: the first half of the shuffled samples judges, the second trains."""
    order = np.random.RandomState(0).permutation(len(samples))
    judged, train = order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]
    numbers = np.asarray(labels, np.int64)
    return Data(samples[train], numbers[train], samples[judged], numbers[judged], classes)


def _pitches() -> Data:
    """Notes of twelve pitches with random harmonics and noise, 1,024 samples at 16 kHz, of very different loudness."""
    draw, time_axis = np.random.default_rng(0), np.arange(1024) / 16000
    labels = draw.integers(0, 12, 4000)
    waves = np.empty((4000, 1024), np.float32)
    for wave, label in zip(waves, labels, strict=True):
        pitch = 110 * 2 ** ((label + draw.uniform(-0.3, 0.3)) / 6)
        harmonics = range(1, 9)
        gains = draw.lognormal(0, 0.8, 8) / np.arange(1, 9)
        sound = sum(
            g * np.cos(math.tau * (h * pitch * time_axis + draw.random()))
            for h, g in zip(harmonics, gains, strict=True)
        )
        sound = sound / np.std(sound) + draw.uniform(0.02, 0.5) * draw.standard_normal(1024)
        wave[:] = np.clip(10 ** draw.uniform(-2.3, -0.7) * sound, -1, 1)
    return Data(waves[:3000], labels[:3000], waves[3000:], labels[3000:], 12)


def mosaic(pictures: Array, labels: Array, seed: int) -> tuple[Array, Array]:
    """Pictures [N, 3, 2H, 2W] of four, and the class at each of 2 x 2 places."""
    draw = np.random.default_rng(seed)
    chosen = draw.integers(0, len(pictures), (len(pictures) // 4, 2, 2))
    rows = [np.concatenate([pictures[chosen[:, r, c]] for c in range(2)], 3) for r in range(2)]
    return np.concatenate(rows, 2), labels[chosen]


def scaled(raw: Array, known: Known, kind: str) -> NDArray[np.float32]:
    """What a network takes, channels first, of raw pictures (uint8) or waveforms."""
    if kind == "signal":
        waves = raw.astype(np.float32)
        if known.name == "unit deviation":
            waves = (waves - waves.mean(1, keepdims=True)) / np.maximum(waves.std(1, keepdims=True), 1e-8)
        return waves * np.float32(known.scale[0])
    pictures = raw.astype(np.float32) / 255
    pictures = pictures[:, ::-1] if known.order == "bgr" else pictures
    scale, offset = (np.asarray(each, np.float32).reshape(1, -1, 1, 1) for each in (known.scale, known.offset))
    return np.ascontiguousarray(pictures * scale + offset)


# ------------------------------------------------------------------------------------------------------ training


class Prepared(nn.Module):
    """A network behind the arithmetic that its file begins with, and before the squashing that it ends with."""

    scale: Tensor
    offset: Tensor

    def __init__(self, inner: nn.Module, recipe: Recipe, known: Known) -> None:
        super().__init__()
        self.inner, self.recipe = inner, recipe
        shape = (1, -1, 1, 1)
        self.register_buffer("scale", torch.tensor(known.scale).reshape(shape))
        self.register_buffer("offset", torch.tensor(known.offset).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """What the file gives."""
        if self.recipe.layout == "nhwc":
            x = x.permute(0, 3, 1, 2)
        if self.recipe.normalizes_itself:
            x = x / 255.0 * self.scale + self.offset
        y: Tensor = self.inner(x)
        if self.recipe.output == "probabilities":
            return y.softmax(1)
        return y.sigmoid() if self.recipe.output == "places" else y


def train(recipe: Recipe, data: Data, known: Known) -> tuple[nn.Module, float]:
    """The trained network, in evaluation mode, and its score on the judging half."""
    seed = zlib.crc32(recipe.name.encode())
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    raw, labels = data.train[:4000], data.labels[:4000]
    judged, judged_labels = data.judged[:1000], data.judged_labels[:1000]
    if recipe.output == "places":
        raw, labels = mosaic(np.concatenate([raw, raw]), np.concatenate([labels, labels]), 1)
        judged, judged_labels = mosaic(data.judged, data.judged_labels, 2)
        judged, judged_labels = judged[:250], judged_labels[:250]
    style = Style(recipe.activation, recipe.normalized, recipe.width)
    if recipe.kind == "signal":
        network = build_signal(recipe.architecture, style)
    else:
        network = build_picture(recipe.architecture, raw.shape[1], raw.shape[-1], data.classes, recipe.output, style)
    if not recipe.normalized and (recipe.architecture in DEEP or seed % 2):
        network.apply(_start_as_he)
    inputs = torch.from_numpy(scaled(raw, known, recipe.kind))
    targets = torch.from_numpy(labels)
    optimizer, rate = _optimizer(network, recipe, known)
    batches = [np.arange(len(inputs))[start : start + 64] for start in range(0, len(inputs) - 15, 64)]
    total = recipe.epochs * len(batches)
    for epoch in range(recipe.epochs):
        order = draw.permutation(len(inputs))
        for index, batch in enumerate(batches):
            step = epoch * len(batches) + index
            for group in optimizer.param_groups:
                group["lr"] = (
                    rate * min(1, (step + 1) / 20) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / total)) / 2)
                )
            x, y = inputs[order[batch]], targets[order[batch]]
            if recipe.kind == "picture" and draw.random() < 0.5:
                x = x.flip(3)
                y = y.flip(2) if recipe.output == "places" else y
            optimizer.zero_grad()
            torch.autograd.backward(_loss(network, x, y, recipe, known))
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
    network.eval()
    with torch.no_grad():
        held_out = torch.from_numpy(scaled(judged, known, recipe.kind))
        return network, _score(network, held_out, torch.from_numpy(judged_labels), recipe, known)


def _start_as_he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _optimizer(network: nn.Module, recipe: Recipe, known: Known) -> tuple[torch.optim.Optimizer, float]:
    """Plain descent diverges on raw pixels without normalization, as everybody finds out; those get Adam."""
    if recipe.optimizer == "sgd" and recipe.normalized:
        return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4), 0.05
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05), 2e-3
    return torch.optim.Adam(network.parameters(), 1e-3), 2e-3 if recipe.normalized else 1e-3


def _loss(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, known: Known) -> Tensor:
    if recipe.output == "picture":
        unit = max(known.scale)
        return nn.functional.mse_loss(network(x + 0.08 * unit * torch.randn_like(x)) / unit, x / unit)
    scores = network(x)
    if recipe.output == "places":
        wanted = nn.functional.one_hot(y, scores.shape[1]).permute(0, 3, 1, 2).float()
        wanted = nn.functional.interpolate(wanted, size=scores.shape[2:])
        return nn.functional.binary_cross_entropy_with_logits(scores, wanted)
    return nn.functional.cross_entropy(scores, y)


def _score(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, known: Known) -> float:
    if recipe.output == "picture":
        noise = 0.08 * max(known.scale) * torch.randn_like(x)
        error = float(((network(x + noise) - x) / max(known.scale)).square().mean())
        return -10 * math.log10(max(error, 1e-12))
    scores = torch.cat([network(part) for part in torch.split(x, 250)])
    if recipe.output == "places":
        y = nn.functional.interpolate(y[:, None].float(), size=scores.shape[2:])[:, 0].long()
    return float((scores.argmax(1) == y).float().mean())


# ----------------------------------------------------------------------------------------------------- the files


def export(network: nn.Module, example: Tensor, path: Path, *, kept: bool = False) -> None:
    """The network is a file with a free batch; BatchNorm is folded unless it is ``kept``."""
    torch.onnx.export(
        network,
        (example,),
        path,
        opset_version=17,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL,
    )


def write(recipe: Recipe, data: Data, folder: Path) -> dict[str, Any]:
    """The network was trained and is in the folder, with its sidecar."""
    started = time.process_time()
    known = WAVES[recipe.scaling] if recipe.kind == "signal" else SCALINGS[recipe.scaling]
    if recipe.dataset == "digits":
        known = GREY.get(recipe.scaling, known)
    network, score = train(recipe, data, known)
    if recipe.output != "picture" and score < TRAINED / data.classes:
        network, score = train(replace(recipe, optimizer="adam", epochs=2 * recipe.epochs), data, known)
    whole = Prepared(network, recipe, known).eval()
    side = 2 * data.train.shape[-1] if recipe.output == "places" else data.train.shape[-1]
    shape = [1, side] if recipe.kind == "signal" else [1, data.train.shape[1], side, side]
    example = torch.zeros(shape).permute(0, 2, 3, 1) if recipe.layout == "nhwc" else torch.zeros(shape)
    taken = known
    if recipe.normalizes_itself:
        taken = Known("0..255", (255.0,), (0.0,), known.order)
    export(whole, example, folder / f"{recipe.name}.onnx", kept=recipe.kept)
    sidecar = {
        "name": recipe.name,
        "kind": recipe.kind,
        "architecture": recipe.architecture,
        "activation": recipe.activation,
        "dataset": recipe.dataset,
        "classes": data.classes,
        "output": recipe.output,
        "batch_norm": "kept" if recipe.kept else "folded" if recipe.normalized else "none",
        "layout": recipe.layout,
        "normalizes_itself": recipe.normalizes_itself,
        "scaling": asdict(taken),
        "score": round(score, 4),
        "evaluation": f"{recipe.dataset}{'_places' if recipe.output == 'places' else ''}.npz",
        "training": {
            "epochs": recipe.epochs,
            "optimizer": recipe.optimizer,
            "cpu_seconds": round(time.process_time() - started, 1),
        },
    }
    (folder / f"{recipe.name}.json.part").write_text(json.dumps(sidecar, indent=1))
    (folder / f"{recipe.name}.json.part").rename(folder / f"{recipe.name}.json")
    return sidecar


def _write_evaluation(recipe: Recipe, data: Data, folder: Path) -> None:
    path = folder / f"{recipe.dataset}{'_places' if recipe.output == 'places' else ''}.npz"
    if path.exists():
        return
    samples, labels = data.judged, data.judged_labels
    if recipe.output == "places":
        samples, labels = mosaic(samples, labels, 2)
    if recipe.kind == "signal":
        np.savez_compressed(path, labels=labels, waves=samples)
    else:
        np.savez_compressed(path, labels=labels, pictures=samples)


def networks(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every finished network of the folder, by name: its file and its sidecar."""
    for path in sorted(folder.glob("*.json")):
        yield path.with_suffix(".onnx"), json.loads(path.read_text())


def evaluation_inputs(sidecar: dict[str, Any], folder: Path, limit: int = 1000) -> tuple[NDArray[np.float32], Array]:
    """What the network's file takes, made of data it was not trained on, and the labels."""
    stored = np.load(folder / sidecar["evaluation"])
    raw = stored["waves" if sidecar["kind"] == "signal" else "pictures"][:limit]
    given = sidecar["scaling"]
    known = Known(given["name"], tuple(given["scale"]), tuple(given["offset"]), given["order"])
    inputs = scaled(raw, known, sidecar["kind"])
    if sidecar["layout"] == "nhwc":
        inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    return inputs, stored["labels"][:limit]


def main() -> None:
    """The networks of the recipes are in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the zoo's folder of data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=None)
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for recipe in recipes()[: given.first]:
        if (given.out / f"{recipe.name}.json").exists() or (given.only is not None and recipe.name not in given.only):
            continue
        data = load(recipe.dataset, given.data)
        _write_evaluation(recipe, data, given.out)
        made = write(recipe, data, given.out)
        print(made["name"], made["score"], f"{made['training']['cpu_seconds']} s", flush=True)


if __name__ == "__main__":
    main()
