"""Egress lists, by name: opened by the answers of configured resolvers, and by nothing that a sandbox can make up."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.live.names import unique
from tests.live.peers.forging import RESOLVER6, Forge, answered_by_tun, forging, question_of
from tests.live.peers.hearing import Capture
from tests.live.peers.network import ALLOWED, METADATA, OTHER, RESOLVER, SERVER, Namespace, Network
from tests.live.peers.programs import Program, until
from tests.live.peers.resolver import start_resolver
from tests.live.peers.scripts.dns_server import answer
from tests.live.peers.tunnel import SCRIPTS
from tests.live.running import Line, Running, Sandbox

ALLOWED6, PRIVATE = "2001:db8::30", "10.77.0.1"
ANYWHERE = "198.51.100.7"
SETTINGS = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
flows: {{full_per_peer: 65536, idle_seconds: 3600}}
dns: {{resolvers: [203.0.113.53, "2001:db8::53"]}}
sandboxes:
  - {{path: "{instance}/named-*", class: named}}
classes:
  named:
    mode: enforce
    granted_devices: [tun]
    egress:
      default: deny
      allow:
        - {{to: 203.0.113.53, ports: [53]}}
        - {{to: "2001:db8::53", ports: [53]}}
        - {{to: 203.0.113.10, ports: [53], protocol: udp}}
        - {{to: 203.0.113.10, ports: [8003]}}
        - {{to: good.test, ports: [8001]}}
        - {{to: "*.pkg.test", ports: [8002]}}
"""
NAMES = {
    "good.test": (OTHER,),
    "pkg.test": (ALLOWED,),
    "a.pkg.test": (ALLOWED,),
    "b.c.pkg.test": (ANYWHERE, ALLOWED6),
    "evil.test": (SERVER,),
    "metadata.pkg.test": (METADATA,),
    "private.pkg.test": (PRIVATE,),
}
# Of another resolver, of a false one, and of one inside: all have the same to say.
FALSE = {"good.test": [SERVER], "a.pkg.test": [SERVER]}
PYTHON = ("/usr/bin/python3", "-I", "-S")

# Asks, waits for as many answers, and connects at once. `silent`: the SYN was sent again, and to no avail.
CLIENT = """
import errno, os, select, socket, sys
server, name, kind, answers, address, port = sys.argv[1:7]
query = os.urandom(2) + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0"
query += b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
query += b"\\0\\0" + bytes([int(kind)]) + b"\\0\\1"
six = socket.AF_INET6 if ":" in server else socket.AF_INET
with socket.socket(six, socket.SOCK_DGRAM) as s:
    s.settimeout(20)
    s.connect((server, 53))
    s.send(query)
    for _ in range(int(answers)):
        s.recv(2048)
def attempt():
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        s.setblocking(False)
        code = s.connect_ex((address, int(port)))
        while code == errno.EINPROGRESS:
            if select.select([], [s], [], 0.02)[1]:
                code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            elif s.getsockopt(6, 11, 8)[2] >= int(sys.argv[7]):  # tcpi_retransmits
                return "silent"
        return errno.errorcode[code] if code else "ok"
print(attempt(), attempt())
"""
A, AAAA = 1, 28


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(config=SETTINGS, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made, contextlib.ExitStack() as servers:
        start_resolver(made, NAMES)
        made.outside.ip(f"address add {PRIVATE}/32 dev eth0")
        made.inside.ip(f"route add {PRIVATE} dev eth0")
        for place in [
            *((address, port) for address in (OTHER, ALLOWED, SERVER, ALLOWED6, ANYWHERE) for port in (8001, 8002)),
            (SERVER, 8003),
            (METADATA, 8002),
            (PRIVATE, 8002),
        ]:
            servers.enter_context(made.outside.call(lambda place=place: listening(place)))  # type: ignore[misc]
        yield made


def listening(place: tuple[str, int]) -> socket.socket:
    return socket.create_server(place, family=socket.AF_INET6 if ":" in place[0] else socket.AF_INET)


@pytest.fixture
def named(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(f"named-{unique()}") as box:
        yield box


@pytest.fixture
def outside(network: Network) -> Iterator[Capture]:
    with Capture(network) as capture:
        yield capture


def resolve(
    network: Network,
    box: Sandbox,
    server: str,
    name: str,
    to: tuple[str, int],
    answers: int = 1,
    patience: int = 1,
) -> str:
    """What became of a connection right after the answers, and of another."""
    kind = AAAA if ":" in to[0] else A
    arguments = (server, name, str(kind), str(answers), to[0], str(to[1]), str(patience))
    return network.start_inside(box, [*PYTHON, "-c", CLIENT, *arguments]).finish().strip()


def asked(sensor: Running, box: Sandbox, name: str) -> Line:
    return sensor.wait(box, category="dns_query", QueryName=name, Answered=True)[0]


@pytest.mark.parametrize(
    ("name", "address", "port"),
    [
        ("good.test", OTHER, 8001),
        ("a.pkg.test", ALLOWED, 8002),
        ("b.c.pkg.test", ANYWHERE, 8002),
        ("b.c.pkg.test", ALLOWED6, 8002),
    ],
)
def test_an_answer_opens_its_address_and_port(
    sensor: Running, named: Sandbox, network: Network, outside: Capture, name: str, address: str, port: int
) -> None:
    """And no other port of it. A connection right after the answer works, at once or when the SYN is sent again."""
    assert resolve(network, named, RESOLVER, name, (address, port), patience=6) == "ok ok"
    closed = 8001 if port == 8002 else 8002
    assert resolve(network, named, RESOLVER, name, (address, closed)) == "silent EPERM"
    assert not outside.to(address, socket.IPPROTO_TCP, closed)
    (flow, *_) = sensor.wait(named, category="network_flow", Phase="established", DestinationPort=port)
    assert (flow["DestinationIp"], flow["DestinationHostname"]) == (address, name)
    assert flow["HostnameTrusted"]
    assert asked(sensor, named, name)["Resolver"]
    sensor.wait(named, category="network_connection", DestinationPort=closed, Verdict="egress")


# A datagram right after the answer; `sent` once that was so soon that the name may yet come. Then more, to an answer.
DATAGRAMS = """
import errno, os, socket, sys, time
server, name, address, port = sys.argv[1:5]
query = os.urandom(2) + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0"
query += b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\\0\\0\\1\\0\\1"
def attempt(s):
    try:
        s.send(b"x")
        return bool(s.recv(1))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EAGAIN):
            sys.exit(errno.errorcode[error.errno])
while True:
    began = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((server, 53))
        asking.send(query)
        asking.recv(2048)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    try:
        s.connect((address, int(port)))
    except PermissionError:
        continue
    attempt(s)
    if time.monotonic() - began < 0.2:
        break
    s.close()
print("sent", flush=True)
while not attempt(s):
    time.sleep(0.02)
print("answered")
"""


def test_a_datagram_that_was_too_soon_costs_nobody_the_socket(
    sensor: Running, named: Sandbox, network: Network
) -> None:
    """The sensor is stopped until it was sent: the name cannot be known by then."""
    assert sensor.process is not None
    with forging(network, lambda query: [b"y"], OTHER, 8001):
        sensor.process.send_signal(signal.SIGSTOP)
        try:
            client = network.start_inside(named, [*PYTHON, "-c", DATAGRAMS, RESOLVER, "good.test", OTHER, "8001"])
            until(lambda: "sent" in client.said(), "a datagram", [client])
        finally:
            sensor.process.send_signal(signal.SIGCONT)
        assert client.finish().split() == ["sent", "answered"]
    sensor.wait(named, category="network_flow", Phase="established", DestinationPort=8001, Protocol="udp")
    sensor.settled(named)
    assert not sensor.of(named, category="network_flow", EndReason="cut")


def test_a_name_opens_nothing_for_another_sandbox(sensor: Running, named: Sandbox, network: Network) -> None:
    with sensor.sandbox(f"named-{unique()}") as other:
        assert resolve(network, named, RESOLVER, "good.test", (OTHER, 8001), patience=6) == "ok ok"
        assert resolve(network, other, RESOLVER, "evil.test", (OTHER, 8001)) == "silent EPERM"


@pytest.mark.parametrize(
    ("name", "address", "port"),
    [
        ("evil.test", SERVER, 8001),  # not in the list
        ("pkg.test", ALLOWED, 8002),  # *.pkg.test is not pkg.test
        ("metadata.pkg.test", METADATA, 8002),
        ("private.pkg.test", PRIVATE, 8002),
    ],
)
def test_an_answer_that_may_not_open_anything(
    sensor: Running, named: Sandbox, network: Network, outside: Capture, name: str, address: str, port: int
) -> None:
    assert resolve(network, named, RESOLVER, name, (address, port)) == "silent EPERM"
    assert not outside.to(address, socket.IPPROTO_TCP, port)
    assert asked(sensor, named, name)["QueryResults"] == address


def test_another_resolvers_answer_opens_nothing(
    sensor: Running, named: Sandbox, network: Network, outside: Capture
) -> None:
    """It names the address in events, as nothing to be trusted."""
    with false_resolver(network, network.start_outside, network.outside, SERVER):
        assert resolve(network, named, SERVER, "good.test", (SERVER, 8001)) == "silent EPERM"
        assert not outside.to(SERVER, socket.IPPROTO_TCP, 8001)
        assert not asked(sensor, named, "good.test")["Resolver"]
        assert resolve(network, named, SERVER, "good.test", (SERVER, 8003)) == "ok ok"
    (flow, *_) = sensor.wait(named, category="network_flow", Phase="established", DestinationPort=8003)
    assert (flow["DestinationHostname"], flow["HostnameTrusted"]) == ("good.test", False)


@contextlib.contextmanager
def false_resolver(
    network: Network, start: Callable[[list[str]], Program], where: Namespace, address: str
) -> Iterator[None]:
    zone = network.folder / f"zone-{unique()}"
    zone.write_text(json.dumps({"names": FALSE}))
    program = start([*PYTHON, str(SCRIPTS / "dns_server.py"), address, str(zone)])
    try:
        until(lambda: answers(where, address), f"an answer by {address}", [program])
        yield
    finally:
        program.stop()


def answers(where: Namespace, address: str) -> bool:
    """That anybody listens on port 53 says nothing: the real resolver does."""
    with where.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        asking.settimeout(0.2)
        asking.connect((address, 53))
        try:
            asking.send(bytes(12) + b"\1x\0\0\1\0\1")
            return bool(asking.recv(2048))
        except (ConnectionRefusedError, TimeoutError):
            return False


FORGED: dict[str, Forge] = {
    "for another name": lambda query: [answer(question_of(query, "good.test"), {"good.test": [SERVER]})],
    "unsolicited": lambda query: [
        answer(query, {"evil.test": [SERVER]}),
        answer(bytes([query[0] ^ 1]) + question_of(query, "good.test")[1:], {"good.test": [SERVER]}),
        answer(question_of(query, "good.test"), {"good.test": [SERVER]}),
    ],
    "of another id": lambda query: [
        answer(bytes([query[0] ^ 1]) + query[1:], {"evil.test": [SERVER], "good.test": [SERVER]})
    ],
}


@pytest.mark.parametrize("how", FORGED)
def test_an_answer_that_was_not_asked_for_opens_nothing(
    sensor: Running, named: Sandbox, network: Network, outside: Capture, how: str
) -> None:
    """Also where it comes from a configured resolver: anybody can send with its address."""
    asks_for = "good.test" if how == "of another id" else "evil.test"
    count = 3 if how == "unsolicited" else 1
    with forging(network, FORGED[how]):
        found = resolve(network, named, RESOLVER6, asks_for, (SERVER, 8001), answers=count)
    assert found == "silent EPERM"
    assert not outside.to(SERVER, socket.IPPROTO_TCP, 8001)
    assert asked(sensor, named, "evil.test" if how == "unsolicited" else "good.test")["Resolver"]


def test_the_other_resolver_counts_as_well(named: Sandbox, network: Network) -> None:
    """What it forges above would have been believed, had it been asked for."""
    with forging(network, lambda query: [answer(query, {"good.test": [SERVER]})]):
        assert resolve(network, named, RESOLVER6, "good.test", (SERVER, 8001), patience=6) == "ok ok"


def test_the_resolvers_address_on_loopback_opens_nothing(
    sensor: Running, named: Sandbox, network: Network, outside: Capture
) -> None:
    network.inside.ip(f"address add {RESOLVER}/32 dev lo")
    try:
        with false_resolver(network, lambda argv: network.start_inside(named, argv), network.inside, RESOLVER):
            assert resolve(network, named, RESOLVER, "good.test", (SERVER, 8001)) == "silent EPERM"
    finally:
        network.inside.ip(f"address delete {RESOLVER}/32 dev lo")
    assert not outside.to(SERVER, socket.IPPROTO_TCP, 8001)
    assert not asked(sensor, named, "good.test")["Resolver"]


def test_the_resolvers_address_behind_a_tun_device_opens_nothing(
    sensor: Running, named: Sandbox, network: Network, outside: Capture
) -> None:
    with answered_by_tun(network, FALSE):
        assert resolve(network, named, RESOLVER, "good.test", (SERVER, 8001)) == "silent EPERM"
    assert not outside.to(SERVER, socket.IPPROTO_TCP, 8001)
    assert not asked(sensor, named, "good.test")["Resolver"]


def test_a_resolver_that_nat_puts_in_the_place_of_the_real_one_opens_nothing(
    named: Sandbox, network: Network, outside: Capture
) -> None:
    """Another that the list lets in, which root inside has the real one's packets translated to."""
    rules = (
        "add table ip t; add chain ip t out { type nat hook output priority -100; };"
        f" add rule ip t out ip daddr {RESOLVER} udp dport 53 dnat to {SERVER}"
    )
    with false_resolver(network, network.start_outside, network.outside, SERVER):
        network.inside.call(lambda: subprocess.run(["nft", rules], check=True, capture_output=True))
        try:
            assert resolve(network, named, RESOLVER, "good.test", (SERVER, 8001)) == "silent EPERM"
        finally:
            network.inside.call(lambda: subprocess.run(["nft", "delete table ip t"], check=True, capture_output=True))
    assert outside.to(SERVER, socket.IPPROTO_UDP, 53)
    assert not outside.to(SERVER, socket.IPPROTO_TCP, 8001)
