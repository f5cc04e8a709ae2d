"""Names of addresses: from a sandbox's look-ups and from its own hosts file, and what is told of the look-ups."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.enrich.dnswire import Record, record
from tests.live.peers.network import ALLOWED, HOSTS, OTHER, RESOLVER, SERVER, SERVER6, Network
from tests.live.running import CONFIG, Line, Running, Sandbox

SETTINGS = f"""
dns: {{{{resolvers: ['{RESOLVER}']}}}}
flows: {{{{full_per_peer: 65536}}}}
rules: {{{{paths: ['{{home}}/rules']}}}}
"""
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
NXDOMAIN, ANSWER, TRUNCATED = 3, 0x8180, 0x0200

ZONE: dict[str, list[Record]] = {
    "pool.example": [("pool.example", "A", 60, SERVER)],
    "six.example": [("six.example", "AAAA", 60, SERVER6)],
    "www.example": [
        ("www.example", "CNAME", 60, "cdn.example"),
        ("cdn.example", "CNAME", 60, "edge.example"),
        ("edge.example", "A", 60, OTHER),
    ],
    "long.example": [("long.example", "A", 60, ALLOWED)],
    "fronted.example": [("fronted.example", "A", 60, SERVER)],
}
LONG = frozenset({"long.example"})  # whose answers by UDP are cut, so that they are asked for by TCP


class Resolver:
    """Answers what is in the zone by UDP and TCP, and anything else with NXDOMAIN."""

    def __init__(self, network: Network, address: str = RESOLVER, zone: Mapping[str, Sequence[Record]] = ZONE) -> None:
        self._zone = zone
        self._udp = network.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._udp.bind((address, 53))
        self._tcp = network.outside.call(lambda: socket.create_server((address, 53)))
        self._threads = [threading.Thread(target=serve) for serve in (self._datagrams, self._streams)]

    def __enter__(self) -> Resolver:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A shutdown wakes the threads that wait there; a datagram socket has none to shut down, hence an empty one.
        self._tcp.shutdown(socket.SHUT_RDWR)
        self._udp.sendto(b"", self._udp.getsockname())
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _datagrams(self) -> None:
        while True:
            query, source = self._udp.recvfrom(4096)
            if not query:
                return
            self._udp.sendto(self._answer(query, udp=True), source)

    def _streams(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                while size := stream.read(2):
                    answer = self._answer(stream.read(int.from_bytes(size, "big")), udp=False)
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, query: bytes, *, udp: bool) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        name, kind = ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big")
        known = self._zone.get(name)
        wanted = {"A"} if kind == 1 else {"AAAA"} if kind == 28 else set()
        found = [one for one in known or () if one[1] in wanted] and [
            one for one in known or () if one[1] in wanted | {"CNAME"}
        ]
        flags = ANSWER | (0 if known is not None else NXDOMAIN)
        if udp and name in LONG:
            flags, found = flags | TRUNCATED, []
        head = query[:2] + struct.pack("!5H", flags, 1, len(found), 0, 0)
        return head + query[12 : at + 5] + b"".join(record(*one) for one in found)


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(SETTINGS, config=CONFIG, cache=rule_cache) as running:
        yield running
        assert "Traceback" not in running.said()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture(scope="module")
def resolver(network: Network) -> Iterator[Resolver]:
    with Resolver(network) as made:
        yield made


# Looks up each name as programs do, connects to what it got, says something, and is gone.
VISIT = """
import socket, sys
for name in sys.argv[2:]:
    s = socket.create_connection((name, int(sys.argv[1])))
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: " + name.encode() + b"\\r\\n\\r\\n")
    s.recv(1)
"""


def visit(network: Network, sandbox: Sandbox, address: str, *names: str) -> int:
    """The port on which something answered each."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with network.outside.call(lambda: socket.create_server((address, 0), family=family)) as server:
        port = int(server.getsockname()[1])
        client = network.start_inside(sandbox, [*PYTHON, VISIT, str(port), *names])
        for _ in names:
            with server.accept()[0] as peer:
                peer.recv(1)
                peer.sendall(b"x")
        client.finish()
    return port


def queries(sensor: Running, sandbox: Sandbox, name: str, **wanted: Any) -> list[Line]:
    return sensor.wait(sandbox, category="dns_query", QueryName=name, **wanted)


@pytest.mark.usefixtures("resolver")
@pytest.mark.parametrize(
    ("name", "address"),
    [("pool.example", SERVER), ("six.example", SERVER6), ("www.example", OTHER), ("long.example", ALLOWED)],
)
def test_what_was_looked_up_names_connections_flows_and_protocols(
    sensor: Running, sandbox: Sandbox, network: Network, name: str, address: str
) -> None:
    """By UDP, over CNAMEs, and by TCP where the answer did not fit; AAAA too."""
    port = visit(network, sandbox, address, name)
    (connection,) = sensor.wait(sandbox, category="network_connection", DestinationPort=port)
    begun, ended = sensor.wait(sandbox, category="network_flow", DestinationPort=port, count=2)
    (protocol,) = sensor.wait(sandbox, category="network_protocol", DestinationPort=port)
    for line in (connection, begun, ended, protocol):
        assert (line["DestinationIp"], line["DestinationHostname"]) == (address, name)
    assert (begun["HostnameTrusted"], protocol["HostnameTrusted"]) == (True, True)
    kind = "AAAA" if ":" in address else "A"
    (asked, *_) = queries(sensor, sandbox, name, Answered=False, QueryType=kind)
    assert (asked["QueryStatus"], asked["QueryResults"], asked["Resolver"]) == ("", "", True)
    (answered, *_) = queries(
        sensor, sandbox, name, Answered=True, QueryType=kind, QueryResults=lambda got: address in got
    )
    assert (answered["QueryStatus"], answered["RegisteredDomain"]) == ("NOERROR", name)
    assert answered["Protocol"] == ("tcp" if name in LONG else "udp")
    if name == "www.example":
        assert answered["QueryResults"] == f"cdn.example;edge.example;{OTHER}"


@pytest.mark.usefixtures("resolver")
def test_a_name_that_does_not_exist(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    code = "import socket\ntry:\n    socket.getaddrinfo('nobody.example', 80)\nexcept socket.gaierror:\n    pass"
    network.start_inside(sandbox, [*PYTHON, code]).finish()
    (answered, *_) = queries(sensor, sandbox, "nobody.example", Answered=True)
    assert (answered["QueryStatus"], answered["QueryResults"]) == ("NXDOMAIN", "")


HELLO = """
import socket, ssl, sys
address, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if sys.argv[4] == "ask":
    address = socket.getaddrinfo("fronted.example", port)[0][4][0]
s = socket.create_connection((address, port))
sent = ssl.MemoryBIO()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
try:
    context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
except ssl.SSLWantReadError:
    s.sendall(sent.read())
s.recv(1)
"""


@pytest.mark.usefixtures("resolver")
@pytest.mark.parametrize(
    ("name", "ask", "unresolved"),
    [("fronted.example", "ask", False), ("other.example", "ask", True), ("other.example", "no", False)],
)
def test_a_server_name_that_was_never_resolved_is_told(
    sensor: Running, sandbox: Sandbox, network: Network, name: str, ask: str, unresolved: bool
) -> None:
    """Only where the address was learned by a name at all: who knows it by heart asks for none."""
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        client = network.start_inside(sandbox, [*PYTHON, HELLO, SERVER, str(port), name, ask])
        with server.accept()[0]:
            (line,) = sensor.wait(sandbox, category="network_protocol", DestinationPort=port)
        client.stop()
    assert (line["ServerName"], line["ServerNameUnresolved"]) == (name, unresolved)


@pytest.mark.usefixtures("resolver")
def test_a_resolver_behind_the_namespaces_own_nat(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """As Docker has it: port 53 of 127.0.0.11 is translated to another port on loopback. Seen, never trusted: whoever
    holds that port in the namespace answers as it likes."""
    code = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", int(sys.argv[1])))
up = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
up.connect((sys.argv[2], 53))
while True:
    query, source = s.recvfrom(4096)
    up.send(query)
    s.sendto(up.recv(4096), source)
"""
    port = network.port()
    rules = (
        "add table ip docker; add chain ip docker o { type nat hook output priority -100; };"
        f" add rule ip docker o ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.1:{port}"
    )
    network.inside.call(lambda: subprocess.run(["nft", rules], check=True, capture_output=True))
    own = network.folder / "docker-resolv.conf"
    own.write_text("nameserver 127.0.0.11\n")
    usual, network._resolv_conf = network._resolv_conf, own
    try:
        with sensor.sandbox() as engine:
            forwarder = network.start_inside(engine, [*PYTHON, code, str(port), RESOLVER])
            network.listens(network.inside, port, forwarder, protocol="udp")
            at = visit(network, sandbox, SERVER, "pool.example")
            forwarder.stop()
    finally:
        network._resolv_conf = usual
        network.inside.call(lambda: subprocess.run(["nft", "delete table ip docker"], check=True))
    (asked, *_) = queries(sensor, sandbox, "pool.example", Answered=False, QueryType="A")
    (answered, *_) = queries(sensor, sandbox, "pool.example", Answered=True, QueryType="A")
    assert [(line["DestinationIp"], line["DestinationPort"]) for line in (asked, answered)] == [("127.0.0.11", 53)] * 2
    assert (answered["QueryResults"], answered["Resolver"]) == (SERVER, False)
    (begun, *_) = sensor.wait(sandbox, category="network_flow", DestinationPort=at)
    assert (begun["DestinationHostname"], begun["HostnameTrusted"]) == ("pool.example", False)


# The sandbox's own hosts file.

# Connects again and again: a file is read when a flow without a name is seen, and later flows have it.
AGAIN = """
import socket, sys, time
while True:
    socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
    time.sleep(0.05)
"""


def named(sensor: Running, sandbox: Sandbox, name: str) -> Line:
    (line, *_) = sensor.wait(sandbox, category="network_flow", Phase="established", DestinationHostname=name)
    return line


@pytest.fixture
def server(network: Network) -> Iterator[int]:
    with network.outside.call(lambda: socket.create_server((SERVER, 0), backlog=4096)) as server:
        yield int(server.getsockname()[1])


def test_names_of_the_sandboxes_own_hosts_file(
    sensor: Running, sandbox: Sandbox, network: Network, server: int
) -> None:
    network.hosts.write_text(f"{HOSTS}{SERVER} Internal.Example. alias.example # a comment\n")
    try:
        client = network.start_inside(sandbox, [*PYTHON, AGAIN, SERVER, str(server)])
        line = named(sensor, sandbox, "internal.example")
        client.stop()
    finally:
        network.hosts.write_text(HOSTS)
    assert not line["HostnameTrusted"]


ROOTED = """
set -e
for folder in usr lib lib64; do
    mkdir -p "$1/$folder"
    mount --bind "/$folder" "$1/$folder"
done
exec /usr/sbin/chroot "$1" /usr/bin/python3 -I -S -c "$2" "$3" "$4"
"""


def test_an_absolute_link_leads_into_the_sandboxes_own_root(
    sensor: Running, sandbox: Sandbox, network: Network, server: int, tmp_path: Path
) -> None:
    """Both files stand at one path, one as the host has it and one as the sandbox has it."""
    root, target = tmp_path / "root", tmp_path / "hosts"
    target.write_text(f"{SERVER} of-the-host.example\n")
    inner = root / target.relative_to("/")
    inner.parent.mkdir(parents=True)
    inner.write_text(f"{SERVER} of-the-sandbox.example\n")
    (root / "etc").mkdir()
    (root / "etc/hosts").symlink_to(target)
    arguments = [str(root), AGAIN, SERVER, str(server)]
    client = network.start_inside(sandbox, ["/bin/sh", "-c", ROOTED, "sh", *arguments])
    named(sensor, sandbox, "of-the-sandbox.example")
    client.stop()
    names = {line["DestinationHostname"] for line in sensor.of(sandbox, category="network_flow")}
    assert names == {"", "of-the-sandbox.example"}


def test_a_fifo_for_a_hosts_file_holds_nobody_up(
    sensor: Running, sandbox: Sandbox, network: Network, server: int
) -> None:
    """It is not opened, and the files of others are read all the same."""
    fifo = network.folder / "fifo"
    os.mkfifo(fifo)
    plain, network.hosts = network.hosts, fifo
    try:
        stuck = network.start_inside(sandbox, [*PYTHON, AGAIN, SERVER, str(server)])
    finally:
        network.hosts = plain
    sensor.wait(sandbox, category="network_flow", Phase="established", count=3)
    with sensor.sandbox() as other:
        test_names_of_the_sandboxes_own_hosts_file(sensor, other, network, server)
    stuck.stop()
    assert {line["DestinationHostname"] for line in sensor.of(sandbox, category="network_flow")} == {""}


def test_a_short_program_hands_its_sandboxes_names_on(
    sensor: Running, sandbox: Sandbox, network: Network, server: int
) -> None:
    """Each is gone before its hosts file could be read; the shell that started it is not, and has the same."""
    network.hosts.write_text(f"{HOSTS}{SERVER} brief.example\n")
    code = f"import os, socket; socket.create_connection(('{SERVER}', {server})); os._exit(0)"
    script = 'while true; do /usr/bin/python3 -I -S -c "$1"; done'
    try:
        shell = network.start_inside(sandbox, ["/bin/sh", "-c", script, "sh", code])
        named(sensor, sandbox, "brief.example")
        shell.stop()
    finally:
        network.hosts.write_text(HOSTS)
