"""A look before the conversion, the same model again, and the result in the layouts of others."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.auth import Keys
from tests.service.conftest import Starter
from tests.service.harness import wait_until
from tests.service.web import Api, served, told


def network() -> bytes:
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flat"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "g", [image], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def inspected(api: Api, model: bytes) -> dict[str, object]:
    sent = api.post("/v1/inspections", files={"model": ("net.onnx", model)})
    assert sent.status_code == 202, sent.text
    wait_until(lambda: api.get(sent.headers["location"]).json()["status"] in ("succeeded", "failed"), 120, "the look")
    found: dict[str, object] = api.get(sent.headers["location"]).json()
    return found


def test_what_is_in_a_model_is_told_before_it_is_converted(start: Starter, database_url: str | None) -> None:
    service = start(database_url)
    service.worker()
    with served(service.settings) as api:
        found = inspected(api, network())
        assert found["status"] == "succeeded", found
        facts = found["facts"]
        assert isinstance(facts, dict)
        assert [each["name"] for each in facts["inputs"]] == ["image"]
        assert facts["inputs"][0]["kind"]
        assert facts["integer"]["nodes"] >= 1
        assert api.get("/v1/conversions").json()["conversions"] == [], "it is no conversion"
        assert api.get(f"/v1/conversions/{found['id']}").status_code == 404
        made = api.post("/v1/conversions", json={"model_of": found["id"], "options": {"seed": 3}})
        assert made.status_code == 202, made.text
        assert made.json()["model"] == found["model"]
        assert made.json()["options"]["seed"] == 3
        refused = inspected(api, b"no model at all")
        assert refused["status"] == "failed"
        assert refused["error"]["kind"] == "InvalidModel"  # type: ignore[index]


def test_the_same_model_again_with_other_options(start: Starter) -> None:
    service = start()
    service.worker()
    with served(service.settings) as api:
        first = api.wait_final(api.submit(told(then="refuse")).json()["id"])
        again = api.post("/v1/conversions", json={"model_of": first["id"], "options": {"seed": 7}})
        assert again.status_code == 202
        assert again.json()["model"]["sha256"] == first["model"]["sha256"]
        for body, status in (
            ({"model_of": "none"}, 404),
            ({"model_of": first["id"], "options": {"seed": -1}}, 422),
            ({"model": first["id"]}, 400),
            ([], 400),
        ):
            assert api.post("/v1/conversions", json=body).status_code == status, body


def test_the_model_of_somebody_else_is_not_had_by_its_number(start: Starter) -> None:
    service = start(auth=True)
    keys = Keys(service.jobs.database)
    mine, yours = keys.create("me").secret, keys.create("you").secret
    with served(service.settings) as api:
        octets = {"Content-Type": "application/octet-stream"}
        made = api.post("/v1/conversions", content=b"mine", headers={"X-API-Key": mine} | octets).json()["id"]
        for key, status in ((mine, 202), (yours, 404)):
            again = api.post("/v1/conversions", json={"model_of": made}, headers={"X-API-Key": key})
            assert again.status_code == status


def test_results_come_in_the_layouts_of_those_who_serve_them(start: Starter) -> None:
    service = start()
    service.worker()
    with served(service.settings) as api:
        done = api.wait_final(api.submit(told(seconds=0.05)).json()["id"])
        model = api.get(done["links"]["model"]).content
        for layout, path, others in (
            ("plain", "model.int8.onnx", {"report.json", "report.html"}),
            ("triton", "net/1/model.onnx", {"net/config.pbtxt", "net/1/report.json"}),
            ("kserve", "models/net/model.onnx", {"models/net/report.json", "inferenceservice.json"}),
            ("huggingface", "onnx/model_quantized.onnx", {"ort_config.json", "report.json", "report.html"}),
        ):
            answer = api.get(f"/v1/conversions/{done['id']}/bundle", params={"layout": layout})
            assert answer.status_code == 200, answer.text
            with zipfile.ZipFile(io.BytesIO(answer.content)) as bundle:
                assert set(bundle.namelist()) == others | {path}
                assert bundle.read(path) == model
                for name in others:
                    if name.endswith(".json"):
                        json.loads(bundle.read(name))
                if layout == "triton":
                    assert b'name: "net"' in bundle.read("net/config.pbtxt")
        assert api.get(f"/v1/conversions/{done['id']}/bundle", params={"layout": "own"}).status_code == 422
