"""What the kernel refuses to a quarantined sandbox, whatever its class allows, with the sensor alive or dead."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.bpf.denials import Denials, Deny
from tests.live.names import unique
from tests.live.peers.hearing import Capture
from tests.live.peers.network import SANDBOX, SERVER, Network
from tests.live.peers.programs import until
from tests.live.reaching import ICMP, OTHER6, PYTHON, TCP, UDP, Attempt, attempt
from tests.live.running import Running, Sandbox

ALL = Deny.NETWORK | Deny.LOOPBACK | Deny.DEVICES | Deny.EXEC
CUT = Deny.NETWORK | Deny.LOOPBACK


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def outside(network: Network) -> Iterator[Capture]:
    with Capture(network) as capture:
        yield capture


class Alone:
    """The kernel's half by itself: the core is stopped while there are denials, since it would mend what others write
    into its maps."""

    def __init__(self, sensor: Running) -> None:
        assert sensor.process is not None
        self._core = sensor.process
        found = Denials.pinned("/sys/fs/bpf", sensor.instance)
        assert found is not None
        self._denials = found
        self.all = found.all

    def put(self, sandbox_id: int, deny: Deny) -> None:
        os.kill(self._core.pid, signal.SIGSTOP)
        self._denials.put(sandbox_id, deny)

    def lift(self, sandbox_id: int) -> None:
        self._denials.lift(sandbox_id)

    def end(self) -> None:
        for sandbox_id in self._denials.all():
            self._denials.lift(sandbox_id)
        os.kill(self._core.pid, signal.SIGCONT)


@pytest.fixture
def denials(sensor: Running) -> Iterator[Alone]:
    alone = Alone(sensor)
    try:
        yield alone
    finally:
        alone.end()


@pytest.fixture(scope="module")
def server(network: Network) -> Iterator[None]:
    made = [
        network.outside.call(
            lambda place=place: socket.create_server(  # type: ignore[misc]
                place, family=socket.AF_INET6 if ":" in place[0] else socket.AF_INET
            )
        )
        for place in ((SERVER, 8000), (OTHER6, 8000))
    ]
    yield
    for each in made:
        each.close()


ATTEMPTS: tuple[Attempt, ...] = (
    ("tcp", SERVER, 8000),
    ("tcp", OTHER6, 8000),
    ("udp", SERVER, 9000),
    ("connected", SERVER, 9000),
    ("echo", SERVER, 0),
    ("made", SERVER, 9000),
)


@pytest.mark.usefixtures("server")
def test_nothing_leaves_and_others_are_not_touched(
    sensor: Running, sandbox: Sandbox, network: Network, outside: Capture, denials: Alone
) -> None:
    denials.put(sandbox.id, CUT)
    assert denials.all() == {sandbox.id: CUT}
    assert attempt(network, sandbox, ATTEMPTS) == ["EPERM"] * len(ATTEMPTS)
    assert not outside.to(SERVER, TCP) and not outside.to(SERVER, UDP) and not outside.to(SERVER, ICMP)
    assert not outside.to(OTHER6)
    with sensor.sandbox() as other:
        assert attempt(network, other, ATTEMPTS) == ["ok"] * len(ATTEMPTS)
    denials.lift(sandbox.id)
    assert denials.all() == {}
    assert attempt(network, sandbox, ATTEMPTS) == ["ok"] * len(ATTEMPTS)
    denials.end()
    lines = sensor.wait(sandbox, category="network_connection", Verdict="quarantine", DestinationIp=SERVER, count=2)
    assert {line["Protocol"] for line in lines} >= {"tcp", "udp"}


def test_nested_cgroups_are_included(
    sensor: Running, sandbox: Sandbox, network: Network, outside: Capture, denials: Alone
) -> None:
    nested = Sandbox(sandbox.path / "nested")
    denials.put(sandbox.id, CUT)
    assert attempt(network, nested, ATTEMPTS[2:3]) == ["EPERM"]
    assert not outside.to(SERVER, UDP)
    denials.lift(sandbox.id)


MANY = """
import errno, socket, sys
told = {}
for _ in range(int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        try:
            s.sendto(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0", (sys.argv[1], 0))
            name = "ok"
        except OSError as error:
            name = errno.errorcode[error.errno]
    told[name] = told.get(name, 0) + 1
print(*sorted(told))
"""


def test_a_crowded_table_of_flows_is_no_way_past(rule_cache: str, network: Network, outside: Capture) -> None:
    """Where a flow's place is held by a livelier one it stands in another, and is judged there too."""
    with Running("flows: {{table: 1024}}\n", cache=rule_cache) as small, small.sandbox() as box:
        alone = Alone(small)
        alone.put(box.id, CUT)
        try:
            program = network.start_inside(box, [*PYTHON, "-c", MANY, SERVER, "4000"])
            assert program.finish().split() == ["EPERM"]
            assert not outside.to(SERVER, ICMP)
        finally:
            alone.end()


LIVES = """
import errno, os, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
for line in sys.stdin:
    try:
        if line == "leave\\n":
            with open(sys.argv[3], "w") as procs:
                procs.write("0")
            print("left", flush=True)
        else:
            s.send(line.encode())
            print("sent", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
s.close()
"""


@pytest.mark.parametrize("leaves", [False, True])
def test_an_established_flow_is_cut_both_ways_also_of_one_that_left(
    sensor: Running, sandbox: Sandbox, network: Network, outside: Capture, denials: Alone, leaves: bool
) -> None:
    server = network.outside.call(lambda: socket.create_server((SERVER, 0)))
    port = server.getsockname()[1]
    reader, writer = os.pipe()
    program = network.start_inside(
        sandbox,
        [*PYTHON, "-c", LIVES, SERVER, str(port), str(sensor.parent / "cgroup.procs")],
        stdin=reader,
    )
    peer, _ = server.accept()
    peer.settimeout(10)
    os.write(writer, b"before\n")
    assert peer.recv(64) == b"before\n"
    if leaves:
        os.write(writer, b"leave\n")
        until(lambda: "left" in program.said(), "it left")
    denials.put(sandbox.id, CUT)
    os.write(writer, b"after\n")
    until(lambda: program.said().count("sent") == 2 or "E" in program.said(), "it wrote again")
    peer.sendall(b"to you")
    peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        peer.recv(64)
    assert not [packet for packet in outside.to(SERVER, TCP, port) if b"after" in packet]
    os.close(writer)
    program.finish()  # which resets the connection: that may leave
    peer.settimeout(20)
    with pytest.raises(ConnectionResetError):
        peer.recv(64)
    peer.close()
    server.close()
    os.close(reader)
    denials.lift(sandbox.id)


ACCEPTS = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("listens", flush=True)
listener.settimeout(60)
peer, _ = listener.accept()
print("accepted", flush=True)
"""


def test_nothing_comes_in(sandbox: Sandbox, network: Network, outside: Capture, denials: Alone) -> None:
    port = network.port()
    program = network.start_inside(sandbox, [*PYTHON, "-c", ACCEPTS, str(port)])
    network.listens(network.inside, port, program)
    denials.put(sandbox.id, CUT)

    def knock() -> int:
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex((SANDBOX, port))
            until(lambda: client.getsockopt(6, 11, 8)[2] >= 1, "its SYN was sent again")  # tcpi_retransmits
            return client.getsockopt(6, 11, 8)[0]

    assert network.outside.call(knock) == 2  # TCP_SYN_SENT
    assert "accepted" not in program.said()
    denials.lift(sandbox.id)
    network.outside.connect(SANDBOX, port).close()
    program.finish()


LOCAL = """
import errno, json, os, socket, sys
told = []
def attempt(action):
    try:
        action()
        told.append("ok")
    except OSError as error:
        told.append(errno.errorcode[error.errno])
tcp = socket.create_server(("127.0.0.1", 0))
attempt(lambda: socket.create_connection(tcp.getsockname(), 5).close())
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
attempt(lambda: socket.create_connection(six.getsockname()[:2], 5).close())
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0" + sys.argv[1])
unix.listen()
attempt(lambda: socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1]))
print(json.dumps(told))
"""


@pytest.mark.parametrize(("deny", "wanted"), [(CUT, "EPERM"), (Deny.NETWORK, "ok")])
def test_loopback_and_unix_sockets_are_the_operators_choice(
    sensor: Running, sandbox: Sandbox, network: Network, denials: Alone, deny: Deny, wanted: str
) -> None:
    denials.put(sandbox.id, deny)
    program = network.start_inside(sandbox, [*PYTHON, "-c", LOCAL, unique()])
    assert json.loads(program.finish()) == [wanted] * 3
    denials.lift(sandbox.id)
    denials.end()
    if wanted == "EPERM":
        sensor.wait(sandbox, category="network_connection", Protocol="unix", Verdict="quarantine")


def test_devices_are_revoked_and_ordinary_ones_stay(sensor: Running, sandbox: Sandbox, denials: Alone) -> None:
    code = """
import errno, json, sys
told = []
for path in ("/dev/null", "/dev/zero", "/dev/fuse"):
    try:
        open(path, "rb").close()
        told.append("ok")
    except OSError as error:
        told.append(errno.errorcode[error.errno])
print(json.dumps(told))
"""
    assert json.loads(sandbox.python(code).stdout) == ["ok", "ok", "ok"]
    denials.put(sandbox.id, Deny.DEVICES)
    assert json.loads(sandbox.python(code).stdout) == ["ok", "ok", "EPERM"]
    denials.lift(sandbox.id)
    assert json.loads(sandbox.python(code).stdout) == ["ok", "ok", "ok"]
    denials.end()
    sensor.wait(sandbox, category="device_access", DeviceClass="fuse", Verdict="quarantine")


def test_no_program_starts(sensor: Running, sandbox: Sandbox, denials: Alone, tmp_path: Path) -> None:
    denials.put(sandbox.id, Deny.EXEC)
    made = tmp_path / "made"
    assert sandbox.run("/usr/bin/touch", str(made)).returncode == -signal.SIGKILL
    assert not made.exists()
    denials.lift(sandbox.id)
    assert sandbox.run("/usr/bin/touch", str(made)).returncode == 0
    denials.end()
    sensor.wait(sandbox, category="process_creation", Killed=True, DeniedBy="quarantine")


@pytest.mark.usefixtures("server")
def test_it_holds_with_the_sensor_dead_and_goes_with_disarm(
    rule_cache: str, network: Network, outside: Capture, tmp_path: Path
) -> None:
    from sensor.bpf import objects  # noqa: PLC0415

    with Running(cache=rule_cache) as running, running.sandbox() as box:
        found = Denials.pinned("/sys/fs/bpf", running.instance)
        assert found is not None
        running.stop(signal.SIGKILL)
        found.put(box.id, ALL & ~Deny.EXEC)
        assert attempt(network, box, ATTEMPTS[:3]) == ["EPERM"] * 3
        found.put(box.id, ALL)
        assert box.run("/bin/true").returncode == -signal.SIGKILL
        objects.arm("/sys/fs/bpf", running.instance, armed=False)
        assert box.run("/bin/true").returncode == 0
        objects.arm("/sys/fs/bpf", running.instance, armed=True)
        assert box.run("/bin/true").returncode == -signal.SIGKILL
        assert not outside.to(SERVER)
        found.lift(box.id)
        assert attempt(network, box, ATTEMPTS[:3]) == ["ok"] * 3
