"""Generators: small networks that make samples out of latent vectors, with a prior for smoothness built in.

The shape is Genie's (SamsungLabs/Genie, distill.py): a linear layer to a coarse grid of 128 channels, then nearest
upsampling by two and 3x3 convolutions with BatchNorm and LeakyReLU 0.2 in turn, tanh, and a last BatchNorm without
parameters, which gives a batch exactly zero mean and unit deviation in every channel. Genie upsamples twice whatever
the size; at 224 x 224 its linear layer alone has 103 million weights. Here the coarse grid is 16 wide at most, and
there are as many steps up as that takes. Inputs that are no pictures learn a mean and a deviation of each column in the
end, since zero and one are a habit of photographs' preprocessing only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converter.inputs.plans import COLOURED, InputPlan

__all__ = ["LATENT", "Generators", "new_generators"]

LATENT = 256
COARSE = 16
WIDTH = 128
MOST_STEPS = 6
HASTE = 10.0  # times the generator's rate at which scales of columns are learned


class Generator(nn.Module):
    """Latent vectors [N, L] to samples [N, *shape] of one input in standardised units."""

    def __init__(self, plan: InputPlan, latent: int) -> None:
        super().__init__()
        self.shape, self.channels_last = plan.shape, plan.channels_last
        channels, height, width = self.planes = _planes(plan)
        steps = min(max(math.ceil(math.log2(max(height, width) / COARSE)), 2), MOST_STEPS)
        self.coarse = (
            -(-height // 2**steps),
            max(-(-width // 2**steps), 2),
        )  # two places, for BatchNorm to see a spread
        self.enter = nn.Linear(latent, WIDTH * self.coarse[0] * self.coarse[1])
        widths = [WIDTH >> step for step in range(steps)] + [channels]
        layers: list[nn.Module] = [nn.BatchNorm2d(WIDTH)]
        self.multiply_adds = latent * WIDTH * self.coarse[0] * self.coarse[1]
        area = self.coarse[0] * self.coarse[1]
        for step, (narrow, wide) in enumerate(zip(widths[1:], widths[:-1], strict=True)):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 3, padding=1)]
            area *= 4
            self.multiply_adds += area * 9 * wide * narrow
            last = step == steps - 1
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(narrow), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.leave = nn.BatchNorm2d(channels, affine=False)
        table = plan.kind not in COLOURED
        self.columns = nn.Parameter(torch.zeros(2, width)) if table else None  # log deviation and mean, in HASTE

    def forward(self, latent: Tensor) -> Tensor:
        """[N, *shape], pictures of zero mean and unit deviation over the batch."""
        grid = self.enter(latent).reshape(len(latent), WIDTH, *self.coarse)
        _, height, width = self.planes
        made: Tensor = self.layers(grid)[:, :, :height, :width]  # [N, C, H, W]
        if made[:, 0].numel() > 1:
            made = self.leave(made)
        if self.columns is not None:
            made = made * (HASTE * self.columns[0]).exp() + HASTE * self.columns[1]
        if self.channels_last:
            made = made.permute(0, 2, 3, 1)
        return made.reshape(len(latent), *self.shape)


def _planes(plan: InputPlan) -> tuple[int, int, int]:
    """Channels, height and width that stand for a sample's shape."""
    shape = plan.shape
    if len(shape) == 3:
        return (shape[2], shape[0], shape[1]) if plan.channels_last else (shape[0], shape[1], shape[2])
    if len(shape) <= 2:
        return (1, *([1] * (2 - len(shape))), *shape)  # type: ignore[return-value]
    return shape[0], shape[1], math.prod(shape[2:])


class Generators(nn.Module):
    """One generator for each adjustable input, all fed by the same latent vectors."""

    def __init__(self, plans: Sequence[InputPlan], latent: int) -> None:
        super().__init__()
        self.names = [plan.name for plan in plans]
        self.each = nn.ModuleList(Generator(plan, latent) for plan in plans)

    def forward(self, latent: Tensor) -> dict[str, Tensor]:
        """A batch of every input, standardised."""
        return {name: generator(latent) for name, generator in zip(self.names, self.each, strict=True)}

    @property
    def multiply_adds(self) -> int:
        """Of one sample of all inputs."""
        return sum(generator.multiply_adds for generator in self.each if isinstance(generator, Generator))


def new_generators(plans: Sequence[InputPlan], seed: int, latent: int = LATENT) -> Generators:
    """Freshly initialised generators, the same for the same seed; torch's own random numbers are left as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Generators(plans, latent).train()
