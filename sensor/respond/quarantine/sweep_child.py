"""The child of sweeping.py: has the kernel destroy every connection of a sandbox, in each network namespace of it.

A program of its own, without site-packages, as sockets_child.py, whose netlink it uses. One JSON object comes on
standard input; on standard output lines of JSON, each the whole count so far, the last with `complete`.

In a namespace with nobody else in it everything goes. In a shared one (the host's, say) a socket is the sandbox's
if it was made in its cgroup or one nested there, or if one of its processes holds it. The kernel waits for the
socket's lock, which its user may hold as long as it likes: threads destroy, and one that hangs is left behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.util
import json
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

_CGROUP_ID = 21  # INET_DIAG_CGROUP_ID, since 5.9: the cgroup in which the socket was made
_MESSAGE_BYTES = 72  # struct inet_diag_msg; attributes follow
_LISTEN, _CLOSE, _TIME_WAIT = 10, 7, 6
_TCP, _UDP, _UDPLITE = 6, 17, 136
_SIOCGSKNS = 0x894C  # a descriptor of the socket's network namespace
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438  # the same on every architecture
_NEWNET = 0x40000000
WORKERS, MOST_WORKERS = 4, 64
HUNG_S = 0.2
MOST_CGROUPS, MOST_PROCESSES, MOST_DESCRIPTORS, MOST_NAMESPACES, MOST_SOCKETS = 4096, 65536, 262144, 256, 262144

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace(NamedTuple):
    inode: int
    fd: int


class Target(NamedTuple):
    protocol: int
    family: int
    sockid: bytes
    remnant: bool


def members(directory: str, cgroup_id: int) -> tuple[set[int], set[int]]:
    """Tgids in the cgroup and below, and the ids of these cgroups. Empty where it is gone or another has its name."""
    tgids: set[int] = set()
    cgroups: set[int] = set()
    waiting = [directory]
    while waiting and len(cgroups) < MOST_CGROUPS and len(tgids) < MOST_PROCESSES:
        path = waiting.pop()
        try:
            inode = os.lstat(path).st_ino
            if not cgroups and inode != cgroup_id:
                break
            cgroups.add(inode)
            tgids.update(map(int, _read(f"{path}/cgroup.procs").split()))
            waiting += [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        except (OSError, ValueError):
            continue
    return tgids - {0}, cgroups or {cgroup_id}


def strays(processes: list[list[int]]) -> set[int]:
    """Those that left the cgroup and are still who is meant."""
    return {tgid for tgid, ticks in processes if _start_ticks(tgid) == ticks}


def _start_ticks(tgid: int) -> int | None:
    try:
        return int(_read(f"/proc/{tgid}/stat").rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 20)


def namespaces(tgids: set[int]) -> dict[int, int]:
    """Inode → descriptor, of the network namespaces that processes of the sandbox are in."""
    found: dict[int, int] = {}
    for tgid in tgids:
        try:
            inode = os.stat(f"/proc/{tgid}/ns/net").st_ino
            if inode not in found and len(found) < MOST_NAMESPACES:
                fd = os.open(f"/proc/{tgid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                found[os.fstat(fd).st_ino] = fd
        except OSError:
            continue
    return found


def shared(tgids: set[int]) -> set[int]:
    """Namespaces that somebody else is in too: the inodes."""
    found = {os.stat("/proc/self/ns/net").st_ino}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in tgids:
            try:
                found.add(os.stat(f"/proc/{name}/ns/net").st_ino)
            except OSError:
                continue
    return found


def held(tgids: set[int]) -> dict[int, tuple[int, int]]:
    """Socket inode → (tgid, descriptor) of one who holds it."""
    found: dict[int, tuple[int, int]] = {}
    for tgid in tgids:
        try:
            entries = os.listdir(f"/proc/{tgid}/fd")
        except OSError:
            continue
        for entry in entries:
            try:
                link = os.readlink(f"/proc/{tgid}/fd/{entry}")
            except OSError:
                continue
            if link.startswith("socket:["):
                found.setdefault(int(link[8:-1]), (tgid, int(entry)))
        if len(found) >= MOST_DESCRIPTORS:
            break
    return found


def elsewhere(holders: dict[int, tuple[int, int]], seen: set[int], known: dict[int, int]) -> dict[int, int]:
    """Namespaces that no process is in any more, but a socket of one: made there, or passed. Inode → descriptor."""
    found: dict[int, int] = {}
    for inode, (tgid, number) in holders.items():
        if inode in seen:
            continue
        fd = _copy(tgid, number)
        if fd < 0:
            continue
        try:
            with socket.socket(fileno=fd) as copy:
                if copy.family not in {socket.AF_INET, socket.AF_INET6}:
                    continue
                namespace = fcntl.ioctl(copy.fileno(), _SIOCGSKNS)
        except OSError:
            continue
        which = os.fstat(namespace).st_ino
        if which in known or which in found or len(found) >= MOST_NAMESPACES:
            os.close(namespace)
        else:
            found[which] = namespace
    return found


def _copy(tgid: int, number: int) -> int:
    pidfd = _libc.syscall(_PIDFD_OPEN, tgid, 0)
    if pidfd < 0:
        return -1
    try:
        return int(_libc.syscall(_PIDFD_GETFD, pidfd, number, 0))
    finally:
        os.close(pidfd)


def cgroup_of(message: bytes) -> int:
    at = _MESSAGE_BYTES
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if length < 4:
            break
        if kind & 0x3FFF == _CGROUP_ID and length >= 12:
            return int(struct.unpack_from("=Q", message, at + 4)[0])
        at += (length + 3) & ~3
    return 0


class Counts:
    """What became of the sockets; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written = 0.0
        self.numbers = dict.fromkeys(("destroyed", "gone", "failed", "listening", "unconnected", "namespaces"), 0)
        self.reasons: dict[str, int] = {}

    def add(self, what: str, reason: str = "", count: int = 1) -> None:
        with self._lock:
            self.numbers[what] += count
            if reason and (reason in self.reasons or len(self.reasons) < 16):
                self.reasons[reason] = self.reasons.get(reason, 0) + count
            if time.monotonic() - self._written > 0.02:
                self._write(complete=False)

    def end(self) -> None:
        with self._lock:
            self._write(complete=True)

    def _write(self, *, complete: bool) -> None:
        self._written = time.monotonic()
        line = {**self.numbers, "reasons": self.reasons, "complete": complete}
        os.write(1, json.dumps(line).encode() + b"\n")


class Sweep:
    """`netlink` is sockets_child.Netlink, `found` its Found."""

    def __init__(self, child: Any, request: dict[str, Any], counts: Counts) -> None:
        self._child = child
        self._counts = counts
        self._tgids, self._cgroups = members(request["directory"], request["cgroup_id"])
        self._tgids |= strays(request["processes"])
        self._shared = shared(self._tgids)
        self._holders = held(self._tgids)
        self._seen: set[int] = set()
        self._own = os.stat("/proc/self/ns/net").st_ino

    def run(self) -> None:
        known = namespaces(self._tgids)
        # A socket outlives its maker's stay: in the host's namespace those of the cgroup are looked for always.
        if self._own not in known:
            known[self._own] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for inode, fd in list(known.items()):
            self._namespace(inode, fd)
        for inode, fd in elsewhere(self._holders, self._seen, known).items():
            self._namespace(inode, fd)

    def _namespace(self, inode: int, fd: int) -> None:
        if _libc.setns(fd, _NEWNET):
            self._counts.add("failed", f"a network namespace cannot be entered: {os.strerror(ctypes.get_errno())}")
            return
        self._counts.add("namespaces")
        targets: list[Target] = []
        for protocol in (_TCP, _UDP, _UDPLITE):
            for family in (socket.AF_INET, socket.AF_INET6):
                for message in self._dump(family, protocol):
                    self._judge(message, protocol, inode not in self._shared, targets)
        self._destroy(targets)

    def _dump(self, family: int, protocol: int) -> Iterator[bytes]:
        try:
            yield from self._child.Netlink().dump(family, protocol)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # no handler in this kernel (UDP-Lite): then there are none to find
                self._counts.add("failed", f"sockets cannot be listed: {error.strerror}")

    def _judge(self, message: bytes, protocol: int, alone: bool, targets: list[Target]) -> None:
        found = self._child.Found(message)
        self._seen.add(found.inode)
        ours = alone or cgroup_of(message) in self._cgroups or (found.inode and found.inode in self._holders)
        if not ours or len(targets) >= MOST_SOCKETS:
            return
        if protocol == _TCP and found.state == _LISTEN:
            self._counts.add("listening")
        elif found.state == _CLOSE:
            self._counts.add("unconnected")
        else:
            targets.append(Target(protocol, found.family, found.id, found.state == _TIME_WAIT or found.remnant))

    def _destroy(self, targets: list[Target]) -> None:
        """Threads take one target each. While none comes back for a moment, another is started: who hangs, hangs."""
        waiting: queue.SimpleQueue[Target] = queue.SimpleQueue()
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        for target in targets:
            waiting.put(target)
        workers = min(WORKERS, len(targets))
        for _ in range(workers):
            self._work(waiting, done)
        left = len(targets)
        while left:
            try:
                done.get(timeout=HUNG_S)
                left -= 1
            except queue.Empty:
                if workers >= MOST_WORKERS or waiting.empty():
                    self._counts.add("failed", "its user keeps it locked", left)
                    return
                workers += 1
                self._work(waiting, done)

    def _work(self, waiting: queue.SimpleQueue[Target], done: queue.SimpleQueue[None]) -> None:
        link = self._child.Netlink()  # made here, hence of the namespace that the sweep is in now

        def work() -> None:
            while True:
                try:
                    target = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    code = link.destroy(target.family, target.protocol, target.sockid)
                except OSError as error:
                    code = error.errno or errno.EIO
                self._tell(target, code)
                done.put(None)

        threading.Thread(target=work, daemon=True).start()

    def _tell(self, target: Target, code: int) -> None:
        if code == 0:
            self._counts.add("destroyed")
        elif target.remnant or code in {errno.ENOENT, errno.ESTALE}:
            self._counts.add("gone")
        else:
            self._counts.add("failed", os.strerror(code))


def load(path: str) -> Any:
    """A module by its file: -I keeps this program's own folder out of sys.path."""
    spec = importlib.util.spec_from_file_location("sockets_child", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    request = json.load(sys.stdin)
    counts = Counts()
    try:
        Sweep(load(request["netlink"]), request, counts).run()
    except (OSError, ValueError) as error:
        counts.add("failed", f"the sweep broke off: {error}")
    counts.end()
    os._exit(0)  # threads that hang are not waited for


if __name__ == "__main__":
    main()
