"""Denied protocols: cut in the kernel one byte before their prefix is whole, however it is written."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.live.denying import CUT, HARMLESS, MESSAGES, PYTHON, SETTINGS, Message, say
from tests.live.names import unique
from tests.live.peers.hearing import Capture, Hearing, pieces_of, retransmissions
from tests.live.peers.network import SANDBOX, SERVER, Network
from tests.live.peers.programs import until
from tests.live.running import Running, Sandbox


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(config=SETTINGS, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def all_denied(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(f"all-{unique()}") as box:
        yield box


@pytest.fixture
def only_told(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(f"told-{unique()}") as box:
        yield box


def told_cut(sensor: Running, box: Sandbox, port: int, count: int, protocol: str) -> None:
    sensor.wait(
        box,
        category="network_flow",
        EndReason="cut",
        count=count,
        **{"DestinationPort": port} if port else {},
    )
    denied = sensor.wait(box, category="network_protocol", Denied=True, count=count)
    assert {line["ApplicationProtocol"] for line in denied} == {protocol}
    assert set(destroyed(sensor, box, count)) == {"the socket of a denied flow was destroyed"}


def destroyed(sensor: Running, box: Sandbox, count: int = 1) -> list[str]:
    """What was said of that many sockets."""

    def said() -> list[str]:
        notices = [line for line in sensor.lines() if line["kind"] == "notice" and "socket" in line["text"]]
        texts = [line["text"] for line in notices if line["fields"].get("SandboxId") == box.id]
        return texts if len(texts) >= count else []

    texts: list[str] = sensor.until(said, f"{count} notices")
    return texts


@pytest.mark.parametrize("name", MESSAGES)
def test_at_most_a_byte_less_than_the_prefix_arrives(
    sensor: Running, all_denied: Sandbox, network: Network, name: str
) -> None:
    """Whole, byte by byte, and cut in two at every place of the prefix."""
    said = [(message, cut) for message in MESSAGES[name] for cut in range(-1, len(message.prefix))]
    with Hearing(network) as outside:
        found = say(
            network, all_denied, (SERVER, outside.port), [pieces_of(message.whole, cut) for message, cut in said]
        )
        for (source, error, answer), (message, cut) in zip(found, said, strict=True):
            assert (error in CUT, answer) == (True, ""), (message, cut, error)
            assert outside.ended(source) == "reset", (message, cut)
            heard = outside.of(source).data
            if cut < 0:
                assert len(heard) < len(message.prefix)
                assert heard == message.prefix[: len(heard)] != b""
            else:
                assert heard == message.prefix[:cut]
    told_cut(sensor, all_denied, outside.port, len(said), MESSAGES[name][0].protocol)


SERVER_INSIDE = """
import errno, json, socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    peer, _ = listener.accept()
try:
    peer.recv(64)
    for byte in b"SSH-2.0-OpenSSH_9.2p1 Debian-2\\r\\n":
        peer.send(bytes([byte]))
    peer.settimeout(20)
    print(peer.recv(64))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_a_server_inside_gives_no_banner_either(sensor: Running, all_denied: Sandbox, network: Network) -> None:
    port = network.port()
    server = network.start_inside(all_denied, [*PYTHON, "-c", SERVER_INSIDE, str(port)])
    network.listens(network.inside, port, server)
    heard = b""
    with network.outside.connect(SANDBOX, port) as client:
        client.sendall(b"SSH-2.0-client\r\n")
        try:
            while data := client.recv(64):
                heard += data
        except ConnectionResetError:
            heard += b"|reset"
    assert heard in (b"|reset", b"S|reset", b"SS|reset", b"SSH|reset")
    assert server.finish().strip() in CUT
    (line,) = sensor.wait(all_denied, category="network_flow", EndReason="cut", SourcePort=port, Phase="sample")
    assert not line["Initiated"]
    told_cut(sensor, all_denied, 0, 1, "ssh")


# A datagram first, so that the tunnel's is not the flow's first; then the tunnel's, and what is to come after it.
DATAGRAMS = """
import errno, json, socket, sys
address, port, connected = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "connected"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(20)
    s.bind(("0.0.0.0", 0))
    if connected:
        s.connect((address, port))
    for text in sys.argv[4:]:
        try:
            s.send(bytes.fromhex(text)) if connected else s.sendto(bytes.fromhex(text), (address, port))
        except OSError as error:
            print("write", errno.errorcode[error.errno])
    if connected:
        try:
            print("read", s.recv(64))
        except OSError as error:
            print("read", errno.errorcode[error.errno])
"""
HANDSHAKE, RESPONSE = b"\1\0\0\0" + bytes(range(144)), b"\2\0\0\0" + bytes(range(88))


@pytest.mark.parametrize("opening", [HANDSHAKE, RESPONSE])
@pytest.mark.parametrize("how", ["connected", "unconnected"])
def test_a_wireguard_handshake_does_not_leave(
    sensor: Running, all_denied: Sandbox, network: Network, how: str, opening: bytes
) -> None:
    """Neither one that is begun here nor the answer to one, also where the socket was used before."""
    with Capture(network) as outside, network.outside.call(datagrams) as server:
        port = server.getsockname()[1]
        harmless = b"\1\0\0\1" + bytes(144)
        client = network.start_inside(
            all_denied,
            [*PYTHON, "-c", DATAGRAMS, SERVER, str(port), how, *(m.hex() for m in (harmless, opening, b"after"))],
        )
        said = client.finish()
        arrived = [packet[28:] for packet in outside.to(SERVER, socket.IPPROTO_UDP, port)]
    assert arrived == [harmless]
    if how == "connected":
        assert "read ECONNABORTED" in said
        assert destroyed(sensor, all_denied) == ["the socket of a denied flow was destroyed"]
    sensor.wait(all_denied, category="network_flow", EndReason="cut", DestinationPort=port)
    (line,) = sensor.wait(all_denied, category="network_protocol", Denied=True)
    assert line["ApplicationProtocol"] == "wireguard"


def datagrams() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((SERVER, 0))
    return made


# Writes the banner, says when it was sent again, and then what a read gives.
STUBBORN = """
import errno, socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.recv(64)
s.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\\r\\n")
while s.getsockopt(6, 11, 8)[3] < 2:  # tcpi_probes: what never left is sent again as a probe
    time.sleep(0.01)
print("sent again", flush=True)
try:
    print("read", s.recv(64))
except OSError as error:
    print("read", errno.errorcode[error.errno])
"""


def test_the_verdict_holds_both_ways_while_nobody_destroys_the_socket(
    sensor: Running, all_denied: Sandbox, network: Network
) -> None:
    """The sensor is stopped meanwhile: what the kernel does alone, however often either end sends again."""
    assert sensor.process is not None
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        port = server.getsockname()[1]
        client = network.start_inside(all_denied, [*PYTHON, "-c", STUBBORN, SERVER, str(port)])
        peer, _ = server.accept()
        with peer:
            sensor.process.send_signal(signal.SIGSTOP)
            try:
                peer.sendall(b"SSH-2.0-server\r\n")
                until(lambda: "sent again" in client.said(), "what was cut is sent again", [client])
                before = retransmissions(peer)
                peer.sendall(b"late")
                until(lambda: retransmissions(peer) >= before + 2, "nobody acknowledges", [client])
            finally:
                sensor.process.send_signal(signal.SIGCONT)
            assert client.finish().splitlines()[-1] == "read ECONNABORTED"
            with pytest.raises(ConnectionResetError):
                peer.recv(64)
    told_cut(sensor, all_denied, port, 1, "ssh")


def test_what_is_harmless_passes_in_the_same_class(sensor: Running, all_denied: Sandbox, network: Network) -> None:
    said = [(message, cut) for message in HARMLESS for cut in (-1, 0, 3)]
    with Hearing(network, answer=b"pong") as outside:
        found = say(network, all_denied, (SERVER, outside.port), [pieces_of(message, cut) for message, cut in said])
        for (source, error, answer), (message, _) in zip(found, said, strict=True):
            assert (error, answer) == ("", "pong"), message
            assert outside.ended(source) == "closed"
            assert outside.of(source).data == message
    sensor.settled(all_denied)
    assert not sensor.of(all_denied, category="network_flow", EndReason="cut")


@pytest.fixture
def no_pools(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(f"pools-{unique()}") as box:
        yield box


def test_what_another_class_denies_is_no_way_past(sensor: Running, no_pools: Sandbox, network: Network) -> None:
    """SSH and bore are not denied here. What begins like bore is not done with when its prefix has passed."""
    banner, hello = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b'{"Hello":0}\0'
    with Hearing(network, answer=b"pong") as outside:
        found = say(network, no_pools, (SERVER, outside.port), [[banner], [hello]])
        assert [(error, answer) for _, error, answer in found] == [("", "pong")] * 2
        assert [outside.of(source).data for source, _, _ in found] == [banner, hello]
    both = Message("stratum", b'{"Hello":0,"method":"mining.', b'subscribe"}\n')
    with Hearing(network) as outside:
        found = say(network, no_pools, (SERVER, outside.port), [[both.whole], pieces_of(both.whole, -1)])
        assert {error for _, error, _ in found} <= CUT
        assert [outside.ended(source) for source, _, _ in found] == ["reset", "reset"]
        whole, split = (outside.of(source).data for source, _, _ in found)
    assert whole == b""
    assert 0 < len(split) < len(both.prefix)
    told_cut(sensor, no_pools, outside.port, 2, "stratum")


def test_monitor_mode_tells_and_cuts_nothing(sensor: Running, only_told: Sandbox, network: Network) -> None:
    messages = [MESSAGES[name][0] for name in ("ssh", "bore", "http-connect", "socks", "bitcoin", "monero")]
    with Hearing(network, answer=b"pong") as outside:
        found = say(network, only_told, (SERVER, outside.port), [[message.whole] for message in messages])
        assert [(error, answer) for _, error, answer in found] == [("", "pong")] * len(messages)
        assert [outside.of(source).data for source, _, _ in found] == [message.whole for message in messages]
    denied = sensor.wait(only_told, category="network_protocol", Denied=True, count=len(messages))
    assert {line["ApplicationProtocol"] for line in denied} == {message.protocol for message in messages}
    assert not sensor.of(only_told, category="network_flow", EndReason="cut")


# Two connections, and a word on standard input before each of them is used.
IN_TURN = """
import errno, socket, sys
ends = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(2)]
print("connected", flush=True)
for end in ends:
    sys.stdin.readline()
    end.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\\r\\n")
    try:
        print(end.getsockname()[1], end.recv(64).decode(), flush=True)
    except OSError as error:
        print(end.getsockname()[1], errno.errorcode[error.errno], flush=True)
"""


def pinfold(sensor: Running, command: str) -> None:
    arguments = [command, "--reason", "x", "--config", str(sensor.file)]
    subprocess.run([sys.executable, "-m", "sensor.cli", *arguments], check=True, capture_output=True)


def test_disarmed_nothing_is_cut(sensor: Running, all_denied: Sandbox, network: Network) -> None:
    """Not even a flow that was begun before, and whose beginning would be looked at; armed again, the next is."""
    with Hearing(network, answer=b"pong") as outside:
        client = network.start_inside(
            all_denied, [*PYTHON, "-c", IN_TURN, SERVER, str(outside.port)], stdin=subprocess.PIPE
        )
        assert client.process.stdin is not None
        until(lambda: "connected" in client.said(), "both connections", [client])
        pinfold(sensor, "disarm")
        try:
            client.process.stdin.write(b"\n")
            client.process.stdin.flush()
            until(lambda: "pong" in client.said(), "an answer to the first banner", [client])
        finally:
            pinfold(sensor, "arm")
        client.process.stdin.write(b"\n")
        client.process.stdin.flush()
        first, second = client.finish().splitlines()[1:]
        assert second.split()[1] in CUT
        assert outside.of(int(first.split()[0])).data.startswith(b"SSH-2.0")
        assert outside.of(int(second.split()[0])).data == b""


# Data in the SYN, once a first connection has fetched the cookie for it (RFC 7413).
FAST_OPEN = """
import errno, socket, sys
told = []
for said in (b"hello", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\\r\\n"):
    with socket.socket() as s:
        try:
            s.sendto(said, socket.MSG_FASTOPEN, (sys.argv[1], int(sys.argv[2])))
            told.append(s.recv(64).decode())
        except OSError as error:
            told.append(errno.errorcode[error.errno])
print(*told)
"""


def fast_server() -> socket.socket:
    with open("/proc/sys/net/ipv4/tcp_fastopen", "w") as file:  # the namespace's own
        file.write("3")
    made = socket.create_server((SERVER, 0))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    return made


def test_data_in_a_syn_is_no_way_past(sensor: Running, all_denied: Sandbox, network: Network) -> None:
    with Capture(network) as outside, network.outside.call(fast_server) as server:
        port = server.getsockname()[1]
        client = network.start_inside(all_denied, [*PYTHON, "-c", FAST_OPEN, SERVER, str(port)])
        with server.accept()[0] as peer:
            assert peer.recv(64) == b"hello"
            peer.sendall(b"pong")
        with server.accept()[0] as peer, pytest.raises(ConnectionResetError):
            peer.recv(64)
        answered, error = client.finish().split()
        packets = outside.to(SERVER, socket.IPPROTO_TCP, port)
    assert (answered, error in CUT) == ("pong", True)
    assert not [packet for packet in packets if b"SSH" in packet]
    told_cut(sensor, all_denied, port, 1, "ssh")


# Takes the place of its own flow in the table of flows, which is known by the low bits of the socket's cookie.
ELBOWING = """
import os, socket, struct, sys
os.sched_setaffinity(0, {0})
def cookie(s):
    return struct.unpack("=Q", s.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
address, port = sys.argv[1], int(sys.argv[2])
first = socket.create_connection((address, port))
while True:
    other = socket.socket()
    if (cookie(other) - cookie(first)) % 65536 == 0:
        break
    other.close()
other.connect((address, port))
other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
other.close()  # by a reset: gone when this returns
first.sendall(sys.argv[3].encode())
first.settimeout(20)
try:
    print(first.getsockname()[1], first.recv(64).decode())
except OSError as error:
    print(first.getsockname()[1], "cut")
"""


@pytest.mark.parametrize(("said", "answered"), [("SSH-2.0-client\r\n", "cut"), ("GET / HTTP/1.0\r\n\r\n", "pong")])
def test_a_flow_that_lost_its_place_in_the_table_is_looked_at_from_its_first_byte(
    all_denied: Sandbox, network: Network, said: str, answered: str
) -> None:
    with Hearing(network, answer=b"pong") as outside:
        client = network.start_inside(all_denied, [*PYTHON, "-c", ELBOWING, SERVER, str(outside.port), said])
        source, found = client.finish().split()
        assert found == answered
        assert outside.of(int(source)).data == (b"" if answered == "cut" else said.encode())
