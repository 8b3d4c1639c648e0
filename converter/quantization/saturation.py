"""Weight steps with which no pair of products overflows 16 bits.

x86 processors without VNNI multiply unsigned activations by signed weights with ``vpmaddubsw``, which adds two
neighbouring products and saturates at 16 bits: codes of 255 against weights of 127 make 64,770 and come out as 32,767.
Onnxruntime's kernels for these processors (MLAS, AVX2 and AVX-512) do so without a word. On one of them MobileNetV1
0.25 agreed with FP32 on 83 % of pictures where the same file agrees on 97 % with VNNI, and a small transformer lost
half of its signal (tests/bench/RESULTS.md). Seven-bit weights avoid it and cost a bit; it is enough that no two
neighbours of one sign exceed the limit together, which costs a third of a bit (0.24 to 0.55 on the zoo's networks).
"""

from __future__ import annotations

import torch
from onnx import NodeProto
from torch import Tensor

from converter.graph import attribute

__all__ = ["PAIR_LIMIT", "may_saturate", "pair_scale", "paired_rows"]

LARGEST_PRODUCT_SUM = 2**15 - 1  # of two products, in vpmaddubsw
LARGEST_ACTIVATION = 255
PAIR_LIMIT = LARGEST_PRODUCT_SUM // LARGEST_ACTIVATION  # 128: what two neighbouring codes of one sign may add up to
ROUNDING = 1  # code that rounding may add to a pair: half a code to each


def may_saturate(node: NodeProto, weight: Tensor) -> bool:
    """Whether the kernel of this weighted node adds products in pairs; depthwise ones widen each product instead."""
    if node.op_type != "Conv":
        return True
    return not (weight.shape[1] == 1 and int(attribute(node, "group", 1)) == weight.shape[0])


def paired_rows(node: NodeProto, weight: Tensor, rows: Tensor) -> list[Tensor]:
    """The rows [O, K] as pairs [O, P, 2] of weights that a kernel multiplies in one instruction.

    A convolution's channels of one place of the kernel follow each other; where their number is odd, one kernel pairs
    across places and another fills up each place with a zero, so both are given.
    """
    if node.op_type != "Conv":
        return [_pairs(rows)]
    by_place = rows.reshape(rows.shape[0], weight.shape[1], -1).transpose(1, 2)  # [O, places, C]
    across = _pairs(by_place.reshape(rows.shape[0], -1))
    if weight.shape[1] % 2 == 0:
        return [across]
    return [across, _pairs(by_place).reshape(rows.shape[0], -1, 2)]


def _pairs(rows: Tensor) -> Tensor:
    """[..., K] as [..., ceil(K / 2), 2], a missing last one being zero."""
    if rows.shape[-1] % 2:
        rows = torch.nn.functional.pad(rows, (0, 1))
    return rows.reshape(*rows.shape[:-1], -1, 2)


def pair_scale(node: NodeProto, weight: Tensor, rows: Tensor) -> Tensor:
    """[O] least steps with which no pair of the rows' codes can saturate, whatever the activations are."""
    if not may_saturate(node, weight):
        return torch.zeros(len(rows))
    sums = [torch.maximum(_largest(pairs), _largest(-pairs)) for pairs in paired_rows(node, weight, rows)]
    return torch.stack(sums).amax(0) / (PAIR_LIMIT - ROUNDING)


def _largest(pairs: Tensor) -> Tensor:
    """[O] the largest sum of the positive parts of a pair."""
    return pairs.clamp_min(0).sum(-1).amax(-1)
