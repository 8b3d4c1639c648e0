"""Without the service's packages zsq converts, and what needs them says what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import onnx
import pytest

from service.entry import PACKAGES, SERVICE
from tests.networks import residual

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
WITHOUT = (  # None in the place of a module is how Python says that it cannot be imported
    f"import sys; sys.modules.update(dict.fromkeys({PACKAGES}))\n"
    "from service.entry import main; sys.argv[0] = 'zsq'; raise SystemExit(main())"
)


def without_service(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False)


def test_a_plain_installation_converts_and_reports(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "m.onnx")
    done = without_service("convert", str(tmp_path / "m.onnx"), "--samples", "8")
    assert done.returncode == 0, done.stderr
    assert {each.name for each in tmp_path.iterdir()} == {
        *("m.onnx", "m.int8.onnx", "m.int8.report.json", "m.int8.report.html")
    }


@pytest.mark.parametrize("command", SERVICE)
def test_the_services_commands_say_what_to_install(command: str) -> None:
    done = without_service(command, "--port", "0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"zsq: {command} needs packages that are not here (")
    assert "pip install 'zsq[service]'" in line


def test_help_shows_all_commands_in_a_plain_installation() -> None:
    said = without_service("--help").stdout
    assert all(name in said for name in ("convert", "inspect", "demo", *SERVICE))
    assert without_service("--version").stdout.startswith("zsq ")


def test_the_service_is_an_extra() -> None:
    def names(requirements: list[str]) -> set[str]:
        return {each.split(">")[0].split("[")[0].replace("-", "_") for each in requirements}

    extras = PROJECT["optional-dependencies"]
    assert not names(PROJECT["dependencies"]) & names(extras["service"])
    assert names(extras["service"]) <= set(PACKAGES) | {"python_multipart"}
    assert any(each.startswith("zsq[service") for each in extras["test"])
