"""What the first bytes of flows are, however they are cut, lost, sent again or made up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from sensor.control.client import Client
from sensor.enrich.protocols.quic import _VERSIONS
from sensor.enrich.protocols.recognise import recognise
from tests.enrich.dnswire import asks
from tests.enrich.protocols.test_tls import openssl_hello
from tests.fuzz import build
from tests.live.peers.network import SANDBOX, SERVER, SERVER6, Namespace, Network
from tests.live.peers.programs import Program
from tests.live.running import CONFIG, Line, Running, Sandbox
from tests.live.saying import PYTHON, Peer, Saying, speaking

# All flows are told, and a crowd of them has room.
SETTINGS = """
ring: {{size_bytes: 67108864}}
flows: {{full_per_peer: 65536}}
rules: {{paths: ['{home}/rules']}}
"""
AT_ONCE = 128  # connections that stand together
PAUSE_S = 0.5  # longer than bytes are waited for (HOLD_NS): it is what is done, not waited for

BANNER = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n"
REQUEST = b"GET /index.html HTTP/1.1\r\nHost: pages.example\r\nUpgrade: websocket\r\nUser-Agent: curl/7.88.1\r\n\r\n"
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["miner/1.0"]}\n'
SOCKS = b"\x05\x01\x00"
HELLO = openssl_hello("pages.example", ("h2", "http/1.1"))
HELLOS = build.records(build.browser(b"browser.example", 1900), 700)  # post-quantum keys, in four records
STREAMS = {"ssh": BANNER, "http": REQUEST, "stratum": SUBSCRIBE, "socks": SOCKS, "tls": HELLO, "records": HELLOS}


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(SETTINGS, config=CONFIG, cache=rule_cache) as running:
        yield running
        assert "Traceback" not in running.said()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def of_ports(sensor: Running, sandbox: Sandbox, peer: Peer) -> dict[tuple[int, bool], Line]:
    """By the sandbox's port and whether it said it, the last that was told of it."""
    lines = sensor.of(sandbox, category="network_protocol", DestinationPort=peer.port)
    return {(line["SourcePort"], line["FromSandbox"]): line for line in lines}


def at_once(sayings: Sequence[Saying]) -> Iterator[Sequence[Saying]]:
    return (sayings[at : at + AT_ONCE] for at in range(0, len(sayings), AT_ONCE))


def understood(
    sensor: Running,
    sandbox: Sandbox,
    network: Network,
    sayings: Sequence[Saying],
    address: str = SERVER,
    mapped: bool = False,
) -> None:
    """Each direction of each is told as what the whole of its bytes is."""
    for some in at_once(sayings):
        with speaking(network, sandbox, address, some, mapped) as peer:
            wanted = len([own for saying in some for own in saying.directions])

            def whole(peer: Peer = peer, some: Sequence[Saying] = some, wanted: int = wanted) -> bool:
                told = of_ports(sensor, sandbox, peer)
                return len(peer.sources) == len(some) and len(told) >= wanted and not mistaken(told, peer, some)

            try:
                sensor.until(whole, f"{wanted} protocols as they are")
            except AssertionError:
                raise AssertionError(mistaken(of_ports(sensor, sandbox, peer), peer, some)) from None


def mistaken(told: dict[tuple[int, bool], Line], peer: Peer, sayings: Sequence[Saying]) -> list[object]:
    """What was said, and what was told instead."""
    wrong: list[object] = []
    for source, saying in zip(peer.sources, sayings, strict=False):
        for own, stream in saying.directions.items():
            line = told.get((source, own))
            found = recognise(stream, False)
            assert found is not None
            wanted = (found.protocol, found.kind, found.server_name, found.ja4, found.software, found.upgrade)
            seen = line and tuple(
                line[name]
                for name in ("ApplicationProtocol", "MessageKind", "ServerName", "Ja4", "Software", "Upgrade")
            )
            if seen != wanted:
                wrong.append((own, [len(piece) for piece in (saying.out if own else saying.answer)][:4], seen, wanted))
    return wrong


def one_by_one(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def cut_at(stream: bytes, places: Sequence[int]) -> list[Saying]:
    return [Saying([stream[:at], stream[at:]]) for at in places]


@pytest.mark.parametrize(("address", "mapped"), [(SERVER, False), (SERVER6, False), (SERVER, True)])
def test_both_directions_whole_and_byte_by_byte(
    sensor: Running, sandbox: Sandbox, network: Network, address: str, mapped: bool
) -> None:
    whole = [
        Saying([stream], [other]) for stream, other in zip(STREAMS.values(), reversed(STREAMS.values()), strict=True)
    ]
    crumbs = [Saying(one_by_one(stream), one_by_one(stream)) for name, stream in STREAMS.items() if name != "records"]
    understood(sensor, sandbox, network, [*whole, *crumbs], address, mapped)
    assert not sensor.lost()


@pytest.mark.parametrize("name", ["ssh", "http", "tls"])
def test_two_segments_cut_at_every_place(sensor: Running, sandbox: Sandbox, network: Network, name: str) -> None:
    assert len(HELLO) == 517
    understood(sensor, sandbox, network, cut_at(STREAMS[name], range(1, len(STREAMS[name]))))


def test_a_long_hello_of_several_records_cut_at_many_places(
    sensor: Running, sandbox: Sandbox, network: Network
) -> None:
    assert 2000 < len(HELLOS) < 3000
    borders = [at for border in range(0, len(HELLOS), 705) for at in range(border - 6, border + 7)]
    places = sorted({*borders, *range(1, len(HELLOS), 23), len(HELLOS) - 1})
    understood(sensor, sandbox, network, cut_at(HELLOS, [at for at in places if 0 < at < len(HELLOS)]))


def test_a_pause_within_a_hello_hides_no_name(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """Longer than the sensor waits for the rest: what it told of the beginning it tells again, and better."""
    cuts = [Saying([HELLO[:60], HELLO[60:]], pause=PAUSE_S), Saying([REQUEST[:20], REQUEST[20:]], pause=PAUSE_S)]
    understood(sensor, sandbox, network, cuts)


@contextlib.contextmanager
def single_segments(*namespaces: Namespace) -> Iterator[None]:
    """Nothing larger than the device's MTU passes: without it a veth takes 64 KiB at once."""
    for namespace in namespaces:
        namespace.ip("link set dev eth0 gso_max_segs 1")
    try:
        yield
    finally:
        for namespace in namespaces:
            namespace.ip("link set dev eth0 gso_max_segs 65535")


LARGE = [Saying([stream + bytes(200_000)], [stream + bytes(200_000)]) for stream in (HELLO, HELLOS, BANNER)]


def test_more_than_one_segment_at_once(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    with single_segments(network.inside, network.outside):
        understood(sensor, sandbox, network, LARGE)
    understood(sensor, sandbox, network, LARGE)
    assert not sensor.lost()


@contextlib.contextmanager
def losing(namespace: Namespace, hook: str) -> Iterator[None]:
    """Each third packet with data that comes to the hook is dropped there, the first among them."""
    table = (
        f"add table inet t; add chain inet t c {{ type filter hook {hook} priority -300; }};"
        " add rule inet t c meta l4proto tcp meta length gt 100 numgen inc mod 3 == 0 drop"
    )
    namespace.call(lambda: subprocess.run(["nft", table], check=True, capture_output=True))
    try:
        yield
    finally:
        namespace.call(lambda: subprocess.run(["nft", "delete table inet t"], check=True, capture_output=True))


@pytest.mark.parametrize(
    ("where", "hook"),
    [("outside", "prerouting"), ("inside", "prerouting"), ("inside", "output"), ("outside", "output")],
)
def test_lost_segments_hide_nothing(sensor: Running, sandbox: Sandbox, network: Network, where: str, hook: str) -> None:
    """`inside` with `output` is a sandbox's own firewall, which drops before the probes see it."""
    long = HELLOS + bytes(60_000)  # a dozen segments follow the one that is missing
    sayings = [Saying([long], [long]), Saying([HELLO], [HELLO]), Saying([HELLOS[:900], HELLOS[900:]], [BANNER * 3])]
    namespace: Namespace = getattr(network, where)
    with single_segments(network.inside, network.outside), losing(namespace, hook):
        understood(sensor, sandbox, network, sayings)


# Datagrams.

WIREGUARD = b"\x01\0\0\0" + bytes(range(112)) + bytes(range(16)) + bytes(16)
HELLO3 = build.message(
    [
        build.server_name(b"h3.example"), build.alpn(b"h3"), build.versions(0x0304), build.signatures(),
        (0x39, bytes(60)),
    ],
    session=0,
)  # fmt: skip
QUIC = build.initial(build.crypto_frame(0, HELLO3).ljust(1162, b"\0"), _VERSIONS[b"\0\0\0\1"], b"\0\0\0\1")
DATAGRAMS = """
import json, socket, sys
for line in open(sys.argv[1]):
    address, port, pieces = json.loads(line)
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((address, port))
    for piece in pieces:
        s.send(bytes.fromhex(piece))
"""


def send_datagrams(network: Network, sandbox: Sandbox, sent: Sequence[tuple[str, int, Sequence[bytes]]]) -> Program:
    file = network.folder / "datagrams"
    file.write_text(
        "".join(json.dumps([a, port, [piece.hex() for piece in pieces]]) + "\n" for a, port, pieces in sent)
    )
    return network.start_inside(sandbox, [*PYTHON, "-c", DATAGRAMS, str(file)])


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_datagrams_are_known_by_their_first(sensor: Running, sandbox: Sandbox, network: Network, address: str) -> None:
    """Two sockets outside take them, else the kernel answers that nobody is there and the sender stops."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(3):
            taken = stack.enter_context(network.outside.call(lambda: socket.socket(family, socket.SOCK_DGRAM)))
            taken.bind((address, 0))
            ports.append(int(taken.getsockname()[1]))
        wireguard, quic, dns = ports
        sent = [(wireguard, WIREGUARD), (quic, QUIC), (dns, asks("away.example"))]
        # What follows the first datagram is not looked at, be it what it may.
        send_datagrams(network, sandbox, [(address, port, [first, WIREGUARD, QUIC]) for port, first in sent]).finish()
    sensor.settled(sandbox)
    told = {
        port: [
            (line["ApplicationProtocol"], line["ServerName"])
            for line in sensor.of(sandbox, category="network_protocol", DestinationPort=port)
        ]
        for port in ports
    }
    assert told == {wireguard: [("wireguard", "")], quic: [("quic", "h3.example")], dns: [("dns", "away.example")]}


def test_dns_messages_beyond_what_a_flow_may_send_are_counted(
    sensor: Running, sandbox: Sandbox, network: Network
) -> None:
    """So many that they are more than two seconds' worth, whenever the second begins."""
    with network.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind((SERVER, 53))
        messages = [asks(f"n{number}.flood.example", id_=number) for number in range(400)]
        send_datagrams(network, sandbox, [(SERVER, 53, messages)]).finish()
    sensor.settled(sandbox)
    told = [line["QueryName"] for line in sensor.of(sandbox, category="dns_query", Answered=False)]
    assert told[:64] == [f"n{number}.flood.example" for number in range(64)]
    # The kernel's counts are read once a second, and may have been read in the middle.
    sensor.until(lambda: len(told) + lost(sensor, sandbox).get("datagrams", 0) == 400, "each told or counted")


def lost(sensor: Running, sandbox: Sandbox) -> dict[str, int]:
    rows = Client(f"{sensor.home}/run/control.sock").sandboxes()
    return next(dict(row["lost"]) for row in rows if row["id"] == sandbox.id)


# Hostile.


def test_garbage_is_nobodys_protocol(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """Every first byte, one byte for a megabyte, and hellos that end in the middle; then the sensor still knows."""
    before = sensor.said()
    noise = os.urandom(63)
    garbage = [Saying([bytes((first,)) + noise], [bytes((first,)) + noise[::-1]]) for first in range(256)]
    endless = [Saying([bytes((byte,)) * (1 << 20)]) for byte in b"\x00\x05\x16S{"]
    cut = [Saying([stream[: len(stream) // 2]]) for stream in (HELLO, HELLOS, SUBSCRIBE, b"CONNECT")]
    for some in at_once([*garbage, *endless, *cut]):
        with speaking(network, sandbox, SERVER, some) as peer:
            sensor.until(lambda peer=peer, some=some: len(peer.sources) == len(some), "all connections")  # type: ignore[misc]
        sensor.wait(sandbox, category="network_flow", DestinationPort=peer.port, Phase="ended", count=len(some))
    understood(sensor, sandbox, network, [Saying([BANNER], [BANNER])])
    assert sensor.said() == before


SMALL = """
ring: {{size_bytes: 65536, sandbox_budget_bytes: 65536}}
flows: {{full_per_peer: 65536}}
rules: {{paths: ['{home}/rules']}}
"""


def test_first_bytes_leave_half_of_the_ring_to_the_rest(rule_cache: str, network: Network) -> None:
    """Of a sandbox that speaks, while nobody reads, more than the ring holds; execs of another have their room."""
    with (
        Running(SMALL, config=CONFIG, cache=rule_cache) as small,
        small.sandbox() as speaking_one,
        small.sandbox() as other,
        network.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server,
    ):
        server.bind((SERVER, 53))
        messages = [asks("x" * 60 + "." + "y" * 60 + ".example").ljust(900, b"\0")] * 64
        assert small.process is not None
        os.kill(small.process.pid, signal.SIGSTOP)
        try:
            send_datagrams(network, speaking_one, [(SERVER, 53, messages)] * 3).finish()
            for number in range(20):
                other.run("/bin/true", f"quiet-{number}")
        finally:
            os.kill(small.process.pid, signal.SIGCONT)
        small.settled(other)
        lines = small.of(other, category="process_creation", CommandLine=lambda line: "quiet-" in line)
        assert [line["CommandLine"] for line in lines] == [f"/bin/true quiet-{number}" for number in range(20)]
        small.until(lambda: lost(small, speaking_one).get("payload", 0) > 100, "what was not kept")
        assert not lost(small, other)


def test_what_a_server_in_the_sandbox_hears(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """Accepted flows are recognised like any: who speaks first is told by the direction, not by who dialled."""
    code = """
import socket, sys, time
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
held, _ = server.accept()
held.sendall(b"SSH-2.0-dropbear_2022.83\\r\\n")
time.sleep(3600)
"""
    port = network.port()
    program = network.start_inside(sandbox, [*PYTHON, "-c", code, str(port)])
    network.listens(network.inside, port, program)
    with network.outside.connect(SANDBOX, port) as client:
        client.sendall(BANNER)
        lines = sensor.wait(sandbox, category="network_protocol", SourcePort=port, count=2)
    told = {line["FromSandbox"]: (line["Initiated"], line["Software"]) for line in lines}
    assert told == {True: (False, "dropbear_2022.83"), False: (False, "OpenSSH_9.2p1 Debian-2+deb12u7")}
    program.stop()
