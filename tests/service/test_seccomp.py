"""The system-call numbers of the filter, against libseccomp's tables where that library is installed."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest

from service import seccomp

ARCHITECTURES = dict(zip(("x86_64", "aarch64"), (0xC000003E, 0xC00000B7), strict=True))


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_number_is_the_right_one(machine: str) -> None:
    path = ctypes.util.find_library("seccomp")
    if path is None:
        pytest.skip("libseccomp is not installed")
    library = ctypes.CDLL(path)
    column = list(ARCHITECTURES).index(machine)
    chosen = {name: numbers for name, (numbers, _, _) in seccomp.CHOSEN.items()}
    calls = {
        **seccomp.ALLOWED,
        **seccomp.FOR_CUDA,
        **seccomp.ON_ITSELF,
        **chosen,
        "clone": seccomp.CLONE,
        "clone3": seccomp.CLONE3,
    }
    for name, numbers in calls.items():
        found = library.seccomp_syscall_resolve_name_arch(ARCHITECTURES[machine], name.encode())
        assert found == numbers[column] or (found < 0 and numbers[column] is None), name


def test_the_program_is_whole_instructions_and_short() -> None:
    for machine in seccomp.AUDIT:
        code = seccomp._program(machine, 1234)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096
