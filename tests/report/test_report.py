"""The report: a schema that holds, JSON that returns, and a page that is safe, small and says what is so."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError

from converter.findings import (
    Advice,
    Cause,
    Caution,
    Change,
    Culprit,
    Curve,
    Decisions,
    Environment,
    Example,
    Expectation,
    Fidelity,
    FloatNode,
    FrontierPoint,
    Histogram,
    Hypothesis,
    Input,
    Interval,
    Isolation,
    KeptFloat,
    Kernels,
    Latency,
    Layer,
    Metric,
    Model,
    OutputFidelity,
    Prediction,
    Proportion,
    Quantization,
    Quartiles,
    Remedy,
    Scale,
    Size,
    StepTaken,
    Synthesis,
    TensorFact,
    Timings,
    Validation,
    Verdict,
)
from converter.report import Report
from converter.report.svg import Scale as Axis
from converter.report.svg import bent_ticks, clip, ticks
from converter.report.words import bytes_, headline, number, percent

KEYS = [
    "schema_version",
    "verdict",
    "model",
    "options",
    "environment",
    "inputs",
    "synthesis",
    "quantization",
    "fidelity",
    "predicted",
    "validation",
    "diagnosis",
    "layers",
    "kernels",
    "latency",
    "size",
    "timings",
    "warnings",
]
HOSTILE = "</title><script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


def layer(index: int, name: str = "") -> Layer:
    return Layer(
        tensor=f"{name}tensor{index}",
        kind="activation",
        node=f"{name}node{index}",
        operator="Conv",
        bits=8,
        type="uint8",
        scale=Scale(count=1, minimum=0.1, median=0.1, maximum=0.1),
        zero_point=128,
        low=-12.8,
        high=12.7,
        observed_low=-20.0,
        observed_high=11.0,
        method="min/max",
        sqnr_alone_db=40.0,
        sqnr_in_place_db=35.0 - index % 30,
        contribution=1 / (index + 2),
        steps=("bias corrected",),
    )


def decisions(successes: int = 63) -> Decisions:
    value = successes / 64
    return Decisions(
        output="scores",
        judged_by="the model ends in Softmax",
        classes=10,
        probabilities=True,
        agreement=Proportion(
            value=value, successes=successes, n=64, interval=Interval(low=value - 0.1, high=min(1, value + 0.02))
        ),
        mean_kl=0.01,
        margins=Histogram(edges=(0, 0.5, 1), all=(20, 44), flipped=(64 - successes, 0)),
        distinct_classes=9,
    )


def predicted(basis: str = "", low: float = 0.93, /, **changes: object) -> Prediction:
    known: dict[str, object] = {
        "agreement": Expectation(interval=Interval(low=low, high=0.99, confidence=0.9), middle=0.97),
        "accuracy_change": Expectation(interval=Interval(low=-0.02, high=0.004, confidence=0.9), middle=-0.004),
        "basis": basis,
    }
    return Prediction.model_validate(known | changes)


UNKNOWN: dict[str, object] = {"agreement": None, "accuracy_change": None, "reason": "there are no classes"}


def make(name: str = "", layers: int = 12, **changes: object) -> Report:
    """A report with every section filled, every text beginning with ``name``."""
    sections: dict[str, object] = {
        "verdict": Verdict(
            advice=Advice.USE_WITH_FLOAT,
            sentence=f"{name}sentence",
            evidence=(f"{name}evidence",),
            conditions=(f"{name}condition",),
            remedy=Remedy(
                option=f"--exclude {name}node", nodes=(f"{name}node",), error_removed=0.5, work_in_float=0.02
            ),
        ),
        "diagnosis": (
            Culprit(
                tensor=f"{name}tensor1",
                node=f"{name}node1",
                operator="Conv",
                share=0.4,
                cause=Cause.OUTLIERS,
                why=f"{name}why",
                option=f"--exclude {name}node1",
            ),
        ),
        "model": Model(
            name=f"{name}model.onnx",
            sha256="0" * 64,
            bytes=4_000_000,
            ir_version=8,
            opset=17,
            nodes=20,
            parameters=1_000_000,
            macs=3_000_000_000,
            operators={"Conv": 3, "Add": 2},
            inputs=(TensorFact(name=f"{name}x", type="float32", shape=("N", 3, None, 32)),),
            outputs=(TensorFact(name=f"{name}y", type="float32"),),
            notes=(f"{name}note",),
            changes=(Change(name="fold", count=2, sentence=f"{name}Folded."),),
            rewriting_error=1e-6,
        ),
        "options": {
            "method": "auto",
            "min_agreement": 0.9,
            "inputs": {f"{name}x": {"shape": (1, 3)}},
            "skip": frozenset(),
        },
        "environment": Environment(
            command=f"zsq convert {name}model.onnx", seed=0, threads=1, packages={f"{name}onnx": "1.23"}
        ),
        "inputs": (
            Input(
                name=f"{name}x",
                type="float32",
                shape_used=(1, 3),
                kind=f"{name}picture",
                distribution=f"{name}noise",
                hypotheses=(
                    Hypothesis(
                        input=f"{name}x",
                        name=f"{name}0 to 1",
                        probability=0.75,
                        taken=True,
                        why=f"{name}why",
                        specification=f"{name}range=0:1",
                        sqnr_db=math.inf,
                    ),
                ),
            ),
        ),
        "synthesis": Synthesis(
            method=f"{name}auto",
            samples=64,
            seconds=3.0,
            seed=0,
            examples=(Example(input=f"{name}x", png="iVBORw0KGgo="), Example(input=f"{name}w", wave=(0.0, 1.0, -1.0))),
            loss=(Curve(name=f"{name}loss", steps=(0, 1, 2), values=(300.0, 2.0, 1.0)),),
        ),
        "quantization": Quantization(
            precision="mixed",
            target="x64-vnni",
            weight_type="int8",
            activation_type="uint8",
            steps=(
                StepTaken(name=f"{name}step", applied=True, sentence=f"{name}sentence", before=math.inf, after=3.0),
            ),
            nodes_quantized=18,
            nodes_float=2,
            kept_float=(KeptFloat(node=f"{name}n", operator=f"{name}o", reason=f"{name}r"),),
            frontier=(
                FrontierPoint(size_bytes=1_000_000, predicted_kl=0.01, chosen=True, label=f"{name}all 8"),
                FrontierPoint(size_bytes=500_000, predicted_kl=0.2, label="all 4"),
            ),
        ),
        "fidelity": Fidelity(
            distribution=f"{name}noise",
            samples=64,
            outputs=(
                OutputFidelity(
                    name=f"{name}y", shape=(8, 10), samples=64, sqnr_db=30.0, cosine=0.999, max_abs_error=0.1
                ),
            ),
            decisions=decisions(),
        ),
        "predicted": predicted(f"{name}basis"),
        "validation": Validation(
            source=f"{name}data.npz",
            samples=500,
            labelled=True,
            preparation=f"{name}as is",
            metrics=(
                Metric(name=f"{name}top-1", float32=0.9, int8=0.89, difference=-0.01, standard_error=0.004, n=500),
            ),
            notes=(f"{name}note",),
        ),
        "layers": tuple(layer(index, name) for index in range(layers)),
        "kernels": Kernels(
            optimizer="onnxruntime",
            nodes=20,
            integer=15,
            float_compute=1,
            conversions=2,
            other=2,
            integer_operators={"QLinearConv": 15},
            float_operators={f"{name}Erf": 1},
            float_nodes=(FloatNode(name=f"{name}f", operator=f"{name}Erf", original=f"{name}orig"),),
            integer_macs_share=0.99,
        ),
        "latency": Latency(
            float32=Quartiles(median_ms=4, lower_ms=3, upper_ms=5),
            int8=Quartiles(median_ms=2, lower_ms=1, upper_ms=3),
            speedup=2.0,
            slower=False,
            pairs=9,
            threads=1,
            cpu=f"{name}cpu",
        ),
        "size": Size.of(4_000_000, 1_100_000),
        "timings": Timings(stages={f"{name}synthesis": 3.0, "report": 1.0}, total_seconds=4.0, peak_memory_bytes=10**9),
        "warnings": (Caution(kind="some", message=f"{name}message", place=f"{name}place"),),
    }
    return Report.model_validate(sections | changes)


class Reader(HTMLParser):
    """Collects tags, attributes and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def text_of(report: Report) -> str:
    return re.sub(r"\s+", " ", Reader(report.to_html()).words.replace("\xa0", " "))


# -------------------------------------------------------------------------------------------------------------- schema


def test_the_keys_are_those_of_the_contract_in_order() -> None:
    assert list(Report.model_fields) == KEYS
    assert list(json.loads(make().to_json())) == KEYS


def test_json_returns_the_same_report_and_the_same_text() -> None:
    report = make()
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


def test_absent_is_null_and_not_invented() -> None:
    stored = json.loads(make(predicted=predicted(**UNKNOWN), validation=None, latency=None).to_json())
    assert stored["predicted"]["agreement"] is stored["validation"] is stored["latency"] is None
    assert stored["predicted"]["reason"] == "there are no classes"


def test_nothing_is_unknown_without_a_reason() -> None:
    with pytest.raises(ValidationError):
        predicted(agreement=None)


def test_infinite_ratios_become_null_and_infinite_errors_are_refused() -> None:
    output = {"name": "y", "shape": (1,), "samples": 1, "max_abs_error": 0.0}
    assert OutputFidelity.model_validate({**output, "sqnr_db": math.inf}).sqnr_db is None
    assert OutputFidelity.model_validate({**output, "sqnr_db": math.nan}).sqnr_db is None
    with pytest.raises(ValidationError):
        OutputFidelity.model_validate({**output, "max_abs_error": math.inf})


@pytest.mark.parametrize("change", [{"accuracy": 0.9}, {"schema_version": "0.9"}, {"layers": [{"tensor": "x"}]}])
def test_what_does_not_belong_is_refused(change: dict[str, object]) -> None:
    stored = json.loads(make().to_json()) | change
    with pytest.raises(ValidationError):
        Report.from_json(json.dumps(stored))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema_version": "1.0"}'])
def test_other_json_is_no_report(text: str) -> None:
    with pytest.raises(ValidationError):
        Report.from_json(text)


def test_an_interval_is_in_order() -> None:
    with pytest.raises(ValidationError):
        Interval(low=1, high=0)


def test_options_are_any_json_with_sorted_keys() -> None:
    options = json.loads(make(options={"b": (1, 2), "a": {"z": frozenset({"y", "x"})}}).to_json())["options"]
    assert options == {"a": {"z": ["x", "y"]}, "b": [1, 2]}
    assert list(options) == ["a", "b"]


def test_the_schema_serves_as_an_openapi_component() -> None:
    schema = Report.model_json_schema()
    assert schema["additionalProperties"] is False
    assert "description" in schema
    assert set(schema["properties"]) == set(KEYS)


def test_no_number_is_called_accuracy() -> None:
    assert "accuracy" not in re.findall(r'"(\w+)":', make().to_json())


def test_reading_a_report_loads_neither_torch_nor_onnx() -> None:
    code = (
        "import sys; from converter.report import Report, page; Report.model_json_schema();"
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------------- page


def test_the_page_says_how_the_conversion_was_confined() -> None:
    full = Isolation(level="full", landlock=7, seccomp=True, network="none")
    report = make().confined(full)
    assert report.environment.isolation == full
    assert json.loads(report.to_json())["environment"]["isolation"]["level"] == "full"
    assert "Isolation full: a process of its own with limits, only its own files" in text_of(report)
    assert "all system calls" in text_of(make().confined(Isolation(level="limits")))
    assert "Isolation" not in text_of(make())


def test_the_page_needs_nothing_but_itself() -> None:
    page = make().to_html()
    reader = Reader(page)
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name == "href"]
    assert all(value.startswith("data:image/png;base64,") for name, value in reader.attributes if name == "src")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert not re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)


def test_names_from_the_model_are_escaped_everywhere() -> None:
    reader = Reader(make(HOSTILE).to_html())
    assert "script" not in reader.tags
    assert reader.tags.count("img") == 1  # the example's
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "{{7*7}}" in reader.words
    assert reader.tags.count("title") > 10


def test_every_picture_can_be_read_aloud() -> None:
    page = make().to_html()
    pictures = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    spoken = [picture for picture in pictures if 'role="img"' in picture]
    assert len(spoken) >= 10
    for picture in spoken:
        title, description = re.findall(r'aria-labelledby="(\S+) (\S+)"', picture)[0]
        assert f'<title id="{title}">' in picture
        assert f'<desc id="{description}">' in picture
    assert all('aria-hidden="true"' in picture for picture in pictures if picture not in spoken)


def test_identifiers_are_unique() -> None:
    identifiers = [value for name, value in Reader(make().to_html()).attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_thousands_of_layers_with_long_names_stay_below_two_megabytes() -> None:
    long = "a/very/long/scope/name/" * 40
    report = make(long, layers=5000)
    page = report.to_html()
    assert len(page.encode()) < 2_000_000
    assert "5000 are in the JSON report" in text_of(report)
    assert len(json.loads(report.to_json())["layers"]) == 5000


def test_the_head_says_what_to_do_what_to_expect_and_what_was_gained() -> None:
    words = text_of(make(validation=None))
    assert "Use it with some layers in float." in words
    assert "--exclude node" in words
    assert "The file is 3.6 times smaller. It is 2.0 times faster on this computer." in words
    assert "decide as the original on 93.0 to 99.0 % of inputs" in words
    assert "accuracy to change by −2.0 to +0.4 points" in words
    assert "On your own 500 samples top-1 went from 90.0 % to 89.0 %" in text_of(make())


@pytest.mark.parametrize(
    ("advice", "conditions", "said"),
    [
        (Advice.USE, (), "Use it."),
        (Advice.USE, ("x is prepared as 0..1",), "Use it, if its input is what it was taken for."),
        (Advice.DO_NOT_USE, (), "Don't use it."),
    ],
)
def test_the_title_is_the_verdict(advice: Advice, conditions: tuple[str, ...], said: str) -> None:
    assert headline(make(verdict=Verdict(advice=advice, sentence="", conditions=conditions))).advice == said


def test_the_title_says_where_little_is_gained() -> None:
    little = make(verdict=Verdict(advice=Advice.USE, sentence=""), size=Size.of(107, 100), latency=None)
    assert headline(little).advice == "Use it; but it gains little."


def test_nodes_are_counted_by_what_they_are() -> None:
    report = make()
    counts = {"nodes_quantized": 18, "nodes_stored": 7, "nodes_float": 1}
    words = text_of(make(quantization=report.quantization.model_copy(update=counts)))
    assert "18 nodes on integers" in words
    assert "7 nodes with weights as integers in the file alone: they compute in float, as FP32 does." in words
    assert "1 node with no integers at all" in words
    assert "in the file alone" not in text_of(report)


def test_larger_is_said_and_red() -> None:
    page = make(size=Size.of(1000, 2300)).to_html()
    assert '<span class="bad-text">The file is 2.3 times larger.</span>' in page
    assert "smaller" not in text_of(make(size=Size.of(1000, 2300))).split("What was done")[0]


def test_what_was_asked_for_is_certified_or_not() -> None:
    asked: dict[str, object] = {"max_drop": 0.01, "certified_why": "the loss may reach 2.0%"}
    assert "not certified: the loss may reach 2.0%" in text_of(make(predicted=predicted(certified=False, **asked)))
    assert "is certified" in text_of(make(predicted=predicted(certified=True, **asked)))
    assert "certified" not in text_of(make())


def test_every_hypothesis_is_shown_where_there_are_several() -> None:
    under = [
        {"input": "x", "name": name, "agreement": {"interval": {"low": low, "high": 0.99}, "middle": 0.98}}
        for name, low in (("0..1", 0.91), ("0..255", 0.52))
    ]
    words = text_of(make(predicted=predicted(hypotheses=under)))
    assert "0..255: 52.0 to 99.0 %" in words


def test_slower_is_red() -> None:
    latency = make().latency
    assert latency is not None
    slow = make(latency=latency.model_copy(update={"speedup": 0.8, "slower": True}))
    assert '<span class="bad-text">It is 1.2 times slower on this computer.</span>' in slow.to_html()
    assert "slower" not in text_of(make()).split("What was done")[0]


def test_a_model_without_classes_is_told_by_its_worst_output() -> None:
    outputs = tuple(
        OutputFidelity(name=name, shape=(1,), samples=64, sqnr_db=ratio, max_abs_error=1.0)
        for name, ratio in (("boxes", 20.0), ("scores", 40.0))
    )
    report = make(
        fidelity=Fidelity(distribution="noise", samples=64, outputs=outputs),
        predicted=predicted(**UNKNOWN),
        validation=None,
    )
    assert "by 10.0\u00a0% of its size" in headline(report).expected
    assert "boxes" in text_of(report)


def test_the_barest_report_has_a_page() -> None:
    empty = Fidelity(distribution="none", samples=0, outputs=())
    report = make(
        layers=0,
        fidelity=empty,
        predicted=predicted(**UNKNOWN),
        validation=None,
        latency=None,
        inputs=(),
        warnings=(),
        options={},
    )
    assert "not measured" in text_of(report)
    assert "unknown" in text_of(report)


def test_validation_is_shown_with_its_error() -> None:
    assert "90.0 → 89.0 %" in text_of(make())
    assert "−1.00 points" in text_of(make()).replace("-", "−")


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.984, "98.4 %"), (0.99999, "99.999 %"), (0.00001, "0.001 %"), (0.9995, "99.95 %")],
)
def test_shares_are_never_rounded_to_all_or_nothing(share: float, words: str) -> None:
    assert percent(share) == words.replace(" ", "\u00a0")


@pytest.mark.parametrize(("count", "words"), [(999, "999 B"), (1_340_000, "1.34 MB"), (2_000_000_000, "2 GB")])
def test_sizes(count: int, words: str) -> None:
    assert bytes_(count) == words


def test_numbers_have_real_minus_signs() -> None:
    assert (number(-2.5), number(None), number(1e-7)) == ("−2.5", "–", "1e-07")


def test_long_names_keep_both_ends() -> None:
    assert clip("a" * 50 + "z" * 50, 20) == "a" * 7 + "…" + "z" * 12
    assert len(clip("b" * 1000, 40)) == 40


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3, 3) == [3]
    bent = bent_ticks(Axis(-30, 700, 200, 0, bend=math.asinh))
    assert bent == sorted(bent)
    assert 0 in bent
    assert 500 in bent
    assert all(-30 <= tick <= 700 for tick in bent)
