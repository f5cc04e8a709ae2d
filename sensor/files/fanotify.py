"""fanotify(7), as far as it is needed: events with the identity of what they are about, and no open file.

A group that reports identities opens no file when it is read, so that no file system of a sandbox can stall the
reader; and it takes marks on procfs, sysfs and cgroup files too (seen on Linux 6.18). It does make a pidfd for each
event, which is closed at once: that there is none says that whoever did it was reaped, and that its number may be
another's. Layouts are those of include/uapi/linux/fanotify.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

from msgspec import Struct

from sensor.errors import HostError

ACCESS, MODIFY, ATTRIB, CLOSE_WRITE, CLOSE_NOWRITE = 0x1, 0x2, 0x4, 0x8, 0x10
CREATE, DELETE, OVERFLOW = 0x100, 0x200, 0x4000
RENAME, ONDIR = 0x10000000, 0x40000000

READ_BYTES = 16 * 1024  # some 200 events, each with a descriptor while it is read
_CLOEXEC, _NONBLOCK, _UNLIMITED_MARKS = 0x1, 0x2, 0x20
# PIDFD, FID, DIR_FID, NAME, TARGET_FID: the last since Linux 5.17, so that no kernel has it without the first (5.15).
_REPORT = 0x80 | 0x200 | 0x400 | 0x800 | 0x1000
_MARK_FLUSH = 0x80
_HEAD = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_HANDLE = struct.Struct("=Ii")
_PIDFD_IS = struct.Struct("=BBHi")
_KEY_AT, _HANDLE_AT, _BYTES_AT = 4, 12, 20
_FID, _DFID_NAME, _DFID, _PIDFD, _OLD, _NEW = 1, 2, 3, 4, 10, 12
NO_PIDFD, _NOT_MADE = -1, -2  # FAN_NOPIDFD, FAN_EPIDFD

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_init.argtypes = (ctypes.c_uint, ctypes.c_uint)
_libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)

Name = tuple[bytes, bytes]  # the directory's key and the name in it


class Event(Struct, frozen=True, gc=False):
    """`key` of the object itself, `at` its place, `old` and `new` a rename's; what is not told is None or empty.
    A key is fsid, length and type of the handle, and the handle, as the kernel wrote them. `pidfd` was closed."""

    mask: int
    tgid: int
    key: bytes
    at: Name | None
    old: Name | None
    new: Name | None
    pidfd: int = _NOT_MADE

    @property
    def gone(self) -> bool:
        """Whoever did it had ended, and was reaped, when this was read: its number was free by then."""
        return self.pidfd == NO_PIDFD


def group() -> int:
    """A descriptor that does not block. Raises HostError."""
    descriptor = int(_libc.fanotify_init(_REPORT | _CLOEXEC | _NONBLOCK | _UNLIMITED_MARKS, os.O_RDONLY))
    if descriptor < 0:
        why = os.strerror(ctypes.get_errno())
        raise HostError(f"fanotify, which file events need: {why}: Linux 5.17 and CAP_SYS_ADMIN, or files.enabled: no")
    return descriptor


def flush(descriptor: int) -> None:
    """Takes all marks away."""
    _libc.fanotify_mark(descriptor, _MARK_FLUSH, 0, -100, None)


def read(descriptor: int) -> list[Event]:
    """What is queued, as much as fits; nothing where nothing is."""
    try:
        data = os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return []
    found = list(events(data))
    for event in found:
        if event.pidfd >= 0:
            os.close(event.pidfd)
    return found


def events(data: bytes) -> Iterator[Event]:
    """The kernel's own writing: what does not fit ends it."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, _, _, head, mask, _, tgid = _HEAD.unpack_from(data, at)
        if length < head or at + length > len(data):
            return
        yield _event(data, at + head, at + length, mask, tgid)
        at += length


def _event(data: bytes, at: int, end: int, mask: int, tgid: int) -> Event:
    key, pidfd = b"", _NOT_MADE
    names: dict[int, Name] = {}
    while at + _PIDFD_IS.size <= end:
        kind, _, length, number = _PIDFD_IS.unpack_from(data, at)
        if not _PIDFD_IS.size <= length <= end - at:
            break
        if kind == _PIDFD:
            pidfd = number
        elif length >= _BYTES_AT:
            size, _ = _HANDLE.unpack_from(data, at + _HANDLE_AT)
            name_at = at + _BYTES_AT + size
            if name_at > at + length:
                break
            told = data[at + _KEY_AT : name_at]
            if kind == _FID:
                key = told
            elif kind in (_DFID_NAME, _DFID, _OLD, _NEW):
                name = data[name_at : at + length].split(b"\0", 1)[0] if kind != _DFID else b""
                names[_DFID_NAME if kind == _DFID else kind] = (told, name)
        at += length
    return Event(mask, tgid, key, names.get(_DFID_NAME), names.get(_OLD), names.get(_NEW), pidfd)
