"""How close the INT8 model's outputs are to FP32's on inputs it was not calibrated on, with the uncertainty of that.

Only sums per sample are kept, so memory does not grow with the size of outputs. A signal-to-noise ratio over samples is
a ratio of means; its interval comes from a bootstrap over samples, which are the independent units.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converter.evaluation.boxes import boxes_found, holds_boxes
from converter.evaluation.groups import ChannelTally, neighbours_kept
from converter.evaluation.hidden import shown
from converter.evaluation.margins import MarginTally
from converter.families import SOFTMAXES
from converter.findings import Decisions, Fidelity, Histogram, Interval, OutputFidelity, Proportion
from converter.graph import Graph, attribute
from converter.options import OutputKind
from converter.scores import ClassOutput, class_output
from converter.sessions import Array, Feeds, open_session, output_names, rows, split

__all__ = [
    "Comparison",
    "bootstrap_sqnr",
    "compare",
    "decibels",
    "kl_divergence",
    "measure_fidelity",
    "probabilities",
    "wilson",
]

Doubles = NDArray[np.float64]

NORMALIZING = frozenset({"LpNormalization", "Div"})  # rows of length one are what embeddings end in
RESAMPLES = 2000  # of the bootstrap: 50 of them lie beyond each end of a 95 % interval
DRAWN = 1 << 18  # samples of the bootstrap at a time, 2 MiB of indices
SAME = 1e-5  # of a value: where no more changes from sample to sample, it does not depend on them
LEAST_TO_JUDGE = 16  # samples
INDIFFERENT = 1.25  # times 1 / classes: an embedding's softmax; the least confident of 45 classifiers had 1.5
Z95 = 1.959963984540054


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise), or None where either is zero or not finite."""
    if not (math.isfinite(signal) and math.isfinite(noise)) or signal <= 0 or noise <= 0:
        return None
    return 10 * math.log10(signal / noise)


def wilson(successes: int, n: int, z: float = Z95) -> Proportion:
    """The share of successes with Wilson's score interval (Wilson 1927), sound near 0 and 1 and for few samples."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Proportion(value=share, successes=successes, n=n, interval=Interval(low=low, high=high))


def bootstrap_sqnr(signal: Doubles, noise: Doubles, seed: int) -> Interval | None:
    """The 95 % percentile interval in dB of sum(signal) / sum(noise) over resampled samples; None below 4 samples."""
    if len(signal) < 4 or signal.sum() <= 0 or noise.sum() <= 0:
        return None
    generator, count = np.random.default_rng(seed), len(signal)
    size = max(DRAWN // count, 1)
    powers = np.empty((RESAMPLES, 2))
    for start in range(0, RESAMPLES, size):
        drawn = generator.integers(0, count, (min(size, RESAMPLES - start), count))
        powers[start : start + size] = np.stack([signal[drawn].sum(1), noise[drawn].sum(1)], 1)
    powers = powers[(powers > 0).all(1)]
    if len(powers) < RESAMPLES // 2:
        return None
    low, high = np.quantile(10 * np.log10(powers[:, 0] / powers[:, 1]), (0.025, 0.975))
    return Interval(low=float(low), high=float(high))


def probabilities(scores: Doubles, already: bool) -> Doubles:
    """[n, classes] of softmax over classes, or the scores themselves where they are probabilities ``already``."""
    if already:
        return scores
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    normalized: Doubles = shifted / shifted.sum(axis=1, keepdims=True)
    return normalized


def kl_divergence(before: Doubles, after: Doubles) -> Doubles:
    """[n] of KL(before || after) in nats for rows of probabilities; probabilities below 1e-12 count as 1e-12."""
    p, q = np.clip(before, 1e-12, 1), np.clip(after, 1e-12, 1)
    divergence: Doubles = np.maximum((p * (np.log(p) - np.log(q))).sum(axis=1), 0.0)
    return divergence


def are_probabilities(scores: Doubles) -> bool:
    """Whether every row is non-negative and sums to one."""
    return bool(scores.size and scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3))


@dataclass
class _Sums:
    """What is kept of one output: one number of each kind a sample."""

    shape: tuple[int, ...] = ()
    signal: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    product: float = 0.0
    power_after: float = 0.0
    largest: float = 0.0
    values: int = 0
    equal: int = 0
    integral: bool = False
    not_compared: int = 0
    channels: ChannelTally = field(default_factory=ChannelTally)
    use: OutputKind | None = None
    kept_rows: list[tuple[Array, Array]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=lambda: [0, 0])  # kept, of
    boxes: list[int] = field(default_factory=lambda: [0, 0])  # found again, of; where their number changes
    first: Doubles | None = None
    varies: bool = False

    def add(self, before: Array, after: Array, samples: int) -> None:
        if holds_boxes(before) and holds_boxes(after) and (self.boxes[1] or before.shape != after.shape):
            found = boxes_found(before, after)
            self.boxes = [self.boxes[0] + found[0], self.boxes[1] + found[1]]
        if before.shape != after.shape or (not np.issubdtype(before.dtype, np.number) and before.dtype != np.bool_):
            self.not_compared += samples
            return
        self.shape = self.shape or before.shape
        self.integral = not np.issubdtype(before.dtype, np.floating)
        if not self.integral:
            self.channels.add(before, after)
        if self.use is OutputKind.EMBEDDING:
            self.kept_rows.append((rows(before, samples), rows(after, samples)))
        if self.use is OutputKind.SEQUENCE and before.ndim > 1:
            same = before.argmax(-1) == after.argmax(-1)
            self.tokens = [self.tokens[0] + int(same.sum()), self.tokens[1] + same.size]
        for x, y in zip(rows(before, samples), rows(after, samples), strict=True):
            self._add_row(x.astype(np.float64), y.astype(np.float64))

    def _add_row(self, x: Doubles, y: Doubles) -> None:
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():  # a mask of -inf in both is no difference; infinity in one only cannot be measured
            if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
                self.not_compared += 1
                return
            x, y = x[finite], y[finite]
        if self.first is None:
            self.first = x
        elif not self.varies:
            self.varies = not np.allclose(x, self.first, rtol=SAME, atol=0.0) if x.shape == self.first.shape else True
        error = y - x
        self.signal.append(float(x @ x))
        self.noise.append(float(error @ error))
        self.product += float(x @ y)
        self.power_after += float(y @ y)
        self.largest = max(self.largest, float(np.abs(error).max(initial=0.0)))
        self.values += x.size
        self.equal += int((error == 0).sum())

    def result(self, name: str, seed: int) -> OutputFidelity:
        signal, noise = np.array(self.signal), np.array(self.noise)
        norms = math.sqrt(float(signal.sum()) * self.power_after)
        return OutputFidelity(
            name=name,
            shape=self.shape,
            samples=len(signal),
            sqnr_db=None if self.integral else decibels(float(signal.sum()), float(noise.sum())),
            sqnr_interval=None if self.integral else bootstrap_sqnr(signal, noise, seed),
            cosine=min(1.0, max(-1.0, self.product / norms)) if norms > 0 and not self.integral else None,
            max_abs_error=self.largest,
            equal_share=self.equal / self.values if self.integral and self.values else None,
            not_compared=self.not_compared,
            groups=self.channels.result(name),
            neighbour_kept=self._neighbours(),
            boxes_found=wilson(*self.boxes) if self.boxes[1] else None,
            tokens_kept=self.tokens[0] / self.tokens[1] if self.tokens[1] else None,
            constant=len(signal) > 1 and not self.varies,
        )

    def _neighbours(self) -> Proportion | None:
        if not self.kept_rows:
            return None
        before, after = (np.concatenate(each).astype(np.float64) for each in zip(*self.kept_rows, strict=True))
        kept = neighbours_kept(before, after)
        return None if kept is None else wilson(*kept)


@dataclass
class Choices:
    """What is kept of a classifier: five numbers a sample."""

    output: ClassOutput
    stated: bool = False  # by the owner, that these are classes
    certain: bool | None = None
    classes: int = 0
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    margin: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    errors: MarginTally = field(default_factory=MarginTally)

    def add(self, before: Array, after: Array) -> None:
        x, y = (each.reshape(len(each), -1).astype(np.float64) for each in (before, after))
        keep: NDArray[np.bool_] = np.asarray(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1))
        if keep.any() and self.certain is None:
            self.certain = are_probabilities(x[keep])
        self.classes = x.shape[1]
        x, y = np.where(keep[:, None], x, 0), np.where(keep[:, None], y, 0)
        p, q = probabilities(x, bool(self.certain)), probabilities(y, bool(self.certain))
        top = np.partition(p, -2, axis=1)[:, -2:]
        self.before += np.where(keep, p.argmax(axis=1), -1).tolist()
        self.after += np.where(keep, q.argmax(axis=1), -1).tolist()
        self.margin += (top[:, 1] - top[:, 0]).tolist()
        self.divergence += kl_divergence(p, q).tolist()
        self.errors.add(x[keep], y[keep], top[keep, 1], bool(self.certain))

    def _decides(self) -> bool:
        """Whether the scores tell classes apart: an embedding's favour none.

        Nobody doubts probabilities, nor what the owner states.
        """
        if self.certain or self.stated or len(self.before) < LEAST_TO_JUDGE:
            return True
        confidence = float(np.mean(self.errors.confidences))
        return confidence * self.classes > INDIFFERENT

    def result(self) -> Decisions | None:
        """The section, or None where no class was chosen that could be compared."""
        chosen = np.array(self.before, np.int64)
        kept: NDArray[np.bool_] = np.asarray(chosen >= 0)
        if not kept.any() or not self._decides():
            return None
        same: NDArray[np.bool_] = np.asarray(chosen[kept] == np.array(self.after, np.int64)[kept], np.bool_)
        edges = np.linspace(0, 1, 21)
        margins = np.clip(np.array(self.margin)[kept], 0, 1)
        return Decisions(
            output=self.output.name,
            judged_by=self.output.reason,
            classes=self.classes,
            probabilities=bool(self.certain),
            agreement=wilson(int(same.sum()), len(same)),
            mean_kl=float(np.array(self.divergence)[kept].mean()),
            margins=Histogram(
                edges=tuple(edges.round(3).tolist()),
                all=tuple(np.histogram(margins, edges)[0].tolist()),
                flipped=tuple(np.histogram(margins[~same], edges)[0].tolist()),
            ),
            distinct_classes=len(set(chosen[kept].tolist())),
            margin_errors=self.errors.result(),
        )


@dataclass(frozen=True)
class Comparison:
    """Two models run on the same samples: every output, and the decisions where there are any."""

    samples: int
    outputs: tuple[OutputFidelity, ...]
    decisions: Decisions | None
    before: tuple[int, ...] = ()  # FP32's first class of each sample, -1 where scores are not finite
    after: tuple[int, ...] = ()


def _use(graph: Graph, output: str) -> OutputKind | None:
    """What an output is for where its last operator tells; None where it does not."""
    node = graph.producer(output)
    if node is None:
        return None
    shape = graph.shapes.get(output)
    if node.op_type in NORMALIZING and shape is not None and len(shape) == 2:
        return OutputKind.EMBEDDING
    last = shape is not None and int(attribute(node, "axis", -1)) in (-1, len(shape) - 1)
    if node.op_type in SOFTMAXES and shape is not None and len(shape) == 3 and last:
        return OutputKind.SEQUENCE
    return None


def compare(
    float32: ModelProto,
    int8: ModelProto,
    feeds: Iterable[Feeds],
    *,
    seed: int = 0,
    threads: int = 1,
    kinds: Mapping[str, OutputKind] = MappingProxyType({}),
    masks: Collection[str] = (),
) -> Comparison:
    """Both models ran on every feed, batch by batch; outputs are matched by name, ``kinds`` are stated by the owner.

    Places that the inputs ``masks`` hide are left out.
    """
    before, after = open_session(float32, threads), open_session(int8, threads)
    names = output_names(before)
    graph = Graph(float32)
    found = class_output(graph, kinds)
    sums = {name: _Sums(use=kinds.get(name) or _use(graph, name)) for name in dict.fromkeys(names)}
    choices = None if found is None else Choices(found, kinds.get(found.name) is OutputKind.CLASSES)
    samples = 0
    for feed, count in split(before, feeds):
        expected: Sequence[object] = before.run(names, feed)
        actual: Sequence[object] = after.run(names, feed)
        samples += count
        for name, x, y in {name: (name, x, y) for name, x, y in zip(names, expected, actual, strict=True)}.values():
            if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
                sums[name].add(shown(x, feed, masks), shown(y, feed, masks), count)
                if choices is not None and name == choices.output.name:
                    choices.add(x, y)
            else:
                sums[name].not_compared += count
    outputs = tuple(tally.result(name, seed) for name, tally in sums.items())
    decisions = None if choices is None else choices.result()
    drawn = (tuple(choices.before), tuple(choices.after)) if choices is not None else ((), ())
    return Comparison(samples, outputs, decisions, *drawn)


def measure_fidelity(
    float32: ModelProto,
    int8: ModelProto,
    feeds: Iterable[Feeds],
    distribution: str,
    *,
    seed: int = 0,
    threads: int = 1,
    kinds: Mapping[str, OutputKind] = MappingProxyType({}),
    masks: Collection[str] = (),
) -> Fidelity:
    """The fidelity section; ``distribution`` says in words what the feeds, unseen in calibration, were drawn from."""
    started = time.monotonic()
    compared = compare(float32, int8, feeds, seed=seed, threads=threads, kinds=kinds, masks=masks)
    return Fidelity(
        distribution=distribution,
        samples=compared.samples,
        outputs=compared.outputs,
        decisions=compared.decisions,
        seconds=time.monotonic() - started,
    )
