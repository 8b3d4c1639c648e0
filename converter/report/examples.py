"""A few of the inputs that were made up, small enough to be shown: pictures as PNG, signals as curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converter.findings import Example
from converter.inputs.plans import InputKind, InputPlan

__all__ = ["make_examples"]

MOST = 6  # of one input
SIDE = 64  # pixels of a picture shown
POINTS = 160  # of a signal shown
MOST_INPUTS = 4

Values = NDArray[Any]


def make_examples(plans: Sequence[InputPlan], raw: Mapping[str, Values]) -> tuple[Example, ...]:
    """Pictures and signals evenly spread over the samples of every input that has some."""
    found: list[Example] = []
    shown = [plan for plan in plans if plan.kind in (InputKind.PICTURE, InputKind.SIGNAL) and plan.name in raw]
    for plan in shown[:MOST_INPUTS]:
        values = raw[plan.name]
        for place in np.linspace(0, len(values) - 1, min(MOST, len(values))).astype(int):
            example = _picture(plan, values[place]) if plan.kind is InputKind.PICTURE else _signal(plan, values[place])
            if example is not None:
                found.append(example)
    return tuple(found)


def _picture(plan: InputPlan, value: Values) -> Example | None:
    """The raw picture, whose values lie in [0, 1]; grey where it has not three channels."""
    if value.ndim != 3:
        return None
    planes = value if plan.channels_last else value.transpose(1, 2, 0)
    colours = planes if planes.shape[2] == 3 else np.repeat(planes.mean(2, keepdims=True), 3, 2)
    pixels = np.rint(np.clip(np.nan_to_num(colours), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.quantize(64).save(file, "PNG", optimize=True)
    return Example(input=plan.name, png=base64.b64encode(file.getvalue()).decode())


def _signal(plan: InputPlan, value: Values) -> Example:
    """The first row, thinned to so many points by the largest of each stretch."""
    row = np.nan_to_num(value.reshape(-1, value.shape[-1])[0].astype(np.float64))
    parts = np.array_split(row, min(POINTS, len(row)))
    peaks = [float(part[np.argmax(np.abs(part))]) for part in parts if len(part)]
    return Example(input=plan.name, wave=tuple(round(peak, 5) for peak in peaks))
