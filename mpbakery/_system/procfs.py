"""Other processes, as /proc shows them to whoever may look: their kin, their mappings, their memory, their threads.

Nothing here stops, wakes or writes to them. What cannot be had raises OSError, or is said to be missing.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from mpbakery._errors import reraise_handlers

#: Which file something is: major and minor number of the device, inode.
File = tuple[int, int, int]
#: Reads so many bytes from an offset on; fewer where there are no more.
Read = Callable[[int, int], bytes]

_MAPPING: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) rw-s ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) +(\S.*)$", re.MULTILINE
)
#: What mappings are called in which there may be segments: in a file without a name, or in none.
_OURS: Final = re.compile(rb"/memfd:mpbakery \(deleted\)|.*/mpbakery-\w+ \(deleted\)|/dev/zero \(deleted\)")

#: System calls in which a thread may sleep for long, and whether their first argument is a descriptor.
_CALLS: Final[dict[str, dict[int, tuple[str, bool]]]] = {
    "x86_64": {
        0: ("read", True),
        1: ("write", True),
        7: ("poll", False),
        23: ("select", False),
        34: ("pause", False),
        35: ("nanosleep", False),
        42: ("connect", True),
        43: ("accept", True),
        44: ("sendto", True),
        45: ("recvfrom", True),
        46: ("sendmsg", True),
        47: ("recvmsg", True),
        61: ("wait4", False),
        65: ("semop", False),
        72: ("fcntl", True),
        73: ("flock", True),
        74: ("fsync", True),
        75: ("fdatasync", True),
        128: ("rt_sigtimedwait", False),
        130: ("rt_sigsuspend", False),
        202: ("futex", False),
        230: ("clock_nanosleep", False),
        232: ("epoll_wait", True),
        247: ("waitid", False),
        257: ("openat", False),
        270: ("pselect6", False),
        271: ("ppoll", False),
        281: ("epoll_pwait", True),
        288: ("accept4", True),
    }
}
_KNOWN_CALLS: Final = _CALLS.get(platform.machine(), {})
#: process_vm_readv
_READ_MEMORY: Final = {"x86_64": 310, "aarch64": 270, "riscv64": 270}


class Relations(NamedTuple):
    """The parent of a process, 0 where there is none here, and its session."""

    parent: int
    session: int


class Mapping(NamedTuple):
    """A shared mapping in which there may be a segment."""

    start: int
    size: int
    offset: int
    file: File


class Sleep(NamedTuple):
    """What a thread does: the letter of its state, and where in the kernel it sleeps, as far as that can be seen.

    `call` is the name of the system call, or `call 17`, or what the kernel's function is called; `descriptor` what its
    first argument stands for, -1 if that is no descriptor; `argument` that argument, -1 where it is not known.
    """

    state: str
    call: str = ""
    descriptor: int = -1
    argument: int = -1


def is_here(pid: int) -> bool:
    """Whether there is a process with that pid, zombies included."""
    return os.path.isdir(f"/proc/{pid}")


def user_of(pid: int) -> int:
    """The number of the user whose process that is."""
    return os.stat(f"/proc/{pid}").st_uid


def relations() -> dict[int, Relations]:
    """All processes that can be seen."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(f"/proc/{name}/stat")):
            found[int(name)] = Relations(int(fields[1]), int(fields[3]))
    return found


def shared_mappings(pid: int) -> list[Mapping]:
    """The mappings of a process in which there may be segments. Raises OSError if it may not be looked into."""
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
        text = _whole(file.fileno())
    return [
        Mapping(
            int(start, 16), int(end, 16) - int(start, 16), int(offset, 16), (int(major, 16), int(minor, 16), int(inode))
        )
        for start, end, offset, major, minor, inode, name in _MAPPING.findall(text)
        if _OURS.fullmatch(name)
    ]


def file_of(descriptor: int) -> File:
    """Which file a descriptor of this process is."""
    return _file(os.fstat(descriptor))


def own_files() -> set[File]:
    """What this process has open: a second descriptor of one of these, when closed, would cost it its record locks."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(_file(os.stat(f"/proc/self/fd/{name}")))
        except OSError as error:
            reraise_handlers(error)
    return found


class Memory:
    """A mapping of another process, to be read and closed again.

    It is read through a descriptor of that process, if it has one of that file; where it has none, from its memory.
    Reading the file touches no page that nobody has used, and is allowed where tracing is not.
    """

    def __init__(self, pid: int, mapping: Mapping, avoid: set[File]) -> None:
        """`avoid`: what must not be opened. Raises OSError if it cannot be read, for the first of the reasons."""
        self.size = mapping.size
        self._descriptor = -1
        failure: OSError | None = None
        for attempt in (self._open_file, self._open_memory, self._by_call):
            try:
                self.read: Read = attempt(pid, mapping, avoid)
                self.read(0, 8)
            except OSError as error:
                reraise_handlers(error)
                self.close()
                failure = failure or error
            else:
                return
        raise failure or OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open_file(self, pid: int, mapping: Mapping, avoid: set[File]) -> Read:
        if mapping.file in avoid:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            try:
                if "mpbakery" not in os.readlink(path) or _file(os.stat(path)) != mapping.file:
                    continue
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                # it may have become another one in between
                if _file(os.fstat(self._descriptor)) == mapping.file:
                    return self._from(mapping.offset)
                self.close()
            except FileNotFoundError:
                continue
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _open_memory(self, pid: int, mapping: Mapping, _avoid: set[File]) -> Read:
        self._descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        return self._from(mapping.start)

    def _from(self, start: int) -> Read:
        descriptor, end = self._descriptor, self.size

        def read(offset: int, size: int) -> bytes:
            return os.pread(descriptor, max(0, min(size, end - offset)), start + offset)

        return read

    def _by_call(self, pid: int, mapping: Mapping, _avoid: set[File]) -> Read:
        """By process_vm_readv, which asks for CAP_SYS_PTRACE only, where files of /proc ask for more."""
        try:
            from ctypes import (
                CDLL,
                Structure,
                addressof,
                byref,
                c_long,
                c_size_t,
                c_void_p,
                create_string_buffer,
                get_errno,
            )
        except ImportError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        number = _READ_MEMORY.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        class Part(Structure):
            _fields_ = (("start", c_void_p), ("size", c_size_t))

        call = CDLL(None, use_errno=True).syscall
        call.restype = c_long

        def read(offset: int, size: int) -> bytes:
            size = min(size, mapping.size - offset)
            if size <= 0:
                return b""
            buffer = create_string_buffer(size)
            here, there = Part(addressof(buffer), size), Part(mapping.start + offset, size)
            count = call(c_long(number), c_long(pid), byref(here), c_long(1), byref(there), c_long(1), c_long(0))
            if count < 0:
                raise OSError(get_errno(), os.strerror(get_errno()))
            return buffer.raw[:count]

        return read


def threads(pid: int) -> list[int]:
    """The native ids of the threads of a process, as the one who looks knows them; none if it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError as error:
        reraise_handlers(error)
        return []


def sleep_of(pid: int, thread: int) -> Sleep | None:
    """What a thread does at this moment, None if it is gone."""
    path = f"/proc/{pid}/task/{thread}"
    fields = _stat(f"{path}/stat")
    if not fields:
        return None
    state = fields[0].decode()
    if state not in "SDI":
        return Sleep(state)
    try:
        words = _content(f"{path}/syscall").split()
        number = int(words[0])
        argument = int(words[1], 16)
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, OSError):
            reraise_handlers(error)
        return Sleep(state, _kernel_function(path))
    name, of_descriptor = _KNOWN_CALLS.get(number, (f"system call {number}", False))
    return Sleep(state, name, argument if of_descriptor and argument < 1 << 31 else -1, argument)


def target_of(pid: int, descriptor: int) -> str:
    """What a descriptor of a process is, such as `socket:[337144]`; "" where that cannot be seen."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError as error:
        reraise_handlers(error)
        return ""


def namespace_of(pid: int) -> int:
    """The number of the PID namespace that a process lives in; 0 where that cannot be seen."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError as error:
        reraise_handlers(error)
        return 0


def number_inside(pid: int, thread: int | None = None) -> int:
    """What a process, or a thread of it, has for a number in its own PID namespace; 0 where that cannot be seen."""
    try:
        status = _content(f"/proc/{pid}/status" if thread is None else f"/proc/{pid}/task/{thread}/status")
    except OSError as error:
        reraise_handlers(error)
        return 0
    found = re.search(rb"^NSpid:.*?(\d+)$", status, re.MULTILINE)
    return int(found[1]) if found else thread or pid


def command_of(pid: int) -> str:
    """What a process was started as."""
    try:
        return _content(f"/proc/{pid}/cmdline").replace(b"\0", b" ").strip().decode(errors="replace")
    except OSError as error:
        reraise_handlers(error)
        return ""


def _kernel_function(path: str) -> str:
    try:
        name = _content(f"{path}/wchan").decode(errors="replace")
    except OSError as error:
        reraise_handlers(error)
        return ""
    return "" if name == "0" else name


def _stat(path: str) -> list[bytes]:
    """The fields of a `stat` file from the state on; none if the process, or thread, is gone."""
    try:
        # the name of the program, in parentheses, may hold spaces and parentheses of its own
        return _content(path).rpartition(b")")[2].split()
    except OSError as error:
        reraise_handlers(error)
        return []


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _whole(descriptor)
    finally:
        os.close(descriptor)


def _whole(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _file(status: os.stat_result) -> File:
    return os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
