"""The child that looks into sandboxes' roots and marks what is watched: `python -I -S child.py`, by
sensor.files.marker only.

On standard input lines of JSON: first what is watched, then what to look at. On standard output a length and JSON
for each; byte strings are latin-1. Descriptor 3 is the fanotify group. A sandbox may make any step of this stall (its
root may be a FUSE file system), so the parent kills whoever is late. Imports nothing of the sensor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import stat
import struct
import sys
import time
from typing import Any

GROUP = 3
WRITE, READ = 1, 2
HEAD = struct.Struct("=I")
HOMES_MAX, CHILDREN_MAX, ENVIRON_MAX, DEPTH_MAX = 32, 64, 64 * 1024, 3
CHANGED_MAX, MARKED_MAX, TOLD_MAX = 64, 65536, 4096
_FIND = os.O_PATH | os.O_CLOEXEC
_SYS_OPENAT2 = 437
_RESOLVE = 0x02 | 0x10  # NO_MAGICLINKS, IN_ROOT
_HOW = struct.Struct("=QQQ")
_AT_EMPTY_PATH, _AT_HANDLE_FID = 0x1000, 0x200
_HANDLE_MAX = 128
_MARK_ADD = 1
_ACCESS, _MODIFY, _ATTRIB, _CLOSE_WRITE, _CLOSE_NOWRITE, _CREATE, _DELETE = 0x1, 0x2, 0x4, 0x8, 0x10, 0x100, 0x200
_RENAME, _ONDIR, _ON_CHILD = 0x10000000, 0x40000000, 0x08000000
_READS = _ACCESS | _CLOSE_NOWRITE
_NAMES = _CREATE | _DELETE | _RENAME | _ONDIR
_WRITES = _NAMES | _CLOSE_WRITE | _ATTRIB | _ON_CHILD
# proc, sysfs, debugfs, tracefs, cgroup, cgroup2, securityfs, configfs, binfmt_misc: files there are the kernel's, have
# no directory worth a mark, and act when they are written, not when they are closed.
_KERNELS = frozenset(
    (0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x27E0EB, 0x63677270, 0x73636673, 0x62656570, 0x42494E4D)
)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)


class _Made:
    """By all looks so far: roots that were looked at whole; since when folders are marked, UTC, by key and mask; which
    changes were told, by the file's device, inode and time."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, ...]] = set()
        self.marked: dict[tuple[bytes, int], int] = {}
        self.told: set[tuple[int, int, int]] = set()

    def bound(self) -> None:
        """A few changes may be told twice then."""
        if len(self.marked) > MARKED_MAX or len(self.told) > TOLD_MAX:
            self.marked.clear()
            self.told.clear()


class _View:
    """One look at what a process sees. `marks`: (key, path, is a directory, of the host)."""

    def __init__(self, root: int, host: bool, shared: frozenset[int], most: int, since_ns: int, made: _Made) -> None:  # noqa: PLR0917
        self.root, self._host, self._shared, self._most = root, host, shared, most
        self._since_ns, self._made = since_ns, made
        self._device = os.fstat(root).st_dev
        self.marks: dict[tuple[bytes, bytes], tuple[bytes, bytes, bool, bool]] = {}
        self.awaited: set[bytes] = set()
        self.appeared: list[tuple[bytes, bool]] = []
        self.changed: list[bytes] = []
        self.cut = self.refused = 0
        self._names: dict[bytes, dict[bytes, bytes]] = {}
        self._missing: set[bytes] = set()
        self._looked: dict[tuple[bytes, int], int] = {}

    def open(self, path: bytes, flags: int = 0) -> int:
        """-1 where it is not there."""
        how = ctypes.create_string_buffer(_HOW.pack(_FIND | flags, 0, _RESOLVE), _HOW.size)
        found = int(_libc.syscall(_SYS_OPENAT2, self.root, path.lstrip(b"/") or b".", how, ctypes.c_size_t(_HOW.size)))
        if found < 0 and (number := ctypes.get_errno()) not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}:
            raise OSError(number, os.strerror(number))
        return found

    def exact(self, path: bytes, bits: int) -> None:
        """A file: its directory for what becomes of its name, itself for what is done to it by another name, and for
        reads, which in a whole directory would be many."""
        folder = os.path.dirname(path) or b"/"
        marked_ns = self._folder(folder, _WRITES if bits & WRITE else _NAMES)
        found = self.open(path) if marked_ns else -1
        if found < 0:
            return
        try:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                return
            mask = (_CLOSE_WRITE | _ATTRIB if bits & WRITE else 0) | (_READS if bits & READ else 0)
            if _type(found) in _KERNELS:
                mask = mask & ~_ATTRIB | (_MODIFY if bits & WRITE else 0)
            elif bits & WRITE:
                self._change(path, status, marked_ns)
            self._mark(found, path, mask, False, status)
        finally:
            os.close(found)

    def below(self, path: bytes, bits: int, depth: int) -> None:
        """A folder with what is in it."""
        mask = (_WRITES if bits & WRITE else _NAMES | _ON_CHILD) | (_READS if bits & READ else 0)
        path = path.rstrip(b"/") or b"/"
        if not bits or not (marked_ns := self._folder(path, mask)):
            return
        for name, folder, status in self._listed(path, CHILDREN_MAX):
            child = path.rstrip(b"/") + b"/" + name
            if folder:
                if depth:
                    self.below(child, bits, depth - 1)
            elif status is not None and bits & WRITE:
                self._change(child, status, marked_ns)

    def names(self, path: bytes) -> list[bytes]:
        return [name for name, folder, _ in self._listed(path, HOMES_MAX) if folder]

    def _listed(self, path: bytes, most: int) -> list[tuple[bytes, bool, os.stat_result | None]]:
        """What is in a folder, links not followed: its name, whether it is a folder, and of a file its status, where
        changes are asked for."""
        found = self.open(path, os.O_DIRECTORY)
        if found < 0:
            return []
        listed: list[tuple[bytes, bool, os.stat_result | None]] = []
        folder = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(found)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if len(listed) >= most:
                        break
                    with contextlib.suppress(OSError):
                        wanted = self._since_ns and entry.is_file(follow_symlinks=False)
                        status = entry.stat(follow_symlinks=False) if wanted else None
                        listed.append((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False), status))
        finally:
            os.close(folder)
        return listed

    def _change(self, path: bytes, status: os.stat_result, marked_ns: int) -> None:
        """Done after the process had begun, or in a folder that is new, and before that had its mark, by whichever
        look: of what came later there is an event. In a folder that was moved into place all is new there."""
        new = [moved for folder, moved in self.appeared if path.lower().startswith(folder)]
        if not self._since_ns or not (new or status.st_ctime_ns >= self._since_ns):
            return
        change = (status.st_dev, status.st_ino, status.st_ctime_ns)
        if change in self._made.told or not (status.st_ctime_ns <= marked_ns or any(new)):
            return
        if len(self.changed) >= CHANGED_MAX:
            self.cut += 1
            return
        self._made.told.add(change)
        self.changed.append(path)

    def _folder(self, path: bytes, mask: int) -> int:
        """Since when it is marked, UTC; or 0: it is not there, and the nearest above it is, for what appears in it."""
        if marked_ns := self._looked.get((path, mask), 0):
            return marked_ns
        at, awaited, found = path, b"", -1
        while at in self._missing or (found := self.open(at, os.O_DIRECTORY)) < 0:
            self._missing.add(at)
            if at == b"/":
                return 0
            at, awaited = os.path.dirname(at), at
        try:
            if awaited and (spelled := self._spelled(at, awaited[len(at.rstrip(b"/")) + 1 :])):
                return self._folder(at.rstrip(b"/") + b"/" + spelled + path[len(awaited) :], mask)
            if awaited:
                self.awaited.add(awaited)
            wanted = _NAMES if awaited else mask
            if (at, wanted) not in self._looked:
                kernels = _type(found) in _KERNELS
                marked_ns = 0 if kernels else self._mark(found, at, wanted, True, os.fstat(found))
                self._looked[at, wanted] = marked_ns or time.time_ns()
        finally:
            os.close(found)
        return 0 if awaited else self._looked[at, wanted]

    def _spelled(self, folder: bytes, name: bytes) -> bytes:
        """How a folder with this name is written there: rules' texts come folded. Empty: there is none."""
        if folder not in self._names:
            names = self._listed(folder, CHILDREN_MAX)
            self._names[folder] = {each.lower(): each for each, is_folder, _ in names if is_folder}
        spelled = self._names[folder].get(name.lower(), b"")
        return spelled if spelled != name else b""

    def _mark(self, found: int, path: bytes, mask: int, folder: bool, status: os.stat_result) -> int:
        """Since when it has that mark; 0: it has none."""
        key = _key(found)
        if not mask or not key:
            return 0
        if len(self.marks) >= self._most:
            self.cut += 1
            return 0
        if _libc.fanotify_mark(GROUP, _MARK_ADD, mask, -100, b"/proc/self/fd/%d" % found):
            self.refused += 1
            return 0
        host = self._host if status.st_dev == self._device else status.st_dev in self._shared
        self.marks[key, path] = (key, path, folder, host)
        return self._made.marked.setdefault((key, mask), time.time_ns()) if folder else 0


def _key(found: int) -> bytes:
    """As fanotify writes it: fsid, then the handle's length and type, then the handle; empty where there is none."""
    handle = ctypes.create_string_buffer(8 + _HANDLE_MAX)
    struct.pack_into("=Ii", handle, 0, _HANDLE_MAX, 0)
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(found, b"", handle, ctypes.byref(mount), _AT_EMPTY_PATH | _AT_HANDLE_FID) and (
        _libc.name_to_handle_at(found, b"", handle, ctypes.byref(mount), _AT_EMPTY_PATH)
    ):
        return b""
    size = struct.unpack_from("=I", handle)[0]
    return _statfs(found)[56:64] + handle.raw[: 8 + size]


def _statfs(found: int) -> bytes:
    """struct statfs of a 64-bit architecture: its type comes first, fsid at 56."""
    content = ctypes.create_string_buffer(256)
    if _libc.fstatfs(found, content):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return content.raw


def _type(found: int) -> int:
    return int(struct.unpack_from("=Q", _statfs(found))[0]) & 0xFFFFFFFF


def look(watched: dict[str, Any], asked: list[Any], made: _Made) -> dict[str, Any]:
    """What one process sees, marked: all of it where that is asked for, or where its root was never seen; else what
    its working directory adds. `asked`: tgid, start in clock ticks, all of it, UTC from which changes are told or 0,
    the working directory, the process's own where that is empty, and new folders."""
    tgid, ticks = asked[:2]
    try:
        root = os.open(f"/proc/{tgid}/root", _FIND | os.O_DIRECTORY)
    except OSError:
        return {"status": "gone"}
    try:
        # The descriptor is of the process that started then, since that one has the tgid still.
        if _start_ticks(tgid) != ticks:
            return {"status": "gone"}
        try:
            where, environment = _where(tgid, asked[4]), _environment(tgid)
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            return {"status": "gone"}
        return _look(watched, asked, root, (*where, environment), made)
    finally:
        os.close(root)


def _where(tgid: int, folder: str) -> tuple[int, bytes]:
    """Its mount namespace, and its working directory as seen in its root."""
    namespace = os.stat(f"/proc/{tgid}/ns/mnt").st_ino
    cwd = folder.encode("latin-1") or os.readlink(b"/proc/%d/cwd" % tgid)
    return namespace, _inside(cwd, os.readlink(b"/proc/%d/root" % tgid))  # the kernel's path knows of no chroot


def _look(
    watched: dict[str, Any], asked: list[Any], root: int, where: tuple[int, bytes, bytes], made: _Made
) -> dict[str, Any]:
    tgid, _, all_of_it, since_ns, _, appeared = asked
    namespace, cwd, environment = where
    made.bound()
    status, own = os.fstat(root), os.stat("/")
    which = (namespace, status.st_dev, status.st_ino)
    host = namespace == os.stat("/proc/self/ns/mnt").st_ino and (own.st_dev, own.st_ino) == which[1:]
    view = _View(root, host, _devices(), watched["most"], since_ns, made)
    view.appeared = [(path.encode("latin-1").lower() + b"/", moved) for path, moved in appeared]
    bases = [cwd] if cwd else []
    if all_of_it or which not in made.seen:
        made.seen.add(which)
        bases += _homes(view, environment)
        for base in _hierarchies(tgid):
            for text, bits in watched["endings"]:
                if text.count("/") == 1:
                    view.exact(base + text.encode("latin-1"), bits)
        for text, bits in watched["paths"]:
            view.exact(text.encode("latin-1"), bits)
        for text, bits, depth in watched["folders"]:
            view.below(text.encode("latin-1"), bits, depth)
    for base in dict.fromkeys(bases):
        for text, bits in watched["endings"]:
            view.exact(base.rstrip(b"/") + text.encode("latin-1"), bits)
        for text, bits, depth in watched["within"]:
            view.below(base.rstrip(b"/") + text.encode("latin-1"), bits, depth)
    return {
        "status": "cut" if view.cut else "partial" if view.refused else "done",
        "view": which,
        "marks": [(key.hex(), path.decode("latin-1"), *rest) for key, path, *rest in view.marks.values()],
        "awaited": [path.decode("latin-1") for path in view.awaited],
        "changed": [path.decode("latin-1") for path in view.changed],
    }


def _environment(tgid: int) -> bytes:
    """A process that ends lets go of its memory before it does of its root. Raises ProcessLookupError then."""
    environment = b""
    with contextlib.suppress(PermissionError), open(f"/proc/{tgid}/environ", "rb") as file:
        environment = file.read(ENVIRON_MAX)
    with open(f"/proc/{tgid}/statm", "rb") as file:
        if not environment and file.read(2) == b"0 ":
            raise ProcessLookupError(tgid)
    return environment


def _homes(view: _View, environment: bytes) -> list[bytes]:
    """Where a user's own files are looked for. $HOME is the sandbox's own word, and a place in its root, no more."""
    homes = [b"/root", *(b"/home/" + name for name in view.names(b"/home"))]
    for variable in environment.split(b"\0"):
        home = variable.removeprefix(b"HOME=")
        if home != variable and home.startswith(b"/") and b"/.." not in home and len(home) < 1024:
            homes.append(home)
            break
    return homes


def _hierarchies(tgid: int) -> list[bytes]:
    """Where it has hierarchies of cgroup v1, whose files in their roots are doors of the kernel."""
    found = []
    with contextlib.suppress(OSError), open(f"/proc/{tgid}/mountinfo", "rb") as lines:
        for line in lines:
            before, _, after = line.partition(b" - ")
            if after.startswith(b"cgroup "):
                found.append(before.split(b" ")[4])
    return found[:HOMES_MAX]


def _inside(path: bytes, root: bytes) -> bytes:
    """As seen below `root`; empty where it is elsewhere."""
    root = root.rstrip(b"/")
    if path == root or path.endswith(b" (deleted)") or not path.startswith(root + b"/"):
        return b"/" if path == root else b""
    return path[len(root) :]


def _devices() -> frozenset[int]:
    """File systems that are mounted in our own namespace: what a sandbox has of them, the host has too."""
    found = set()
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            major, _, minor = line.split(b" ", 3)[2].partition(b":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _start_ticks(tgid: int) -> int:
    """Field 22 of /proc/PID/stat; -1 where the process is gone."""
    try:
        with open(f"/proc/{tgid}/stat", "rb") as file:
            text = file.read(4096)
        return int(text[text.rfind(b")") + 2 :].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


def _send(answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    message = HEAD.pack(len(content)) + content
    while message:
        message = message[os.write(1, message) :]


def main() -> None:
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    watched = json.loads(sys.stdin.readline())
    made = _Made()
    _send({"status": "ready"})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked is None:  # all marks were taken away
            made = _Made()
            continue
        try:
            answer = look(watched, asked, made)
        except (OSError, ValueError) as error:
            answer = {"status": "refused", "why": str(error)[:200]}
        _send(answer)


if __name__ == "__main__":
    main()
