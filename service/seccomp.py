"""A system-call filter in classic BPF: what a conversion really uses is allowed, everything else is refused.

The list was read off traced conversions (``strace -f -c``) and widened to the calls of the same kind that another C
library, kernel or thread runtime would make in their place. What changes owners, modes, times or attributes of files,
reaches other processes, makes memory that belongs to none, or opens sockets is not on it.
"""

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
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = (
    0,
    4,
    16,
    24,
)  # in struct seccomp_data; low halves, little endian
SET_MODE_FILTER = 1
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # the second ABI of x86-64, with numbers of its own

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SECCOMP = {"x86_64": 317, "aarch64": 277}

# name: numbers on x86-64 and on arm64, None where there is no such call
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "msync": (26, 227),
    "madvise": (28, 233),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "sched_yield": (24, 124),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "uname": (63, 160),
    "flock": (73, 32),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "copy_file_range": (326, 285),
    "sendfile": (40, 71),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "umask": (95, 166),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "arch_prctl": (158, None),
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "futex_wake": (454, 454),
    "futex_wait": (455, 455),
    "futex_requeue": (456, 456),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "restart_syscall": (219, 128),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "sched_rr_get_interval": (148, 127),
    "getpriority": (140, 141),
    "get_mempolicy": (239, 236),
    "mbind": (237, 235),
    "membarrier": (324, 283),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "eventfd": (284, None),
    "eventfd2": (290, 19),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    "close_range": (436, 436),
}
FOR_CUDA: dict[str, tuple[int | None, int | None]] = {  # its driver maps memory by files of its own and asks for more
    "ioctl": (16, 29),
    "memfd_create": (319, 279),
    "mincore": (27, 232),
    "mlock": (149, 228),
    "munlock": (150, 229),
    "set_mempolicy": (238, 237),
}
ON_ITSELF = {  # allowed with its own pid only, and with 0 where that means the caller and not its group
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
}
NOT_ZERO = frozenset({"kill"})
CHOSEN: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {  # numbers, which argument decides, what it may be
    # names and huge pages are set, some facts asked for; nobody takes off the signal that comes with the parent's death
    "prctl": ((157, 167), FIRST_ARGUMENT, (3, 15, 16, 21, 23, 39, 41, 42, 0x53564D41)),
    # duplicates, flags and locks of a file; not owners and signals, leases or notices, which reach others
    "fcntl": ((72, 25), SECOND_ARGUMENT, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)),
    # terminals, bytes waiting, close on exec, and the clone of a file; not attributes of files, nor who gets a signal
    "ioctl": ((16, 29), SECOND_ARGUMENT, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x40049409)),
}
CLONE, CLONE3 = (56, 220), (435, 435)
NEWER = 424
"""Calls from this number on are alike on all architectures and answered as by a kernel that does not know them yet, so
that libraries fall back to what they used before."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _program(machine: str, pid: int, device: str = "cpu") -> bytes:
    """Each call is two or more steps of its own, so that no jump is longer than its block."""
    column = list(AUDIT).index(machine)
    refuse, unknown = _step(RETURN, ERRNO | errno.EPERM), _step(RETURN, ERRNO | errno.ENOSYS)
    code = _step(LOAD, ARCHITECTURE) + _step(JUMP_EQUAL, AUDIT[machine], 1, 0) + refuse + _step(LOAD, NUMBER)
    if machine == "x86_64":
        code += _step(JUMP_GREATER_EQUAL, X32, 0, 1) + refuse
    for numbers in (ALLOWED | (FOR_CUDA if device == "cuda" else {})).values():
        number = numbers[column]
        if number is not None:
            code += _step(JUMP_EQUAL, number, 0, 1) + _step(RETURN, ALLOW)
    for name, own in ON_ITSELF.items():
        values: tuple[int, ...] = (pid,) if name in NOT_ZERO else (pid, 0)
        code += _if_argument(own[column], FIRST_ARGUMENT, values)
    for chosen, argument, values in CHOSEN.values():
        code += _if_argument(chosen[column], argument, values)
    # threads, not processes; the C library falls back from clone3, whose flags no filter can see, to clone
    code += _step(JUMP_EQUAL, CLONE[column], 0, 4) + _step(LOAD, FIRST_ARGUMENT)
    code += _step(JUMP_ANY_BIT, CLONE_THREAD, 0, 1) + _step(RETURN, ALLOW) + refuse
    code += _step(JUMP_EQUAL, CLONE3[column], 0, 1) + unknown
    return code + _step(JUMP_GREATER_EQUAL, NEWER, 0, 1) + unknown + refuse


def _if_argument(number: int, argument: int, values: tuple[int, ...]) -> bytes:
    """The call is allowed if the low half of its argument is one of the values."""
    tests = b"".join(_step(JUMP_EQUAL, value, 0, 1) + _step(RETURN, ALLOW) for value in values)
    body = _step(LOAD, argument) + tests + _step(RETURN, ERRNO | errno.EPERM)
    return _step(JUMP_EQUAL, number, 0, len(body) // 8) + body


def install(device: str = "cpu") -> bool:
    """The filter holds for this process until it ends; False where the machine or kernel has none.

    ``no_new_privs`` must be set before.
    """
    machine = platform.machine()
    if machine not in AUDIT:
        return False
    code = _program(machine, os.getpid(), device)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(SECCOMP[machine], SET_MODE_FILTER, 0, ctypes.byref(program)) == 0)
