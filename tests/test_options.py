"""What may be asked for is read, and everything else is refused by the name of its field."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.errors import InvalidOption
from converter.options import Effort, InputSpec, Method, Options, OutputKind, Prefer, Step, Target, read_size
from converter.specifications import ChannelOrder, Layout, StatedKind, input_option
from converter.targets import CONVENTIONS


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("range=0:255", InputSpec(value_range=(0.0, 255.0))),
        ("range=-1:1", InputSpec(value_range=(-1.0, 1.0))),
        (
            "mean=0.485,0.456,0.406:std=0.229,0.224,0.225",
            InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ),
        ("mean=0.5;std=0.5", InputSpec(mean=(0.5,), std=(0.5,))),
        ("shape=1x3x224x224", InputSpec(shape=(1, 3, 224, 224))),
        ("shape=1X80", InputSpec(shape=(1, 80))),
        ("tokens=0:30522", InputSpec(tokens=(0, 30522))),
        ("kind=tokens", InputSpec(kind=StatedKind.TOKENS)),
        ("kind=state:/rnn:h.1", InputSpec(kind=StatedKind.STATE, output="/rnn:h.1")),
        ("order=BGR:layout=nhwc", InputSpec(order=ChannelOrder.BGR, layout=Layout.NHWC)),
        ("kind=scalar;value=0.5", InputSpec(kind=StatedKind.SCALAR, value=0.5)),
        (
            "range=0:255:shape=1x3x32x32 ; mean = 127.5",
            InputSpec(value_range=(0.0, 255.0), shape=(1, 3, 32, 32), mean=(127.5,)),
        ),
    ],
)
def test_specifications_of_inputs(text: str, spec: InputSpec) -> None:
    assert InputSpec.parse(text) == spec
    assert InputSpec.parse(str(spec)) == spec
    assert InputSpec.read(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind=mask;range=0:1", "range means nothing for kind=mask"),
        ("kind=tokens;mean=1", "mean means nothing for kind=tokens"),
        ("kind=features;order=bgr", "order means nothing for kind=features"),
        ("kind=picture;tokens=0:5", "tokens means nothing for kind=picture"),
        ("tokens=0:5;range=0:1", "tokens and range cannot both be stated"),
        ("value=3;range=0:5", "value and range cannot both be stated"),
        ("range=0:1;range=0:255", "range is stated twice"),
        ("mean=1,2,3;std=1,1", "mean has 3 numbers and std 2"),
        ("kind=drawing", "kind=drawing is none of picture"),
        ("order=rbg", "order=rbg is none of rgb, bgr"),
        ("std=1e-40", "std must be positive"),
        ("range=0:1e39", "beyond 1e+30"),
        ("range=5:1", "LOW below HIGH"),
    ],
)
def test_specifications_that_contradict_themselves_are_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        Options.from_dict({"inputs": {"pixels": text}})
    assert why in refused.value.message
    assert "'pixels'" in refused.value.message
    assert refused.value.field == "input"


def test_specifications_made_in_python_are_checked_as_well() -> None:
    with pytest.raises(InvalidOption, match="LOW below HIGH"):
        InputSpec(value_range=(5, 1))
    with pytest.raises(InvalidOption, match="none of"):
        InputSpec(kind="drawing")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", "255", "range=0", "range=1:0", "range=0:0", "range=a:b", "range=0:inf", "range=nan:1", "range=0:1:2"),
        *("std=0", "std=-1,1", "mean=", "mean=nan", "shape=0x3", "shape=3x-1", "shape=3xN", "shape=", "tokens=5:5"),
        *("tokens=-1:3", "tokens=0:1.5", "color=red", "tokens=7", "scale=1:2"),
    ],
)
def test_specifications_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        InputSpec.parse(text)
    assert refused.value.field == "input"
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("method", value) for value in ("magic", "", 3)],
        *[("precision", value) for value in ("int4", "fp16")],
        *[("target", value) for value in ("gpu",)],
        *[("skip", value) for value in (["everything"], "rounding")],
        *[("samples", value) for value in (7, 4097, 64.0, "64", True, -1)],
        *[("seed", value) for value in (-1, 2**32, 1.5, "0")],
        *[("time_budget", value) for value in (0, 0.5, 86_401, math.nan, math.inf, "60")],
        *[("threads", value) for value in (0, 257, 1.0, "all")],
        *[("min_agreement", value) for value in (-0.1, 1.1, 99, math.nan, "0.99")],
        *[("size_budget", value) for value in (0, -1, math.inf, math.nan, "half", "", "-1MiB", "0MiB", "1.5 M")],
        *[(name, value) for name in ("max_drop", "expected_accuracy") for value in (-0.1, 1.1, 76, math.nan, "1 %")],
        *[(name, value) for name in ("exclude", "include") for value in ("Conv", [""], [3], 3)],
        ("outputs", {"scores": "numbers"}),
        ("prefer", "size"),
        ("effort", "most"),
        ("colour", "red"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidOption) as refused:
        Options.from_dict({name: value})
    assert refused.value.field == name
    assert name in refused.value.message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.75", 0.75),
        (".5", 0.5),
        ("1.5MiB", 1.5 * 2**20),
        ("800 kB", 800e3),
        ("2mib", 2**21),
        ("4096", 4096.0),
        ("9 B", 9.0),
    ],
)
def test_a_size_budget_in_words(text: str, size: float) -> None:
    assert Options.from_dict({"size_budget": text}).size_budget == size
    assert Options(size_budget=read_size(text)) == Options.from_dict({"size_budget": text})


@pytest.mark.parametrize("given", [{"inputs": ["x"]}, {"inputs": {"x": 3}}, {"validation": 3}, {"skip": 3}])
def test_values_of_another_type_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Options.from_dict(given)


@pytest.mark.parametrize(
    "entry",
    [{"value_range": [1, 0]}, {"value_range": [0]}, {"std": [0.0]}, {"shape": [0]}, {"colour": [1]}, {"mean": 1}],
)
def test_specifications_as_plain_values_are_checked_too(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Options.from_dict({"inputs": {"x": entry}})


@pytest.mark.parametrize(
    "entry",
    [{"value_range": (5, 1)}, {"std": (0.0,)}, {"shape": (0,)}, {"tokens": (3, 3)}, {"value_range": (math.nan, 1.0)}],
)
def test_specifications_that_contradict_themselves_are_refused_in_python_too(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as refused:
        InputSpec(**entry)
    assert refused.value.field == "input"


numbers = st.floats(-1e6, 1e6, allow_nan=False)
real_specs = st.builds(
    InputSpec,
    value_range=st.none() | st.tuples(st.floats(-1e3, 0), st.floats(0.1, 1e3)),
    mean=st.none() | st.lists(numbers, min_size=3, max_size=3).map(tuple),
    std=st.none() | st.lists(st.floats(0.01, 1e3), min_size=3, max_size=3).map(tuple),
    shape=st.none() | st.lists(st.integers(1, 500), min_size=1, max_size=4).map(tuple),
    kind=st.sampled_from((None, StatedKind.PICTURE, StatedKind.VIDEO)),
    order=st.none() | st.sampled_from(ChannelOrder),
    layout=st.none() | st.sampled_from(Layout),
)
token_specs = st.builds(
    InputSpec,
    shape=st.none() | st.lists(st.integers(1, 500), min_size=1, max_size=4).map(tuple),
    tokens=st.none() | st.tuples(st.integers(0, 5), st.integers(6, 10**6)),
)
specs = real_specs | token_specs
choices = st.sampled_from(
    [(target, precision) for target in Target for precision in sorted(CONVENTIONS[target].precisions)]
).flatmap(
    lambda pair: st.builds(
        Options,
        target=st.just(pair[0]),
        precision=st.just(pair[1]),
        method=st.sampled_from(Method),
        samples=st.integers(8, 4096),
        seed=st.integers(0, 2**32 - 1),
        time_budget=st.floats(1, 86_400),
        threads=st.integers(1, 256),
        min_agreement=st.none() | st.floats(0, 1),
        inputs=st.dictionaries(st.text(max_size=5), specs, max_size=3),
        skip=st.frozensets(st.sampled_from(Step)),
        size_budget=st.floats(0.01, 1e9),
        exclude=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
        include=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
        outputs=st.dictionaries(st.text(max_size=5), st.sampled_from(OutputKind), max_size=3),
        max_drop=st.none() | st.floats(0, 1),
        expected_accuracy=st.none() | st.floats(0, 1),
        prefer=st.sampled_from(Prefer),
        effort=st.sampled_from(Effort),
    )
)


@pytest.mark.parametrize("name", ["image", "serving_default_x:0", "it's $HOME", 'a "b"', "x y;rm"])
def test_what_to_type_of_an_input_can_be_pasted(name: str) -> None:
    assert shlex.split(input_option(name, "range=0:255;order=bgr")) == ["--input", f"{name}=range=0:255;order=bgr"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no failure
@given(choices)
def test_options_go_through_json_and_back(options: Options) -> None:
    assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_plain_values_become_what_they_mean() -> None:
    options = Options.from_dict(
        {"method": "noise", "skip": ["rounding"], "validation": "data.npz", "inputs": {"x": "range=0:1"}, "seed": None}
    )
    assert options == Options(
        method=Method.NOISE,
        skip=frozenset({Step.ROUNDING}),
        validation=Path("data.npz"),
        inputs={"x": InputSpec(value_range=(0.0, 1.0))},
    )
    assert options.seed == 0


def test_the_report_does_not_tell_where_the_owners_data_lie() -> None:
    told = Options(validation=Path("/home/someone/a.npz"), calibration=Path("/home/someone/b.npz")).to_dict()
    assert (told["validation"], told["calibration"]) == ("a.npz", "b.npz")


def test_options_are_not_to_be_changed() -> None:
    options = Options(inputs={"x": InputSpec()})
    with pytest.raises(AttributeError):
        options.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        options.inputs["y"] = InputSpec()  # type: ignore[index]
