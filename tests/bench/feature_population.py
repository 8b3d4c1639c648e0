"""Small networks for inputs that are no pictures, trained under known preprocessing, as ONNX files.

    python -m tests.bench.feature_population --data ZOO/data --out FOLDER

Spectra are of one-second pieces of the zoo's minute of speech with one of eight events in them (tones that rise or
fall, chords, hiss, clicks); tables are scikit-learn's digits with their pixels in another order, and clusters. Each
network is NAME.onnx with NAME.json beside it, which has ``architecture``, ``batch_norm``, the ``convention`` and what
is true of its inputs: ``mean`` and ``deviation`` of all numbers together. NAME.npz has inputs it was not trained on.
Files that are there already are left alone. About six minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.bench.population import export

__all__ = ["Recipe", "feature_networks", "recipes"]

Array = NDArray[np.float64]
PIECES, CLASSES, FRAMES, BANDS = 1600, 8, 49, 40
LEAST_LEARNT = 1.5  # times chance


# ------------------------------------------------------------------------------------------------------------ data


def power_of_pieces(folder: Path) -> tuple[Array, NDArray[np.int64]]:
    """[PIECES, FRAMES, BANDS] power in mel bands of -1..1 sound, and the event in each piece."""
    with wave.open(str(folder / "audio" / "speech_en_60s_16k.wav")) as file:
        speech = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768.0
    draw, time_axis = np.random.default_rng(0), np.arange(4800) / 16000
    labels = draw.integers(0, CLASSES, PIECES)
    filters = _filters(BANDS)
    made = []
    for label in labels:
        start = int(draw.integers(0, len(speech) - 16000))
        piece = speech[start : start + 16000] * 10 ** draw.uniform(-1, 0)
        low = draw.uniform(300, 700)
        places = time_axis / time_axis[-1]
        glide = {0: 1 + places, 1: 2 - places, 2: 1 + 3 * places, 3: 4 - 3 * places}.get(
            int(label), np.ones_like(places)
        )
        phase = np.cumsum(low * glide) * math.tau / 16000
        event = {
            4: np.cos(phase) + np.cos(3 * phase),
            5: np.cos(phase) + np.cos(1.5 * phase) + np.cos(5 * phase),
            6: draw.standard_normal(len(places)),
            7: (np.arange(len(places)) % 800 < 8) * 6.0,
        }.get(int(label), np.cos(phase))
        at = int(draw.integers(0, 16000 - len(event)))
        piece[at : at + len(event)] += event * np.hanning(len(event)) * 10 ** draw.uniform(-2.0, -1.0)
        windows = np.lib.stride_tricks.sliding_window_view(piece, 640)[::320] * np.hanning(640)
        made.append(np.square(np.abs(np.fft.rfft(windows, 1024))) @ filters)
    return np.stack(made), labels


def _filters(bands: int) -> Array:
    """[513, bands] triangles on the mel scale."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 7600 / 700), bands + 2) / 2595) - 1)
    bins = np.arange(513)[:, None] * 16000 / 1024
    rise, fall = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.asarray(np.maximum(0, np.minimum(rise, fall)))


def _decibels(power: Array) -> Array:
    return 10 * np.log10(np.maximum(power, 1e-10))


def _below_the_top(power: Array) -> Array:
    loud = _decibels(power) - _decibels(power).max((1, 2), keepdims=True)
    return np.asarray(np.maximum(loud, -80.0))


def _whisper(power: Array) -> Array:
    loud = np.log10(np.maximum(power, 1e-10))
    return np.asarray((np.maximum(loud, loud.max((1, 2), keepdims=True) - 8) + 4) / 4)


def _each(values: Array) -> Array:
    return np.asarray((values - values.mean((1, 2), keepdims=True)) / values.std((1, 2), keepdims=True))


def _all(values: Array) -> Array:
    return np.asarray((values - values.mean()) / values.std())


def _cepstra(power: Array) -> Array:
    places, orders = np.arange(BANDS)[:, None], np.arange(13)
    cosines = math.sqrt(2 / BANDS) * np.cos(math.pi * (places + 0.5) * orders / BANDS)
    cosines[:, 0] /= math.sqrt(2)
    return np.asarray(np.log(power + 1e-6) @ cosines)


SOUND: dict[str, Callable[[Array], Array]] = {
    "ln": lambda power: np.log(power + 1e-6),
    "kaldi": lambda power: np.log(power * 32768.0**2 + 1),
    "below": _below_the_top,
    "each": lambda power: _each(np.log(power + 1e-6)),
    "whisper": _whisper,
    "decibels": _decibels,
    "unit": lambda power: _below_the_top(power) / 80 + 1,
    "all": lambda power: _all(np.log(power + 1e-6)),
    "log10": lambda power: np.log10(power + 1e-12),
    "cepstra": _cepstra,
    "half": lambda power: 0.5 * _all(np.log(power + 1e-6)),
    "thin": lambda power: np.log(np.sqrt(power) + 0.01),
}
TABLES: dict[str, Callable[[Array], Array]] = {
    "raw": lambda table: table,
    "unit": lambda table: (table - table.min()) / (table.max() - table.min()),
    "standard": lambda table: (table - table.mean(0)) / np.maximum(table.std(0), 1e-6),
}


def tables(name: str) -> tuple[Array, NDArray[np.int64]]:
    """Rows of numbers with their classes."""
    from sklearn.datasets import load_digits, make_classification

    if name == "digits":
        rows, labels = load_digits(return_X_y=True)
        return rows[:, np.random.default_rng(0).permutation(64)], np.asarray(labels, np.int64)
    rows, labels = make_classification(1600, 24, n_informative=10, n_classes=4, random_state=0)
    return 40 + 12 * rows, np.asarray(labels, np.int64)


# -------------------------------------------------------------------------------------------------------- networks


class Recurrent(nn.Module):
    """The last step of a recurrent layer, perhaps behind a convolution, over [N, frames, bands]."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], bands: int, classes: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(bands) if norm else None
        self.steps, self.last = kind(bands, 48, batch_first=True), nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, classes]."""
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        scores: Tensor = self.last(self.steps(x)[0].mean(1))
        return scores


class Attention(nn.Module):
    """Frames that attend to each other once, over [N, frames, bands]."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.first, self.places = nn.Linear(bands, 48), nn.Parameter(0.02 * torch.randn(FRAMES, 48))
        self.layer = nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True, norm_first=True)
        self.last = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, classes]."""
        scores: Tensor = self.last(self.layer(self.first(x) + self.places).mean(1))
        return scores


def build(architecture: str, sizes: tuple[int, ...], classes: int, norm: bool) -> nn.Module:
    """A network for samples of these sizes: [frames, bands] or [columns]."""
    bands = sizes[-1]

    def block(*layers: nn.Module, width: int, flat: bool = False) -> list[nn.Module]:
        norms = [nn.BatchNorm1d(width) if flat else nn.BatchNorm2d(width)] if norm else []
        return [*layers, *norms, nn.ReLU()]

    match architecture:
        case "planes":
            return nn.Sequential(
                nn.Unflatten(1, (1, sizes[0])),
                *block(nn.Conv2d(1, 16, 3, 2, 1, bias=not norm), width=16),
                *block(nn.Conv2d(16, 24, 3, 2, 1, bias=not norm), width=24),
                *block(nn.Conv2d(24, 32, 3, 2, 1, bias=not norm), width=32),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)),
            )
        case "depthwise":
            return nn.Sequential(
                nn.Unflatten(1, (1, sizes[0])),
                *block(nn.Conv2d(1, 32, (8, 4), 2, (4, 1)), width=32),
                *block(nn.Conv2d(32, 32, 3, 1, 1, groups=32), width=32),
                *block(nn.Conv2d(32, 32, 1), width=32),
                *block(nn.Conv2d(32, 32, 3, 1, 1, groups=32), width=32),
                *block(nn.Conv2d(32, 32, 1), width=32),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)),
            )
        case "steps":
            return nn.Sequential(
                _Turned(),
                *block(nn.Conv1d(bands, 32, 5, 1, 2), width=32, flat=True),
                *block(nn.Conv1d(32, 32, 5, 2, 2), width=32, flat=True),
                *block(nn.Conv1d(32, 32, 5, 2, 2), width=32, flat=True),
                *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, classes)),
            )
        case "gru":
            return Recurrent(nn.GRU, bands, classes, norm)
        case "lstm":
            return Recurrent(nn.LSTM, bands, classes, norm)
        case "attention":
            return Attention(bands, classes)
        case "residual":
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(sizes), 64),
                _Residual(64, norm),
                _Residual(64, norm),
                nn.Linear(64, classes),
            )
    return nn.Sequential(
        nn.Flatten(),
        *block(nn.Linear(math.prod(sizes), 64), width=64, flat=True),
        *block(nn.Linear(64, 64), width=64, flat=True),
        nn.Linear(64, classes),
    )


class _Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _Residual(nn.Module):
    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.inner = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.inner(self.norm(x))
        return changed


# -------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Recipe:
    """How one network is made."""

    architecture: str
    data: str  # sound, digits or clusters
    convention: str
    norm: bool
    glorot: bool = False  # begins as Keras begins (Glorot & Bengio 2010, no biases), not as torch does

    @property
    def name(self) -> str:
        """Unique, and readable."""
        norm, begin = "bn" if self.norm else "plain", "glorot" if self.glorot else "torch"
        return f"{self.architecture}_{self.data}_{self.convention}_{norm}_{begin}"


def recipes() -> list[Recipe]:
    """Every network; each architecture of sound has five conventions, each convention three or four architectures."""
    made = []
    conventions, step = list(SOUND), 0
    for architecture in ("planes", "depthwise", "steps", "gru", "lstm", "attention", "perceptron", "residual"):
        for _ in range(5):
            norm = architecture != "attention" and (step % 5) % 2 == 0
            convention = conventions[(step * 7) % len(conventions)]
            made.append(Recipe(architecture, "sound", convention, norm, glorot=step // 2 % 2 == 0))
            step += 1
    for architecture in ("perceptron", "residual"):
        for place, (data, convention) in enumerate((d, c) for d in ("digits", "clusters") for c in TABLES):
            norm = (place + (architecture == "residual")) % 2 == 0
            made.append(Recipe(architecture, data, convention, norm, glorot=place // 2 % 2 == 0))
    return made


def write(recipe: Recipe, inputs: Array, labels: NDArray[np.int64], folder: Path) -> float:
    """The trained network's file and what is true of it; its share of right decisions on the fourth kept apart."""
    torch.manual_seed(0)
    values, classes = torch.tensor(inputs, dtype=torch.float32), int(labels.max()) + 1
    apart = len(values) // 4
    network = build(recipe.architecture, tuple(values.shape[1:]), classes, recipe.norm)
    if recipe.glorot:
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    started, targets = time.process_time(), torch.tensor(labels)
    for _ in range(12):
        for rows in torch.split(torch.randperm(len(values) - apart) + apart, 32):
            loss = nn.functional.cross_entropy(network(values[rows]), targets[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    network.eval()
    with torch.no_grad():
        score = float((network(values[:apart]).argmax(1) == targets[:apart]).float().mean())
    export(network, values[:1], folder / f"{recipe.name}.onnx")
    np.savez_compressed(folder / f"{recipe.name}.npz", input=values[: min(apart, 200)].numpy())
    facts = {
        "name": recipe.name,
        "architecture": recipe.architecture,
        "data": recipe.data,
        "convention": recipe.convention,
        "batch_norm": recipe.norm,
        "mean": float(inputs.mean()),
        "deviation": float(inputs.std()),
        "score": round(score, 4),
        "classes": classes,
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    (folder / f"{recipe.name}.json").write_text(json.dumps(facts, indent=1))
    return score


def feature_networks(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every finished network of the folder that has learnt something, by name: its file and what is true of it."""
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text())
        if facts["score"] * facts["classes"] >= LEAST_LEARNT:
            yield path.with_suffix(".onnx"), facts


def main() -> None:
    """The networks of the recipes are in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the zoo's folder of data sets")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    power, events = power_of_pieces(given.data)
    for recipe in recipes():
        if (given.out / f"{recipe.name}.json").exists():
            continue
        if recipe.data == "sound":
            inputs, labels = SOUND[recipe.convention](power), events
        else:
            rows, labels = tables(recipe.data)
            inputs = TABLES[recipe.convention](rows)
        print(recipe.name, f"{write(recipe, inputs, labels, given.out):.3f}", flush=True)


if __name__ == "__main__":
    main()
