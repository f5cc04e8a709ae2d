"""The peers of the live tests do what they are for, without a sensor: a tunnel that relays nothing proves nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from tests.live.names import unique
from tests.live.peers.benign import BENIGN
from tests.live.peers.mining import HEARD, mining
from tests.live.peers.network import ALLOWED, SERVER, Network
from tests.live.peers.programs import until
from tests.live.peers.resolver import start_resolver
from tests.live.peers.tunnels import TUNNELS
from tests.live.running import Sandbox


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def box() -> Iterator[Sandbox]:
    made = Sandbox(Path(find_cgroup2_mount()) / f"pinfold-test-{unique()}")
    try:
        yield made
    finally:
        made.remove()


LOOKS = """
import os, socket
for name in ("git.allowed.test", "own.test", "localhost"):
    print(name, socket.gethostbyname(name))
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    print(error.errno == 101)  # ENETUNREACH
print(open("/proc/self/cgroup").read().rpartition("/")[2].strip(), os.getpid())
"""


def test_the_sandbox_is_in_a_world_of_its_own(network: Network, box: Sandbox) -> None:
    """Its names are its own, no way leads out, and the first program is the one asked for."""
    before = Path("/etc/hosts").read_bytes()
    start_resolver(network, {"git.allowed.test": [ALLOWED]})
    network.hosts.write_text(network.hosts.read_text() + f"{SERVER} own.test\n")
    program = network.start_inside(box, ["/usr/bin/python3", "-I", "-c", LOOKS])
    *names, unreachable, itself = program.finish().splitlines()
    assert names == [f"git.allowed.test {ALLOWED}", f"own.test {SERVER}", "localhost 127.0.0.1"]
    assert (unreachable, itself) == ("True", f"{box.name} {program.tgid}")
    assert Path("/etc/hosts").read_bytes() == before


def test_nothing_outlives_the_network(box: Sandbox) -> None:
    with Network() as network:
        programs = [network.start_inside(box, ["sleep", "100"]), network.start_outside(["sleep", "100"])]
        parent = network.start_outside(["sh", "-c", "setsid sleep 100 & echo $!; wait"])
        until(lambda: parent.said().strip(), "the child's id", (parent,))
        orphan = int(parent.said())
        until(lambda: os.getsid(orphan) == orphan, "the child's own session")
        assert network.inside.path.exists()
    assert [program.ended() for program in programs] == [-15, -15]
    assert not Path(f"/proc/{orphan}/exe").exists(), "a zombie has none"
    assert not network.inside.path.exists()
    assert not network.outside.path.exists()
    assert not network.folder.exists()


@pytest.mark.parametrize("renamed", [False, True], ids=["plain", "renamed"])
@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnel_relays(name: str, renamed: bool, network: Network, box: Sandbox, tmp_path: Path) -> None:
    with TUNNELS[name](network, box, tmp_path, renamed=renamed, port=network.port() if renamed else 0) as tunnel:
        assert tunnel.use() == tunnel.page
        assert tunnel.use() == tunnel.page, "the second connection"


@pytest.mark.parametrize(("tls", "split"), [(False, "bytes"), (False, "keys"), (True, "whole")])
@pytest.mark.parametrize("dialect", HEARD)
def test_a_miner_works(dialect: str, tls: bool, split: str, network: Network, box: Sandbox, tmp_path: Path) -> None:
    spaced, port = split == "keys", network.port()
    with mining(network, box, tmp_path, dialect, tls=tls, split=split, spaced=spaced, renamed=tls, port=port) as work:
        work.works()


@pytest.mark.parametrize("name", BENIGN)
def test_the_benign_set_does_its_work(name: str, network: Network, box: Sandbox, tmp_path: Path) -> None:
    BENIGN[name](network, box, tmp_path)
