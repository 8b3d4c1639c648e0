"""A system-call filter in classic BPF: no sockets, no new processes, nothing that reaches into the kernel or others."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

__all__ = ["install"]

# linux/filter.h, linux/seccomp.h, linux/audit.h
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; low half of arguments, little endian
SET_MODE_FILTER = 1
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # the second ABI of x86-64, with numbers of its own

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SECCOMP = {"x86_64": 317, "aarch64": 277}

# name: numbers on x86-64 and on arm64, None where there is no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "setsid": (112, 157),
    "setpgid": (109, 154),
}
ON_ITSELF = {"kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261)}  # allowed with its own pid only
CLONE, CLONE3 = (56, 220), (435, 435)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _program(machine: str, pid: int) -> bytes:
    """Each refused call is three or more steps of its own, so that no jump is longer than its block."""
    column = list(AUDIT).index(machine)
    refuse = _step(RETURN, ERRNO | errno.EPERM)
    code = _step(LOAD, ARCHITECTURE) + _step(JUMP_EQUAL, AUDIT[machine], 1, 0) + refuse + _step(LOAD, NUMBER)
    if machine == "x86_64":
        code += _step(JUMP_GREATER_EQUAL, X32, 0, 1) + refuse
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            code += _step(JUMP_EQUAL, number, 0, 1) + refuse
    for name, own in ON_ITSELF.items():
        zero_too = name == "prlimit64"  # 0 means the caller there, and the whole process group in kill
        code += _step(JUMP_EQUAL, own[column], 0, 5 if zero_too else 4) + _step(LOAD, FIRST_ARGUMENT)
        if zero_too:
            code += _step(JUMP_EQUAL, 0, 1, 0)
        code += _step(JUMP_EQUAL, pid, 0, 1) + _step(RETURN, ALLOW) + refuse
    # threads, not processes; the C library falls back from clone3, whose flags no filter can see, to clone
    code += _step(JUMP_EQUAL, CLONE[column], 0, 4) + _step(LOAD, FIRST_ARGUMENT)
    code += _step(JUMP_ANY_BIT, CLONE_THREAD, 0, 1) + _step(RETURN, ALLOW) + refuse
    code += _step(JUMP_EQUAL, CLONE3[column], 0, 1) + _step(RETURN, ERRNO | errno.ENOSYS)
    return code + _step(RETURN, ALLOW)


def install() -> bool:
    """The filter holds for this process until it ends; False where the machine or kernel has none.

    ``no_new_privs`` must be set before.
    """
    machine = platform.machine()
    if machine not in AUDIT:
        return False
    code = _program(machine, os.getpid())
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(SECCOMP[machine], SET_MODE_FILTER, 0, ctypes.byref(program)) == 0)
