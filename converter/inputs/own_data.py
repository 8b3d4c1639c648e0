"""Data that the owner brings: a .npz of inputs, or a folder or .zip of pictures, perhaps in one sub-folder a class.

They are checked when they are loaded, before any work starts; pictures are decoded batch by batch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from converter.errors import InvalidOption
from converter.graph import Graph, Value
from converter.inputs.pictures import SUFFIXES, Place, Preparation, Unusable
from converter.inputs.plans import InputKind, InputPlan
from converter.options import OutputKind
from converter.scores import class_output
from converter.sessions import Array, Feeds

__all__ = ["OwnData", "Purpose", "are_pictures", "find_data", "load_arrays", "load_data"]

LARGEST_BYTES = 4 << 30
MOST_ENTRIES = 256
MOST_PICTURES = 1_000_000
BATCH = 8
LABELS = "labels"
ARCHIVES = (".npz", ".zip")


class Purpose(StrEnum):
    """What the owner's data are for; also the name of the option that brings them."""

    VALIDATION = "validation"
    CALIBRATION = "calibration"


@dataclass(frozen=True)
class OwnData:
    """Checked data: ``feeds()`` starts a fresh pass over all samples, in batches."""

    source: str
    samples: int
    feeds: Callable[[], Iterator[Feeds]]
    labels: NDArray[np.int64] | None
    preparation: str
    notes: tuple[str, ...] = ()


def load_data(
    path: Path,
    model: ModelProto,
    preparation: Preparation | None = None,
    purpose: Purpose = Purpose.VALIDATION,
    *,
    kinds: Mapping[str, OutputKind] = MappingProxyType({}),
    largest_bytes: int = LARGEST_BYTES,
    most: int = MOST_PICTURES,
) -> OwnData:
    """The data at ``path``, known to fit the model; raises InvalidOption naming what does not.

    ``preparation`` is needed for pictures only, of which ``most`` are taken, spread over all; ``largest_bytes`` bounds
    the arrays of an .npz file together.
    """
    graph = Graph(model)
    classes = _classes(graph, kinds)
    with _naming(purpose):
        if path.is_dir():
            data = _load_pictures(path, graph, preparation, classes, most)
        elif path.suffix.lower() in ARCHIVES:
            if (pictures := _archived_pictures(path)) is not None:
                data = replace(_load_pictures(pictures, graph, preparation, classes, most), source=path.name)
            else:
                arrays = _read_npz(path, {value.name for value in graph.inputs} | {LABELS}, largest_bytes)
                data = _of_arrays(arrays, path.name, graph, classes)
        else:
            raise Unusable(f"{path.name} is neither an .npz file, nor a .zip of pictures, nor a folder of them")

    def feeds() -> Iterator[Feeds]:
        with _naming(purpose):
            yield from data.feeds()

    return replace(data, feeds=feeds)


def load_arrays(model: ModelProto, arrays: Mapping[str, Array], name: str, purpose: Purpose) -> OwnData:
    """The data in ``arrays`` (one for each input, [N, ...]), known to fit the model; raises InvalidOption."""
    with _naming(purpose):
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise Unusable(f"{name} must hold numpy arrays")
        return _of_arrays(arrays, name, Graph(model), None)


def are_pictures(path: Path) -> bool:
    """Whether it is a folder or an archive of pictures, which need to be prepared; what cannot be read is not."""
    if path.is_dir():
        return True
    try:
        return path.suffix.lower() in ARCHIVES and _archived_pictures(path) is not None
    except Unusable:
        return False


@contextmanager
def _naming(purpose: Purpose) -> Iterator[None]:
    """Whatever turns out unusable meanwhile is refused in the name of its option."""
    try:
        yield
    except Unusable as problem:
        raise InvalidOption(
            f"The {purpose} data cannot be used: {problem}.", field=str(purpose), remedy=problem.remedy
        ) from problem


# --------------------------------------------------------------------------------------------------------------- arrays


def _of_arrays(arrays: Mapping[str, Array], name: str, graph: Graph, classes: int | None) -> OwnData:
    inputs: dict[str, Array] = {}
    for value in graph.inputs:
        if value.name not in arrays:
            present = ", ".join(sorted(arrays)) or "nothing"
            raise Unusable(f"{name} has no array for the input {value.name!r}; it has {present}")
        inputs[value.name] = _fitting(arrays[value.name], value)
    labels = arrays.get(LABELS) if LABELS not in inputs else None
    samples = _count(inputs, graph)
    fixed = _check_sizes(inputs, graph, samples)
    kept = samples - samples % fixed if fixed else samples
    if kept < 1:
        raise Unusable(f"{name} holds {samples} samples and the model takes {fixed} at a time")
    notes = (
        (f"The last {samples - kept} samples do not fill a batch of {fixed} and were left out.",)
        if kept < samples
        else ()
    )
    checked = None if labels is None else _checked_labels(labels, samples, classes)[:kept]

    def feeds() -> Iterator[Feeds]:
        step = fixed or BATCH
        for start in range(0, kept, step):
            yield {
                key: array[start : min(start + step, kept)] if array.ndim and len(array) == samples else array
                for key, array in inputs.items()
            }

    return OwnData(name, kept, feeds, checked, "arrays as they are in the file", notes)


def _read_npz(path: Path, wanted: set[str], largest_bytes: int) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
        if len(entries) > MOST_ENTRIES or declared > largest_bytes:
            raise Unusable(f"{path.name} holds {len(entries)} arrays of {declared} bytes, which is too much")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as problem:
        raise Unusable(f"{path.name} cannot be read as .npz: {str(problem) or type(problem).__name__}") from problem


def _fitting(array: Array, value: Value) -> Array:
    """The array in the input's element type, if no information is lost on the way."""
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(value.element_type))
    if array.dtype.kind not in "fiub":
        raise Unusable(f"the array {value.name!r} holds {array.dtype}, not numbers")
    if wanted.kind in "iub" and array.dtype.kind == "f":
        raise Unusable(f"the array {value.name!r} holds {array.dtype} and the input takes {wanted}")
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise Unusable(f"the array {value.name!r} has numbers that do not fit into {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unusable(f"the array {value.name!r} has infinite or missing numbers")
    return np.ascontiguousarray(array, wanted)


def _count(inputs: Mapping[str, Array], graph: Graph) -> int:
    """The number of samples: the first size of the first input whose model leaves it open or takes fewer at a time."""
    leading = [(value, len(inputs[value.name])) for value in graph.inputs if inputs[value.name].ndim]
    open_or_more = (count for value, count in leading if not value.shape or value.shape[0] != count)
    return next(open_or_more, leading[0][1] if leading else 1)


def _check_sizes(inputs: Mapping[str, Array], graph: Graph, samples: int) -> int | None:
    """The model's fixed batch, or None where it is open; raises InvalidOption where a size does not fit."""
    fixed: int | None = None
    for value in graph.inputs:
        if value.shape is None:
            continue
        array = inputs[value.name]
        batched = array.ndim > 0 and len(array) == samples
        fits = array.ndim == len(value.shape) and all(
            not isinstance(wanted, int) or wanted == size or (axis == 0 and batched)
            for axis, (wanted, size) in enumerate(zip(value.shape, array.shape, strict=False))
        )
        if not fits or 0 in array.shape:
            given = "x".join(map(str, array.shape))
            raise Unusable(f"the array {value.name!r} has the shape {given} and the input is {value}")
        if batched and isinstance(value.shape[0], int):
            fixed = value.shape[0]
    return fixed


def _checked_labels(labels: Array, samples: int, classes: int | None) -> NDArray[np.int64]:
    flat = labels.reshape(len(labels), -1) if labels.ndim else labels.reshape(1, 1)
    if labels.dtype.kind not in "iu" or flat.shape != (samples, 1):
        shape = "x".join(map(str, labels.shape)) or "one number"
        raise Unusable(
            f"labels must be one whole number a sample; they are {labels.dtype} {shape} for {samples} samples"
        )
    numbers = flat[:, 0].astype(np.int64)
    if classes is not None and (numbers.min() < 0 or numbers.max() >= classes):
        raise Unusable(
            f"labels go from {numbers.min()} to {numbers.max()} and the model has the classes 0 to {classes - 1}"
        )
    return numbers


def _classes(graph: Graph, kinds: Mapping[str, OutputKind]) -> int | None:
    """How many classes the model tells apart, if it is known to tell any."""
    found = class_output(graph, kinds)
    shape = graph.shapes.get(found.name) if found is not None else None
    return shape[1] if shape is not None and isinstance(shape[1], int) else None


# ------------------------------------------------------------------------------------------------------------- pictures


def _archived_pictures(path: Path) -> zipfile.Path | None:
    """The folder in an archive that holds the pictures or their classes; None where the archive holds arrays.

    Nothing is unpacked: pictures are read out of the archive, whatever their names would be on a disk.
    """
    try:
        root = zipfile.Path(path)
        names = [each.filename for each in root.root.infolist()]
    except (OSError, zipfile.BadZipFile) as problem:
        raise Unusable(f"{path.name} cannot be read as an archive") from problem
    if any(name.endswith(".npy") for name in names):
        return None
    if len(names) > MOST_PICTURES:
        raise Unusable(f"{path.name} holds {len(names)} files, more than {MOST_PICTURES}")
    while len(only := [each for each in root.iterdir() if not _is_hidden(each.name)]) == 1:
        if only[0].is_file() or only[0].name.isdecimal():
            break
        root = only[0]  # the name of the folder that was packed; a class is not alone, or is a number
    return root


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _load_pictures(
    folder: Place, graph: Graph, preparation: Preparation | None, known: int | None, most: int
) -> OwnData:
    if preparation is None or len(graph.inputs) != 1 or preparation.channels not in (1, 3):
        raise Unusable("the model does not take one picture", "Give an .npz file with an array for each input.")
    folders = sorted(each.name for each in folder.iterdir() if each.is_dir() and not _is_hidden(each.name))
    classes, naming = _class_numbers(folders, known)
    files: list[tuple[Place, int]] = []
    for name, number in classes.items():
        files += [(each, number) for each in _pictures(folder / name)]
    labelled = bool(folders)
    if not labelled:
        files = [(each, -1) for each in _pictures(folder)]
    if not files:
        raise Unusable(f"{folder.name} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    if len(files) > MOST_PICTURES:
        raise Unusable(f"{folder.name} holds {len(files)} pictures, more than {MOST_PICTURES}")
    files = files[:: -(-len(files) // most)]
    batch = (graph.inputs[0].shape or (None,))[0]
    step = batch if isinstance(batch, int) and batch > 0 else BATCH
    kept = len(files) - len(files) % step if step == batch else len(files)
    if kept < 1:
        raise Unusable(f"{folder.name} holds {len(files)} pictures and the model takes {step} at a time")
    height, width = preparation.size
    words = (
        f"pictures as {'grayscale' if preparation.channels == 1 else 'RGB'}, resized and cropped to {height}x{width}, "
        f"{preparation.name}{naming}"
    )

    def feeds() -> Iterator[Feeds]:
        for start in range(0, kept, step):
            chosen = files[start : min(start + step, kept)]
            yield {preparation.input: np.stack([preparation.read(file) for file, _ in chosen])}

    labels = np.array([number for _, number in files[:kept]], np.int64) if labelled else None
    return OwnData(folder.name, kept, feeds, labels, words)


def _class_numbers(folders: Sequence[str], classes: int | None) -> tuple[dict[str, int], str]:
    """The class of each folder: the number it is named, or its place in alphabetical order if there is one a class."""
    if not folders:
        return {}, ""
    if all(name.isdecimal() for name in folders):
        numbers = {name: int(name) for name in folders}
        beyond = [name for name, number in numbers.items() if classes is not None and number >= classes]
        if beyond:
            raise Unusable(
                f"the folder {beyond[0]} is no class of the model, which has the classes 0 to {(classes or 1) - 1}"
            )
        return numbers, "; a folder's name is the number of its class"
    if classes is not None and len(folders) != classes:
        raise Unusable(
            f"there are {len(folders)} class folders and the model has {classes} classes",
            "Name the folders by the numbers of their classes: 0, 1, 2 ...",
        )
    return {
        name: place for place, name in enumerate(folders)
    }, "; folders in alphabetical order are the classes 0, 1, 2 ..."


def _pictures(folder: Place) -> list[Place]:
    found = [each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file()]
    return sorted(found, key=lambda each: each.name)


def find_data(
    model: ModelProto,
    plans: tuple[InputPlan, ...],
    source: Path | None,
    purpose: Purpose = Purpose.VALIDATION,
    kinds: Mapping[str, OutputKind] = MappingProxyType({}),
    most: int = MOST_PICTURES,
) -> OwnData | None:
    """The owner's data, known to fit before any work is spent on the model; raises InvalidOption."""
    if source is None:
        return None
    pictures = [plan for plan in plans if plan.kind is InputKind.PICTURE]
    preparation = None
    if pictures:
        plan, scaling = pictures[0], pictures[0].scaling
        preparation = Preparation(
            plan.name, plan.shape, plan.channels_last, scaling.scale, scaling.offset, scaling.name
        )
    return load_data(source, model, preparation, purpose, kinds=kinds, most=most)
