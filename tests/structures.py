"""Small untrained networks of every structure that exports have, each written by torch's own exporter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["STRUCTURES", "Structure", "export"]


@dataclass(frozen=True)
class Structure:
    """A network, what it is traced with, and which axes of which inputs its export leaves open."""

    make: Callable[[], nn.Module]
    inputs: Sequence[Tensor]
    open_axes: Mapping[int, Sequence[int]] = field(default_factory=dict)
    dynamo: bool = False
    opset: int = 17


def export(structure: Structure) -> ModelProto:
    """The model with inputs x0, x1, ... and weights from a fixed seed."""
    torch.manual_seed(0)
    network = structure.make().eval()
    names = [f"x{number}" for number in range(len(structure.inputs))]
    axes = {
        names[number]: {axis: f"d{number}{axis}" for axis in found} for number, found in structure.open_axes.items()
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if structure.dynamo:
            program = torch.onnx.export(
                network, tuple(structure.inputs), input_names=names, dynamo=True, opset_version=18, verbose=False
            )
            assert program is not None
            return program.model_proto
        torch.onnx.export(
            network,
            tuple(structure.inputs),
            Path(folder) / "model.onnx",
            input_names=names,
            dynamic_axes=axes,
            opset_version=structure.opset,
            dynamo=False,
        )
        return onnx.load(Path(folder) / "model.onnx")


class Lambda(nn.Module):
    """Layers by name and a function of them."""

    def __init__(self, function: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def __getitem__(self, name: str) -> Callable[[Tensor], Tensor]:
        layer = getattr(self, name)
        assert isinstance(layer, nn.Module)
        return layer

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(i, o, k, stride, k // 2, groups=groups)


def picture(n: int = 1, c: int = 3, side: int = 16) -> Tensor:
    return torch.rand(n, c, side, side)


def head(c: int, classes: int = 5) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))


def sequential(*layers: nn.Module, classes: int = 16) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(conv(3, 16), nn.ReLU(), *layers, head(classes))


def attention(self: Lambda, x: Tensor, mask: Tensor | None = None, heads: int = 2) -> Tensor:
    b, t, d = x.shape
    q, k, v = (
        layer(self["norm"](x)).reshape(b, t, heads, d // heads).transpose(1, 2)
        for layer in (self[name] for name in "qkv")
    )
    scores = q @ k.transpose(-1, -2) / (d // heads) ** 0.5
    if mask is not None:
        scores = scores + (1.0 - mask[:, None, None, :].to(scores.dtype)) * -3.4e38
    return x + self["o"]((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d))


def attending(d: int = 16) -> dict[str, nn.Module]:
    return {"norm": nn.LayerNorm(d)} | {name: nn.Linear(d, d) for name in "qkvo"}


def encoder(self: Lambda, ids: Tensor, mask: Tensor) -> Tensor:
    return self["head"](attention(self, self["table"](ids), mask))


def windows(self: Lambda, x: Tensor) -> Tensor:
    b, c, h, w = (int(each) for each in x.shape)
    parts = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    parts = attention(self, parts)
    return self["head"](parts.reshape(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w))


def vit(self: Lambda, x: Tensor) -> Tensor:
    first = self.first
    assert isinstance(first, Tensor)
    tokens = self["patch"](x).flatten(2).transpose(1, 2)
    tokens = torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], 1)
    return self["head"](attention(self, tokens)[:, 0])


def with_token(network: Lambda, d: int = 16) -> Lambda:
    network.first = nn.Parameter(torch.randn(1, 1, d))
    return network


def unet(self: Lambda, x: Tensor) -> Tensor:
    a = self["a"](x).relu()
    b = self["b"](functional.max_pool2d(a, 2)).relu()
    up = functional.interpolate(b, scale_factor=2.0, mode="nearest")
    return self["c"](torch.cat([a, up], 1)).sigmoid()


def decoded(self: Lambda, x: Tensor) -> Tensor:
    """Boxes in pixels and scores in one tensor, as YOLO exports have them."""
    found = self["detect"](functional.silu(self["stem"](x))).flatten(2)
    near, far, scores = found[:, :2], found[:, 2:4], found[:, 4:]
    place = torch.arange(found.shape[2], dtype=torch.float32)
    return torch.cat([(place - near.exp()) * 8, (place + far.exp()) * 8, scores.sigmoid()], 1)


def dense(self: Lambda, x: Tensor) -> Tensor:
    for number in range(4):
        x = torch.cat([x, self[f"c{number}"](x).relu()], 1)
    return self["head"](x)


def gated(self: Lambda, x: Tensor) -> Tensor:
    x = self["a"](x).relu()
    gate = self["s"](x.mean((2, 3), keepdim=True)).sigmoid()
    return self["head"](x * gate)


def heads(self: Lambda, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = self["a"](x).relu()
    return self["b"](x), self["c"](x).softmax(1), self["c"](x).argmax(1)


CONVS: dict[str, tuple[nn.Module, ...]] = {
    "depthwise": (conv(16, 16, groups=16), nn.ReLU6(), conv(16, 16, 1)),
    "grouped": (conv(16, 16, groups=4), nn.ReLU()),
    "dilated": (nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.LeakyReLU(0.1)),
    "strided": (nn.Conv2d(16, 16, (3, 5), (2, 1), (1, 2)), nn.ReLU()),
    "hardswish": (conv(16, 16), nn.Hardswish()),
    "silu": (conv(16, 16), nn.SiLU()),
    "gelu": (conv(16, 16), nn.GELU()),
    "mish": (conv(16, 16), nn.Mish()),
    "prelu": (conv(16, 16), nn.PReLU(16)),
    "elu": (conv(16, 16), nn.ELU()),
    "batch norm": (nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16), nn.BatchNorm2d(16)),
    "group norm": (conv(16, 16), nn.GroupNorm(4, 16), nn.ReLU()),
    "instance norm": (conv(16, 16), nn.InstanceNorm2d(16, affine=True), nn.ReLU()),
    "layer norm": (conv(16, 16), nn.LayerNorm([16, 16, 16]), nn.ReLU()),
    "average pool": (conv(16, 16), nn.ReLU(), nn.AvgPool2d(3, 2, 1)),
    "ceiled pool": (conv(16, 16), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
    "reflected padding": (nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.ReLU()),
    "zero padding": (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(16, 16, 3, 2), nn.ReLU()),
    "pixel shuffle": (nn.PixelShuffle(2), conv(4, 16), nn.ReLU()),
    "transposed": (nn.ConvTranspose2d(16, 16, 2, 2), nn.ReLU(), conv(16, 16)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), conv(16, 16), nn.ReLU()),
    "softplus": (conv(16, 16), nn.Softplus(), conv(16, 16), nn.Tanh()),
    "dropout": (conv(16, 16), nn.Dropout(), nn.Identity(), nn.ReLU()),
}
TOKENS = torch.randint(0, 40, (1, 7))

STRUCTURES: dict[str, Structure] = {
    **{name: Structure(sequential(*layers), [picture()], {0: [0]}) for name, layers in CONVS.items()},
    **{
        f"{name}, batch of 5": Structure(sequential(*CONVS[name]), [picture(5)])
        for name in ("depthwise", "group norm", "pixel shuffle")
    },
    **{
        f"{name}, one sample": Structure(sequential(*CONVS[name]), [picture()])
        for name in ("hardswish", "instance norm", "bilinear")
    },
    **{
        f"{name}, open sides": Structure(sequential(*CONVS[name]), [picture()], {0: [0, 2, 3]})
        for name in ("silu", "transposed", "average pool")
    },
    **{
        f"{name}, dynamo": Structure(sequential(*CONVS[name]), [picture()], dynamo=True)
        for name in ("gelu", "group norm", "pixel shuffle")
    },
    "linear": Structure(
        lambda: nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3)), [torch.randn(1, 12)], {0: [0]}
    ),
    "encoder": Structure(
        lambda: Lambda(encoder, table=nn.Embedding(40, 16), head=nn.Linear(16, 40), **attending()),
        [TOKENS, torch.ones_like(TOKENS)],
        {0: [0, 1], 1: [0, 1]},
    ),
    "encoder, fixed": Structure(
        lambda: Lambda(encoder, table=nn.Embedding(40, 16), head=nn.Linear(16, 40), **attending()),
        [TOKENS, torch.ones_like(TOKENS)],
    ),
    "encoder, dynamo": Structure(
        lambda: Lambda(encoder, table=nn.Embedding(40, 16), head=nn.Linear(16, 40), **attending()),
        [TOKENS, torch.ones_like(TOKENS)],
        dynamo=True,
    ),
    "vit": Structure(
        lambda: with_token(Lambda(vit, patch=nn.Conv2d(3, 16, 4, 4), head=nn.Linear(16, 5), **attending())),
        [picture()],
        {0: [0]},
    ),
    "windows": Structure(
        lambda: nn.Sequential(conv(3, 16), Lambda(windows, head=head(16), **attending())), [picture()]
    ),
    "unet": Structure(lambda: Lambda(unet, a=conv(3, 8), b=conv(8, 8), c=conv(16, 2)), [picture()], {0: [0, 2, 3]}),
    "decoded boxes": Structure(
        lambda: Lambda(decoded, stem=conv(3, 16, stride=2), detect=conv(16, 9, 1)), [picture()], {0: [0]}
    ),
    "dense": Structure(
        lambda: Lambda(dense, head=head(3 + 32), **{f"c{n}": conv(3 + 8 * n, 8) for n in range(4)}),
        [picture()],
        {0: [0]},
    ),
    "gate": Structure(
        lambda: Lambda(gated, a=conv(3, 16), s=nn.Conv2d(16, 16, 1), head=head(16)), [picture()], {0: [0]}
    ),
    "three heads": Structure(lambda: Lambda(heads, a=conv(3, 16), b=conv(16, 2), c=conv(16, 4)), [picture()], {0: [0]}),
    "two inputs": Structure(
        lambda: Lambda(
            lambda s, x, f: s.c(torch.cat([s.a(x).relu().mean((2, 3)), s.b(f)], 1)),
            a=conv(3, 8),
            b=nn.Linear(6, 8),
            c=nn.Linear(16, 3),
        ),
        [picture(), torch.randn(1, 6)],
        {0: [0], 1: [0]},
    ),
    "scalar": Structure(
        lambda: Lambda(lambda s, x, k: s.a(x).relu().mean((2, 3)) * k, a=conv(3, 8)),
        [picture(), torch.tensor(2.0)],
        {0: [0]},
    ),
    "einsum": Structure(
        lambda: Lambda(
            lambda s, x: torch.einsum("btd,bsd->bts", s.a(x), s.b(x)), a=nn.Linear(16, 16), b=nn.Linear(16, 16)
        ),
        [torch.randn(1, 6, 16)],
        {0: [0]},
    ),
    "split": Structure(
        lambda: Lambda(
            lambda s, x: torch.cat([each * (n + 1) for n, each in enumerate(s.a(x).relu().chunk(4, 1))][::-1], 1),
            a=conv(3, 16),
        ),
        [picture()],
        {0: [0]},
    ),
    "one dimension": Structure(
        lambda: nn.Sequential(
            nn.Conv1d(4, 16, 5, 2),
            nn.ReLU(),
            nn.Conv1d(16, 16, 3),
            nn.BatchNorm1d(16),
            nn.Flatten(),
            nn.Linear(16 * 28, 3),
        ),
        [torch.randn(1, 4, 64)],
        {0: [0]},
    ),
    "three dimensions": Structure(
        lambda: nn.Sequential(
            nn.Conv3d(1, 8, 3), nn.ReLU(), nn.Conv3d(8, 8, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)
        ),
        [torch.randn(1, 1, 8, 8, 8)],
        {0: [0]},
    ),
    "lstm": Structure(
        lambda: Lambda(
            lambda s, x: s.b(s.a(x)[0][:, -1]),
            a=nn.LSTM(12, 16, batch_first=True, bidirectional=True),
            b=nn.Linear(32, 3),
        ),
        [torch.randn(1, 9, 12)],
        {0: [0]},
    ),
    "gru": Structure(
        lambda: Lambda(lambda s, x: s.b(s.a(x)[0]), a=nn.GRU(12, 16, batch_first=True), b=nn.Linear(16, 3)),
        [torch.randn(1, 9, 12)],
    ),
    "tied table": Structure(
        lambda: Lambda(
            lambda s, ids: s.a(s.table(ids)).relu() @ s.table.weight.t(),
            table=nn.Embedding(40, 16),
            a=nn.Linear(16, 16),
        ),
        [TOKENS],
        {0: [0, 1]},
    ),
    "swapped axes": Structure(
        lambda: Lambda(lambda s, x: s.b(s.a(x).relu().permute(0, 2, 3, 1)), a=conv(3, 8), b=nn.Linear(8, 3)),
        [picture()],
        {0: [0]},
    ),
    "sum of two": Structure(
        lambda: Lambda(lambda s, x: s.c(s.a(x).relu() + s.b(x)), a=conv(3, 8), b=conv(3, 8), c=head(8)),
        [picture()],
        {0: [0]},
    ),
    "clip": Structure(
        lambda: Lambda(lambda s, x: s.b(s.a(x).clamp(-1, 2)).clamp(0, 1), a=conv(3, 8), b=conv(8, 3)),
        [picture()],
        {0: [0]},
    ),
    "three-dimensional weight": Structure(
        lambda: with_token(
            Lambda(
                lambda s, x: torch.matmul(
                    s.a(x).reshape(-1, 2, 4, 8).transpose(0, 1).reshape(2, -1, 8), s.first.reshape(2, 8, 1)
                ),
                a=nn.Linear(16, 64),
            )
        ),
        [torch.randn(1, 16)],
        {0: [0]},
    ),
    "top": Structure(
        lambda: Lambda(lambda s, x: torch.topk(s.a(x).flatten(1).sigmoid(), 5), a=conv(3, 8)), [picture()], {0: [0]}
    ),
}
