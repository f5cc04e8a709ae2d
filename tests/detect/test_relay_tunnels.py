"""Every tunnel of the threat list as the events it makes: told at the first relayed connection, whatever its name."""

from __future__ import annotations

import pytest

from tests.detect.scene import MS, OUTSIDE, SECOND, Scene

VERDICT = 60
STRONG = 80
CLIENT = 700  # tgid of the tunnel's client
REQUEST, PAGE = 80, 4096


def ssh_bytes(length: int) -> int:
    """Data of a channel, sealed."""
    return length + 38


def ssh_relays(scene: Scene, outer: int, port: int = 22, *, dialler: int = CLIENT, wait: float = 20) -> int:
    """forwarded-tcpip opened, dialled, confirmed; request, page, eof and close."""
    scene.wait(wait)
    scene.push(outer, 100)
    scene.at += 2 * MS
    inner = scene.connect(dialler, "127.0.0.1", port)
    scene.move(outer, out=44)
    scene.at += 30 * MS
    scene.move(outer, in_=ssh_bytes(REQUEST))
    scene.move(inner, out=REQUEST)
    scene.at += 5 * MS
    scene.move(inner, in_=PAGE)
    scene.move(outer, out=ssh_bytes(PAGE) + 72, in_=36)
    scene.end(inner)
    scene.move(outer, in_=72)
    return inner


def raw_relays(scene: Scene, outer: int, *, sealed: int = 0, dialler: int = CLIENT, marker: int = 1) -> int:
    """A byte comes, the relay dials; `sealed`: bytes a record of TLS or WebSocket adds."""
    scene.push(outer, marker + sealed)
    inner = scene.connect(dialler, "127.0.0.1", 8080)
    scene.at += 20 * MS
    scene.move(outer, in_=REQUEST + sealed)
    scene.move(inner, out=REQUEST)
    scene.at += 3 * MS
    scene.move(inner, in_=PAGE)
    scene.move(outer, out=PAGE + sealed)
    scene.end(inner)
    return inner


@pytest.mark.parametrize("port", [22, 443, 51_022])
def test_ssh_reverse_forward(port: int) -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, port)
    scene.recognise(outer, "ssh", MessageKind="banner")
    scene.move(outer, out=3000, in_=3000)
    ssh_relays(scene, outer)
    assert scene.score("relay") >= STRONG
    event = scene.of("relay")[-1]
    assert (event.DestinationIp, event.DestinationPort, event.ApplicationProtocol) == (OUTSIDE, port, "ssh")
    assert (event.Inner, event.InnerPort, event.ProcessId) == ("127.0.0.1:22", 22, CLIENT)
    assert event.Conservation == 100 and event.Repetitions == 1
    assert f"{outer:x}" in event.Cookies.split()


def test_ssh_is_told_by_its_bytes_alone_where_no_protocol_was_seen() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 50_123, image="/tmp/x")
    scene.move(outer, out=3000, in_=3000)
    ssh_relays(scene, outer, port=8080)
    assert scene.score("relay") >= VERDICT
    for _ in range(5):
        ssh_relays(scene, outer, port=8080)
    assert scene.score("relay") >= STRONG


def test_controlmaster_where_a_fork_holds_what_its_parent_made() -> None:
    """`ssh -f -N -M`: the socket's maker exits. Only descriptors tell who holds it."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 22)
    scene.recognise(outer, "ssh")
    scene.exits(CLIENT)
    scene.world.held[scene.inode(outer)] = (CLIENT + 1,)
    ssh_relays(scene, outer, dialler=CLIENT + 1)
    assert scene.score("relay") >= STRONG
    assert scene.of("relay")[-1].HolderProcessIds == str(CLIENT + 1)


def test_a_fork_of_the_maker_dials() -> None:
    scene = Scene()
    scene.fork(CLIENT, CLIENT + 1)
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(5)
    raw_relays(scene, outer, dialler=CLIENT + 1)
    assert scene.score("relay") >= VERDICT
    assert scene.world.scans == 0


def test_reverse_socks_dials_where_it_is_told() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 22)
    scene.recognise(outer, "ssh")
    for port in (80, 5432, 6379):
        ssh_relays(scene, outer, port=port)
    ssh_relays(scene, outer, port=80, wait=3700)
    event = scene.of("relay")[-1]
    assert event.Score >= STRONG
    assert event.DistinctDestinations == 3
    assert "target=5" in event.ScoreParts


def test_ssh_in_ssh_is_told_while_it_lasts() -> None:
    """A person types for an hour: the inner flow does not end."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(outer, "ssh")
    scene.wait(30)
    scene.push(outer, 100)
    inner = scene.connect(CLIENT, "127.0.0.1", 22)
    scene.move(outer, out=44)
    for _ in range(4):
        scene.wait(1)
        scene.move(inner, out=600, in_=1500)
        scene.move(outer, in_=640, out=1540)
    scene.wait(2)
    assert scene.score("relay") >= STRONG


@pytest.mark.parametrize("age", [0.3, 10.0])
@pytest.mark.parametrize("sealed", [0, 29, 43])
def test_a_relay_of_a_few_lines_raw_in_tls_and_in_a_websocket(sealed: int, age: float) -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 40_404)
    if sealed:
        scene.move(outer, out=600, in_=1800)
        scene.recognise(outer, "tls")
    scene.wait(age)
    raw_relays(scene, outer, sealed=sealed)
    scene.wait(1)
    assert scene.score("relay") >= VERDICT


def test_a_websocket_over_https_is_told_on_its_first_use() -> None:
    """A client that says `http/1.1` is no request and reply where the request came after the dial."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(outer, "tls", Alpn="http/1.1")
    scene.move(outer, out=900, in_=2200)
    scene.wait(8)
    raw_relays(scene, outer, sealed=36)
    scene.wait(1)
    assert scene.score("relay") >= VERDICT


def test_socat_which_dials_both_at_once() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 9001)
    scene.at += 2 * MS
    inner = scene.connect(CLIENT, "127.0.0.1", 8080)
    scene.wait(30)
    scene.push(outer, REQUEST)
    scene.move(inner, out=REQUEST)
    scene.move(inner, in_=PAGE)
    scene.move(outer, out=PAGE)
    scene.wait(2)
    assert scene.score("relay") >= VERDICT
    assert scene.of("relay")[-1].Inner == "127.0.0.1:8080"


def test_ncat_whose_child_dials_behind_pipes() -> None:
    """`ncat HOST PORT -e "ncat 127.0.0.1 8080"` copies between the flow and two pipes."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 9001)
    scene.at += 2 * MS
    scene.process(CLIENT + 1, "/usr/bin/ncat", CLIENT, stdin=("pipe", 1), stdout=("pipe", 2))
    inner = scene.connect(CLIENT + 1, "127.0.0.1", 8080)
    scene.wait(10)
    scene.push(outer, REQUEST)
    scene.move(inner, out=REQUEST, in_=PAGE)
    scene.move(outer, out=PAGE)
    scene.end(inner)
    assert scene.score("relay") >= VERDICT
    assert scene.of("relay")[-1].ProcessId == CLIENT + 1


def test_netcat_whose_child_has_the_flow_itself() -> None:
    """`nc -e relay`: the child's standard input tells that it holds the flow."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 9001)
    socket = ("socket", scene.inode(outer))
    scene.process(CLIENT + 1, "/tmp/relay", CLIENT, stdin=socket, stdout=socket, stderr=("null", 0))
    scene.wait(10)
    raw_relays(scene, outer, dialler=CLIENT + 1)
    assert scene.score("relay") >= VERDICT
    assert scene.world.scans == 0


def redials(scene: Scene, control: int, port: int, *, opening_out: int, opening_in: int, tls: bool) -> int:
    """frp, bore, localtunnel: told on the control flow, the client dials a data flow, and then inwards."""
    scene.push(control, 60)
    scene.at += 20 * MS
    data = scene.connect(CLIENT, OUTSIDE, port)
    if tls:
        scene.recognise(data, "tls")
        scene.move(data, out=700, in_=3500)
    scene.move(data, out=opening_out, in_=opening_in)
    scene.at += 20 * MS
    inner = scene.connect(CLIENT, "127.0.0.1", 3000)
    scene.at += 20 * MS
    scene.move(data, in_=REQUEST)
    scene.move(inner, out=REQUEST, in_=PAGE)
    scene.move(data, out=PAGE)
    scene.end(inner)
    scene.end(data)
    return data


@pytest.mark.parametrize(
    ("name", "port", "opening_out", "opening_in", "tls"),
    [("frp", 7000, 120, 90, True), ("bore", 7835, 49, 0, False), ("localtunnel", 34_567, 0, 0, False)],
)
def test_clients_that_dial_again_for_each_connection(
    name: str, port: int, opening_out: int, opening_in: int, tls: bool
) -> None:
    scene = Scene()
    control = scene.connect(CLIENT, OUTSIDE, 443 if name == "localtunnel" else port)
    scene.wait(30)
    redials(scene, control, port, opening_out=opening_out, opening_in=opening_in, tls=tls)
    assert scene.score("relay") >= VERDICT, name


def test_frp_with_a_pool_of_data_flows() -> None:
    """The work connection is there already: its own data starts the dial, and the control flow is the same peer's."""
    scene = Scene()
    scene.connect(CLIENT, OUTSIDE, 7000)
    pooled = scene.connect(CLIENT, OUTSIDE, 7000)
    scene.recognise(pooled, "frp")
    scene.wait(60)
    raw_relays(scene, pooled, marker=90)
    assert scene.score("relay") >= STRONG


@pytest.mark.parametrize("far", [True, False])
def test_ssh_behind_stunnel_on_loopback(far: bool) -> None:
    """ssh → 127.0.0.1:2222, where stunnel accepts and is connected to the outside; without that it is no relay."""
    scene = Scene()
    stunnel = 650
    outer = scene.connect(CLIENT, "127.0.0.1", 2222, source=("127.0.0.1", 41_000))
    scene.connect(stunnel, "127.0.0.1", 41_000, initiated=False, source=("127.0.0.1", 2222))
    outside = scene.connect(stunnel, OUTSIDE, 443) if far else 0
    scene.recognise(outer, "ssh")
    ssh_relays(scene, outer, port=8080)
    if not far:
        assert scene.of("relay") == []
        return
    event = scene.of("relay")[-1]
    assert event.Score >= STRONG
    assert (event.DestinationIp, event.DestinationPort) == (OUTSIDE, 443)
    assert {f"{outer:x}", f"{outside:x}"} <= set(event.Cookies.split())


def test_the_dial_may_be_told_before_the_data_that_caused_it() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(outer, "ssh")
    scene.wait(30)
    came = scene.at
    scene.at += 3 * MS
    inner = scene.connect(CLIENT, "127.0.0.1", 22)
    scene.push(outer, 100, at=came)
    assert scene.score("relay") >= 30
    assert scene.of("relay")[-1].Repetitions == 1
    scene.move(outer, in_=ssh_bytes(REQUEST), out=ssh_bytes(PAGE))
    scene.move(inner, out=REQUEST, in_=PAGE)
    scene.end(inner)
    assert scene.score("relay") >= STRONG


def test_chatter_below_a_pause_hides_nothing_for_long() -> None:
    """Keep-alives each half second: the kernel sees no pause, so no inversion."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(60)
    for _ in range(3):
        inner = scene.connect(CLIENT, "127.0.0.1", 8080)
        scene.move(outer, in_=REQUEST + 20, out=20)
        scene.move(inner, out=REQUEST, in_=PAGE)
        scene.move(outer, out=PAGE)
        scene.end(inner)
        scene.wait(1)
    assert scene.score("relay") >= VERDICT


def test_a_browser_through_the_tunnel_makes_one_stretch_of_many_flows() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(10)
    scene.push(outer, 100)
    inner = [scene.connect(CLIENT, "127.0.0.1", 8080) for _ in range(6)]
    for cookie in inner:
        scene.move(outer, in_=480, out=9000)
        scene.move(cookie, out=400, in_=8900)
    scene.end(*inner)
    assert scene.score("relay") >= VERDICT
    assert scene.of("relay")[-1].Repetitions == 1


def test_compression_needs_a_protocol_or_it_is_no_verdict() -> None:
    for protocol in ("ssh", ""):
        scene = Scene()
        outer = scene.connect(CLIENT, OUTSIDE, 443)
        if protocol:
            scene.recognise(outer, protocol)
        scene.wait(10)
        scene.push(outer, 100)
        inner = scene.connect(CLIENT, "127.0.0.1", 8080)
        scene.move(outer, in_=90, out=12_000)
        scene.move(inner, out=REQUEST, in_=40_000)
        scene.end(inner)
        assert (scene.score("relay") >= VERDICT) is bool(protocol)


@pytest.mark.parametrize(("protocol", "verdict"), [("ssh", True), ("", False)])
def test_a_unix_socket_needs_repetition_and_a_protocol(protocol: str, verdict: bool) -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    if protocol:
        scene.recognise(outer, protocol)
    for number in range(8):
        scene.wait(20)
        scene.push(outer, 100)
        scene.unix(CLIENT, "/run/docker.sock")
        assert number or scene.score("relay") < 50
    assert (scene.score("relay") >= VERDICT) is verdict
    if verdict:
        assert scene.of("relay")[-1].Inner == "/run/docker.sock"


def test_a_server_on_a_flow_that_it_opened_is_evidence() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 9001)
    scene.recognise(outer, "http", from_sandbox=False, ProtocolRole="client")
    scene.wait(10)
    raw_relays(scene, outer)
    assert scene.score("relay") >= STRONG
    assert "protocol=25" in scene.of("relay")[-1].ScoreParts


def test_a_private_neighbour_and_the_sandboxs_own_address_are_inward() -> None:
    for address in ("10.1.2.3", "198.51.100.2"):
        scene = Scene()
        outer = scene.connect(CLIENT, OUTSIDE, 443)
        scene.wait(10)
        scene.push(outer, 20)
        inner = scene.connect(CLIENT, address, 8080)
        scene.move(outer, in_=REQUEST, out=PAGE)
        scene.move(inner, out=REQUEST, in_=PAGE)
        scene.end(inner)
        assert scene.score("relay") >= VERDICT
        assert scene.of("relay")[-1].Inner == f"{address}:8080"


def test_a_flow_that_was_there_before_the_sensor_is_known_by_its_sample() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443, told=False)
    scene.wait(600)
    scene.sample(outer)
    scene.wait(5)
    raw_relays(scene, outer)
    assert scene.score("relay") >= VERDICT
    assert scene.of("relay")[-1].DurationMs >= 600 * SECOND // MS


def test_levels_are_told_once_and_again_after_an_hour() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(outer, "ssh")
    for _ in range(50):
        ssh_relays(scene, outer)
    assert len(scene.of("relay")) <= 4
    before = len(scene.of("relay"))
    ssh_relays(scene, outer, wait=3700)
    assert before < len(scene.of("relay")) <= 8
