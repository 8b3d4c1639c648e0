"""What every test runs under: one thread, no telemetry, and no silent skip where the thing needed is there."""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.bench.evaluator import zoo_folder

if TYPE_CHECKING:
    from tests.digits import Digits
    from tests.mlflow_server import MlflowServer

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _browser() -> bool:
    found = any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return found and importlib.util.find_spec("playwright") is not None


def _postgres() -> bool:
    return bool(shutil.which("initdb") or glob.glob("/usr/lib/postgresql/*/bin/initdb"))


THERE: dict[str, Callable[[], bool]] = {
    "zoo": lambda: zoo_folder() is not None,
    "browser": _browser,
    "postgres": _postgres,
}


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The digits classifier and the pictures that it has not seen."""
    from tests.digits import trained  # brings torch and scikit-learn, which few tests need

    return trained()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An MLflow server for all tests: its start takes longer than any of them."""
    from tests.mlflow_server import MlflowServer

    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the zoo are skipped, with the reason, where there is none."""
    if zoo_folder() is None:
        absent = pytest.mark.skip(reason="there is no zoo (ZSQ_ZOO or ../shared/zoo)")
        for item in items:
            if item.get_closest_marker("zoo"):
                item.add_marker(absent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test may not be skipped for want of something that is there."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        for name, there in THERE.items():
            if item.get_closest_marker(name) and there():
                report.outcome = "failed"
                report.longrepr = f"skipped, although there is what {name} tests need: {report.longrepr}"
    return report
