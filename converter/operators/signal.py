"""Signals: Fourier transforms, windows, mel filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from converter.operators.casting import TORCH_TYPES, DataType
from converter.operators.signatures import Table


def dft(x: Tensor, dft_length: int | None = None, axis: int = -2, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    """The last axis holds the real part, or real and imaginary part."""
    axis %= x.dim()
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if inverse and onesided:
        length = 2 * (x.shape[axis] - 1) if dft_length is None else dft_length
        real: Tensor = torch.fft.irfft(signal, length, axis).unsqueeze(-1).to(x.dtype)
        return real
    length = x.shape[axis] if dft_length is None else dft_length
    result = torch.view_as_real((torch.fft.ifft if inverse else torch.fft.fft)(signal, length, axis))
    return (result.narrow(axis, 0, length // 2 + 1) if onesided else result).to(x.dtype)


def dft_17(x: Tensor, dft_length: int | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    return dft(x, dft_length, axis, inverse=inverse, onesided=onesided)


def stft(
    x: Tensor,
    frame_step: int,
    window: Tensor | None = None,
    frame_length: int | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """x: batch, length, 1 or 2, or as torch's exporter writes it batch, length; the result: batch, frames,
    frequencies, 2.
    """
    if x.dim() == 2:
        x = x.unsqueeze(-1)
    if frame_length is None:
        frame_length = x.shape[1] if window is None else window.shape[0]
    frames = x.unfold(1, frame_length, frame_step).transpose(-1, -2)  # batch, frames, frame_length, 1 or 2
    if window is not None:
        frames = frames * window[:, None]
    return dft(frames, onesided=onesided)


def hann_window(size: int, *, output_datatype: DataType = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, periodic, (0.5, -0.5), output_datatype)


def hamming_window(size: int, *, output_datatype: DataType = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, periodic, (25 / 46, -21 / 46), output_datatype)


def blackman_window(size: int, *, output_datatype: DataType = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, periodic, (0.42, -0.5, 0.08), output_datatype)


def _cosines(size: int, periodic: int, factors: tuple[float, ...], kind: DataType) -> Tensor:
    angle = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size if periodic else size - 1))
    parts = [factor * torch.cos(k * angle) for k, factor in enumerate(factors)]
    return torch.stack(parts).sum(0).to(TORCH_TYPES[kind])


def mel_weight_matrix(
    num_mel_bins: int,
    dft_length: int,
    sample_rate: int,
    lower_edge_hertz: float,
    upper_edge_hertz: float,
    *,
    output_datatype: DataType = 1,
) -> Tensor:
    """Triangles over the frequency bins: frequencies, mel bins."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    step = (mel(upper_edge_hertz) - mel(lower_edge_hertz)) / (num_mel_bins + 2)
    mels = mel(lower_edge_hertz) + step * torch.arange(num_mel_bins + 2, dtype=torch.float64)
    bins = ((dft_length + 1) * (700 * (10 ** (mels / 2595) - 1)) / sample_rate).floor()
    low, centre, high = bins[:-2], bins[1:-1], bins[2:]
    frequency = torch.arange(dft_length // 2 + 1, dtype=torch.float64)[:, None]
    rising = torch.where(centre > low, (frequency - low) / (centre - low).clamp(min=1), 1.0)
    falling = (high - frequency) / (high - centre).clamp(min=1)
    weights = torch.where(
        (frequency >= low) & (frequency <= centre),
        rising,
        torch.where((frequency > centre) & (frequency < high), falling, 0.0),
    )
    return weights.to(TORCH_TYPES[output_datatype])


TABLE: Table = {
    "BlackmanWindow": blackman_window,
    "DFT": {17: dft_17, 20: dft},
    "HammingWindow": hamming_window,
    "HannWindow": hann_window,
    "MelWeightMatrix": mel_weight_matrix,
    "STFT": stft,
}
