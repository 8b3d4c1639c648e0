"""Validation: data of the owner are checked before they are used, and what is measured on them is what it says."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from converter.errors import InvalidOption
from converter.evaluation.validation import enough, measure_validation
from converter.findings import Metric
from converter.inputs.own_data import load_data
from converter.inputs.pictures import Preparation


def classifier(weight: np.ndarray, batch: int | str = "N") -> ModelProto:
    """x [batch, 6] -> Gemm -> scores [batch, 4]."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["scores"], name="gemm")],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def brightness(layout: str = "NCHW", channels: int = 3, classes: int = 2) -> ModelProto:
    """picture [N, C, 8, 8] in [-1, 1] -> mean -> Gemm -> scores: class 1 for bright pictures, class 0 for dark ones."""
    sizes: list[int | str] = ["N", channels, 8, 8] if layout == "NCHW" else ["N", 8, 8, channels]
    weight = np.zeros((1, classes), np.float32)
    weight[0, :2] = -1, 1
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["mean"], name="mean", axes=[1, 2, 3], keepdims=1),
        helper.make_node("Flatten", ["mean"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w"], ["scores"], name="gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


SIGNED = Preparation("picture", (3, 8, 8), scale=(2.0,), offset=(-1.0,), name="pixels from -1 to 1")
WEIGHT = np.random.default_rng(0).standard_normal((6, 4))
X = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def pictures(folder: Path, *, size: tuple[int, int] = (8, 8), names: tuple[str, str] = ("dark", "light")) -> Path:
    for name, level in zip(names, (30, 220), strict=True):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", size, (level + index, level, level)).save(folder / name / f"{index}.png")
    return folder


# ---------------------------------------------------------------------------------------------------- what is measured


def test_top1_before_and_after_with_the_paired_standard_error(tmp_path: Path) -> None:
    other = WEIGHT + 0.3 * np.random.default_rng(2).standard_normal(WEIGHT.shape)
    labels = (X @ WEIGHT).argmax(1)
    labels[:10] = (labels[:10] + 1) % 4
    data = load_data(save(tmp_path / "data.npz", x=X, labels=labels), classifier(WEIGHT))
    result = measure_validation(data, classifier(WEIGHT), classifier(other))
    (metric,) = result.metrics
    right = (X @ other).argmax(1) == labels
    assert (metric.name, metric.n, metric.float32) == ("top-1", 50, 0.8)
    assert metric.int8 == pytest.approx(right.mean())
    assert metric.difference == pytest.approx(metric.int8 - metric.float32)
    change = right.astype(float) - ((X @ WEIGHT).argmax(1) == labels)
    assert metric.standard_error == pytest.approx(change.std(ddof=1) / np.sqrt(50))
    assert result.decisions is not None
    assert result.samples == 50


def test_without_labels_there_is_agreement_and_no_metric(tmp_path: Path) -> None:
    data = load_data(save(tmp_path / "data.npz", x=X), classifier(WEIGHT))
    result = measure_validation(data, classifier(WEIGHT), classifier(WEIGHT * 1.01))
    assert result.metrics == ()
    assert not result.labelled
    assert result.decisions is not None
    assert result.outputs[0].sqnr_db == pytest.approx(40, abs=0.1)


def test_labels_of_a_model_that_does_not_classify_are_not_used_and_that_is_said(tmp_path: Path) -> None:
    model = classifier(WEIGHT[:, :1].repeat(4, axis=1))
    model.graph.node[0].output[0] = "inner"
    model.graph.node.append(helper.make_node("Tanh", ["inner"], ["scores"], name="tanh"))
    data = load_data(save(tmp_path / "data.npz", x=X, labels=np.zeros(50, np.int64)), model)
    result = measure_validation(data, model, model)
    assert result.metrics == ()
    assert any("labels" in note for note in result.notes)


def test_numbers_of_another_type_are_converted_where_nothing_is_lost(tmp_path: Path) -> None:
    data = load_data(save(tmp_path / "data.npz", x=X.astype(np.float64)), classifier(WEIGHT))
    assert next(data.feeds())["x"].dtype == np.float32


def test_samples_that_do_not_fill_a_fixed_batch_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    data = load_data(save(tmp_path / "data.npz", x=X, labels=np.zeros(50, np.int64)), classifier(WEIGHT, batch=8))
    assert data.samples == 48
    assert data.labels is not None
    assert len(data.labels) == 48
    assert "2 samples" in data.notes[0]
    assert all(len(feed["x"]) == 8 for feed in data.feeds())


# ------------------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("size", [(8, 8), (32, 20), (9, 40), (4, 3)])
def test_pictures_of_any_size_are_labelled_by_their_folders(tmp_path: Path, size: tuple[int, int]) -> None:
    data = load_data(pictures(tmp_path / "set", size=size), brightness(), SIGNED)
    result = measure_validation(data, brightness(), brightness())
    (metric,) = result.metrics
    assert (metric.float32, metric.int8, metric.difference, metric.standard_error, metric.n) == (1, 1, 0, 0, 6)
    assert "8x8" in result.preparation
    assert "-1 to 1" in result.preparation


def test_scale_offset_and_layout_are_those_of_the_preparation(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    Image.new("RGB", (8, 8), (255, 0, 51)).save(file)
    scale, offset = (2.0, 2.0, 10.0), (-1.0, -1.0, 0.0)
    first = Preparation("x", (3, 8, 8), scale=scale, offset=offset).read(file)
    last = Preparation("x", (8, 8, 3), channels_last=True, scale=scale, offset=offset).read(file)
    assert first.shape == (3, 8, 8)
    assert first[:, 0, 0] == pytest.approx([1, -1, 2])
    assert np.array_equal(first.transpose(1, 2, 0), last)


def test_grayscale(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    data = load_data(folder, brightness(channels=1), Preparation("picture", (1, 8, 8), scale=(2.0,), offset=(-1.0,)))
    assert measure_validation(data, brightness(channels=1), brightness(channels=1)).metrics[0].float32 == 1
    assert next(data.feeds())["picture"].shape == (6, 1, 8, 8)


def test_channels_last(tmp_path: Path) -> None:
    preparation = Preparation("picture", (8, 8, 3), channels_last=True, scale=(2.0,), offset=(-1.0,))
    data = load_data(pictures(tmp_path / "set"), brightness("NHWC"), preparation)
    assert measure_validation(data, brightness("NHWC"), brightness("NHWC")).metrics[0].float32 == 1


def test_folders_named_by_numbers_are_those_classes(tmp_path: Path) -> None:
    data = load_data(pictures(tmp_path / "set", names=("2", "10")), brightness(classes=12), SIGNED)
    assert data.labels is not None
    assert sorted(set(data.labels.tolist())) == [2, 10]


def test_pictures_without_folders_have_no_labels(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set") / "dark"
    data = load_data(folder, brightness(), SIGNED)
    assert data.labels is None
    assert data.samples == 3


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": X}, "no array for the input 'x'"),
        ({"x": X[:, :5]}, "50x5"),
        ({"x": X[:, :, None]}, "50x6x1"),
        ({"x": X[:0]}, "0x6"),
        ({"x": np.full((4, 6), np.nan, np.float32)}, "infinite or missing"),
        ({"x": np.full((4, 6), "a")}, "not numbers"),
        ({"x": X, "labels": np.zeros(49, np.int64)}, "for 50 samples"),
        ({"x": X, "labels": np.zeros(50, np.float32)}, "whole number"),
        ({"x": X, "labels": np.zeros((50, 4), np.int64)}, "whole number"),
        ({"x": X, "labels": np.full(50, 4)}, "classes 0 to 3"),
        ({"x": X, "labels": np.full(50, -1)}, "classes 0 to 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as caught:
        load_data(save(tmp_path / "data.npz", **arrays), classifier(WEIGHT))
    assert caught.value.field == "validation"


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="npz"):
        load_data(save(tmp_path / "data.npz", x=np.array([{}], object)), classifier(WEIGHT))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04damaged"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(InvalidOption, match="cannot be read"):
        load_data(tmp_path / "data.npz", classifier(WEIGHT))


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1_000_000, 6), np.float32))
    with zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(InvalidOption, match="too much"):
        load_data(tmp_path / "data.npz", classifier(WEIGHT), largest_bytes=1_000_000)


def test_whole_numbers_are_not_made_of_fractions(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["ids"], ["y"], name="identity")],
        "ids",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 2])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(InvalidOption, match="float32"):
        load_data(save(tmp_path / "data.npz", ids=np.ones((3, 2), np.float32)), model)


def test_neither_file_nor_folder_of_a_known_kind(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(InvalidOption, match="neither"):
        load_data(tmp_path / "data.csv", classifier(WEIGHT))


def test_pictures_for_a_model_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="one picture"):
        load_data(pictures(tmp_path / "set"), classifier(WEIGHT))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="no pictures"):
        load_data(tmp_path, brightness(), SIGNED)


def test_classes_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="2 class folders and the model has 5") as caught:
        load_data(pictures(tmp_path / "set"), brightness(classes=5), SIGNED)
    assert "0, 1, 2" in str(caught.value)


def test_a_class_number_beyond_the_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="folder 7"):
        load_data(pictures(tmp_path / "set", names=("0", "7")), brightness(), SIGNED)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    (folder / "dark" / "1.png").write_bytes(b"not a picture")
    data = load_data(folder, brightness(), SIGNED)
    with pytest.raises(InvalidOption, match=r"dark/1\.png"):
        measure_validation(data, brightness(), brightness())


def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.new("1", (9000, 8000)).save(tmp_path / "set" / "large.png")
    with pytest.raises(InvalidOption, match="9000x8000"):
        measure_validation(load_data(tmp_path / "set", brightness(), SIGNED), brightness(), brightness())


def test_how_many_samples_would_be_enough() -> None:
    metric = Metric(name="top-1", float32=0.8, int8=0.79, difference=-0.01, standard_error=0.005, n=500)
    assert enough(metric) == [
        "With 500 samples a change of 1.4 points would be seen in four of five cases; half of that takes 2000."
    ]
    assert enough(metric.model_copy(update={"standard_error": 0.0})) == []


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def grey(level: int) -> bytes:
    """An even picture as a .png."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize("packed", ["", "set/", "set/test/"])
def test_an_archive_of_pictures_is_read_as_the_folder_in_it(tmp_path: Path, packed: str) -> None:
    files = {f"{packed}0/dark.png": grey(40), f"{packed}1/light.PNG": grey(250), f"{packed}1/note.txt": b"x"}
    data = load_data(zipped(tmp_path / "set.zip", {**files, "__MACOSX/._0": b"x"}), brightness(), SIGNED)
    assert (data.samples, data.source) == (2, "set.zip")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    [feeds] = data.feeds()
    assert feeds["picture"].mean(axis=(1, 2, 3)) == pytest.approx([40 / 127.5 - 1, 250 / 127.5 - 1], abs=1e-6)
    assert list(tmp_path.iterdir()) == [tmp_path / "set.zip"], "nothing was unpacked"


def test_pictures_beside_each_other_have_no_labels(tmp_path: Path) -> None:
    data = load_data(zipped(tmp_path / "set.zip", {"set/a.png": grey(1), "set/b.png": grey(2)}), brightness(), SIGNED)
    assert data.samples == 2
    assert data.labels is None


def test_an_archive_of_arrays_is_an_npz_whatever_its_name(tmp_path: Path) -> None:
    path = save(tmp_path / "data.npz", x=X)
    data = load_data(path.rename(tmp_path / "data.zip"), classifier(WEIGHT))
    assert data.samples == len(X)


def test_an_archive_does_not_reach_beyond_itself(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(grey(9))
    archive = zipped(tmp_path / "set.zip", {"../secret.png": grey(200), "/etc/a.png": grey(200), "a.png": grey(200)})
    for feeds in load_data(archive, brightness(), SIGNED).feeds():
        assert feeds["picture"] == pytest.approx(200 / 127.5 - 1, abs=1e-6)


def damaged(content: bytes) -> bytes:
    return content[:60] + b"\xff" * 10 + content[70:]


def with_password(content: bytes) -> bytes:
    """As if it were packed with one: the first flag of the entry in the archive's directory."""
    return content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("no archive", lambda content: b"nothing", "cannot be read as an archive"),
        ("cut short", lambda content: content[:40], "cannot be read as an archive"),
        ("damaged", damaged, "is not a picture that can be read"),
        ("a password", with_password, "is not a picture that can be read"),
    ],
)
def test_archives_that_cannot_be_used_are_refused(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], said: str
) -> None:
    path = zipped(tmp_path / "set.zip", {"a.png": grey(100)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InvalidOption, match=said):
        list(load_data(path, brightness(), SIGNED).feeds())
