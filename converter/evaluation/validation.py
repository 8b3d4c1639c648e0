"""Both models measured on data of the owner's; nothing measured here influences the conversion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converter.evaluation.fidelity import Comparison, compare
from converter.findings import Metric, Validation
from converter.inputs.own_data import OwnData
from converter.options import OutputKind

__all__ = ["enough", "measure_validation", "top1"]

SEEN_ERRORS = 2.8  # standard errors: 1.96 to be told from none at 5 %, 0.84 more for a power of 80 %


def measure_validation(
    data: OwnData,
    float32: ModelProto,
    int8: ModelProto,
    *,
    threads: int = 1,
    seed: int = 0,
    kinds: Mapping[str, OutputKind] = MappingProxyType({}),
) -> Validation:
    """The validation section: both models on every sample; top-1 where there are labels and class scores."""
    compared = compare(float32, int8, data.feeds(), seed=seed, threads=threads, kinds=kinds)
    notes = list(data.notes)
    metrics: tuple[Metric, ...] = ()
    if data.labels is not None:
        if compared.before:
            metrics = (top1(data.labels, compared),)
            notes += enough(metrics[0])
        else:
            notes.append("The labels were not used: the model has no single output of class scores to judge by them.")
    return Validation(
        source=data.source,
        samples=compared.samples,
        labelled=data.labels is not None,
        preparation=data.preparation,
        metrics=metrics,
        decisions=compared.decisions,
        outputs=compared.outputs,
        notes=tuple(notes),
    )


def enough(metric: Metric) -> list[str]:
    """What change so many samples can show, and how many would show half of it; nothing where none changed."""
    visible = SEEN_ERRORS * metric.standard_error
    if visible == 0:
        return []
    return [
        f"With {metric.n} samples a change of {visible * 100:.1f} points would be seen in four of five cases; half of "
        f"that takes {4 * metric.n}."
    ]


def top1(labels: NDArray[np.int64], compared: Comparison) -> Metric:
    """The share of right first classes before and after, with the paired standard error of the difference."""
    before = np.array(compared.before) == labels
    after = np.array(compared.after) == labels
    change = after.astype(np.float64) - before
    count = len(labels)
    return Metric(
        name="top-1",
        float32=float(before.mean()),
        int8=float(after.mean()),
        difference=float(change.mean()),
        standard_error=float(change.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        n=count,
    )
