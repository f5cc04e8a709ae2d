"""Egress lists, by address: refused where the kernel connects, and again where packets leave."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.peers.hearing import Capture, Hearing
from tests.live.peers.network import ALLOWED, OTHER, SANDBOX, SERVER, SERVER6, Network
from tests.live.peers.programs import Program, until
from tests.live.reaching import (
    ALLOWED6,
    ALLOWED_ATTEMPTS,
    DENIED_ATTEMPTS,
    GRE,
    ICMP,
    LISTED,
    LIVING,
    OTHER6,
    PYTHON,
    RAW,
    SETTINGS,
    TCP,
    UDP,
    UNLISTED,
    Attempt,
    attempt,
    four,
)
from tests.live.running import Running, Sandbox


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(config=SETTINGS, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        pings = Path("/proc/sys/net/ipv4/ping_group_range")
        made.inside.call(lambda: pings.write_text("0 0"))
        yield made


@pytest.fixture
def walled(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(f"walled-{unique()}") as box:
        yield box


@pytest.fixture
def outside(network: Network) -> Iterator[Capture]:
    with Capture(network) as capture:
        yield capture


@pytest.fixture(scope="module")
def servers(network: Network) -> Iterator[None]:
    """Whatever is connected to below is listened on, whether it is allowed or not."""
    places = [
        *((address, port) for address in (SERVER, OTHER, ALLOWED, "") for port in (8000, 8010, 8011)),
        (LISTED, 7000),
        (LISTED, 7010),
        (UNLISTED, 7000),
        (SERVER, 7000),
        (ALLOWED6, 8011),
        (OTHER6, 8000),
    ]
    made = [
        network.outside.call(
            lambda place=place: socket.create_server(  # type: ignore[misc]
                place, family=socket.AF_INET6 if ":" in place[0] else socket.AF_INET
            )
        )
        for place in places
        if place[0]
    ]
    yield
    for server in made:
        server.close()


@pytest.mark.usefixtures("servers")
def test_what_is_listed_may_be_reached_and_nothing_else(
    sensor: Running, walled: Sandbox, network: Network, outside: Capture
) -> None:
    found = attempt(network, walled, [*ALLOWED_ATTEMPTS, *DENIED_ATTEMPTS])
    assert found == ["ok"] * len(ALLOWED_ATTEMPTS) + ["EPERM"] * len(DENIED_ATTEMPTS)
    for kind, address, port in ALLOWED_ATTEMPTS:
        assert outside.to(four(address), TCP if kind == "tcp" else UDP, port), (kind, address, port)
    for kind, address, port in DENIED_ATTEMPTS:
        assert not outside.to(four(address), TCP if kind == "tcp" else UDP, port), (kind, address, port)
    sensor.settled(walled)
    told = {
        (line["Protocol"], line["DestinationIp"], line["DestinationPort"]): line["Verdict"]
        for line in sensor.of(walled, category="network_connection")
    }
    for verdict, attempts in (("allowed", ALLOWED_ATTEMPTS), ("egress", DENIED_ATTEMPTS)):
        for kind, address, port in attempts:
            assert told["tcp" if kind == "tcp" else "udp", four(address), port] == verdict, (kind, address, port)


def test_other_protocols_and_raw_sockets_are_held_too(walled: Sandbox, network: Network, outside: Capture) -> None:
    allowed: list[Attempt] = [
        ("echo", OTHER, 0),
        ("ping", OTHER, 1),
        ("echo", ALLOWED6, 0),
        ("ping", ALLOWED6, 1),
        ("made", ALLOWED, 9000),
    ]
    denied: list[Attempt] = [
        ("echo", SERVER, 0),
        ("ping", SERVER, 0),
        ("echo", ALLOWED, 0),
        ("echo", SERVER6, 0),
        ("made", ALLOWED, 9001),
        ("made", SERVER, 9000),
        (str(GRE), SERVER, 0),
        (str(GRE), ALLOWED, 0),
        (str(GRE), OTHER, 0),
        (str(RAW - 2), SERVER6, 0),
    ]
    assert attempt(network, walled, allowed) == ["ok"] * len(allowed)
    assert attempt(network, walled, denied) == ["EPERM"] * len(denied)
    attempt(network, walled, [("ping", SERVER6, 0)])  # ping_v6_sendmsg keeps to itself that it was not sent
    assert outside.to(OTHER, ICMP)
    assert outside.to(ALLOWED, UDP, 9000)
    assert not outside.to(SERVER, ICMP)
    assert not outside.to(SERVER, UDP, 9000)
    assert not outside.to(ALLOWED, UDP, 9001)
    assert not outside.to(ALLOWED, ICMP)
    for address in (SERVER, ALLOWED, OTHER):
        assert not outside.to(address, GRE)
    assert not [packet for packet in outside.to(SERVER6) if b"pinfold" in packet]


def test_other_transports_are_held_where_the_kernel_has_them(
    walled: Sandbox, network: Network, outside: Capture
) -> None:
    kinds = ("udplite", "mptcp")
    for kind, protocol in zip(kinds, (136, TCP), strict=True):
        (found,) = attempt(network, walled, [(kind, SERVER, 8000)])
        assert found in ("EPERM", "EPROTONOSUPPORT"), kind
        assert not outside.to(SERVER, protocol)


def test_loopback_stays_allowed_unless_it_is_denied(sensor: Running, walled: Sandbox, network: Network) -> None:
    local: list[Attempt] = [("udp", "127.0.0.1", 4000), ("udp", "::1", 4000), ("udp", "::ffff:127.0.0.9", 4000)]
    with network.inside.call(lambda: socket.create_server(("127.0.0.1", 0))) as server:
        local += [("tcp", "127.0.0.1", server.getsockname()[1]), ("tcp", "0.0.0.0", server.getsockname()[1])]  # noqa: S104
        assert attempt(network, walled, local) == ["ok"] * len(local)
        with sensor.sandbox(f"sealed-{unique()}") as sealed:
            assert attempt(network, sealed, local) == ["EPERM"] * len(local)


# Passes on sockets that it made: one of each kind.
PASSES = """
import array, socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
made = [socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)]
fds = array.array("i", [s.fileno() for s in made])
out.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
"""


@pytest.mark.usefixtures("servers")
def test_a_socket_that_was_carried_out_is_held(
    sensor: Running, walled: Sandbox, network: Network, outside: Capture
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        maker = network.start_inside(walled, [*PYTHON, "-c", PASSES, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 3)
        maker.finish()
    stream, datagram, raw = (socket.socket(fileno=fd) for fd in descriptors)
    with stream, datagram, raw:
        with pytest.raises(PermissionError):
            stream.connect((SERVER, 8000))
        with pytest.raises(PermissionError):
            datagram.sendto(b"x", (SERVER, 9000))
        with pytest.raises(PermissionError):
            raw.sendto(b"\x08\0\xf7\xff\0\0\0\0", (SERVER, 0))
        stream.connect((ALLOWED, 8000))
        datagram.sendto(b"x", (ALLOWED, 9000))
        assert outside.to(ALLOWED, TCP, 8000)
        assert outside.to(ALLOWED, UDP, 9000)
        assert not outside.to(SERVER)
    refused = sensor.wait(walled, category="network_connection", Verdict="egress", count=2)
    assert {line["SocketMakerProcessId"] for line in refused} == {maker.tgid}


class Beside(Sandbox):
    """The cgroup that sandboxes are made in: whoever is there is in none."""

    def __init__(self, path: Path) -> None:
        self.path = path


# Made here, used by a child that goes into the sandbox.
BRINGS = """
import errno, os, socket, sys
made = [socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
beside = socket.create_connection((sys.argv[2], 8000))  # who is beside may
if os.fork() == 0:
    with open(sys.argv[1], "w") as file:
        file.write("0")
    for use in (lambda: made[0].connect((sys.argv[2], 8000)), lambda: made[1].sendto(b"x", (sys.argv[2], 9000))):
        try:
            use()
            print("ok", flush=True)
        except OSError as error:
            print(errno.errorcode[error.errno], flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.usefixtures("servers")
def test_a_socket_that_was_brought_in_is_held(
    sensor: Running, walled: Sandbox, network: Network, outside: Capture
) -> None:
    program = network.start_inside(
        Beside(sensor.parent), [*PYTHON, "-c", BRINGS, str(walled.path / "cgroup.procs"), SERVER]
    )
    assert program.finish().split() == ["EPERM", "EPERM"]
    assert len([packet for packet in outside.to(SERVER, TCP, 8000) if packet[33] & 2]) == 1  # the parent's SYN
    assert not outside.to(SERVER, UDP, 9000)
    sensor.wait(walled, category="network_connection", Verdict="egress", count=2)


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("worker", [(), ("-w",)])
def test_io_uring_is_no_way_around(
    sensor: Running, walled: Sandbox, network: Network, outside: Capture, workloads: Path, worker: tuple[str, ...]
) -> None:
    program = str(workloads / "uring_connect")
    told = [
        json.loads(network.start_inside(walled, [program, *worker, address, "8000"]).finish())["errno"]
        for address in (ALLOWED, SERVER)
    ]
    assert told == [0, 1]
    assert outside.to(ALLOWED, TCP, 8000)
    assert not outside.to(SERVER)
    sensor.wait(walled, category="network_connection", Verdict="egress", DestinationIp=SERVER)


@pytest.mark.usefixtures("servers")
def test_the_sandboxs_own_nat_is_no_way_around(walled: Sandbox, network: Network, outside: Capture) -> None:
    """Root inside turns an address that is listed into one that is not, after the hook that looks at connects."""
    rules = (
        "add table ip t; add chain ip t out { type nat hook output priority -100; };"
        f" add rule ip t out ip daddr {LISTED} dnat to {SERVER}"
    )
    code = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7000))
for _ in range(3):
    try:
        s.send(b"x")
    except OSError:
        pass
s = socket.socket()
s.setblocking(False)
s.connect_ex((sys.argv[1], 7000))
while s.getsockopt(6, 11, 8)[2] < 1:  # tcpi_retransmits: the SYN was sent again
    pass
"""
    network.inside.call(lambda: subprocess.run(["nft", rules], check=True, capture_output=True))
    try:
        network.start_inside(walled, [*PYTHON, "-c", code, LISTED]).finish()
    finally:
        network.inside.call(lambda: subprocess.run(["nft", "delete table ip t"], check=True, capture_output=True))
    assert not outside.to(SERVER, TCP)
    assert not outside.to(SERVER, UDP, 7000)
    assert not outside.to(LISTED)


ACCEPTS = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    peer, _ = listener.accept()
while data := peer.recv(65536):
    peer.sendall(data)
"""


def test_accepted_flows_work_both_ways(sensor: Running, walled: Sandbox, network: Network) -> None:
    port = network.port()
    server = network.start_inside(walled, [*PYTHON, "-c", ACCEPTS, str(port)])
    network.listens(network.inside, port, server)
    with network.outside.connect(SANDBOX, port) as client:
        client.sendall(b"x" * 50_000)
        client.shutdown(socket.SHUT_WR)
        back = 0
        while data := client.recv(65536):  # not MSG_WAITALL: a socket with a timeout does not block
            back += len(data)
        assert back == 50_000
    server.finish()
    (line,) = sensor.wait(walled, category="network_flow", Phase="ended", SourcePort=port)
    assert (line["BytesOut"], line["EndReason"]) == (50_000, "closed")


@pytest.mark.usefixtures("servers")
def test_monitor_mode_lets_pass_and_tells(sensor: Running, network: Network, outside: Capture) -> None:
    with sensor.sandbox(f"told-{unique()}") as told:
        attempts: list[Attempt] = [("tcp", SERVER, 8000), ("udp", SERVER, 9000), ("tcp", ALLOWED, 8000)]
        assert attempt(network, told, [*attempts, ("echo", SERVER, 0)]) == ["ok"] * 4
        assert outside.to(SERVER, TCP, 8000)
        assert outside.to(SERVER, UDP, 9000)
        assert outside.to(SERVER, ICMP)
        lines = sensor.wait(told, category="network_connection", count=3)
        assert [line["Verdict"] for line in lines] == ["would_egress", "would_egress", "allowed"]
        assert not sensor.of(told, category="network_flow", EndReason="cut")


# Keeps a connection, and tries another for each line that it reads.
LIVES = """
import errno, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
try:
    while data := s.recv(64):
        s.sendall(data)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
for _ in sys.stdin:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


def reload(sensor: Running) -> None:
    name = 'pinfold_reloads_total{outcome="done"}'
    before = sensor.metrics()[name]
    assert sensor.process is not None
    sensor.process.send_signal(signal.SIGHUP)
    sensor.until(lambda: sensor.metrics()[name] == before + 1, "a reload")


def again(client: Program) -> str:
    """What the next attempt gives."""
    known = len(client.said().split())
    assert client.process.stdin is not None
    client.process.stdin.write(b"\n")
    client.process.stdin.flush()
    until(lambda: len(client.said().split()) > known, "an attempt", [client])
    return client.said().split()[-1]


def test_a_list_that_gets_shorter_cuts_what_lives(sensor: Running, walled: Sandbox, network: Network) -> None:
    """And the reset is let through, so that the peer does not hang. What comes back may be connected to again."""
    text = sensor.file.read_text()
    shorter = text.replace(LIVING.format(), "")
    assert shorter != text
    with Hearing(network, SERVER, 7999) as server:
        client = network.start_inside(walled, [*PYTHON, "-c", LIVES, SERVER, "7999"], stdin=subprocess.PIPE)
        until(lambda: server.heard, "the connection", [client])
        ((source, peer),) = server.heard.items()
        peer.connection.sendall(b"ping")
        until(lambda: peer.data == b"ping", "the answer", [client])
        sensor.file.write_text(shorter)
        try:
            reload(sensor)
            peer.connection.sendall(b"after")
            until(lambda: "ECONNABORTED" in client.said(), "the end inside", [client])
            assert server.ended(source) == "reset"
            assert peer.data == b"ping"
            assert again(client) == "EPERM"
        finally:
            sensor.file.write_text(text)
            reload(sensor)
        assert again(client) == "ok"
    (line,) = sensor.wait(
        walled, category="network_flow", EndReason="cut", DestinationPort=7999, SourcePort=source, Phase="sample"
    )
    assert line["DestinationIp"] == SERVER
