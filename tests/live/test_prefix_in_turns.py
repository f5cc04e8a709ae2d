"""Denied protocols in a stream that is said in pieces, while what else is decided about its flow changes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sensor.control.client import Client
from tests.live.denying import CUT, PYTHON, SETTINGS
from tests.live.flooding import SMALL, fill, unread
from tests.live.names import unique
from tests.live.peers.hearing import Hearing
from tests.live.peers.network import SERVER, Network
from tests.live.peers.programs import until
from tests.live.running import Running, Sandbox


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


# The last of several connections to one peer says its pieces, each at a word on standard input.
IN_PIECES = """
import errno, socket, sys
ends = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
end = ends[-1]
end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print(end.getsockname()[1], flush=True)
for piece in sys.argv[4:]:
    sys.stdin.readline()
    end.sendall(piece.encode())
    print("said", flush=True)
try:
    end.shutdown(socket.SHUT_WR)
    end.recv(64)
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def say_in_turn(
    network: Network, box: Sandbox, outside: Hearing, pieces: list[str], pause: Callable[[], object], count: int = 1
) -> tuple[str, bytes, str]:
    """How it ended there, what came, and what a client that was cut read; `pause` is done before the last but one."""
    client = network.start_inside(
        box, [*PYTHON, "-c", IN_PIECES, SERVER, str(outside.port), str(count), *pieces], stdin=subprocess.PIPE
    )
    assert client.process.stdin is not None
    until(lambda: "\n" in client.said(), "the connection", [client])
    for number in range(len(pieces)):
        if number == len(pieces) - 2:
            pause()
        client.process.stdin.write(b"\n")
        client.process.stdin.flush()
        until(lambda sent=number: client.said().count("said") > sent, "it is said", [client])  # type: ignore[misc]
    source = int(client.said().split()[0])
    ended = outside.ended(source)
    read = client.finish().split()[-1] if ended == "reset" else ""
    return ended, outside.of(source).data, read


SSH, HARMLESS = ["SS", "H", "-2.0-client\r\n"], ["SS", "L", " is older than TLS\r\n"]


def expect(pieces: list[str], ended: str, heard: bytes, read: str, before: bytes) -> None:
    if pieces is HARMLESS:
        assert (ended, heard) == ("closed", "".join(pieces).encode())
    else:
        assert (ended, heard, read in CUT) == ("reset", before, True)


@pytest.mark.parametrize("pieces", [SSH, HARMLESS])
def test_a_policy_that_changes_in_the_middle_of_a_prefix(network: Network, rule_cache: str, pieces: list[str]) -> None:
    """The flow is judged anew with its next packet, whose bytes count like any other's."""
    with ExitStack() as stack:
        sensor = stack.enter_context(Running(config=SETTINGS, cache=rule_cache))
        outside = stack.enter_context(Hearing(network))
        box, other = (stack.enter_context(sensor.sandbox(name)) for name in (f"all-{unique()}", ""))
        control = Client(str(sensor.home / "run" / "control.sock"))
        sensor.until(lambda: any(one["id"] == other.id for one in control.sandboxes()), "the other one is known")

        def quarantine() -> None:
            control.add_quarantine(other.id, "a test", freeze=False, evidence=False)

        ended, heard, read = say_in_turn(network, box, outside, pieces, quarantine)
    expect(pieces, ended, heard, read, b"SSH")


@pytest.mark.parametrize("pieces", [SSH, HARMLESS])
def test_one_that_was_only_counted_and_says_something_late(
    network: Network, rule_cache: str, pieces: list[str]
) -> None:
    settings = SETTINGS.replace("full_per_peer: 65536", "full_per_peer: 1")
    as_said = ["", pieces[0], "".join(pieces[1:])]
    with ExitStack() as stack:
        sensor = stack.enter_context(Running(config=settings, cache=rule_cache))
        outside = stack.enter_context(Hearing(network))
        box = stack.enter_context(sensor.sandbox(f"all-{unique()}"))
        ended, heard, read = say_in_turn(network, box, outside, as_said, lambda: time.sleep(1.1), count=3)
    expect(pieces, ended, heard, read, b"SS")


def test_one_that_is_cut_while_there_is_no_room_to_tell_is_told_later(network: Network, rule_cache: str) -> None:
    """Else whoever floods its part of the ring first would be cut unheard, and keep its socket."""
    with ExitStack() as stack:
        sensor = stack.enter_context(Running(config=SETTINGS + SMALL, cache=rule_cache))
        outside = stack.enter_context(Hearing(network))
        box = stack.enter_context(sensor.sandbox(f"all-{unique()}"))
        client = network.start_inside(
            box, [*PYTHON, "-c", IN_PIECES, SERVER, str(outside.port), "1", "SSH-2.0-client\r\n"], stdin=subprocess.PIPE
        )
        assert client.process.stdin is not None
        sensor.wait(box, category="network_flow", Phase="established")
        with unread(sensor):
            fill(box)
            client.process.stdin.write(b"\n")
            client.process.stdin.flush()
            until(lambda: "said" in client.said(), "it is said", [client])
        source = int(client.said().split()[0])
        assert (outside.ended(source), outside.of(source).data) == ("reset", b"")
        assert client.finish().split()[-1] in CUT
        sensor.wait(box, category="network_flow", EndReason="cut")
        sensor.wait(box, category="network_protocol", Denied=True)
        assert any("budget" in name for name in sensor.lost()), "there was room all the time"
