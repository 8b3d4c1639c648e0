"""The owner's data that ranges are taken from: checked against the model, and telling how its inputs are scaled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converter.errors import InvalidOption
from converter.inputs.own_data import OwnData, Purpose, are_pictures, find_data, load_arrays
from converter.inputs.plans import ADJUSTABLE, InputKind, InputPlan, Scaling
from converter.sessions import Feeds

__all__ = ["Calibration", "CalibrationData", "Reader", "fit_to_data", "prepared_data", "read_data"]

MOST_SAMPLES = 1024  # beyond, ranges hardly change; those taken are spread over all
MOST_BYTES = 1 << 30  # of all arrays together, which stay in memory while ranges and weights are fitted
SCALED_AS_GIVEN = "as in your calibration data"


@runtime_checkable
class Reader(Protocol):
    """What onnxruntime calls a CalibrationDataReader: network inputs by name, batch by batch, None at the end."""

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        """The next batch."""


Calibration = Reader | Mapping[str, NDArray[Any]] | Iterable[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class CalibrationData:
    """Batches of network inputs as their owner prepared them, and in words where they are from."""

    feeds: tuple[Feeds, ...]
    samples: int
    words: str
    digest: str  # SHA-256 of all names and values


def read_data(model: ModelProto, given: Calibration | Path | None) -> CalibrationData | None:
    """Data that are arrays already: those of an .npz, a mapping of inputs to [N, ...], or batches of a reader.

    None for a folder of pictures, which ``prepared_data`` reads once the input's scale is known, and for no data.
    Raises InvalidOption for what does not fit the model.
    """
    if given is None or (isinstance(given, Path) and are_pictures(given)):
        return None
    if isinstance(given, Path):
        found = find_data(model, (), given, Purpose.CALIBRATION)
        assert found is not None
        return _kept([found], given.name)
    if isinstance(given, Mapping):
        return _kept([load_arrays(model, given, "the arrays given", Purpose.CALIBRATION)], "arrays")
    return _kept(
        (
            load_arrays(model, feeds, f"batch {number}", Purpose.CALIBRATION)
            for number, feeds in enumerate(_each(given))
        ),
        type(given).__name__,
    )


def prepared_data(model: ModelProto, plans: tuple[InputPlan, ...], folder: Path) -> CalibrationData:
    """A folder's pictures as the network wants them by its input's plan; raises InvalidOption."""
    found = find_data(model, plans, folder, Purpose.CALIBRATION, most=MOST_SAMPLES)
    assert found is not None
    return _kept([found], f"{folder.name}: {found.preparation}")


def _each(given: Reader | Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[Mapping[str, NDArray[Any]]]:
    if not isinstance(given, Reader):
        yield from given
        return
    while (feeds := given.get_next()) is not None:
        yield feeds


def _kept(parts: Iterable[OwnData], name: str) -> CalibrationData:
    """At most ``MOST_SAMPLES`` and ``MOST_BYTES`` of the data; raises InvalidOption where there are none."""
    kept: list[Feeds] = []
    digest, samples, room = hashlib.sha256(), 0, MOST_BYTES
    notes: list[str] = []
    for part in parts:
        notes += part.notes
        stride = max(-(-part.samples // MOST_SAMPLES), 1)
        for number, feeds in enumerate(part.feeds()):
            if number % stride:
                continue
            room -= sum(array.nbytes for array in feeds.values())
            if (room < 0 or samples >= MOST_SAMPLES) and kept:
                break
            kept.append(dict(feeds))
            samples += max((len(array) for array in feeds.values() if array.ndim), default=1)
            for key, array in sorted(feeds.items()):
                digest.update(f"{key} {array.dtype} {array.shape} ".encode())
                digest.update(np.ascontiguousarray(array).data)
    if not kept:
        raise InvalidOption(
            "The calibration data hold no batch.", field="calibration", remedy="A reader is read once: rewind it."
        )
    words = f"{samples} samples of the owner's data ({name}), SHA-256 {digest.hexdigest()[:16]}"
    return CalibrationData(tuple(kept), samples, ". ".join([words, *notes]), digest.hexdigest())


def fit_to_data(plans: tuple[InputPlan, ...], feeds: Sequence[Feeds]) -> tuple[InputPlan, ...]:
    """The plans with open sizes and scales that were not stated as they are in the data, so that what judges the
    integer model is drawn alike; without data, the plans as they are.
    """
    return tuple(_fitted(plan, [each[plan.name] for each in feeds]) for plan in plans) if feeds else plans


def _fitted(plan: InputPlan, arrays: Sequence[NDArray[Any]]) -> InputPlan:
    if plan.free_size and plan.batch_axis == 0:
        plan = replace(plan, shape=tuple(arrays[0].shape[1:]), free_size=False)
    if plan.settled or plan.kind not in ADJUSTABLE or plan.batch_axis != 0:
        return plan
    if plan.kind is InputKind.PICTURE:
        axes = tuple(
            axis for axis in range(arrays[0].ndim) if axis != (arrays[0].ndim - 1 if plan.channels_last else 1)
        )
        low = np.min([array.min(axes) for array in arrays], 0)
        scale, offset = np.max([array.max(axes) for array in arrays], 0) - low, low
    else:
        values = np.concatenate([array.reshape(-1) for array in arrays])
        scale, offset = values.std(keepdims=True), values.mean(keepdims=True)
    if not (scale > 0).all():  # a channel that never changes in the data tells no scale
        return plan
    taken = Scaling(SCALED_AS_GIVEN, tuple(map(float, scale)), tuple(map(float, offset)))
    return replace(plan, scaling=taken, considered=(), rivals=(), settled=True)
