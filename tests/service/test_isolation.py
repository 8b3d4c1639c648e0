"""What a child can and cannot do: every claim is tried by a real program in a real child."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from service import landlock, sandbox
from service.isolation import Child, Ending, Exit, Level, Limits, achievable_level, run

LIMITS = Limits(wall=20, memory=400 << 20, disk=64 << 20)


def child(tmp_path: Path, program: str, limits: Limits = LIMITS) -> Child:
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    (code / "program.py").write_text(program)
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return Child([str(code / "program.py"), "argument"], work, limits)


def run_program(tmp_path: Path, program: str, limits: Limits = LIMITS) -> tuple[Exit, list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []
    return run(child(tmp_path, program, limits), heard.append, lambda: True), heard


TRIED = {
    "read a file of the system": "open('/etc/passwd').read()",
    "list the root": "os.listdir('/')",
    "read the project's neighbours": "os.listdir('/tmp')",
    "read the parent's environment": "open(f'/proc/{os.getppid()}/environ').read()",
    "write outside": "open(OUTSIDE, 'w')",
    "connect": "socket.create_connection(('127.0.0.1', 9))",
    "send a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "open a unix socket": "socket.socket(socket.AF_UNIX)",
    "start a program": "subprocess.run(['/bin/true'])",
    "fork": "os.fork()",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "kill its group by zero": "os.kill(0, 0)",
    "change the parent's limits": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (9, 9))",
    "leave its process group": "os.setsid()",
    "make a link": "os.symlink('/etc/passwd', 'link')",
    "make a pipe": "os.mkfifo('pipe')",
    "raise its own limit": "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
}

TRY_ALL = """
import json, os, resource, socket, subprocess, sys
OUTSIDE = {outside!r}
for name, code in json.loads({tried!r}).items():
    try:
        eval(code)
        verdict = "done"
    except (OSError, ValueError) as problem:
        verdict = "refused"
    print(json.dumps({{"name": name, "verdict": verdict}}), flush=True)
"""


@pytest.mark.skipif(landlock.abi() < 6, reason="this kernel has no Landlock of version 6")
def test_nothing_beyond_its_folder_is_possible(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    program = TRY_ALL.format(outside=str(outside), tried=json.dumps(TRIED))
    ended, heard = run_program(tmp_path, program)
    assert ended.level.name == "full"
    verdicts = {line["name"]: line["verdict"] for line in heard}
    assert verdicts == dict.fromkeys(TRIED, "refused")
    assert not outside.exists()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel weighs no sessions")
def test_a_child_goes_after_the_service_also_as_a_session(tmp_path: Path) -> None:
    # asked twice: the kernel lets only one session in a tenth of a second be changed, whosever it is
    program = "import json; print(json.dumps({'weight': open('/proc/self/autogroup').read()}))"
    weights = [run_program(tmp_path, program)[1][0]["weight"].split()[-1] for _ in range(2)]
    assert str(sandbox.SESSION_NICE) in weights


def test_what_a_conversion_needs_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_WEBHOOK_SECRET", "s")
    ended, heard = run_program(
        tmp_path,
        """
import json, os, sys, threading
import numpy, onnxruntime, torch
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString())
(out,) = session.run(None, {"x": -numpy.ones((2, 3), numpy.float32)})
weight = torch.randn(8, 8, requires_grad=True)
(torch.nn.functional.relu(weight @ weight)).sum().backward()
thread = threading.Thread(target=lambda: open("made", "w").write("x"))
thread.start(); thread.join()
print(json.dumps({"sum": float(out.sum()), "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}))
""",
        Limits(wall=60, memory=2 << 30, disk=64 << 20),
    )
    assert ended.ending is Ending.EXITED, ended.errors
    assert ended.code == 0, ended.errors
    (line,) = heard
    assert line["sum"] == 0.0
    assert line["argv"] == ["argument"]
    assert Path(line["cwd"]) == tmp_path / "work"
    assert line["env"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert "ZSQ_WEBHOOK_SECRET" not in line["env"]
    assert (tmp_path / "work" / "made").read_text() == "x"


ENDINGS = {
    "memory": ("x = [bytearray(b'1' * (8 << 20)) for _ in range(1000)]", Ending.OUT_OF_MEMORY),
    "time": ("while True: pass", Ending.OUT_OF_TIME),
    "sleep": ("import time; time.sleep(99)", Ending.OUT_OF_TIME),
    "files": ("for n in range(999): open(str(n), 'wb').write(b'x' * (1 << 20))\nwhile True: pass", Ending.OUT_OF_DISK),
    "one file": ("import signal; signal.signal(25, signal.SIG_DFL); open('f', 'wb').write(b'x' * (65 << 20))",
                 Ending.OUT_OF_DISK),
    "crash": ("import ctypes; ctypes.string_at(0)", Ending.CRASHED),
    "line": ("print('x' * (1 << 20), flush=True)\nwhile True: pass", Ending.TALKED_TOO_MUCH),
    "lines": ("while True: print('{}' * 20000, flush=True)", Ending.TALKED_TOO_MUCH),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_every_excess_has_its_own_ending(tmp_path: Path, name: str) -> None:
    program, ending = ENDINGS[name]
    wall = 2.5 if ending is Ending.OUT_OF_TIME else 60
    ended, _ = run_program(tmp_path, program, Limits(wall=wall, memory=200 << 20, disk=64 << 20))
    assert ended.ending is ending, ended


def test_a_child_may_not_claim_a_better_level(tmp_path: Path) -> None:
    forged = {"event": "sandbox", "landlock": 99, "seccomp": True, "network": "none"}
    ended, heard = run_program(tmp_path, f"print({json.dumps(forged)!r})")
    assert ended.level == achievable_level(tmp_path)
    assert heard == [forged], "a line like any other"


def test_lines_that_are_not_objects_are_dropped(tmp_path: Path) -> None:
    _, heard = run_program(tmp_path, "print('[' * 5000); print(1); print('noise'); print('{\"a\": NaN}'); print('{}')")
    assert heard[-1] == {}
    assert len(heard) <= 2


def test_an_unwanted_child_is_ended(tmp_path: Path) -> None:
    wanted = threading.Event()
    heard: list[dict[str, Any]] = []

    def hear(line: dict[str, Any]) -> None:
        heard.append(line)
        wanted.set()

    program = "import json, time\nprint('{}', flush=True)\ntime.sleep(99)"
    started = time.monotonic()
    ended = run(child(tmp_path, program), hear, lambda: not wanted.is_set())
    assert ended.ending is Ending.STOPPED
    assert time.monotonic() - started < 10


def test_what_the_listener_raises_ends_the_child(tmp_path: Path) -> None:
    def hear(_: dict[str, Any]) -> None:
        raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="ours"):
        run(child(tmp_path, "import time\nprint('{}', flush=True)\ntime.sleep(99)"), hear, lambda: True)
    assert not [each for each in psutil.Process().children() if "service.sandbox" in " ".join(each.cmdline())]


def test_levels_have_names() -> None:
    assert Level().name == "limits"
    assert Level(7, True, "none").name == "full"
    assert Level(7, False, "no-tcp").name == "partial"
    assert Level(0, True, "none").facts() == {"level": "partial", "landlock": 0, "seccomp": True, "network": "none"}
