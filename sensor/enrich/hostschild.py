"""The child that opens files of sandboxes: `python -I -S hostschild.py`, by sensor.enrich.hostsfile only.

A line `TGID START_TICKS` on standard input; a status, a length and the content on standard output. A sandbox may
make any step of this stall (its root may be a FUSE file system), so the parent kills whoever is late; nothing
of it runs in the core. Imports nothing of the sensor: it starts in 20 ms and is gone when nothing is to be read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys

CONTENT_MAX = 64 * 1024
HEAD = struct.Struct("=BI")
READY, READ, ABSENT, GONE, REFUSED, NO_OPENAT2 = range(6)
NAMES = ("ready", "read", "absent", "gone", "refused", "no_openat2")

_SYS_OPENAT2 = 437  # the same on every architecture, since Linux 5.6
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
# File systems whose regular files are doors to the kernel (include/uapi/linux/magic.h): opening or reading some
# has effects, as /proc/kmsg and trace_pipe lose what was read, and /proc/self here is the reader's own.
_KERNELS = frozenset(
    [
        *(0x9FA0, 0x62656572, 0x64626720, 0x74726163),  # proc, sysfs, debugfs, tracefs
        *(0x27E0EB, 0x63677270, 0xCAFE4A11, 0x73636673),  # cgroup, cgroup2, bpf, securityfs
        *(0x62656570, 0x6165676C, 0xDE5E81E4, 0xF97CFF8C),  # configfs, pstore, efivarfs, selinuxfs
        *(0x42494E4D, 0x6E736673, 0x65735543, 0x7655821),  # binfmt_misc, nsfs, fusectl, resctrl
    ]
)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _StatFs(ctypes.Structure):
    """struct statfs; 120 bytes on 64-bit architectures, of which the type comes first."""

    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_uint8 * 248))


def read_hosts(tgid: int, ticks: int) -> tuple[int, bytes]:
    """Status and the first 64 KiB of /etc/hosts as this process sees it."""
    try:
        root = os.open(f"/proc/{tgid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return GONE, b""
    try:
        # The descriptor is of the process that started then, since that one has the tgid still.
        if start_ticks(tgid) != ticks:
            return GONE, b""
        return read_in_root(root, b"etc/hosts")
    finally:
        os.close(root)


def read_in_root(root: int, path: bytes) -> tuple[int, bytes]:
    """Nothing is opened before it is known to be a regular file: opening a device may act on it, whatever
    O_NONBLOCK says. Symbolic links, absolute ones and `..` end at `root`."""
    how = ctypes.create_string_buffer(
        _HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS), _HOW.size
    )
    found = int(_libc.syscall(_SYS_OPENAT2, root, path, how, ctypes.c_size_t(_HOW.size)))
    if found < 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return NO_OPENAT2, b""
        return (ABSENT if number in (errno.ENOENT, errno.ENOTDIR) else REFUSED), b""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode) or _file_system(found) in _KERNELS:
            return REFUSED, b""
        # By the host's own /proc, a magic link to that very inode: no name is looked up again.
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return REFUSED, b""
    finally:
        os.close(found)
    try:
        content = b""
        while len(content) < CONTENT_MAX and (chunk := os.read(fd, CONTENT_MAX - len(content))):
            content += chunk
        return READ, content
    except OSError:
        return REFUSED, b""
    finally:
        os.close(fd)


def start_ticks(tgid: int) -> int:
    """Field 22 of /proc/PID/stat; -1 where the process is gone."""
    try:
        fd = os.open(f"/proc/{tgid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        text = os.read(fd, 4096)
        return int(text[text.rfind(b")") + 2 :].split()[19])
    except (OSError, ValueError, IndexError):
        return -1
    finally:
        os.close(fd)


def _file_system(fd: int) -> int:
    found = _StatFs()
    if _libc.fstatfs(fd, ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return int(found.type) & 0xFFFFFFFF


def _send(status: int, content: bytes = b"") -> None:
    message = HEAD.pack(status, len(content)) + content
    while message:
        message = message[os.write(1, message) :]


def main() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    _send(READY)
    for line in sys.stdin.buffer:  # ends with the parent, at the latest
        tgid, ticks = line.split()
        _send(*read_hosts(int(tgid), int(ticks)))


if __name__ == "__main__":
    main()
