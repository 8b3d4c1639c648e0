"""What detectors need: sampling at given places, regions of interest, and the choice among overlapping boxes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.operators.signatures import Ints, Known, Table, refuses

Padding: TypeAlias = Literal["zeros", "border", "reflection"]

TORCH_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}

# ---------------------------------------------------------------- sampling


def _cubic_volume(known: Known) -> bool:
    x = known["x"]
    return known["mode"] == "cubic" and isinstance(x, Tensor) and x.dim() > 4


@refuses("mode", _cubic_volume, "'cubic' on volumes")
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: Literal[0, 1] = 0,
    mode: Literal["linear", "nearest", "cubic"] = "linear",
    padding_mode: Padding = "zeros",
) -> Tensor:
    return F.grid_sample(x, grid, TORCH_MODES[mode], padding_mode, bool(align_corners))


def grid_sample_16(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: Literal[0, 1] = 0,
    mode: Literal["bilinear", "nearest", "bicubic"] = "bilinear",
    padding_mode: Padding = "zeros",
) -> Tensor:
    return F.grid_sample(x, grid, mode, padding_mode, bool(align_corners))


def affine_grid(theta: Tensor, size: Ints, *, align_corners: Literal[0, 1] = 0) -> Tensor:
    return F.affine_grid(theta, list(size), bool(align_corners))


def deform_conv(
    x: Tensor,
    w: Tensor,
    offset: Tensor,
    b: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Ints = (1, 1),
    group: int = 1,
    kernel_shape: Ints | None = None,
    offset_group: int = 1,
    pads: Ints = (0, 0, 0, 0),
    strides: Ints = (1, 1),
) -> Tensor:
    """A convolution whose places are moved by the offsets, between pixels linearly interpolated, outside zero."""
    batch, channels, height, width = x.shape
    rows, columns = w.shape[2:]
    taps = rows * columns
    out_rows, out_columns = offset.shape[2:]
    moved = offset.reshape(batch, offset_group, taps, 2, out_rows, out_columns)
    tap_y, tap_x = (
        each.reshape(taps, 1, 1)
        for each in torch.meshgrid(
            torch.arange(rows, device=x.device) * dilations[0],
            torch.arange(columns, device=x.device) * dilations[1],
            indexing="ij",
        )
    )
    start_y = (torch.arange(out_rows, device=x.device) * strides[0] - pads[0])[:, None]
    start_x = torch.arange(out_columns, device=x.device) * strides[1] - pads[1]
    y = moved[:, :, :, 0] + tap_y + start_y  # batch, offset group, taps, out_rows, out_columns
    place_x = moved[:, :, :, 1] + tap_x + start_x
    grid = torch.stack(((2 * place_x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    sampled = F.grid_sample(
        x.reshape(batch * offset_group, channels // offset_group, height, width),
        grid.reshape(batch * offset_group, taps * out_rows, out_columns, 2),
        align_corners=False,
    ).reshape(batch, offset_group, -1, taps, out_rows, out_columns)
    if mask is not None:
        sampled = sampled * mask.reshape(batch, offset_group, 1, taps, out_rows, out_columns)
    columns_of = sampled.reshape(batch, group, channels // group * taps, out_rows * out_columns)
    weights = w.reshape(group, w.shape[0] // group, -1)
    result = (weights @ columns_of).reshape(batch, w.shape[0], out_rows, out_columns)
    return result if b is None else result + b.reshape(-1, 1, 1)


# ---------------------------------------------------------------- regions of interest


def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: Literal["half_pixel", "output_half_pixel"] = "half_pixel",
    mode: Literal["avg", "max"] = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    half = coordinate_transformation_mode == "half_pixel"
    pooled = [
        _pooled_roi(
            x[int(sample)], roi * spatial_scale - 0.5 * half, half, mode, output_height, output_width, sampling_ratio
        )
        for roi, sample in zip(rois, batch_indices, strict=True)
    ]
    return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1], output_height, output_width)


def roi_align_10(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: Literal["avg", "max"] = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    return roi_align(
        x,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


def _pooled_roi(x: Tensor, roi: Tensor, half: bool, mode: str, rows: int, columns: int, ratio: int) -> Tensor:
    """x: channels, height, width; the result: channels, rows, columns."""
    left, top, right, bottom = roi.unbind()
    height, width = bottom - top, right - left
    if not half:
        height, width = height.clamp(min=1), width.clamp(min=1)
    y, weight_y, inside_y = _samples(top, height, rows, ratio, x.shape[1])
    z, weight_x, inside_x = _samples(left, width, columns, ratio, x.shape[2])
    corners = x[:, y[:, :, None, None], z[None, None]]  # channels, y, 2, x, 2
    weighted = corners * (weight_y * inside_y)[:, :, None, None] * (weight_x * inside_x)[None, None]
    if mode == "avg":
        values = weighted.sum((2, 4))
        grid = values.reshape(x.shape[0], rows, values.shape[1] // rows, columns, values.shape[2] // columns)
        return grid.mean((2, 4))
    values = weighted.amax((2, 4))  # onnx takes the largest of the weighted corners
    grid = values.reshape(x.shape[0], rows, values.shape[1] // rows, columns, values.shape[2] // columns)
    return grid.amax((2, 4))


def _samples(start: Tensor, length: Tensor, bins: int, ratio: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: the two neighbours of each sample, their weights, and whether the sample lies inside."""
    each = ratio if ratio > 0 else max(int(torch.ceil(length / bins)), 1)
    step = length / bins
    offset = (torch.arange(bins * each, device=start.device) // each) * step
    place = start + offset + (torch.arange(bins * each, device=start.device) % each + 0.5) * step / each
    inside = ((place >= -1) & (place <= size)).to(start.dtype)[:, None]
    place = place.clamp(0, size - 1)
    low = place.floor()
    part = place - low
    neighbours = torch.stack((low, (low + 1).clamp(max=size - 1)), 1).long()
    return neighbours, torch.stack((1 - part, part), 1), inside


# ---------------------------------------------------------------- boxes


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int = 0,
    iou_threshold: float = 0.0,
    score_threshold: float | None = None,
    *,
    center_point_box: Literal[0, 1] = 0,
) -> Tensor:
    """Rows of batch, class, box: the best boxes of each class that overlap no better one too much."""
    corners = _corners(boxes, center_point_box)  # batch, boxes, 4: low y, low x, high y, high x
    chosen = []
    for sample in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            ranked, order = scores[sample, kind].sort(descending=True, stable=True)
            if score_threshold is not None:
                order = order[ranked > score_threshold]
            for _ in range(max_output_boxes_per_class):
                if not len(order):
                    break
                best, order = order[0], order[1:]
                chosen.append((sample, kind, int(best)))
                order = order[_overlaps(corners[sample, best], corners[sample, order]) <= iou_threshold]
    return torch.tensor(chosen, dtype=torch.int64).reshape(-1, 3)


def _corners(boxes: Tensor, centred: int) -> Tensor:
    if centred:
        x, y, width, height = boxes.unbind(-1)
        return torch.stack((y - height / 2, x - width / 2, y + height / 2, x + width / 2), -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), -1)


def _overlaps(one: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box and each of the others; a box without area overlaps nothing."""
    sides = torch.minimum(one[2:], others[:, 2:]) - torch.maximum(one[:2], others[:, :2])
    common = sides.clamp(min=0).prod(-1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - common
    return torch.where((common > 0) & (union > 0), common / union, 0)


TABLE: Table = {
    "AffineGrid": affine_grid,
    "DeformConv": deform_conv,
    "GridSample": {16: grid_sample_16, 20: grid_sample},
    "NonMaxSuppression": non_max_suppression,
    "RoiAlign": {10: roi_align_10, 16: roi_align},
}
