"""What an INT8 model's nodes become where no range is fixed."""

from __future__ import annotations

from dataclasses import replace

from converter import convert
from converter.admission import admit
from converter.inputs.description import describe_task
from converter.inputs.task import Task
from converter.normalization import normalize
from converter.options import Method, Options
from converter.quantization.mixing import plan_mix, weights_alone, write_mix
from converter.quantization.treatments import Treatment
from converter.reconstruction import reconstruct
from tests.networks import depthwise, prepare, transformer, upsampled
from tests.quantization.test_treatments import operators, recurrent

QUICK = Options(method=Method.NOISE, samples=8)


def task_of(model: object) -> Task:
    admitted = admit(model)  # type: ignore[arg-type]
    normalized = normalize(admitted.model)
    return describe_task(admitted.model, normalized, reconstruct(normalized.model), QUICK)


def test_products_fed_in_float_find_their_range_at_run_time() -> None:
    task = task_of(transformer())
    assert set(plan_mix(task, [], QUICK).treatments.values()) == {Treatment.DYNAMIC}
    excluded = replace(task, excluded={"MatMul_1": "its owner says so"})
    assert "MatMul_1" not in plan_mix(excluded, [], QUICK).treatments


def test_a_head_whose_input_is_integers_keeps_its_fixed_range() -> None:
    assert plan_mix(task_of(depthwise()), [], QUICK).treatments == {}


def test_what_has_no_integer_kernel_has_integer_weights() -> None:
    task = task_of(upsampled())
    mix = plan_mix(task, [], QUICK)
    assert list(mix.treatments.values()) == [Treatment.WEIGHTS]
    result = convert(upsampled(), QUICK)
    transposed = next(each for each in result.report.quantization.kept_float if each.operator == "ConvTranspose")
    assert transposed.reason.endswith("its weights are integers in the file")
    assert operators(result.model)["ConvTranspose"] == 1
    lstm = convert(recurrent("LSTM", 2), QUICK)
    assert lstm.report.size.ratio > 2.5


def test_a_mix_that_does_not_run_is_left_out() -> None:
    task = task_of(transformer())
    mixed = write_mix(task.model, weights_alone(task), {"x": prepare(transformer()).batches[0]["x"][:, :, :3]})
    assert mixed.model is task.model
    assert "left out" in mixed.steps[0].sentence
