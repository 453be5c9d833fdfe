"""What a worker process gives up before it runs a line of a task: rights, memory, files, processes.

Everything here is called by the worker on itself and cannot be undone by it. It is a second line: the first
is that a worker holds nothing worth stealing (no keys, no sockets, no environment).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

# Classic BPF, <linux/filter.h>.
_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]; little-endian on both machines.
_NUMBER_OFFSET = 0
_ARCHITECTURE_OFFSET = 4
_FIRST_ARGUMENT_OFFSET = 16

_CLONE_THREAD = 0x00010000


@dataclass(frozen=True, slots=True)
class _Machine:
    """System call numbers of one architecture."""

    audit_architecture: int
    clone: int
    clone3: int
    kill: int
    tgkill: int
    prlimit: int
    prctl: int
    forbidden: tuple[int, ...]
    """fork, vfork, and what reaches into or signals other processes."""


_MACHINES = {
    "x86_64": _Machine(
        audit_architecture=0xC000003E,
        clone=56,
        clone3=435,
        kill=62,
        tgkill=234,
        prlimit=302,
        prctl=157,
        # fork, vfork, ptrace, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, process_vm_readv, process_vm_writev,
        # pidfd_send_signal, pidfd_getfd
        forbidden=(57, 58, 101, 200, 129, 297, 310, 311, 424, 438),
    ),
    "aarch64": _Machine(
        audit_architecture=0xC00000B7,
        clone=220,
        clone3=435,
        kill=129,
        tgkill=131,
        prlimit=261,
        prctl=167,
        # ptrace, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, process_vm_readv, process_vm_writev,
        # pidfd_send_signal, pidfd_getfd
        forbidden=(117, 130, 138, 240, 270, 271, 424, 438),
    ),
}


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends; exit now if it already did.

    The kernel means the parent's *thread* that started this process: the node starts workers from its main
    thread.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def limit_resources(*, memory: int, cpu_seconds: int, file_bytes: int, open_files: int) -> None:
    """Set hard limits: address space and one file's size in bytes, CPU in seconds of a whole life."""
    os.umask(0o077)
    for what, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (
            resource.RLIMIT_CPU,
            cpu_seconds,
            cpu_seconds + 1,
        ),  # SIGXCPU first, so that the node sees the reason
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, open_files, open_files),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, most = resource.getrlimit(what)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(what, (soft, hard))


def forbid_processes() -> bool:
    """Let this process make threads but no processes, and signal nobody else; True if the kernel agreed.

    RLIMIT_NPROC alone cannot do this: it counts every thread of the user, and does not bind root at all. It
    is what is left where there is no seccomp (other machines, other kernels): no threads either then, and
    False is returned.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is not None:
        try:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            _install(_filter(machine, os.getpid()))
            return True
        except OSError:
            pass  # a kernel without seccomp: the weaker limit below, and False tells the caller
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    return False


def _filter(machine: _Machine, own_process: int) -> list[bytes]:
    """The seccomp program. Jumps count instructions to skip: (if true, if false)."""

    def refuse(number: int, error: int) -> list[bytes]:
        return [_bpf(_JUMP_EQUAL, number, 0, 1), _bpf(_RETURN, _ERRNO | error)]

    def first_argument(number: int, test: int, value: int, *, allowed_if: bool) -> list[bytes]:
        return [
            _bpf(_JUMP_EQUAL, number, 0, 4),
            _bpf(_LOAD_WORD, _FIRST_ARGUMENT_OFFSET),
            _bpf(test, value, *((1, 0) if allowed_if else (0, 1))),
            _bpf(_RETURN, _ERRNO | _EPERM),
            _bpf(_RETURN, _ALLOW),
        ]

    program = [
        _bpf(_LOAD_WORD, _ARCHITECTURE_OFFSET),
        _bpf(_JUMP_EQUAL, machine.audit_architecture, 1, 0),
        _bpf(
            _RETURN, _ERRNO | _ENOSYS
        ),  # a second system call table (32 bit) would go round the numbers below
        _bpf(_LOAD_WORD, _NUMBER_OFFSET),
        _bpf(_JUMP_AT_LEAST, 0x40000000, 0, 1),  # and so would x32
        _bpf(_RETURN, _ERRNO | _ENOSYS),
        *refuse(machine.clone3, _ENOSYS),  # its flags are behind a pointer; the C library falls back to clone
    ]
    for number in machine.forbidden:
        program += refuse(number, _EPERM)
    program += first_argument(machine.clone, _JUMP_ANY_BIT, _CLONE_THREAD, allowed_if=True)
    program += first_argument(machine.kill, _JUMP_EQUAL, own_process, allowed_if=True)
    program += first_argument(machine.tgkill, _JUMP_EQUAL, own_process, allowed_if=True)
    program += first_argument(machine.prlimit, _JUMP_EQUAL, 0, allowed_if=True)
    program += first_argument(machine.prctl, _JUMP_EQUAL, _PR_SET_PDEATHSIG, allowed_if=False)
    program.append(_bpf(_RETURN, _ALLOW))
    return program


def _bpf(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One `struct sock_filter`."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _install(program: list[bytes]) -> None:
    code = ctypes.create_string_buffer(b"".join(program))
    # struct sock_fprog: unsigned short len; padding; pointer.
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _prctl(option: int, first: int, second: int = 0) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
