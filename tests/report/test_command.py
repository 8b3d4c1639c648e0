"""The report's command line asks for exactly what was asked for."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import typer.core
import typer.main

from converter import cli
from converter.options import Options
from converter.report.command import command_line


def read_back(line: str) -> Options:
    """The options that zsq reads from a command line."""
    program, command, _, *words = shlex.split(line)
    assert (program, command) == ("zsq", "convert")
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    values = group.commands["convert"].make_context("convert", ["m.onnx", *words]).params
    given = {name: value for name, value in values.items() if name in Options.__dataclass_fields__ and value}
    given["inputs"] = cli.input_specs(given.get("inputs", ()))
    given["outputs"] = cli.output_kinds(given.get("outputs", ()))
    return Options.from_dict(given)


EVERYTHING = Options.from_dict(
    {
        "method": "zeroq",
        "precision": "mixed",
        "samples": 32,
        "seed": 7,
        "time_budget": 12.5,
        "threads": 3,
        "min_agreement": 0.9,
        "max_drop": 0.02,
        "expected_accuracy": 0.76,
        "prefer": "speed",
        "effort": "best",
        "validation": Path("mine.npz"),
        "calibration": Path("my own.npz"),
        "inputs": {"a b": "range=0:255;shape=1x3x8x8", "ids": "tokens=0:99"},
        "outputs": {"y=1": "embedding"},
        "exclude": ["/head/*", "Conv"],
        "include": ["it's"],
        "target": "arm64",
        "skip": ["rounding", "migration"],
        "size_budget": 0.6,
    }
)


def test_every_option_is_repeated() -> None:
    default = Options()
    assert all(getattr(EVERYTHING, each.name) != getattr(default, each.name) for each in fields(Options))
    assert read_back(command_line("m.onnx", EVERYTHING)) == EVERYTHING


def test_what_is_default_is_not_repeated() -> None:
    assert command_line("a model.onnx", Options()) == "zsq convert 'a model.onnx'"


def test_folders_of_the_owner_are_not_told() -> None:
    assert "secret" not in command_line("m.onnx", Options(validation=Path("/home/secret/mine.npz")))
