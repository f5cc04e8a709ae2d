"""Who holds a flow: not only its maker. A relay is accused by whoever dials, whatever way the socket came to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.peers.network import SERVER, Network
from tests.live.running import Line, Running, Sandbox
from tests.live.test_detection import PAUSE_S, derived

PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
PAGE = b"".join(b"line %d of what the sandbox keeps to itself\n" % number for number in range(60))

# Relays one connection, over a socket that it did not make.
RELAY = """
import socket, sys
outer = socket.socket(fileno={fileno})
asked = outer.recv(4096)
inner = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
inner.sendall(asked)
while piece := inner.recv(4096):
    outer.sendall(piece)
inner.close()
outer.recv(1)
"""
INHERITED = """
import os, socket, sys
outer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
os.set_inheritable(outer.fileno(), True)
if os.fork() == 0:
    relay = sys.argv[4].replace("{fileno}", str(outer.fileno()))
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", relay, sys.argv[3]])
"""
PASSED = """
import array, os, socket, sys
ours, theirs = socket.socketpair()
os.set_inheritable(theirs.fileno(), True)
if os.fork() == 0:
    relay = "import array, socket; s = socket.socket(fileno=%d); " % theirs.fileno()
    relay += "fd = array.array('i', s.recvmsg(1, socket.CMSG_SPACE(4))[1][0][2])[0]\\n"
    relay += sys.argv[4].replace("{fileno}", "fd")
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", relay, sys.argv[3]])
outer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [outer.fileno()]))])
"""


@pytest.fixture(scope="module")
def sensor() -> Iterator[Running]:
    paths = ", ".join(str(path) for path in derived())
    with Running(f"rules: {{{{paths: [{paths}]}}}}\n") as running:
        yield running


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.mark.parametrize("way", [INHERITED, PASSED], ids=["inherited through an exec", "passed over a unix socket"])
def test_a_relay_over_anothers_socket_is_its_holders(
    sensor: Running, sandbox: Sandbox, network: Network, tmp_path: Path, way: str
) -> None:
    with (
        network.outside.call(lambda: socket.create_server((SERVER, 0))) as server,
        network.inside.call(lambda: socket.create_server(("127.0.0.1", 0))) as service,
    ):
        port, inner = server.getsockname()[1], service.getsockname()[1]
        maker = network.start_inside(sandbox, [*PYTHON, way, SERVER, str(port), str(inner), RELAY])
        outer, _ = server.accept()
        with outer:
            sensor.wait(sandbox, category="process_termination", ProcessId=maker.tgid)
            time.sleep(PAUSE_S)  # the pause that makes an inversion
            outer.sendall(b"GET / HTTP/1.1\r\nHost: inside.test\r\nAccept: */*\r\nUser-Agent: curl/8\r\n\r\n")
            dialled, _ = service.accept()
            with dialled:
                dialled.recv(4096)
                dialled.sendall(PAGE)
            left = len(PAGE)
            while left:
                left -= len(outer.recv(left))
            (behavior,) = sensor.wait(
                sandbox, category="network_behavior", Behavior="relay", Score=lambda score: score >= 60
            )
            (dial,) = sensor.of(sandbox, category="network_flow", Phase="established", DestinationPort=inner)
    assert_accused(behavior, dial, maker.tgid, port)


def assert_accused(behavior: Line, dial: Line, maker: int, port: int) -> None:
    assert behavior["ProcessId"] == dial["ProcessId"] != maker
    assert str(dial["ProcessId"]) in behavior["HolderProcessIds"].split()
    assert (behavior["DestinationIp"], behavior["DestinationPort"]) == (SERVER, port)
    assert behavior["Conservation"] >= 80
