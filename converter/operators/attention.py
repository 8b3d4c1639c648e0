"""Attention and what models put around it: rotary positions, linear attention, causal convolution with a state."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.operators.casting import TORCH_TYPES
from converter.operators.signatures import Known, Table, refuses


def _raw_scores_beside_softcap(known: Known) -> bool:
    return known["output_count"] == 4 and known["qk_matmul_output_mode"] == 0 and bool(known["softcap"])


@refuses("qk_matmul_output_mode", _raw_scores_beside_softcap, "0 beside a softcap, on which definitions differ")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: Literal[0, 1] = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: Literal[0, 1, 2, 3] = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: Literal[1, 10, 11, 16] | None = None,
    output_count: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = q.dim() == 3
    if flat:  # batch, length, heads * size
        q, k, v = _heads_apart(q, q_num_heads), _heads_apart(k, kv_num_heads), _heads_apart(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    keys, values = k, v  # batch, heads, length, size
    if q.shape[1] != k.shape[1]:
        groups = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    bias = _bias(q, k, attn_mask, past_key, nonpad_kv_seqlen, bool(is_causal), left_window_size, right_window_size)
    root = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = (q * root) @ (keys.transpose(-1, -2) * root)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    shown = scores
    if bias is not None:
        scores = scores + bias
    if qk_matmul_output_mode == 2:
        shown = scores
    weights = torch.softmax(scores if softmax_precision is None else scores.to(TORCH_TYPES[softmax_precision]), -1)
    if bias is not None:  # nothing to attend to gives zeros
        weights = torch.where(torch.isneginf(bias).all(-1, keepdim=True), 0, weights)
    weights = weights.to(q.dtype)
    if qk_matmul_output_mode == 3:
        shown = weights
    result = weights @ values
    return (result.transpose(1, 2).flatten(2) if flat else result), k, v, shown


def _heads_apart(x: Tensor, heads: int | None) -> Tensor:
    return x.reshape(*x.shape[:2], heads or 1, -1).transpose(1, 2)


def _bias(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    past_key: Tensor | None,
    valid: Tensor | None,
    causal: bool,
    left: int,
    right: int,
) -> Tensor | None:
    """What is added to the scores: the mask, and minus infinity where a query may not look."""
    bias: Tensor | None = None
    if mask is not None:
        bias = _closed(~mask, q.dtype) if mask.dtype == torch.bool else mask
        bias = F.pad(bias, (0, k.shape[2] - mask.shape[-1]), value=float("-inf"))
    key = torch.arange(k.shape[2], device=q.device)
    if causal or left >= 0 or right >= 0:
        query = torch.arange(q.shape[2], device=q.device)[:, None]
        if past_key is not None:
            query = query + past_key.shape[2]
        elif valid is not None:  # batch, 1, queries, 1
            query = query + (valid.reshape(-1, 1, 1, 1) - q.shape[2])
        ahead = key - query
        closed = torch.zeros_like(ahead, dtype=torch.bool)
        if causal:
            closed = closed | (ahead > 0)
        if left >= 0:
            closed = closed | (ahead < -left)
        if right >= 0:
            closed = closed | (ahead > right)
        bias = _sum(bias, _closed(closed, q.dtype))
    if valid is not None:
        bias = _sum(bias, _closed(key >= valid.reshape(-1, 1, 1, 1), q.dtype))
    return bias


def _closed(where: Tensor, kind: torch.dtype) -> Tensor:
    return torch.zeros(where.shape, dtype=kind, device=where.device).masked_fill(where, float("-inf"))


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: Literal[0, 1] = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    flat = x.dim() == 3
    heads = x.reshape(*x.shape[:2], num_heads or 1, -1) if flat else x.transpose(1, 2)  # batch, length, heads, size
    width = rotary_embedding_dim or heads.shape[-1]
    turned, rest = heads[..., :width], heads[..., width:]
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    cos, sin = cos_cache.unsqueeze(2), sin_cache.unsqueeze(2)  # batch, length, 1, width / 2
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    pairs = torch.stack((real, imaginary), -1).flatten(-2) if interleaved else torch.cat((real, imaginary), -1)
    result = torch.cat((pairs, rest), -1)
    return result.reshape(x.shape) if flat else result.transpose(1, 2)


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: Literal["linear", "gated", "delta", "gated_delta"] = "gated_delta",
) -> tuple[Tensor, Tensor]:
    """The recurrence token by token, in float32; the state is batch, heads, key size, value size."""
    q = _heads_apart(query, q_num_heads).float()
    k, v = _heads_apart(key, kv_num_heads).float(), _heads_apart(value, kv_num_heads).float()
    kept = None if decay is None else _heads_apart(decay, kv_num_heads).float().exp()
    rate = None if beta is None else beta.float().transpose(1, 2).unsqueeze(-1)  # batch, heads or 1, length, 1
    if past_state is None:
        state = torch.zeros(k.shape[0], k.shape[1], k.shape[-1], v.shape[-1], device=k.device)
    else:
        state = past_state.float()
    factor = scale or 1 / math.sqrt(q.shape[-1])
    outputs = []
    for time in range(q.shape[2]):
        written = v[:, :, time]
        if kept is not None:
            state = state * kept[:, :, time].unsqueeze(-1)
        if rate is not None:
            written = rate[:, :, time] * (written - torch.einsum("bhkv,bhk->bhv", state, k[:, :, time]))
        state = state + k[:, :, time].unsqueeze(-1) * written.unsqueeze(-2)
        read = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        outputs.append(factor * torch.einsum("bhk,bhkv->bhv", q[:, :, time], read))
    output = torch.stack(outputs, 1).flatten(2)  # batch, length, heads * value size
    return output.to(query.dtype), state.to(query.dtype if past_state is None else past_state.dtype)


def causal_conv_with_state(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past_state: Tensor | None = None,
    *,
    activation: Literal["none", "silu", "swish"] = "none",
) -> tuple[Tensor, Tensor]:
    reach = weight.shape[-1] - 1
    padded = F.pad(x, (reach, 0)) if past_state is None else torch.cat((past_state, x), 2)
    result = F.conv1d(padded, weight, bias, groups=x.shape[1])
    return (result if activation == "none" else F.silu(result)), padded[:, :, padded.shape[2] - reach :]


TABLE: Table = {
    "Attention": attention,
    "CausalConvWithState": causal_conv_with_state,
    "LinearAttention": linear_attention,
    "RotaryEmbedding": rotary_embedding,
}
