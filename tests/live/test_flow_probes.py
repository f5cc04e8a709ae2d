"""Flows as the probes tell them: both ends, the maker, bytes and times; listeners; what is told of many."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.peers.network import SANDBOX, SANDBOX6, SERVER, SERVER6, Network
from tests.live.running import CONFIG, Line, Running, Sandbox

SETTINGS = """
flows: {{sample_seconds: 1, idle_seconds: 1, full_per_peer: 8, window_seconds: 60, sample_one_in: 16, late_seconds: 1,
  pause_ms: 300}}
rules: {{paths: ['{home}/rules']}}
"""
PAUSE_S = 0.4  # the pause that makes an inversion is what is done here, not waited for
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")

CLIENT = """
import socket, sys
address, port, out, into = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with socket.create_connection((address, port)) as s:
    s.sendall(b"o" * out)
    left = into
    while left:
        left -= len(s.recv(left))
"""


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(SETTINGS, config=CONFIG, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def short_windows(rule_cache: str) -> Iterator[Running]:
    options = SETTINGS.replace("window_seconds: 60", "window_seconds: 1").replace(
        "sample_one_in: 16", "sample_one_in: 32"
    )
    with Running(options, config=CONFIG, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def flows(sensor: Running, box: Sandbox, phase: str, **wanted: Any) -> list[Line]:
    return sensor.wait(box, category="network_flow", Phase=phase, **wanted)


@pytest.mark.parametrize(
    ("address", "own", "family"), [(SERVER, SANDBOX, socket.AF_INET), (SERVER6, SANDBOX6, socket.AF_INET6)]
)
def test_both_ends_the_maker_and_every_byte(
    sensor: Running, sandbox: Sandbox, network: Network, address: str, own: str, family: socket.AddressFamily
) -> None:
    with network.outside.call(lambda: socket.create_server((address, 0), family=family)) as server:
        port = server.getsockname()[1]
        client = network.start_inside(sandbox, [*PYTHON, CLIENT, address, str(port), "70000", "30000"])
        peer, (_, source, *_) = server.accept()
        with peer:
            left = 70_000
            while left:
                left -= len(peer.recv(left))
            peer.sendall(b"i" * 30_000)
            client.finish()
    (begun,) = flows(sensor, sandbox, "established", DestinationPort=port)
    (ended,) = flows(sensor, sandbox, "ended", DestinationPort=port)
    for line in (begun, ended):
        assert (line["DestinationIp"], line["SourceIp"], line["SourcePort"]) == (address, own, source)
        assert (line["Protocol"], line["Initiated"], line["ProcessId"]) == ("tcp", True, client.tgid)
        assert (line["DestinationIsPrivate"], line["DestinationIsLoopback"]) == (False, False)
    assert begun["SocketCookie"] == ended["SocketCookie"] != 0
    assert begun["SocketInode"] != 0
    assert (ended["BytesOut"], ended["BytesIn"], ended["EndReason"]) == (70_000, 30_000, "closed")
    assert ended["PacketsOut"] > 0
    assert ended["PacketsIn"] > 0


def test_an_ipv6_socket_that_speaks_ipv4_is_told_as_ipv4(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    code = """
import socket, sys
s = socket.socket(socket.AF_INET6)
s.connect(("::ffff:" + sys.argv[1], int(sys.argv[2])))
s.sendall(b"12345")
"""
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        network.start_inside(sandbox, [*PYTHON, code, SERVER, str(port)]).finish()
        server.accept()[0].close()
    (ended,) = flows(sensor, sandbox, "ended", DestinationPort=port)
    assert (ended["DestinationIp"], ended["DestinationIsIpv6"], ended["BytesOut"]) == (SERVER, False, 5)


def test_an_accepted_flow_is_its_listeners_makers(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """Also where a forked child accepts, and the maker is gone."""
    code = """
import os, socket, sys
l = socket.create_server(("0.0.0.0", int(sys.argv[1])))
if os.fork():
    os._exit(0)
c, _ = l.accept()
c.sendall(b"x" * 100)
c.recv(1)
"""
    port = network.port()
    server = network.start_inside(sandbox, [*PYTHON, code, str(port)])
    network.listens(network.inside, port)
    with network.outside.connect(SANDBOX, port) as client:
        assert client.recv(100)
    (begun,) = flows(sensor, sandbox, "established", SourcePort=port)
    assert (begun["Initiated"], begun["ProcessId"], begun["SourceIp"]) == (False, server.tgid, SANDBOX)
    (ended,) = flows(sensor, sandbox, "ended", SourcePort=port)
    assert ended["BytesOut"] == 100
    (listening,) = sensor.wait(sandbox, category="network_listen", SourcePort=port)
    assert (listening["Protocol"], listening["SourceIsAny"], listening["ProcessId"]) == ("tcp", True, server.tgid)


def test_a_flow_that_outlives_its_process_keeps_its_maker(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    code = """
import os, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
if os.fork():
    os._exit(0)
s.recv(1)
s.sendall(b"late")
"""
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        maker = network.start_inside(sandbox, [*PYTHON, code, SERVER, str(port)])
        peer, _ = server.accept()
        with peer:
            sensor.wait(sandbox, category="process_termination", ProcessId=maker.tgid)
            peer.sendall(b"x")
            assert peer.recv(4, socket.MSG_WAITALL) == b"late"
    (ended,) = flows(sensor, sandbox, "ended", DestinationPort=port)
    assert (ended["ProcessId"], ended["BytesOut"], ended["Image"]) == (maker.tgid, 4, "/usr/bin/python3.11")


def test_a_datagram_flow_begins_with_its_first_and_ends_when_idle(
    sensor: Running, sandbox: Sandbox, network: Network
) -> None:
    code = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"12345", (sys.argv[1], int(sys.argv[2])))
s.recvfrom(10)
s.sendto(b"678", (sys.argv[1], int(sys.argv[2])))
sys.stdin.read()
"""
    with network.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind((SERVER, 0))
        server.settimeout(10)
        port = server.getsockname()[1]
        network.start_inside(sandbox, [*PYTHON, code, SERVER, str(port)])
        data, source = server.recvfrom(10)
        server.sendto(b"answer", source)
        data += server.recvfrom(10)[0]
    assert data == b"12345678"
    (begun,) = flows(sensor, sandbox, "established", DestinationPort=port)
    assert (begun["Protocol"], begun["Initiated"], begun["SourcePort"]) == ("udp", True, source[1])
    (ended,) = flows(sensor, sandbox, "ended", DestinationPort=port)
    assert (ended["EndReason"], ended["BytesOut"], ended["BytesIn"]) == ("idle", 8, 6)
    assert (ended["PacketsOut"], ended["PacketsIn"]) == (2, 1)


@pytest.mark.parametrize(("family", "address"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_a_bound_datagram_socket_waits(sensor: Running, sandbox: Sandbox, family: str, address: str) -> None:
    code = f"""
import socket
s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
s.bind(("{address}", 0))
print(s.getsockname()[1])
"""
    port = int(sandbox.python(code).stdout)
    (line,) = sensor.wait(sandbox, category="network_listen", SourcePort=port)
    assert (line["Protocol"], line["SourceIp"], line["SourceIsLoopback"]) == ("udp", address, True)


def test_a_long_flow_is_told_while_it_lives(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        network.start_inside(sandbox, [*PYTHON, CLIENT, SERVER, str(port), "10", "1"])
        peer, _ = server.accept()
        with peer:
            samples = sensor.wait(sandbox, category="network_flow", Phase="sample", DestinationPort=port, count=2)
            peer.sendall(b"x")
    assert samples[1]["DurationMs"] > samples[0]["DurationMs"] >= 900
    assert samples[1]["BytesOut"] == 10


MANY = """
import select, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(count):
    socket.create_connection((address, port)).close()
last = socket.create_connection((address, port))
last.sendall(b"hello")
while not select.select([last], [], [], 0.1)[0]:
    last.sendall(b".")
"""


def test_of_many_flows_to_one_peer_some_are_told_and_all_are_counted(
    sensor: Running, sandbox: Sandbox, network: Network
) -> None:
    """And one that lives on is told, however many there were before it: nothing long hides behind a flood."""
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        network.start_inside(sandbox, [*PYTHON, MANY, SERVER, str(port), "100"])
        for _ in range(100):
            server.accept()[0].close()
        peer, (_, source) = server.accept()
        with peer:
            (late,) = flows(sensor, sandbox, "established", DestinationPort=port, SourcePort=source)
    assert late["Late"]
    assert late["DurationMs"] >= 1000
    told = sensor.of(sandbox, category="network_flow", Phase="established", DestinationPort=port, Late=False)
    assert 8 + 5 <= len(told) <= 8 + 7
    assert all(line["Count"] == 1 for line in told[:8])
    assert sum(line["Count"] for line in told) >= 8 + 80
    assert not sensor.lost()


def test_what_was_only_counted_is_told_when_no_more_come(short_windows: Running, network: Network) -> None:
    code = """
import socket, sys
for _ in range(int(sys.argv[3])):
    socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
"""
    with short_windows.sandbox() as box, network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        network.start_inside(box, [*PYTHON, code, SERVER, str(port), "50"])
        for _ in range(50):
            server.accept()[0].close()

        def told() -> int:
            lines = short_windows.of(box, category="network_flow", Phase="established", DestinationPort=port)
            return sum(line["Count"] for line in lines)

        short_windows.until(lambda: told() == 50, "all flows counted")
        (rest,) = short_windows.of(box, category="network_flow", SocketCookie=0, DestinationPort=port)
    assert (rest["DestinationIp"], rest["Initiated"], rest["Late"]) == (SERVER, True, True)


def test_after_an_inversion_flows_are_told_however_many_there_were(
    sensor: Running, sandbox: Sandbox, network: Network
) -> None:
    """Data came in first after a pause, and then the same program image dials: a relay looks so."""
    code = """
import socket, sys
control = socket.create_connection((sys.argv[1], int(sys.argv[2])))
inner = int(sys.argv[3])
for _ in range(60):
    socket.create_connection(("127.0.0.1", inner)).close()
while control.recv(1):
    s = socket.create_connection(("127.0.0.1", inner))
    s.sendall(b"relayed")
    s.recv(1)
    control.sendall(b"y")
"""
    with (
        network.outside.call(lambda: socket.create_server((SERVER, 0))) as server,
        network.inside.call(lambda: socket.create_server(("127.0.0.1", 0), backlog=128)) as inner,
    ):
        port = inner.getsockname()[1]
        network.start_inside(sandbox, [*PYTHON, code, SERVER, str(server.getsockname()[1]), str(port)])
        control, _ = server.accept()
        for _ in range(60):
            inner.accept()[0].close()
        sensor.settled(sandbox)
        before = len(sensor.of(sandbox, category="network_flow", Phase="established", DestinationPort=port))
        with control:
            time.sleep(PAUSE_S)
            control.sendall(b"x")
            dialled, (_, source) = inner.accept()
            (told,) = flows(sensor, sandbox, "established", DestinationPort=port, SourcePort=source)
            dialled.close()
    assert told["Count"] >= 1
    assert before < 60


def test_io_uring_is_no_way_around(sensor: Running, sandbox: Sandbox, network: Network, workloads: Path) -> None:
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        network.start_inside(sandbox, [str(workloads / "uring_connect"), SERVER, str(port)]).finish()
    (begun,) = flows(sensor, sandbox, "established", DestinationPort=port)
    assert (begun["DestinationIp"], begun["Initiated"]) == (SERVER, True)


def test_a_socket_that_was_passed_on_is_its_makers(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """Made by one process, connected by another that got it over a unix socket."""
    code = """
import array, os, socket, sys
a, b = socket.socketpair()
if os.fork() == 0:
    _, control, _, _ = b.recvmsg(1, socket.CMSG_SPACE(4))
    fd = array.array("i", control[0][2])[0]
    s = socket.socket(fileno=fd)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b"passed")
    os._exit(0)
s = socket.socket()
a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
s.close()
os.wait()
"""
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        maker = network.start_inside(sandbox, [*PYTHON, code, SERVER, str(port)])
        maker.finish()
        server.accept()[0].close()
    (ended,) = flows(sensor, sandbox, "ended", DestinationPort=port)
    assert (ended["ProcessId"], ended["BytesOut"]) == (maker.tgid, 6)


def test_the_namespaces_own_nat_does_not_split_a_flow(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """On its way out a packet has been translated already; the flow is where its socket meant to go."""
    meant = "198.51.100.77"
    rules = (
        "add table ip t; add chain ip t out { type nat hook output priority -100; };"
        f" add rule ip t out ip daddr {meant} dnat to {SERVER}"
    )
    code = """
import socket, sys
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    s = socket.socket(socket.AF_INET, kind)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b"abc")
    s.recv(3)
"""
    network.inside.call(lambda: subprocess.run(["nft", rules], check=True, capture_output=True))
    try:
        with (
            network.outside.call(lambda: socket.create_server((SERVER, 0))) as server,
            network.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams,
        ):
            port = server.getsockname()[1]
            datagrams.bind((SERVER, port))
            client = network.start_inside(sandbox, [*PYTHON, code, meant, str(port)])
            peer, _ = server.accept()
            peer.sendall(peer.recv(3))
            datagrams.settimeout(10)
            data, source = datagrams.recvfrom(3)
            datagrams.sendto(data, source)
            client.finish()
            peer.close()
    finally:
        network.inside.call(lambda: subprocess.run(["nft", "delete table ip t"], check=True, capture_output=True))
    ended = flows(sensor, sandbox, "ended", DestinationPort=port, count=2)
    assert [(line["Protocol"], line["DestinationIp"]) for line in ended] == [("tcp", meant), ("udp", meant)]
    assert [(line["BytesOut"], line["BytesIn"]) for line in ended] == [(3, 3), (3, 3)]
