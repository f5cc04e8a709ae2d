"""Two network namespaces joined by a veth pair, and no way out of either.

`inside` is where the sandboxes' programs run, `outside` plays the internet, at addresses of TEST-NET-3 (RFC 5737) and
2001:db8::/64 (RFC 3849). Neither has a leg in the host's namespace nor a default route: nothing leaves the machine.

A namespace belongs to a thread (setns(2)), so everything done in one is done by a thread that enters it, does that one
thing and ends: a fork of that thread is born there, and its first program is the one asked for. Neither `ip netns exec`
nor nsenter: the first mounts /sys anew, which hides the cgroup mount, and both would be the sandbox's first program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

from sensor.demo.network import NAMESPACES, remove_namespace
from tests.live.names import unique
from tests.live.peers.programs import Program, until
from tests.live.running import Sandbox

SANDBOX, SANDBOX6 = "203.0.113.2", "2001:db8::2"
SERVER, OTHER, ALLOWED = "203.0.113.10", "203.0.113.20", "203.0.113.30"
SERVER6 = "2001:db8::10"
RESOLVER = "203.0.113.53"
METADATA = "169.254.169.254"  # the clouds' own service
ANYWHERE = "198.51.100.0/24"  # TEST-NET-2: each address of it is the outside's, for sweeps

INSIDE = f"""
link set lo up
link set eth0 addrgenmode none
address add {SANDBOX}/24 dev eth0
address add {SANDBOX6}/64 dev eth0 nodad
link set eth0 up
route add {METADATA} dev eth0
route add {ANYWHERE} via {SERVER}
"""
OUTSIDE = f"""
link set lo up
link set eth0 addrgenmode none
{"".join(f"address add {address}/24 dev eth0{os.linesep}" for address in (SERVER, OTHER, ALLOWED, RESOLVER))}
{"".join(f"address add 2001:db8::{host}/64 dev eth0 nodad{os.linesep}" for host in (10, 20, 30, 53))}
address add {METADATA}/32 dev eth0
link set eth0 up
route add local {ANYWHERE} dev lo
"""
HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
RESOLV_CONF = f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n"
CLONE_NEWNS, CLONE_NEWNET, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x40000000, 4096, 16384, 1 << 18
TCP_ESTABLISHED, TCP_LISTEN, UDP_UNCONNECTED = "01", "0A", "07"  # `st` of /proc/net/tcp and udp

Result = TypeVar("Result")
libc = ctypes.CDLL(None, use_errno=True)


def checked(status: int, what: str) -> None:
    if status:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def bind_files(files: Mapping[str, Path]) -> None:
    """Give the calling thread a mount namespace in which these paths show these files."""
    checked(libc.unshare(CLONE_NEWNS), "unshare")
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    for path, file in files.items():
        checked(libc.mount(bytes(file), path.encode(), None, MS_BIND, None), f"mount on {path}")


def port_of(place: str) -> int:
    """Of `0100007F:0016`."""
    return int(place.rpartition(":")[2], 16)


class Namespace:
    """A network namespace by its name under /run/netns."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, NAMESPACES / name

    def call(self, do: Callable[[], Result], files: Mapping[str, Path] | None = None) -> Result:
        """What `do` gives, called by a thread in the namespace; with `files`, bind-mounted for it and its forks."""
        outcome: Future[Result] = Future()

        def enter_and_do() -> None:
            try:
                with open(self.path, "rb") as file:
                    checked(libc.setns(file.fileno(), CLONE_NEWNET), f"setns to {self.name}")
                if files:
                    bind_files(files)
                outcome.set_result(do())
            except BaseException as error:  # raised in the caller, below
                outcome.set_exception(error)

        thread = Thread(target=enter_and_do)
        thread.start()
        thread.join()
        return outcome.result()

    def connect(self, address: str, port: int, timeout: float = 10.0) -> socket.socket:
        return self.call(lambda: socket.create_connection((address, port), timeout))

    def listening(self, port: int, protocol: str = "tcp") -> bool:
        """Whether a socket of the namespace, of either family, waits on the port."""
        state = TCP_LISTEN if protocol == "tcp" else UDP_UNCONNECTED
        return any(row[3] == state and port_of(row[1]) == port for row in self._sockets(protocol))

    def connected(self, port: int) -> bool:
        """Whether a TCP connection to that port of any peer stands."""
        return any(row[3] == TCP_ESTABLISHED and port_of(row[2]) == port for row in self._sockets("tcp"))

    def _sockets(self, protocol: str) -> list[list[str]]:
        """Rows of proc(5)'s tables of both families."""

        def read() -> str:
            # /proc/net is the first thread's namespace, hence not it.
            return "".join(Path(f"/proc/thread-self/net/{protocol}{family}").read_text() for family in ("", "6"))

        return [row for line in self.call(read).splitlines() if ":" in (row := line.split())[0]]

    def ip(self, batch: str) -> None:
        """Commands of ip(8), one a line."""
        command = ["ip", "-batch", "-"]
        done = self.call(lambda: subprocess.run(command, input=batch.encode(), capture_output=True, check=False))
        if done.returncode:
            raise OSError(f"ip in {self.name}: {done.stderr.decode(errors='replace').strip()}")


class Network:
    """`with Network() as network:`; whatever runs in its namespaces ends with it. `folder` lets any user through."""

    def __init__(self) -> None:
        name = f"pinfold-test-{unique()}"
        self.inside, self.outside = Namespace(f"{name}-in"), Namespace(f"{name}-out")
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.folder.chmod(0o711)
        self.hosts, self._resolv_conf = self.folder / "hosts", self.folder / "resolv.conf"
        self._programs: list[Program] = []
        self._ports: set[int] = set()

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        self.hosts.write_text(HOSTS)
        self._resolv_conf.write_text(RESOLV_CONF)
        for namespace in (self.inside, self.outside):
            subprocess.run(["ip", "netns", "add", namespace.name], check=True)
        pair = ["eth0", "netns", self.inside.name, "type", "veth", "peer", "name", "eth0", "netns", self.outside.name]
        subprocess.run(["ip", "link", "add", *pair], check=True)
        self.outside.ip(OUTSIDE)
        self.inside.ip(INSIDE)
        # Servers outside listen on ports below 1024 without being root.
        first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        self.outside.call(lambda: first.write_text("0"))

    def _remove(self) -> None:
        for program in reversed(self._programs):
            with contextlib.suppress(ProcessLookupError):
                program.stop()
        for namespace in (self.inside, self.outside):
            remove_namespace(namespace.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self) -> int:
        """A port that nothing uses, below those that the kernel picks for connections."""
        while (port := 10_000 + secrets.randbelow(20_000)) in self._ports:
            continue
        self._ports.add(port)
        return port

    def start_inside(
        self, sandbox: Sandbox, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> Program:
        """In the sandbox, and with our own /etc/hosts and /etc/resolv.conf; `options` as of Popen, and `uid`."""
        files = {"/etc/hosts": self.hosts, "/etc/resolv.conf": self._resolv_conf}
        return self._start(self.inside, sandbox.start, argv, env, files, options)

    def start_outside(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
        **options: Any,
    ) -> Program:
        """`files` are bind-mounted for this program alone."""
        return self._start(
            self.outside, lambda *args, **more: subprocess.Popen(args, **more), argv, env, files, options
        )

    def _start(
        self,
        namespace: Namespace,
        start: Callable[..., subprocess.Popen[bytes]],
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        files: Mapping[str, Path] | None,
        options: dict[str, Any],
    ) -> Program:
        output = self.folder / f"output-{len(self._programs)}"
        with output.open("wb") as file:
            settings: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": file,
                "stderr": file,
                "start_new_session": True,
                "env": {**os.environ, **(env or {})},
                **options,
            }
            process = namespace.call(lambda: start(*argv, **settings), files)
        program = Program(process, output)
        self._programs.append(program)
        return program

    def listens(self, namespace: Namespace, port: int, *programs: Program, protocol: str = "tcp") -> None:
        """Wait until something does; the programs are those that could."""
        until(lambda: namespace.listening(port, protocol), f"a listener on {protocol} port {port}", programs)
