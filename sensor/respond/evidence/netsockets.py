"""Sockets of a sandbox, by network namespace: TCP and UDP by sock_diag with their bytes, the others by /proc.

A socket is the sandbox's if one of its processes holds it, if it was made in one of its cgroups, or if it is in a
network namespace that is not the host's. Of the child, which enters the namespaces one by one.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator

from sensor.respond.evidence.bounded import LIMITS, Notes, Record, put, try_read
from sensor.respond.evidence.processes import Process

# include/uapi/linux/{netlink,sock_diag,inet_diag,tcp}.h
_SOCK_DIAG, _BY_FAMILY = 4, 20
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
_MESSAGE = struct.Struct("=BBBB 4s16s16sIII IIIII")
_ATTRIBUTE = struct.Struct("=HH")
_INFO, _CGROUP_ID = 2, 21
_WITH_INFO = 1 << (_INFO - 1)
_BYTES_AT, _SENT_AT = 120, 200  # in struct tcp_info: bytes_acked, bytes_received, segs_out, segs_in; bytes_sent
_TIME_WAIT = 6
_EVERY_STATE = 0xFFFFFFFF
_STATES = (
    *("", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE"),
    *("CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV", "BOUND_INACTIVE"),
)
_PROTOCOLS = ((socket.IPPROTO_TCP, "tcp"), (socket.IPPROTO_UDP, "udp"))
_FAMILIES = ((socket.AF_INET, "inet"), (socket.AF_INET6, "inet6"))
# File in /proc/TGID/net → column of the socket's inode.
_TABLES = {"unix": 6, "netlink": 9, "packet": 8, "raw": 9, "raw6": 9, "icmp": 9, "icmp6": 9, "udplite": 9}
_NEWNET = 0x40000000
_WAIT_S = 2
_OWNERS = 64
_libc = ctypes.CDLL(None, use_errno=True)


class Sockets:
    def __init__(self, processes: list[Process], cgroups: set[int], notes: Notes) -> None:
        self.count = 0
        self.records: list[Record] = []  # a namespace each
        self._cgroups = cgroups
        self._notes = notes
        self._owners = _owners(processes)
        self._unseen = set(self._owners)
        self._collect(processes)

    def record(self) -> Record:
        unseen = sorted(self._unseen)[: LIMITS["sockets"]]
        return {
            "namespaces": self.records,
            # Closed or destroyed while their descriptor stays, of a namespace without a process, or of a family
            # that no table shows.
            "in_no_table": [{"inode": inode, "owners": self._owners[inode][:_OWNERS]} for inode in unseen],
        }

    def _collect(self, processes: list[Process]) -> None:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        host = os.fstat(own).st_ino
        first: dict[int, Process] = {}
        for process in processes:
            if process.net:
                first.setdefault(process.net, process)
        if len(first) > LIMITS["namespaces"]:
            self._notes.cut(f"network namespaces beyond {LIMITS['namespaces']} were not entered")
        try:
            for inode, process in list(first.items())[: LIMITS["namespaces"]]:
                record: Record = {"inode": inode, "host": inode == host, "sockets": [], "others": {}}
                self.records.append(record)
                if _libc.setns(own, _NEWNET) == 0 if inode == host else _enter(process, inode):
                    record["sockets"] = list(self._inet(inode == host))
                else:
                    self._notes.lost("a network namespace could not be entered")
                record["others"] = self._others(process)
        finally:
            _libc.setns(own, _NEWNET)
            os.close(own)

    def _inet(self, host: bool) -> Iterator[Record]:
        # What lingers in TIME_WAIT is nobody's; the host has many, a sandbox's own namespace tells of it.
        states = _EVERY_STATE & ~(1 << _TIME_WAIT) if host else _EVERY_STATE
        for protocol, name in _PROTOCOLS:
            for family, of in _FAMILIES:
                request = _REQUEST.pack(family, protocol, _WITH_INFO, states)
                try:
                    for each in self._dumped(request, host):
                        yield {"protocol": name, "family": of} | each
                except OSError as why:
                    self._notes.lost(f"{name} sockets could not be listed: {os.strerror(why.errno or 0)}")

    def _dumped(self, request: bytes, host: bool) -> Iterator[Record]:
        for looked_at, message in enumerate(_dump(request)):
            if self.count >= LIMITS["sockets"] or looked_at >= LIMITS["dump_sockets"]:
                self._notes.cut("sockets were cut: too many of them")
                return
            (inode,) = struct.unpack_from("=I", message, _MESSAGE.size - 4)
            attributes = dict(_attributes(message))
            cgroup_id = int.from_bytes(attributes.get(_CGROUP_ID, b""), "little")
            if not host or inode in self._owners or cgroup_id in self._cgroups:
                self._unseen.discard(inode)
                self.count += 1
                yield _described(message, attributes, cgroup_id) | {"owners": self._owners.get(inode, [])}

    def _others(self, process: Process) -> Record:
        """Lines of those that are held, as the kernel writes them."""
        found: Record = {}
        for name, column in _TABLES.items():
            content = try_read(f"net/{name}", LIMITS["net_file_bytes"], process.base) or b""
            if len(content) >= LIMITS["net_file_bytes"]:
                self._notes.cut("tables of sockets that are not TCP or UDP were cut: too many bytes")
            rows = []
            for line in content.splitlines()[1:]:
                fields = line.split(None, column + 1)
                inode = int(fields[column]) if len(fields) > column and fields[column].isdigit() else 0
                if inode in self._owners and self.count < LIMITS["sockets"]:
                    self.count += 1
                    self._unseen.discard(inode)
                    row: Record = {"inode": inode, "owners": self._owners[inode][:_OWNERS]}
                    put(row, "line", line)
                    rows.append(row)
            if rows:
                found[name] = rows
        return found


def _owners(processes: list[Process]) -> dict[int, list[int]]:
    """Inode → tgids."""
    found: dict[int, list[int]] = {}
    for process in processes:
        for _, target in process.descriptors:
            if target.startswith(b"socket:["):
                holders = found.setdefault(int(target[8:-1]), [])
                if process.tgid not in holders and len(holders) < _OWNERS:
                    holders.append(process.tgid)
    return found


def _enter(process: Process, inode: int) -> bool:
    try:
        fd = os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process.base)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_ino == inode and _libc.setns(fd, _NEWNET) == 0
    finally:
        os.close(fd)


def _dump(request: bytes) -> Iterator[bytes]:
    """Until its end. :raises OSError: the kernel's answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _WAIT_S, 0))
        link.sendto(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + request, (0, 0))
        yield from _messages(link)


def _messages(link: socket.socket) -> Iterator[bytes]:
    while True:
        data = link.recv(1 << 16)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            if kind == _ERROR and (failed := struct.unpack_from("=i", body)[0]):
                raise OSError(-failed, "sock_diag")
            if kind in {_ERROR, _DONE}:
                return
            if kind == _BY_FAMILY and len(body) >= _MESSAGE.size:
                yield body
            at += (max(length, _HEADER.size) + 3) & ~3


def _attributes(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        yield kind, message[at + _ATTRIBUTE.size : at + length]
        at += (max(length, _ATTRIBUTE.size) + 3) & ~3


def _described(message: bytes, attributes: dict[int, bytes], cgroup_id: int) -> Record:
    family, state, _, retransmits, ports, local, remote, interface, low, high, _, received, sent, uid, inode = (
        _MESSAGE.unpack_from(message)
    )
    size = 4 if family == socket.AF_INET else 16
    local_port, remote_port = struct.unpack(">HH", ports)
    record: Record = {
        "state": _STATES[state] if state < len(_STATES) else state,
        **{"local": socket.inet_ntop(family, local[:size]), "local_port": local_port},
        **{"remote": socket.inet_ntop(family, remote[:size]), "remote_port": remote_port},
        **{"interface": interface, "cookie": low | high << 32, "inode": inode, "uid": uid, "cgroup_id": cgroup_id},
        **{"receive_queue": received, "send_queue": sent, "retransmits": retransmits},
    }
    info = attributes.get(_INFO, b"")
    if len(info) >= _BYTES_AT + 24:
        fields = ("bytes_acked", "bytes_received", "segments_out", "segments_in")
        record |= zip(fields, struct.unpack_from("=QQII", info, _BYTES_AT), strict=True)
    if len(info) >= _SENT_AT + 8:
        (record["bytes_sent"],) = struct.unpack_from("=Q", info, _SENT_AT)
    return record
