"""The child of sensor.respond.sockets: enters a network namespace and has the kernel destroy sockets in it.

A program of its own, run without site-packages: with the standard library alone it is at work after 30 ms,
and a library for netlink would take ten times as long to import. Reads one JSON object from standard input,
writes a line of JSON for each socket, in order, as it is done: what is there when it must be killed counts.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any, Protocol

# include/uapi/linux/{netlink,sock_diag,inet_diag}.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_REQ_BYTECODE = 1
_S_GE, _S_LE, _D_GE, _D_LE = 2, 3, 4, 5
_EVERY_STATE = 0xFFFFFFFF
_FIN_WAIT2, _TIME_WAIT = 5, 6
_HEADER = struct.Struct("=IHHII")
_REQUEST_HEAD = struct.Struct("=BBxxI")
_ID = struct.Struct("=4s16s16sIII")  # struct inet_diag_sockid; the cookie's low word first
_FOUND = struct.Struct("=BBBB")  # struct inet_diag_msg: family, state, timer, retrans, then the id
_INODE_AT = 4 + _ID.size + 16
_CGROUP_COND = 13  # INET_DIAG_BC_CGROUP_COND, 5.8
_MOST_HELD = 8192  # descriptors that are looked at, of all processes together
_MOST_SWEPT = 256
_NEWNET = 0x40000000  # CLONE_NEWNET
_MOST_BYTES = 1 << 16

_NOT_FOUND = {errno.ENOENT, errno.ESTALE}  # ESTALE: TCP found one of another cookie
_Answer = tuple[str, str]  # outcome, reason


class Found:
    """A socket in a dump, as the kernel itself names it."""

    def __init__(self, message: bytes) -> None:
        self.family, self.state, _, _ = _FOUND.unpack_from(message)
        self.id = message[4 : 4 + _ID.size]
        *_, low, high = _ID.unpack(self.id)
        self.cookie: int = low | high << 32
        (self.inode,) = struct.unpack_from("=I", message, _INODE_AT)

    @property
    def remnant(self) -> bool:
        """Nobody holds it and it sends no data any more; some kernels refuse to destroy it."""
        return self.state in {_FIN_WAIT2, _TIME_WAIT} and not self.inode


class Link(Protocol):
    def destroy(self, family: int, protocol: int, sockid: bytes) -> int:
        """0, or the errno."""

    def find(self, family: int, protocol: int, ports: tuple[int, int], cookie: int) -> Found | int:
        """The socket, or the errno; ENOENT where it is not there."""

    def made_in(self, family: int, protocol: int, cgroup: int) -> list[Found] | int:
        """Sockets that were made by tasks of the cgroup, or the errno."""


class Netlink:
    """NETLINK_SOCK_DIAG of the namespace that this process is in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)

    def destroy(self, family: int, protocol: int, sockid: bytes) -> int:
        self._send(_SOCK_DESTROY, _REQUEST | _ACK, _REQUEST_HEAD.pack(family, protocol, _EVERY_STATE) + sockid)
        for kind, body in self._receive():
            if kind == _NLMSG_ERROR:
                return -int(struct.unpack_from("=i", body)[0])
        return errno.EPROTO

    def find(self, family: int, protocol: int, ports: tuple[int, int], cookie: int) -> Found | int:
        """By its ports and cookie alone. An exact look-up misses a socket bound to a device, which any process may
        do to its own (SO_BINDTODEVICE, since 5.7): only a dump tells the device."""
        code = _port_filter(*ports)
        found: Found | int = errno.ENOENT
        try:
            for message in self.dump(family, protocol, struct.pack("=HH", 4 + len(code), _REQ_BYTECODE) + code):
                if (each := Found(message)).cookie == cookie:
                    found = each
        except OSError as error:
            return error.errno or errno.EIO
        return found

    def dump(self, family: int, protocol: int, attributes: bytes = b"") -> Iterator[bytes]:
        """A struct inet_diag_msg and its attributes, of each socket.

        :raises OSError: the kernel's own; EOPNOTSUPP where it has no handler for the protocol (no
            CONFIG_INET_UDP_DIAG, say).
        """
        body = _REQUEST_HEAD.pack(family, protocol, _EVERY_STATE) + bytes(_ID.size)
        self._send(_SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, body + attributes)
        while True:
            for kind, message in self._receive():
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    failed = -struct.unpack_from("=i", message)[0] if len(message) >= 4 else 0
                    if failed:
                        code = errno.EOPNOTSUPP if failed == errno.ENOENT else failed
                        raise OSError(code, os.strerror(code))
                    return
                if kind == _SOCK_DIAG_BY_FAMILY:
                    yield message

    def made_in(self, family: int, protocol: int, cgroup: int) -> list[Found] | int:
        code = struct.pack("=BBHQ", _CGROUP_COND, 12, 16, cgroup)
        body = _REQUEST_HEAD.pack(family, protocol, _EVERY_STATE) + bytes(_ID.size)
        self._send(
            _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, body + struct.pack("=HH", 4 + len(code), _REQ_BYTECODE) + code
        )
        found: list[Found] = []
        while True:
            for kind, message in self._receive():
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    failed = -struct.unpack_from("=i", message)[0] if len(message) >= 4 else 0
                    return failed or found
                if kind == _SOCK_DIAG_BY_FAMILY:
                    found.append(Found(message))

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.sendto(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body, (0, 0))

    def _receive(self) -> list[tuple[int, bytes]]:
        data = self._socket.recv(_MOST_BYTES)
        messages = []
        while len(data) >= _HEADER.size:
            length, kind, *_ = _HEADER.unpack_from(data)
            messages.append((kind, data[_HEADER.size : length]))
            data = data[(length + 3) & ~3 :]
        return messages


def _port_filter(local: int, remote: int) -> bytes:
    """struct inet_diag_bc_op pairs: the second of a pair has the port to compare with. Equality is an operation of
    its own only since 5.1."""
    tests = [(_S_GE, local), (_S_LE, local), (_D_GE, remote), (_D_LE, remote)]
    code = b""
    for index, (operation, port) in enumerate(tests):
        left = 8 * (len(tests) - index)
        # A jump to 4 beyond the end rejects.
        code += struct.pack("=BBHBBH", operation, 8, left + 4, 0, 0, port)
    return code


def end(link: Link, wanted: dict[str, Any]) -> _Answer:
    """Destroys one socket. `wanted` is a sockets.Socket as JSON."""
    protocol, cookie = int(wanted["protocol"]), int(wanted["cookie"])
    ports = int(wanted["local_port"]), int(wanted["remote_port"])
    family, local = _packed(wanted["local"])
    other, remote = _packed(wanted["remote"])
    if family != other:
        return "failed", "addresses of two families"
    sockid = _ID.pack(struct.pack(">HH", *ports), local, remote, 0, cookie & 0xFFFFFFFF, cookie >> 32)
    code = link.destroy(family, protocol, sockid)
    if code not in {*_NOT_FOUND, errno.EOPNOTSUPP}:
        return _told(code)
    found = _search(link, family, protocol, ports, cookie)
    if isinstance(found, int):
        return ("gone", "") if found in _NOT_FOUND else _told(found)
    if found.remnant:
        return "gone", ""
    if code == errno.EOPNOTSUPP:
        return _told(code)
    code = link.destroy(found.family, protocol, found.id)
    return ("failed", "another socket answers to its addresses") if code in _NOT_FOUND else _told(code)


def sweep(link: Link, inodes: set[int], cgroup: int) -> list[_Answer]:
    """Destroys what was made in the cgroup and is among these: nobody else's that was made there."""
    told: list[_Answer] = []
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        for family in (socket.AF_INET, socket.AF_INET6):
            found = link.made_in(family, protocol, cgroup)
            if isinstance(found, int):
                told.append(_told(found))
                continue
            mine = [each for each in found if each.inode in inodes][: _MOST_SWEPT - len(told)]
            told += [_told(link.destroy(each.family, protocol, each.id)) for each in mine]
    return told


def held(processes: list[list[int]]) -> set[int]:
    """Inodes of the sockets that these hold, as far as they are still the ones meant."""
    inodes: set[int] = set()
    looked = 0
    for tgid, start_ticks in processes:
        try:
            names = os.listdir(f"/proc/{tgid}/fd")
        except OSError:
            continue
        of_this = set()
        for name in names[: _MOST_HELD - looked]:
            looked += 1
            try:
                link = os.readlink(f"/proc/{tgid}/fd/{name}")
            except OSError:
                continue
            if link.startswith("socket:["):
                of_this.add(int(link[8:-1]))
        if _start_ticks(tgid) == start_ticks:  # else another has the number by now
            inodes |= of_this
    return inodes


def _search(link: Link, family: int, protocol: int, ports: tuple[int, int], cookie: int) -> Found | int:
    found = link.find(family, protocol, ports, cookie)
    if family == socket.AF_INET and found in _NOT_FOUND:
        # An IPv6 socket with an IPv4 peer is in the dump of its own family only.
        found = link.find(socket.AF_INET6, protocol, ports, cookie)
    return found


def _told(code: int) -> _Answer:
    if code == 0:
        return "destroyed", ""
    return ("unsupported" if code == errno.EOPNOTSUPP else "failed"), os.strerror(code)


def _packed(text: str) -> tuple[int, bytes]:
    """The family that a look-up takes, and 16 bytes. For ::ffff:a.b.c.d it is IPv4, whatever the socket's own is."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    packed = packed[12:] if packed.startswith(bytes(10) + b"\xff\xff") else packed
    return (socket.AF_INET if len(packed) == 4 else socket.AF_INET6), packed.ljust(16, b"\0")


def enter(processes: list[list[int]], inode: int) -> bool:
    """The network namespace of the first process that is still the one meant, and in the namespace meant."""
    libc = ctypes.CDLL(None, use_errno=True)
    for tgid, start_ticks in processes:
        try:
            fd = os.open(f"/proc/{tgid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # After the open: who started then and is there now was there in between.
            right = _start_ticks(tgid) == start_ticks and inode in {0, os.fstat(fd).st_ino}
            if right and libc.setns(fd, _NEWNET) == 0:
                return True
        finally:
            os.close(fd)
    return False


def _start_ticks(tgid: int) -> int | None:
    try:
        with open(f"/proc/{tgid}/stat", "rb") as file:
            return int(file.read(1024).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None


def main() -> None:
    request = json.load(sys.stdin)
    inodes = held(request["processes"]) if request["made_in"] else set()
    if not enter(request["processes"], request["net_namespace"]):
        answers = [("failed", "no process of these is in its network namespace")] * len(request["sockets"])
        os.write(1, b"".join(map(_line, answers)))
        return
    link = Netlink()
    for wanted in request["sockets"]:
        try:
            answer = end(link, wanted)
        except (OSError, ValueError) as why:
            answer = "failed", str(why)
        os.write(1, _line(answer))
    if request["made_in"]:
        try:
            swept = sweep(link, inodes, request["made_in"])
        except (OSError, ValueError) as why:
            swept = [("failed", str(why))]
        os.write(1, b"".join(map(_line, swept)))


def _line(answer: _Answer) -> bytes:
    return json.dumps({"outcome": answer[0], "reason": answer[1]}).encode() + b"\n"


if __name__ == "__main__":
    main()
