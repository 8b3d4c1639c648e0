"""Seconds of rounding all weights of a network of ResNet-50's size, 25 million random ones, on one thread.

python -m tests.bench.rounding          # written into RESULTS.md
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from converter.graph import Graph, weight_of
from converter.quantization.rounding import cancel, max_scale, nearest
from tests.bench.architectures import resnet50
from tests.bench.results import publish, table

TITLE = "Time of rounding 25 million weights"
BITS = (8, 4)


def layers() -> list[tuple[Tensor, int]]:
    """Every weight as rows of output channels, and the size of its kernels."""
    graph = Graph(resnet50())
    found = []
    for node in graph.nodes:
        weight = weight_of(node, graph)
        if weight is not None:
            values = torch.from_numpy(graph.initializers[weight[0]].copy()).movedim(weight[1], 0)
            found.append((values.flatten(1), math.prod(values.shape[2:]) if values.dim() > 2 else 1))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rounding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    rows_of = layers()
    count = sum(rows.numel() for rows, _ in rows_of)
    cells = []
    for bits in BITS:
        began = time.perf_counter()
        for rows, _ in rows_of:
            nearest(rows, max_scale(rows, bits), bits)
        plain = time.perf_counter() - began
        began = time.perf_counter()
        for rows, kernel in rows_of:
            cancel(rows, max_scale(rows, bits), kernel, bits)
        cells.append([str(bits), f"{count / 1e6:.1f}", f"{plain:.2f}", f"{time.perf_counter() - began:.2f}"])
    text = table(["bits", "million weights", "to nearest, s", "errors that cancel (SQuant), s"], cells)
    publish(TITLE, "rounding", given, text, dry=options.dry)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
