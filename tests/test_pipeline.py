"""A conversion from end to end: what comes out, that it comes out again, and that it goes on where it was cut off."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from converter import Method, Options, Precision, Report, Result, Step, convert
from converter.errors import InvalidOption, OutputNotWritable, UnsupportedModel
from converter.progress import Progress, Stage
from converter.sessions import open_session
from tests.digits import Digits
from tests.networks import NETWORKS, biases, model_of, node, recurrent, residual, run, weights

QUICK = Options(samples=16)


@pytest.fixture(scope="module")
def converted(digits: Digits) -> Result:
    return convert(digits.model, Options(seed=1))


def content(result: Result) -> bytes:
    return bytes(result.model.SerializeToString(deterministic=True))


def test_digits_are_recognised_as_before(digits: Digits, converted: Result) -> None:
    assert (digits.classify(digits.model) == digits.labels).mean() > 0.97
    assert digits.agreement(converted.model) >= 0.97
    noise = convert(digits.model, Options(seed=1, method=Method.NOISE))
    assert digits.agreement(converted.model) >= digits.agreement(noise.model)


def test_the_integer_model_is_smaller_and_runs_everywhere(digits: Digits, converted: Result) -> None:
    model = converted.model
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert 17 <= model.opset_import[0].version <= 21
    assert {each.domain for each in model.opset_import} == {""}
    assert [each.name for each in model.graph.input] == ["image"]
    assert [each.name for each in model.graph.output] == ["digit"]
    assert model.ByteSize() < 0.5 * digits.model.ByteSize()
    for batch in (1, 7):
        (scores,) = open_session(model).run(None, {"image": digits.pictures[:batch]})
        assert scores.shape == (batch, 10)


def test_the_report_has_every_section(digits: Digits, converted: Result) -> None:
    report = converted.report
    assert Report.from_json(report.to_json()) == report
    assert "</html>" in report.to_html()
    assert report.model.inputs[0].name == "image"
    assert report.inputs[0].name == "image"
    assert report.options["seed"] == report.environment.seed == 1
    assert report.synthesis.samples == 64
    assert report.synthesis.batch_norm_statistics == 3
    assert report.synthesis.loss
    assert sum(each.probability or 0 for each in report.inputs[0].hypotheses) == pytest.approx(1)
    assert report.quantization.nodes_quantized > 0
    assert {each.name for each in report.quantization.steps} >= {"rounding", "bias-correction"}
    assert report.fidelity.outputs[0].name == "digit"
    assert report.fidelity.decisions is not None
    assert report.fidelity.decisions.agreement.n == 64
    assert report.validation is None
    assert {each.kind for each in report.layers} == {"activation", "weight", "bias"}
    assert report.kernels
    assert report.latency is not None
    assert report.size.int8_bytes == converted.model.ByteSize()
    assert 2 * report.size.int8_bytes < report.size.float32_bytes
    assert set(report.timings.stages) == {str(stage) for stage in Stage} - {"quantization", "report"}
    assert report.model.rewriting_error is not None
    assert report.model.rewriting_error < 1e-4


def test_the_same_model_and_options_give_the_same_bytes(digits: Digits, converted: Result) -> None:
    again = convert(digits.model.SerializeToString(), Options(seed=1))
    assert content(again) == content(converted)


def test_the_report_tells_what_calibrated_from_what_judged(digits: Digits) -> None:
    report = convert(digits.model, replace(QUICK, method=Method.NOISE)).report
    assert report.synthesis.description == "N(0, 1) noise"
    assert report.fidelity.distribution.startswith("drawn from another prior than calibration's")


def test_a_seed_matters(digits: Digits, converted: Result) -> None:
    assert content(convert(digits.model, Options(seed=2))) != content(converted)


def test_the_source_stays_as_it_was(digits: Digits) -> None:
    before = digits.model.SerializeToString(deterministic=True)
    convert(digits.model, QUICK)
    assert digits.model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("step", Step)
def test_any_step_can_be_left_out(digits: Digits, step: Step) -> None:
    result = convert(digits.model, Options(samples=16, skip=frozenset({step})))
    assert digits.agreement(result.model) > 0.9
    taken = {each.name for each in result.report.quantization.steps if each.applied}
    assert str(step) not in taken


def test_progress_runs_through_every_stage_to_the_end(digits: Digits) -> None:
    heard: list[Progress] = []
    convert(digits.model, QUICK, progress=heard.append)
    stages = list(dict.fromkeys(each.stage for each in heard))
    assert stages == list(Stage)
    wholes = [each.progress for each in heard]
    assert wholes == sorted(wholes)
    assert wholes[-1] == pytest.approx(1)


def test_a_result_is_saved_whole(converted: Result, tmp_path: Path) -> None:
    path = tmp_path / "digits.int8.onnx"
    converted.save(path)
    assert onnx.load(path) == converted.model
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputNotWritable):
        converted.save(tmp_path / "nowhere" / "deeper" / "a.onnx")


# cut off and gone on


def test_a_finished_synthesis_is_not_repeated(digits: Digits, tmp_path: Path) -> None:
    whole = convert(digits.model, QUICK, checkpoints=tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name for path in kept} >= {"synthesis.json", "synthesis.npz", "quantization.onnx"}
    for path in tmp_path.glob("quantization.*"):
        path.unlink()  # as if the process had died between the two stages
    heard: list[Progress] = []
    resumed = convert(digits.model, QUICK, progress=heard.append, checkpoints=tmp_path)
    assert content(resumed) == content(whole) == content(convert(digits.model, QUICK))
    assert len([each for each in heard if each.stage is Stage.SYNTHESIS]) == 1
    assert all((tmp_path / name).read_bytes() == kept[tmp_path / name] for name in ("synthesis.json", "synthesis.npz"))
    assert resumed.report.synthesis == whole.report.synthesis


@pytest.mark.parametrize("changed", ["model", "options"])
def test_what_another_conversion_left_is_not_taken(changed: str, digits: Digits, tmp_path: Path) -> None:
    model = residual() if changed == "model" else digits.model
    convert(model, replace(QUICK, seed=7) if changed == "options" else QUICK, checkpoints=tmp_path)
    assert content(convert(digits.model, QUICK, checkpoints=tmp_path)) == content(convert(digits.model, QUICK))


def test_a_finished_integer_model_is_not_made_again(digits: Digits, tmp_path: Path) -> None:
    whole = convert(digits.model, QUICK, checkpoints=tmp_path)
    heard: list[Progress] = []
    resumed = convert(digits.model, QUICK, progress=heard.append, checkpoints=tmp_path)
    assert content(resumed) == content(whole)
    assert resumed.report.quantization == whole.report.quantization
    assert not [each for each in heard if each.stage is Stage.QUANTIZATION]
    assert [each.method for each in resumed.report.layers] == [each.method for each in whole.report.layers]


@pytest.mark.parametrize("name", ["synthesis.npz", "synthesis.json", "quantization.onnx", "quantization.json"])
def test_half_a_checkpoint_is_made_again(digits: Digits, tmp_path: Path, name: str) -> None:
    whole = convert(digits.model, QUICK, checkpoints=tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if name.startswith("synthesis"):
        for later in tmp_path.glob("quantization.*"):
            later.unlink()
    assert content(convert(digits.model, QUICK, checkpoints=tmp_path)) == content(whole)
    shutil.rmtree(tmp_path)


# networks of other shapes


@pytest.mark.parametrize("name", NETWORKS)
def test_every_shape_of_network_is_converted(name: str) -> None:
    source = NETWORKS[name]()
    result = convert(source, Options(samples=32))
    assert result.report.quantization.nodes_quantized > 0
    shape = [each.dim_value or 4 for each in source.graph.input[0].type.tensor_type.shape.dim]
    taken = result.inputs[0].scaling  # inputs are what the result was calibrated for
    drawn = np.random.default_rng(3).standard_normal(shape, np.float32)
    feeds = {"x": drawn * np.float32(taken.scale[0]) + np.float32(taken.offset[0])}
    for before, after in zip(run(source, feeds), run(result.model, feeds), strict=True):
        assert ((before - after) ** 2).mean() < 0.03 * (before**2).mean()


def test_transposed_convolutions_are_kept_in_float_and_named() -> None:
    report = convert(NETWORKS["upsampled"](), QUICK).report
    assert "ConvTranspose" in {each.operator for each in report.quantization.kept_float}


@pytest.mark.parametrize("batch", [1, 4, 24])
def test_a_batch_that_the_model_fixes(batch: int) -> None:
    source = residual()
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    result = convert(source, QUICK)
    assert result.report.synthesis.samples == -(-16 // batch) * batch
    shape = (batch, 8, 12, 12)
    (scores,) = open_session(result.model).run(None, {"x": np.zeros(shape, np.float32)})
    assert scores.shape == (batch, 5)


def test_tokens_go_through_a_table_in_float() -> None:
    source = model_of(
        [
            node("Gather", ["table", "x"], ["e"]),
            node("MatMul", ["e", "w0"], ["m"]),
            node("Add", ["m", "b0"], ["a"]),
            node("Relu", ["a"], ["r"]),
            node("MatMul", ["r", "w1"], ["y"]),
        ],
        {"table": weights(50, 16), "w0": weights(16, 24), "b0": biases(24), "w1": weights(24, 4)},
        shape=("N", "length"),
        element_type=TensorProto.INT64,
    )
    result = convert(source, QUICK)
    assert result.report.inputs[0].kind == "tokens"
    assert result.report.inputs[0].high == 49
    tokens = np.random.default_rng(0).integers(0, 50, (3, 9))
    (before,), (after,) = run(source, {"x": tokens}), run(result.model, {"x": tokens})
    assert ((before - after) ** 2).mean() < 0.01 * (before**2).mean()


def test_states_and_scalars() -> None:
    result = convert(recurrent(), QUICK)
    assert [each.kind for each in result.report.inputs] == ["features", "state", "constant"]
    feeds = {
        "x": np.ones((2, 16), np.float32),
        "h0": np.zeros((2, 12), np.float32),
        "sr": np.array(16_000),
    }
    assert open_session(result.model).run(None, feeds)[0].shape == (2, 5)


def test_decisions_without_scores() -> None:
    source = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "w1"], ["d"]),
            node("GlobalAveragePool", ["d"], ["p"]),
            node("ArgMax", ["p"], ["y"], axis=1),
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(6, 16, 1, 1)},
    )
    source.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert convert(source, QUICK).report.quantization.nodes_quantized > 0


def test_nothing_to_quantize_is_refused() -> None:
    with pytest.raises(UnsupportedModel):
        convert(model_of([node("Relu", ["x"], ["y"])], {}), QUICK)


def test_inputs_that_are_not_there_are_refused(digits: Digits) -> None:
    with pytest.raises(InvalidOption, match="picture"):
        convert(digits.model, Options.from_dict({"inputs": {"picture": "range=0:1"}}))


def test_what_the_owner_states_decides_the_range_of_the_input(digits: Digits) -> None:
    source = ModelProto()
    source.CopyFrom(digits.model)
    result = convert(source, Options.from_dict({"samples": 16, "inputs": {"image": "range=0:1"}}))
    assert result.report.inputs[0].known_by == "user"
    assert digits.agreement(result.model) >= 0.97


def test_a_step_that_was_skipped_is_not_reported_as_taken() -> None:
    options = Options(samples=8, precision=Precision.W4A4, skip=frozenset({Step.EQUALIZATION}))
    taken = {each.name for each in convert(NETWORKS["gated"](), options).report.quantization.steps if each.applied}
    assert Step.EQUALIZATION not in taken
