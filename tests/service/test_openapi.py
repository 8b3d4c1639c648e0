"""The OpenAPI document: complete enough to generate clients from, and true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from converter.options import Effort, Method, Options, OutputKind, Precision, Prefer, Step, Target
from converter.report import Report
from service.app import create_app
from service.options import CHOICES, NOT_TAKEN, ConversionOptions, canonical
from service.settings import Settings


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("openapi"))).openapi()


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for item in document["paths"].values() for operation in item.values()]


def test_every_operation_has_a_name_a_tag_and_words(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document)]
    assert len(set(names)) == len(names) == 20
    for operation in operations(document):
        assert re.fullmatch(r"[a-z][A-Za-z]+", operation["operationId"])
        assert operation["summary"]
        assert operation["description"]
        [tag] = operation["tags"]
        assert tag in {each["name"] for each in document["tags"]}
        assert all("description" in parameter for parameter in operation.get("parameters", []))


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"] != "getReadiness":
                content = answer["content"]
                assert list(content) == ["application/problem+json"], (operation["operationId"], status)
                assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert names <= set(document["components"]["schemas"])
    assert {"ConversionOptions", "ConversionEvent", "Problem"} <= set(document["components"]["schemas"])


def test_the_report_has_its_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    answer = document["paths"]["/v1/conversions/{conversion}/report"]["get"]["responses"]["200"]["content"]
    assert answer["application/json"]["schema"] == {"$ref": "#/components/schemas/Report"}
    published = json.loads(json.dumps(Report.json_schema()).replace("#/$defs/", "#/components/schemas/"))
    assert schemas["Report"]["properties"] == published["properties"]
    for name, schema in published["$defs"].items():
        assert schemas[name] == schema, f"{name} means two things"


def test_generators_understand_it(document: dict[str, Any]) -> None:
    assert "itemSchema" not in str(document)  # of OpenAPI 3.2, while this says 3.1
    watched = document["paths"]["/v1/conversions/{conversion}/events"]["get"]["responses"]["200"]["content"]
    event = watched["text/event-stream"]["schema"]["properties"]
    assert event["data"]["contentSchema"] == {"$ref": "#/components/schemas/ConversionEvent"}
    options = document["components"]["schemas"]["Conversion"]["properties"]["options"]
    assert options == {"$ref": "#/components/schemas/ConversionOptions"}  # an inline one would be given the same name


def test_keys_are_asked_for_only_where_they_are_needed(document: dict[str, Any], tmp_path: Path) -> None:
    assert not any("security" in operation for operation in operations(document))
    secured = create_app(Settings(data_dir=tmp_path, auth=True)).openapi()
    open_to_all = {each["operationId"] for each in operations(secured) if "security" not in each}
    assert open_to_all == {"getHealth", "getReadiness"}


def test_the_options_are_those_of_the_converter() -> None:
    assert set(ConversionOptions.model_fields) | set(NOT_TAKEN) == set(Options.__dataclass_fields__)
    for name, field in ConversionOptions.model_fields.items():
        assert field.description, name
        default = field.get_default(call_default_factory=True)
        own = getattr(Options(), name)
        assert default == (list(own) if isinstance(default, list) else own), name


def test_every_choice_is_explained() -> None:
    for kind in (Method, Precision, Target, Step, Prefer, Effort, OutputKind):
        for value in kind:
            assert CHOICES[value].endswith("."), value
    assert len(CHOICES) == sum(map(len, (Method, Precision, Target, Step, Prefer, Effort, OutputKind)))


def test_equal_wishes_have_one_name() -> None:
    assert canonical({}) == canonical({"method": "auto", "seed": 0, "skip": []})
    assert canonical({"skip": ["rounding", "migration"]}) == canonical({"skip": ["migration", "rounding"]})
    given = canonical({"inputs": {"x": "range=0:255"}})
    assert Options.from_dict(given).inputs["x"].value_range == (0.0, 255.0)
