"""The first code of a child: gives up everything the conversion does not need, says what it achieved, and becomes it.

Run as ``python -P -s -B -m service.sandbox SPECIFICATION MODULE-OR-FILE [ARGUMENT ...]`` by ``isolation``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service import landlock, seccomp

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS = 0x10000000, 0x40000000, 0x08000000, 0x04000000

NICE = 10  # on a machine with few cores API and worker go first: a tenth of a core is left to the child while they work

SESSION_NICE = 5  # the same where sessions are weighed, this one against all others: a quarter, as most are strangers

SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/proc/driver/nvidia",
    "/sys/bus/pci/devices",
    "/sys/devices/system",
    "/sys/devices/virtual/dmi/id",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/sys/module/nvidia",
    "/opt/cuda",
    "/usr/local/cuda",
    "/usr/local/lib",
)

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    specification: dict[str, Any] = json.loads(arguments[0])
    die_with(specification["parent"])
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the worker's own mask, inherited
    level = confine(specification)
    print(json.dumps({"event": "sandbox", **level}), flush=True)
    sys.argv = arguments[1:]
    if arguments[1].endswith(".py"):
        runpy.run_path(arguments[1], run_name="__main__")
    else:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def die_with(parent: int) -> None:
    """This process is killed when the thread that started it ends, even if that is right now."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def confine(specification: dict[str, Any]) -> dict[str, object]:
    """Limits, namespaces, capabilities, files and system calls are restricted as far as this machine can; how far."""
    os.nice(NICE)
    with contextlib.suppress(OSError):  # there niceness counts only between processes of the same session
        Path("/proc/self/autogroup").write_text(str(SESSION_NICE))
    network = "open"
    for flags in (CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, CLONE_NEWNET | CLONE_NEWIPC):
        if _libc.unshare(flags) == 0:
            network = "none"
            break
    for name, (soft, hard) in specification["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        ceiling = resource.getrlimit(number)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(number, (soft, hard))
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _drop_capabilities()
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    abi = landlock.restrict(
        [*_python(), *map(Path, SYSTEM), Path(f"/proc/{os.getpid()}"), *map(Path, specification["readable"])],
        map(Path, specification["writable"]),
        [*map(Path, ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")), *_accelerators()],
    )
    if network == "open" and abi >= 4:
        network = "no-tcp"
    filtered = seccomp.install(specification["device"])
    if network != "none" and filtered:
        network = "none"
    return {"landlock": abi, "seccomp": filtered, "network": network}


def _python() -> list[Path]:
    """Where this interpreter's own code lies, editable installations included."""
    places = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *sys.path}
    own = [Path(__file__).resolve().parent]
    specification = find_spec("converter")
    if specification is not None:
        own += map(Path, specification.submodule_search_locations or ())
    return [*(Path(place) for place in places if place), *own]


def _accelerators() -> list[Path]:
    return sorted(Path("/dev").glob("nvidia*"))


def _drop_capabilities() -> None:
    """The effective, permitted and inheritable sets are empty; without privileges they are already."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


if __name__ == "__main__":
    main(sys.argv[1:])
