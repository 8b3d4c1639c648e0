"""Weights onto their integer grid, so that a layer's output moves as little as its inputs allow.

Round-to-nearest treats each weight alone. What matters is the layer's output: minimise |W X - Q X|^2 over Q on the
grid. ``compensate`` does so greedily, one input column after another, spreading each rounding error over the columns
not yet rounded (Optimal Brain Quantization, Frantar & Alistarh 2022; in the column order of GPTQ, Frantar et al. 2023,
eq. 2-3). On MobileNetV1 0.25 that takes agreement with the float weights from 81.8 to 97.8 % in three seconds, and the
inputs may be natural noise (tests/bench/RESULTS.md). ``cancel`` is the data-free sibling after SQuant (Guo et al., ICLR
2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "cancel", "compensate", "max_scale", "mse_scale", "nearest", "patches"]

BLOCK = 128  # columns rounded before their joint error is carried to the rest
DAMPING = 0.1  # of the mean diagonal; ten times that of GPTQ, since synthetic moments are not quite the real ones


def limit(bits: int) -> int:
    """The largest code of a symmetric signed grid; the most negative code stays unused."""
    return int(2 ** (bits - 1)) - 1


def max_scale(rows: Tensor, bits: int) -> Tensor:
    """[O] steps with which each row [O, K] just fits."""
    return rows.abs().amax(1).clamp_min(1e-10) / limit(bits)


def mse_scale(rows: Tensor, bits: int, importance: Tensor | None = None) -> Tensor:
    """[O] steps that minimise the squared rounding error of each row, weighted by ``importance`` [K] or [O, K].

    At 8 bits the full range is best or within a hair of it; at 4 bits clipping the largest weights halves the error.
    """
    best = max_scale(rows, bits)
    full = best.clone()
    lowest = torch.full_like(best, torch.inf)
    weight = torch.ones_like(rows) if importance is None else importance.expand_as(rows)
    for shrink in torch.linspace(1.0, 0.4, 31).tolist():
        scale = full * shrink
        error = ((nearest(rows, scale, bits) - rows).square() * weight).sum(1)
        better = error < lowest
        lowest, best = torch.where(better, error, lowest), torch.where(better, scale, best)
    return best


def nearest(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Each weight of [O, K] replaced by the closest value on its row's grid."""
    top = limit(bits)
    return (rows / scale[:, None]).round().clamp(-top, top) * scale[:, None]


@dataclass
class Moments:
    """Second moments of a layer's input patches, summed over batches: [K, K], or [G, K, K] for G groups."""

    total: Tensor
    count: int = 0

    @classmethod
    def empty(cls, groups: int, width: int) -> Moments:
        """No patches seen yet."""
        return cls(torch.zeros(groups, width, width, dtype=torch.float64 if width <= 1024 else torch.float32))

    def add(self, columns: Tensor) -> None:
        """Takes in [G, K, P]: P patches of each group."""
        self.total += columns @ columns.transpose(1, 2)  # only the sum needs more than 32 bits
        self.count += columns.shape[2]

    def mean(self) -> Tensor:
        """[G, K, K], in the memory of the sums: nothing can be taken in afterwards."""
        self.total /= max(self.count, 1)
        self.count = 0
        return self.total


def compensate(rows: Tensor, scale: Tensor, moments: Tensor, bits: int, damping: float = DAMPING) -> Tensor:
    """[O, K] weights on the grid, each column's rounding error compensated in the columns after it.

    ``moments`` is [G, K, K] with O divisible by G: rows share the moments of their group. ``damping`` is the share of
    their mean diagonal that is added to it. Inputs that never move keep nearest rounding. Columns go from the strongest
    input to the weakest, which are the cheapest to carry the rest.
    """
    groups, width = moments.shape[0], moments.shape[1]
    per_group = rows.shape[0] // groups
    top = limit(bits)
    weight = rows.reshape(groups, per_group, width).to(moments.dtype).clone()
    steps = scale.reshape(groups, per_group).to(moments.dtype)
    diagonal = moments.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True)  # [G, K]
    back = order.argsort(dim=1)
    weight = weight.gather(2, order[:, None].expand_as(weight))
    ridge = damping * diagonal.mean(1).clamp_min(1e-12)
    carry = moments.gather(1, order[:, :, None].expand_as(moments))  # one name for all four steps: each is [G, K, K]
    carry = carry.gather(2, order[:, None].expand_as(moments))
    carry.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    carry = torch.cholesky_inverse(torch.linalg.cholesky(carry))
    carry = torch.linalg.cholesky(carry, upper=True)
    rounded = torch.empty_like(weight)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        errors = torch.empty_like(weight[:, :, start:stop])
        for k in range(start, stop):
            column = weight[:, :, k]
            code = (column / steps).round().clamp(-top, top) * steps
            rounded[:, :, k] = code
            error = (column - code) / carry[:, k, k, None]
            errors[:, :, k - start] = error
            if k + 1 < stop:
                weight[:, :, k + 1 : stop] -= error[:, :, None] * carry[:, None, k, k + 1 : stop]
        if stop < width:
            weight[:, :, stop:] -= errors @ carry[:, start:stop, stop:]
    rounded = rounded.gather(2, back[:, None].expand_as(rounded))
    return rounded.reshape(rows.shape).to(rows.dtype)


def cancel(rows: Tensor, scale: Tensor, kernel: int, bits: int) -> Tensor:
    """[O, K] weights on the grid whose rounding errors cancel within each kernel of ``kernel`` weights and over each
    row.

    After SQuant (Guo et al., ICLR 2022, eq. 8-12): nearest rounding, then in each kernel as many of the nearest-to-half
    weights are rounded the other way as brings the kernel's summed error within half a step, then the same over each
    row with one flip a kernel at most. We take both levels in one vectorised pass a level instead of a loop a kernel.
    """
    top = limit(bits)
    real = (rows / scale[:, None]).reshape(-1, kernel)
    codes = real.round() if kernel == 1 else _flip(real, real.round())
    per_row = rows.shape[1] // kernel
    if per_row > 1:
        sums = (codes - real).reshape(rows.shape[0], per_row, kernel)
        candidate = _best_flip(sums)
        codes = codes.reshape(rows.shape[0], per_row, kernel)
        row_error = sums.sum((1, 2))
        wanted = row_error.round().abs()
        direction = -row_error.sign()
        gain = (sums.sum(2) * -direction[:, None]).clamp_min(0)  # only kernels that err as their row does
        order = gain.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(per_row).expand_as(order))
        flip = (rank < wanted[:, None]) & (gain > 0)
        codes = codes.scatter_add(2, candidate[:, :, None], (flip * direction[:, None])[:, :, None].to(codes.dtype))
    return codes.reshape(rows.shape).clamp(-top, top) * scale[:, None]


def _flip(real: Tensor, codes: Tensor) -> Tensor:
    """Codes [N, k] with the summed error of each row within half a step, by flipping the most undecided weights."""
    error = codes - real
    total = error.sum(1)
    left = total.round().abs()
    direction = -total.sign()
    gain = (error * -direction[:, None]).clamp_min(0)
    for _ in range(int(left.max()) if len(left) else 0):  # at most k / 2 times, which beats sorting such short rows
        best, place = gain.max(dim=1, keepdim=True)
        flip = (left[:, None] > 0) & (best > 0)
        codes = codes.scatter_add(1, place, (flip * direction[:, None]).to(codes.dtype))
        gain = gain.scatter(1, place, 0.0)
        left = left - 1
    return codes


def _best_flip(errors: Tensor) -> Tensor:
    """[O, kernels] index of the weight in each kernel whose error is largest in the direction of the row's error."""
    direction = errors.sum((1, 2), keepdim=True).sign()
    return (errors * direction).argmax(2)


def patches(
    x: Tensor, kernel: tuple[int, ...], stride: list[int], pads: list[int], dilation: list[int], groups: int
) -> Tensor:
    """[G, K, P]: the input patches [N, C, ...] of a convolution, one column a place, the groups apart."""
    if len(kernel) == 1:  # a one-dimensional convolution is one of height 1
        x, kernel = x[:, :, None], (1, *kernel)
        stride, dilation, pads = [1, *stride], [1, *dilation], [0, pads[0], 0, pads[1]]
    x = torch.nn.functional.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    if kernel == (1, 1):
        x = x[:, :, :: stride[0], :: stride[1]]
        columns = x.flatten(2)  # [N, C, P]
    else:
        columns = torch.nn.functional.unfold(x, kernel, tuple(dilation), 0, tuple(stride))  # [N, C k k, P]
    count, width, places = columns.shape
    return (
        columns.reshape(count, groups, width // groups, places).permute(1, 2, 0, 3).reshape(groups, width // groups, -1)
    )
