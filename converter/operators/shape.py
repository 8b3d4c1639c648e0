"""Shapes: reading them, changing them, putting tensors together and taking them apart."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import UnsupportedModel
from converter.operators.casting import TORCH_TYPES, DataType
from converter.operators.signatures import Ints, Known, Number, Table, Value, refuses

# ---------------------------------------------------------------- reading


def shape(data: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(data.shape[slice(start, end)], dtype=torch.int64)


def size(data: Tensor) -> Tensor:
    return torch.tensor(data.numel())


# ---------------------------------------------------------------- changing


def identity(data: Value) -> Value:
    return data


def reshape(data: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    if not allowzero and 0 in shape:
        shape = tuple(size or data.shape[axis] for axis, size in enumerate(shape))
    if -1 in shape and not data.numel():  # torch infers no size from nothing
        rest = [size for size in shape if size != -1]
        known = torch.Size(rest).numel()
        shape = tuple((0 if not known else data.numel() // known) if size == -1 else size for size in shape)
    return data.reshape(shape)


def reshape_1(data: Tensor, *, shape: Ints) -> Tensor:
    return reshape(data, shape)


def flatten(data: Tensor, *, axis: int = 1) -> Tensor:
    if axis < 0:
        axis += data.dim()
    return data.reshape(torch.Size(data.shape[:axis]).numel(), torch.Size(data.shape[axis:]).numel())


def squeeze(data: Tensor, axes: Ints | None = None) -> Tensor:
    return data.squeeze() if axes is None else data.squeeze(axes)


def squeeze_1(data: Tensor, *, axes: Ints | None = None) -> Tensor:
    return squeeze(data, axes)


def unsqueeze(data: Tensor, axes: Ints) -> Tensor:
    rank = data.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


def unsqueeze_1(data: Tensor, *, axes: Ints) -> Tensor:
    return unsqueeze(data, axes)


def transpose(data: Tensor, *, perm: Ints | None = None) -> Tensor:
    return data.permute(perm if perm is not None else tuple(reversed(range(data.dim()))))


def expand(data: Tensor, shape: Ints) -> Tensor:
    return data.expand(np.broadcast_shapes(data.shape, shape))


def tile(data: Tensor, repeats: Ints) -> Tensor:
    return data.repeat(repeats)


def tile_1(data: Tensor, tiles: int, axis: int) -> Tensor:
    return data.repeat([tiles if each == axis else 1 for each in range(data.dim())])


def depth_to_space(data: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    batch, channels, height, width = data.shape
    depth = channels // blocksize**2
    if mode == "CRD":
        blocks = data.reshape(batch, depth, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        blocks = data.reshape(batch, blocksize, blocksize, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, depth, height * blocksize, width * blocksize)


def space_to_depth(data: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    batch, channels, height, width = data.shape
    blocks = data.reshape(batch, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    blocks = blocks.permute(0, 1, 3, 5, 2, 4) if mode == "CRD" else blocks.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * blocksize**2, height // blocksize, width // blocksize)


def trilu(data: Tensor, k: int = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(data, k) if upper else torch.tril(data, k)


# ---------------------------------------------------------------- padding and cropping


def _crops_and_repeats(known: Known) -> bool:
    pads = known["pads"]
    return known["mode"] in ("reflect", "wrap") and isinstance(pads, tuple) and min(pads, default=0) < 0


@refuses("pads", _crops_and_repeats, "that are negative beside a mode that repeats the data")
def pad(
    data: Tensor,
    pads: Ints,
    value: Number | None = None,
    axes: Ints | None = None,
    *,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
) -> Tensor:
    if _crops_and_repeats({"mode": mode, "pads": pads}):
        raise UnsupportedModel(f"Pad with negative pads and mode {mode!r} is not supported.")
    axes = tuple(axis % data.dim() for axis in axes) if axes is not None else tuple(range(data.dim()))
    begins = dict(zip(axes, pads[: len(axes)], strict=True))
    ends = dict(zip(axes, pads[len(axes) :], strict=True))
    if mode == "constant":
        pairs = [(begins.get(axis, 0), ends.get(axis, 0)) for axis in reversed(range(data.dim()))]
        return F.pad(data, [each for pair in pairs for each in pair], value=value or 0)
    for axis in axes:
        if begins[axis] or ends[axis]:
            size = data.shape[axis]
            place = torch.arange(-begins[axis], size + ends[axis], device=data.device)
            if mode == "edge":
                place = place.clamp(0, size - 1)
            elif mode == "wrap":
                place = place % size
            else:
                period = max(2 * (size - 1), 1)
                place = place % period
                place = torch.minimum(place, period - place) if size > 1 else place * 0
            data = data.index_select(axis, place)
    return data


def pad_1(
    data: Tensor, *, paddings: Ints, value: float = 0.0, mode: Literal["constant", "reflect", "edge"] = "constant"
) -> Tensor:
    return pad(data, paddings, value, mode=mode)


def pad_2(
    data: Tensor, *, pads: Ints, value: float = 0.0, mode: Literal["constant", "reflect", "edge"] = "constant"
) -> Tensor:
    return pad(data, pads, value, mode=mode)


def center_crop_pad(data: Tensor, shape: Ints, *, axes: Ints | None = None) -> Tensor:
    axes = tuple(range(data.dim())) if axes is None else tuple(axis % data.dim() for axis in axes)
    for axis, wanted in zip(axes, shape, strict=True):
        spare = data.shape[axis] - wanted
        if spare > 0:
            data = data.narrow(axis, spare // 2, wanted)
        elif spare < 0:
            before = -spare // 2
            data = pad(data, (before, -spare - before), axes=(axis,))
    return data


def col2im(
    data: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Each column is laid over its block of the image; where blocks overlap they add up."""
    rank = len(image_shape)
    dilations = dilations or (1,) * rank
    strides = strides or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    whole = [image_shape[i] + pads[i] + pads[rank + i] for i in range(rank)]
    place = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device=data.device)
    for i in range(rank):  # block offsets on the first axes, block positions on the last
        count = (whole[i] - dilations[i] * (block_shape[i] - 1) - 1) // strides[i] + 1
        offset = torch.arange(block_shape[i], device=data.device) * dilations[i]
        start = torch.arange(count, device=data.device) * strides[i]
        line = offset[:, None] + start[None, :]
        place = place * whole[i] + line.reshape(
            [line.shape[0] if j == i else line.shape[1] if j == rank + i else 1 for j in range(2 * rank)]
        )
    batch = data.shape[0]
    channels = data.shape[1] // torch.Size(block_shape).numel()
    flat = torch.zeros(batch, channels, torch.Size(whole).numel(), dtype=data.dtype, device=data.device)
    flat = flat.index_add(2, place.reshape(-1), data.reshape(batch, channels, -1))
    image = flat.reshape(batch, channels, *whole)
    for i in range(rank):
        image = image.narrow(2 + i, pads[i], image_shape[i])
    return image


# ---------------------------------------------------------------- together and apart


def concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


def concat_1(*tensors: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(tensors, axis)


def split(
    data: Tensor, sizes: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, output_count: int = 1
) -> tuple[Tensor, ...]:
    """Without sizes the parts are equal, the last one smaller if need be."""
    if sizes is None:
        each = -(-data.shape[axis] // (num_outputs or output_count))
        return torch.split(data, each, axis)
    return torch.split(data, list(sizes), axis)


def split_1(
    data: Tensor, sizes: Ints | None = None, *, axis: int = 0, split: Ints | None = None, output_count: int = 1
) -> tuple[Tensor, ...]:
    return _split(data, sizes if split is None else split, axis=axis, output_count=output_count)


_split = split  # an attribute hides the name


# ---------------------------------------------------------------- made from shapes


def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    return torch.zeros(shape) if value is None else torch.full(shape, value.item(), dtype=value.dtype)


def arange(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    if start.dtype == torch.float32:
        count = max(int(torch.ceil((limit.double() - start.double()) / delta.double())), 0)
        return (first + torch.arange(count, dtype=torch.float64) * step).to(start.dtype)
    if (last - first) * step <= 0:
        return torch.empty(0, dtype=start.dtype)
    return torch.arange(first, last, step, dtype=start.dtype)


def eye_like(data: Tensor, *, dtype: DataType | None = None, k: int = 0) -> Tensor:
    kind = data.dtype if dtype is None else TORCH_TYPES[dtype]
    rows = torch.arange(data.shape[0], device=data.device)
    columns = torch.arange(data.shape[1], device=data.device)
    return (columns[None, :] - rows[:, None] == k).to(kind)


TABLE: Table = {
    "CenterCropPad": center_crop_pad,
    "Col2Im": col2im,
    "Concat": {1: concat_1, 4: concat},
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Identity": identity,
    "Pad": {1: pad_1, 2: pad_2, 11: pad},
    "Range": arange,
    "Reshape": {1: reshape_1, 5: reshape},
    "Shape": shape,
    "Size": size,
    "SpaceToDepth": space_to_depth,
    "Split": {1: split_1, 13: split},
    "Squeeze": {1: squeeze_1, 13: squeeze},
    "Tile": {1: tile_1, 6: tile},
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": {1: unsqueeze_1, 13: unsqueeze},
}
