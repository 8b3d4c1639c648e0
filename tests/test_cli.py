"""What the command line promises whatever it is given: exit code, one line, no partial file."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from onnx import TensorProto, helper

from converter import cli, errors
from converter.console import BUG, REFUSED, STOPPED, one_line, run, showing_progress
from converter.files import write_whole
from converter.outputs import Outputs
from converter.progress import Progress, Stage
from tests import networks
from tests.digits import Digits


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"anything: nothing here reads it")
    return path


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing else was said."""
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("zsq: ")
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert"], "Missing argument 'MODEL.onnx'"),
        (["convert", "{model}", "--bogus"], "No such option: --bogus"),
        (["convert", "{folder}/absent.onnx"], "There is no file"),
        (["convert", "{folder}"], "is a folder"),
        (["convert", "/dev/null"], "not a regular file"),
        (["convert", "{model}", "--method", "magic"], "'magic' is not one of 'auto'"),
        (["convert", "{model}", "--samples", "1"], "samples must be from 8 to 4096"),
        (["convert", "{model}", "--min-agreement", "99"], "min_agreement must be from 0 to 1"),
        (["convert", "{model}", "--time-budget", "0"], "time_budget must be from 1"),
        (["convert", "{model}", "--input", "image"], "is not NAME=SPEC"),
        (["convert", "{model}", "--input", "image=range=5:1"], "LOW below HIGH"),
        (["convert", "{model}", "--skip", "lunch"], "'lunch' is not one of"),
        (["convert", "{model}", "--validation", "{folder}/absent.npz"], "no validation data"),
        (["convert", "{model}", "--calibration", "{folder}/absent.npz"], "no calibration data"),
        (["convert", "{model}", "--output", "out.onnx"], "the file to write is named with -o"),
        (["convert", "{model}", "--output", "scores=numbers"], "'numbers'; it is one of classes"),
        (["convert", "{model}", "--max-drop", "2"], "max_drop must be from 0 to 1"),
        (["convert", "{model}", "--prefer", "size"], "'size' is not one of"),
        (["convert", "{model}", "--options", "{model}"], "cannot be read as JSON"),
        (["convert", "{model}", "-o", "{model}"], "would overwrite the model that is read"),
        (["convert", "{model}", "-o", "{folder}/a", "--report", "{folder}/a"], "would overwrite the output"),
        (["convert", "{model}", "-o", "{folder}"], "is a folder"),
        (["convert", "{model}", "-o", "{folder}/no/such/out.onnx"], "There is no folder"),
        (["convert", "{model}", "-o", "/proc/out.onnx"], "cannot be written"),
        (["inspect", "{folder}/absent.onnx"], "There is no file"),
        (["frobnicate"], "No such command"),
    ],
)
def test_misuse_is_refused_before_anything_heavy_is_loaded(
    arguments: list[str], said: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(model=model, folder=model.parent) for each in arguments]
    before = set(sys.modules)
    assert cli.main(given) == REFUSED
    assert said in only_line(capsys)
    assert not {"torch", "onnxruntime"} & (set(sys.modules) - before)
    assert [path.name for path in model.parent.iterdir()] == ["m.onnx"]


def test_an_error_is_a_json_line_too(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(model), "--seed", "-1", "--json"]) == REFUSED
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "event": "error",
        "kind": "InvalidOption",
        "field": "seed",
        "message": "The option seed must be from 0 to 4294967295.",
    }
    assert len(said.err.splitlines()) == 1


def failing(problem: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise problem

    return app


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (errors.InvalidModel("no"), 2),
        (errors.TooLarge("no"), 2),
        (errors.OutOfTime("no"), 4),
        (errors.Cancelled("no"), 4),
        (errors.VerificationFailed("no"), 1),
        (MemoryError(), 4),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 4),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyError("x"), 1),
        (RuntimeError("anything else"), 1),
    ],
)
def test_every_exception_has_its_exit_code(
    problem: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(failing(problem), []) == code
    line = only_line(capsys)
    assert ("ZSQ_DEBUG=1" in line) == (code == BUG)


def test_the_traceback_of_a_bug_is_there_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZSQ_DEBUG", "1")
    assert run(failing(KeyError("x")), []) == BUG
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    before = signal.getsignal(signal.SIGINT)  # ignored under nohup and in a shell's background

    @app.command()
    def wait() -> None:
        signal.raise_signal(signal.SIGINT)

    assert run(app, []) == STOPPED
    assert "Interrupted" in only_line(capsys)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_line_names_every_place_once_and_cannot_move_the_cursor() -> None:
    facts = {
        "message": "Node conv1 has\na \x1b[2J kernel.",
        "node": "conv1",
        "operator": "Conv",
        "remedy": "Re-export it.",
    }
    assert one_line(facts) == "Node conv1 has a ?[2J kernel. (operator 'Conv') Re-export it."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("a.int8.onnx", "a.int8.report.json", "a.int8.report.html")),
        ({"model": Path("x/b.onnx")}, ("x/b.onnx", "x/b.report.json", "x/b.report.html")),
        ({"model": Path("b"), "html": Path("c.html")}, ("b", "b.report.json", "c.html")),
    ],
)
def test_names_follow_the_model(given: dict[str, Path], expected: tuple[str, str, str]) -> None:
    outputs = Outputs.beside(Path("a.onnx"), **given)
    assert (str(outputs.model), str(outputs.report), str(outputs.html)) == expected


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "absent" / "bad"
    good.write_bytes(b"old")
    with pytest.raises(errors.OutputNotWritable, match="cannot be written"):
        write_whole({good: b"new", bad: b"new"})
    assert good.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    write_whole({good: b"new"})
    assert good.read_bytes() == b"new"
    assert stat.S_IMODE(good.stat().st_mode) == 0o666 & ~umask()
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_options_on_the_command_line_go_before_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "o.json"
    file.write_text(json.dumps({"seed": 3, "samples": 16, "inputs": {"x": "range=0:255"}}))
    options = cli.read_options(file, {"seed": 4, "samples": None})
    assert (options.seed, options.samples) == (4, 16)
    assert options.inputs["x"].value_range == (0.0, 255.0)


def test_input_specifications_may_be_split_over_flags() -> None:
    assert cli.input_specs(["a:0=range=0:1", "b=shape=1x2", "a:0=tokens=0:9"]) == {
        "a:0": "range=0:1;tokens=0:9",
        "b": "shape=1x2",
    }


def test_progress_is_a_line_a_stage_in_a_log_and_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    moments = [Progress(stage, 0.5, 0.1 * n, "well", 1.0, 9.0) for n, stage in enumerate([*Stage, Stage.REPORT])]
    with showing_progress(as_json=False) as show:
        for moment in moments:
            show(moment)
    assert len(capsys.readouterr().err.splitlines()) == len(Stage)
    with showing_progress(as_json=True) as show:
        print("noise of a library")
        show(moments[0])
    said = capsys.readouterr()
    assert json.loads(said.out)["stage"] == "admission"
    assert said.err == "noise of a library\n"


# ---------------------------------------------------------------------------------------------- with a real conversion


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution, a Relu and a linear head on 8x8 pictures."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    draw = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "b": (8,), "h": (5, 8)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
            helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "h"], ["y"], name="head", transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(draw.normal(size=s).astype(np.float32), n) for n, s in weights.items()],
    )
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def zsq(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "converter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


def test_a_conversion_writes_three_files_and_the_same_bytes_again(small: Path, tmp_path: Path) -> None:
    first = zsq("convert", small, "-o", tmp_path / "a.onnx", "--json")
    assert (first.returncode, first.stderr) == (0, "")
    events = [json.loads(line) for line in first.stdout.splitlines()]
    assert events[-1] == {
        "event": "result",
        "model": str(tmp_path / "a.onnx"),
        "report": str(tmp_path / "a.report.json"),
        "html": str(tmp_path / "a.report.html"),
    }
    stages = [event["stage"] for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(stages)) == [str(stage) for stage in Stage]
    progress = [event["progress"] for event in events if event["event"] == "progress"]
    assert progress == sorted(progress)
    second = zsq("convert", small, "-o", tmp_path / "b.onnx")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert "model   " in second.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in "ab" for suffix in (".onnx", ".report.json", ".report.html")
    }


def test_too_little_expected_agreement_is_its_own_exit_code(digits: Digits, tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    path.write_bytes(digits.model.SerializeToString())
    done = zsq("convert", path, "-o", tmp_path / "a.onnx", "--samples", 8, "--min-agreement", 1, "--max-drop", 0.01)
    predicted = json.loads((tmp_path / "a.report.json").read_text())["predicted"]
    assert predicted["agreement"]["interval"]["low"] < 1
    assert predicted["certified"] is False
    assert done.returncode == 3
    assert "may agree with FP32 on" in done.stderr


def test_agreement_that_nothing_is_known_of_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "squashed.onnx"
    path.write_bytes(networks.upsampled().SerializeToString())
    done = zsq("convert", path, "--samples", 8, "--min-agreement", 0.5)
    assert (done.returncode, "could not be compared" in done.stderr) == (0, True)


def test_interrupting_a_conversion_leaves_nothing(small: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(small), "-o", str(tmp_path / "a.onnx"), "--json"]
    command = [sys.executable, "-m", "converter", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # work has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert said == "zsq: Interrupted before the end; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []
