"""Small picture and waveform networks of many kinds, to be trained under a preprocessing that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "PICTURE_NETWORKS", "SIGNAL_NETWORKS", "Style", "build_picture", "build_signal"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "leaky": lambda: nn.LeakyReLU(0.1),
}


@dataclass(frozen=True)
class Style:
    """What a network's layers have in common: activation, normalization (batch or none) and first width."""

    activation: str
    normalized: bool
    width: int

    def act(self) -> nn.Module:
        """A new activation."""
        return ACTIVATIONS[self.activation]()

    def layer(
        self, inside: int, out: int, size: int = 3, stride: int = 1, groups: int = 1, act: bool = True
    ) -> nn.Module:
        """Convolution, batch normalization unless there is none, and activation."""
        parts: list[nn.Module] = [
            nn.Conv2d(inside, out, size, stride, size // 2, groups=groups, bias=not self.normalized)
        ]
        if self.normalized:
            parts.append(nn.BatchNorm2d(out))
        if act:
            parts.append(self.act())
        return nn.Sequential(*parts)


class Sum(nn.Module):
    """x + branch(x), then an activation if there is one; the branch starts small where nothing normalizes it."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None, start: float | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after if after is not None else nn.Identity()
        self.gain = nn.Parameter(torch.tensor(start)) if start is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        branch = self.branch(x)
        y: Tensor = self.after(x + (branch if self.gain is None else self.gain * branch))
        return y


class Together(nn.Module):
    """Channels of several branches of one input, side by side; with ``shuffle`` groups their channels are mixed."""

    def __init__(self, branches: Sequence[nn.Module], shuffle: int = 1) -> None:
        super().__init__()
        self.branches, self.shuffle = nn.ModuleList(branches), shuffle

    def forward(self, x: Tensor) -> Tensor:
        """The branches' channels."""
        y = torch.cat([branch(x) for branch in self.branches], 1)
        if self.shuffle == 1:
            return y
        n, c, h, w = y.shape
        return y.reshape(n, self.shuffle, c // self.shuffle, h, w).transpose(1, 2).reshape(n, c, h, w)


class Attended(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, max(channels // 4, 4), 1),
            nn.ReLU(),
            nn.Conv2d(max(channels // 4, 4), channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Channels weighed by what all of them see."""
        weights: Tensor = self.inner(x)
        return x * weights


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The normalized map."""
        y: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Self-attention over [N, tokens, width] with two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), 2

    def forward(self, x: Tensor) -> Tensor:
        """The attended tokens."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
        y: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
        return y


class Tokens(nn.Module):
    """Patches as tokens through transformer or mixer blocks, and back to a map."""

    def __init__(self, channels: int, width: int, side: int, patch: int, depth: int, mixer: bool) -> None:
        super().__init__()
        count = (side // patch) ** 2
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, count, width))
        self.side = side // patch
        blocks: list[nn.Module] = []
        for _ in range(depth):
            mixing: nn.Module = Across(count) if mixer else Attention(width)
            blocks.append(Sum(nn.Sequential(nn.LayerNorm(width), mixing)))
            inner = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
            blocks.append(Sum(nn.Sequential(nn.LayerNorm(width), inner)))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, side, side]."""
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.place)
        return x.transpose(1, 2).reshape(x.shape[0], -1, self.side, self.side)


class Across(nn.Module):
    """The same small network over the tokens of every channel."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(count, count), nn.GELU(), nn.Linear(count, count))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens mixed channel by channel."""
        y: Tensor = self.inner(x.transpose(1, 2))
        return y.transpose(1, 2)


Built = tuple[nn.Module, int]  # what sees, and how many channels it sees with


def _stages(channels: int, style: Style, block: Callable[[int, int], nn.Module], stem_stride: int = 2) -> Built:
    """A stem and three stages of a block, halved in size between them."""
    w = style.width
    parts = [style.layer(channels, w, 3, stem_stride), block(w, w), nn.MaxPool2d(2), block(w, 2 * w)]
    parts += [nn.MaxPool2d(2), block(2 * w, 4 * w)]
    return nn.Sequential(*parts), 4 * w


def vgg(channels: int, side: int, style: Style) -> Built:
    return _stages(channels, style, lambda i, o: nn.Sequential(style.layer(i, o), style.layer(o, o)))


def residual(channels: int, side: int, style: Style) -> Built:
    start = None if style.normalized else 0.1

    def block(i: int, o: int) -> nn.Module:
        branch = nn.Sequential(style.layer(o, o), style.layer(o, o, act=False))
        return nn.Sequential(style.layer(i, o, 1), Sum(branch, style.act(), start))

    return _stages(channels, style, block)


def stem7(channels: int, side: int, style: Style) -> Built:
    w, start = style.width, None if style.normalized else 0.1
    parts: list[nn.Module] = [style.layer(channels, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for i, o in ((w, 2 * w), (2 * w, 4 * w)):
        parts += [
            style.layer(i, o),
            Sum(nn.Sequential(style.layer(o, o), style.layer(o, o, act=False)), style.act(), start),
        ]
    return nn.Sequential(*parts), 4 * w


def depthwise(channels: int, side: int, style: Style) -> Built:
    return _stages(channels, style, lambda i, o: nn.Sequential(style.layer(i, i, groups=i), style.layer(i, o, 1)))


def inverted(channels: int, side: int, style: Style) -> Built:
    start = None if style.normalized else 0.1

    def block(i: int, o: int) -> nn.Module:
        wide = nn.Sequential(
            style.layer(i, 3 * i, 1), style.layer(3 * i, 3 * i, groups=3 * i), style.layer(3 * i, o, 1, act=False)
        )
        again = nn.Sequential(
            style.layer(o, 3 * o, 1), style.layer(3 * o, 3 * o, groups=3 * o), style.layer(3 * o, o, 1, act=False)
        )
        return nn.Sequential(wide, Sum(again, None, start))

    return _stages(channels, style, block)


def csp(channels: int, side: int, style: Style) -> Built:
    def block(i: int, o: int) -> nn.Module:
        half = o // 2
        start = None if style.normalized else 0.1
        long = nn.Sequential(
            style.layer(i, half, 1),
            Sum(nn.Sequential(style.layer(half, half, 1), style.layer(half, half)), None, start),
        )
        return nn.Sequential(Together([long, style.layer(i, half, 1)]), style.layer(o, o, 1))

    return _stages(channels, style, block)


def attended(channels: int, side: int, style: Style) -> Built:
    return _stages(channels, style, lambda i, o: nn.Sequential(style.layer(i, o), Attended(o), style.layer(o, o)))


def fire(channels: int, side: int, style: Style) -> Built:
    def block(i: int, o: int) -> nn.Module:
        small = max(o // 4, 4)
        return nn.Sequential(
            style.layer(i, small, 1), Together([style.layer(small, o // 2, 1), style.layer(small, o - o // 2)])
        )

    return _stages(channels, style, block)


def shuffled(channels: int, side: int, style: Style) -> Built:
    def block(i: int, o: int) -> nn.Module:
        left = nn.Sequential(style.layer(i, i, groups=i, act=False), style.layer(i, o // 2, 1))
        right = nn.Sequential(style.layer(i, o // 2, 1), style.layer(o // 2, o // 2, groups=o // 2, act=False))
        return Together([left, right], 2)

    return _stages(channels, style, block)


def dense(channels: int, side: int, style: Style) -> Built:
    def grow(i: int, growth: int) -> nn.Module:
        before = [nn.BatchNorm2d(i)] if style.normalized else []
        return Together([nn.Identity(), nn.Sequential(*before, style.act(), nn.Conv2d(i, growth, 3, 1, 1))])

    def block(i: int, o: int) -> nn.Module:
        growth = max(o // 4, 4)
        before = [nn.BatchNorm2d(i + 2 * growth)] if style.normalized else []
        last = nn.Conv2d(i + 2 * growth, o, 1)
        return nn.Sequential(grow(i, growth), grow(i + growth, growth), *before, style.act(), last)

    return _stages(channels, style, block)


def convnext(channels: int, side: int, style: Style) -> Built:
    w = 2 * style.width

    def block(c: int) -> nn.Module:
        inner = nn.Sequential(
            nn.Conv2d(c, c, 7, 1, 3, groups=c),
            ChannelNorm(c),
            nn.Conv2d(c, 3 * c, 1),
            nn.GELU(),
            nn.Conv2d(3 * c, c, 1),
        )
        return Sum(inner, None, 0.1)

    down = nn.Sequential(ChannelNorm(w), nn.Conv2d(w, 2 * w, 2, 2))
    stem = nn.Sequential(nn.Conv2d(channels, w, 4, 4), ChannelNorm(w))
    return nn.Sequential(stem, block(w), down, block(2 * w), ChannelNorm(2 * w)), 2 * w


def vit(channels: int, side: int, style: Style) -> Built:
    width = 4 * style.width
    return Tokens(channels, width, side, max(side // 8, 2), 3, mixer=False), width


def mixer(channels: int, side: int, style: Style) -> Built:
    width = 4 * style.width
    return Tokens(channels, width, side, max(side // 8, 2), 3, mixer=True), width


PICTURE_NETWORKS: dict[str, Callable[[int, int, Style], Built]] = {
    each.__name__: each
    for each in (
        vgg, depthwise, residual, fire, inverted, convnext, csp, dense, attended, vit, stem7, mixer, shuffled,
    )
}  # fmt: skip


class Head(nn.Module):
    """What a network ends in: class scores, scores at every place, or a picture of the input's size."""

    def __init__(self, body: Built, classes: int, output: str) -> None:
        super().__init__()
        self.body, channels = body
        self.output = output
        self.scores = nn.Conv2d(channels, classes, 1) if output == "places" else nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before any squashing."""
        x = self.body(x)
        y: Tensor = self.scores(x if self.output == "places" else x.mean((2, 3)))
        return y


class Restorer(nn.Module):
    """A picture made better: what goes in plus a correction, on the scale of what goes in."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        w = style.width
        self.body = nn.Sequential(style.layer(channels, w, 5), style.layer(w, w), nn.Conv2d(w, channels, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The picture."""
        y: Tensor = self.body(x)
        return y


def build_picture(name: str, channels: int, side: int, classes: int, output: str, style: Style) -> nn.Module:
    """An untrained network for pictures [N, channels, side, side]."""
    if output == "picture":
        return Restorer(channels, style)
    return Head(PICTURE_NETWORKS[name](channels, side, style), classes, output)


class Squeeze(nn.Module):
    """[N, L] as [N, 1, L]."""

    def forward(self, x: Tensor) -> Tensor:
        """One channel more."""
        return x[:, None]


def _wave(style: Style, first: int, stride: int, *, late: bool, deep: int) -> nn.Module:
    """Strided convolutions over a waveform; with ``late`` the normalization stands behind the activation (CREPE)."""
    w, inside = style.width, 1
    parts: list[nn.Module] = [Squeeze()]
    for index in range(deep):
        out = w * min(2**index, 4)
        size, step = (first, stride) if index == 0 else (9, 2)
        norm: list[nn.Module] = [nn.BatchNorm1d(out)] if style.normalized else []
        conv = nn.Conv1d(inside, out, size, step, size // 2 if size % 2 else (size - step) // 2)
        parts += [conv, style.act(), *norm] if late else [conv, *norm, style.act()]
        inside = out
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(4 * inside, 12))


SIGNAL_NETWORKS: dict[str, Callable[[Style], nn.Module]] = {
    "late_norm": lambda style: _wave(style, 64, 4, late=True, deep=4),
    "strided": lambda style: _wave(style, 33, 8, late=False, deep=3),
    "deep": lambda style: _wave(style, 9, 4, late=False, deep=5),
}


def build_signal(name: str, style: Style) -> nn.Module:
    """An untrained network for waveforms [N, samples] of 12 pitches."""
    return SIGNAL_NETWORKS[name](style)
