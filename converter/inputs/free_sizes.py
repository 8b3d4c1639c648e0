"""Sizes that a model leaves open: hypotheses in order of likelihood, tried by running, each with its reason.

What the file says of itself comes first (ultralytics writes ``imgsz``), then sizes that anchors or position tables of
the graph fit, then the usual ones of the kind of network: detectors are trained at 640 or other multiples of their
stride, text recognizers on lines 48 or 32 pixels high, classifiers at 224.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from converter.graph import Graph, attribute, skeleton
from converter.inputs.evidence import symbolic
from converter.inputs.plans import InputKind, InputPlan
from converter.scores import class_output

__all__ = ["Picture", "free_axes", "picture_sizes", "relate", "trials"]

DETECTOR = (640, 416, 320, 512, 608, 800, 1024, 300, 224, 256, 384)  # YOLO's, RetinaNet's, SSD's
PLAIN = (224, 256, 384, 299, 320, 448, 512, 518, 640, 192, 160, 128, 112, 96, 64, 48, 32, 28, 16)  # ImageNet's, CIFAR's
LINES = ((48, 320), (32, 320), (64, 320), (32, 100), (32, 128), (64, 256))  # PP-OCR's, its older ones', CRNN's
LENGTHS = (64, 32, 128, 16, 8, 256, 512, 100, 4, 2, 1)
PASTS = (16, 8, 64, 4, 1)
CELLS = 21 / 1024  # of strides 8, 16 and 32 together, a pixel
MOST_TRIALS = 64
Key = str | tuple[str, int]


@dataclass(frozen=True)
class Picture:
    """A hypothesis of a picture's size, and what speaks for it."""

    height: int
    width: int
    reason: str


def picture_sizes(graph: Graph, metadata: Mapping[str, str]) -> list[Picture]:
    """Sizes of pictures, likeliest first, each once."""
    found = [*_from_metadata(metadata), *_from_tables(graph)]
    if _reads_lines(graph):
        words = "the network shrinks heights more than widths, as readers of text lines do"
        found += [Picture(*size, words) for size in sorted(LINES, key=lambda each: _remainders(graph, each))]
    if _detects(graph):
        found += [Picture(side, side, "the usual size of detectors") for side in DETECTOR]
    found += [Picture(side, side, "a usual size") for side in PLAIN]
    first = {(each.height, each.width): each for each in reversed(found)}
    return list(dict.fromkeys(first[each.height, each.width] for each in found))


def _from_metadata(metadata: Mapping[str, str]) -> list[Picture]:
    for key in ("imgsz", "input_size", "image_size", "img_size"):
        try:
            given = ast.literal_eval(metadata.get(key, "0"))
        except (ValueError, SyntaxError):
            continue
        sizes = [each for each in (given if isinstance(given, list | tuple) else [given] * 2) if isinstance(each, int)]
        if len(sizes) == 2 and min(sizes) >= 8 and max(sizes) <= 8192:
            return [Picture(sizes[0], sizes[1], f"the file's {key} says so")]
    return []


def _from_tables(graph: Graph) -> list[Picture]:
    """Square sizes for which the cells of three strides, or the patches of the first layer, are as many as a table."""
    found = []
    patch = next((node for node in graph.nodes if node.op_type == "Conv" and attribute(node, "strides")), None)
    stride = int(attribute(patch, "strides")[0]) if patch is not None else 1
    for name in graph.initializers:
        shape = graph.initializers.shape(name)
        if len(shape) not in (2, 3) or max(shape, default=0) > 200_000:
            continue
        for count in sorted({size for size in shape if size >= 49}, reverse=True):
            for anchors in (1, 3):
                side = math.isqrt(round(count / anchors / CELLS))
                if side % 32 == 0 and side >= 128 and round(side * side * CELLS) * anchors == count:
                    found.append(Picture(side, side, f"a table of {count} anchors fits it"))
            for extra in (0, 1, 2):  # tokens of the class, and of distillation
                patches = math.isqrt(count - extra)
                usual = stride >= 4 and patches * patches == count - extra and patches * stride in PLAIN
                if usual and len(shape) == 3 and shape[0] == 1:
                    side = patches * stride
                    found.append(Picture(side, side, f"a table of {count} positions fits it"))
    return found


def _reads_lines(graph: Graph) -> bool:
    """Whether strides are larger along the height than along the width."""
    steps = [
        tuple(attribute(node, "strides"))
        for node in graph.nodes
        if node.op_type in ("Conv", "MaxPool", "AveragePool") and attribute(node, "strides")
    ]
    products = [math.prod(each[axis] for each in steps if len(each) == 2) for axis in (0, 1)]
    return bool(products[0] >= 2 * products[1]) and sum(len(each) == 2 and each[0] > each[1] for each in steps) >= 2


def _remainders(graph: Graph, size: tuple[int, int]) -> int:
    """How many pools without padding leave rows over at this size; a network is made for one where none does."""
    model = skeleton(graph.model)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in {each.name for each in graph.inputs} and len(dims) == 4:
            for dim, wanted in zip(dims, (1, None, *size), strict=True):
                if wanted is not None:
                    dim.Clear()
                    dim.dim_value = wanted
    try:
        shapes = Graph(onnx.shape_inference.infer_shapes(model, data_prop=True)).shapes
    except onnx.shape_inference.InferenceError:
        return len(graph.nodes)
    over = 0
    for node in graph.nodes:
        if node.op_type in ("AveragePool", "MaxPool") and not any(attribute(node, "pads") or ()):
            shape, kernel = shapes.get(node.input[0]), attribute(node, "kernel_shape")
            strides = attribute(node, "strides") or [1] * len(kernel)
            if shape is not None and len(shape) == 4 and isinstance(shape[2], int):
                over += (shape[2] - kernel[0]) % strides[0] != 0 or shape[2] < kernel[0]
    return over


def _detects(graph: Graph) -> bool:
    """Whether boxes come out: NonMaxSuppression, or rows that several scales were joined to, or many maps."""
    if class_output(graph) is not None:
        return False
    if any(node.op_type == "NonMaxSuppression" for node in graph.nodes):
        return True
    maps = [each for each in graph.outputs if each.shape is not None and len(each.shape) in (3, 4)]
    if len(graph.outputs) >= 3 and len(maps) >= 3:
        return True
    for output in graph.outputs:
        pending, depth = [output.name], 0
        while pending and depth < 24:
            node = graph.producer(pending.pop(0))
            depth += 1
            if node is None:
                continue
            made = [graph.producer(name) for name in node.input]
            flat = [each for each in made if each is not None and each.op_type in ("Reshape", "Flatten")]
            if node.op_type == "Concat" and len(flat) >= 2:
                return True
            pending.extend(name for name in node.input if name and name not in graph.initializers)
    return False


# --------------------------------------------------------------------------------------------------------------- trials


def free_axes(graph: Graph, plans: Sequence[InputPlan]) -> dict[tuple[str, int], Key]:
    """For every open axis of an input besides the batch, what its size goes by: a symbol, or itself alone."""
    found: dict[tuple[str, int], Key] = {}
    for value, plan in zip(graph.inputs, plans, strict=True):
        if not plan.free_size:
            continue
        for axis, size in enumerate(value.shape or ()):
            if symbolic(size) and axis != plan.batch_axis:
                alone = not isinstance(size, str) or (value.shape or ()).count(size) > 1
                found[value.name, axis] = (value.name, axis) if alone or not isinstance(size, str) else size
    return found


def trials(graph: Graph, plans: tuple[InputPlan, ...], metadata: Mapping[str, str]) -> Iterator[tuple[InputPlan, ...]]:
    """The plans with sizes for all open axes, likeliest first."""
    axes = free_axes(graph, plans)
    by_name = {plan.name: plan for plan in plans}
    kinds = {by_name[name].kind for name, _ in axes}
    pictured = bool(kinds & {InputKind.PICTURE, InputKind.VIDEO, InputKind.MAP})
    pictures: Sequence[Picture | None] = picture_sizes(graph, metadata) if pictured else [None]
    lengths = LENGTHS if kinds - {InputKind.PICTURE, InputKind.VIDEO, InputKind.CACHE} else LENGTHS[:1]
    pasts = PASTS if InputKind.CACHE in kinds else PASTS[:1]
    order = sorted(
        ((p, n, q) for p in range(len(pictures)) for n in range(len(lengths)) for q in range(len(pasts))), key=sum
    )
    for p, n, q in order[:MOST_TRIALS]:
        for spread in (0, 1, 2) if InputKind.MASK in kinds and InputKind.CACHE in kinds else (0,):
            yield tuple(_sized(graph, plans, axes, pictures[p], lengths[n], pasts[q], spread))


def _sized(
    graph: Graph,
    plans: tuple[InputPlan, ...],
    axes: Mapping[tuple[str, int], Key],
    picture: Picture | None,
    length: int,
    past: int,
    spread: int,
) -> Iterator[InputPlan]:
    known: dict[Key, int] = {}
    by_name = {plan.name: plan for plan in plans}
    for (name, axis), key in axes.items():
        plan = by_name[name]
        size = _usual(plan, axis, picture, length, past)
        known.setdefault(key, size)
    longest = {0: length + past, 1: length, 2: past}[spread]
    masked = {key for (name, _), key in axes.items() if by_name[name].kind is InputKind.MASK}
    elsewhere = {key for (name, _), key in axes.items() if by_name[name].kind is not InputKind.MASK}
    cached = any(plan.kind is InputKind.CACHE for plan in plans)
    for key in masked - elsewhere:
        known[key] = longest if cached else length
    for key in known:
        summed = _sum(key, known) if isinstance(key, str) else None
        if summed is not None:
            known[key] = summed
    for value, plan in zip(graph.inputs, plans, strict=True):
        if not any(name == plan.name for name, _ in axes):
            yield plan
            continue
        declared = list(value.shape or ())
        sizes = [
            known[axes[plan.name, each]] if (plan.name, each) in axes else declared[each]
            for each in range(len(declared))
        ]
        kept = [size for each, size in enumerate(sizes) if each != plan.batch_axis]
        reason = plan.reason
        if plan.kind is InputKind.PICTURE and picture is not None:
            reason = f"{plan.reason}; its open size is taken for {picture.height}x{picture.width}: {picture.reason}"
        yield replace(plan, shape=tuple(size if isinstance(size, int) else 1 for size in kept), reason=reason)


def _usual(plan: InputPlan, axis: int, picture: Picture | None, length: int, past: int) -> int:
    """The size of one open axis, were it alone."""
    if plan.kind is InputKind.CACHE:
        return past
    if plan.kind in (InputKind.PICTURE, InputKind.VIDEO, InputKind.MAP) and picture is not None:
        place = axis if plan.batch_axis is None else axis - 1
        rank = len(plan.shape)
        height = rank - 3 if plan.channels_last else rank - 2
        if plan.kind is InputKind.MAP:  # latents are an eighth of pictures
            return max(picture.height // 8, 8)
        if place in (height, height + 1):
            return picture.height if place == height else picture.width
        return 8 if plan.kind is InputKind.VIDEO else 3
    if plan.kind is InputKind.SIGNAL:
        return plan.shape[axis if plan.batch_axis is None else axis - 1]
    return length


def _sum(symbol: str, known: Mapping[Key, int]) -> int | None:
    """The size that a symbol such as "past_length + 1" stands for; None for a plain name or unknown parts."""
    parts = [part.strip() for part in symbol.split("+")]
    if len(parts) < 2 or not all(re.fullmatch(r"\w+", part) for part in parts):
        return None
    sizes = [int(part) if part.isdigit() else known.get(part) for part in parts]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def relate(plans: tuple[InputPlan, ...]) -> tuple[InputPlan, ...]:
    """The plans with the numbers that follow from each other's sizes: positions begin where a cache ends."""
    past = max((plan.shape[-2] for plan in plans if plan.kind is InputKind.CACHE and len(plan.shape) >= 2), default=0)
    steps = [plan for plan in plans if plan.kind in (InputKind.TOKENS, InputKind.EMBEDDINGS, InputKind.SPECTRUM)]
    steps += [plan for plan in plans if plan.kind in (InputKind.FEATURES, InputKind.SIGNAL)]
    longest = next(
        (
            max(plan.shape[:2]) if plan.kind is not InputKind.SIGNAL else plan.shape[plan.time_axis]
            for plan in steps
            if plan.shape
        ),
        1,
    )
    seen = next((plan for plan in plans if plan.kind is InputKind.PICTURE and len(plan.shape) == 3), None)
    found = []
    for plan in plans:
        if (plan.kind is InputKind.POSITIONS and past) or (
            plan.kind is InputKind.MASK and past and plan.shape[-1:] > (past,)
        ):
            plan = replace(plan, value=float(past))
        elif plan.kind is InputKind.MASK:
            plan = replace(plan, value=0.0)
        elif plan.kind is InputKind.LENGTHS and not plan.choices:
            plan = replace(plan, value=float(longest))
        elif plan.kind is InputKind.SIZES and plan.value == 0.0 and seen is not None:
            height, width = seen.shape[:2] if seen.channels_last else seen.shape[1:]
            plan = replace(
                plan, choices=tuple(float(each) for each in (height, width, height, width)[: plan.shape[-1]])
            )
        found.append(plan)
    return tuple(found)
