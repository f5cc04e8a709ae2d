"""The table of flows: what goes when it is full, what a restart finds in it, what was there before the probes."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sensor.control.client import Client
from tests.live.peers.network import SANDBOX, SERVER, Network
from tests.live.peers.programs import Program
from tests.live.running import CONFIG, Line, Running, Sandbox

SETTINGS = """
flows: {{table: 1024, full_per_peer: 65536, sample_seconds: 1, idle_seconds: 1}}
rules: {{paths: ['{home}/rules']}}
"""
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
SECOND = "203.0.113.3"  # another address of the sandboxes' namespace
ROOM = 1024
MORE = 100


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(SETTINGS, config=CONFIG, cache=rule_cache) as running:
        yield running
        assert "Traceback" not in running.said()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        made.inside.ip(f"address add {SECOND}/24 dev eth0")
        yield made


def flows(sensor: Running, sandbox: Sandbox, phase: str, count: int = 1, **wanted: Any) -> list[Line]:
    return sensor.wait(sandbox, category="network_flow", Phase=phase, count=count, **wanted)


def tell(program: Program) -> None:
    """Go on: it waits for a line."""
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()


# Cookies are numbered by CPU: on one, each socket's place is beside that of the one before it.
CROWD = """
import os, resource, socket, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = []
for _ in range(count):
    held.append(socket.create_connection((address, port)))
    held[-1].sendall(b"hello")
sys.stdin.readline()
for s in held[1:]:
    s.close()
sys.stdin.readline()
held[0].sendall(b"still here")
sys.stdin.readline()
"""


def test_of_more_flows_than_have_room_the_oldest_go(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    count = ROOM + MORE
    with network.outside.call(lambda: socket.create_server((SERVER, 0), backlog=4096)) as server:
        port = server.getsockname()[1]
        client = network.start_inside(sandbox, [*PYTHON, CROWD, SERVER, str(port), str(count)], stdin=-1)
        begun = [line["SocketCookie"] for line in flows(sensor, sandbox, "established", count, DestinationPort=port)]
        assert len(set(begun)) == count
        evicted = flows(sensor, sandbox, "ended", MORE, DestinationPort=port)
        gone = [line["SocketCookie"] for line in evicted]
        assert {line["EndReason"] for line in evicted} == {"evicted"}
        assert {line["BytesOut"] for line in evicted} == {5}
        assert gone == begun[: len(gone)], "the oldest, in their order"
        sensor.until(lambda: lost(sensor, sandbox).get("flows_evicted") == len(gone), "as many are counted")
        tell(client)
        ended = flows(sensor, sandbox, "ended", count, DestinationPort=port)
        ends = Counter(line["SocketCookie"] for line in ended)
        assert set(ends) == set(begun)
        assert set(ends.values()) == {1}
        rest = [line for line in ended if line["SocketCookie"] not in gone]
        assert {(line["EndReason"], line["BytesOut"]) for line in rest} == {("closed", 5)}

        # Its place is free by now: what lost it is known again, and by its stamp also who began it.
        tell(client)
        again = flows(sensor, sandbox, "established", 2, DestinationPort=port, SocketCookie=begun[0])[1]
        assert (again["Initiated"], again["Existing"], again["ProcessId"]) == (True, True, client.tgid)
        tell(client)
        client.finish()
        last = flows(sensor, sandbox, "ended", 2, DestinationPort=port, SocketCookie=begun[0])[1]
        assert (last["EndReason"], last["BytesOut"]) == ("closed", 10)


def lost(sensor: Running, sandbox: Sandbox) -> dict[str, int]:
    rows = Client(f"{sensor.home}/run/control.sock").sandboxes()
    return next(dict(row["lost"]) for row in rows if row["id"] == sandbox.id)


LIVING = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
tcp = socket.create_connection((address, port))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect((address, port))
for size in (100, 50, 7):
    tcp.sendall(b"t" * size)
    udp.send(b"u" * size)
    sys.stdin.readline()
"""


def test_a_kill_of_the_sensor_neither_doubles_nor_forgets_a_flow(
    sensor: Running, sandbox: Sandbox, network: Network
) -> None:
    with (
        network.outside.call(lambda: socket.create_server((SERVER, 0))) as server,
        network.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams,
    ):
        port = server.getsockname()[1]
        datagrams.bind((SERVER, port))
        client = network.start_inside(sandbox, [*PYTHON, LIVING, SERVER, str(port)], stdin=-1)
        flows(sensor, sandbox, "established", 2, DestinationPort=port)
        assert sensor.stop(signal.SIGKILL) == -signal.SIGKILL
        peer, _ = server.accept()
        with peer:
            tell(client)
            left = 150
            while left:
                left -= len(peer.recv(left))
            sensor.start()
            (sample, *_) = flows(sensor, sandbox, "sample", DestinationPort=port, Protocol="tcp", BytesOut=150)
            assert sample["ProcessId"] == client.tgid
            (quiet,) = flows(sensor, sandbox, "ended", DestinationPort=port, Protocol="udp")
            assert (quiet["EndReason"], quiet["BytesOut"]) == ("idle", 150)
            tell(client)
            left = 7
            while left:
                left -= len(peer.recv(left))
            tell(client)
            client.finish()
    (ended,) = flows(sensor, sandbox, "ended", DestinationPort=port, Protocol="tcp")
    assert (ended["BytesOut"], ended["EndReason"], ended["ProcessId"]) == (157, "closed", client.tgid)
    assert ended["Initiated"]
    sensor.settled(sandbox)
    lines = sensor.of(sandbox, category="network_flow", DestinationPort=port)
    told = Counter(line["Phase"] for line in lines if line["Protocol"] == "tcp")
    assert (told["established"], told["ended"]) == (1, 1)
    everything = Counter(line["id"] for line in sensor.lines() if line["kind"] == "event")
    assert not [name for name, times in everything.items() if times != 1], "an id twice"


SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    server.accept()[0].sendall(sys.argv[1].encode())
"""


def test_two_sandboxes_behind_one_port_of_one_namespace(sensor: Running, network: Network) -> None:
    """By the listener that a socket came from, not by its port."""
    port = network.port()
    with sensor.sandbox() as one, sensor.sandbox() as other:
        served = {
            address: (box, network.start_inside(box, [*PYTHON, SERVE, address, str(port)]))
            for address, box in ((SANDBOX, one), (SECOND, other))
        }
        for address, (box, program) in served.items():
            sensor.wait(box, category="network_listen", SourceIp=address, SourcePort=port)
            for _ in range(3):
                with network.outside.connect(address, port) as client:
                    assert client.recv(64) == address.encode()
            ended = flows(sensor, box, "ended", 3, SourcePort=port)
            assert {(line["SourceIp"], line["ProcessId"], line["Initiated"]) for line in ended} == {
                (address, program.tgid, False)
            }
        for box, program in served.values():
            assert len(flows(sensor, box, "ended", 3, SourcePort=port)) == 3
            program.stop()


EARLIER = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(b"SSH-2.0-before\\r\\n")
while data := s.recv(100):
    s.sendall(data * 2)
"""


def test_what_was_there_before_the_sensor_is_told_when_data_moves(rule_cache: str, network: Network) -> None:
    """Without its beginning: neither that the sandbox began it nor what its first bytes are is made up."""
    sensor = Running(SETTINGS, config=CONFIG, cache=rule_cache)
    try:
        sensor.parent.mkdir()
        with (
            sensor.sandbox() as sandbox,
            network.outside.call(lambda: socket.create_server((SERVER, 0))) as server,
        ):
            port = server.getsockname()[1]
            client = network.start_inside(sandbox, [*PYTHON, EARLIER, SERVER, str(port)])
            peer, (_, source) = server.accept()
            with peer:
                assert peer.recv(100) == b"SSH-2.0-before\r\n"
                sensor.start()
                peer.sendall(b"SSH-2.0-after\r\n")
                (begun,) = flows(sensor, sandbox, "established", DestinationPort=port)
                assert peer.recv(1)
                client.stop()
            assert (begun["SourceIp"], begun["SourcePort"], begun["DestinationIp"]) == (SANDBOX, source, SERVER)
            assert (begun["Initiated"], begun["Existing"]) == (False, True)
            sensor.settled(sandbox)
            assert not sensor.of(sandbox, category="network_protocol")
            found = sensor.of(sandbox, category="network_connection", DestinationPort=port)
            assert [(line["Initiated"], line["Existing"]) for line in found] == [(True, True)], "as /proc has it"
    finally:
        sensor.remove()
