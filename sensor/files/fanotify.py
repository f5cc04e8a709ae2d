"""fanotify(7), as far as it is needed: events with the identity of what they are about, and no open descriptor.

A group that reports identities opens nothing when it is read, so that no file system of a sandbox can stall the
reader; and it takes marks on procfs, sysfs and cgroup files too (seen on Linux 6.18). Layouts are those of
include/uapi/linux/fanotify.h.
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

READ_BYTES = 64 * 1024
_CLOEXEC, _NONBLOCK, _UNLIMITED_MARKS = 0x1, 0x2, 0x20
_REPORT = 0x200 | 0x400 | 0x800 | 0x1000  # FID, DIR_FID, NAME, TARGET_FID: since Linux 5.17
_MARK_FLUSH = 0x80
_HEAD = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_INFO = struct.Struct("=BBH")
_HANDLE = struct.Struct("=Ii")
_KEY_AT, _HANDLE_AT, _BYTES_AT = 4, 12, 20
_FID, _DFID_NAME, _DFID, _OLD, _NEW = 1, 2, 3, 10, 12

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_init.argtypes = (ctypes.c_uint, ctypes.c_uint)
_libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)

Name = tuple[bytes, bytes]  # the directory's key and the name in it


class Event(Struct, frozen=True, gc=False):
    """`key` of the object itself, `at` its place, `old` and `new` a rename's; what is not told is None or empty.
    A key is fsid, length and type of the handle, and the handle, as the kernel wrote them."""

    mask: int
    tgid: int
    key: bytes
    at: Name | None
    old: Name | None
    new: Name | None


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


def read(descriptor: int) -> bytes:
    """What is queued, as much as fits; nothing where nothing is."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return b""


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
    key = b""
    names: dict[int, Name] = {}
    while at + _BYTES_AT <= end:
        kind, _, length = _INFO.unpack_from(data, at)
        size, _ = _HANDLE.unpack_from(data, at + _HANDLE_AT)
        name_at = at + _BYTES_AT + size
        if length < _BYTES_AT or name_at > at + length > end:
            break
        told = data[at + _KEY_AT : name_at]
        if kind == _FID:
            key = told
        elif kind in (_DFID_NAME, _DFID, _OLD, _NEW):
            name = data[name_at : at + length].split(b"\0", 1)[0] if kind != _DFID else b""
            names[_DFID_NAME if kind == _DFID else kind] = (told, name)
        at += length
    return Event(mask, tgid, key, names.get(_DFID_NAME), names.get(_OLD), names.get(_NEW))
