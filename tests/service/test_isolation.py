"""What a child can and cannot do: every claim is tried by a real program in a real child."""

from __future__ import annotations

import json
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from service import isolation, landlock, memory, sandbox
from service.isolation import Child, Ending, Exit, Level, Limits, achievable_level, run
from service.settings import Settings

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

BY_CALL = {  # on x86-64
    "change a mode": "os.chmod('own', 0o4777)",
    "change a mode by descriptor": "os.fchmod(readable.fileno(), 0o777)",
    "change an owner": "os.chown('own', os.getuid(), os.getgid())",
    "change an owner by descriptor": "os.fchown(readable.fileno(), os.getuid(), os.getgid())",
    "change the owner of a link": "os.lchown('own', os.getuid(), os.getgid())",
    "change times": "os.utime('own', (0, 0))",
    "change times by descriptor": "os.utime(readable.fileno(), (0, 0))",
    "set an attribute": "os.setxattr('own', 'user.x', b'1')",
    "set an attribute by descriptor": "os.setxattr(readable.fileno(), 'user.x', b'1')",
    "remove an attribute": "os.removexattr('own', 'user.x')",
    "list attributes": "call(194, b'own', 0, 0)",
    "cut a file short by its name": "os.truncate(OUTSIDE + '.old', 0)",
    "make a second name": "os.link('own', 'second')",
    "make a device": "os.mknod('device', 0o20666, os.makedev(1, 3))",
    "set flags of a file": "fcntl.ioctl(readable, 0x40086602, b'\\x80' + bytes(7))",
    "queue a signal": "call(129, os.getppid(), 10, ctypes.byref(info))",
    "queue a signal to a thread": "call(297, os.getppid(), os.getppid(), 10, ctypes.byref(info))",
    "signal a thread": "call(200, os.getppid(), 0)",
    "signal by descriptor": "call(424, call(434, os.getppid(), 0), 0, 0, 0)",
    "get a handle on the parent": "call(434, os.getppid(), 0)",
    "have the parent signalled by a file": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "have it signalled by ioctl": "fcntl.ioctl(pipe, 0x8901, struct.pack('i', os.getppid()))",
    "choose that signal": "fcntl.fcntl(pipe, fcntl.F_SETSIG, 9)",
    "take a lease": "fcntl.fcntl(readable, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "be told of changes": "fcntl.fcntl(os.open('.', 0), fcntl.F_NOTIFY, fcntl.DN_MODIFY)",
    "be told of changes by inotify": "call(294, 0)",
    "be told of changes by fanotify": "call(300, 0, 0)",
    "set the parent's scheduler": "os.sched_setscheduler(os.getppid(), os.SCHED_BATCH, os.sched_param(0))",
    "set its parameters": "os.sched_setparam(os.getppid(), os.sched_param(0))",
    "set its scheduling attributes": "call(314, os.getppid(), ctypes.byref(attributes), 0)",
    "set its processors": "os.sched_setaffinity(os.getppid(), {0})",
    "set its priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "set the user's priority": "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
    "set its share of the disk": "call(251, 1, os.getppid(), (3 << 13))",
    "move its memory": "call(256, os.getppid(), 8, 0, 0)",
    "move its pages": "call(279, os.getppid(), 0, 0, 0, 0, 0)",
    "compare with it": "call(312, os.getpid(), os.getppid(), 0, 0, 0)",
    "advise its memory": "call(440, 0, 0, 0, 0, 0)",
    "make memory without a process": "os.memfd_create('m')",
    "make secret memory": "call(447, 0)",
    "make a shared segment": "call(29, 0, 1 << 20, 0o1600)",
    "make a semaphore": "call(64, 0, 1, 0o1600)",
    "make a queue": "call(68, 0, 0o1600)",
    "open a queue": "call(240, b'q', 0o102, 0o600, 0)",
    "make a pair of sockets": "socket.socketpair()",
    "outlive its parent": "libc.prctl(1, 0, 0, 0, 0) == -1 and refuse()",
    "name a file by handle": "call(303, -100, b'own', ctypes.byref(info), ctypes.byref(info), 0)",
    "change what it is": "call(135, 0x0040000)",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "adjust the clock": "call(159, ctypes.byref(info))",
    "name the machine": "socket.sethostname('x')",
    "read the kernel's log": "call(103, 10, 0, 0)",
    "ask for ports": "call(172, 3)",
    "change segments": "call(154, 0, 0, 0)",
    "read and write behind": "call(206, 1, ctypes.byref(info))",
    "empty all caches to disk": "call(162) == 0 or refuse()",
    "make a timer of the process": "call(222, 0, 0, ctypes.byref(info))",
}

TRY_ALL = """
import ctypes, fcntl, struct, time
libc = ctypes.CDLL(None, use_errno=True)
info = (ctypes.c_uint64 * 16)(10 | 0 << 32, 0xFFFFFFFF)
attributes = (ctypes.c_uint32 * 12)(48, 3)


def refuse():
    raise OSError(1, "refused")


def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


import json, os, resource, socket, subprocess, sys
readable, pipe = open(__file__), os.pipe()[0]
open("own", "w").close()
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
    old = Path(f"{outside}.old")
    old.write_text("kept")
    tried = TRIED | (BY_CALL if platform.machine() == "x86_64" else {})
    program = TRY_ALL.format(outside=str(outside), tried=json.dumps(tried))
    ended, heard = run_program(tmp_path, program)
    assert ended.level.name == "full"
    verdicts = {line["name"]: line["verdict"] for line in heard}
    assert verdicts == dict.fromkeys(tried, "refused")
    assert not outside.exists()
    assert old.read_text() == "kept"


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
    "shared memory": ("import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor n in range(0, 1 << 30, 4096): m[n] = 1",
                      Ending.OUT_OF_MEMORY),
    "empty files": ("for n in range(10 ** 9): open(str(n), 'w').close()", Ending.OUT_OF_DISK),
    "empty folders": ("import os\nfor n in range(10 ** 9): os.mkdir(str(n))", Ending.OUT_OF_DISK),
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


def test_a_container_s_memory_is_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    membership = tmp_path / "membership"
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    monkeypatch.setattr(memory, "MEMBERSHIP", membership)
    membership.write_text("0::/pod/box\n")
    (tmp_path / "pod" / "box").mkdir(parents=True)
    (tmp_path / "pod" / "box" / "memory.max").write_text("max\n")
    (tmp_path / "pod" / "box" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    machine = memory.available()
    (tmp_path / "pod" / "memory.max").write_text(f"{700 << 20}\n")
    assert memory.available() == 700 << 20 < machine
    assert memory.kills() == 2
    assert Settings(data_dir=tmp_path).job_memory_limit == (700 << 20) - memory.RESERVE
    membership.write_text("9:cpu:/x\n4:memory:/old\n")
    (tmp_path / "memory" / "old").mkdir(parents=True)
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory.available() == machine
    (tmp_path / "memory" / "old" / "memory.limit_in_bytes").write_text(f"{2 << 30}\n")
    assert memory.available() == 2 << 30


def test_files_in_memory_count_as_memory() -> None:
    if not isolation._is_in_memory(Path("/dev/shm")):
        pytest.skip("/dev/shm is no memory file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        program = "import time\nfor n in range(60): open(str(n), 'wb').write(b'1' * (1 << 20))\ntime.sleep(60)"
        ended, _ = run_program(Path(folder), program, Limits(wall=60, memory=50 << 20, disk=1 << 30))
    assert ended.ending is Ending.OUT_OF_MEMORY


def test_levels_have_names() -> None:
    assert Level().name == "limits"
    assert Level(7, True, "none").name == "full"
    assert Level(7, False, "no-tcp").name == "partial"
    assert Level(2, True, "none").name == "partial", "there a file that may not be written can be cut short"
    assert Level(0, True, "none").facts() == {"level": "partial", "landlock": 0, "seccomp": True, "network": "none"}
