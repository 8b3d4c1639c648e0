"""The public names are those of ``__all__``, sorted, and nothing heavy comes with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import converter
import service.client


@pytest.mark.parametrize("module", [converter, service.client])
def test_every_public_name_is_there_and_in_order(module: object) -> None:
    names = list(module.__all__)  # type: ignore[attr-defined]
    assert names == sorted(names, key=str)
    assert all(getattr(module, name) is not None for name in names)


def test_what_is_not_promised_is_not_there() -> None:
    assert not hasattr(converter, "anything_else")


@pytest.mark.parametrize(
    "module", ["converter", "converter.cli", "service.cli", "service.client", "service.submission"]
)
def test_importing_brings_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*({{'torch', 'onnx', 'onnxruntime', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
