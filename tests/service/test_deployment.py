"""What operators are given: manifests Kubernetes would take, a dashboard of metrics there are, all settings told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from service.metrics import COUNTED, HISTOGRAMS
from service.settings import Settings
from tests.service.conftest import Starter
from tests.service.harness import ROOT
from tests.service.web import served

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
DOCKER = ROOT / "docker"
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*/*.yaml"))
OURS = {"Kustomization", "ScaledObject"}  # kinds that Kubernetes itself does not know


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=[f"{path.parent.name}/{path.name}" for path in MANIFESTS])
def test_kubernetes_would_take_the_manifests(path: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in documents(path):
        assert document["apiVersion"]
        if document["kind"] not in OURS:
            validator.validate(document, "1.31", strict=True)


def test_every_manifest_is_named_and_every_named_one_is_there() -> None:
    for path in MANIFESTS:
        if path.name == "kustomization.yaml":
            [bases] = documents(path)
            named = {each for each in bases["resources"] if each.endswith(".yaml")}
            assert named == {each.name for each in path.parent.glob("*.yaml")} - {path.name}


@pytest.mark.parametrize("name", ["api", "worker"])
def test_pods_are_confined_and_end_in_time(name: str) -> None:
    [workload] = [
        each for each in documents(DOCKER / "kubernetes" / "base" / f"{name}.yaml") if "template" in each["spec"]
    ]
    pod = workload["spec"]["template"]["spec"]
    settings = Settings()
    assert pod["terminationGracePeriodSeconds"] >= max(settings.worker_grace + 4, settings.drain_wait + 5)
    assert pod["enableServiceLinks"] is False
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"startupProbe", "livenessProbe"} <= set(container)
    assert container["resources"]["limits"]["memory"]


def test_the_dashboard_asks_for_metrics_that_there_are(start: Starter) -> None:
    with served(start().settings) as api:
        told = {line.split()[2] for line in api.get("/metrics").text.splitlines() if line.startswith("# TYPE")}
    told |= {f"zsq_{name}_total" for name in COUNTED} | {f"zsq_{name}_bucket" for name in HISTOGRAMS}
    told |= {"zsq_http_request_seconds_bucket", "zsq_http_request_seconds_count"}
    dashboard = json.loads((DOCKER / "monitoring" / "zsq.json").read_text())
    asked = re.findall(r"zsq_\w+", json.dumps([each["targets"] for each in dashboard["panels"]]))
    assert set(asked) <= told


def test_every_setting_is_in_the_handbook() -> None:
    handbook = (DOCKER / "README.md").read_text()
    told = set(re.findall(r"`(ZSQ_[A-Z_]+)`", handbook))
    assert {f"ZSQ_{name.upper()}" for name in Settings.model_fields} == told
