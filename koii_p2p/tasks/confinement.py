"""What a worker process gives up before it runs a line of a task: rights, memory, processes, the network.

Everything here is called by the worker on itself and cannot be undone by it. It is a second line: the first
is that a worker holds nothing worth stealing (no keys, no sockets, no environment). `landlock` closes the file system.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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
_SECOND_ARGUMENT_OFFSET = 24

_CLONE_THREAD = 0x00010000
_AF_INET = 2
_AF_INET6 = 10

_SIGNAL_OWNERS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX of fcntl: whoever owns a pipe can have the kernel send any process any signal."""
_SOCKET_OWNERS = (0x8901, 0x8902)
"""FIOSETOWN and SIOCSPGRP of ioctl: the same of a socket pair."""

_ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")
_AUTOGROUP = Path("/proc/self/autogroup")
_AUTOGROUP_TRIES = 5
_AUTOGROUP_PAUSE = 0.11


class Protection(StrEnum):
    """What the kernel holds a worker to, beyond limits on what it uses."""

    NO_PROCESSES = "no processes"
    """It starts no process, runs no other program, signals and hinders none, and leaves the modes of files alone."""

    NO_NETWORK = "no network"
    """It makes no socket."""

    OWN_FILES = "own files only"
    """It reads Python, its own code and its folder, and writes in its folder."""


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
    socket: int
    fcntl: int
    ioctl: int
    setpriority: int
    of_itself: tuple[int, ...]
    """sched_setparam, sched_setscheduler, sched_setaffinity, sched_setattr: of the caller (0), not of the node."""
    forbidden: tuple[int, ...]
    """What makes, becomes, signals, slows or reaches into other processes, goes round this filter, or is root's; what
    changes files that Landlock keeps closed (their modes, owners, lists of rights and, before Linux 6.2, their
    length); and memory that no limit of the process counts."""


_MACHINES = {
    "x86_64": _Machine(
        audit_architecture=0xC000003E,
        clone=56,
        clone3=435,
        kill=62,
        tgkill=234,
        prlimit=302,
        prctl=157,
        socket=41,
        fcntl=72,
        ioctl=16,
        setpriority=141,
        of_itself=(142, 144, 203, 314),
        # fork, vfork, ptrace, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, process_vm_readv, process_vm_writev,
        # pidfd_send_signal, pidfd_getfd; execve, execveat; io_uring_setup, bpf, userfaultfd, perf_event_open;
        # unshare, setns, mount, umount2, pivot_root, chroot, open_by_handle_at, add_key, request_key, keyctl,
        # init_module, finit_module, reboot, settimeofday, clock_settime; open_tree, move_mount, fsopen, fsconfig,
        # fsmount, fspick, mount_setattr, swapon, swapoff, kexec_load, kexec_file_load, acct, delete_module,
        # sethostname, setdomainname, clock_adjtime, iopl, ioperm; ioprio_set, migrate_pages,
        # move_pages, kcmp, process_madvise, process_mrelease; chmod, fchmod, fchmodat, fchmodat2, chown, fchown,
        # lchown, fchownat, setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr, setxattrat,
        # removexattrat, truncate; memfd_create, memfd_secret, shmget, semget, msgget, mq_open
        forbidden=(
            *(57, 58, 101, 200, 129, 297, 310, 311, 424, 438, 59, 322, 425, 321, 323, 298),
            *(272, 308, 165, 166, 155, 161, 304, 248, 249, 250, 175, 313, 169, 164, 227),
            *(428, 429, 430, 431, 432, 433, 442, 167, 168, 246, 320, 163, 176, 170, 171, 305, 172, 173),
            *(251, 256, 279, 312, 440, 448),
            *(90, 91, 268, 452, 92, 93, 94, 260, 188, 189, 190, 197, 198, 199, 463, 466, 76),
            *(319, 447, 29, 64, 68, 240),
        ),
    ),
    "aarch64": _Machine(
        audit_architecture=0xC00000B7,
        clone=220,
        clone3=435,
        kill=129,
        tgkill=131,
        prlimit=261,
        prctl=167,
        socket=198,
        fcntl=25,
        ioctl=29,
        setpriority=140,
        of_itself=(118, 119, 122, 274),
        # As above, without fork, vfork, chmod, chown, lchown, iopl and ioperm, which this machine does not have.
        forbidden=(
            *(117, 130, 138, 240, 270, 271, 424, 438, 221, 281, 425, 280, 282, 241),
            *(97, 268, 40, 39, 41, 51, 265, 217, 218, 219, 105, 273, 142, 170, 112),
            *(428, 429, 430, 431, 432, 433, 442, 224, 225, 104, 294, 89, 106, 161, 162, 266),
            *(30, 238, 239, 272, 440, 448),
            *(52, 53, 452, 55, 54, 5, 6, 7, 14, 15, 16, 463, 466, 45),
            *(279, 447, 194, 190, 186, 180),
        ),
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


def step_behind(niceness: int) -> None:
    """Leave the processor to the node and K2 by so many steps of nice(2).

    A worker has a session of its own, and where autogroups are on Linux shares processors among sessions first
    (sched(7)): there the session has to step behind as well. Only one process in a tenth of a second may say so.
    """
    os.nice(niceness)
    for _ in range(_AUTOGROUP_TRIES):
        try:
            _AUTOGROUP.write_text(str(niceness))
        except BlockingIOError:
            time.sleep(_AUTOGROUP_PAUSE)
        except OSError:
            return  # there are none
        else:
            return


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


def has_seccomp() -> bool:
    """Whether this kernel and machine have the filters that `forbid` installs."""
    return platform.machine() in _MACHINES and _ACTIONS.exists()


def forbid(*, network: bool) -> tuple[Protection, ...]:
    """Let this process make threads but no processes, signal nobody else and, without `network`, make no socket.

    With `network`, sockets are those of IPv4 and IPv6 only. Returns what the kernel agreed to.

    RLIMIT_NPROC alone cannot do this: it counts every thread of the user, and does not bind root at all. It
    is what is left where there is no seccomp (other machines, other kernels): no threads either then, and
    nothing is returned.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is not None:
        try:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            _install(_filter(machine, os.getpid(), network=network))
            return (Protection.NO_PROCESSES,) if network else (Protection.NO_PROCESSES, Protection.NO_NETWORK)
        except OSError:
            pass  # a kernel without seccomp: the weaker limit below, and the caller is told
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    return ()


def _filter(machine: _Machine, own_process: int, *, network: bool) -> list[bytes]:
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

    def second_argument(number: int, refused: tuple[int, ...]) -> list[bytes]:
        tests = [_bpf(_JUMP_EQUAL, value, len(refused) - place, 0) for place, value in enumerate(refused)]
        return [
            _bpf(_JUMP_EQUAL, number, 0, len(refused) + 3),
            _bpf(_LOAD_WORD, _SECOND_ARGUMENT_OFFSET),
            *tests,
            _bpf(_RETURN, _ALLOW),
            _bpf(_RETURN, _ERRNO | _EPERM),
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
    if network:
        program += [
            _bpf(_JUMP_EQUAL, machine.socket, 0, 5),
            _bpf(_LOAD_WORD, _FIRST_ARGUMENT_OFFSET),
            _bpf(_JUMP_EQUAL, _AF_INET, 2, 0),
            _bpf(_JUMP_EQUAL, _AF_INET6, 1, 0),
            _bpf(_RETURN, _ERRNO | _EPERM),
            _bpf(_RETURN, _ALLOW),
        ]
    else:
        program += refuse(machine.socket, _EPERM)
    program += first_argument(machine.clone, _JUMP_ANY_BIT, _CLONE_THREAD, allowed_if=True)
    program += first_argument(machine.kill, _JUMP_EQUAL, own_process, allowed_if=True)
    program += first_argument(machine.tgkill, _JUMP_EQUAL, own_process, allowed_if=True)
    program += first_argument(machine.prlimit, _JUMP_EQUAL, 0, allowed_if=True)
    program += first_argument(machine.prctl, _JUMP_EQUAL, _PR_SET_PDEATHSIG, allowed_if=False)
    for number in machine.of_itself:
        program += first_argument(number, _JUMP_EQUAL, 0, allowed_if=True)
    # Of this process (PRIO_PROCESS is 0, and 0 is whoever asks), which can only become nicer.
    program += [
        _bpf(_JUMP_EQUAL, machine.setpriority, 0, 6),
        _bpf(_LOAD_WORD, _FIRST_ARGUMENT_OFFSET),
        _bpf(_JUMP_EQUAL, 0, 0, 3),
        _bpf(_LOAD_WORD, _SECOND_ARGUMENT_OFFSET),
        _bpf(_JUMP_EQUAL, 0, 0, 1),
        _bpf(_RETURN, _ALLOW),
        _bpf(_RETURN, _ERRNO | _EPERM),
    ]
    program += second_argument(machine.fcntl, _SIGNAL_OWNERS)
    program += second_argument(machine.ioctl, _SOCKET_OWNERS)
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
