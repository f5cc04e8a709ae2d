"""Do the probes see what is there? A child of ours goes into a sandbox cgroup of its own and does one of
each thing; what the ring then says is compared with /proc and with what we know.

One wrong offset makes every rule blind in silence, so any difference refuses the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from sensor.errors import SelfTestError
from sensor.events.layouts import (
    Cgroup,
    Connect,
    ConnectUnix,
    DeviceAttempt,
    Exec,
    Exit,
    File,
    Flow,
    Fork,
    Move,
    Payload,
    Stream,
    Type,
    Way,
)

# Empty and multi-byte arguments, and one longer than any fixed buffer; no value means anything.
ARGV = (b"pinfold-self-test", b"", "\u00e9".encode(), b"x" * 700, b"--", b"end")
EXIT_STATUS = 77
FIRST_BYTES = b"pinfold's self-test"
# All different, and none root's: with zeroes everywhere a wrong offset would read the right value.
_UIDS = (65521, 65522, 65523)
_GIDS = (65531, 65532, 65533)
_OWNER, _GROUP, _MODE = 65522, 65534, 0o100755
_PROGRAM = "/bin/sh"
_CLONE_NEWPID = 0x20000000
_SCRIPT = b'read -r line; exit "$line"'
_WAIT_S = 5.0
_NAMESPACES = ("pid", "mnt", "net", "user", "cgroup")
_KMSG = "/dev/kmsg"  # character 1:11, on every host, and opening it changes nothing

Drain = Callable[[], object]


class Witness(Struct):
    """What the child is, by /proc, while it waits."""

    tgid: int
    parent_tgid: int
    start_ticks: int
    parent_start_ticks: int
    argv: bytes
    image: bytes
    cwd: bytes
    inode: int
    device: int
    namespaces: dict[str, int]
    port: int
    socket_path: bytes
    streams: tuple[str, str, str]  # what the links say


class SelfTest:
    """`records` is filled by whoever reads the ring, with every record of `sandbox_id`."""

    def __init__(self, mount: str, parent: str, unix: bool) -> None:
        self._folder = f"{mount}/{parent}/pinfold-self-test-{os.getpid()}"
        self._unix = unix
        self.sandbox_id = 0
        self.records: list[Struct] = []

    def make(self) -> int:
        """The sandbox, from which on its records are to be kept aside. Returns its cgroup id."""
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._folder)
        os.mkdir(self._folder)
        self.sandbox_id = os.stat(self._folder).st_ino
        return self.sandbox_id

    def run(self, drain: Drain) -> None:
        """Raises SelfTestError with the first difference found. `drain` reads the ring once."""
        try:
            with _listeners() as (port, path):
                witness = self._act(port, path)
            self._remove()
            deadline = time.monotonic() + _WAIT_S
            while time.monotonic() < deadline and not self._complete():
                drain()
                time.sleep(0.001)
            self._compare(witness)
        finally:
            self._remove()

    def _remove(self) -> None:
        for _ in range(50):
            try:
                os.rmdir(self._folder)
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)
            else:
                return

    def _complete(self) -> bool:
        """The death of the cgroup is the last thing it does."""
        return any(isinstance(record, Cgroup) and record.type == Type.CGROUP_DEATH for record in self.records)

    def _act(self, port: int, path: bytes) -> Witness:
        """In a pid namespace below ours, so that a task's own namespace is not everybody's."""
        ready_read, ready_write = os.pipe()
        input_read, input_write = os.pipe()
        os.set_blocking(ready_read, True)
        parent = os.fork()
        if parent == 0:
            os.close(ready_read)
            os.close(input_write)
            self._parent(port, path, ready_write, input_read)
        os.close(ready_write)
        os.close(input_read)
        try:
            with open(ready_read, "rb") as ready:
                told = ready.read()
            tgid, _, trouble = told.partition(b"\n")
            if trouble or not tgid.isdigit():
                raise SelfTestError(f"self-test: its child failed: {ascii(told)[:300]}")
            witness = _witness(int(tgid), port, path)
            os.write(input_write, b"%d\n" % EXIT_STATUS)
        finally:
            os.close(input_write)
            os.waitpid(parent, 0)
        return witness

    def _parent(self, port: int, path: bytes, ready: int, standard_input: int) -> None:
        """Never returns; tells the tgid of the child, which is another in its own namespace."""
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWPID):
                raise OSError(ctypes.get_errno(), "unshare")
            go_read, go_write = os.pipe()
            child = os.fork()
            if child == 0:
                os.read(go_read, 1)
                self._child(port, path, ready, standard_input)
            os.write(ready, b"%d\n" % child)
            Path(self._folder, "cgroup.procs").write_text(str(child))
            os.write(go_write, b"x")
            os.close(ready)
            os.waitpid(child, 0)
        except BaseException as error:  # a forked child must not return into the sensor's loop
            os.write(ready, b"\n" + repr(error).encode())
        os._exit(0)

    def _child(self, port: int, path: bytes, ready: int, standard_input: int) -> None:
        """Never returns. `ready` closes by the exec, or brings what went wrong."""
        try:
            if os.fork() == 0:
                os._exit(0)
            os.wait()
            four = socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # its standard output from here on
            four.connect(("127.0.0.1", port))
            four.sendall(FIRST_BYTES)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
                datagram.sendto(b"x", ("127.0.0.2", port))
            with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as six:
                six.connect(("::1", port))
            with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagram:
                datagram.sendto(b"x", ("::1", port))
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
                local.connect(b"\0" + path)
            with contextlib.suppress(OSError):  # refused, where a policy says so
                os.close(os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK))
            os.chdir("/proc/sys/kernel")
            program = _program()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for number, stream in enumerate((standard_input, four.fileno(), nowhere)):
                os.dup2(stream, number)
                os.set_inheritable(number, True)
            os.setgroups([])
            os.setresgid(*_GIDS)
            os.setresuid(*_UIDS)
            argv = [ARGV[0], b"-c", _SCRIPT, *ARGV[1:]]
            os.execve(program, argv, {b"SECRET": b"never in a record"})  # noqa: S606 - a memfd, no shell is meant
        except BaseException as error:  # a forked child must not return into the sensor's loop
            os.write(ready, b"\n" + repr(error).encode())
        os._exit(1)

    # Comparing.

    def _one(self, kind: type[Struct], *, where: Callable[[object], bool] = lambda _: True) -> Struct:
        for record in self.records:
            if isinstance(record, kind) and where(record):
                return record
        raise SelfTestError(
            f"self-test: the probes sent no {kind.__name__} record of {sys.executable}'s child; "
            "is another sensor detaching programs?"
        )

    def _compare(self, witness: Witness) -> None:
        birth = self._one(Cgroup, where=lambda r: r.type == Type.CGROUP_BIRTH)  # type: ignore[attr-defined]
        _same("cgroup birth", "cgroup id", birth.cgroup_id, self.sandbox_id)  # type: ignore[attr-defined]
        move = self._one(Move)
        _same("migration", "tgid", move.tgid, witness.tgid)  # type: ignore[attr-defined]
        fork = self._one(Fork)
        _same("fork", "parent's tgid", fork.parent_tgid, witness.tgid)  # type: ignore[attr-defined]
        _same("fork", "cgroup id", (fork.cgroup_id, fork.flags), (self.sandbox_id, 0))  # type: ignore[attr-defined]
        _same("fork", "parent's start", fork.parent_start_ns // 10_000_000, witness.start_ticks)  # type: ignore[attr-defined]
        self._compare_exec(self._one(Exec), witness)  # type: ignore[arg-type]
        self._compare_network(witness)
        self._compare_flows(witness)
        device = self._one(DeviceAttempt)
        _same("device", "major and minor", (device.major, device.minor), (1, 11))  # type: ignore[attr-defined]
        _same("device", "tgid", device.tgid, witness.tgid)  # type: ignore[attr-defined]
        end = self._one(Exit, where=lambda r: r.tgid == witness.tgid)  # type: ignore[attr-defined]
        _same("exit", "status", end.exit_code, EXIT_STATUS << 8)  # type: ignore[attr-defined]
        _same("exit", "start", end.start_ns // 10_000_000, witness.start_ticks)  # type: ignore[attr-defined]
        _same("fork", "child's exit", fork.start_ns, self._first_exit(fork.tgid))  # type: ignore[attr-defined]
        death = self._one(Cgroup, where=lambda r: r.type == Type.CGROUP_DEATH)  # type: ignore[attr-defined]
        _same("cgroup death", "cgroup id", death.cgroup_id, self.sandbox_id)  # type: ignore[attr-defined]

    def _first_exit(self, tgid: int) -> int:
        end = self._one(Exit, where=lambda r: r.tgid == tgid)  # type: ignore[attr-defined]
        return int(end.start_ns)  # type: ignore[attr-defined]

    def _compare_exec(self, seen: Exec, witness: Witness) -> None:
        _same("exec", "argv", seen.argv, witness.argv)
        _same("exec", "argv length", seen.argv_bytes, len(witness.argv))
        _same("exec", "invoked path", seen.filename[:8], b"/dev/fd/")
        _same("exec", "image", _path(seen.image_path), witness.image.removesuffix(b" (deleted)"))
        _same("exec", "working directory", _path(seen.cwd_path), witness.cwd)
        _same("exec", "file", File(seen.file_flags), File.MEMFD | File.TMPFS | File.DELETED | File.WRITABLE)
        _same("exec", "inode", seen.inode, witness.inode)
        _same("exec", "device", (seen.device >> 20, seen.device & 0xFFFFF), _split(witness.device))
        _same("exec", "mode and owner", (seen.mode, seen.owner, seen.group), (_MODE, _OWNER, _GROUP))
        _same("exec", "cgroup id", (seen.cgroup_id, seen.sandbox_id), (self.sandbox_id, self.sandbox_id))
        _same("exec", "parent's tgid", seen.parent_tgid, witness.parent_tgid)
        _same("exec", "start", seen.start_ns // 10_000_000, witness.start_ticks)
        _same("exec", "parent's start", seen.parent_start_ns // 10_000_000, witness.parent_start_ticks)
        _same("exec", "uid, euid, egid", (seen.uid, seen.euid, seen.egid), (_UIDS[0], _UIDS[1], _GIDS[1]))
        namespaces = (seen.pid_ns, seen.mnt_ns, seen.net_ns, seen.user_ns, seen.cgroup_ns)
        kinds = (Stream.PIPE, Stream.SOCKET, Stream.NULL)
        _same("exec", "standard streams", (seen.stdin_kind, seen.stdout_kind, seen.stderr_kind), kinds)
        told = (f"pipe:[{seen.stdin_inode}]", f"socket:[{seen.stdout_inode}]", os.devnull)
        _same("exec", "standard streams' inodes", told, witness.streams)
        _same("exec", "namespaces", dict(zip(_NAMESPACES, namespaces, strict=True)), witness.namespaces)

    def _compare_flows(self, witness: Witness) -> None:
        """The socket that is its standard output, and a datagram that it sent."""
        flow: Flow = self._one(Flow, where=lambda r: r.protocol == 6 and r.family == 2)  # type: ignore[attr-defined,assignment]
        _same("flow", "tgid", flow.tgid, witness.tgid)
        _same("flow", "address", (flow.remote[:4], flow.remote_port), (bytes((127, 0, 0, 1)), witness.port))
        _same("flow", "inode", f"socket:[{flow.inode}]", witness.streams[1])
        sent: Flow = self._one(Flow, where=lambda r: r.protocol == 17 and r.family == 2)  # type: ignore[attr-defined,assignment]
        for each in (flow, sent):
            _same("flow", "cgroup id", each.cgroup_id, self.sandbox_id)
            _same("flow", "network namespace", each.net_ns, witness.namespaces["net"])
        bytes_: Payload = self._one(Payload, where=lambda r: r.protocol == 6)  # type: ignore[attr-defined,assignment]
        _same("flow", "first bytes", (bytes_.data, bytes_.offset, bytes_.incoming), (FIRST_BYTES, 0, 0))
        _same("flow", "device", bytes_.device, Way.LOOPBACK)

    def _compare_network(self, witness: Witness) -> None:
        four: Connect = self._one(Connect, where=lambda r: r.protocol == 6 and r.family == 2)  # type: ignore[attr-defined,assignment]
        _same("connect", "address", (four.address[:4], four.port), (bytes((127, 0, 0, 1)), witness.port))
        _same("connect", "stamp", (four.maker_tgid, four.maker_sandbox_id), (witness.tgid, self.sandbox_id))
        sent: Connect = self._one(Connect, where=lambda r: r.protocol == 17 and r.family == 2)  # type: ignore[attr-defined,assignment]
        _same("sendmsg", "address", (sent.address[:4], sent.port), (bytes((127, 0, 0, 2)), witness.port))
        if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
            six: Connect = self._one(Connect, where=lambda r: r.protocol == 6 and r.family == 10)  # type: ignore[attr-defined,assignment]
            _same("connect6", "address", (six.address, six.port), (bytes(15) + b"\1", witness.port))
            sent = self._one(Connect, where=lambda r: r.protocol == 17 and r.family == 10)  # type: ignore[attr-defined,assignment]
            _same("sendmsg6", "address", (sent.address, sent.port), (bytes(15) + b"\1", witness.port))
        if self._unix:
            unix: ConnectUnix = self._one(ConnectUnix)  # type: ignore[assignment]
            _same("connect_unix", "path", unix.target, b"\0" + witness.socket_path)


@contextlib.contextmanager
def _listeners() -> Iterator[tuple[int, bytes]]:
    """A TCP port on loopback and an abstract unix name, of our own, for the child to connect to."""
    name = b"pinfold-self-test-%d" % os.getpid()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local,
    ):
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        local.bind(b"\0" + name)
        local.listen()
        yield tcp.getsockname()[1], name


def _same(event: str, what: str, seen: object, true: object) -> None:
    if seen != true:
        raise SelfTestError(
            f"self-test: {event}: {what} is {true!a}, but the probes saw {str(ascii(seen))[:200]}; "
            "this kernel's layout is not understood, please report it with `uname -a`"
        )


def _path(walked: bytes) -> bytes:
    return b"/" + b"/".join(reversed(walked.rstrip(b"\0").split(b"\0")))


def _split(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def _start_ticks(tgid: int) -> int:
    return int(Path(f"/proc/{tgid}/stat").read_text().rpartition(")")[2].split()[19])


def _program() -> int:
    """A shell in a memfd: deleted, on tmpfs, writable by its owner, all of which the probes tell."""
    program = os.memfd_create("pinfold-self-test", 0)
    with open(_PROGRAM, "rb") as original:
        while piece := original.read(1 << 20):
            os.write(program, piece)
    os.fchmod(program, _MODE & 0o7777)
    os.fchown(program, _OWNER, _GROUP)
    # exec refuses a file that is open for writing
    readable = os.open(f"/proc/self/fd/{program}", os.O_RDONLY)
    os.close(program)
    os.set_inheritable(readable, True)
    return readable


def _witness(tgid: int, port: int, path: bytes) -> Witness:
    proc = f"/proc/{tgid}"
    status = os.stat(f"{proc}/exe")
    parent = int(Path(f"{proc}/stat").read_text().rpartition(")")[2].split()[1])
    return Witness(
        tgid=tgid,
        parent_tgid=parent,
        start_ticks=_start_ticks(tgid),
        parent_start_ticks=_start_ticks(parent),
        argv=Path(f"{proc}/cmdline").read_bytes(),
        image=os.fsencode(os.readlink(f"{proc}/exe")),
        cwd=os.fsencode(os.readlink(f"{proc}/cwd")),
        inode=status.st_ino,
        device=status.st_dev,
        namespaces={name: os.stat(f"{proc}/ns/{name}").st_ino for name in _NAMESPACES},
        port=port,
        socket_path=path,
        streams=(os.readlink(f"{proc}/fd/0"), os.readlink(f"{proc}/fd/1"), os.readlink(f"{proc}/fd/2")),
    )
