"""Resampling: Resize and Upsample along each axis, and sampling at given places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from converter.errors import UnsupportedModel
from converter.operators.signatures import Floats, Ints, Known, Table, refuses

Mode: TypeAlias = Literal["nearest", "linear", "cubic"]
Transformation: TypeAlias = Literal[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
]
Nearest: TypeAlias = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
Policy: TypeAlias = Literal["stretch", "not_larger", "not_smaller"]


@dataclass(frozen=True)
class Resampling:
    """Everything about one axis that decides where each output takes its values from, and with which weights."""

    size: int
    output: int
    scale: float
    mode: Mode
    transformation: Transformation
    nearest: Nearest
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    roi: tuple[float, float]


def _part_of_a_corner(known: Known) -> bool:
    scales = known["scales"]
    aligned = known["coordinate_transformation_mode"] == "align_corners"
    return aligned and isinstance(scales, tuple) and any(scale != int(scale) for scale in scales)


def _unsettled_ties(known: Known) -> bool:
    one_sided = known["mode"] == "nearest" and known["nearest_mode"] in ("floor", "ceil")
    return one_sided and known["coordinate_transformation_mode"] in ("tf_crop_and_resize", "half_pixel_symmetric")


@refuses("nearest_mode", _unsettled_ties, "floor or ceil beside places that rounding errors decide")
@refuses("coordinate_transformation_mode", _part_of_a_corner, "'align_corners' and scales that are not whole")
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: Transformation = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Policy = "stretch",
    mode: Mode = "nearest",
    nearest_mode: Nearest = "round_prefer_floor",
) -> Tensor:
    axes = tuple(range(x.dim())) if axes is None else tuple(axis % x.dim() for axis in axes)
    factors, outputs = _lengths([x.shape[axis] for axis in axes], scales or (), sizes, keep_aspect_ratio_policy)
    cropping = coordinate_transformation_mode == "tf_crop_and_resize"
    if cropping or coordinate_transformation_mode in ("align_corners", "pytorch_half_pixel"):
        _check_whole(x.shape, axes, factors, outputs, to_one=coordinate_transformation_mode == "pytorch_half_pixel")
    regions = list(zip(roi[: len(axes)], roi[len(axes) :], strict=True)) if cropping and roi else []
    if any(factor == 1 and region != (0.0, 1.0) for factor, region in zip(factors, regions, strict=False)):
        raise UnsupportedModel("Resize with tf_crop_and_resize at scale 1 is not supported.", operator="Resize")
    wide = x if x.is_floating_point() else x.double()
    planned = {
        axis: Resampling(
            size=x.shape[axis],
            output=outputs[k],
            scale=factors[k],
            mode=mode,
            transformation=coordinate_transformation_mode,
            nearest=nearest_mode,
            cubic_a=cubic_coeff_a,
            exclude_outside=bool(exclude_outside),
            antialias=bool(antialias),
            roi=regions[k] if regions else (0.0, 1.0),
        )
        for k, axis in enumerate(axes)
        if outputs[k] != x.shape[axis] or factors[k] != 1 or (regions and regions[k] != (0.0, 1.0))
    }
    result = _interpolated(wide, planned)
    if result is None:
        result = wide
        for axis, resampling in planned.items():
            result = _resampled(result, axis, resampling, extrapolation_value)
    return result if x.is_floating_point() else _saturated(result, x.dtype)


def _lengths(given: list[int], scales: Floats, sizes: Ints | None, policy: Policy) -> tuple[list[float], list[int]]:
    """The scale and the new length of each axis."""
    if not sizes:  # in single precision, as runtimes do: 0.7 of 10 is 7
        products = [float(np.float32(scale) * np.float32(size)) for size, scale in zip(given, scales, strict=True)]
        return list(scales), [math.floor(product) for product in products]
    factors = [wanted / size for size, wanted in zip(given, sizes, strict=True)]
    if policy == "stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(given), [int(factor * size + 0.5) for size in given]


def _check_whole(shape: Ints, axes: Ints, factors: list[float], outputs: list[int], to_one: bool) -> None:
    """Refuses where the mode asks for the resized length and that is not whole: runtimes differ on rounding it."""
    for axis, factor, output in zip(axes, factors, outputs, strict=True):
        if abs(factor * shape[axis] - output) > 1e-4 and (output == 1 or not to_one):
            raise UnsupportedModel(
                "Resize by the corners of a length that is not whole is not supported.",
                operator="Resize",
                attribute="coordinate_transformation_mode",
            )


def _shrinks(known: Known) -> bool:
    scales = known["scales"]
    return known["mode"] == "nearest" and isinstance(scales, tuple) and min(scales, default=1) < 1


@refuses("mode", _shrinks, "'nearest' and a scale below 1, for which no rounding was defined before opset 11,")
def resize_10(x: Tensor, scales: Floats, *, mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    if _shrinks({"mode": mode, "scales": scales}):
        raise UnsupportedModel("Resize-10 with mode 'nearest' and a scale below 1 is not supported.")
    return resize(x, None, scales, mode=mode, nearest_mode="floor", coordinate_transformation_mode="asymmetric")


def upsample_7(x: Tensor, *, scales: Floats, mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    return resize_10(x, scales, mode=mode)


def _saturated(x: Tensor, kind: torch.dtype) -> Tensor:
    limits = torch.iinfo(kind)
    return x.round().clamp(limits.min, limits.max).to(kind)


# ---------------------------------------------------------------- one axis


def _resampled(x: Tensor, axis: int, resampling: Resampling, extrapolation: float) -> Tensor:
    """The axis resampled: each output is a weighted sum of a few places."""
    places, weights, outside = _taps(resampling)  # output, taps; output, taps; output
    shape = [-1 if each == axis else 1 for each in range(x.dim())]
    if resampling.mode == "nearest":
        result = x.index_select(axis, _like(places[:, 0], x))
    else:
        factors = _like(weights, x).to(x.dtype)
        result = x.new_zeros(())
        for tap in range(places.shape[1]):
            taken = x.index_select(axis, _like(places[:, tap], x))
            result = result + taken * factors[:, tap].reshape(shape)
    if outside.any():
        result = torch.where(_like(outside, x).reshape(shape), extrapolation, result)
    return result


def _like(values: NDArray[np.generic], x: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(x.device)


@lru_cache(maxsize=256)
def _taps(r: Resampling) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """For each output: the places it is taken from, their weights, and whether it lies outside the region."""
    source = _source(r)
    outside = np.zeros(r.output, dtype=bool)
    if r.transformation == "tf_crop_and_resize":
        outside = (source < 0) | (source > r.size - 1)
    if r.mode == "nearest":
        single = source.astype(np.float32).astype(np.float64)  # runtimes compute in float32, which decides ties
        places = _nearest(single, r.nearest)[:, None]
        weights = np.ones_like(places, dtype=np.float64)
    else:
        stretch = min(r.scale, 1.0) if r.antialias else 1.0
        reach = math.ceil((1 if r.mode == "linear" else 2) / stretch)
        base = np.floor(source).astype(np.int64)
        places = base[:, None] + np.arange(1 - reach, reach + 1)[None, :]
        distance = np.abs(places - source[:, None]) * stretch
        weights = np.clip(1 - distance, 0, None) if r.mode == "linear" else _cubic(distance, r.cubic_a)
        if r.exclude_outside:
            weights = np.where((places < 0) | (places >= r.size), 0.0, weights)
        if r.exclude_outside or r.antialias:
            weights = weights / weights.sum(1, keepdims=True)
    return np.clip(places, 0, r.size - 1), weights, outside


def _source(r: Resampling) -> NDArray[np.float64]:
    """Where, on the input's axis, each output lies."""
    y = np.arange(r.output, dtype=np.float64)
    length = r.scale * r.size  # the output's length before it was rounded
    match r.transformation:
        case "align_corners":
            return y * 0 if length == 1 else y * (r.size - 1) / (length - 1)
        case "asymmetric":
            return y / r.scale
        case "tf_half_pixel_for_nn":
            return (y + 0.5) / r.scale
        case "tf_crop_and_resize":
            start, end = r.roi
            spread = (end - start) * (r.size - 1)
            return start * (r.size - 1) + (y * 0 + spread / 2 if length == 1 else y * spread / (length - 1))
        case "pytorch_half_pixel" if length == 1:
            return y * 0 - 0.5
        case "half_pixel_symmetric":
            return r.size / 2 * (1 - r.output / length) + (y + 0.5) / r.scale - 0.5
    return (y + 0.5) / r.scale - 0.5


def _nearest(source: NDArray[np.float64], mode: Nearest) -> NDArray[np.int64]:
    match mode:
        case "floor":
            rounded = np.floor(source)
        case "ceil":
            rounded = np.ceil(source)
        case "round_prefer_ceil":
            rounded = np.floor(source + 0.5)
        case _:
            rounded = np.ceil(source - 0.5)
    return rounded.astype(np.int64)


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


# ---------------------------------------------------------------- torch's own


def _interpolated(x: Tensor, planned: dict[int, Resampling]) -> Tensor | None:
    """The result by torch's own function where it computes the very same thing, which is several times faster."""
    if x.dim() != 4 or set(planned) != {2, 3}:
        return None
    rows, columns = planned[2], planned[3]
    output = (rows.output, columns.output)
    if rows.mode == "nearest":
        if all(_repeats(axis) for axis in (rows, columns)):
            return F.interpolate(x, output, mode="nearest")
    elif rows.mode == "linear" and not (rows.antialias or rows.exclude_outside):
        exact = all(axis.scale * axis.size == axis.output for axis in (rows, columns))
        if exact and rows.transformation in ("half_pixel", "half_pixel_symmetric"):
            return F.interpolate(x, output, mode="bilinear", align_corners=False)
        if exact and rows.transformation == "align_corners":
            return F.interpolate(x, output, mode="bilinear", align_corners=True)
    return None


def _repeats(r: Resampling) -> bool:
    """Whether every input is repeated the same number of times."""
    times, rest = divmod(r.output, r.size)
    places, _, outside = _taps(r)
    return rest == 0 and not outside.any() and np.array_equal(places[:, 0], np.arange(r.output) // times)


TABLE: Table = {
    "Resize": {10: resize_10, 11: resize},
    "Upsample": {7: upsample_7, 9: resize_10},
}
