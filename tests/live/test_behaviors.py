"""What no single event shows, by real programs: beacons, miners, scans, idle tunnels, tun devices, names that carry
data. Hours are compressed by settings, and only rules on behaviours are loaded; what merely looks so stays silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live.peers.mining import HEARD, mining
from tests.live.peers.network import ALLOWED, ANYWHERE, OTHER, SERVER, Network
from tests.live.peers.programs import Program, find
from tests.live.peers.resolver import start_resolver
from tests.live.peers.ssh import Sshd
from tests.live.peers.tunnels import TUNNELS
from tests.live.running import CONFIG, Line, Running, Sandbox

LISTED = CONFIG.replace("sandboxes:", 'sandboxes:\n  - {{path: "{instance}/listed-*", class: listed}}') + (
    f"  listed: {{{{egress: {{{{default: deny, allow: [{{{{to: {ALLOWED}}}}}]}}}}}}}}\n"
)
SETTINGS = """
flows: {{pause_ms: 200, sample_seconds: 1}}
detect:
  beacon: {{every_s: 1, period_min_s: 0.5, long_s: 4}}
  mining: {{age_s: 3, pushes: 5, every_s: 1, cpu_percent: 20}}
  idle_tunnel: {{age_s: 3, quiet_s: 2, every_s: 1}}
"""
RULES = Path(__file__).parents[2] / "rules"
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
LONG_MS = 6000  # by then, every compressed age has passed


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    files = [path for path in RULES.rglob("*.yml") if "category: network_behavior" in path.read_text()]
    rules = f"rules: {{{{paths: [{', '.join(map(str, files))}]}}}}\n"
    with Running(SETTINGS + rules, config=LISTED, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def told(sensor: Running, box: Sandbox, behavior: str, score: int, *levels: str) -> Line:
    """And a rule of one of these levels followed."""
    wanted: dict[str, Any] = {"category": "network_behavior", "Behavior": behavior, "Score": lambda it: it >= score}
    (line, *_) = sensor.wait(box, **wanted)
    sensor.wait(box, kind="detection", rule=lambda rule: rule["level"] in levels, **wanted)
    return line


def untold(sensor: Running, box: Sandbox, *behaviors: str) -> None:
    sensor.settled(box)
    said = sensor.of(box, category="network_behavior", Behavior=lambda name: name in behaviors)
    assert [(line["Behavior"], line["ScoreParts"]) for line in said] == []


def lived(sensor: Running, box: Sandbox, *, pushes: int = 0) -> None:
    """A flow is as old as any told one would have to be, and as many times something came in on it."""
    sensor.wait(
        box,
        category="network_flow",
        Phase="sample",
        DurationMs=lambda age: age > LONG_MS,
        Inversions=lambda count: count >= pushes,
    )


# Beacons.

TAKE = """
import socket, sys, threading
def serve(peer):
    while peer.recv(100):
        peer.sendall(bytes(20))
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    while True:
        threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
CHECK_IN = """
import os, random, socket, sys, time
place, how = (sys.argv[1], int(sys.argv[2])), sys.argv[3]
gaps = {"irregular": [0.4, 2.6, 0.5, 3.1, 0.4, 1.4, 0.6, 2.4]}
s = socket.create_connection(place) if how != "successive" else None
for gap in gaps.get(how) or iter(lambda: random.uniform(1.3, 1.7), None):
    s = s if how != "successive" else socket.create_connection(place)
    s.sendall(os.urandom(60))
    s.recv(20)
    if how == "successive":
        s.close()
    time.sleep(gap)
"""


def test_a_beacon_keeps_time_within_its_jitter(sensor: Running, network: Network) -> None:
    """On one flow, and with a connection for each; not what comes at any time."""
    with ExitStack() as ending:
        clients: dict[str, tuple[Sandbox, Program]] = {}
        for how in ("steady", "successive", "irregular"):
            box, port = ending.enter_context(sensor.sandbox()), str(network.port())
            server = network.start_outside([*PYTHON, TAKE, SERVER, port])
            ending.callback(server.stop)
            network.listens(network.outside, int(port), server)
            clients[how] = box, network.start_inside(box, [*PYTHON, CHECK_IN, SERVER, port, how])
            ending.callback(clients[how][1].stop)
        for how in ("steady", "successive"):
            line = told(sensor, clients[how][0], "beacon", 60, "medium")
            assert 800 <= line["PeriodMs"] <= 3000
            assert line["Repetitions"] >= 6
        clients["irregular"][1].finish()
        untold(sensor, clients["irregular"][0], "beacon")


# Mining.


@pytest.mark.parametrize("dialect", HEARD)
def test_a_miner_is_told_by_what_it_speaks(
    dialect: str, sensor: Running, sandbox: Sandbox, network: Network, tmp_path: Path
) -> None:
    score, levels = (60, ["medium"]) if dialect == "stratum2" else (80, ["high", "critical"])  # its lengths alone show
    with mining(network, sandbox, tmp_path, dialect, renamed=True, port=network.port(), split="keys") as work:
        line = told(sensor, sandbox, "mining_session", score, *levels)
    assert (line["DestinationIp"], line["DestinationPort"], line["ProcessId"]) == (*work.peer, work.miner.tgid)


def test_a_miner_whose_words_are_hidden_is_told_by_its_work(sensor: Running, network: Network, tmp_path: Path) -> None:
    """Jobs are pushed on a long thin flow while the sandbox computes; one that computes nothing is none."""
    with ExitStack() as ending:
        boxes = []
        for dialect, burn in (("bitcoin", True), ("monero", True), ("monero", False)):
            boxes.append(box := ending.enter_context(sensor.sandbox()))
            work = mining(
                network, box, tmp_path, dialect, tls=True, port=network.port(), job_s=0.5, keepalive_s=60, burn=burn
            )
            ending.enter_context(work)
        *miners, idle = boxes
        for box in miners:
            line = told(sensor, box, "mining_session", 60, "medium")
            assert (line["ApplicationProtocol"], line["DestinationIp"]) == ("tls", OTHER)
            assert line["Repetitions"] >= 5
        lived(sensor, idle, pushes=8)
        untold(sensor, idle, "mining_session")


# Fan-out.

SWEEP = """
import ipaddress, socket, sys
for host in list(ipaddress.ip_network(sys.argv[1]).hosts())[:int(sys.argv[2])]:
    socket.socket().connect_ex((str(host), int(sys.argv[3])))
"""


def test_a_sweep_of_a_network(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    network.start_inside(sandbox, [*PYTHON, SWEEP, ANYWHERE, "254", "22"]).finish()
    line = told(sensor, sandbox, "fan_out", 60, "medium", "high")
    assert line["DistinctDestinations"] >= 128


def test_a_scan_of_one_host(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    """Not as root: then nmap makes its packets by itself, and no socket that we see has anything to do with them."""
    nmap = [find("nmap"), "-n", "-Pn", "-p", "1-1024", "--max-retries", "1", SERVER]
    network.start_inside(sandbox, nmap, uid=65534).finish()
    line = told(sensor, sandbox, "fan_out", 60, "medium", "high")
    assert (line["DestinationIp"], line["DistinctDestinations"]) == (SERVER, 1)
    assert line["DistinctPorts"] >= 64


def test_an_installation_asks_tens_of_hosts(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    network.start_inside(sandbox, [*PYTHON, SWEEP, ANYWHERE, "60", "443"]).finish()
    untold(sensor, sandbox, "fan_out")


# Idle tunnels.


def test_a_session_that_is_only_kept_alive(sensor: Running, network: Network) -> None:
    """To where the egress list does not lead."""
    with ExitStack() as ending:
        boxes = {}
        for address in (SERVER, ALLOWED):
            sshd = Sshd(network, network.port(), address=address, login="build")
            ending.callback(sshd.program.stop)
            box = ending.enter_context(sensor.sandbox(f"listed-{address}"))
            alive = ["-o", "ServerAliveInterval=1", "-N"]
            client = network.start_inside(box, [find("ssh"), *sshd.options(), *alive, *sshd.destination()])
            ending.callback(client.stop)
            boxes[address] = box
        line = told(sensor, boxes[SERVER], "idle_tunnel", 60, "medium", "high")
        assert (line["ApplicationProtocol"], line["DestinationIp"]) == ("ssh", SERVER)
        lived(sensor, boxes[ALLOWED])
        untold(sensor, boxes[ALLOWED], "idle_tunnel")


# A tun device.

TUN = """
import fcntl, os, socket, struct, sys
def tun():
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"", 0x1001))
def flow():
    carrier = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    carrier.sendto(os.urandom(100), (sys.argv[1], 4500))
for step in sys.argv[2:]:
    {"tun": tun, "flow": flow}[step]()
"""


@pytest.mark.parametrize("order", [("tun", "flow"), ("flow", "tun")], ids="-".join)
def test_a_tun_device_with_a_flow(order: tuple[str, str], sensor: Running, sandbox: Sandbox, network: Network) -> None:
    network.start_inside(sandbox, [*PYTHON, TUN, SERVER, *order]).finish()
    line = told(sensor, sandbox, "tun_flow", 60, "high")
    assert (line["Protocol"], line["DestinationIp"]) == ("udp", SERVER)


def test_a_tun_device_alone(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    network.start_inside(sandbox, [*PYTHON, TUN, SERVER, "tun"]).finish()
    network.start_inside(sandbox, [*PYTHON, TUN, SERVER, "flow"]).finish()
    sensor.wait(sandbox, category="device_access", DeviceClass="tun")
    untold(sensor, sandbox, "tun_flow")


def test_a_vpn(sensor: Running, sandbox: Sandbox, network: Network, tmp_path: Path) -> None:
    with TUNNELS["tun-vpn"](network, sandbox, tmp_path, renamed=True, port=network.port()) as tunnel:
        assert tunnel.use() == tunnel.page
        told(sensor, sandbox, "tun_flow", 60, "high")


# Names that carry data.


def test_names_that_carry_data(sensor: Running, sandbox: Sandbox, network: Network, tmp_path: Path) -> None:
    with TUNNELS["iodine"](network, sandbox, tmp_path, renamed=True) as tunnel:
        assert tunnel.use() == tunnel.page
        line = told(sensor, sandbox, "dns_tunnel", 60, "high", "critical")
    assert line["Domain"] in {"tunnel.test", ""}


RESOLVE = """
import socket, sys
for name in sys.argv[1:]:
    socket.gethostbyname(name)
"""


def test_fifty_ordinary_names(sensor: Running, sandbox: Sandbox, network: Network) -> None:
    hosts = ("www", "api", "cdn-static", "files", "registry-1", "d2k1ftgv7pobq7", "eu-west-1-assets", "objects")
    places = zip(hosts, DOMAINS, strict=True)
    names = [f"{host}.{domain}{number}.example" for host, domain in places for number in range(7)][:50]
    resolver = start_resolver(network, {name: [OTHER] for name in names})
    network.start_inside(sandbox, [*PYTHON, RESOLVE, *names]).finish()
    resolver.stop()
    sensor.wait(sandbox, category="dns_query", QueryName=names[-1], Answered=True)
    untold(sensor, sandbox, "dns_tunnel")


DOMAINS = ("python", "github", "pypi", "debian", "docker", "cloudfront", "amazon", "npm")


def test_nothing_is_said_of_a_sandbox_that_ended(sensor: Running, network: Network, tmp_path: Path) -> None:
    """Half a sweep before it and half after it are none; and what was under way in it is over."""
    with sensor.sandbox("plain-twice") as box:
        network.start_inside(box, [*PYTHON, SWEEP, ANYWHERE, "100", "22"]).finish()
        work = mining(network, box, tmp_path, "monero", tls=True, port=network.port(), job_s=0.4, keepalive_s=60)
        with work:
            sensor.settled(box)
    (ended,) = sensor.until(
        lambda: [line for line in sensor.of(box, kind="sandbox") if line["change"] == "ended"], "the end"
    )
    with sensor.sandbox("plain-twice") as again:
        network.start_inside(again, [*PYTHON, SWEEP, ANYWHERE, "100", "22"]).finish()
        untold(sensor, again, "fan_out")
    said = sensor.of(box, category="network_behavior", time=lambda at: at > ended["time"])
    assert said == []
