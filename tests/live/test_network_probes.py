"""Sockets: TCP and UDP, IPv4 and IPv6, connected or not, unix, and by io_uring."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.running import Running, Sandbox

CONNECT = """
import socket, sys
family, kind, address, port = sys.argv[1:5]
s = socket.socket(getattr(socket, family), getattr(socket, kind))
s.settimeout(2)
try:
    s.connect((address, int(port)))
    print("connected")
except OSError as error:
    print(error.errno)
"""


@contextlib.contextmanager
def listener(family: socket.AddressFamily, address: str) -> Iterator[int]:
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind((address, 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("family", "kind", "address", "protocol", "ipv6"),
    [
        ("AF_INET", "SOCK_STREAM", "127.0.0.1", "tcp", False),
        ("AF_INET6", "SOCK_STREAM", "::1", "tcp", True),
        ("AF_INET", "SOCK_DGRAM", "127.0.0.3", "udp", False),
        ("AF_INET6", "SOCK_DGRAM", "::1", "udp", True),
    ],
)
def test_connect(
    sensor: Running, sandbox: Sandbox, family: str, kind: str, address: str, protocol: str, ipv6: bool
) -> None:
    with listener(getattr(socket, family), address) as port:
        done = sandbox.python(CONNECT, family, kind, address, str(port))
    assert done.stdout.strip() == b"connected", done.stderr
    (line,) = sensor.wait(sandbox, category="network_connection", DestinationPort=port)
    assert (line["DestinationIp"], line["Protocol"], line["DestinationIsIpv6"]) == (address, protocol, ipv6)
    assert (line["Verdict"], line["Initiated"], line["Count"]) == ("allowed", True, 1)
    assert line["DestinationIsLoopback"]
    assert line["Image"] == os.path.realpath("/usr/bin/python3")
    assert line["SocketMakerProcessId"] == line["ProcessId"]


@pytest.mark.parametrize(("family", "address"), [("AF_INET", "127.0.0.4"), ("AF_INET6", "::1")])
def test_unconnected_sendmsg(sensor: Running, sandbox: Sandbox, family: str, address: str) -> None:
    code = """
import socket, sys
socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM).sendto(b'x', (sys.argv[2], 4242))
"""
    sandbox.python(code, family, address)
    (line,) = sensor.wait(sandbox, category="network_connection", DestinationPort=4242)
    assert (line["DestinationIp"], line["Protocol"]) == (address, "udp")


def test_mapped_addresses_are_told_as_ipv4(sensor: Running, sandbox: Sandbox) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as port:
        sandbox.python(CONNECT, "AF_INET6", "SOCK_STREAM", "::ffff:127.0.0.1", str(port))
    lines = sensor.wait(sandbox, category="network_connection", DestinationPort=port)
    assert {line["DestinationIp"] for line in lines} == {"127.0.0.1"}


@pytest.mark.parametrize("abstract", [True, False])
def test_unix_sockets(sensor: Running, sandbox: Sandbox, tmp_path: Path, abstract: bool) -> None:
    name = f"pinfold-{unique()}"
    address = "\0" + name if abstract else f"/tmp/{name}"
    code = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); a=sys.argv[1]; s.connect('\\0'+a[1:] if a[0]=='@' else a)"
    )
    shown = "@" + name if abstract else f"/tmp/{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(address)
        try:
            server.listen()
            done = sandbox.python(code, shown)
        finally:
            if not abstract:
                os.unlink(address)
    assert done.returncode == 0, done.stderr
    (line,) = sensor.wait(sandbox, category="network_connection", Protocol="unix")
    assert line["DestinationPath"] == shown


def test_io_uring_connect_is_seen(sensor: Running, sandbox: Sandbox, workloads: Path) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as port:
        done = sandbox.run(str(workloads / "uring_connect"), "127.0.0.1", str(port))
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert json.loads(done.stdout)["errno"] == 0, done.stdout
    (line,) = sensor.wait(sandbox, category="network_connection", DestinationPort=port)
    assert line["Image"] == str(workloads / "uring_connect")


def test_io_uring_connect_from_a_kernel_worker_is_seen(sensor: Running, sandbox: Sandbox, workloads: Path) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as port:
        done = sandbox.run(str(workloads / "uring_connect"), "-w", "127.0.0.1", str(port))
    assert done.returncode == 0, (done.stdout, done.stderr)
    (line,) = sensor.wait(sandbox, category="network_connection", DestinationPort=port)
    assert line["Image"] == str(workloads / "uring_connect")


def test_repeats_are_counted_not_sent(sensor: Running, sandbox: Sandbox) -> None:
    code = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5000):
    s.sendto(b'x', ('127.0.0.5', 4343))
"""
    sandbox.python(code)

    def total() -> bool:
        lines = sensor.of(sandbox, category="network_connection", DestinationPort=4343)
        return sum(int(line["Count"]) for line in lines) == 5000

    sensor.until(total, "all 5000 attempts in counts")
    lines = sensor.of(sandbox, category="network_connection", DestinationPort=4343)
    assert len(lines) <= 10
    assert not lines[0]["Repeat"]
    assert lines[0]["Count"] == 1
    assert all(line["Repeat"] and line["FirstSeenNs"] <= line["LastSeenNs"] for line in lines[1:])


def test_unix_repeats_are_counted_not_sent(sensor: Running, sandbox: Sandbox) -> None:
    name = f"pinfold-{unique()}"
    code = """
import socket, sys
for _ in range(300):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect('\\0' + sys.argv[1])
    s.close()
"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        done = sandbox.python(code, name)
    assert done.returncode == 0, done.stderr

    def total() -> bool:
        lines = sensor.of(sandbox, category="network_connection", DestinationPath="@" + name)
        return sum(int(line["Count"]) for line in lines) == 300

    sensor.until(total, "all 300 attempts in counts")
    assert len(sensor.of(sandbox, category="network_connection", DestinationPath="@" + name)) <= 5


def test_a_socket_carries_its_maker(sensor: Running, sandbox: Sandbox) -> None:
    """Made in the sandbox, passed to a process outside, connected there: it is the sandbox's all the same."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    code = """
import array, socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
out.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])
"""
    with ours, theirs, listener(socket.AF_INET, "127.0.0.1") as port:
        process = sandbox.start(
            "/usr/bin/python3", "-I", "-S", "-c", code, str(theirs.fileno()), pass_fds=[theirs.fileno()]
        )
        _, descriptors, _, _ = socket.recv_fds(ours, 10, 1)
        process.wait()
        with socket.socket(fileno=descriptors[0]) as passed:
            passed.connect(("127.0.0.1", port))
    (line,) = sensor.wait(sandbox, category="network_connection", DestinationPort=port)
    assert line["ProcessId"] == os.getpid()
    assert line["SocketMakerProcessId"] == process.pid


def test_the_sensors_own_port_is_refused_to_sandboxes(sensor: Running, sandbox: Sandbox) -> None:
    done = sandbox.python(CONNECT, "AF_INET", "SOCK_STREAM", "127.0.0.1", str(sensor.port))
    assert done.stdout.strip() == b"1", "EPERM"
    done = sandbox.python(CONNECT, "AF_INET6", "SOCK_STREAM", "::ffff:127.0.0.1", str(sensor.port))
    assert done.stdout.strip() == b"1"
    lines = sensor.wait(sandbox, category="network_connection", DestinationPort=sensor.port, count=2)
    assert {line["Verdict"] for line in lines} == {"protected"}
    assert sensor.metrics(), "and it is there for the host"


def test_connects_outside_every_sandbox_are_not_told(sensor: Running, sandbox: Sandbox) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as port:
        subprocess.run(
            ["/usr/bin/python3", "-c", CONNECT, "AF_INET", "SOCK_STREAM", "127.0.0.1", str(port)], check=True
        )
    sensor.settled(sandbox)
    assert not [line for line in sensor.lines() if line.get("DestinationPort") == port]


def test_repeats_of_a_sandbox_that_ended_are_told(sensor: Running) -> None:
    """It connects many times, exits and is removed, all within the second after which counts are sent."""
    code = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(50):
    s.sendto(b'x', ('127.0.0.6', 4444))
u = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for _ in range(50):
    try:
        u.connect('/nobody-listens')
    except OSError:
        pass
"""
    with sensor.sandbox() as sandbox:
        sandbox.python(code)

    def total(**wanted: object) -> int:
        return sum(int(line["Count"]) for line in sensor.of(sandbox, category="network_connection", **wanted))

    sensor.until(lambda: total(DestinationPort=4444) == 50, "all attempts in counts")
    sensor.until(lambda: total(DestinationPath="/nobody-listens") == 50, "those to unix sockets too")
